"""concatenate, select, permute and grow on every model of the zoo."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent, permuted
from tests.models import KINDS, ZOO, every, every_layer, example_inputs, randomize

every_model, every_kind = every(ZOO), every(ZOO, KINDS)

# Models whose selectable spaces are all read by plain Dense and Conv layers, one space each.
PLAIN = ["mlp", "lenet", "resnet8", "resnet10", "vgg11", "vgg11_bn", "sequential", "sigmoid_output"]


@every_model
def test_concatenate_is_the_mean_of_the_logits(entry):
    checks.check_concatenate(entry, family(entry), concatenated(entry))


@every_kind
def test_concatenate_three(entry):
    checks.check_concatenate(entry, family(entry, 3), concatenated(entry, 3))


@every(ZOO, ["mlp", "resnet8", "grouped_convolution", "siamese", "operators_1d"])
def test_concatenate_four(entry):
    checks.check_concatenate(entry, family(entry, 4), concatenated(entry, 4))


@every_model
def test_selecting_one_parent_gives_that_parent(entry):
    checks.check_select_parent(entry, family(entry), concatenated(entry), 1)


@every_kind
def test_selecting_one_of_three_parents_gives_that_parent(entry):
    checks.check_select_parent(entry, family(entry, 3), concatenated(entry, 3), 1)


@every_model
def test_permute_and_back(entry):
    assert permuted(entry) is not parent(entry, 0)


@every(ZOO, ["mlp", *KINDS])
def test_select_everything_is_the_identity(entry):
    checks.check_select_everything(parent(entry, 0))


@every(ZOO, PLAIN)
def test_selecting_without_a_plan_is_the_identity(entry):
    checks.assert_same_weights(kmerge.select(parent(entry, 0), {}), parent(entry, 0))


@every_model
def test_select_commutes_with_permute(entry):
    assert halved(entry) is not parent(entry, 0)


@every_kind
def test_selecting_one_unit_of_each_space_commutes_with_permute(entry):
    checks.check_select_commutes(parent(entry, 0), permuted(entry), 0.0)


@every_model
def test_grown_zero_units_change_nothing(entry):
    assert grown(entry) is not parent(entry, 0)


@every_kind
def test_a_concatenated_model_can_be_rewritten_again(entry):
    """That units can be selected from it `test_selecting_one_parent_gives_that_parent` shows."""
    big = concatenated(entry)
    inputs, moved = example_inputs(big), kmerge.permute(big, checks.random_orders(big, 1))
    checks.assert_spaces(moved, checks.selectable(big))
    checks.assert_close(checks.outputs(moved, inputs), checks.outputs(big, inputs), 1e-5)


@every(ZOO, PLAIN)
def test_a_unit_that_nobody_reads_can_go(entry):
    checks.check_zero_unit(entry(7))


def test_every_rewritten_model_loads_without_kmerge(tmp_path):
    """Concatenated networks with each kind of layer, and of each kind of network in turn what else becomes of it."""
    models, kinds = {}, set()
    for name, entry in ZOO.items():
        found = {type(layer) for layer in every_layer(concatenated(entry))}
        if name in KINDS or not found <= kinds:
            models[f"{name}-concatenated"] = concatenated(entry)
        kinds |= found
    for name, made in zip(KINDS, itertools.cycle([halved, grown]), strict=False):
        models[f"{name}-{made.__name__}"] = made(ZOO[name])
    checks.check_saves(models, tmp_path)


@pytest.mark.parametrize("parts", [1, 2])
def test_select_is_the_network_of_the_kept_units(parts):
    """Against NumPy: a ReLU network of which units 0 and 3 of the first and 1, 2, 4 of the second layer stay."""
    x = keras.Input((3,))
    h = layers.Dense(5, activation="relu", name="first")(x)
    h = layers.Dense(6, activation="relu", name="second")(h)
    model = keras.Model(x, layers.Dense(2, name="last")(h))
    randomize(model, 1)
    first, second = [0, 3], [1, 2, 4]
    keep = {"first": first[::-1], "second": np.isin(range(6), second)}  # indices in any order
    if parts == 1:
        smaller = kmerge.select(model, keep)
    else:
        smaller = kmerge.select(kmerge.select(model, {"second": second}), {"first": first})
    (w1, b1), (w2, b2), (w3, b3) = (model.get_layer(name).get_weights() for name in ("first", "second", "last"))
    values = np.random.default_rng(2).normal(size=(7, 3)).astype("float32")
    hidden = np.maximum(values @ w1[:, first] + b1[first], 0)
    hidden = np.maximum(hidden @ w2[np.ix_(first, second)] + b2[second], 0)
    checks.assert_close(checks.outputs(smaller, [values]), [hidden @ w3[second] + b3], 1e-6)
    assert np.array_equal(smaller.get_layer("first").kernel, w1[:, first])


@pytest.mark.parametrize(("value", "units"), [(2, 2), (0.5, 4), (1.0, 8), (1, 1), ([True] + [False] * 7, 1)])
def test_select_by_count_fraction_and_mask(value, units):
    model = ZOO["mlp"](0)
    (name, size), *_ = checks.selectable(model).items()
    assert size == 8
    assert checks.selectable(kmerge.select(model, {name: value}))[name] == units


def test_a_space_goes_by_any_of_its_layers():
    """The residual stream of a ResNet is one space; each layer that owns it names it."""
    model = ZOO["resnet10"](0)
    space = next(s for s in kmerge.channel_spaces(model).values() if s.selectable and len(s.owners) > 2)
    results = [kmerge.select(model, {owner: [0, 2, 3]}) for owner in (space.name, space.owners[-1])]
    checks.assert_same_weights(results[1], results[0])


def test_grown_units_are_new_and_seeded():
    model = ZOO["mlp"](0)
    (name, size), *_ = checks.selectable(model).items()
    grown, again, other = (kmerge.grow(model, {name: 3}, scale=1.0, seed=seed) for seed in (1, 1, 2))
    checks.assert_same_weights(grown, again)
    kernel = grown.layers[1].get_weights()[0]
    assert np.array_equal(kernel[:, :size], model.layers[1].get_weights()[0])
    assert not np.array_equal(kernel, other.layers[1].get_weights()[0])
    assert len(np.unique(kernel)) == kernel.size
    inputs = example_inputs(model)
    assert checks.relative_error(checks.outputs(grown, inputs)[0], checks.outputs(model, inputs)[0]) > 1e-3


def test_grown_zero_units_can_learn():
    """With zero outgoing weights the incoming ones are random, so that gradients can tell the new units apart."""
    model = ZOO["mlp"](0)
    (name, _), *_ = checks.selectable(model).items()
    kernel = kmerge.grow(model, {name: 3}).layers[1].get_weights()[0]
    assert len(np.unique(kernel)) == kernel.size


def test_trainable_and_names_survive():
    model = ZOO["lenet"](0)
    model.layers[1].trainable = False
    big = kmerge.concatenate(model, ZOO["lenet"](1))
    assert big.get_layer(model.layers[1].name).trainable is False
    assert [layer.name for layer in big.layers] == [layer.name for layer in model.layers]
    assert big.name == model.name


def test_a_weight_that_is_frozen_alone_stays_so_through_every_verb():
    def build(seed):
        model = ZOO["lenet"](seed)
        model.layers[1].bias.trainable = False
        return model

    parents = [build(seed) for seed in range(2)]
    fixed = {weight.path for weight in parents[0].non_trainable_weights}
    big = kmerge.merge(*parents)
    checks.decide(big)
    name, *_ = checks.selectable(parents[0])
    made = [kmerge.select(parents[0], {name: 0.5}), kmerge.grow(parents[0], {name: 1}), kmerge.concatenate(*parents)]
    for model in (*made, kmerge.compress(big)):
        assert {weight.path for weight in model.non_trainable_weights} == fixed
    assert fixed and fixed < {weight.path for weight in big.non_trainable_weights}


def test_mixed_precision_models_concatenate():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        models = [ZOO["lenet"](seed) for seed in range(2)]
        big = kmerge.concatenate(*models)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.dtype_policy.name for layer in big.layers} == {"mixed_bfloat16"}
    inputs = example_inputs(big)
    each = [checks.logits(model, inputs, ("softmax",))[0] for model in models]
    checks.assert_close(checks.logits(big, inputs, ("softmax",)), [np.mean(each, axis=0)], 5e-2)
    assert {weight.dtype for weight in big.weights} == {weight.dtype for weight in models[0].weights}


@pytest.mark.parametrize("wrapper", [keras.layers.TimeDistributed, keras.layers.SpectralNormalization])
def test_weights_that_cannot_be_shared_any_more_are_told(wrapper):
    inner = keras.layers.Dense(4, name="inner")
    inputs = [keras.Input((5, 6)), keras.Input((6,))]
    model = keras.Model(inputs, [wrapper(inner, name="wrapped")(inputs[0]), keras.layers.Dense(2)(inner(inputs[1]))])
    with pytest.warns(UserWarning, match="share weights.*inner/kernel, wrapped/kernel"):
        kmerge.select(model, {})


def test_a_nested_model_without_weights_is_called_on_channels_that_become_of_several_widths(tmp_path):
    x, inner = keras.Input((4,)), keras.Input((6,))
    shared = keras.Model(inner, layers.Dropout(0.2)(layers.ReLU()(inner)), name="shared")
    found = [shared(layers.Dense(6, name=name)(x)) for name in ("left", "right")]
    network = keras.Model(x, layers.Add()([layers.Dense(3)(h) for h in found]))
    randomize(network, 0)
    for weight in network.get_layer("left").weights:
        weight.assign(keras.ops.convert_to_numpy(weight) * (np.arange(6) != 1))
    smaller, inputs = kmerge.select(network, {"left": [0, 2, 3, 4, 5]}), example_inputs(network)
    assert checks.selectable(smaller) == {"left": 5, "right": 6}
    smaller.save(tmp_path / "model.keras")
    for model in (smaller, keras.models.load_model(tmp_path / "model.keras")):
        checks.assert_close(checks.outputs(model, inputs), checks.outputs(network, inputs), 1e-6)
    checks.check_grow(smaller)
