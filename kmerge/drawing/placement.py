"""Where the boxes of a drawing lie: the boxes of a directed graph in rows, so that edges run down and seldom cross.

1. A box lies one row below the lowest box that it reads.
2. An edge that crosses rows gets a *waypoint* in each. The edges that leave one box share theirs.
3. In each row boxes are ordered by the median of their neighbours, downwards and upwards in turn; the order with the
   fewest crossings wins.
4. Each box moves as near as its row allows to the weighted median of its neighbours, which keeps long edges straight.

Reference: Gansner et al., A Technique for Drawing Directed Graphs, IEEE Transactions on Software Engineering 1993.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SWEEPS = 13
_WAYPOINT_WIDTH = 10.0
# How hard an edge pulls at its ends, by whether each is a box. What runs from box to box, and the middle of a long edge, is
# to be straight; where a long edge starts and ends it may bend.
_PULL = {(True, True): 2, (False, False): 2, (True, False): 1, (False, True): 1}
# How much more the place of a node counts that such an edge holds, where nodes of a row contend for room.
_HEFT = 1000


@dataclass(frozen=True)
class Placement:
    """Where everything lies, in pixels; y grows downwards.

    Attributes:
        boxes: for each box its left edge and its top.
        routes: for each edge the points it runs through, from the bottom of one box to the top of another. From the
            first on, each second stretch runs straight down; the others cross from row to row.
        width, height: of the whole.
    """

    boxes: list[tuple[float, float]]
    routes: list[list[tuple[float, float]]]
    width: float
    height: float


class _Node:
    """A box, or a waypoint of the edges that leave one.

    Rows and edges are settled when it is made. After that its `place` in the row is found, and last its `x`, the middle.
    """

    def __init__(self, row: int, width: float, height: float, is_box: bool):
        self.row, self.width, self.height, self.is_box = row, width, height, is_box
        self.above: list[_Node] = []
        self.below: list[_Node] = []
        self.place = 0
        self.x = 0.0

    def neighbours(self, down: bool) -> list["_Node"]:
        return self.above if down else self.below


def place_boxes(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], gap: tuple[float, float]
) -> Placement:
    """Places the boxes of a graph.

    Args:
        sizes: width and height of each box.
        edges: pairs of the numbers of two boxes, of which the first is the smaller.
        gap: the least distance of boxes in a row, and the distance of rows.

    Returns:
        A `Placement`.

    For the residual network 0 -> 1 -> 2 -> 3 with an edge past 1 and 2, from 0 to 3, there are four rows:

        row 0      0         its neighbours below are 1 and the waypoint w1
        row 1      1  w1     w1 and w2 are no boxes, but take room: the edge runs beside the boxes, not under them
        row 2      2  w2
        row 3      3         its neighbours above are 2 and w2
    """
    boxes = [_Node(row, *size, True) for row, size in zip(_row_of_each(len(sizes), edges), sizes, strict=True)]
    rows, paths = _rows(boxes, edges)
    _order(rows)
    _spread(rows, gap[0])
    left = min(node.x - node.width / 2 for row in rows for node in row)
    for node in (node for row in rows for node in row):
        node.x -= left
    heights = [max(node.height for node in row) for row in rows]
    tops = np.cumsum([0.0, *(height + gap[1] for height in heights)]).tolist()
    routes = [_route(path, tops, heights) for path in paths]
    width = max(node.x + node.width / 2 for row in rows for node in row)
    return Placement([(n.x - n.width / 2, tops[n.row]) for n in boxes], routes, width, tops[-1] - gap[1])


def _row_of_each(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The row of each box: the length of the longest way down to it.

    This is right after one pass over the edges only because a box has a larger number than those that it reads: when it
    gives its row to others, all edges that end at it have been seen.
    """
    rows = [0] * count
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        rows[b] = max(rows[b], rows[a] + 1)
    # A box that reads nothing goes down to where it is read first.
    for i in set(range(count)) - {b for _, b in edges}:
        rows[i] = min((rows[b] - 1 for a, b in edges if a == i), default=0)
    return rows


def _rows(boxes: list[_Node], edges: Sequence[tuple[int, int]]) -> tuple[list[list[_Node]], list[list[_Node]]]:
    """The nodes of each row, and those that each edge runs through: a box, a waypoint in each row between, a box.

    Edges from one box share waypoints as far as they go, and part where the first of them ends: so a tensor that ten
    layers read, as in a DenseNet, is one line with ten ends, not ten lines, and crosses others once. Neighbours are
    linked once for each stretch, though several edges may run along it.
    """
    rows: list[list[_Node]] = [[] for _ in range(1 + max(node.row for node in boxes))]
    for node in boxes:
        rows[node.row].append(node)
    waypoints: dict[tuple[int, int], _Node] = {}
    paths = []
    for a, b in edges:
        path = [boxes[a]]
        for row in range(boxes[a].row + 1, boxes[b].row):
            if (a, row) not in waypoints:
                waypoints[a, row] = _Node(row, _WAYPOINT_WIDTH, 0.0, False)
                rows[row].append(waypoints[a, row])
            path.append(waypoints[a, row])
        path.append(boxes[b])
        for upper, lower in zip(path, path[1:], strict=False):
            if lower not in upper.below:
                upper.below.append(lower)
                lower.above.append(upper)
        paths.append(path)
    return rows, paths


