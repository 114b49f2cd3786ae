"""Recurrent layers, whose units stand in every gate's block and in the recurrent kernel."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.gates import GATED_RECURRENT
from tests import checks
from tests.checks import concatenated, family, grown, halved, parent, permuted
from tests.kmerge.merging.test_merging import assert_same_architecture, harden
from tests.kmerge.rules.recurrent_models import CASES
from tests.models import JIT, example_inputs, randomize
from tests.programs import without_programs

BOTH = ("lstm_stack", "masked")


def every_case(*without: str):
    return some_cases(*(name for name in CASES if name not in without))


def some_cases(*names: str):
    marks = [pytest.mark.both_backends]
    cases = [pytest.param(CASES[name], id=name, marks=marks if name in BOTH else []) for name in names]
    return pytest.mark.parametrize("entry", cases)


# The verbs.


@every_case()
def test_concatenate_is_the_mean_of_the_logits(entry):
    checks.check_concatenate(entry, family(entry), concatenated(entry))


# Where the units of one layer are the model's outputs, a layer that reads them reads those of both parents.
@every_case("outputs")
def test_selecting_one_parent_gives_that_parent(entry):
    checks.check_select_parent(entry, family(entry), concatenated(entry), 1)


@some_cases("encoder_and_decoder")
def test_three_concatenate_and_give_one_back(entry):
    checks.check_concatenate(entry, family(entry, 3), concatenated(entry, 3))
    checks.check_select_parent(entry, family(entry, 3), concatenated(entry, 3), 1)


@every_case()
def test_permute_and_back(entry):
    assert permuted(entry) is not parent(entry, 0)


@every_case()
def test_select_commutes_with_permute(entry):
    assert halved(entry) is not parent(entry, 0)


@every_case()
def test_new_units_change_nothing_and_can_go_again(entry):
    assert grown(entry) is not parent(entry, 0)


@every_case()
def test_merge_is_exact_at_open_and_at_decided_gates(entry):
    parents = family(entry)
    inputs = example_inputs(parents[0])
    with pytest.warns(UserWarning, match="averaged") if entry.leaves_others else contextlib.nullcontext():
        big = kmerge.merge(*parents, gates="open")
    if not entry.leaves_others:
        each = [checks.logits(network, inputs, entry.final) for network in parents]
        means = [np.mean(values, axis=0) for values in zip(*each, strict=True)]
        checks.assert_close(checks.logits(big, inputs, entry.final), means, 1e-5)
    harden(big)
    small = kmerge.compress(big)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(big, inputs), 1e-5)
    assert_same_architecture(small, parents[0])


@some_cases("gru_stack", "cells", "masked", "images_in_time")
def test_gates_between_0_and_1_fold_into_the_kernels(entry):
    big = kmerge.merge(*family(entry), sampling="batch", width=0.5)
    harden(big)
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(gate.values() > 0, np.linspace(-1.0, 1.0, gate.units), -20.0))
    inputs = example_inputs(big)
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


@some_cases("masked", "cells", "images_in_time")
def test_a_saved_big_student_compresses_the_same(entry, tmp_path):
    big = kmerge.merge(*family(entry))
    harden(big)
    big.save(tmp_path / "big.keras")
    loaded, inputs = keras.models.load_model(tmp_path / "big.keras"), example_inputs(big)
    checks.assert_close(checks.outputs(loaded, inputs), checks.outputs(big, inputs), 1e-6)
    checks.assert_same_weights(kmerge.compress(loaded), kmerge.compress(big))


def test_rewritten_models_load_without_kmerge(tmp_path):
    models = {"masked": halved(CASES["masked"]), "cells": halved(CASES["cells"])}
    checks.check_saves(models | {"decoder": concatenated(CASES["encoder_and_decoder"])}, tmp_path)


# Units.


def _one(layer, *states, places=(4, 3)) -> keras.Model:
    x = keras.Input(places)
    h = layer(layers.Dense(4, name="before")(x), *states)
    network = keras.Model(x, layers.Dense(2, name="after")(h))
    randomize(network, 1)
    return network


def test_a_unit_stands_in_every_block():
    model = _one(layers.GRU(4, name="middle"))
    space = kmerge.channel_spaces(model)["middle"]
    assert (space.size, space.owners, space.consumers) == (4, ("middle",), ("middle", "after"))
    small = kmerge.select(model, {"middle": [1, 3], "before": [0, 2]}).get_layer("middle")
    kernel, recurrent, bias = model.get_layer("middle").get_weights()
    columns = [1, 3, 5, 7, 9, 11]
    expected = [kernel[[0, 2]][:, columns], recurrent[[1, 3]][:, columns], bias[:, columns]]
    assert all(np.array_equal(new, old) for new, old in zip(small.get_weights(), expected, strict=True))
    assert small.units == 2


def test_both_directions_keep_and_lose_units_together():
    """Keras takes the width of the second from the first."""
    model = _one(layers.Bidirectional(layers.LSTM(3), name="middle"))
    assert checks.selectable(model) == {"before": 4, "middle": 3}
    small = kmerge.select(model, {"middle": [2]})
    assert small.get_layer("middle").output.shape == (None, 2)
    kernel = ops.convert_to_numpy(model.get_layer("after").kernel)
    assert np.array_equal(small.get_layer("after").kernel, kernel[[2, 5]])


def test_a_state_ties_the_layer_that_starts_from_it():
    spaces = kmerge.channel_spaces(parent(CASES["encoder_and_decoder"], 0))
    assert set(spaces["encoder"].owners) == {"encoder", "decoder"}
    assert set(spaces["second"].owners) == {"second", "start"}


def test_a_unit_that_nobody_reads_can_go():
    model = _one(layers.LSTM(4, name="middle"))
    for weight in (model.get_layer("middle").cell.recurrent_kernel, model.get_layer("after").kernel):
        weight.assign(ops.convert_to_numpy(weight) * np.reshape([1, 0, 1, 1], (4, 1)))
    inputs = example_inputs(model)
    small = kmerge.select(model, {"middle": [0, 2, 3]})
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(model, inputs), 1e-6)


def test_new_units_are_drawn_as_keras_draws_them():
    model = _one(layers.Bidirectional(layers.LSTM(4, name="lstm"), name="middle"))
    layer = kmerge.grow(model, {"middle": 60}, scale=1.0).get_layer("middle")
    new = np.r_[4:64]
    for run in (layer.forward_layer, layer.backward_layer):
        kernel, recurrent, bias = run.get_weights()
        assert np.std(kernel[:, new]) == pytest.approx(np.sqrt(2 / (4 + 256)), rel=0.15)  # glorot_uniform
        assert np.std(recurrent[:, new]) == pytest.approx(1 / 16, rel=0.15)  # orthogonal, of 64 rows and 256 columns
        assert [set(block[new]) for block in np.split(bias, 4)] == [{0.0}, {1.0}, {0.0}, {0.0}]
    assert not np.array_equal(layer.forward_layer.get_weights()[0][:, new], layer.backward_layer.get_weights()[0][:, new])


@pytest.mark.parametrize("importance", ["magnitude", "magnitude_l1", "fpgm", "taylor", "random"])
def test_every_importance_prunes(importance):
    model = _one(layers.Bidirectional(layers.GRU(4)))
    model.compile("sgd", "mse", jit_compile=JIT)
    data = (example_inputs(model)[0], np.ones((4, 2), "float32")) if importance == "taylor" else None
    for selection in ("local", "global"):
        with without_programs():
            small = kmerge.prune(model, importance, budget=0.6, data=data, selection=selection)
        assert small.count_params() <= 0.6 * model.count_params()
        assert np.isfinite(checks.outputs(small, example_inputs(small))[0]).all()


@some_cases("masked", "cells", "images_in_time")
def test_what_narrower_layers_cost_is_foretold(entry):
    model = parent(entry, 0)
    choice = kmerge.choose_units(model, budget=kmerge.Budget(multiply_accumulates=0.6))
    _, foretold, _ = choice.costs["multiply_accumulates"]
    assert kmerge.multiply_accumulates(kmerge.select(model, choice)) == foretold


def test_taylor_is_the_gradient_of_a_gate():
    """One unit's gate, at the recurrent kernel and at the layer behind: the change of the loss by a small step of it."""
    model, step = _one(layers.GRU(3, name="middle")), 1e-2
    model.compile("sgd", "mse", jit_compile=JIT)
    inputs, targets = example_inputs(model), np.ones((4, 2), "float32")

    def loss(factors):
        moved = keras.models.clone_model(model)
        moved.set_weights(model.get_weights())
        for weight in (moved.get_layer("middle").cell.recurrent_kernel, moved.get_layer("after").kernel):
            weight.assign(ops.convert_to_numpy(weight) * np.reshape(factors, (3, 1)))
        return np.mean((checks.outputs(moved, inputs)[0] - targets) ** 2)

    slopes = [(loss(1 + step * unit) - loss(1 - step * unit)) / (2 * step) for unit in np.eye(3)]
    found = kmerge.unit_importance(model, "taylor", (inputs[0], targets))["middle"]
    assert found == pytest.approx(np.square(slopes), rel=1e-2)


