"""Puzzles: the search finds every board once, at its true distance; the data set pairs boards with moves."""

import numpy as np
import pytest

from benchmarks.data import datasets
from benchmarks.data.puzzles import boards_from_goal, one_hot

# The numbers of boards at each distance, OEIS A089473 and A089484.
EIGHT = [1, 2, 4, 8, 16, 20, 39, 62, 116, 152, 286, 396, 748, 1024, 1893, 2512, 4485, 5638, 9529, 10878, 16993]
EIGHT += [17110, 23952, 20224, 24047, 15578, 14560, 6274, 3910, 760, 221, 2]
FIFTEEN = [1, 2, 4, 10, 24, 54, 107, 212, 446, 946, 1948, 3938, 7808]


@pytest.fixture(scope="module")
def eight():
    return boards_from_goal(3)


def test_the_8_puzzle_is_searched_whole(eight):
    boards, moves = eight
    assert np.bincount(moves).tolist() == EIGHT and len(boards) == 181_440
    assert len(np.unique(boards, axis=0)) == len(boards)
    np.testing.assert_array_equal(np.sort(boards, axis=1), np.tile(np.arange(9), (len(boards), 1)))
    np.testing.assert_array_equal(boards[0], np.arange(9))


def test_the_15_puzzle_is_searched_to_a_depth():
    boards, moves = boards_from_goal(4, 12)
    assert np.bincount(moves).tolist() == FIFTEEN and boards.shape == (sum(FIFTEEN), 16)


def test_each_board_has_a_neighbour_one_move_nearer(eight):
    boards, moves = eight
    distance = {board.tobytes(): int(move) for board, move in zip(boards, moves, strict=True)}
    for board, move in zip(boards[1::997], moves[1::997], strict=True):
        blank, around = int(np.argmin(board)), []
        for place in range(9):
            if abs(place // 3 - blank // 3) + abs(place % 3 - blank % 3) == 1:
                moved = board.copy()
                moved[[blank, place]] = moved[[place, blank]]
                around.append(distance[moved.tobytes()])
        assert min(around) == move - 1 and set(around) <= {move - 1, move + 1}


@pytest.mark.parametrize("side, depth", [(2, None), (5, 3), (4, None), (3, -1)])
def test_what_cannot_be_searched_is_refused(side, depth):
    with pytest.raises(ValueError, match=f"received side {side}, depth {depth}"):
        boards_from_goal(side, depth)


def test_puzzle8_is_a_data_set(eight):
    data = datasets.load("puzzle8", None, "unused", seed=0).data
    parts = [(data.x_train, data.y_train), (data.x_val, data.y_val), (data.x_test, data.y_test)]
    assert [x.shape for x, _ in parts] == [(145_152, 81), (18_144, 81), (18_144, 81)]
    expected = {row.tobytes(): int(move) for row, move in zip(one_hot(eight[0]), eight[1], strict=True)}
    found = {}
    for x, y in parts:
        assert x.dtype == y.dtype == np.float32 and y.shape == (len(x), 1)
        found |= {row.tobytes(): int(move) for row, move in zip(x.astype("uint8"), y[:, 0], strict=True)}
    assert found == expected  # so no board is on two sides


def test_puzzles_take_fewer_examples_and_refuse_too_many():
    few = datasets.load("puzzle15_depth16", None, "unused", seed=0, examples=100)
    assert few.data.x_train.shape == (100, 256) and len(few.data.x_val) == 100
    assert few.identity == {"name": "puzzle15_depth16", "side": 4, "depth": 16, "examples": 100}
    with pytest.raises(ValueError, match="puzzle8 has 145152 training examples; asked for 145153"):
        datasets.load("puzzle8", None, "unused", seed=0, examples=145_153)
    with pytest.raises(ValueError, match="are for images that fit into memory; puzzle8 is none of them"):
        datasets.load("puzzle8", None, "unused", seed=0, folds=5)
