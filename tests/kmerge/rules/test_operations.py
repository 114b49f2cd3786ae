"""Every function of `keras.ops` on hidden channels is exact, followed or not: nothing is silently wrong."""

import functools
import inspect
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests.checks import assert_close, assert_spaces, outputs, selectable
from tests.models import example_inputs, randomize

NAMES = [name for name in dir(ops) if inspect.isfunction(getattr(ops, name)) and not name.startswith("_")]

# What users write; refusing these would be safe, but no help.
MUST_FOLLOW = (
    "abs add concatenate divide elu exp gelu leaky_relu log max maximum mean minimum multiply "
    "negative relu relu6 sigmoid silu softplus sqrt square subtract swish tanh"
).split()

# How each function is tried: on one tensor, along an axis, and on two tensors of equal shape.
WAYS = {
    "alone": lambda function, x, y: function(x),
    "last axis": lambda function, x, y: function(x, axis=-1),
    "first axis": lambda function, x, y: function(x, axis=1),
    "kept axis": lambda function, x, y: function(x, axis=-1, keepdims=True),
    "two": lambda function, x, y: function(x, y),
    "list": lambda function, x, y: function([x, y]),
    "list along last": lambda function, x, y: function([x, y], axis=-1),
    "count": lambda function, x, y: function(x, 2),
    "count along last": lambda function, x, y: function(x, 2, axis=-1),
}


@functools.cache
def hidden() -> tuple:
    x = keras.Input((3, 5))
    return x, *(layers.Dense(4, activation="sigmoid")(layers.Dense(3)(x)) for _ in range(2))


def model_of(function, way: str) -> keras.Model | None:
    """A model with `function` between two mixing layers, or None where the function cannot be called so on real numbers."""
    x, h, g = hidden()
    try:
        found = keras.tree.flatten(WAYS[way](function, h, g))
        model = keras.Model(x, [layers.Dense(2)(layers.Flatten()(z)) for z in found])
        model.get_config()
        randomize(model, 0)
        makes_sense = all(np.isfinite(y).all() for y in outputs(model, example_inputs(model)))
    except Exception:  # whatever Keras says to a call that makes no sense
        return None
    return model if makes_sense else None


def check_exact(model: keras.Model) -> bool:
    """Whether kmerge follows the model's channels; what it makes of them must be exact in any case."""
    try:
        sizes = selectable(model)
    except kmerge.UnsupportedLayerError:
        return False
    rng = np.random.default_rng(1)
    moved = kmerge.permute(model, {name: rng.permutation(size) for name, size in sizes.items()})
    inputs = example_inputs(model)
    expected = outputs(model, inputs)
    assert_close(outputs(moved, inputs), expected, 1e-5)
    other = keras.models.clone_model(model)
    randomize(other, 1)
    big = kmerge.concatenate(model, other)
    pairs = zip(expected, outputs(other, inputs), strict=True)
    assert_close(outputs(big, inputs), [(a + b) / 2 for a, b in pairs], 1e-5)
    assert_spaces(big, {name: 2 * size for name, size in sizes.items()})
    try:
        with kmerge.strict():
            kmerge.channel_spaces(model)
    except kmerge.UnsupportedLayerError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning", "ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_exact(name):
    followed = []
    for way in WAYS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras and NumPy on arguments that make little sense
            model = model_of(getattr(ops, name), way)
        if model is not None and check_exact(model):
            followed.append(way)
    assert followed or name not in MUST_FOLLOW
