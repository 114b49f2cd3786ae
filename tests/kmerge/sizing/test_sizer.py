"""`AutoSizer`: sizes change exactly, cheaply, and so that training can go on from a file."""

import contextlib
import dataclasses
import warnings

import keras
import numpy as np
import pytest

import kmerge
from tests.checks import assert_close, check_saves, outputs
from tests.kmerge.sizing.cases import (
    assert_same,
    dense_net,
    plain_net,
    randomized,
    residual_net,
    sizer_of,
    task,
    weights_of,
)
from tests.models import ZOO, example_inputs
from tests.programs import without_programs

NETS = {"plain": plain_net, "residual": residual_net, "dense": dense_net}
# Sizes change within few steps. Nets with convolutions: those of Dense layers alone are compiled by XLA, which takes longer.
FAST = dict(optimizer=keras.optimizers.Adam(0.1), alpha=1e-2, threshold=0.05)
AT_ONCE = {"plain": {"threshold": 0.1}, "residual": {"threshold": 0.4}}  # what changes them in two epochs


def fitted(model, epochs=4, static=1, callbacks=(), initial_epoch=0, sizer=None, programs=False, batch=32, **options):
    """A sizer after a short training in which sizes change, and its history; step by step, if not in programs."""
    sizer = sizer or sizer_of(model, **{**FAST, **options})
    x, y = task(model)
    with contextlib.nullcontext() if programs else without_programs():
        history = sizer.fit(
            x, y, batch_size=batch, epochs=epochs, static_epochs=static, callbacks=callbacks, initial_epoch=initial_epoch,
            verbose=0, validation_data=(x[:8], y[:8]),
        )  # fmt: skip
    return sizer, history


def grown_and_pruned(model: keras.Model, inputs: list) -> tuple:
    """Outputs after growing by three units, and the plain model after pruning at once."""
    sizer = kmerge.AutoSizer(model, min_growth=3)
    sizer.compile("adam", "mse")
    state = sizer._state
    state.examples = inputs[0] if len(inputs) == 1 else inputs
    before = state.sizes
    state.grow(sizer.larger(before))
    grown = outputs(state.load(1e-4).plain, inputs)
    assert all(state.sizes[name] == n + 3 for name, n in before.items())
    state.pull()
    state.prune()
    assert state.sizes == before
    return grown, state.plain_model()


MODELS = {name: lambda build=build: randomized(build()) for name, build in NETS.items()}
MODELS |= {name: lambda name=name: ZOO[name](0) for name in ("densenet", "siamese", "grouped_convolution")}


@pytest.mark.parametrize("name", MODELS)
def test_growing_changes_nothing_and_pruning_at_once_restores_every_bit(name):
    model = MODELS[name]()
    inputs = example_inputs(model)
    grown, plain = grown_and_pruned(model, inputs)
    assert_close(grown, outputs(model, inputs), 1e-5)
    assert_same(weights_of(plain), weights_of(model))
    assert_same(outputs(plain, inputs), outputs(model, inputs))


def test_recurrent_units_are_not_sized():
    x = keras.Input((4, 3))
    h = keras.layers.Bidirectional(keras.layers.LSTM(4), name="memory")(keras.layers.Dense(5, name="before")(x))
    sizer = kmerge.AutoSizer(keras.Model(x, keras.layers.Dense(2, name="out")(h)))
    assert "before" not in sizer.left
    assert "memory mixes them at every step" in sizer.left["memory"]


def test_growing_behind_a_sigmoid_changes_nothing_either():
    model = randomized(dense_net(activation="sigmoid"))
    inputs = example_inputs(model)
    with pytest.warns(kmerge.SizingWarning, match=r"first, second are not zero.*f\(0\) != 0"):
        grown, plain = grown_and_pruned(model, inputs)
    assert_close(grown, outputs(model, inputs), 1e-5)
    assert_close(outputs(plain, inputs), outputs(model, inputs), 1e-5)


