"""Layers that run as they are: once for each model in `concatenate`, on channels that stay.

Here recurrent layers stand for such, as if nobody had written rules for them: they have parts, states and masks.
"""


import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.gates import GATED_RECURRENT
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent
from tests.models import Entry, every, example_inputs, randomize
from tests.programs import without_programs

OPAQUE: dict[str, Entry] = {}


@pytest.fixture(autouse=True)
def rules(monkeypatch):
    """The registered rules, for this test: recurrent layers run as they are."""
    found = dict(kmerge.rules.rule.RULES) | dict.fromkeys(GATED_RECURRENT, kmerge.OpaqueRule())
    monkeypatch.setattr("kmerge.rules.rule.RULES", found)
    monkeypatch.setattr("kmerge.rules.lookup.RULES", found)


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


@checks.once
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


@every(OPAQUE, ["lstm_on_the_input", "recurrent_stack", "shared_in_a_nested_model", "images_in_time"])
@pytest.mark.parametrize("sampling", ["example", "batch"])
def test_merge_holds_one_of_each_parent_and_compress_keeps_one_whole(entry, sampling, tmp_path):
    parents = family(entry)
    inputs = example_inputs(parents[0])
    with pytest.warns(UserWarning, match="one of each parent"):
        big = kmerge.merge(*parents, gates="open", sampling=sampling)
    each = [checks.logits(network, inputs, entry.final)[0] for network in parents]
    checks.assert_close(checks.logits(big, inputs, entry.final), [np.mean(each, axis=0)], 1e-5)
    for network, student in checks.students_of_one_parent(big, parents, tmp_path):
        kept = {w.path: np.asarray(w) for w in network.weights}
        opaque = [path for path in kept if any(part in path for part in ("lstm", "gru", "rnn", "time_distributed"))]
        by_name = dict(zip(kept, student.get_weights(), strict=True))
        assert opaque and all(np.array_equal(by_name[path], kept[path]) for path in opaque)


@pytest.mark.filterwarnings("ignore:The layers .* run as they are, so")
def test_gates_that_are_not_decided_are_told_of():
    big = kmerge.merge(*family(OPAQUE["recurrent_stack"]))
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.asarray(gate.loc) + 0.1)
    with pytest.warns(UserWarning, match=r"run as they are on channels.*away from the choice"):
        kmerge.compress(big)


def test_one_behind_which_the_model_ends_must_be_common():
    """An output has no gate, so there is one for all parents."""

    def build(seed):
        x = keras.Input((5, 3))
        h = layers.Dense(4)(layers.Dense(5, activation="relu", name="hidden")(x))
        network = keras.Model(x, layers.LSTM(2, name="last")(h))
        randomize(network, seed)
        return network

    first, second = build(0), build(1)
    with pytest.raises(kmerge.UnsupportedLayerError, match="(?s)last.*runs as it is.*equal weights.*register.*concatenate"):
        kmerge.merge(first, second)
    second.get_layer("last").set_weights(first.get_layer("last").get_weights())
    with pytest.warns(UserWarning, match="averaged there"):
        big = kmerge.merge(first, second)
    assert [gate.units for gate in kmerge.gates_of(big)] == [10]


def test_every_rewritten_model_loads_without_kmerge(tmp_path):
    saved = {f"{entry.name}-concatenate": concatenated(entry) for entry in OPAQUE.values()}
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


def test_a_layer_of_ones_own_runs_as_it_is_once_it_is_registered():
    models, inputs = [custom(0), custom(1)], [np.random.default_rng(0).normal(size=(6, 3)).astype("float32")]
    with pytest.warns(kmerge.OpenedLayerWarning, match="culprit.*Attend.*Register a rule for a layer that shall stay whole"):
        kmerge.concatenate(*models)
    kmerge.register_rule(Attend, kmerge.OpaqueRule())
    assert list(checks.selectable(models[0])) == ["behind"]
    big = kmerge.concatenate(*models)
    checks.assert_mean(big, models, inputs)


