"""Checks of arguments: what they let through, and the sentence in which they refuse."""

import numpy as np
import pytest

import kmerge
from kmerge import checks


@pytest.mark.parametrize("value", [1, np.int64(3), None])
def test_whole_numbers_pass(value):
    assert checks.whole_number("n", value, optional=True) is value


@pytest.mark.parametrize("value", [0, True, 1.0, "1", None, np.float32(1)])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(kmerge.InvalidArgumentError) as error:
        checks.whole_number("batch_size", value)
    assert str(error.value) == f"Expected batch_size to be a whole number of at least 1, received {value!r}."


@pytest.mark.parametrize(
    "bounds, value", [({"above": 0}, 0), ({"least": 0, "below": 1}, 1), ({"most": 1}, 2.0), ({}, float("nan")), ({}, True)]
)
def test_numbers_beyond_their_bounds_are_refused(bounds, value):
    sentence = r"^Fade: expected share to be a number .*, received .*\. Take it\.$"
    with pytest.raises(kmerge.InvalidArgumentError, match=sentence):
        checks.number("share", value, **bounds, of="Fade", do="Take it.")
    assert checks.number("share", 0.5, **bounds) == 0.5


def test_a_refusal_names_the_choices_and_never_prints_an_array():
    sentence = r"mode to be one of 'a', 'b', received an array of shape \(9, 9\)"
    with pytest.raises(kmerge.InvalidArgumentError, match=sentence):
        checks.one_of("mode", np.zeros((9, 9)), ("a", "b"))
    assert checks.one_of("mode", "a", ("a", "b")) == "a"


def test_arrays_are_told_by_their_shapes_wherever_they_lie():
    array, told = np.zeros((9, 9)), "an array of shape (9, 9) and type float64"
    assert checks.shown([array, None]) == f"[{told}, None]"
    assert checks.shown({"a": (array,), 1: ["b", (1,), []]}) == f"{{'a': ({told},), 1: ['b', (1,), []]}}"
    endless = []
    endless.append(endless)
    assert checks.shown(endless) == "a list that cannot be shown"
    assert checks.shown(10**5 * [1]) == "[" + 99 * "1, " + "1,..."