def test_units_behind_a_small_gamma_go_and_leave_their_constant():
    x = keras.Input((6,))
    h = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(8, name="hidden")(x))
    model = randomized(keras.Model(x, keras.layers.Dense(3, name="out")(keras.layers.Activation("relu")(h))))
    norm = model.get_layer("norm")
    gamma, beta = norm.gamma.numpy() if hasattr(norm.gamma, "numpy") else np.array(norm.gamma), np.full(8, 0.7)
    gamma[[1, 4]] = 1e-6
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    sizer = sizer_of(model)
    state, inputs = sizer._state, example_inputs(model)
    state.examples = inputs[0]
    state.load(1e-4)
    keep = state.prune()
    assert keep["hidden"].tolist() == [0, 2, 3, 5, 6, 7]
    assert state.not_exact == {} and state.change < 1e-5
    assert_close(outputs(sizer.model, inputs), outputs(model, inputs), 1e-5)


def test_a_constant_that_a_padded_convolution_reads_is_reported():
    x = keras.Input((5, 5, 1))
    h = keras.layers.Conv2D(4, 3, name="hidden")(x)
    h = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(h))
    h = keras.layers.Conv2D(2, 3, padding="same", name="reader")(h)
    model = randomized(keras.Model(x, keras.layers.GlobalAveragePooling2D()(h)))
    model.get_layer("norm").gamma.assign([1e-6, 1.0, 1.0, 1.0])
    model.get_layer("norm").beta.assign([0.7, 0.1, 0.2, 0.3])
    state = sizer_of(model)._state
    state.examples = example_inputs(model)[0]
    state.load(1e-4)
    state.prune()
    assert state.sizes == {"hidden": 3}
    assert "pads its input" in state.not_exact["reader"] and state.change > 1e-4


def test_the_state_of_the_optimizer_stays_with_each_unit():
    sizer = sizer_of(dense_net(), alpha=1e-3)
    x, y = task(dense_net())
    with without_programs():
        sizer.fit(x, y, epochs=2, static_epochs=0, verbose=0)
    state = sizer._state
    before = {key: list(values) for key, values in state.weights.arrays.items()}
    assert all(len(values) == 3 for values in before.values()), "weight, momentum and velocity"
    threshold = float(np.median(np.abs(before["first", 0][0]).max(axis=0)))
    state.options = dataclasses.replace(state.options, threshold=threshold)
    keep = state.prune()
    first, second = keep["first"], keep["second"]
    assert 1 <= len(first) < 12
    expected = {
        ("first", 0): lambda a: a[:, first],
        ("first", 1): lambda a: a[first],
        ("second", 0): lambda a: a[np.ix_(first, second)],
        ("out", 0): lambda a: a[second],
    }
    for key, pick in expected.items():
        assert_same(state.weights.arrays[key], [pick(array) for array in before[key]])
        assert any(np.any(array) for array in state.weights.arrays[key][1:])
    state.grow(sizer.larger(state.sizes))
    for (key, _), (_, pick) in zip(expected.items(), expected.items(), strict=True):
        for new, old in zip(state.weights.arrays[key], before[key], strict=True):
            kept = pick(old)
            assert np.array_equal(new[tuple(slice(n) for n in kept.shape)], kept)
    model = sizer.model
    assert int(model.optimizer.iterations) == 2 * 2


def test_a_compiled_model_hands_on_the_state_of_its_optimizer():
    model = dense_net()
    model.compile("adam", "sparse_categorical_crossentropy")
    with without_programs():
        model.fit(*task(model), epochs=1, verbose=0)
    weights = weights_of(model)
    resized = kmerge.AutoSizer(model).model
    values = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    assert_same([keras.ops.convert_to_numpy(v) for v in resized.optimizer.variables], values)
    assert_same(weights_of(model), weights)


def test_restart_is_the_papers_empty_slots_with_the_old_step_counter():
    sizer, _ = fitted(plain_net(), epochs=2, static=0, optimizer_state="restart")
    slots = {key: values[1:] for key, values in sizer._state.weights.arrays.items()}
    assert not any(np.any(slot) for key in (("conv", 0), ("out", 0)) for slot in slots[key])
    assert any(np.any(slot) for slot in slots["out", 1]), "its bias has no units that come and go"
    assert int(sizer.model.optimizer.iterations) == 2 * 2


