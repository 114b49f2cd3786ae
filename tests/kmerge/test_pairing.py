"""What makes two models differ, in one line."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.pairing import paired_layers


def model(rescale=1.0, activation="relu", factor=None, positions=(0, 1), vocabulary=None) -> keras.Model:
    x = keras.Input((3,))
    h = layers.Rescaling(np.linspace(0, rescale, 3).tolist(), name="rescaling")(x)
    h = layers.Dense(6, activation=activation, name="hidden")(h)
    h = h if factor is None else h * factor
    h = ops.take(h, list(positions), axis=-1)
    if vocabulary is not None:
        lookup = layers.IntegerLookup(name="lookup")
        lookup.adapt(vocabulary)
        h = h + lookup(ops.cast(h, "int32"))
    return keras.Model(x, layers.Dense(2)(h))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale": 2.0}, r"'rescaling': expected configuration \['scale'\] \[0.0, 0.5, 1.0\]"),
        ({"activation": "tanh"}, r"'hidden': expected configuration \['activation'\] 'relu' .* received 'tanh'"),
        ({"positions": (0, 2)}, r"expected argument 1\[1\] 1 as in the first model, received 2"),
        ({"activation": lambda x: x}, "'hidden': expected configuration"),
    ],
)
def test_the_difference_is_told_in_one_line(changes, message):
    with pytest.raises(kmerge.ArchitectureMismatchError, match=message) as caught:
        paired_layers(model(), model(**changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_functions_are_compared_by_what_they_do():
    double = [model(activation=lambda x: x * 2) for _ in range(2)]
    assert list(paired_layers(*double))
    with pytest.raises(kmerge.ArchitectureMismatchError, match="an object in its configuration"):
        paired_layers(double[0], model(activation=lambda x: x * 3))


def test_vocabularies_are_compared():
    with pytest.raises(kmerge.ArchitectureMismatchError, match="'lookup': expected assets of IntegerLookup"):
        paired_layers(model(vocabulary=[1, 2]), model(vocabulary=[1, 3]))


def test_constant_arrays_may_differ_only_where_they_are_read_from_each_model():
    parents = [model(factor=np.full((1,), value, "float32")) for value in (1, 2)]
    assert list(paired_layers(*parents))
    with pytest.raises(kmerge.ArchitectureMismatchError, match="expected the constant array of its call to be equal"):
        kmerge.concatenate(*parents)
    with pytest.raises(kmerge.ArchitectureMismatchError, match="received an array of shape|of shape"):
        paired_layers(parents[0], model(factor=np.ones((6,), "float32")))
