"""Attention and AdditiveAttention, which have no projections: channels of query and key are summed, those of values pass."""

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests import checks
from tests.checks import assert_close, outputs, selectable
from tests.kmerge.rules import operation_checks
from tests.models import Entry, every, example_inputs

MODELS: dict[str, Entry] = {}


def model(build):
    MODELS[build.__name__] = Entry(build.__name__, build, ("linear",), leaves_others=True)
    return build


def _hidden(x, units=6):
    return layers.Dense(units)(x)


@model
def additive_at_the_end():
    x, y = keras.Input((5, 3)), keras.Input((7, 3))
    return keras.Model([x, y], layers.AdditiveAttention()([_hidden(x), _hidden(y, 4), _hidden(y)]))


@model
def by_products():
    x, y = keras.Input((5, 3)), keras.Input((7, 3))
    attention = layers.Attention(use_scale=True, dropout=0.1)
    h = attention([_hidden(x), _hidden(y, 5), _hidden(y)], use_causal_mask=True)
    return keras.Model([x, y], _hidden(layers.LayerNormalization()(h), 2))


@model
def of_one_tensor_and_of_inputs():
    x, y = keras.Input((5, 3)), keras.Input((7, 3))
    h = _hidden(layers.AdditiveAttention()([x, y]))
    return keras.Model([x, y], _hidden(h + layers.Attention(score_mode="concat", use_scale=True)([h, h]), 2))


@model
def masked_keys():
    """Of a recurrent layer in both directions, two units of which meet one of the query; both carry masks."""
    tokens, others = keras.Input((5,), dtype="int32"), keras.Input((7,), dtype="int32")
    words, more = (layers.Embedding(10, 4, mask_zero=True)(x) for x in (tokens, others))
    query = layers.SimpleRNN(6, return_sequences=True)(words)
    keys = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True))(more)
    found = layers.Concatenate()([query, layers.AdditiveAttention()([query, keys])])
    return keras.Model([tokens, others], _hidden(found, 2))


def _mean(parents, inputs):
    return np.mean([outputs(parent, inputs)[0] for parent in parents], axis=0)


@every(MODELS)
def test_it_is_followed_permutes_and_is_joined(entry):
    network = operation_checks.family(entry, 1)[0]
    with kmerge.strict():
        assert selectable(network)
    checks.check_select_commutes(network, checks.check_permute(network), 0.5)
    checks.check_select_everything(network)
    parents, inputs = operation_checks.family(entry, 2), example_inputs(network)
    big = kmerge.concatenate(*parents)
    assert_close(outputs(big, inputs), [_mean(parents, inputs)], 1e-5)
    assert set(selectable(big).values()) >= {2 * size for size in selectable(network).values()}
    checks.check_select_commutes(big, checks.check_permute(big), 0.7)


@every(MODELS, ["masked_keys"])
def test_in_a_big_student_it_runs_as_it_is(entry, tmp_path):
    operation_checks.check_merge(entry, tmp_path)


def test_channels_that_are_zero_in_query_and_key_can_go_and_none_can_come():
    network = operation_checks.family(MODELS["additive_at_the_end"], 1)[0]
    (space,) = kmerge.channel_spaces(network).selectable
    for owner in space.owners:
        for weight in network.get_layer(owner).weights:
            values = keras.ops.convert_to_numpy(weight).copy()
            values[..., 1] = 0.0
            weight.assign(values)
    small, inputs = kmerge.select(network, {space.name: [0, *range(2, 6)]}), example_inputs(network)
    assert_close(outputs(small, inputs), outputs(network, inputs), 1e-6)
    with pytest.raises(kmerge.UnsupportedLayerError, match="adds up channels without weights"):
        kmerge.grow(network, {space.name: 1})


def test_values_can_grow():
    network = operation_checks.family(MODELS["by_products"], 1)[0]
    values = next(s for s in kmerge.channel_spaces(network).selectable if s.size == 5)
    inputs = example_inputs(network)
    grown = kmerge.grow(network, {values.name: 2})
    assert_close(outputs(grown, inputs), outputs(network, inputs), 1e-6)
    parents = operation_checks.family(MODELS["by_products"], 2)
    both = kmerge.concatenate(*parents)
    values = next(s for s in kmerge.channel_spaces(both).selectable if s.size == 10)
    assert_close(outputs(kmerge.grow(both, {values.name: 2}), inputs), [_mean(parents, inputs)], 1e-5)
