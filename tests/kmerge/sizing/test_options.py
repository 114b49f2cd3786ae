"""`AutoSizer` beyond the paper: proximal steps, adaptive growth, and a penalty by fan-in. Runs on each backend."""

import contextlib
import dataclasses
import json

import keras
import numpy as np
import pytest

import kmerge
from kmerge.regularizers import L21, WeightedL1
from kmerge.sizing.options import SizingOptions
from kmerge.sizing.schedule import adapted_sizes
from tests.checks import assert_close
from tests.kmerge.sizing.cases import assert_same, plain_net, randomized, residual_net, sizer_of, task, weights_of
from tests.programs import without_programs

# Sizes change within few steps.
FAST = dict(optimizer=keras.optimizers.Adam(0.02), alpha=0.3, threshold=0.01)


def fitted(sizer, epochs=2, static=0, programs=False, **options):
    model = sizer.model
    with contextlib.nullcontext() if programs else without_programs():
        sizer.fit(*task(model), **{"batch_size": 16, "epochs": epochs, "static_epochs": static, "verbose": 0, **options})
    return sizer


@pytest.mark.parametrize("regularizer", [WeightedL1(1.0), L21(1.0)], ids=lambda r: type(r).__name__)
def test_what_is_shrunk_is_the_least_of_penalty_and_distance(regularizer):
    rng = np.random.default_rng(3)
    parts = [rng.normal(size=(n, 4)).astype("float32") for n in (7, 1)]
    amounts = np.array([0.0, 0.1, 0.9, 50.0], "float32")

    def cost(found):
        distance = sum(np.sum((a - b) ** 2) for a, b in zip(found, parts, strict=True)) / 2
        return np.sum(amounts * keras.ops.convert_to_numpy(regularizer.norms(*found))) + distance

    shrunk = [keras.ops.convert_to_numpy(part) for part in regularizer.shrunk(parts, amounts)]
    for part, given in zip(shrunk, parts, strict=True):
        assert np.array_equal(part[:, 0], given[:, 0]) and not np.any(part[:, 3])
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(20):
            other = [part + (size * rng.normal(size=part.shape)).astype("float32") for part in shrunk]
            assert cost(shrunk) <= cost(other) + 1e-5


@pytest.mark.both_backends
@pytest.mark.parametrize("penalty", ["weighted_l1", "l21"])
@without_programs()
def test_a_proximal_step_follows_each_step_of_the_optimizer(penalty):
    model, rate, alpha, steps = randomized(plain_net(dropout=0.0)), 0.05, 0.2, 3
    options = dict(penalty=penalty, alpha=alpha, proximal=True, grow=False, prune="never")
    sizer = sizer_of(model, keras.optimizers.SGD(rate), **options)
    x, y = task(model, 24)
    sizer.fit(x, y, batch_size=8, epochs=1, static_epochs=0, shuffle=False, verbose=0)
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    for step in range(steps):
        batch = slice(8 * step, 8 * step + 8)
        kmerge.fit(model, x[batch], y[batch], batch_size=8, shuffle=False, verbose=0)
        for name in ("conv", "down", "dense"):
            kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.get_layer(name).weights)
            ranks = np.arange(1, 9)
            if penalty == "weighted_l1":
                kernel, bias = (np.sign(w) * np.maximum(np.abs(w) - rate * alpha * ranks, 0) for w in (kernel, bias))
            else:
                norm = np.sqrt(np.sum(kernel**2, axis=tuple(range(kernel.ndim - 1))) + bias**2)
                kernel, bias = (w * np.maximum(1 - rate * alpha / norm, 0) for w in (kernel, bias))
            model.get_layer(name).set_weights([kernel, bias])
    assert_close(weights_of(sizer.model), weights_of(model), 1e-5)


@pytest.mark.both_backends
def test_with_proximal_steps_units_that_are_zero_go_whatever_the_threshold_is():
    found, model = [], plain_net()
    for threshold in (1e-6, 1e-1):
        sizer = sizer_of(model, **{**FAST, "threshold": threshold, "proximal": True, "grow": False})
        found.append(fitted(sizer, epochs=3))
    low, high = found
    assert 3 < sum(low.sizes.values()) < 24
    assert low.sizes == high.sizes
    assert_same(weights_of(low.model), weights_of(high.model))


@pytest.mark.both_backends
def test_proximal_steps_under_one_program_with_adam_that_keeps_its_state():
    sizer = fitted(sizer_of(plain_net(), **{**FAST, "proximal": True}), static=1, programs=True)
    assert sizer.exact == [] and sizer.compiles == 2, "a dynamic program and a static one"
    last = sizer.history_of_sizes[-1]
    assert sum(last["sizes"].values()) < sum(last["grown"].values())
    optimizer = sizer.model.optimizer
    assert type(optimizer) is keras.optimizers.Adam and int(optimizer.iterations) == 3 * 4
    assert len(optimizer.variables) == 2 + 2 * len(sizer.model.trainable_variables)
    assert any(np.any(slots[1]) for slots in sizer._state.weights.arrays.values() if len(slots) > 1)