@pytest.mark.parametrize("name, programs", [("plain", True), ("residual", False)])
def test_sizes_change_the_result_is_plain_and_the_model_given_is_left_alone(name, programs):
    model = NETS[name]()
    weights = weights_of(model)
    sizer, history = fitted(model, epochs=2, programs=programs, **AT_ONCE[name])
    assert_same(weights_of(model), weights)
    assert type(sizer.model) in (keras.Model, type(model))
    found = {n: s.size for n, s in kmerge.channel_spaces(sizer.model).items() if s.selectable}
    assert found == sizer.sizes == history.history["units"][-1] == history.history["units"][-2]
    assert len(history.history["units"]) == 3 == len(history.history["val_accuracy"])
    assert len({str(sizes) for sizes in history.history["units"]}) > 1, "nothing changed"
    assert [layer.name for layer in sizer.model.layers] == [layer.name for layer in model.layers]


def test_the_result_loads_where_kmerge_is_not_known(tmp_path):
    sizer, _ = fitted(residual_net(), epochs=1, static=0)
    check_saves({"found": sizer.model}, tmp_path)


# Of the plain one, after an epoch in which sizes change and after one in which they don't any more.
@pytest.mark.parametrize("name, epochs, static", [("plain", (0, 2), 2), ("residual", (0,), 0)])
def test_resumed_training_equals_uninterrupted(name, epochs, static, tmp_path):
    model = NETS[name]()
    how, saved = dict(epochs=2, static=static), {}

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch in epochs:
                saved[epoch] = tmp_path / f"{epoch}.npz"
                sizer.save(saved[epoch])

    sizer = sizer_of(model, **{**FAST, **AT_ONCE[name]})
    fitted(model, **how, callbacks=[Save()], sizer=sizer)
    assert len({str(record["sizes"]) for record in sizer.history_of_sizes}) > 1
    for epoch, path in saved.items():
        resumed = kmerge.AutoSizer.load(path)
        assert resumed.epochs_done == epoch + 1
        fitted(model, **how, initial_epoch=resumed.epochs_done, sizer=resumed)
        assert resumed.history_of_sizes == sizer.history_of_sizes
        a, b = resumed.model, sizer.model
        assert_same(weights_of(a), weights_of(b))
        assert_same(
            [keras.ops.convert_to_numpy(v) for v in a.optimizer.variables],
            [keras.ops.convert_to_numpy(v) for v in b.optimizer.variables],
        )


def test_room_for_units_changes_no_result():
    results, model = [], plain_net(dropout=0.0)
    for exact in ([], ["conv", "down", "dense"]):
        sizer = sizer_of(model, keras.optimizers.SGD(0.01, momentum=0.9), alpha=1e-3)
        sizer._state.rooms.exact = exact
        results.append(fitted(model, sizer=sizer, epochs=2, static=0)[0])
    padded, exact = results
    assert [record["room"] == record["grown"] for record in padded.history_of_sizes] == [False, False]
    assert [record["room"] == record["grown"] for record in exact.history_of_sizes] == [True, True]
    assert padded.sizes == exact.sizes
    assert_close(weights_of(padded.model), weights_of(exact.model), 1e-4)


def test_sizes_fall_as_alpha_rises():
    model = plain_net()
    sizers = [fitted(model, alpha=alpha, epochs=2, static=0, batch=16)[0] for alpha in (1e-4, 1e-2, 1.0)]
    total = [sum(sizer.sizes.values()) for sizer in sizers]
    assert total[0] > total[1] > total[2]


def test_alpha_may_change_while_it_trains():
    model = plain_net()
    sizer, _ = fitted(model, alpha=lambda epoch: 1e-1 if epoch < 2 else 1e-5, epochs=2, static=0)
    small = sum(sizer.sizes.values())
    fitted(model, epochs=3, static=0, initial_epoch=2, sizer=sizer)
    assert sum(sizer.sizes.values()) > small


