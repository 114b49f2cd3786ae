"""Attention, embeddings and what stands around them: transformers under the contracts of every other network."""

import functools
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.layer_rules import channel, consumes, produces
from tests import attention_models, checks
from tests.attention_models import PatchEncoder, PositionEmbedding, TokenAndPositionEmbedding, block, text_encoder, vit
from tests.models import Entry, example_inputs, randomise
from tests.test_merging import assert_same_architecture, harden

NORMS = ("none", "batch")


# Rules as users write them.


class PositionRule(kmerge.Rule):
    def walk(self, site, x):
        x = site.hold(x)
        site.weight("positions", None, channel(x.units))
        return x


class TokenAndPositionRule(kmerge.Rule):
    def walk(self, site, x):
        site.fix(x, "reads them as places of a sequence")
        units = site.own(site.layer.width)
        site.weight("token_emb/embeddings", None, produces(units))
        site.weight("pos_emb/embeddings", None, produces(units))
        return site.output(units)

    def changes(self, site, inputs, outputs):
        return {"width": len(outputs[0].units)}


class PatchRule(TokenAndPositionRule):
    def walk(self, site, x):
        units = site.own(site.layer.width)
        site.weight("projection/kernel", consumes(site.consume(x)), produces(units))
        site.weight("projection/bias", produces(units))
        site.weight("position_embedding/embeddings", None, produces(units))
        return site.output(units)


kmerge.register_rule(PositionEmbedding, PositionRule())
kmerge.register_rule(TokenAndPositionEmbedding, TokenAndPositionRule())
kmerge.register_rule(PatchEncoder, PatchRule())


# The models.

CASES: dict[str, Entry] = {}


def case(build, name: str | None = None):
    name = name or build.__name__
    CASES[name] = Entry(name, build, ("linear",))
    return build


for norm in NORMS:
    case(functools.partial(vit, norm), f"vit-{norm}")
    case(functools.partial(text_encoder, norm, mask_zero=True), f"text-{norm}-before")
    case(functools.partial(text_encoder, norm, mask_zero=True, before=False), f"text-{norm}-after")
case(text_encoder, "text-without-a-mask")
case(functools.partial(text_encoder, mask_zero=True, use_causal_mask=True), "text-causal")


def _sequence(h):
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(h))


@case
def cross_attention():
    """Query, value and key of three widths, named out of order, and an output of another width than the query."""
    a, b, c = keras.Input((5, 3)), keras.Input((4, 3)), keras.Input((4, 2))
    query, value, key = layers.Dense(6)(a), layers.Dense(5)(b), layers.Dense(4)(c)
    attend = layers.MultiHeadAttention(3, 2, value_dim=3, output_shape=7, use_bias=False, dropout=0.1)
    return keras.Model([a, b, c], _sequence(attend(value=value, query=query, key=key)))


@case
def attention_on_the_inputs():
    x, mask = keras.Input((4, 3)), keras.Input((4, 4), dtype="int32")
    return keras.Model([x, mask], layers.MultiHeadAttention(2, 3)(x, x, attention_mask=ops.greater(mask, 0)))


@case
def shared_attention():
    attend = layers.MultiHeadAttention(2, 3)
    x = h = keras.Input((4, 3))
    for _ in range(2):
        h = layers.Dense(6, activation="relu")(attend(layers.Dense(6)(h), h if h is not x else layers.Dense(6)(h)))
    return keras.Model(x, _sequence(h))


@case
def attention_over_rows():
    """Four axes; every column attends for itself, and the heads make an output of two axes."""
    x = keras.Input((4, 3, 2))
    h = layers.Dense(6)(x)
    h = layers.MultiHeadAttention(2, 3, attention_axes=1, use_gate=True)(h, h)
    h = layers.MultiHeadAttention(2, 3, output_shape=(2, 5))(h, h)  # (batch, 4, 3, 2, 5)
    return keras.Model(x, layers.Dense(3)(ops.mean(layers.Activation("relu")(h), axis=(1, 2, 3))))


