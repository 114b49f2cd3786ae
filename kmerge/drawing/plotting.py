"""Draws the channel spaces of a model over its graph, as SVG.

Every call is a box, coloured and numbered by the space of its output. A box stands right below another if nothing comes
between them and no new units: a convolution, its BatchNormalization and its activation make one stack. The legend names
the spaces.
"""

import colorsys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from kmerge.checks import file_path, sentence
from kmerge.drawing.explanations import Explanation, SpaceExplanation, explain_walk, walk_to_show
from kmerge.drawing.filters import draw_first_filters
from kmerge.drawing.placement import place_boxes
from kmerge.drawing.svg import Canvas, colour, text_width
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Graph, input_layer
from kmerge.rules import Labels
from kmerge.spaces import Trace, walk_calls

_SIZE, _LINE = 11.0, 20.0  # of the text, and the height of a box
_MARGIN, _GAP = 24.0, (28.0, 30.0)
_CHIP = 24.0
_LEGEND = 80  # characters of a line
_INK, _GREY = "#1a1a1a", "#6b6b6b"
# More spaces than these are only counted on a box; its hover text names them all.
_MOST_CHIPS = 4


class Drawing(str):
    """An SVG document. Notebooks show it as a picture.

    Example:
        >>> isinstance(kmerge.plot(model), kmerge.Drawing)
        True
    """

    def _repr_svg_(self) -> str:
        return str(self)


def plot(model: keras.Model, path: str | Path | None = None) -> Drawing:
    """Draws the channel spaces of a model over its graph.

    Boxes of one colour hold units of one space, which are kept, dropped or reordered together; grey ones cannot be. For a
    big student, the architecture is drawn that `compress` gives back, with the units that its gates keep of each parent,
    and with the filters of its first layer if these are images.

    Args:
        model: a Functional or Sequential model, or a big student made by `merge` or `gate`.
        path: a file to write, which ends in ".svg"; None for none.

    Returns:
        The SVG document, a string that notebooks show as a picture.

    Raises:
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for a subclassed or unbuilt model, or a path that does not end in ".svg".

    Example:
        >>> drawing = kmerge.plot(model)
        >>> drawing[:4]
        '<svg'
    """
    path = None if path is None else file_path("path", path, of="plot")
    if path is not None and path.suffix.lower() != ".svg":
        do = (
            "A browser opens an SVG file and prints it; to make a PNG of it, install cairosvg and run: cairosvg drawing.svg "
            "-o drawing.png"
        )
        raise InvalidArgumentError(sentence("path to end in '.svg'", str(path), do))
    walked, merged = walk_to_show(model)
    explained = explain_walk(walked, merged)
    canvas = Canvas()
    canvas.text(_MARGIN, _MARGIN + _SIZE, explained.title, _SIZE + 1, fill=_INK, font_weight="bold")
    top = 2 * _MARGIN + _SIZE
    right, bottom = _draw_graph(canvas, walked, explained, top)
    width = max(right, _MARGIN + text_width(explained.title, _SIZE + 1))
    x, y = right + 2 * _MARGIN, top
    for number, space in enumerate(explained.values()):
        y = _draw_entry(canvas, x, y, number, space)
    width = max(width, x + text_width("m" * _LEGEND, _SIZE))
    if merged:
        filters_right, y = draw_first_filters(canvas, x, y + _MARGIN, merged, explained)
        width = max(width, filters_right)
    drawing = Drawing(canvas.document(width + _MARGIN, max(bottom, y) + _MARGIN))
    if path is not None:
        path.write_text(drawing, encoding="utf-8")
    return drawing


