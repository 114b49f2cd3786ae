"""Functions along axes: over places they pass channels on, and a sum or mean over channels is a Dense layer of ones."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import assert_close, assert_spaces, outputs, selectable
from tests.kmerge.rules import operation_checks
from tests.models import Entry, every, example_inputs

PASS: dict[str, Entry] = {}
SUMS: dict[str, Entry] = {}


def model(table: dict, *final: str):
    def register(build):
        table[build.__name__] = Entry(build.__name__, build, final or ("linear",), leaves_others=True)
        return build

    return register


def hidden(x, units: int = 6, **options):
    return layers.Dense(units, activation="relu", **options)(x)


@model(PASS)
def softmax_over_time():
    x = keras.Input((7, 4))
    h = layers.Conv1D(6, 3)(x)
    return keras.Model(x, layers.Dense(2)(ops.sum(h * ops.softmax(layers.Dense(1)(h), axis=1), axis=1)))


@model(PASS)
def softmaxes_of_layers():
    x = keras.Input((5, 4))
    mask = keras.Input((5, 1), dtype="bool")
    h = layers.Softmax(axis=1)(layers.Dense(6)(x), mask=ops.cast(mask, "bool"))
    turned = layers.Permute((2, 1))(layers.Dense(6)(x))
    turned = layers.Activation("softmax")(turned) + layers.Activation("log_softmax")(turned)
    return keras.Model([x, mask], layers.Dense(2)(layers.Flatten()(h * layers.Permute((2, 1))(turned))))


@model(PASS)
def maxout():
    x = keras.Input((4,))
    h = ops.max(layers.Reshape((6, 3))(layers.Dense(18)(x)), axis=-1) * layers.Dense(6, activation="sigmoid")(x)
    pieces = ops.reshape(layers.Dense(10)(h), (-1, 5, 2))
    return keras.Model(x, layers.Dense(2)(ops.max(pieces, axis=2) - ops.var(pieces, axis=(2,))))


@model(PASS)
def along_places():
    x = keras.Input((5, 4))
    h = hidden(x)
    h = ops.flip(ops.cumsum(h, axis=1), axis=1) + ops.roll(ops.sort(h, axis=1), 2, axis=1) * ops.normalize(h, axis=1)
    h = ops.diff(h, axis=1) + ops.cumprod(h[:, 1:], axis=-2)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model(PASS)
def reductions_of_places():
    x = keras.Input((5, 4))
    h = hidden(x)
    found = [
        ops.logsumexp(h, axis=1),
        ops.norm(h, axis=1),
        ops.std(h, axis=1),
        ops.prod(h, axis=-2),
        ops.median(h, axis=1),
    ]
    found += [ops.cast(ops.any(h > 1, axis=1), "float32"), ops.cast(ops.count_nonzero(h, axis=1), "float32")]
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()(found)))


@model(PASS, "softmax")
def softmax_at_the_end():
    x = keras.Input((4,))
    return keras.Model(x, ops.softmax(layers.Dense(3)(hidden(x)), axis=-1))


@model(SUMS)
def sum_over_channels():
    x, y, embed = keras.Input((4,)), keras.Input((4,)), layers.Dense(6)
    return keras.Model([x, y], layers.Dense(1)(ops.sum(ops.square(embed(x) - embed(y)), axis=-1, keepdims=True)))


@model(SUMS)
def mean_over_channels():
    x = keras.Input((6, 6, 3))
    h = layers.Conv2D(6, 3, activation="relu")(x)
    attention = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(ops.mean(h, axis=-1, keepdims=True))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(h * attention)))


@model(SUMS)
def largest_of_channels():
    """CBAM: of what a ReLU makes, times a sigmoid, in and behind a nested model."""
    x, inner = keras.Input((6, 6, 3)), keras.Input((6, 6, 6))
    weighted = layers.Multiply()([ops.maximum(inner, 0.0) * 2.0, ops.sigmoid(inner)])
    h = keras.Model(inner, layers.Concatenate()([weighted, weighted]), name="weighted")(layers.Conv2D(6, 1)(x))
    found = [ops.max(layers.Dropout(0.1)(h), axis=-1, keepdims=True), ops.mean(h, axis=-1, keepdims=True)]
    attention = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(layers.Concatenate()(found))
    h = layers.MaxPooling2D(2)(layers.Conv2D(5, 1, activation="relu")(h * attention))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(ops.amax(h, axis=-1))))


@model(SUMS)
def dueling_head():
    x = keras.Input((4,))
    h = hidden(x)
    advantages = layers.Dense(3)(h)
    return keras.Model(x, layers.Dense(1)(h) + advantages - ops.mean(advantages, axis=1, keepdims=True))


@model(SUMS)
def places_are_left():
    x = keras.Input((5, 3))
    return keras.Model(x, layers.Dense(2)(hidden(ops.mean(hidden(x), axis=-1), 4)))


@model(SUMS)
def what_stands_several_times():
    x = keras.Input((5, 3))
    h = layers.Flatten()(hidden(x))
    return keras.Model(
        x, layers.Dense(2)(layers.Concatenate()([ops.sum(h, -1, keepdims=True), ops.mean(h, -1, keepdims=True)]))
    )


@model(SUMS, "linear", "linear", "linear")
def at_the_end():
    x = keras.Input((5, 3))
    h = hidden(x)
    return keras.Model(
        x, [ops.sum(h, axis=-1), ops.norm(h, axis=-1, keepdims=True), ops.mean(h, axis=(1, 2), keepdims=True)]
    )


@model(SUMS)
def of_an_input_and_in_a_nested_model():
    x, y, inner = keras.Input((4,)), keras.Input((4,)), keras.Input((6,))
    centered = keras.Model(inner, inner - ops.mean(inner, axis=-1, keepdims=True), name="centered")
    h = centered(hidden(x - ops.mean(x, axis=-1, keepdims=True))) * centered(hidden(y))
    return keras.Model([x, y], layers.Dense(2)(h))


ALL = PASS | SUMS


@every(ALL)
def test_it_is_followed_and_permutes(entry):
    network = operation_checks.family(entry, 1)[0]
    with kmerge.strict():
        assert selectable(network)
    checks.check_permute(network)
    checks.check_select_everything(network)


@every(ALL, on_both=("sum_over_channels", "mean_over_channels"))
def test_concatenate_is_the_mean(entry):
    big = operation_checks.check_concatenate(entry, 2)
    checks.check_select_commutes(big, checks.check_permute(big), 0.7)


@every(ALL, ["softmaxes_of_layers", "mean_over_channels", "at_the_end", "of_an_input_and_in_a_nested_model"])
def test_concatenate_three_and_again(entry):
    operation_checks.check_concatenate(entry, 3)
    operation_checks.check_again(entry)


@every(ALL, on_both=("sum_over_channels", "mean_over_channels"))
def test_merge_and_compress(entry, tmp_path):
    operation_checks.check_merge(entry, tmp_path)


@every(
    {name: entry for name, entry in SUMS.items() if name not in ("dueling_head", "of_an_input_and_in_a_nested_model")}
)
def test_a_unit_that_was_zero_can_go(entry):
    """It counts in no sum; and a mean goes by the channels that there were."""
    network = entry(5)
    spaces = [s for s in kmerge.channel_spaces(network).selectable if s.adders]
    assert spaces
    for space in spaces:
        for owner in space.owners:
            for weight in network.get_layer(owner).weights:
                values = keras.ops.convert_to_numpy(weight).copy()
                values[..., 1] = 0.0
                weight.assign(values)
    keep = {space.name: np.delete(np.arange(space.size), 1) for space in spaces}
    smaller, inputs = kmerge.select(network, keep), example_inputs(network)
    assert_close(outputs(smaller, inputs), outputs(network, inputs), 1e-6)
    assert_spaces(smaller, {name: len(units) for name, units in keep.items()} | {
        s.name: s.size for s in kmerge.channel_spaces(network).selectable if not s.adders})  # fmt: skip


@every(PASS)
def test_growing_changes_nothing(entry):
    checks.check_grow(operation_checks.family(entry, 1)[0])


@pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning")
def test_one_number_for_each_example():
    """It has no channel axis, so that those of several models are stacked."""

    def build():
        x = keras.Input((5, 3))
        return keras.Model(x, ops.mean(hidden(x), axis=(1, 2)))

    parents, inputs = [build(), build()], [np.random.default_rng(0).normal(size=(9, 5, 3)).astype("float32")]
    mean = np.mean([outputs(parent, inputs)[0] for parent in parents], axis=0)
    assert_close(outputs(kmerge.concatenate(*parents), inputs), [mean], 1e-6)
    assert len(selectable(parents[0])) == 1


def test_what_is_summed_cannot_grow():
    network = operation_checks.family(ALL["places_are_left"], 1)[0]
    summed, free = kmerge.channel_spaces(network).selectable
    with pytest.raises(kmerge.UnsupportedLayerError, match="mean.*without weights.*new one would change.*Grow other"):
        kmerge.grow(network, {summed.name: 1})
    inputs = example_inputs(network)
    assert_close(outputs(kmerge.grow(network, {free.name: 2}), inputs), outputs(network, inputs), 1e-6)


def test_a_joined_model_keeps_some_of_each_sum():
    big = kmerge.concatenate(*operation_checks.family(ALL["sum_over_channels"], 2))
    (name,) = selectable(big)
    with pytest.raises(kmerge.UnsupportedLayerError, match="none of the channels that it reads are left"):
        kmerge.select(big, {name: 6})


def test_gates_that_are_not_decided_are_told_of():
    big = kmerge.gate(operation_checks.family(ALL["mean_over_channels"], 1)[0], 0.5, gates=0.5)
    for gate in kmerge.gates_of(big):
        gate.loc.assign(keras.ops.convert_to_numpy(gate.loc) + 0.1)
    with pytest.warns(UserWarning, match="mean.*normalize or add up channels"):
        kmerge.compress(big)


def _largest_of(change):
    """The largest of channels of which some may be negative, whatever stands behind the ReLU."""
    return lambda h, **options: ops.max(change(h), **options)


def _times_some_negative(combine):
    """Channels times what is not negative, but for an array."""
    return lambda h: h * combine([layers.Dense(1, activation="relu")(h), -np.ones((4, 1), "float32")])


LARGEST = [
    _largest_of(change)
    for change in (
        lambda h: h - 1.0,
        lambda h: -1.0 * h,
        lambda h: h * np.linspace(-1, 1, 6, dtype="float32"),
        lambda h: h - ops.square(h),
        layers.LayerNormalization(),
        layers.ReLU(negative_slope=0.5),
        layers.Activation("silu"),
        _times_some_negative(lambda both: ops.sum(layers.Concatenate()(both), axis=-1, keepdims=True)),
        _times_some_negative(lambda both: ops.sum(ops.stack(both), axis=0)),
        _times_some_negative(lambda both: layers.Add()([both[0], *both])),
    )
]


@pytest.mark.parametrize("function", [ops.var, ops.logsumexp, ops.prod, ops.min, *LARGEST])
def test_other_reductions_of_channels_run_as_they_are(function):
    x = keras.Input((4,))
    h = hidden(x, name="before")
    network = keras.Model(x, layers.Dense(2)(hidden(function(h, axis=-1, keepdims=True), name="behind")))
    assert list(selectable(network)) == ["behind"]
    assert any("that of the channels" in space.reason for space in kmerge.channel_spaces(network).values())


@pytest.mark.parametrize("function", [ops.softmax, ops.cumsum, ops.sort, ops.flip, ops.normalize])
def test_along_channels_they_run_as_they_are(function):
    x = keras.Input((4,))
    network = keras.Model(x, layers.Dense(2)(function(hidden(x), axis=-1)))
    assert not selectable(network)


def test_one_that_ends_the_model_is_not_moved_behind_the_mean():
    """Comparisons are not linear, whatever they compare with."""
    x = keras.Input((4,))
    network = lambda: keras.Model(x, ops.cast(layers.Dense(3)(x) > 0.2, "float32"))  # noqa: E731
    parents, inputs = [network(), network()], [np.random.default_rng(0).normal(size=(9, 4)).astype("float32")]
    mean = np.mean([outputs(parent, inputs)[0] for parent in parents], axis=0)
    assert_close(outputs(kmerge.concatenate(*parents), inputs), [mean], 1e-6)


def test_every_rewritten_model_loads_without_kmerge(tmp_path):
    joined = {name: kmerge.concatenate(*operation_checks.family(entry, 2)) for name, entry in SUMS.items()}
    checks.check_saves(joined, tmp_path)
