"""Layers that work on another axis than the channels': these pass, and each model keeps a layer of its own."""


import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent
from tests.models import Entry, every, example_inputs, randomize

PLACES: dict[str, Entry] = {}


def model(*final: str, **flags: bool):
    def register(build):
        PLACES[build.__name__] = Entry(build.__name__, build, final or ("linear",), leaves_others=True, **flags)
        return PLACES[build.__name__]

    return register


def over_places(x, units, **options):
    return layers.Permute((2, 1))(layers.Dense(units, **options)(layers.Permute((2, 1))(x)))


@model("softmax")
def mixer():
    """Two Dense layers over places, two over channels, each around a residual sum: MLP-Mixer."""
    x = keras.Input((8, 3))
    h = layers.Conv1D(4, 2, 2)(x)
    t = layers.Permute((2, 1))(layers.LayerNormalization()(h))
    h = layers.Add()([h, layers.Permute((2, 1))(layers.Dense(4)(layers.Dense(3, activation="gelu")(t)))])
    h = layers.Add()([h, layers.Dense(4)(layers.Dense(5, activation="gelu")(layers.LayerNormalization()(h)))])
    return keras.Model(x, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(h)))


@model()
def time_series_mixer():
    """Its first layers stand on the input, whose channels are those of the output, too."""
    x = keras.Input((6, 3))
    h = layers.Add()([x, over_places(layers.BatchNormalization()(x), 6, activation="relu")])
    h = layers.Add()([h, layers.Dense(3)(layers.Dense(5, activation="relu")(layers.BatchNormalization()(h)))])
    return keras.Model(x, over_places(h, 4))


@model()
def decomposition_and_linear():
    """DLinear: what it forecasts with is read from the input alone."""
    x = keras.Input((6, 3))
    trend = layers.AveragePooling1D(3, 1, padding="same")(x)
    forecast = layers.Add()([over_places(trend, 4), over_places(layers.Subtract()([x, trend]), 4)])
    return keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(forecast)))


@model()
def normalized_over_places():
    x = keras.Input((4, 3))
    h = layers.Dense(5, activation="relu")(x)
    h = layers.BatchNormalization(axis=1)(layers.LayerNormalization(axis=1)(h))
    h = layers.LayerNormalization(axis=(1,), center=False)(layers.Dense(4)(layers.UnitNormalization(axis=1)(h)))
    return keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu")(layers.Flatten()(h))))


@model()
def einsum_over_places():
    x = keras.Input((4, 3))
    h = layers.EinsumDense("btd,ts->bsd", (3, 5), bias_axes="sd")(layers.Dense(5, activation="relu")(x))
    h = layers.EinsumDense("btd,d->btd", (3, 5), activation="tanh")(h)
    h = layers.EinsumDense("btd,ts->bsd", (2, 5), bias_axes="d")(h)
    return keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu")(h)))


@model()
def one_slope():
    x = keras.Input((4, 4, 3))
    h = layers.PReLU(shared_axes=[1, 2, 3])(layers.Conv2D(5, 3)(x))
    h = layers.PReLU(shared_axes=[3])(layers.Conv2D(4, 1)(h))
    return keras.Model(x, layers.Conv2D(2, 1)(layers.Normalization(axis=None)(h)))


@model()
def shared_over_places():
    x, y = keras.Input((4, 3)), keras.Input((4, 3))
    turn, mix = layers.Permute((2, 1)), layers.Dense(4, activation="relu")
    left, right = (mix(turn(layers.Dense(size)(z))) for z, size in ((x, 5), (y, 6)))
    return keras.Model([x, y], layers.Dense(2)(layers.Flatten()(layers.Concatenate(1)([left, right]))))


@model()
def activation_at_the_end():
    x = keras.Input((4, 3))
    return keras.Model(
        x,
        layers.Dense(4, activation="relu")(
            layers.Permute((2, 1))(layers.Dense(5)(layers.Dense(4, activation="relu")(x)))
        ),
    )


@model()
def channels_first_input():
    x, y = keras.Input((3, 6, 6)), keras.Input((6, 4))
    turned = layers.Permute((2, 3, 1))(x)
    h = layers.Add()([layers.Conv2D(4, 3)(turned), layers.Conv2D(4, 3)(layers.BatchNormalization()(turned))])
    again = layers.Conv2D(3, 1)(ops.transpose(layers.Rescaling(0.5)(x), (0, 2, 3, 1)))
    series = layers.Dense(5, activation="relu")(layers.Permute((2, 1))(y))
    parts = [layers.GlobalAveragePooling2D()(z) for z in (h, again)] + [layers.GlobalAveragePooling1D()(series)]
    return keras.Model([x, y], layers.Dense(2)(layers.Concatenate()(parts)))


every_model = every(PLACES)


@every_model
def test_concatenate_is_the_mean_of_the_logits(entry):
    checks.check_concatenate(entry, family(entry), concatenated(entry))


@every(PLACES, ["mixer", "normalized_over_places", "einsum_over_places"])
def test_concatenate_three(entry):
    checks.check_concatenate(entry, family(entry, 3), concatenated(entry, 3))


