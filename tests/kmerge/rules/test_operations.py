"""Every function of `keras.ops` on hidden channels is exact, followed or not: nothing is silently wrong."""

import collections
import functools
import inspect
import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests.checks import assert_spaces, outputs, relative_error, selectable
from tests.models import example_inputs, randomize

NAMES = [name for name in dir(ops) if inspect.isfunction(getattr(ops, name)) and not name.startswith("_")]
SOME = [NAMES[start : start + 16] for start in range(0, len(NAMES), 16)]

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
    tensors = x, *(layers.Dense(4, activation="sigmoid")(layers.Dense(3)(x)) for _ in range(2))
    randomize(keras.Model(x, tensors[1:]), 0)
    return tensors


def model_of(name: str, way: str) -> keras.Model | None:
    """A model with the function between two mixing layers, or None where the function cannot be called so on real numbers."""
    x, h, g = hidden()
    try:
        found = keras.tree.flatten(WAYS[way](getattr(ops, name), h, g))
        ends = [layers.Dense(2, name=f"{name}_{way}_{i}".replace(" ", "_")) for i in range(len(found))]
        model = keras.Model(x, [end(layers.Flatten()(z)) for end, z in zip(ends, found, strict=True)])
        model.get_config()
        makes_sense = all(np.isfinite(y).all() for y in outputs(model, example_inputs(model, batch=2)))
    except Exception:  # whatever Keras says to a call that makes no sense
        return None
    return model if makes_sense else None


def sizes_of(model: keras.Model) -> tuple[dict, bool] | None:
    """The selectable spaces, and whether all channels are followed; None where the model is refused."""
    try:
        with kmerge.strict():
            return selectable(model), True
    except kmerge.UnsupportedLayerError:
        pass
    try:
        return selectable(model), False
    except kmerge.UnsupportedLayerError:
        return None


def together(models: list[keras.Model]) -> list[keras.Model]:
    """Models with the same spaces as one, whose outputs are all of theirs, if that has these spaces, too."""
    joint = keras.Model(models[0].input, [y for model in models for y in model.outputs])
    return [joint] if sizes_of(joint) == sizes_of(models[0]) else models


def assert_each_close(model: keras.Model, values: list, references: list) -> None:
    for name, value, reference in zip(model.output_names, values, references, strict=True):
        assert relative_error(value, reference) <= 1e-5, name


def check_exact(model: keras.Model) -> None:
    """What kmerge makes of a model is exact, whether its channels are followed or not."""
    randomize(model, 0)
    sizes, rng = selectable(model), np.random.default_rng(1)
    inputs = example_inputs(model, batch=2)
    expected = outputs(model, inputs)
    other = kmerge.permute(model, {name: rng.permutation(size) for name, size in sizes.items()})
    assert_each_close(model, outputs(other, inputs), expected)
    randomize(other, 1)
    big = kmerge.concatenate(model, other)
    pairs = zip(expected, outputs(other, inputs), strict=True)
    assert_each_close(model, outputs(big, inputs), [(a + b) / 2 for a, b in pairs])
    assert_spaces(big, {name: 2 * size for name, size in sizes.items()})


@pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning", "ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("names", SOME, ids=[f"{names[0]}-{names[-1]}" for names in SOME])
def test_every_operation_is_exact(names):
    alike, followed = collections.defaultdict(list), set()
    for name, way in itertools.product(names, WAYS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras and NumPy on arguments that make little sense
            model = model_of(name, way)
        if model is not None and (sizes := sizes_of(model)):
            alike[repr(sizes)].append(model)
            followed |= {name} if sizes[1] else set()
    for model in itertools.chain(*map(together, alike.values())):
        check_exact(model)
    assert followed >= {*names} & {*MUST_FOLLOW}