# The graph ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """One call, or input, of the model.

    Attributes:
        name, kind: the path of its layer and the name of its class.
        outputs: labels of its outputs.
        reads: the numbers of the boxes that it reads.
        spaces: for each space along its outputs, in their order, its number and how many positions it takes.
    """

    name: str
    kind: str
    outputs: list[Labels]
    reads: list[int]
    spaces: dict[int, int]

    @property
    def label(self) -> str:
        return f"{self.name} {self.kind}"

    @property
    def positions(self) -> str:
        """The numbers of channels of its outputs."""
        return ", ".join(str(len(x.units)) for x in self.outputs)

    @property
    def chips(self) -> list[str]:
        """The numbers of its spaces, as the legend has them."""
        if len(self.spaces) > _MOST_CHIPS:
            return [f"{len(self.spaces)} spaces"]
        return [str(number + 1) for number in self.spaces]

    @property
    def width(self) -> float:
        chips = sum(_chip_width(chip) + 3 for chip in self.chips)
        return text_width(f"{self.label}  {self.positions} ", _SIZE) + chips + 14


def _chip_width(text: str) -> float:
    return max(_CHIP, text_width(text, _SIZE - 1) + 8)


def _boxes(walked: Trace) -> list[_Box]:
    """The inputs and calls of a model, nested models opened, each after those that it reads."""
    graph, boxes = Graph(walked.model), []

    def add(name, kind, outputs, reads):
        units = np.concatenate([labels.units for labels in outputs])
        numbers, first, counts = np.unique(walked.space_of[units], return_index=True, return_counts=True)
        spaces = {int(numbers[i]): int(counts[i]) for i in np.argsort(first)}
        boxes.append(_Box(name, kind, outputs, list(dict.fromkeys(reads)), spaces))
        return len(boxes) - 1

    def visit(key, path, call, reads, end):
        outputs = walked.records[key].outputs
        return [add(path, type(call.operation).__name__, outputs, reads)] * len(call.outputs)

    inputs = [
        add(input_layer(x).name, "input", [labels], []) for x, labels in zip(graph.inputs, walked.inputs, strict=True)
    ]
    walk_calls(graph, inputs, visit)
    return boxes


def _stacks(boxes: list[_Box]) -> list[list[int]]:
    """The boxes that stand right below each other: only the last of them is read by others."""
    readers = [sum(i in box.reads for box in boxes) for i in range(len(boxes))]
    stacks, stack_of = [], {}
    for i, box in enumerate(boxes):
        above = box.reads[0] if len(box.reads) == 1 else None
        if above is not None and readers[above] == 1 and set(box.spaces) == set(boxes[above].spaces):
            stack_of[i] = stack_of[above]
            stack_of[i].append(i)
        else:
            stack_of[i] = [i]
            stacks.append(stack_of[i])
    return stacks


def _draw_graph(canvas: Canvas, walked: Trace, explained: Explanation, top: float) -> tuple[float, float]:
    """Draws the boxes and their edges; returns where they end on the right and below."""
    boxes, spaces = _boxes(walked), list(explained.values())
    stacks = _stacks(boxes)
    stack_of = {i: number for number, stack in enumerate(stacks) for i in stack}
    sizes = [(max(boxes[i].width for i in stack), _LINE * len(stack)) for stack in stacks]
    edges = sorted({(stack_of[read], n) for n, stack in enumerate(stacks) for read in boxes[stack[0]].reads})
    placement = place_boxes(sizes, edges, _GAP)
    for route in placement.routes:
        _draw_edge(canvas, [(x + _MARGIN, y + top) for x, y in route])
    for stack, (width, height), (left, above) in zip(stacks, sizes, placement.boxes, strict=True):
        x, y = left + _MARGIN, above + top
        for place, i in enumerate(stack):
            _draw_box(canvas, boxes[i], spaces, x, y + place * _LINE, width)
        canvas.add("rect", x=x, y=y, width=width, height=height, rx=3, fill="none", stroke=_INK)
    return _MARGIN + placement.width, top + placement.height


def _draw_edge(canvas: Canvas, points: list[tuple[float, float]]) -> None:
    """Straight lines down through the rows, and curves from row to row, with an arrow at the end."""
    x, y = points[0]
    line = f"M{x:.1f} {y:.1f}"
    for number, (to_x, to_y) in enumerate(points[1:]):
        middle = (y + to_y) / 2
        curve = f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        line += curve if number % 2 else f"L{to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
    canvas.add("path", d=line, fill="none", stroke=_GREY, stroke_width=1.2)
    canvas.add("path", d=f"M{x - 4:.1f} {y - 7:.1f}h8L{x:.1f} {y:.1f}z", fill=_GREY)


def _draw_box(canvas: Canvas, box: _Box, spaces: list[SpaceExplanation], x: float, y: float, width: float) -> None:
    total, start = sum(box.spaces.values()), x
    for number, count in box.spaces.items():
        part = width * count / total
        fill = _colours(number, spaces[number])[0]
        canvas.add("rect", x=start, y=y, width=part, height=_LINE, fill=fill)
        start += part
    shapes = ", ".join(str(labels.shape) for labels in box.outputs)
    listed = ", ".join(f"{spaces[number].space.name} ({count})" for number, count in box.spaces.items())
    hover = f"{box.name} ({box.kind})\nshape {shapes}\nunits of {listed}"
    canvas.add("rect", hover, x=x, y=y, width=width, height=_LINE, fill="white", fill_opacity=0.0, stroke="#ffffff")
    line = y + _LINE / 2 + _SIZE / 3
    canvas.text(x + 6, line, box.name, _SIZE, fill=_INK)
    canvas.text(x + 6 + text_width(box.name + " ", _SIZE), line, box.kind, _SIZE, fill=_GREY)
    right = x + width - 3
    for chip, number in reversed(list(zip(box.chips, box.spaces, strict=False))):
        fill = _GREY if len(box.spaces) > _MOST_CHIPS else _colours(number, spaces[number])[1]
        right -= _chip_width(chip)
        _draw_chip(canvas, right, y + 2, chip, fill)
        right -= 3
    canvas.text(right - 3, line, box.positions, _SIZE, fill=_INK, text_anchor="end")


def _draw_chip(canvas: Canvas, x: float, y: float, text: str, fill: str) -> None:
    width = _chip_width(text)
    canvas.add("rect", x=x, y=y, width=width, height=_LINE - 4, rx=8, fill=fill)
    middle = y + _LINE / 2 - 2 + _SIZE / 3
    canvas.text(x + width / 2, middle, text, _SIZE - 1, fill="white", text_anchor="middle", font_weight="bold")


def _colours(number: int, explained: SpaceExplanation) -> tuple[str, str]:
    """A light and a dark colour of a space: neighbours differ, as the hues advance by the golden ratio."""
    if not explained.space.selectable:
        return "#e9e9e9", "#8a8a8a"
    hue = (0.58 + 0.618034 * number) % 1
    return colour(*colorsys.hls_to_rgb(hue, 0.88, 0.7)), colour(*colorsys.hls_to_rgb(hue, 0.38, 0.65))


# The legend -----------------------------------------------------------------------------------------------------------


def _draw_entry(canvas: Canvas, x: float, y: float, number: int, explained: SpaceExplanation) -> float:
    """Draws the legend of one space; returns where it ends below."""
    fill = _colours(number, explained)[1]
    _draw_chip(canvas, x, y, str(number + 1), fill)
    left = x + _chip_width(str(number + 1)) + 8
    line = y + _LINE / 2 + _SIZE / 3 - 2
    canvas.text(left, line, explained.space.name, _SIZE, fill=_INK, font_weight="bold")
    listed = {
        role: [share.layer for share in explained.layers if role in share.roles] for role in ("makes", "ties", "mixes")
    }
    text = [explained.summary]
    for word, role in (("made by", "makes"), ("tied by", "ties"), ("mixed by", "mixes")):
        text += [f"{word} {', '.join(listed[role])}"] if listed[role] else []
    for paragraph in text:
        for row in textwrap.wrap(paragraph, _LEGEND, subsequent_indent="  "):
            line += _SIZE + 3
            canvas.text(left, line, row, _SIZE, fill=_GREY)
    if explained.kept is None:
        return line + 14
    return _draw_kept(canvas, left, line + 6, explained.kept, fill) + 12


def _draw_kept(canvas: Canvas, x: float, y: float, kept: np.ndarray, fill: str) -> float:
    """A line of squares for each parent, one for each of its units; those that the gates keep are full."""
    side = 7.0 if kept.shape[1] <= 64 else 4.0
    across = int(_LEGEND * text_width("m", _SIZE) / side) - 10
    for parent, units in enumerate(kept):
        canvas.text(x, y + _SIZE - 2, f"parent {parent + 1}", _SIZE - 1, fill=_GREY)
        start = x + text_width("parent 10 ", _SIZE - 1)
        for i, is_kept in enumerate(units.tolist()):
            left, above = start + i % across * side, y + i // across * side
            canvas.add("rect", x=left, y=above, width=side - 1, height=side - 1,
                       fill=fill if is_kept else "#dddddd")  # fmt: skip
        y += max(_SIZE + 2, (1 + (len(units) - 1) // across) * side + 3)
    return y
