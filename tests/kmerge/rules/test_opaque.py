"""Layers that run as they are: once for each model in `concatenate`, on channels that stay."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent
from tests.models import Entry, every, example_inputs, randomize

OPAQUE: dict[str, Entry] = {}


def model(*final: str, **flags: bool):
    def register(build):
        OPAQUE[build.__name__] = Entry(build.__name__, build, final or ("linear",), leaves_others=True, **flags)
        return OPAQUE[build.__name__]

    return register


@model("softmax")
def lstm_on_the_input():
    x = keras.Input((None, 3))
    h = layers.Dense(5, activation="relu")(layers.LSTM(4)(x))
    return keras.Model(x, layers.Dense(3, activation="softmax")(h))


@model()
def recurrent_stack():
    x = keras.Input((6, 3))
    h = layers.GRU(5, return_sequences=True)(layers.Dense(4, activation="relu")(x))
    h = layers.Dense(6, activation="relu")(h)
    h = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True))(layers.Dense(4)(h))
    h = layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])(h)
    return keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(h)))


@model("linear", "linear")
def encoder_and_decoder():
    """States pass from one layer to the other; the sequence is added to what was read, and is an output too."""
    source, target = keras.Input((5, 3)), keras.Input((4, 2))
    read = layers.Dense(4, activation="tanh")(source)
    seen, *states = layers.LSTM(4, return_sequences=True, return_state=True)(read)
    told = layers.LSTM(4, return_sequences=True)(layers.Dense(3)(target), initial_state=states)
    both = layers.Concatenate()([layers.GlobalAveragePooling1D()(layers.Add()([seen, read])), layers.Flatten()(told)])
    return keras.Model([source, target], [layers.Dense(2)(layers.Dense(6, activation="relu")(both)), told])


@model()
def shared_in_a_nested_model():
    x = keras.Input((5, 4))
    inner = keras.Model(
        x, layers.Bidirectional(layers.LSTM(3), merge_mode="sum")(layers.Dense(4, activation="relu")(x))
    )
    left, right = keras.Input((5, 4)), keras.Input((5, 4))
    h = layers.Subtract()([inner(left), inner(right)])
    return keras.Model([left, right], layers.Dense(1)(layers.Dense(6, activation="relu")(h)))


@model()
def images_in_time():
    x = keras.Input((3, 6, 6, 2))
    h = layers.TimeDistributed(layers.Conv2D(3, 3, activation="relu"))(x)
    h = layers.BatchNormalization()(layers.ConvLSTM2D(4, 3)(h))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1, activation="relu")(h))))


@model()
def recurrent_output():
    x = keras.Input((5, 3))
    return keras.Model(x, layers.LSTM(2)(layers.Dense(4, activation="relu")(x)))


every_model = every(OPAQUE)


@every_model
def test_concatenate_is_the_mean_of_the_logits(entry):
    checks.check_concatenate(entry, family(entry), concatenated(entry))


@every(OPAQUE, ["recurrent_stack", "shared_in_a_nested_model"])
def test_concatenate_three(entry):
    checks.check_concatenate(entry, family(entry, 3), concatenated(entry, 3))


@functools.cache
def moved(entry):
    """The concatenated networks by `check_permute`."""
    return checks.check_permute(concatenated(entry))


@every_model
def test_other_spaces_permute_select_and_grow(entry):
    assert halved(entry) is not grown(entry)
    big = concatenated(entry)
    checks.check_select_commutes(big, moved(entry), 0.5)
    checks.check_grow(big)


@every_model
def test_a_concatenated_model_concatenates_again(entry):
    big, inputs = concatenated(entry), example_inputs(parent(entry, 0))
    again = kmerge.concatenate(big, kmerge.concatenate(parent(entry, 2), parent(entry, 3)))
    each = [checks.logits(network, inputs, entry.final) for network in family(entry, 4)]
    means = [np.mean(values, axis=0) for values in zip(*each, strict=True)]
    checks.assert_close(checks.logits(again, inputs, entry.final), means, 1e-5)


@every_model
def test_what_it_reads_and_makes_says_why_it_stays(entry):
    spaces = kmerge.channel_spaces(parent(entry, 0))
    fixed = [space for space in spaces.values() if "runs as it is" in space.reason]
    assert fixed and not any(space.selectable for space in fixed)
    with pytest.raises(kmerge.InvalidArgumentError, match="runs as it is, on all its channels"):
        kmerge.select(parent(entry, 0), {fixed[0].name: 1})


@pytest.mark.parametrize("name", ["lstm_on_the_input", "recurrent_stack", "images_in_time"])
def test_merging_different_ones_is_refused_with_the_ways_out(name):
    with pytest.raises(kmerge.UnsupportedLayerError, match="(?s)runs as it is.*equal weights.*register.*concatenate"):
        kmerge.merge(*family(OPAQUE[name]))


def test_merging_around_a_common_one_works():
    """Two heads on one frozen encoder."""
    entry = OPAQUE["lstm_on_the_input"]
    first, second = (entry(seed) for seed in (5, 6))
    second.layers[1].set_weights(first.layers[1].get_weights())
    inputs = example_inputs(first)
    with pytest.warns(UserWarning, match="averaged"):
        big = kmerge.merge(first, second, gates="open")
    mean = np.mean([checks.logits(network, inputs, entry.final)[0] for network in (first, second)], axis=0)
    checks.assert_close(checks.logits(big, inputs, entry.final), [mean], 1e-5)
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(np.arange(gate.units) % 2, 20.0, -20.0).astype("float32"))
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


def test_every_rewritten_model_loads_without_kmerge(tmp_path):
    saved = {f"{entry.name}-concatenate": concatenated(entry) for entry in OPAQUE.values()}
    saved |= {f"{entry.name}-permute": moved(entry) for entry in OPAQUE.values()}
    saved |= {f"{entry.name}-select": halved(entry) for entry in OPAQUE.values()}
    checks.check_saves(saved, tmp_path)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        entry = OPAQUE["encoder_and_decoder"]
        parents = [entry(seed) for seed in range(2)]
        big, inputs = kmerge.concatenate(*parents), example_inputs(parents[0])
    finally:
        keras.config.set_dtype_policy("float32")
    each = [checks.outputs(network, inputs) for network in parents]
    checks.assert_close(checks.outputs(big, inputs), [np.mean(v, axis=0) for v in zip(*each, strict=True)], 5e-2)


@keras.saving.register_keras_serializable("tests")
class Attend(layers.Layer):
    """Attends over all channels together: no rule of a unit holds here."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1], shape[-1]), name="weight")

    def call(self, x):
        return ops.softmax(ops.matmul(x, self.weight), axis=-1) * x