@pytest.mark.both_backends
def test_proximal_steps_behind_a_normalization_shrink_gamma_and_beta():
    model = randomized(residual_net())
    sizer = fitted(
        sizer_of(model, **{**FAST, "alpha": 4.0, "proximal": True, "grow": False, "prune": "never"}), epochs=1
    )
    gammas = [weights_of(sizer.model.get_layer(f"{name}_norm"))[0] for name in ("stem", "block", "back")]
    assert any(np.any(gamma == 0) for gamma in gammas) and all(np.isfinite(gamma).all() for gamma in gammas)
    sizer = fitted(sizer_of(model, **{**FAST, "alpha": 4.0, "proximal": True}))
    assert sum(sizer.sizes.values()) < sum(sizer.history_of_sizes[-1]["grown"].values())


def test_layers_that_do_not_train_do_not_shrink():
    model = plain_net()
    model.get_layer("conv").trainable = False
    sizer = fitted(sizer_of(model, **{**FAST, "proximal": True, "grow": False, "prune": "never"}), epochs=1)
    for name in ("conv", "down"):
        before, after = (weights_of(m.get_layer(name)) for m in (model, sizer.model))
        assert all(np.array_equal(a, b) == (name == "conv") for a, b in zip(before, after, strict=True))


@pytest.mark.both_backends
def test_proximal_steps_with_a_scaled_loss_and_collected_gradients():
    before = keras.mixed_precision.dtype_policy()
    for policy, collected, expected in (("mixed_float16", None, "LossScaleOptimizer"), ("float32", 2, "Adam")):
        optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=collected)
        keras.mixed_precision.set_global_policy(policy)
        try:
            sizer = sizer_of(plain_net(), **{**FAST, "optimizer": optimizer, "proximal": True})
            fitted(sizer, programs=collected is None)
            model = sizer.model
        finally:
            keras.mixed_precision.set_global_policy(before)
        assert sum(sizer.sizes.values()) < sum(sizer.history_of_sizes[-1]["grown"].values())
        assert all(np.isfinite(w).all() for w in weights_of(model))
        assert type(model.optimizer).__name__ == expected


@pytest.mark.both_backends
def test_penalties_without_a_proximal_step_are_refused():
    with pytest.raises(kmerge.InvalidArgumentError, match="False with LInf1.*received True. Take weighted_l1"):
        kmerge.AutoSizer(plain_net(), penalty="linf1", proximal=True)
    with pytest.raises(kmerge.InvalidArgumentError, match="False with L21 where a normalization scales units"):
        kmerge.AutoSizer(residual_net(), penalty="l21", proximal=True)


def test_adaptive_growth_follows_what_stayed():
    sizes = {"all": 40, "none": 40, "some": 40, "few": 3, "one": 1}
    offered = {"all": 10, "none": 10, "some": 10, "few": 1, "one": 4}
    stayed = {"all": 8, "none": 1, "some": 5, "few": 1, "one": 4}
    history = [{"new": offered, "stayed": stayed}, {"new": offered}]
    grown = adapted_sizes(sizes, 20, history)
    # The last may not double beyond its size, and does not shrink what it offers for it.
    assert {n: grown[n] - sizes[n] for n in sizes} == {"all": 20, "none": 5, "some": 10, "few": 2, "one": 4}
    assert adapted_sizes(sizes, 20, history) != adapted_sizes(sizes, 20, [])
    assert adapted_sizes({"a": 200, "b": 4}, 20, []) == {"a": 240, "b": 24}
    assert adapted_sizes({"a": 3}, 0, [{"new": {"a": 1}, "stayed": {"a": 0}}]) == {"a": 4}
    # Behind a limit nothing was offered; below it a unit is again.
    assert adapted_sizes({"a": 3}, 0, [{"new": {"a": 0}, "stayed": {"a": 0}}]) == {"a": 4}


def test_adaptive_growth_offers_less_where_new_units_go_and_more_where_they_stay():
    for alpha, direction in ((0.3, -1), (1e-9, 1)):
        options = {**FAST, "alpha": alpha, "threshold": 1e-6, "proximal": True, "growth": "adaptive", "min_growth": 4}
        sizer = fitted(sizer_of(plain_net(), **options), epochs=3)
        for before, after in zip(sizer.history_of_sizes, sizer.history_of_sizes[1:], strict=False):
            for name, offered in after["new"].items():
                assert after["grown"][name] - before["sizes"][name] == offered
                assert 0 <= before["stayed"][name] <= before["new"][name]
        first, *_, last = (sum(record["new"].values()) for record in sizer.history_of_sizes)
        assert np.sign(last - first) == direction


