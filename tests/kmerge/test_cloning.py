"""Layers built again: what they hold, what is refused, and that nothing of the original is changed or shared."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.cloning import clone_operation
from tests.kmerge.cases.inner_models import Forgetful


def squared_relu(x):
    return ops.relu(x) ** 2


class Times:
    """A callable that is no Keras object."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor


class Filled(keras.initializers.Initializer):
    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return ops.full(shape, self.value)

    def get_config(self):
        return {"value": self.value}


class Block(layers.Layer):
    """As guides write them: `__init__` takes no name, and there is no `get_config`."""

    def __init__(self, units):
        super().__init__()
        self.units = units
        self.inner = layers.Dense(units, activation=squared_relu)

    def call(self, inputs):
        return self.inner(inputs)


class HandsOut(layers.Layer):
    """Its configuration holds the objects themselves."""

    def __init__(self, function, inner, **kwargs):
        super().__init__(**kwargs)
        self.function, self.inner = function, inner

    def call(self, inputs):
        return self.function(self.inner(inputs))

    def get_config(self):
        return super().get_config() | {"function": self.function, "inner": self.inner}


class Guide(layers.Layer):
    """A block of keras.io, without a `build`: the layers in it are built, and made in part, when it is called."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.norm = layers.MultiHeadAttention(2, 2), layers.LayerNormalization()
        self.inner = keras.Sequential([layers.Dense(4), Forgetful(factor)])

    def call(self, inputs):
        x = inputs[:, None]
        return self.inner(self.norm(self.attention(x, x)))

    def get_config(self):
        return super().get_config() | {"factor": self.inner.layers[-1].factor}


class ForgetfulGuide(Guide):
    def get_config(self):
        return layers.Layer.get_config(self)


def called(layer):
    layer(np.ones((2, 4), "float32"))
    return layer


MADE = {
    "lambdas": lambda: layers.Dense(3, activation=lambda x: x * 2, kernel_regularizer=lambda w: ops.sum(w)),
    "partial": lambda: layers.Dense(3, activation=functools.partial(ops.leaky_relu, negative_slope=0.3)),
    "operation": lambda: layers.Activation(ops.square),
    "callable": lambda: layers.Dense(3, activation=Times(2.0)),
    "initializer": lambda: layers.Dense(3, kernel_initializer=Filled(3.0)),
    "layer_as_activation": lambda: layers.Dense(3, activation=layers.PReLU("ones")),
    "wrapped": lambda: layers.SpectralNormalization(layers.Dense(3, activation=squared_relu)),
    "Lambda": lambda: layers.Lambda(lambda x: x * 3),
    "guide": lambda: Block(3),
    "hands_out": lambda: HandsOut(squared_relu, layers.Dense(3)),
    "default": lambda: Forgetful(),
    "made_in_build": lambda: Guide(),
}


@pytest.mark.parametrize("name", MADE)
def test_a_clone_computes_the_same_and_shares_nothing(name):
    layer = MADE[name]()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    expected, before = layer(x), sorted(vars(layer))
    clone = clone_operation(layer, {}, "clone")
    clone(x)
    clone.set_weights(layer.get_weights())
    np.testing.assert_allclose(clone(x), expected, rtol=1e-6)
    assert clone.name == "clone" and type(clone) is type(layer) and sorted(vars(layer)) == before
    assert not {*map(id, clone._flatten_layers())} & {*map(id, layer._flatten_layers())}


class NoConfiguration(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function


def replaced():
    layer = layers.Dense(3, name="replaced")
    layer.call = lambda x: x
    return layer


shared = layers.Dense(4, name="shared")
REFUSED = {
    "an argument is lost": (lambda: Forgetful(2.0), "does not tell its attribute 'factor'.*get_config"),
    "an argument of a layer in a layer of Keras is lost": (
        lambda: called(ForgetfulGuide(2.0)), "does not tell its attribute 'factor'|'sequential.*' is another"
    ),
    "no configuration": (lambda: NoConfiguration(squared_relu), "no configuration to build it again from.*get_config"),
    "a layer in a lambda": (lambda: layers.Lambda(lambda x: shared(x)), "uses Dense 'shared', which would be shared"),
    "a call of its own": (replaced, "'replaced' .*its call was replaced"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_is_not_what_it_says_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(kmerge.UnsupportedLayerError, match=message) as caught:
        clone_operation(make(), {}, "clone")
    assert caught.value.__suppress_context__


def test_what_tensorflow_notes_on_a_layer_is_no_attribute_of_it():
    layer = Forgetful()
    layer._self_unconditional_checkpoint_dependencies = ["noted"]
    assert clone_operation(layer, {}, "clone").factor == 1.0


def test_vocabularies_are_carried_over():
    words = layers.TextVectorization(output_sequence_length=4)
    words.adapt(["a b c", "b c", "c"])
    letters = layers.StringLookup()
    letters.adapt(["x", "y"])
    for layer in (words, letters):
        assert clone_operation(layer, {}, "clone").get_vocabulary() == layer.get_vocabulary()


def test_what_no_asset_holds_is_refused():
    words = layers.TextVectorization(output_mode="tf_idf")
    words.adapt(["a b c", "b c", "c"])
    with pytest.raises(kmerge.UnsupportedLayerError, match="assets of its .* cannot be loaded again.*idf_weights"):
        clone_operation(words, {}, "clone")