def _order(rows: list[list[_Node]]) -> None:
    """Orders the nodes of each row so that few edges cross.

    The fewest possible is NP-hard. A sweep down sets each row by the medians of the row above, which is fixed then, a
    sweep up by those of the row below; places are numbered anew after each row, as the next one reads them. Sweeps need
    not improve, and may turn in a circle, so the best order of all is kept. With 0 and 1 above, and edges from 0 to 3
    and from 1 to 2, the row [2 3] has the medians 1 and 0 and becomes [3 2]: no crossing instead of one.

    A node without neighbours there keeps its place. `sort` is stable, so equal medians stay in their order.
    """

    def number(row: list[_Node]) -> None:
        for place, node in enumerate(row):
            node.place = place

    for row in rows:
        number(row)
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            row.sort(key=lambda node: _median([n.place for n in node.neighbours(down)], node.place))
            number(row)
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, ordered in zip(rows, best, strict=True):
        row[:] = ordered
        number(row)


def _median(values: list[float], default: float) -> float:
    return float(np.median(values)) if values else float(default)


def _crossings(rows: list[list[_Node]]) -> int:
    """How many pairs of stretches cross: one starts further left, and ends further right.

    All pairs of a row are compared, which is quadratic in its edges. A row with a thousand would call for counting the
    inversions of the ends while they are merge-sorted.
    """
    total = 0
    for row in rows:
        a = np.array([node.place for node in row for _ in node.below])  # (edges of the row,)
        b = np.array([lower.place for node in row for lower in node.below])
        total += int(np.sum((a[:, None] < a) & (b[:, None] > b)))
    return total


def _spread(rows: list[list[_Node]], gap: float) -> None:
    """Gives every node its x: near its neighbours above and below, at a distance from those beside it.

    Nodes that have a row to themselves stay in the middle: a deep network would wander off to one side.
    """
    for row in rows:
        _settle(row, [(0.0, 1)] * len(row), gap)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            if len(row) > 1:
                _settle(row, [_wish(node, node.neighbours(down)) for node in row], gap)


def _wish(node: _Node, neighbours: list[_Node]) -> tuple[float, int]:
    """The weighted median of the neighbours' x, and how much it counts.

    A median, not a mean: of three neighbours it is the middle one, to which the edge is then straight. With the x
    [10 20 50 60] and the pulls [1 1 2 2], `sums` is [1 2 4 6] and half of all 3: the median is 50. Where `half` is one of
    the sums, everything between two neighbours is a median, and the middle of them is taken.
    """
    if not neighbours:
        return node.x, 1
    ordered = sorted(neighbours, key=lambda n: n.x)
    pulls = [_PULL[node.is_box, n.is_box] for n in ordered]
    sums, half = np.cumsum(pulls), sum(pulls) / 2
    low, high = (int(np.searchsorted(sums, half, side=side)) for side in ("left", "right"))  # reaches half, exceeds it
    return (ordered[low].x + ordered[high].x) / 2, _HEFT if max(pulls) == 2 else 1


def _settle(row: list[_Node], wishes: list[tuple[float, int]], gap: float) -> None:
    """The places nearest to the wishes, by their weights, in the order of the row and without overlap.

    Less the room that all before it take, the places must not fall. So nodes that would overlap form a block, which
    lies at the mean of what its members wish: isotonic regression by pooling adjacent violators. Four nodes that are 10
    wide and all need 10, with the wishes [0 30 12 50]:

        room                [0 10 20 30]
        wishes less room    [0 20 -8 20]      -8 is below 20: these two must form a block
        blocks              [0] [6 6] [20]    at their mean, had both the same weight
        places              [0 16 26 50]      with the room again

    A block may fall below the one before it when it takes a member, so it is compared again until it does not.
    """
    distances = [(a.width + b.width) / 2 + gap for a, b in zip(row, row[1:], strict=False)]
    room = np.cumsum([0.0, *distances])
    blocks: list[tuple[float, int, int]] = []  # the mean, the weight and the number of nodes of each
    for (wish, weight), before in zip(wishes, room.tolist(), strict=True):
        mean, count = wish - before, 1
        while blocks and blocks[-1][0] > mean:
            other, heft, size = blocks.pop()
            mean, weight, count = (mean * weight + other * heft) / (weight + heft), weight + heft, count + size
        blocks.append((mean, weight, count))
    places = np.repeat([block[0] for block in blocks], [block[2] for block in blocks]) + room
    for node, x in zip(row, places.tolist(), strict=True):
        node.x = x


def _route(path: list[_Node], tops: list[float], heights: list[float]) -> list[tuple[float, float]]:
    """The points of an edge: two in each row that it passes, its top and its bottom, so that curves lie between rows only."""
    first, *others, last = path
    points = [(first.x, tops[first.row] + first.height), (first.x, tops[first.row] + heights[first.row])]
    for node in others:
        points += [(node.x, tops[node.row]), (node.x, tops[node.row] + heights[node.row])]
    return [*points, (last.x, tops[last.row])]