def custom(seed: int) -> keras.Model:
    x = keras.Input((3,))
    h = Attend(name="culprit")(layers.Dense(4, activation="relu", name="before")(x))
    network = keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu", name="behind")(h)))
    randomize(network, seed)
    return network


def test_a_layer_of_ones_own_runs_as_it_is_once_it_is_registered(monkeypatch):
    models, inputs = [custom(0), custom(1)], [np.random.default_rng(0).normal(size=(6, 3)).astype("float32")]
    with pytest.raises(kmerge.UnsupportedLayerError, match=r"culprit.*Attend.*no rule.*register_rule.*OpaqueRule\(\)"):
        kmerge.concatenate(*models)
    monkeypatch.setattr("kmerge.rules.rule.RULES", rules := dict(kmerge.rules.rule.RULES))
    monkeypatch.setattr("kmerge.rules.lookup.RULES", rules)
    kmerge.register_rule(Attend, kmerge.OpaqueRule())
    assert list(checks.selectable(models[0])) == ["behind"]
    big = kmerge.concatenate(*models)
    mean = np.mean([checks.outputs(network, inputs)[0] for network in models], axis=0)
    checks.assert_close(checks.outputs(big, inputs), [mean], 1e-5)
    with pytest.raises(kmerge.UnsupportedLayerError, match="culprit.*runs as it is"):
        kmerge.merge(*models)


def test_stateful_layers_are_refused():
    x = keras.Input((5, 3), batch_size=2)
    network = keras.Model(x, layers.Dense(1)(layers.GRU(4, stateful=True, name="culprit")(x)))
    with pytest.raises(kmerge.UnsupportedLayerError, match="culprit.*stateful=False"):
        kmerge.channel_spaces(network)


def test_a_lambda_is_refused_with_advice():
    x = keras.Input((4,))
    network = keras.Model(x, layers.Dense(1)(layers.Lambda(lambda y: 2 * y, name="culprit")(layers.Dense(3)(x))))
    with pytest.raises(kmerge.UnsupportedLayerError, match=r"culprit.*Lambda.*cannot see.*keras\.ops"):
        kmerge.concatenate(network, network)


def test_a_mask_goes_to_each_of_them():
    def build(seed):
        x = keras.Input((6,), dtype="int32")
        h = layers.LSTM(4)(layers.Embedding(9, 4, mask_zero=True)(x))
        network = keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(h)))
        randomize(network, seed)
        return network

    networks, tokens = [build(0), build(1)], np.array([[3, 1, 0, 0, 0, 0], [1, 2, 8, 4, 5, 6]])
    mean = np.mean([checks.outputs(network, [tokens])[0] for network in networks], axis=0)
    checks.assert_close(checks.outputs(kmerge.concatenate(*networks), [tokens]), [mean], 1e-5)