# Gates.

KINDS = {
    "simple": lambda **o: layers.SimpleRNN(3, **o),
    "lstm": lambda **o: layers.LSTM(3, **o),
    "gru": lambda **o: layers.GRU(3, **o),
    "gru_before": lambda **o: layers.GRU(3, reset_after=False, **o),
    "gru_plain": lambda **o: layers.GRU(3, use_bias=False, **o),
    "both_ways": lambda **o: layers.Bidirectional(layers.LSTM(3, return_state=True, **o)),
    "images": lambda **o: layers.ConvLSTM2D(3, 2, **o),
    "cells": lambda **o: layers.RNN([layers.GRUCell(1, **o), layers.LSTMCell(2, **o)], return_sequences=True),
}


def _pair(kind: str, **options) -> tuple:
    """A layer and the one with gates in its place, of equal weights."""
    plain = KINDS[kind](**options)
    gated = GATED_RECURRENT[type(plain)].from_config(plain.get_config())
    x = np.random.default_rng(3).normal(size=(4, 3, 4, 4, 2) if kind == "images" else (4, 5, 2)).astype("float32")
    plain(x)
    for i, weight in enumerate(plain.weights):
        weight.assign(np.random.default_rng([4, i]).normal(size=weight.shape))
    gated(x, head_gates=np.ones((1, 3), "float32"))
    gated.set_weights(plain.get_weights())
    return plain, gated, x