@pytest.mark.parametrize("penalty", ["l1", "l21", "linf1", kmerge.regularizers.WeightedL1(1.0, "sqrt")])
def test_other_penalties_size_too(penalty):
    sizer, history = fitted(plain_net(), penalty=penalty, alpha=0.5, threshold=0.2, epochs=1, static=0)
    assert sum(sizer.sizes.values()) < sum(sizer.history_of_sizes[-1]["grown"].values())
    assert np.isfinite(history.history["loss"]).all()


def test_schedules():
    model = plain_net()
    _, end = fitted(model, epochs=3, static=0, prune="end", grow=False, batch=16, threshold=0.1)
    units = end.history["units"]
    assert units[0] == units[1] == {"conv": 8, "down": 8, "dense": 8} and sum(units[2].values()) < 24
    sizer, never = fitted(model, epochs=2, static=0, prune="never", batch=32)
    assert sizer.compiles == 1, "there is room for 16 units"
    assert [set(sizes.values()) for sizes in never.history["units"]] == [{11}, {14}]
    sizer, _ = fitted(model, epochs=4, static=0, period=2, min_units=7, batch=16, threshold=0.1)
    grown = [record["grown"] for record in sizer.history_of_sizes]
    assert grown[0] == grown[1] and grown[2] == grown[3] == sizer.larger(sizer.history_of_sizes[1]["sizes"])
    assert min(sizer.sizes.values()) >= 7


@pytest.mark.parametrize("growth", [0.2, "adaptive"])
def test_no_space_grows_beyond_the_most_units_but_one_that_has_more_keeps_them(growth, tmp_path):
    options = dict(epochs=2, static=0, growth=growth, threshold=1e-9, batch=64)  # nothing is dropped
    free, _ = fitted(plain_net(), **options)
    assert max(free.sizes.values()) > 10
    sizer, _ = fitted(plain_net(), max_units=10, **options)
    assert set(sizer.sizes.values()) == {10}
    sizer.save(tmp_path / "sizer")
    assert kmerge.AutoSizer.load(tmp_path / "sizer").larger({"conv": 4, "down": 9, "dense": 12}) == {
        "conv": 5 if growth == "adaptive" else 7,
        "down": 10,
        "dense": 12,
    }
    kept, _ = fitted(plain_net(), max_units=7, **options)
    assert set(kept.sizes.values()) == {8}


def test_a_period_of_steps():
    model = plain_net()
    sizer, history = fitted(model, epochs=2, static=1, period_steps=2, batch=16)
    assert [record["epoch"] for record in sizer.history_of_sizes] == [0, 0, 1, 1]
    for before, after in zip(sizer.history_of_sizes, sizer.history_of_sizes[1:], strict=False):
        assert after["grown"] == sizer.larger(before["sizes"])
    assert len(history.history["units"]) == 3 == len(history.history["val_loss"])
    assert int(sizer.model.optimizer.iterations) == 3 * 4
    # In one period an epoch sees the same batches in the same order as without parts.
    whole, parts = (
        fitted(model, epochs=1, static=0, grow=False, prune="never", batch=16, **o)[0] for o in ({}, {"period_steps": 2})
    )
    assert_close(weights_of(parts.model), weights_of(whole.model), 1e-4)


def test_callbacks_of_batches_and_epochs_see_the_training():
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append("begin")

        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            seen.append(sorted(logs))
            self.model.stop_training = epoch == 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that model.fit does the training
        sizer, history = fitted(plain_net(), callbacks=[See()])
    logs = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert seen == ["begin", 0, 1, logs, 0, 1, logs]
    assert len(history.history["units"]) == 2 == sizer.epochs_done