def scores_as_an_output():
    x = keras.Input((4, 3))
    h = layers.Dense(6)(x)
    h, scores = layers.MultiHeadAttention(2, 3)(h, h, return_attention_scores=True)
    return keras.Model(x, [_sequence(h), layers.Conv2D(2, 1)(layers.Permute((2, 3, 1))(scores))])


CASES["scores_as_an_output"] = Entry("scores_as_an_output", scores_as_an_output, ("linear", "linear"))


@case
def grouped_queries():
    x = keras.Input((4, 3))
    h = layers.Dense(6)(x)
    for gate in (False, True):
        h = layers.Add()([h, layers.GroupQueryAttention(3, 6, 2, use_gate=gate)(h, h, use_causal_mask=gate)])
    return keras.Model(x, _sequence(h))


@case
def einsum_dense():
    x = keras.Input((4, 3))
    h = layers.EinsumDense("...x,xy->...y", 6, bias_axes="y", activation="relu")(x)
    h = layers.EinsumDense("btd,dhk->bthk", (None, 2, 5), bias_axes="hk")(h)  # (batch, 4, 2, 5)
    h = layers.EinsumDense("bthk,hkd->btd", (None, 7), bias_axes="d", activation="gelu")(h)
    h = layers.EinsumDense("btd,d->btd", (None, 7), bias_axes="d")(h)  # a scale for each channel
    h = layers.EinsumDense("ab...,bc->ac...", 5)(layers.Permute((2, 1))(h))  # (batch, 5, 4)
    return keras.Model(x, _sequence(layers.Permute((2, 1))(h)))


@case
def positions_as_an_input():
    tokens, places = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
    h = layers.Add()([layers.Embedding(11, 6, mask_zero=True)(tokens), layers.Embedding(6, 6)(places)])
    return keras.Model([tokens, places], _sequence(block(h, "batch")))


@case
def token_and_position():
    tokens = keras.Input((6,), dtype="int32")
    return keras.Model(tokens, _sequence(block(TokenAndPositionEmbedding(6, 11, 5)(tokens), "batch")))


@case
def patch_encoder():
    patches = keras.Input((4, 3))
    return keras.Model(patches, _sequence(block(PatchEncoder(4, 5)(patches), "batch")))


every_case = pytest.mark.parametrize("entry", CASES.values(), ids=CASES)


@functools.cache
def family(entry: Entry, k: int) -> list[keras.Model]:
    return [entry(seed) for seed in range(k)]


@functools.cache
def concatenated(entry: Entry, k: int) -> keras.Model:
    return checks.check_arguments_unchanged(family(entry, k), kmerge.concatenate)


# The verbs.


@pytest.mark.parametrize("k", [2, 3])
@every_case
def test_concatenate_is_the_mean_of_the_logits(entry, k):
    checks.check_concatenate(entry, family(entry, k), concatenated(entry, k))


@every_case
def test_selecting_one_parent_gives_that_parent(entry):
    checks.check_select_parent(entry, family(entry, 3), concatenated(entry, 3), 1)


@every_case
def test_permute_and_back(entry):
    checks.check_permute(family(entry, 1)[0])


@every_case
def test_select_commutes_with_permute(entry):
    checks.check_select_commutes(family(entry, 1)[0], 0.5)


@every_case
def test_grown_zero_units_change_nothing(entry):
    checks.check_grow(family(entry, 1)[0])


@every_case
def test_merge_is_exact_at_open_hard_and_fractional_gates(entry):
    parents = family(entry, 2)
    inputs = example_inputs(parents[0])
    big = kmerge.merge(*parents, gates="open")
    means = [np.mean(values, axis=0) for values in zip(*(checks.outputs(p, inputs) for p in parents), strict=True)]
    checks.assert_close(checks.outputs(big, inputs), means, 1e-5)
    harden(big)
    small = kmerge.compress(big)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(big, inputs), 1e-5)
    assert_same_architecture(small, parents[0])
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(gate.values() > 0, np.linspace(-1.0, 1.0, gate.units), -20.0))
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


