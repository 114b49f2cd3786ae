"""Layers that normalize over units: statistics per source in `concatenate`, jointly over open gates in `merge`."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.gates import normalization as gated_normalization
from tests import checks
from tests.checks import concatenated, family, grown, halved
from tests.kmerge.merging.test_merging import assert_same_architecture, harden
from tests.loading import run_elsewhere
from tests.models import JIT, Entry, every, example_inputs, randomize
from tests.programs import without_programs

# Apart from ZOO: with open gates these are not the mean of their parents, and `merge` warns of that.
NORMALIZED: dict[str, Entry] = {}


def model(*final: str, **flags: bool):
    def register(build):
        NORMALIZED[build.__name__] = Entry(build.__name__, build, final or ("linear",), **flags)
        return NORMALIZED[build.__name__]

    return register


@model()
def plain():
    x = keras.Input((5,))
    h = layers.LayerNormalization()(layers.Dense(6, activation="relu")(x))
    return keras.Model(x, layers.Dense(3)(h))


@model("softmax")
def residual_stream_of_unknown_length():
    """The block of a transformer's feed-forward half; its stream is normalized at each block and at the end."""
    x = keras.Input((None, 4))
    h = layers.Dense(6)(x)
    for _ in range(2):
        g = layers.Dense(8, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(h))
        h = layers.Add()([h, layers.Dense(6)(g)])
    h = layers.GlobalAveragePooling1D()(layers.RMSNormalization()(h))
    return keras.Model(x, layers.Dense(3, activation="softmax")(h))


@model()
def convnext():
    """keras.applications' blocks, one of each kind, with their own LayerScale and StochasticDepth, nested as there."""
    from keras.src.applications import convnext

    x = keras.Input((16, 16, 3))
    stem = [layers.Conv2D(4, 4, strides=4), layers.LayerNormalization(epsilon=1e-6)]
    h = keras.Sequential([keras.Input((16, 16, 3)), *stem])(x)
    h = convnext.ConvNeXtBlock(4, drop_path_rate=0.1, name="first")(h)
    h = convnext.ConvNeXtBlock(4, drop_path_rate=0.1, name="second")(h)
    down = [layers.LayerNormalization(epsilon=1e-6), layers.Conv2D(6, 2, strides=2)]
    h = convnext.ConvNeXtBlock(6, name="third")(keras.Sequential([keras.Input((4, 4, 4)), *down])(h))
    h = layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(h))
    return keras.Model(x, layers.Dense(3)(h))


@model()
def shared_and_nested():
    """One normalization that is called twice in a nested model that is called twice."""
    x = keras.Input((4,))
    norm, dense = layers.LayerNormalization(), layers.Dense(5, activation="tanh")
    h = norm(dense(layers.Dense(4)(x)))
    encoder = keras.Model(x, layers.Add()([h, norm(layers.Dense(5)(h))]))
    left, right = keras.Input((4,)), keras.Input((4,))
    both = layers.Concatenate()([encoder(left), layers.UnitNormalization()(encoder(right))])
    return keras.Model([left, right], layers.Dense(2)(both))


@model("linear", "linear", repeats_input=True, leaves_others=True)
def inputs_and_outputs():
    """Normalized channels of an input, of an output, and of two inputs and a layer together."""
    image, table = keras.Input((6, 6, 2)), keras.Input((3,))
    h = layers.Conv2D(4, 3, activation="relu")(layers.LayerNormalization()(image))
    h = layers.Concatenate()([layers.GlobalAveragePooling2D()(h), layers.Dense(5, activation="relu")(table), table])
    h = layers.LayerNormalization()(h)
    return keras.Model([image, table], [layers.Dense(2)(h), layers.LayerNormalization()(layers.Dense(4)(h))])


@model()
def over_space_and_channels():
    x = keras.Input((5, 5, 2))
    h = layers.LayerNormalization(axis=[1, 2, 3])(layers.Conv2D(4, 3)(x))
    h = layers.LayerNormalization(axis=[-2, -1], scale=False)(layers.Conv2D(4, 1, activation="relu")(h))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(h)))