def test_spaces_can_be_chosen_and_the_others_say_why():
    sizer, _ = fitted(plain_net(), spaces=["down"], epochs=1, static=0)
    assert list(sizer.sizes) == ["down"]
    assert "not among the spaces asked for" in sizer.left["conv"] and "output" in sizer.left["out"]
    x = keras.Input((6,))
    h = keras.layers.BatchNormalization(scale=False, name="norm")(keras.layers.Dense(5, name="a")(x))
    h = keras.layers.LayerNormalization()(keras.layers.Dense(5, name="b")(h))
    left = kmerge.AutoSizer(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(3, name="c")(h)))).left
    assert "norm normalizes its units and has no scale" in left["a"] and "normalized together" in left["b"]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(alpha=0), r"^AutoSizer: expected alpha to be a number above 0, received 0\. .*kmerge\.fit for no penalty"),
        (dict(alpha=lambda epoch: -1.0), "alpha to be a number above 0, received -1.0"),
        (dict(threshold=0.0), r"expected threshold to be a number above 0, received 0\.0\. .*\(tau\) are dropped"),
        (dict(growth=-0.1), "growth to be a share.*received -0.1"),
        (dict(growth="much"), "growth to be a share.*or \"adaptive\", received 'much'"),
        (dict(growth="adaptive", prune="end"), "prune to be \"period\" with growth=\"adaptive\".*received 'end'"),
        (dict(min_units=0), "min_units to be a whole number of at least 1, received 0"),
        (dict(period=1.5), "period to be a whole number of at least 1, received 1.5"),
        (dict(period_steps=0), "period_steps to be a whole number of at least 1 or None, received 0"),
        (dict(min_units=3, max_units=2), "max_units to be a whole number of at least 3 or None, received 2"),
        (dict(seed=0.5), "seed to be a whole number of at most 64 bits, received 0.5"),
        (dict(prune="always"), "prune to be one of 'period', 'end', 'never', received 'always'"),
        (dict(optimizer_state="new"), "optimizer_state to be one of 'carry', 'restart', received 'new'"),
        (dict(penalty="l3"), "penalty to be one of 'weighted_l1', .*received 'l3'.*kmerge.regularizers"),
        (dict(spaces=["out"]), "selectable space, received 'out'. It is not: output 0 of the model"),
    ],
)
def test_bad_options_say_what_was_expected_and_received(options, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.AutoSizer(dense_net(), **options)


def test_what_cannot_be_sized_is_refused():
    x = keras.Input((4,))
    with pytest.raises(kmerge.InvalidArgumentError, match="no channel space that can be sized.*output 0 of the model"):
        kmerge.AutoSizer(keras.Model(x, keras.layers.Dense(2)(x)))
    with pytest.raises(kmerge.InvalidArgumentError, match="was not compiled. Call sizer.compile"):
        kmerge.AutoSizer(dense_net()).fit(*task(dense_net()))
    with pytest.raises(kmerge.InvalidArgumentError, match="Adafactor keeps a state of shape"):
        sizer_of(dense_net(), keras.optimizers.Adafactor())


def test_an_optimizer_without_state_is_warned_of(tmp_path):
    with pytest.warns(
        kmerge.SizingWarning, match="SGD keeps no state.*hardly moves units of the size of the threshold"
    ):
        sizer = sizer_of(dense_net(), keras.optimizers.SGD(0.01))
    sizer.save(tmp_path / "sizer.npz")
    with warnings.catch_warnings(action="error", category=kmerge.SizingWarning), pytest.raises(kmerge.SizingWarning):
        kmerge.AutoSizer.load(tmp_path / "sizer.npz")


def test_a_network_for_inputs_of_any_size_is_sized_as_one_for_a_known_size():
    x = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    h = keras.layers.Dense(4, activation="softmax")(keras.layers.GlobalAveragePooling2D()(h))
    known = randomized(keras.Model(x, h))
    opened = keras.models.clone_model(known, keras.Input((None, None, 1)))
    opened.set_weights(known.get_weights())
    options = dict(optimizer=keras.optimizers.Adam(0.05), alpha=1e-2, threshold=0.5)
    sizers = [sizer_of(model, **options) for model in (known, opened)]
    x, y = task(known, 32)
    with without_programs():
        for sizer in sizers:
            sizer.fit(x, y, batch_size=8, epochs=2, static_epochs=0, verbose=0)
    assert sizers[0].sizes == sizers[1].sizes == {"conv": 2}
    assert_close(*(outputs(sizer.model, [x]) for sizer in sizers), 1e-5)
    assert sizers[1].model.input_shape == (None, None, None, 1)
