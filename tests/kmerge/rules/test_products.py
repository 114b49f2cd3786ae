"""Attention written out with matrix products: channels of queries and keys are added up, those of values pass."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import assert_close, outputs, selectable
from tests.kmerge.rules import operation_checks
from tests.models import Entry, every, example_inputs, randomize

MODELS: dict[str, Entry] = {}


def model(*final: str):
    def register(build):
        MODELS[build.__name__] = Entry(build.__name__, build, final or ("linear",), leaves_others=True)
        return build

    return register


def scores_of(query, key):
    axes = (*range(len(key.shape) - 2), len(key.shape) - 1, len(key.shape) - 2)
    return ops.matmul(query, ops.transpose(key, axes))


@model()
def one_head():
    x = keras.Input((5, 6))
    query, key, value = (layers.Dense(6)(x) for _ in range(3))
    weights = ops.softmax(scores_of(query, key) / np.sqrt(6), axis=-1)
    return keras.Model(x, layers.Dense(2)(layers.Dense(8, activation="relu")(ops.matmul(weights, value))))


@model()
def heads_of_a_residual_stream():
    x = keras.Input((5, 6))
    stream = layers.Dense(8)(x)
    query, key, value = (
        ops.transpose(layers.Reshape((5, 2, 3))(layers.Dense(6)(stream)), (0, 2, 1, 3)) for _ in range(3)
    )
    scores = scores_of(query, key) * 3**-0.5 + np.triu(np.full((5, 5), -1e9, "float32"), 1)
    made = layers.Dropout(0.1)(layers.Softmax()(scores)) @ value
    made = layers.Dense(8)(layers.Reshape((5, 6))(ops.transpose(made, (0, 2, 1, 3))))
    return keras.Model(x, layers.Dense(2)(stream + made))


@model()
def places_of_unknown_number():
    x = keras.Input((None, 6))
    query, key, value = layers.Dense(4)(x), layers.Dense(4)(x), layers.Dense(3, activation="tanh")(x)
    made = ops.matmul(ops.softmax(scores_of(query, key)), value)
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(made)))


@model("linear", "linear", "linear")
def at_the_end():
    x = keras.Input((5, 6))
    scores = scores_of(layers.Dense(4)(x), layers.Dense(4)(x))
    ends = [ops.matmul(ops.sigmoid(scores), x), ops.matmul(ops.softmax(scores + scores), layers.Dense(3)(x))]
    return keras.Model(x, [scores, *ends])


@model()
def graph_convolution():
    nodes, edges = keras.Input((5, 4)), keras.Input((5, 5))
    shares = edges / ops.maximum(ops.sum(ops.absolute(edges), axis=1, keepdims=True), 1e-3)
    h = ops.relu(ops.matmul(edges, layers.Dense(6, use_bias=False)(nodes)))
    h = ops.tanh(ops.matmul(shares, layers.Dense(5)(h)))
    return keras.Model([nodes, edges], layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@model()
def graph_convolution_at_the_end():
    nodes, edges = keras.Input((5, 4)), keras.Input((3, 5))
    return keras.Model([nodes, edges], ops.matmul(edges, layers.Dense(2)(layers.Dense(6, activation="relu")(nodes))))


@every(MODELS)
def test_it_is_followed_permutes_and_selects(entry):
    network = operation_checks.family(entry, 1)[0]
    with kmerge.strict():
        assert selectable(network)
    moved = checks.check_permute(network)
    checks.check_select_everything(network)
    checks.check_select_commutes(network, moved, 0.5)


@every(MODELS, on_both=("heads_of_a_residual_stream",))
def test_concatenate_is_the_mean(entry):
    big = operation_checks.check_concatenate(entry, 2)
    with kmerge.strict():
        assert selectable(big)
    checks.check_select_commutes(big, checks.check_permute(big), 0.7)


@every(MODELS, ["heads_of_a_residual_stream", "at_the_end"])
def test_concatenate_three_and_again(entry):
    operation_checks.check_concatenate(entry, 3)
    operation_checks.check_again(entry)


@every(MODELS, on_both=("heads_of_a_residual_stream",))
def test_merge_and_compress(entry, tmp_path):
    operation_checks.check_merge(entry, tmp_path)


def test_channels_that_were_zero_can_go():
    """Of queries or keys one suffices; and the scores are scaled as before."""
    network = MODELS["one_head"](3)
    queries = next(space for space in kmerge.channel_spaces(network).selectable if space.adders)
    layer = network.get_layer(queries.owners[0])
    for weight in layer.weights:
        values = keras.ops.convert_to_numpy(weight).copy()
        values[..., [1, 4]] = 0.0
        weight.assign(values)
    inputs = example_inputs(network)
    smaller = kmerge.select(network, {queries.name: [0, 2, 3, 5]})
    assert_close(outputs(smaller, inputs), outputs(network, inputs), 1e-6)


def test_values_of_one_parent_cannot_go_altogether():
    parents = operation_checks.family(MODELS["one_head"], 2)
    big = kmerge.concatenate(*parents)
    spaces = kmerge.channel_spaces(big).selectable
    values = next(s for s in spaces if not s.adders and s.size == 12)
    with pytest.raises(kmerge.UnsupportedLayerError, match="matmul.*none of the channels that it reads are left"):
        kmerge.select(big, {values.name: range(6)})


def test_values_and_what_is_behind_can_grow():
    network = operation_checks.family(MODELS["heads_of_a_residual_stream"], 1)[0]
    inputs = example_inputs(network)
    free = {space.name: 2 for space in kmerge.channel_spaces(network).selectable if not space.adders}
    assert len(free) == 2
    assert_close(outputs(kmerge.grow(network, free), inputs), outputs(network, inputs), 1e-6)


def test_a_mask_of_the_inputs():
    x, mask = keras.Input((5, 6)), keras.Input((5, 5), dtype="bool")

    def build(seed):
        keras.utils.set_random_seed(seed)
        scores = scores_of(layers.Dense(4)(x), layers.Dense(4)(x))
        made = ops.matmul(
            layers.Softmax()(scores, mask=ops.logical_or(mask, np.eye(5, dtype=bool))), layers.Dense(3)(x)
        )
        return keras.Model([x, mask], layers.Dense(2)(made))

    parents, rng = [build(0), build(1)], np.random.default_rng(0)
    inputs = [rng.normal(size=(4, 5, 6)).astype("float32"), rng.random((4, 5, 5)) < 0.5]
    mean = np.mean([outputs(parent, inputs)[0] for parent in parents], axis=0)
    assert_close(outputs(kmerge.concatenate(*parents), inputs), [mean], 1e-5)


@pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning")
def test_what_opaque_layers_make_of_scores_weighs_as_it_is():
    """The values stay with the layer, which a merge keeps whole."""

    def build(seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((5, 6))
        scores = layers.Dense(5)(scores_of(layers.Dense(4)(x), layers.Dense(4)(x)))
        return keras.Model(x, layers.Dense(2)(ops.matmul(ops.softmax(scores), layers.Dense(3, name="values")(x))))

    parents = [build(0), build(1)]
    inputs = example_inputs(parents[0])
    assert not kmerge.channel_spaces(parents[0])["values"].selectable
    mean = np.mean([outputs(parent, inputs)[0] for parent in parents], axis=0)
    assert_close(outputs(kmerge.concatenate(*parents), inputs), [mean], 1e-5)


def test_joined_models_load_without_kmerge(tmp_path):
    big = kmerge.concatenate(*operation_checks.family(MODELS["heads_of_a_residual_stream"], 2))
    checks.check_saves({"heads": big}, tmp_path)


def test_edges_that_each_model_reads_in_its_own_way_are_never_mixed():
    def build(seed):
        nodes, edges = keras.Input((5, 4)), keras.Input((5, 5))
        h = ops.relu(ops.matmul(edges, layers.Dense(6, name="h")(nodes)))
        other = layers.Dense(6)(layers.BatchNormalization()(edges))
        result = keras.Model([nodes, edges], layers.Dense(2)(layers.Dense(4, activation="relu")(h + other)))
        randomize(result, seed)
        return result

    parents = [build(0), build(1)]
    values = example_inputs(parents[0])
    try:
        big = kmerge.concatenate(*parents)
    except kmerge.UnsupportedLayerError as error:
        assert "mixes places by them" in str(error)
    else:
        mean = np.mean([outputs(parent, values) for parent in parents], axis=0)
        assert_close(outputs(big, values), list(mean), 1e-5)