every_model = every(NORMALIZED)
# The others normalize a model's own channels too, of which there is one copy.
free = every(NORMALIZED, [name for name, entry in NORMALIZED.items() if not entry.leaves_others])


def merged(entry: Entry, **options) -> keras.Model:
    with pytest.warns(UserWarning, match="normalize over the open units of all parents together"):
        return kmerge.merge(*family(entry), **options)


@every_model
def test_concatenate_is_the_mean_of_the_logits(entry):
    checks.check_concatenate(entry, family(entry), concatenated(entry))


@every_model
def test_selecting_one_parent_gives_that_parent(entry):
    checks.check_select_parent(entry, family(entry), concatenated(entry), 1)


@every(NORMALIZED, ["plain", "shared_and_nested", "over_space_and_channels"])
def test_three_concatenate_and_give_one_back(entry):
    checks.check_concatenate(entry, family(entry, 3), concatenated(entry, 3))
    checks.check_select_parent(entry, family(entry, 3), concatenated(entry, 3), 1)


@every_model
def test_one_source_permutes_selects_and_grows(entry):
    assert halved(entry) is not grown(entry)
    checks.check_select_everything(family(entry)[0])


@checks.once
def moved(entry: Entry) -> keras.Model:
    """The concatenated networks by `check_permute`."""
    return checks.check_permute(concatenated(entry), seed=1)


@checks.once
def half_of(entry: Entry) -> keras.Model:
    """The first half of the units of `moved`, sources mixed."""
    return kmerge.select(moved(entry), {name: size // 2 for name, size in checks.selectable(moved(entry)).items()})


@every_model
def test_several_sources_permute_select_and_concatenate_again(entry):
    """A second walk finds the same spaces, whether sources stand in a row or mixed, with as many of each or not."""
    big, half, inputs = concatenated(entry), half_of(entry), example_inputs(concatenated(entry))
    checks.assert_spaces(half, checks.selectable(family(entry)[0]))
    checks.assert_same_interface(half, big)
    mixed = kmerge.permute(half, checks.random_orders(half, 2))
    checks.assert_close(checks.outputs(mixed, inputs), checks.outputs(half, inputs), 1e-5)
    again = kmerge.concatenate(big, big)
    checks.assert_close(checks.logits(again, inputs, entry.final), checks.logits(big, inputs, entry.final), 1e-5)


@pytest.mark.parametrize("sources", [1, 2])
def test_select_normalizes_over_what_is_left(sources):
    """Against NumPy: units 0 and 3 of the first parent and 1, 2, 4 of the second, each normalized with its own."""
    entry, kept = NORMALIZED["plain"], [[0, 3], [1, 2, 4]][:sources]
    parents = family(entry)[:sources]
    both = kmerge.concatenate(*parents) if sources == 2 else parents[0]
    (name,) = checks.selectable(both)
    smaller = kmerge.select(both, {name: [6 * s + unit for s, units in enumerate(kept) for unit in units]})
    (x,) = example_inputs(both)
    expected = 0
    for parent, units in zip(parents, kept, strict=True):
        (w, b), (gamma, beta), (head, bias) = (layer.get_weights() for layer in parent.layers[1:])
        h = np.maximum(x @ w + b, 0)[:, units]
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-3)
        expected = expected + ((h * gamma[units] + beta[units]) @ head[units] + bias) / sources
    checks.assert_close(checks.outputs(smaller, [x]), [expected], 1e-5)


@functools.cache
def compressed(entry: Entry) -> tuple[keras.Model, keras.Model]:
    """The family merged with hard gates, and what is left of it."""
    big = merged(entry)
    harden(big)
    return big, checks.check_arguments_unchanged([big], kmerge.compress)


@free
def test_hard_gates_compress_exactly(entry):
    big, small = compressed(entry)
    inputs = example_inputs(big)
    checks.assert_close(checks.logits(small, inputs, entry.final), checks.logits(big, inputs, entry.final), 1e-5)
    assert_same_architecture(small, family(entry)[0])


@free
@pytest.mark.filterwarnings("ignore:Models 1 and 2 are one object")
def test_one_model_twice_is_that_model_however_its_units_are_normalized(entry):
    """Joint statistics of two equal halves are those of each; a sum of squares is not, so UnitNormalization stands out."""
    first, inputs = family(entry)[0], example_inputs(family(entry)[0])
    with pytest.warns(UserWarning, match="normalize over"):
        big = kmerge.merge(first, first, gates="open")
    expected = checks.logits(first, inputs, entry.final)
    if entry.name == "shared_and_nested":
        assert checks.relative_error(checks.logits(big, inputs, entry.final)[0], expected[0]) > 1e-3
    else:
        checks.assert_close(checks.logits(big, inputs, entry.final), expected, 1e-5)


def test_gates_weigh_units():
    """y = x - sum(g x) / sum(g), over the standard deviation that is weighted alike, for each example's own gates."""
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    gates = np.array([[1, 1, 0, 0, 0.5], [0, 0.2, 1, 1, 1], [1, 0, 0, 0, 0]], "float32")[:, None]
    layer = gated_normalization.GatedLayerNormalization(center=False)
    y = ops.convert_to_numpy(layer([x, gates]))
    mean = np.average(x, axis=-1, weights=np.broadcast_to(gates, x.shape))[..., None]
    variance = np.average((x - mean) ** 2, axis=-1, weights=np.broadcast_to(gates, x.shape))[..., None]
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), rtol=1e-4, atol=1e-5)


