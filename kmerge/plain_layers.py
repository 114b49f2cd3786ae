"""Layers of the user's that are what the numbers and strings on them say: without weights, other layers and state.

Such a layer can be copied even where its configuration does not build it again.
"""

import copy
import functools
from typing import Any

import keras

from kmerge.graph import parts_of
from kmerge.sameness import PLAIN


@functools.cache
def bookkeeping() -> frozenset[str]:
    """The attributes that every layer has, but for the one that a user gives it."""
    return frozenset(vars(keras.Layer())) - {"activity_regularizer"}


def holds_plain_values(layer: keras.Layer) -> bool:
    """Whether a built layer holds numbers, strings, and lists, tuples and dicts of such, and nothing else."""
    flat = [x for value in _own_values(layer).values() for x in keras.tree.flatten(value)]
    is_plain = all(isinstance(x, PLAIN) for x in flat)
    return is_plain and not layer.variables and not parts_of(layer) and layer.built


def copy_of_values(layer: keras.Layer, name: str) -> keras.Layer:
    """A layer of the same class with the same values, which shares nothing with the first.

    Args:
        layer: one that `holds_plain_values`.
        name: of the new one.
    """
    clone = type(layer).__new__(type(layer))
    options = {"dtype": layer.dtype_policy, "trainable": layer.trainable, "autocast": layer.autocast}
    keras.Layer.__init__(clone, name=name, **options)
    for key, value in _own_values(layer).items():
        setattr(clone, key, copy.deepcopy(value))
    clone.supports_masking, clone.built = layer.supports_masking, True
    return clone


def _own_values(layer: keras.Layer) -> dict[str, Any]:
    return {key: x for key, x in vars(layer).items() if key not in bookkeeping() and not key.startswith("_self_")}