def test_selected_transformers_load_without_kmerge(tmp_path):
    models = {}
    for name in ("vit-batch", "text-batch-after", "attention_over_rows", "grouped_queries", "patch_encoder"):
        entry = CASES[name]
        model = family(entry, 1)[0] if name.startswith("text") else concatenated(entry, 2)
        models[name] = kmerge.select(model, {n: (size + 1) // 2 for n, size in checks.selectable(model).items()})
    checks.check_saves(models, tmp_path, Path(attention_models.__file__))


_LOAD_BIG = """
import sys, keras, kmerge
from tests import test_attention
kmerge.compress(keras.models.load_model(sys.argv[1])).save(sys.argv[2])
"""


def test_a_saved_big_student_compresses_the_same(tmp_path):
    """In another process: the gated attention layers load with it."""
    paths = [str(tmp_path / name) for name in ("big.keras", "small.keras")]
    big = kmerge.merge(*family(CASES["vit-batch"], 2))
    harden(big)
    big.save(paths[0])
    done = subprocess.run([sys.executable, "-c", _LOAD_BIG, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    checks.assert_same_weights(keras.models.load_model(paths[1]), kmerge.compress(big))


# Heads.


def _attention(**options) -> keras.Model:
    x = keras.Input((4, 5))
    h = layers.Dense(6, name="before")(x)
    h = layers.MultiHeadAttention(4, 3, name="attend", output_shape=7, **options)(h, h)
    model = keras.Model(x, layers.Dense(2, name="after")(h))
    randomise(model, 1)
    return model


def test_heads_are_units_of_a_space_of_their_own():
    spaces = kmerge.channel_spaces(_attention())
    sizes = {name: (space.size, space.owners, space.consumers) for name, space in spaces.items() if space.selectable}
    assert sizes == {
        "before": (6, ("before",), ("attend",)),
        "attend:0": (4, ("attend",), ("attend",)),
        "attend:1": (7, ("attend",), ("after",)),
    }


@pytest.mark.parametrize("gate", [False, True])
def test_selecting_heads_changes_their_number_and_nothing_else(gate):
    model = _attention(value_dim=2, use_gate=gate)
    small = kmerge.select(model, {"attend:0": [1, 3]}).get_layer("attend")
    assert (small.num_heads, small.key_dim, small.value_dim) == (2, 3, 2)
    whole = model.get_layer("attend")
    for part in ("query_dense", "key_dense", "value_dense"):
        for new, old in zip(getattr(small, part).get_weights(), getattr(whole, part).get_weights(), strict=True):
            assert np.array_equal(new, old[..., [1, 3], :])
    assert np.array_equal(small.output_dense.get_weights()[0], whole.output_dense.get_weights()[0][[1, 3]])


def test_a_head_that_nobody_reads_can_go():
    model = _attention()
    kernel = model.get_layer("attend").output_dense.kernel
    kernel.assign(ops.convert_to_numpy(kernel) * np.reshape([1, 0, 1, 1], (4, 1, 1)))
    inputs = example_inputs(model)
    small = kmerge.select(model, {"attend:0": [0, 2, 3]})
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(model, inputs), 1e-6)


def test_new_heads_are_drawn_apart_and_as_large_as_keras_draws_them():
    x = keras.Input((4, 64))
    h = layers.MultiHeadAttention(8, 8, name="attend")(layers.Dense(64)(x), layers.Dense(64)(x))
    layer = kmerge.grow(keras.Model(x, h), {"attend:0": 8}).get_layer("attend")
    for part in (layer.query_dense, layer.key_dense, layer.value_dense):
        kernel = ops.convert_to_numpy(part.kernel)
        assert np.std(kernel[:, 8:]) == pytest.approx(np.sqrt(2 / (64 + 128)), rel=0.1)  # glorot_uniform
    new = [ops.convert_to_numpy(part.kernel)[:, 8:] for part in (layer.query_dense, layer.key_dense)]
    assert not np.array_equal(*new)


def test_a_gate_multiplies_what_its_head_gives_to_the_projection():
    model = _attention()
    big = kmerge.merge(model, model, gates="open")
    gate = next(gate for gate in kmerge.gates_of(big) if "attend_0" in gate.name)
    value = np.linspace(-2, 3, 8).astype("float32")
    gate.loc.assign(value)
    folded = kmerge.concatenate(model, model)
    kernel = folded.get_layer("attend").output_dense.kernel
    kernel.assign(ops.convert_to_numpy(kernel) * gate.values()[:, None, None])
    inputs = example_inputs(model)
    checks.assert_close(checks.outputs(big, inputs), checks.outputs(folded, inputs), 1e-5)


@pytest.mark.parametrize("name", ["vit-batch", "text-batch-before", "grouped_queries"])
def test_half_of_the_heads_and_of_the_width_train(name):
    model = family(CASES[name], 1)[0]
    small = kmerge.select(model, dict.fromkeys(checks.selectable(model), 0.5))
    assert small.count_params() < 0.7 * model.count_params()
    small.compile("sgd", "mse")
    inputs = example_inputs(small, batch=16)[0]
    before = [ops.convert_to_numpy(weight) for weight in small.trainable_weights]
    losses = small.fit(inputs, np.ones((16, *small.output_shape[1:])), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    # A bias of the keys moves all scores alike, so it has no gradient.
    moved = [not np.array_equal(new, old) for new, old in zip(small.trainable_weights, before, strict=True)]
    assert all(m for m, weight in zip(moved, small.trainable_weights, strict=True) if not weight.path.endswith("key/bias"))


@pytest.mark.parametrize("name", ["vit-batch", "grouped_queries", "text-batch-before"])
def test_gates_train(name):
    big = kmerge.merge(*family(CASES[name], 2))
    before = [gate.values() for gate in kmerge.gates_of(big)]
    big.compile(kmerge.gate_optimizer(keras.optimizers.Adam(1e-3), gate_learning_rate=0.1), "mse")
    inputs = example_inputs(big, batch=16)[0]
    history = big.fit(
        inputs, np.ones((16, *big.output_shape[1:])), epochs=2, verbose=0, callbacks=[kmerge.GatePressure()]
    )
    assert np.isfinite(history.history["loss"]).all()
    assert not any(np.array_equal(gate.values(), old) for gate, old in zip(kmerge.gates_of(big), before, strict=True))
    checks.assert_same_interface(kmerge.compress(big), family(CASES[name], 1)[0])


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        parents = [text_encoder(mask_zero=True) for _ in range(2)]
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = example_inputs(parents[0])
    means = [np.mean([checks.outputs(parent, inputs)[0] for parent in parents], axis=0)]
    checks.assert_close(checks.outputs(kmerge.concatenate(*parents), inputs), means, 1e-2)
    checks.assert_close(checks.outputs(kmerge.merge(*parents, gates="open"), inputs), means, 1e-2)


# Masks.


def test_the_mask_survives():
    """What is embedded for no token changes nothing, in no model that is made of a masked one."""
    parents = family(CASES["text-batch-before"], 2)
    merged = kmerge.merge(*parents, gates="open")
    harden(merged)
    half = kmerge.select(parents[0], dict.fromkeys(checks.selectable(parents[0]), 0.5))
    tokens = example_inputs(parents[0], batch=8)
    assert (tokens[0] == 0).any()
    for model in (*parents, half, merged, kmerge.compress(merged), kmerge.concatenate(*parents)):
        before = checks.outputs(model, tokens)
        embedding = next(layer for layer in model.layers if isinstance(layer, layers.Embedding))
        rows = embedding.get_weights()[0].copy()
        rows[0] += 1.0
        kept = embedding.get_weights()
        embedding.set_weights([rows])
        checks.assert_close(checks.outputs(model, tokens), before, 1e-6)
        embedding.set_weights(kept)


# Refusals.


@keras.saving.register_keras_serializable("tests")
class NormalisedHeads(layers.MultiHeadAttention):
    def _compute_attention(self, *args, **kwargs):
        heads, scores = super()._compute_attention(*args, **kwargs)
        return heads / ops.sum(heads, axis=-2, keepdims=True), scores


def _subclass(x):
    return NormalisedHeads(2, 3, name="culprit")(x, x)


def _adapted(x):
    h = layers.Dense(6)(x)
    layer = layers.EinsumDense("btd,dh->bth", (None, 5), name="culprit")
    out = layer(h)
    layer.enable_lora(2)
    return out


def _no_channels(x):
    return ops.expand_dims(layers.EinsumDense("btd,d->bt", (None,), name="culprit")(layers.Dense(6)(x)), -1)


def _constant_places(x):
    h = layers.Dense(6)(x)
    return layers.Add(name="culprit")([h, layers.Embedding(4, 6)(ops.expand_dims(ops.arange(4), 0))])


def _channels_as_tokens(x):
    tokens = layers.Dense(6)(ops.max(x, axis=1))
    return layers.Embedding(5, 6, name="culprit")(tokens)


def _masked_nested_model(x):
    tokens = ops.cast(ops.max(x, axis=-2) > 0, "int32")
    h = layers.Embedding(5, 6, mask_zero=True)(tokens)
    inner = keras.Input((3, 6))
    return keras.Model(inner, layers.Dense(6)(inner), name="culprit")(h)


def _masked_repetition(x):
    h = layers.Embedding(5, 6, mask_zero=True)(ops.cast(ops.max(x, axis=-2) > 0, "int32"))
    return layers.Multiply(name="culprit")([h, layers.Dense(1, activation="sigmoid")(h)])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_subclass, "changes.*_compute_attention.*MultiHeadAttention"),
        (_adapted, "'kernel' is computed from other weights, as with LoRA"),
        (_no_channels, "'btd,d->bt' leaves no channel axis"),
        (_constant_places, "constant array of shape .1, 4, 6."),
        (_channels_as_tokens, "reads them as places of a sequence"),
        (_masked_nested_model, "is handed a mask"),
        (_masked_repetition, "carries a mask, which would be lost"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(build, words):
    x = keras.Input((4, 3))
    model = keras.Model(x, layers.Dense(2)(build(x)))
    with pytest.raises(UnsupportedLayerError, match=f"(?s)culprit.*{words}"):
        kmerge.concatenate(model, model)


def test_kernels_that_mix_places_cannot_be_averaged_silently():
    x = keras.Input((4, 3))
    h = layers.EinsumDense("btd,ts->bsd", (5, 6), name="culprit")(layers.Dense(6)(x))
    model = keras.Model(x, layers.Dense(2)(h))
    randomise(model, 1)
    other = keras.models.clone_model(model)
    with pytest.raises(InvalidArgumentError, match="'culprit'.*no channel axis and differs between the models"):
        kmerge.concatenate(model, other)
    inputs = example_inputs(model)
    checks.assert_close(checks.outputs(kmerge.concatenate(model, model), inputs), checks.outputs(model, inputs), 1e-6)


def test_grouped_attention_must_stay_as_wide_as_its_query():
    x = keras.Input((4, 3))
    h = layers.Dense(6, name="before")(x)
    model = keras.Model(x, layers.Dense(2)(layers.GroupQueryAttention(3, 4, 2, name="culprit")(h, h)))
    with pytest.raises(UnsupportedLayerError, match="'culprit'.*as wide as its query, but 3 and 6 units"):
        kmerge.select(model, {"before": 3})