def test_a_period_of_two_epochs_counts_what_came_at_its_start():
    options = {**FAST, "growth": "adaptive", "min_growth": 2, "period": 2}
    records = fitted(sizer_of(plain_net(), **options), epochs=4).history_of_sizes
    assert [set(record["new"].values()) for record in records[:2]] == [{2}, {2}]
    assert ["stayed" in record for record in records] == [False, True, False, True]


def test_options_survive_their_configuration_and_cannot_be_changed():
    options = SizingOptions(
        L21(2.0), "adaptive", np.int64(3), np.float32(0.5), 2, 5, 2, 9, False, "period", "restart", True, ("a", "b"), 7
    )
    defaults = SizingOptions()
    changed = {name for name, value in vars(options).items() if value != getattr(defaults, name)}
    assert changed == set(vars(defaults)) - {"prune"}, "adaptive growth needs the default"
    config = json.loads(json.dumps(options.get_config()))
    copy = SizingOptions.from_config(config)
    assert copy.get_config() == config and copy.regularizer.get_config() == options.regularizer.get_config()
    assert SizingOptions.from_config(defaults.get_config()) == defaults
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 1


def test_a_strength_may_be_set_at_any_time_and_is_checked_then():
    sizer = sizer_of(plain_net())
    sizer.alpha = lambda epoch: 0.1 * (epoch + 1)
    assert sizer.alpha_at(1) == pytest.approx(0.2)
    with pytest.raises(kmerge.InvalidArgumentError, match="alpha to be a number above 0, received -1"):
        sizer.alpha = -1


def test_options_go_on_from_a_file(tmp_path):
    model = plain_net()
    penalty = WeightedL1(1.0, normalize="fan_in")
    options = {**FAST, "alpha": 10.0, "penalty": penalty, "proximal": True, "growth": "adaptive", "min_growth": 4}
    whole, part = sizer_of(model, **options), sizer_of(model, **options)
    fitted(whole, epochs=3)
    fitted(part, epochs=2)
    part.save(tmp_path / "part.npz")
    resumed = fitted(kmerge.AutoSizer.load(tmp_path / "part.npz"), epochs=3, initial_epoch=2)
    assert resumed.history_of_sizes == whole.history_of_sizes
    assert_same(weights_of(resumed.model), weights_of(whole.model))


def test_normalized_by_fan_in_a_unit_pays_for_the_mean_of_its_weights():
    kernel = np.random.default_rng(1).normal(size=(3, 3, 2, 5)).astype("float32")
    regularizer = WeightedL1(0.1, normalize="fan_in")
    expected = 0.1 * np.sum(np.arange(1, 6) * np.abs(kernel).reshape(-1, 5).mean(axis=0))
    assert float(regularizer(keras.ops.convert_to_tensor(kernel))) == pytest.approx(expected, rel=1e-5)
    copy = keras.regularizers.deserialize(keras.regularizers.serialize(regularizer))
    assert copy.get_config() == regularizer.get_config() == {"alpha": 0.1, "f": "identity", "normalize": "fan_in"}
    with pytest.raises(kmerge.InvalidArgumentError, match="normalize to be one of 'fan_in', None, received 'fan_out'"):
        WeightedL1(0.1, normalize="fan_out")


@pytest.mark.both_backends
@pytest.mark.parametrize(
    "net, fan_in",
    [
        (plain_net, {"conv": 9 + 1, "down": 9 * 11 + 1, "dense": 4 * 11 + 1}),
        # Two kernels make the stream: of 9 and 10 weights. Normalizations are folded into kernels.
        (residual_net, {"stem": 9 + 10, "block": 9 * 9}),
    ],
    ids=["plain", "residual"],
)
def test_fan_in_is_that_of_the_units_alive(net, fan_in):
    sizer = sizer_of(net(), penalty=WeightedL1(1.0, normalize="fan_in"), alpha=0.5)
    state = sizer._state
    state.grow(sizer.larger(state.sizes))
    factors = keras.ops.convert_to_numpy(state.load(0.5).penalty.factors)
    start = 0
    for name, room in state.working.room.items():
        alive = state.sizes[name]
        expected = 0.5 * np.arange(1, alive + 1) / fan_in[name]
        np.testing.assert_allclose(factors[start : start + alive], expected, rtol=1e-6)
        assert not np.any(factors[start + alive : start + room])
        start += room
    assert start + 1 == len(factors)
