"""Weights of a layer's own by which it multiplies what it reads: they are cut, joined and gated as those of Dense are."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent, permuted
from tests.models import Entry, every, example_inputs, randomize


@keras.saving.register_keras_serializable("tests")
class Linear(layers.Layer):
    """The layer of the guide of Keras to new layers."""

    def __init__(self, units=5, product="matmul", **kwargs):
        super().__init__(**kwargs)
        self.units, self.product = units, product

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), regularizer="l2")
        self.b = self.add_weight(shape=(self.units,))

    def call(self, inputs):
        return getattr(ops, self.product)(inputs, self.w) + self.b

    def get_config(self):
        return {**super().get_config(), "units": self.units, "product": self.product}


class Twice(Linear):
    """Its weight is read in two ways."""

    def call(self, inputs):
        return ops.matmul(ops.relu(ops.matmul(inputs, self.w)), ops.transpose(self.w)) + ops.sum(self.b)


class Entries(Entry):
    """An entry whose networks are opened."""

    def __call__(self, seed):
        network = self.build()
        randomize(network, seed)
        return kmerge.functional(network)


def linear():
    x = keras.Input((6,))
    h = ops.relu(Linear(5, "dot", name="middle")(ops.relu(Linear(7, name="first")(x))))
    return keras.Model(x, Linear(2, name="last")(h))


def on_places():
    x = keras.Input((4, 3))
    shared = Linear(5, name="shared")
    h = layers.Concatenate()([shared(ops.relu(shared(layers.Dense(5)(x)))), layers.Dense(4)(x)])
    h = layers.BatchNormalization()(Linear(4, name="behind")(h))
    return keras.Model(x, Linear(2, name="last")(layers.Flatten()(ops.tanh(h))))


ENTRIES = {build.__name__: Entries(build.__name__, build, ("linear",)) for build in (linear, on_places)}


@every(ENTRIES)
def test_every_verb_is_exact(entry):
    with kmerge.strict():
        assert len(checks.selectable(parent(entry, 0))) > 1
        checks.check_concatenate(entry, family(entry), concatenated(entry))
        checks.check_select_parent(entry, family(entry), concatenated(entry), 1)
        checks.check_select_everything(parent(entry, 0))
        assert len({id(x) for x in (permuted(entry), halved(entry), grown(entry))}) == 3


@every(ENTRIES)
@pytest.mark.parametrize("sampling", ["example", "batch"])
def test_gates_choose_and_compress_is_exact(entry, sampling):
    with kmerge.strict():
        checks.check_merge(family(entry), example_inputs(parent(entry, 0)), sampling=sampling)


def test_a_model_whose_layers_are_opened_by_the_verb_is_cut_too():
    network = linear()
    randomize(network, 0)
    with pytest.warns(kmerge.OpenedLayerWarning):
        small = kmerge.prune(network, budget=0.6)
    assert small.count_params() < network.count_params()
    checks.check_permute(kmerge.functional(network))


def test_the_weight_keeps_its_regularizer():
    network = linear()
    randomize(network, 0)
    expected = float(sum(network.losses))
    assert expected > 0 and np.isclose(float(sum(kmerge.functional(network).losses)), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_weight_that_is_read_in_two_ways_is_held_fixed():
    x = keras.Input((6,))
    network = keras.Model(x, layers.Dense(2)(layers.Dense(4)(Twice(5)(layers.Dense(6)(x)))))
    randomize(network, 0)
    opened = kmerge.functional(network)
    assert list(checks.selectable(opened).values()) == [4]
    checks.check_permute(opened)
