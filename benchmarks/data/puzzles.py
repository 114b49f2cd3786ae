"""Sliding puzzles: boards and the optimal number of moves to the goal, exact by breadth-first search from the goal.

In the n-puzzle, tiles 1 to n lie on a square with one blank, and a move slides a neighbour of the blank into it. The goal
has the blank in the first place. The 8-puzzle is searched whole: 181,440 boards, half of all 9! arrangements, up to 31
moves away. The 15-puzzle has 10^13, so the search stops at a depth, and all boards up to it are there:

    depth   0  1  2   3   4   5    6 ...
    boards  1  2  4  10  24  54  107 ...

A board is one integer, four bits a place; a step of the search is a few operations on all boards of a depth at once.
"""

import numpy as np

# Depth to which the puzzles of benchmarks.data.datasets are searched: None for all of it.
DEPTHS: dict[str, tuple[int, int | None]] = {"puzzle8": (3, None), "puzzle15_depth16": (4, 16)}


def boards_from_goal(side: int, depth: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All boards up to a distance from the goal.

    Args:
        side: of the square, 3 or 4.
        depth: most moves from the goal; None for all boards that can be reached.

    Returns:
        The boards, uint8 `(boards, places)`, the tile of each place with 0 for the blank; and the moves, int32 `(boards,)`,
        rising. Boards of one distance stand in the order of the integers that they are.

    Raises:
        ValueError: if the board is not one that four bits a place can hold, or the whole 15-puzzle is asked for.
    """
    if side not in (3, 4) or (side == 4 and depth is None) or (depth is not None and depth < 0):
        raise ValueError(f"Expected side 3, or side 4 with a depth from 0; received side {side}, depth {depth}.")
    places = side * side
    goal = np.array([sum(tile << (4 * tile) for tile in range(places))], "uint64")
    levels, before = [goal], np.empty(0, "uint64")
    while depth is None or len(levels) <= depth:
        # A move changes the parity of the distance: a neighbour lies one level back or one ahead, never in this one.
        level = np.setdiff1d(_neighbours(levels[-1], side), before)
        if not len(level):
            break
        before = levels[-1]
        levels.append(level)
    boards, moves = np.concatenate(levels), np.repeat(np.arange(len(levels), dtype="int32"), [len(e) for e in levels])
    return np.stack([_tile(boards, place) for place in range(places)], axis=1).astype("uint8"), moves


def _tile(boards: np.ndarray, place: int) -> np.ndarray:
    return (boards >> np.uint64(4 * place)) & np.uint64(15)


def _neighbours(boards: np.ndarray, side: int) -> np.ndarray:
    """The boards one move away from any of these, some more than once."""
    found = []
    for blank in range(side * side):
        here = boards[_tile(boards, blank) == 0]
        row, column = divmod(blank, side)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < side and 0 <= c < side:
                place = r * side + c
                tile = _tile(here, place)
                # Taken from its place and put where the blank's zeros are.
                found.append(here ^ (tile << np.uint64(4 * place)) ^ (tile << np.uint64(4 * blank)))
    return np.concatenate(found)


def one_hot(boards: np.ndarray) -> np.ndarray:
    """Boards as inputs: which tile lies in each place, uint8 `(boards, places * places)`."""
    places = boards.shape[1]
    return np.eye(places, dtype="uint8")[boards].reshape(len(boards), places * places)
