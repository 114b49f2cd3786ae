"""Tables that are looked up, also where what reads them is a single channel of an input."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent, permuted
from tests.models import Entry, every, example_inputs, randomize

ENTRIES: dict[str, Entry] = {}


def model(build):
    ENTRIES[build.__name__] = Entry(build.__name__, build, ("linear",))
    return ENTRIES[build.__name__]


@model
def reversible_embedding():
    x = keras.Input((5,), dtype="int32")
    h = layers.Dense(6, activation="relu")(layers.ReversibleEmbedding(4, 5)(x))
    return keras.Model(x, layers.Dense(2)(h))


@model
def reversible_embedding_of_two_tables():
    x = keras.Input((5,), dtype="int32")
    h = layers.ReversibleEmbedding(4, 5, tie_weights=False)(x, reverse=False)
    return keras.Model(x, layers.Dense(2)(layers.Dense(6, activation="relu")(h)))


def looked_up_by_one_channel(seed):
    """Users and films by their numbers, next to a number that stands alone: nothing behind these is fixed."""
    x, y = keras.Input((2,), dtype="int32"), keras.Input((3,))
    h = layers.Embedding(4, 5)(x[:, 0]) * layers.Embedding(4, 5)(x[:, 1])
    h = layers.Concatenate()([h, layers.Dense(4)(keras.ops.expand_dims(y[:, 2], -1)), layers.Dense(3)(y)])
    network = keras.Model([x, y], layers.Dense(2)(layers.Dense(6, activation="relu")(h)))
    randomize(network, seed)
    return network


def test_what_reads_one_channel_of_an_input_makes_free_units():
    networks = [looked_up_by_one_channel(seed) for seed in range(2)]
    inputs = example_inputs(networks[0])
    assert list(checks.selectable(networks[0]).values()) == [5, 4, 3, 6]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kmerge.UnfollowedLayerWarning)
        checks.check_select_commutes(networks[0], checks.check_permute(networks[0]), 0.5)
        checks.check_grow(networks[0])
        big, gated = kmerge.concatenate(*networks), kmerge.merge(*networks, gates="open")
    mean = np.mean([checks.outputs(network, inputs)[0] for network in networks], axis=0)
    checks.assert_close(checks.outputs(big, inputs) + checks.outputs(gated, inputs), [mean, mean], 1e-5)


@every(ENTRIES)
def test_every_verb_is_exact(entry):
    with kmerge.strict():
        checks.check_concatenate(entry, family(entry), concatenated(entry))
        assert checks.selectable(parent(entry, 0))
        checks.check_select_everything(parent(entry, 0))
        assert len({id(x) for x in (permuted(entry), halved(entry), grown(entry))}) == 3


@every(ENTRIES)
def test_gates_choose_and_compress_is_exact(entry):
    with kmerge.strict():
        checks.check_merge(family(entry), example_inputs(parent(entry, 0)))


@pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_called_in_reverse_runs_as_it_is(tied):
    def build(seed):
        x = keras.Input((5,), dtype="int32")
        table = layers.ReversibleEmbedding(4, 5, tie_weights=tied, name="table")
        h = layers.Dense(5)(layers.Dense(6, activation="relu")(table(x)))
        network = keras.Model(x, table(h, reverse=True))
        randomize(network, seed)
        return network

    networks = [build(0), build(1)]
    inputs = example_inputs(networks[0])
    big = kmerge.concatenate(*networks)
    checks.assert_mean(big, networks, inputs)
    checks.check_permute(networks[0])
    assert list(checks.selectable(networks[0]).values()) == [6]
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match="table.*in reverse"):
        kmerge.channel_spaces(networks[0])