@keras.saving.register_keras_serializable("tests")
class Summing(layers.Layer):
    """Multiplies by the sum of its weights."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1],), name="weight")

    def call(self, x):
        return x * ops.sum(self.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gates_of_each_example_never_meet_a_weight():
    """A weight has no batch axis: its rows would be multiplied by the gates of as many examples."""

    def build(seed):
        x = keras.Input((3,))
        h = Summing(name="culprit")(layers.Dense(4, activation="relu")(x))
        network = keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(h)))
        randomize(network, seed)
        return network

    try:
        big = kmerge.merge(build(0), build(1))
    except kmerge.UnsupportedLayerError as error:
        assert "no batch axis" in str(error)
    else:
        gated = [call for call in kmerge.graph.Graph(big).calls if isinstance(call.operation, kmerge.ApplyGates)]
        assert gated and all(call.inputs[0].shape[0] is None for call in gated)


def _masked(end, seed):
    x = keras.Input((6,), dtype="int32")
    h = layers.Dense(5, activation="relu")(layers.Embedding(9, 4, mask_zero=True)(x))
    h = end()(layers.AdditiveAttention(name="culprit")([h, h]))
    network = keras.Model(x, layers.Dense(2)(layers.Dense(6, activation="relu")(h)))
    randomize(network, seed)
    return network


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("verb", [kmerge.concatenate, lambda *models: kmerge.merge(*models, gates="open")])
def test_a_mask_that_would_be_lost_is_handed_over_or_refused(verb):
    """What each of them reads are some of the channels, and a tensor of these carries no mask."""
    models = [_masked(layers.GlobalAveragePooling1D, seed) for seed in range(2)]  # whose mask is a tensor of the graph
    checks.assert_mean(verb(*models), models, [np.array([[1, 2, 3, 0, 0, 0], [4, 5, 0, 0, 0, 0], [1, 0, 2, 3, 0, 0]])])
    with pytest.raises(kmerge.UnsupportedLayerError, match="culprit.*mask that would be lost"):
        verb(*[_masked(layers.Flatten, seed) for seed in range(2)])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_kernel_of_an_opened_layer_is_gated_where_an_operation_reads_it():
    models, inputs = [custom(0), custom(1)], [np.random.default_rng(0).normal(size=(6, 3)).astype("float32")]
    big = kmerge.merge(*models, gates="open")
    checks.assert_mean(big, models, inputs)


class Weighted(layers.Layer):
    """x times the softmax of a weight."""

    def build(self, shape):
        self.share = self.add_weight(shape=(shape[-1],), name="share")

    def call(self, x):
        return x * ops.softmax(self.share)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gates_do_not_meet_a_weight_that_has_no_batch_axis():
    def build(seed):
        x = keras.Input((3,))
        h = Weighted()(layers.Dense(4, activation="relu")(x))
        network = keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(h)))
        randomize(network, seed)
        return network

    models = [build(0), build(1)]
    big, inputs = kmerge.merge(*models, gates="open", sampling="example"), example_inputs(models[0])
    checks.assert_mean(big, models, inputs)
    big.compile(kmerge.gate_optimizer(keras.optimizers.SGD(0.01)), "mse")
    with without_programs():
        history = big.fit(inputs[0], np.zeros((4, 2)), verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_layer_of_which_a_later_use_cannot_be_followed_runs_as_it_is_in_all():
    def build(seed):
        x, dense = keras.Input((6, 3)), layers.Dense(6, activation="tanh", name="shared")
        h = dense(layers.Dense(6, name="before")(x))
        g = layers.Permute((2, 1))(dense(layers.Permute((2, 1))(h)))  # over places: its units lie on the other axis
        h = layers.Dense(4, activation="relu", name="behind")(layers.Flatten()(layers.Add()([g, h])))
        network = keras.Model(x, layers.Dense(2)(h))
        randomize(network, seed)
        return network

    models = [build(0), build(1)]
    assert list(checks.selectable(models[0])) == ["behind"]
    inputs = example_inputs(models[0])
    checks.assert_mean(kmerge.concatenate(*models), models, inputs)


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