@checks.once
def moved(entry):
    """The concatenated networks by `check_permute`."""
    return checks.check_permute(concatenated(entry))


@every_model
def test_channels_permute_select_and_grow(entry):
    assert halved(entry) is not grown(entry)
    big = concatenated(entry)
    checks.check_select_commutes(big, moved(entry), 0.5)
    checks.check_grow(big)


@every(PLACES, ["mixer", "normalized_over_places", "einsum_over_places"])
@pytest.mark.parametrize("sampling", ["example", "batch"])
def test_merge_holds_one_of_each_parent_and_compress_keeps_one_whole(entry, sampling, tmp_path):
    parents = family(entry)
    inputs = example_inputs(parents[0])
    with pytest.warns(UserWarning, match="one of each parent"):
        big = kmerge.merge(*parents, gates="open", sampling=sampling)
    if entry is not PLACES["mixer"]:  # which normalizes over the units of both
        each = [checks.logits(network, inputs, entry.final)[0] for network in parents]
        checks.assert_close(checks.logits(big, inputs, entry.final), [np.mean(each, axis=0)], 1e-5)
    for network, student in checks.students_of_one_parent(big, parents, tmp_path):
        assert [w.shape for w in student.weights] == [w.shape for w in network.weights]


def test_gates_of_one_model_choose_among_its_channels():
    network = parent(PLACES["mixer"], 0)
    big = kmerge.gate(network, 0.5)
    inputs = example_inputs(network)
    checks.assert_close(checks.outputs(big, inputs), checks.outputs(network, inputs), 1e-5)
    checks.decide(big)
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


def test_one_for_channels_of_an_output_must_be_equal_in_a_merge():
    first, second = family(PLACES["activation_at_the_end"])
    with pytest.raises(kmerge.UnsupportedLayerError, match="(?s)dense.*channels that all models share.*equal weights"):
        kmerge.merge(first, second)


def test_every_rewritten_model_loads_without_kmerge(tmp_path):
    saved = {f"{entry.name}-concatenate": concatenated(entry) for entry in PLACES.values()}
    saved |= {f"{entry.name}-select": halved(entry) for entry in PLACES.values()}
    checks.check_saves(saved, tmp_path)


def test_uses_of_one_layer_that_read_channels_on_different_axes_run_as_they_are():
    def build(seed):
        x = keras.Input((4, 4))
        shared, h = layers.Dense(4, name="shared"), layers.Dense(4, activation="relu")(x)
        turn = layers.Permute((2, 1))
        network = keras.Model(x, layers.Dense(2)(layers.Add()([shared(h), turn(shared(turn(h)))])))
        randomize(network, seed)
        return network

    networks = [build(0), build(1)]
    inputs = example_inputs(networks[0])
    with pytest.warns(kmerge.UnfollowedLayerWarning, match="shared.*different axes"):
        big = kmerge.concatenate(*networks)
    checks.assert_mean(big, networks, inputs)


def test_a_scale_that_keras_lays_along_another_axis_than_it_normalizes_is_not_cut():
    def build(seed):
        x = keras.Input((4, 3))
        network = keras.Model(x, layers.Dense(2)(layers.RMSNormalization(axis=1, name="odd")(layers.Dense(4)(x))))
        randomize(network, seed)
        return network

    networks = [build(0), build(1)]
    inputs = example_inputs(networks[0])
    with pytest.warns(kmerge.UnfollowedLayerWarning, match="odd.*its scale lies along the last"):
        big = kmerge.concatenate(*networks)
    checks.assert_mean(big, networks, inputs)


@pytest.mark.parametrize("way", ["einsum", "constant"])
def test_what_keras_may_take_for_a_bias_of_the_last_axis_holds_its_channels(way):
    """With as many channels as places, TensorFlow adds it along the channels."""

    def build(seed):
        x = keras.Input((3, 4))
        h = layers.EinsumDense("btd,de->bte", (3, 6), bias_axes="t" if way == "einsum" else None, name="odd")(x)
        h = h if way == "einsum" else h + np.arange(3, dtype="float32")[:, None]
        network = keras.Model(x, layers.Dense(2)(layers.Dense(4, name="free")(h)))
        randomize(network, seed)
        return network

    with pytest.warns(kmerge.UnfollowedLayerWarning, match="to the last axis if that has"):
        cut = kmerge.prune(build(0), "magnitude", budget=0.8)
    assert cut.get_layer("odd").kernel.shape == (4, 6) and list(checks.selectable(build(0))) == ["free"]


def test_a_width_at_which_a_layer_cannot_be_followed_is_refused():
    x = keras.Input((4, 3))
    h = layers.EinsumDense("btc,ts->bsc", (4, 5), bias_axes="sc", name="places")(layers.Dense(5, name="before")(x))
    network = keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))
    assert kmerge.select(network, {"before": 2}).get_layer("places").bias.shape == (4, 2)
    with pytest.raises(kmerge.UnsupportedLayerError, match=r"places.*array of shape \(4, 1\)"):
        kmerge.select(network, {"before": 1})  # leaves a bias of shape (4, 1)
