"""Weight pruning: which weights go, that they stay away, and that what they cut off can go without a trace."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.strategy import Stages
from baselines.pruning.dead_units import remove_dead_units
from baselines.pruning.weight_masks import KeepMask, apply_masks, hold_masks, kernels_of, release_masks
from baselines.pruning.weight_pruning import METHODS, prune_weights, pruning_curve, tune, weight_masks
from benchmarks.networks.architectures import deep_resnet, lenet, resnet
from benchmarks.suites.suite import load_suite
from tests import checks
from tests.models import ZOO, example_inputs, randomize
from tests.programs import without_programs
from tests.tiny_tasks import StepByStep

every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def sine():
    return load_suite("sine").task(1, None, "unused", examples=96)


def arrays_of(model):
    return [w for w, is_kernel in zip(model.get_weights(), kernels_of(model), strict=True) if is_kernel]


def gone_of(masks):
    return np.concatenate([mask.ravel() == 0 for mask in masks if mask is not None])


# Which weights


@every_method
@pytest.mark.parametrize("percentage", [0, 5, 33.3, 95])
def test_the_percentage_is_kept(method, percentage):
    model = ZOO["lenet"](1)
    masks = weight_masks(model, percentage, method, seed=3)
    sizes = [array.size for array in arrays_of(model)]
    if method == "class_uniform":
        assert [int((m == 0).sum()) for m in masks if m is not None] == [round(n * percentage / 100) for n in sizes]
    assert abs(gone_of(masks).sum() - sum(sizes) * percentage / 100) <= len(sizes) / 2
    for weight, mask in zip(model.weights, masks, strict=True):
        assert (mask is None) == ("kernel" not in weight.name) and (mask is None or mask.shape == weight.shape)


def test_class_blind_takes_the_smallest_of_all_and_class_uniform_of_each():
    model = ZOO["lenet"](1)
    arrays = arrays_of(model)
    every = np.abs(np.concatenate([array.ravel() for array in arrays]))
    gone = gone_of(weight_masks(model, 40, "class_blind"))
    assert every[gone].max() <= every[~gone].min()
    masks = [mask for mask in weight_masks(model, 40, "class_uniform") if mask is not None]
    for array, mask in zip(arrays, masks, strict=True):
        assert np.abs(array[mask == 0]).max() <= np.abs(array[mask == 1]).min()


def test_random_depends_on_the_seed_alone():
    a, again, b = (gone_of(weight_masks(ZOO["lenet"](1), 50, "random", seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert 0.3 < np.mean(a == b) < 0.7


@pytest.mark.parametrize("percentage", [-1, 100, 250, float("nan"), "half", True, None])
def test_percentages_that_are_none_are_refused(percentage):
    with pytest.raises(kmerge.InvalidArgumentError, match="at least 0 and below 100, received "):
        weight_masks(ZOO["lenet"](1), percentage)


def test_a_model_without_kernels_is_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(inputs), name="bare")
    with pytest.raises(kmerge.InvalidArgumentError, match="'bare' has no Dense layer or convolution"):
        weight_masks(model, 50)


# Masks that hold


def test_masks_hold_in_compiled_epochs_and_in_a_saved_model(tmp_path):
    model = ZOO["lenet"](1)
    masks = weight_masks(model, 60)
    apply_masks(model, masks)
    hold_masks(model, masks)
    (x,) = example_inputs(model, batch=12)
    y = np.arange(12) % model.output_shape[-1]

    def check_training(model):
        before = model.get_weights()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
        history = kmerge.fit(model, x, y, batch_size=4, epochs=2, verbose=0)
        assert history.params["program"] != "model.fit"
        for old, new, mask in zip(before, model.get_weights(), masks, strict=True):
            assert not np.array_equal(old, new)
            assert mask is None or not new[mask == 0].any()
            assert mask is None or np.any(new[mask == 1] != old[mask == 1])

    check_training(model)
    model.save(tmp_path / "masked.keras")
    check_training(keras.models.load_model(tmp_path / "masked.keras"))
    release_masks(model)
    assert "KeepMask" not in model.to_json()
    with without_programs():
        model.fit(x, y, verbose=0)
    assert any(new[mask == 0].any() for new, mask in zip(model.get_weights(), masks, strict=True) if mask is not None)


@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 2, 3, 3)])
def test_a_mask_survives_its_configuration(shape):
    mask = np.random.default_rng(1).integers(0, 2, shape)
    config = json.loads(json.dumps(KeepMask(mask).get_config()))
    again = KeepMask.from_config(config)
    np.testing.assert_array_equal(again.mask, mask)
    weight = keras.ops.ones(shape)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(weight)), mask)


def test_masks_of_another_model_are_refused():
    with pytest.raises(kmerge.InvalidArgumentError, match="Expected a mask or None for each weight"):
        apply_masks(ZOO["lenet"](1), weight_masks(ZOO["mlp"](1), 50))


def test_a_constraint_of_the_users_own_is_not_replaced():
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(2, kernel_constraint="non_neg", name="mine")
    model = keras.Model(inputs, dense(inputs))
    with pytest.raises(kmerge.InvalidArgumentError, match="'mine' has a kernel_constraint of its own"):
        hold_masks(model, weight_masks(model, 50))


# Dead units


def test_the_example_of_the_docstring():
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, "tanh", name="hidden")
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden(inputs)))
    bias, head_bias = np.array([0.1, 0.7, 0.3]), np.array([1.0, -1.0])
    model.set_weights([np.array([[1, 0, 2], [3, 0, 1]]), bias, np.array([[1, 1], [2, 0], [0, 0]]), head_bias])
    removal = remove_dead_units(model, np.ones((2, 2)))
    assert removal.removed == 2 and removal.exact and removal.change < 1e-6
    np.testing.assert_array_equal(removal.keep["hidden"], [0])
    new_bias = keras.ops.convert_to_numpy(removal.model.get_layer("head").bias)
    np.testing.assert_allclose(new_bias, head_bias + [2 * np.tanh(0.7), 0], rtol=1e-6)


def emptied(model, seed, outputs=True):
    """Zeros in a third of the units' inputs, and of their outputs, of every kernel but the last."""
    rng = np.random.default_rng(seed)
    kernels = [w for w, is_kernel in zip(model.weights, kernels_of(model), strict=True) if is_kernel]
    for number, kernel in enumerate(kernels):
        array = keras.ops.convert_to_numpy(kernel).copy()
        if number < len(kernels) - 1:
            array[..., rng.permutation(array.shape[-1])[: array.shape[-1] // 3 or 1]] = 0
        if outputs and number:
            array[..., rng.permutation(array.shape[-2])[: array.shape[-2] // 3 or 1], :] = 0
        kernel.assign(array)
    return model


def convolutional(padding, size=3, use_bias=True, between=()):
    x = inputs = keras.Input((8, 8, 2))
    for name, filters in (("a", 6), ("b", 5)):
        x = keras.layers.Conv2D(filters, size, padding=padding, use_bias=use_bias, name=name)(x)
        for layer in between:
            x = layer()(x)
        x = keras.layers.Activation("sigmoid")(x)
    x = keras.layers.Dense(7, "relu")(keras.layers.Flatten()(keras.layers.MaxPooling2D()(x)))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    randomize(model, 4)
    return model


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: convolutional("valid"), id="valid"),
        pytest.param(lambda: convolutional("same", size=1), id="1x1"),
        pytest.param(lambda: convolutional("valid", between=(keras.layers.BatchNormalization,)), id="bn"),
        pytest.param(
            lambda: convolutional("valid", use_bias=False, between=(keras.layers.BatchNormalization,)), id="bn_no_bias"
        ),
        pytest.param(lambda: ZOO["mlp"](2), id="mlp"),
        pytest.param(lambda: lenet((28, 28, 1), 10, 2), id="lenet"),
    ],
)
def test_removal_is_exact(model):
    model = emptied(model(), 5)
    before = kmerge.parameters(model)
    x = example_inputs(model, batch=4)
    removal = remove_dead_units(model, x[0][:2])
    assert removal.exact and not removal.why and removal.removed > 1 and removal.change < 1e-5
    assert kmerge.parameters(removal.model) < before
    checks.assert_close(checks.outputs(removal.model, x), checks.outputs(model, x), 1e-5)
    again = remove_dead_units(removal.model, x[0])
    assert again.removed == 0, "what is left of a removal has no dead units"


@pytest.mark.parametrize(
    "model, why",
    [
        (lambda: convolutional("same"), "pads its input"),
        (lambda: convolutional("valid", use_bias=False), "no bias, and no BatchNormalization"),
        (lambda: convolutional("valid", between=(keras.layers.ZeroPadding2D,)), "differ from place to place"),
        (lambda: convolutional("valid", between=(keras.layers.LayerNormalization,)), "normalized together"),
    ],
)
def test_removal_that_is_not_exact_says_so(model, why):
    model = emptied(model(), 5)
    x = example_inputs(model, batch=4)
    removal = remove_dead_units(model, x[0])
    assert not removal.exact and any(why in reason for reason in removal.why.values()), removal.why
    (before,), (after,) = checks.outputs(model, x), checks.outputs(removal.model, x)
    assert removal.change == pytest.approx(np.abs(before - after).max() / np.abs(before).max(), rel=1e-4)
    assert removal.change > 1e-5


@pytest.mark.parametrize("depth, width", [(18, 16), (50, 4)])
def test_removal_is_exact_in_deep_residual_networks(depth, width):
    model = emptied(deep_resnet((8, 8, 3), 10, 1, depth=depth, width=width), 5)
    (x,) = example_inputs(model, batch=2)
    removal = remove_dead_units(model, x)
    # What a fresh network's dead channels put out is 0, which is 0 at the border, too.
    assert removal.exact and removal.removed > 0.2 * sum(s.size for s in kmerge.channel_spaces(model).selectable)
    assert kmerge.parameters(removal.model) < 0.8 * kmerge.parameters(model)
    (before,), (after,) = checks.outputs(model, [x]), checks.outputs(removal.model, [x])
    assert np.ptp(before, axis=0).max() > 0, "the network still tells images apart"
    checks.assert_close([after], [before], 1e-5)


def test_units_that_nobody_reads_go_without_a_trace_in_every_kind_of_network():
    for name in ("resnet", "lenet", "vgg"):
        entry = next(entry for key, entry in ZOO.items() if key.startswith(name))
        model = entry(3)
        spaces = kmerge.channel_spaces(model).selectable
        walked = {s.name for s in spaces}
        removal = remove_dead_units(model, example_inputs(model)[0])
        assert removal.removed == 0 and removal.exact and set(removal.keep) == walked
        checks.assert_same_weights(removal.model, kmerge.select(model, {}))


def test_a_residual_stream_dies_only_where_all_its_makers_are_silent():
    model = resnet((8, 8, 1), 10, 1, depth=8, width=4)
    randomize(model, 1)
    stream = kmerge.channel_spaces(model)["stem"]
    assert len(stream.owners) == 2
    first, second = (model.get_layer(path) for path in stream.owners)
    for layer, units in ((first, [0, 1]), (second, [1, 2])):
        kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
        kernel[..., units] = 0
        layer.kernel.assign(kernel)
    removal = remove_dead_units(model, example_inputs(model)[0])
    np.testing.assert_array_equal(removal.keep["stem"], [0, 2, 3])


def test_a_space_never_loses_all_its_units():
    model = ZOO["mlp"](1)
    model.set_weights([w * 0 if w.ndim > 1 else w for w in model.get_weights()])
    x = example_inputs(model, batch=3)
    removal = remove_dead_units(model, x[0])
    assert all(len(units) == 1 for units in removal.keep.values())
    checks.assert_close(checks.outputs(removal.model, x), checks.outputs(model, x), 1e-5)


# Both


def test_pruned_weights_stay_zero_through_fine_tuning(sine):
    model = sine.build(1)
    pruned = prune_weights(model, 70, "random", sine.data.x_train[:8], seed=2)
    assert pruned.removal.removed > 0
    shapes = [None if mask is None else mask.shape for mask in pruned.masks]
    assert [s for s in shapes if s] == [tuple(w.shape) for w in pruned.model.weights if "kernel" in w.name]
    before = pruned.counts
    tune(pruned, sine, 2, 1, StepByStep())
    for weight, mask in zip(pruned.model.get_weights(), pruned.masks, strict=True):
        assert mask is None or not weight[mask == 0].any()
    assert pruned.counts["nonzero"] == before["nonzero"] == np.sum([np.sum(w != 0) for w in pruned.model.get_weights()])


def test_the_curve_of_lenet_is_not_linear_in_the_percentage(tmp_path):
    task = load_suite("digits").task(1, None, tmp_path, examples=60)
    data = dataclasses.replace(task.data, x_train=np.zeros((4, 28, 28, 1)), x_val=np.zeros((4, 28, 28, 1)))
    rng = np.random.default_rng(1)
    data = dataclasses.replace(data, **{k: rng.normal(size=(4, 28, 28, 1)) for k in ("x_train", "x_val")})
    task = dataclasses.replace(task, data=dataclasses.replace(data, y_val=task.data.y_val[:4]))
    model = lenet((28, 28, 1), 10, 1, activation="relu")
    with without_programs():
        rows = pruning_curve(model, task, Stages(), percentages=[0, 50, 95])
    assert [(row["method"], row["percentage"]) for row in rows] == [(m, p) for m in METHODS for p in (0, 50, 95)]
    json.dumps(rows)
    for whole, half, few in (rows[i : i + 3] for i in (0, 3, 6)):
        assert whole["parameters"] == whole["nonzero"] == 61_706 and whole["removed_units"] == 0
        assert whole["nonzero"] > half["nonzero"] > few["nonzero"]
    # In proportion, the 5 % of the kernels' 61,470 weights that stay would be 3,074, and 236 biases with them.
    blind = rows[8]
    assert blind["removed_units"] > 0 and blind["nonzero"] < 3_074 + 236


def test_a_curve_fine_tunes_where_it_is_told_to(sine):
    model = sine.build(1)
    weights = model.get_weights()
    rows = pruning_curve(model, sine, StepByStep(), methods=["class_blind"], percentages=[50], epochs=1)
    assert np.isfinite(rows[0]["tuned"]) and rows[0]["tuned"] != rows[0]["removed"]
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(kmerge.InvalidArgumentError, match="received 100"):
        pruning_curve(model, sine, Stages(), percentages=[50, 100])