@pytest.mark.parametrize("kind", KINDS)
def test_gates_of_each_example_do_what_they_do_in_the_kernels(kind):
    plain, gated, x = _pair(kind)
    gates = np.random.default_rng(5).uniform(size=(4, 3)).astype("float32")
    mask = None if kind == "images" else np.arange(5) < np.array([[5], [2], [3], [4]])
    found = keras.tree.flatten(gated(x, mask=mask, head_gates=gates))
    for i in range(4):
        rows, part = gates[i : i + 1], None if mask is None else mask[i : i + 1]
        shared = keras.tree.flatten(gated(x[i : i + 1], mask=part, head_gates=rows))
        checks.assert_close([y[i : i + 1] for y in found], shared, 1e-5)
        scaled = KINDS[kind]()
        scaled(x)
        scaled.set_weights(_with_gates(plain, rows[0]))
        checks.assert_close(shared, keras.tree.flatten(scaled(x[i : i + 1], mask=part)), 1e-5)
    assert all(np.array_equal(new, old) for new, old in zip(gated.get_weights(), plain.get_weights(), strict=True))
    checks.assert_close(keras.tree.flatten(gated(x)), keras.tree.flatten(plain(x)), 1e-6)


def _with_gates(plain, gates) -> list:
    """The layer's weights, with the gates in the rows that its units are read by."""
    weights = []
    for weight in plain.weights:
        value = ops.convert_to_numpy(weight)
        if weight.name == "recurrent_kernel":
            own = {1: gates[:1], 2: gates[1:], 3: gates}[value.shape[-2]]
            value = value * own[:, None]
        elif weight.name == "kernel" and isinstance(plain.cell if hasattr(plain, "cell") else None, layers.StackedRNNCells):
            value = value * (gates[:1, None] if value.shape[0] == 1 else 1)
        weights.append(value)
    return weights


