"""Bounds of pruning: what is excluded stays whole, and no width is below its minimum or above its maximum."""

import functools

import keras
import numpy as np
import pytest

import kmerge
from tests import checks
from tests.models import ZOO


@functools.cache
def network():
    """Three spaces: "a" of 36 units, "b" of 5, "c" of 32; and a layer "two" that makes two."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(36, 3, name="a")(image)
    x = keras.layers.Conv2D(5, 3, name="b")(x)
    x = keras.layers.Dense(32, name="c")(keras.layers.Flatten()(x))
    x = keras.layers.Dense(12, name="two")(x)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.Concatenate()([x[:, :8], x[:, :4]])))


SIZES = {"a": 36, "b": 5, "c": 32, "two:0": 4, "two:1": 4, "two:2": 4}


@pytest.mark.parametrize("selection", ["local", "global"])
@pytest.mark.parametrize(
    "bounds, least, most",
    [
        ({"exclude": ["a"]}, {"a": 36}, {}),
        ({"exclude": ["two", "b"]}, {n: 4 for n in SIZES if "two" in n} | {"b": 5}, {}),
        ({"minimum": {"c": 30, "two": 0.75}}, {"c": 30, "two:0": 3, "two:1": 3}, {}),
        ({"maximum": {"a": 0.25, "two": 2}}, {}, {"a": 9, "two:0": 2, "two:1": 2, "two:2": 2}),
        ({"minimum": 0.5, "maximum": 0.75}, {"a": 18, "b": 2, "c": 16}, {n: round(0.75 * s) for n, s in SIZES.items()}),
        ({"minimum": {"a": 8}, "maximum": {"a": 16}, "multiple": 8, "exclude": ["c"]}, {"a": 8, "c": 32}, {"a": 16}),
    ],
)
def test_widths_stay_within_their_bounds(bounds, least, most, selection):
    model = network()
    sizes = checks.selectable(model)
    for budget in (1.0, 0.7):
        choice = kmerge.choose_units(model, budget=budget, selection=selection, **bounds)
        for name, units in choice.items():
            assert least.get(name, 1) <= len(units) <= most.get(name, sizes[name]), (name, budget)
            if budget == 1.0 and bounds.get("multiple") is None:
                assert len(units) == most.get(name, sizes[name]), "no budget, so that only the bounds narrow"
    assert set(choice) == set(sizes)


def test_bounds_that_bind_nothing_change_nothing():
    model = ZOO["resnet8"](0)
    free = kmerge.choose_units(model, budget=0.5, selection="global")
    bound = kmerge.choose_units(model, budget=0.5, selection="global", exclude=[], minimum={}, maximum=1.0)
    assert all(np.array_equal(free[name], bound[name]) for name in free)


@pytest.mark.parametrize(
    "bounds, message",
    [
        ({"exclude": ["z"]}, "one of: .*received 'z'"),
        ({"exclude": "a"}, "exclude to be a list of names"),
        ({"minimum": {"dense": 1}}, "minimum to be by names of selectable spaces.*output 0"),
        ({"minimum": {"two": 1, "two:0": 2}}, "minimum to be by one name for each space.*'two:0'"),
        ({"minimum": {"a": 0}}, "minimum to be a number of units from 1 on"),
        ({"maximum": {"a": 1.5}}, "maximum to be a number of units from 1 on"),
        ({"minimum": {"a": 9}, "maximum": {"a": 8}}, "Space 'a': expected a width .*minimum of 9 to the maximum of 8"),
        ({"maximum": {"c": 7}, "multiple": 8}, "Space 'c': expected a width that is a multiple of 8.*exclude"),
        ({"exclude": ["a"], "maximum": {"a": 8}}, "maximum to be of spaces that are not excluded"),
        ({"exclude": ["a", "b", "c", "two"]}, "a budget of at least"),
    ],
)
def test_bounds_that_no_width_meets_are_refused(bounds, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.choose_units(network(), budget=0.5, **bounds)


def test_a_maximum_needs_importance():
    with pytest.raises(kmerge.InvalidArgumentError, match="importance to be of all spaces that a maximum makes narrower"):
        kmerge.choose_units(network(), {"a": np.arange(36)}, budget=1.0, maximum={"c": 4})