KINDS = [
    layers.LayerNormalization(), layers.LayerNormalization(axis=[1, 2]), layers.LayerNormalization(axis=[2]),
    layers.RMSNormalization(), layers.RMSNormalization(axis=[1, 2]), layers.UnitNormalization(),
    layers.UnitNormalization(axis=[1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("layer", KINDS, ids=lambda layer: f"{type(layer).__name__}{layer.axis}")
def test_open_gates_normalize_as_keras_does(layer):
    x = np.random.default_rng(0).normal(2, 3, size=(3, 4, 5)).astype("float32")
    expected, twin = (
        layer(x),
        getattr(gated_normalization, f"Gated{type(layer).__name__}").from_config(layer.get_config()),
    )
    twin.build([x.shape, (3, 1, 5)])
    values = [np.random.default_rng(1).normal(size=w.shape) for w in layer.weights]
    layer.set_weights(values), twin.set_weights(values)
    expected = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(ops.convert_to_numpy(twin([x, np.ones((1, 1, 5), "float32")])), expected, 1e-4, 1e-5)


def test_undecided_gates_are_reported_with_the_change():
    """No weight of the student can hold a gate of .5 that a mean was weighted with."""
    entry = NORMALIZED["plain"]
    big = merged(entry)
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(np.arange(gate.units) < gate.units // 2, 20.0, -2.0).astype("float32"))
    (x,) = example_inputs(big)
    with pytest.warns(UserWarning, match=r"layer_normalization\S* normalize.*up to 0\.043 .*pass data="):
        small = kmerge.compress(big)
    change = checks.relative_error(checks.outputs(small, [x])[0], checks.outputs(big, [x])[0])
    assert change > 1e-4
    with pytest.warns(UserWarning, match=r"changes the outputs: by \d\.\de-\d\d of their largest"):
        kmerge.compress(big, data=x)
    harden(big)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kmerge.compress(big)


def test_a_big_student_trains_until_its_cut_is_exact():
    """With the default pressure the gates end at 0 and 1, so that `compress` changes nothing and does not warn."""
    entry = NORMALIZED["residual_stream_of_unknown_length"]
    big = merged(entry)
    optimizer = kmerge.gate_optimizer(keras.optimizers.Adam(1e-3))
    big.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=JIT)
    (x,) = example_inputs(big, batch=32)
    with without_programs():
        big.fit(x, np.arange(32) % 3, batch_size=16, epochs=4, verbose=0, callbacks=[kmerge.GatePressure()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        small = kmerge.compress(big)
    checks.assert_close(checks.outputs(small, [x]), checks.outputs(big, [x]), 1e-5)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        entry = NORMALIZED["convnext"]
        parents = [entry(seed) for seed in range(2)]
        big, inputs = kmerge.concatenate(*parents), example_inputs(parents[0])
        with pytest.warns(UserWarning, match="normalize"):
            gated = kmerge.merge(*parents)
    finally:
        keras.config.set_dtype_policy("float32")
    means = [np.mean([checks.outputs(parent, inputs)[0] for parent in parents], axis=0)]
    checks.assert_close(checks.outputs(big, inputs), means, 5e-2)
    harden(gated)
    checks.assert_close(checks.outputs(kmerge.compress(gated), inputs), checks.outputs(gated, inputs), 5e-2)


def test_every_rewritten_model_loads_without_kmerge(tmp_path):
    saved = {}
    for entry in NORMALIZED.values():
        saved |= {f"{entry.name}-{made.__name__}": made(entry) for made in (concatenated, half_of)}
        if not entry.leaves_others:
            saved[f"{entry.name}-compressed"] = compressed(entry)[1]
    checks.check_saves(saved, tmp_path)


_AGAIN = """
import sys, keras, kmerge
big, moved, gated = (keras.models.load_model(path) for path in sys.argv[1:4])
spaces = kmerge.channel_spaces(big).selectable
kmerge.permute(big, {s.name: list(range(s.size))[::-1] for s in spaces}).save(sys.argv[2])
kmerge.compress(gated).save(sys.argv[3])
"""


def test_loaded_models_can_be_rewritten_and_compressed_in_another_process(tmp_path):
    """Where automatic names start anew: those of a loaded model's layers and operations may come again."""
    entry = NORMALIZED["convnext"]
    big, (gated, expected) = concatenated(entry), compressed(entry)
    paths = [str(tmp_path / f"{name}.keras") for name in ("big", "moved", "gated")]
    for path, item in zip(paths, (big, big, gated), strict=True):
        item.save(path)
    run_elsewhere(_AGAIN, *paths)
    inputs = example_inputs(big)
    moved, small = (keras.models.load_model(path) for path in paths[1:])
    checks.assert_close(checks.outputs(moved, inputs), checks.outputs(big, inputs), 1e-5)
    checks.assert_same_weights(small, expected)


def test_groups_of_something_else_than_channels_are_refused():
    x = keras.Input((6, 3))
    h = layers.GroupNormalization(2, axis=1, name="culprit")(layers.Dense(4)(x))
    network = keras.Model(x, layers.Dense(2)(h))
    words = "culprit.*axis.*channels lie on axis 2.*Use axis=2"
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match=words):
        kmerge.channel_spaces(network)


def masked(ends_in_a_sequence: bool, seed: int) -> keras.Model:
    x = keras.Input((6,), dtype="int32")
    h = layers.LayerNormalization()(layers.Embedding(9, 4, mask_zero=True)(x))
    h = h if ends_in_a_sequence else layers.GlobalAveragePooling1D()(h)
    network = keras.Model(x, layers.Dense(2, name="head")(h))
    randomize(network, seed)
    return network


def test_a_mask_goes_round_the_layers_of_each_source():
    networks, tokens = [masked(False, seed) for seed in range(2)], np.array([[3, 1, 0, 0, 0, 0], [1, 2, 8, 4, 5, 6]])
    both = kmerge.concatenate(*networks)
    mean = np.mean([checks.outputs(network, [tokens])[0] for network in networks], axis=0)
    checks.assert_close(checks.outputs(both, [tokens]), [mean], 1e-5)
    with pytest.warns(UserWarning, match="normalize"):
        big = kmerge.merge(*networks)
    harden(big)
    checks.assert_close(checks.outputs(kmerge.compress(big), [tokens]), checks.outputs(big, [tokens]), 1e-5)


def test_the_mask_of_an_output_is_not_lost_in_silence():
    """Losses read it."""
    network = masked(True, 0)
    with pytest.raises(kmerge.UnsupportedLayerError, match="output 0 of the model.*carries a mask"):
        kmerge.concatenate(network, network)