@pytest.mark.parametrize("recurrent", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["lstm", "gru", "gru_before", "images"])  # SimpleRNN does not save its seed
def test_open_gates_of_each_example_leave_dropout_as_it_is(kind, recurrent):
    plain, gated, x = _pair(kind, dropout=0.3, recurrent_dropout=recurrent, seed=7)
    found, expected = gated(x, head_gates=np.ones((4, 3), "float32"), training=True), plain(x, training=True)
    checks.assert_close([found], [expected], 1e-5)
    assert not np.allclose(expected, plain(x))


@pytest.mark.parametrize("sampling, kind", [("example", layers.GRU), ("batch", layers.LSTM)])
def test_gates_train(sampling, kind):
    big = kmerge.gate(_one(kind(4, name="middle")), 0.5, gates="paper", sampling=sampling)
    before = [gate.values() for gate in kmerge.gates_of(big)]
    big.compile(kmerge.gate_optimizer(keras.optimizers.Adam(1e-3), gate_learning_rate=0.1), "mse", jit_compile=JIT)
    inputs = example_inputs(big, batch=8)[0]
    with without_programs():
        big.fit(inputs, np.ones((8, 2)), epochs=1, verbose=0, callbacks=[kmerge.GatePressure("paper")])
    assert all(not np.array_equal(gate.values(), old) for gate, old in zip(kmerge.gates_of(big), before, strict=True))


# Refusals.


class OwnCell(layers.LSTMCell):
    """A cell of one's own."""


@keras.saving.register_keras_serializable("tests")
class OwnLayer(layers.LSTM):
    """A layer of one's own."""


REFUSED = {
    "mixes": (lambda: layers.LSTM(3, recurrent_activation="softmax"), "softmax.*mixes units"),
    "own": (lambda: layers.RNN(OwnCell(3)), "OwnCell, of which"),
    "own_layer": (
        lambda: layers.Bidirectional(OwnLayer(3), backward_layer=OwnLayer(3, go_backwards=True)),
        "OwnLayer, which is no layer of Keras",
    ),
    "unequal": (
        lambda: layers.Bidirectional(layers.LSTM(3), None, backward_layer=layers.LSTM(2, go_backwards=True)),
        "other widths.*same number",
    ),
    "names": (lambda: layers.RNN([layers.GRUCell(3, name="cell"), layers.GRUCell(2, name="cell")]), "one name"),
}


@pytest.mark.parametrize("build, why", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_followed_is_named(build, why):
    x = keras.Input((4, 3))
    model = keras.Model(x, build()(x))
    with pytest.raises(kmerge.UnsupportedLayerError, match=why), kmerge.strict():
        kmerge.channel_spaces(model)


def test_a_constant_state_is_refused():
    x = keras.Input((4, 3))
    model = keras.Model(x, layers.GRU(3)(x, initial_state=ops.ones((1, 3))))
    with pytest.raises(kmerge.UnsupportedLayerError, match="state that is a constant"), kmerge.strict():
        kmerge.channel_spaces(model)


def test_what_cannot_be_followed_runs_as_it_is():
    models = [_one(layers.LSTM(3, recurrent_activation="softmax")) for _ in range(2)]
    randomize(models[1], 2)
    with pytest.warns(UserWarning, match="softmax.*mixes units"):
        big = kmerge.concatenate(*models)
    inputs = example_inputs(models[0])
    checks.assert_mean(big, models, inputs)


def test_stateful_layers_are_refused():
    x = keras.Input((5, 3), batch_size=2)
    model = keras.Model(x, layers.Dense(1)(layers.GRU(4, stateful=True, name="culprit")(x)))
    with pytest.raises(kmerge.UnsupportedLayerError, match="culprit.*stateful=False"):
        kmerge.channel_spaces(model)
