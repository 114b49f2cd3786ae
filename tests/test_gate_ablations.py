"""The ablations of gates: each undoes one thing and leaves the rest as it is."""

import keras
import numpy as np
import pytest

import kmerge
from benchmarks.gate_ablations import LearnedBetaGate, constant_pressure, relinked, unlinked, with_learned_beta
from benchmarks.suites import load_suite
from tests.models import randomise


@pytest.fixture(scope="module")
def sine():
    return load_suite("sine").task(1, None, "unused", examples=200)


def test_constant_pressure_is_the_mean_of_the_rise(sine):
    constant = constant_pressure(sine.gates, 3).controls
    big = kmerge.merge(sine.build(1), sine.build(2))
    seen = []
    for controls in (sine.gates.controls, constant):
        control = kmerge.GatePressure("paper", **controls["paper"]).control
        for epoch in range(3):
            control.before_epoch(kmerge.gates_of(big), epoch, 3)
            seen.append(float(kmerge.gates_of(big)[0].pressure))
    assert seen[0] < seen[1] < seen[2]
    assert seen[3:] == pytest.approx([np.mean(seen[:3])] * 3, rel=1e-5)
    assert constant["lagrangian"] == sine.gates.controls["lagrangian"]


def test_a_fresh_gate_that_learns_beta_is_a_gate(sine):
    big = kmerge.merge(sine.build(1), sine.build(2), seed=3)
    twin = with_learned_beta(big)
    x = sine.data.x_val
    np.testing.assert_allclose(twin(x), big(x), rtol=1e-6)
    gate, plain = kmerge.gates_of(twin)[0], kmerge.gates_of(big)[0]
    assert isinstance(gate, LearnedBetaGate) and not isinstance(plain, LearnedBetaGate)
    assert gate.beta() == pytest.approx(2 / 3)
    np.testing.assert_allclose(gate.open_probabilities(), plain.open_probabilities(), rtol=1e-5)
    masks = [np.asarray(each(np.zeros((4000, 1), "float32"), training=True)) for each in (gate, plain)]
    for statistic in (np.mean, lambda m: np.mean(m == 0), lambda m: np.mean(m == 1)):
        assert statistic(masks[0]) == pytest.approx(statistic(masks[1]), abs=0.01)
    gate.pressure.assign(2.0)
    plain.pressure.assign(2.0)
    gate(x, training=True), plain(x, training=True)
    assert float(sum(gate.losses)) == pytest.approx(float(sum(plain.losses)), rel=1e-4)


def test_beta_is_trained_by_the_gates_optimizer_and_compress_takes_the_result(sine):
    big = with_learned_beta(kmerge.merge(sine.build(1), sine.build(2), seed=3))
    optimizer = kmerge.gate_optimizer(keras.optimizers.SGD(0.0), gate_learning_rate=0.5)
    big.compile(optimizer, "mse")
    gate = kmerge.gates_of(big)[0]
    kernel = np.asarray(big.trainable_variables[0]).copy()
    kmerge.fit(
        big,
        sine.data.x_train,
        sine.data.y_train,
        epochs=2,
        verbose=0,
        callbacks=[kmerge.GatePressure("paper", start=1.0)],
    )
    assert abs(gate.beta() - 2 / 3) > 1e-4
    np.testing.assert_array_equal(kernel, big.trainable_variables[0])  # the other optimizer's rate is 0
    student = kmerge.compress(big)
    assert student.count_params() == sine.build(1).count_params()


def residual(seed):
    x = inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for block in ("a", "b"):
        y = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name=f"in_{block}")(x)
        y = keras.layers.BatchNormalization(name=f"norm_{block}")(y)
        x = keras.layers.Add(name=f"add_{block}")([x, keras.layers.Conv2D(4, 1, name=f"out_{block}")(y)])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    randomise(model, seed)
    return model


def test_unlinked_gates_are_one_for_each_place_that_reads_a_space():
    big = kmerge.merge(residual(1), residual(2), seed=3)
    free = unlinked(big)
    x = np.random.default_rng(1).normal(size=(5, 4, 4, 2)).astype("float32")
    np.testing.assert_allclose(free(x), big(x), rtol=0.1, atol=0.1)  # fresh gates differ by their noise of .01
    # Three places read the residual stream, one each the insides of the blocks.
    assert len(kmerge.gates_of(big)) == 3 and len(kmerge.gates_of(free)) == 5
    assert sorted(gate.units for gate in kmerge.gates_of(free)) == [6, 6, 8, 8, 8]
    locs = [np.asarray(gate.loc) for gate in kmerge.gates_of(free)]
    assert all(a.shape != b.shape or not np.array_equal(a, b) for i, a in enumerate(locs) for b in locs[:i])


def test_relinked_gates_have_the_mean_of_their_places():
    big = kmerge.merge(residual(1), residual(2), seed=3)
    free = unlinked(big)
    rng = np.random.default_rng(1)
    for gate in kmerge.gates_of(free):
        gate.loc.assign(rng.normal(size=gate.units))
    free.get_layer("in_a").kernel.assign(2 * free.get_layer("in_a").kernel)
    again = relinked(free, big)
    for gate in kmerge.gates_of(again):
        places = [np.asarray(g.loc) for g in kmerge.gates_of(free) if g.name.startswith(gate.name)]
        np.testing.assert_allclose(gate.loc, np.mean(places, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(again.get_layer("in_a").kernel, 2 * np.asarray(big.get_layer("in_a").kernel))
    assert kmerge.compress(again).count_params() == residual(1).count_params()
