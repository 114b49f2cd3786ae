"""Heads as units: what selecting, growing and gating them does; masks; and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.errors import UnsupportedLayerError
from tests import checks
from tests.checks import family
from tests.kmerge.merging.test_merging import harden
from tests.kmerge.rules.attention_cases import CASES
from tests.kmerge.rules.attention_models import text_encoder
from tests.models import JIT, example_inputs, randomize
from tests.programs import without_programs

# Heads.


def _attention(**options) -> keras.Model:
    x = keras.Input((4, 5))
    h = layers.Dense(6, name="before")(x)
    h = layers.MultiHeadAttention(4, 3, name="attend", output_shape=7, **options)(h, h)
    model = keras.Model(x, layers.Dense(2, name="after")(h))
    randomize(model, 1)
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


@pytest.mark.filterwarnings("ignore:Models 1 and 2 are one object")
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
    small.compile("sgd", "mse", jit_compile=JIT)
    inputs = example_inputs(small, batch=16)[0]
    before = [ops.convert_to_numpy(weight) for weight in small.trainable_weights]
    with without_programs():
        losses = small.fit(inputs, np.ones((16, *small.output_shape[1:])), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    # Some biases have no gradient: those of keys move all scores alike, and BatchNormalization takes others away.
    still = [w.path for w, old in zip(small.trainable_weights, before, strict=True) if np.array_equal(w, old)]
    assert not [path for path in still if not path.endswith("bias")]


@pytest.mark.parametrize("name", ["vit-batch", "text-batch-before", "grouped_queries"])
def test_gates_train(name):
    big = kmerge.merge(*family(CASES[name], 2))
    before = [gate.values() for gate in kmerge.gates_of(big)]
    big.compile(kmerge.gate_optimizer(keras.optimizers.Adam(1e-3), gate_learning_rate=0.1), "mse", jit_compile=JIT)
    inputs = example_inputs(big, batch=16)[0]
    with without_programs():
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


@pytest.mark.filterwarnings("ignore:Layer 'culprit' .* does not support masking")
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_subclass, "replaces.*_compute_attention.*MultiHeadAttention"),
        (_adapted, "quantized or have LoRA factors"),
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
    with kmerge.strict(), pytest.raises(UnsupportedLayerError, match=f"(?s)culprit.*{words}"):
        kmerge.concatenate(model, model)


def test_kernels_that_mix_places_stay_apart():
    x = keras.Input((4, 3))
    h = layers.EinsumDense("btd,ts->bsd", (5, 6), name="places")(layers.Dense(6)(x))
    models = [keras.Model(x, layers.Dense(2)(h))]
    models.append(keras.models.clone_model(models[0]))
    for seed, model in enumerate(models):
        randomize(model, seed)
    inputs = example_inputs(models[0])
    checks.assert_mean(kmerge.concatenate(*models), models, inputs)


def test_grouped_attention_must_stay_as_wide_as_its_query():
    x = keras.Input((4, 3))
    h = layers.Dense(6, name="before")(x)
    model = keras.Model(x, layers.Dense(2)(layers.GroupQueryAttention(3, 4, 2, name="culprit")(h, h)))
    with pytest.raises(UnsupportedLayerError, match="'culprit'.*as wide as its query, but 3 and 6 units"):
        kmerge.select(model, {"before": 3})


def _attending(seed, mask_zero=False, **masks):
    """A network of tokens, zero for none, whose attention is given masks of them behind a LayerNormalization."""
    tokens = keras.Input((7,), dtype="int32")
    given = {name: mask(keras.ops.not_equal(tokens, 0)) for name, mask in masks.items()}
    h = layers.LayerNormalization()(layers.Embedding(5, 6, mask_zero=mask_zero)(tokens))
    h = layers.MultiHeadAttention(2, 3)(h, h, **given)
    model = keras.Model(tokens, layers.Dense(2)(keras.ops.mean(h, 1)))
    randomize(model, seed)
    return model


@pytest.mark.parametrize(
    "masks",
    [
        {"query_mask": lambda mask: mask, "value_mask": lambda mask: mask},
        {"value_mask": lambda mask: mask},
        {"attention_mask": lambda mask: mask[:, None]},
    ],
)
def test_masks_that_attention_is_given_do_not_stand_for_those_that_its_inputs_carry(masks):
    """Keras' attention takes the mask of the query from the tensor itself, whatever it is given; here that would be lost."""
    with pytest.raises(UnsupportedLayerError, match="MultiHeadAttention.*reads a mask that would be lost.*mask_zero=False"):
        kmerge.concatenate(*(_attending(seed, mask_zero=True, **masks) for seed in (0, 1)))
    models = [_attending(seed, **masks) for seed in (0, 1)]  # the way out
    tokens = np.random.default_rng(2).integers(0, 5, (6, 7))
    checks.assert_mean(kmerge.concatenate(*models), models, [tokens])


def test_a_mask_that_normalizing_per_source_would_lose_is_refused():
    """Attention behind a masked LayerNormalization: its channels are read apart for each source, and the mask is gone."""
    networks = [text_encoder("layer", mask_zero=True) for _ in range(2)]
    with pytest.raises(kmerge.UnsupportedLayerError, match="MultiHeadAttention.*reads a mask that would be lost"):
        kmerge.concatenate(*networks)
