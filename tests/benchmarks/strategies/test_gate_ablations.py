"""The ablations of gates: each undoes one thing and leaves the rest as it is."""

import dataclasses

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Stages
from baselines.protocol.task import Phase
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.strategies.gate_ablations import (
    DecayedGate,
    GateDecay,
    LearnedBetaGate,
    after_norm,
    before_norm,
    constant_pressure,
    relinked,
    unlinked,
    weight_decay_of,
    with_gates_of,
)
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from kmerge.gates.application import ApplyGates
from tests import checks
from tests.benchmarks.strategies.test_contract import BUDGET
from tests.models import ZOO, example_inputs, randomize
from tests.programs import without_programs
from tests.tiny_tasks import Shelf

# Gates that were not trained to their end are cut here, which kmerge warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Of the .* units that go")


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
    twin = with_gates_of(LearnedBetaGate, big)
    x = sine.data.x_val
    np.testing.assert_allclose(twin(x), big(x), rtol=1e-6)
    gate, plain = kmerge.gates_of(twin)[0], kmerge.gates_of(big)[0]
    assert isinstance(gate, LearnedBetaGate) and not isinstance(plain, LearnedBetaGate)
    assert float(gate.beta()) == pytest.approx(2 / 3)
    np.testing.assert_allclose(gate.open_probabilities(), plain.open_probabilities(), rtol=1e-5)
    masks = [np.asarray(each(np.zeros((4000, 1), "float32"), training=True)) for each in (gate, plain)]
    for statistic in (np.mean, lambda m: np.mean(m == 0), lambda m: np.mean(m == 1)):
        assert statistic(masks[0]) == pytest.approx(statistic(masks[1]), abs=0.01)
    gate.pressure.assign(2.0)
    plain.pressure.assign(2.0)
    gate(x, training=True), plain(x, training=True)
    assert float(sum(gate.losses)) == pytest.approx(float(sum(plain.losses)), rel=1e-4)


def test_beta_is_trained_by_the_gates_optimizer_and_compress_takes_the_result(sine):
    big = with_gates_of(LearnedBetaGate, kmerge.merge(sine.build(1), sine.build(2), seed=3))
    optimizer = kmerge.gate_optimizer(keras.optimizers.SGD(0.0), gate_learning_rate=0.5)
    big.compile(optimizer, "mse")
    gate = kmerge.gates_of(big)[0]
    kernel = np.asarray(big.trainable_variables[0]).copy()
    pressure = kmerge.GatePressure("paper", start=1.0)
    with without_programs():
        kmerge.fit(big, sine.data.x_train, sine.data.y_train, epochs=2, verbose=0, callbacks=[pressure])
    assert abs(float(gate.beta()) - 2 / 3) > 1e-4
    np.testing.assert_array_equal(kernel, big.trainable_variables[0])  # the other optimizer's rate is 0
    student = kmerge.compress(big)
    assert student.count_params() == sine.build(1).count_params()


def test_gates_decay_at_the_rate_of_the_weights_optimizer(sine):
    """As the authors' weights' optimizer, whose rate drops after one of two epochs, does it to a `loc` that no loss holds."""
    decay, steps = 0.005, 200
    data = dataclasses.replace(sine.data, x_train=np.zeros((32 * steps, 1)), y_train=np.zeros((32 * steps, 1)))
    phase = Phase(0.1, 0.9, 32, drops=(0.5,))
    task = dataclasses.replace(sine, data=data, phases={"gates": phase}, loss=lambda: lambda y, outputs: 0.0 * outputs)
    big = with_gates_of(DecayedGate, kmerge.merge(sine.build(1), sine.build(2), seed=3))
    (gate,) = kmerge.gates_of(big)
    start = np.asarray(gate.loc).copy()
    control = {"start": 0.0, "step": 0.0}
    task = dataclasses.replace(task, gates=dataclasses.replace(sine.gates, learning_rate=0.2, controls={"paper": control}))
    ends = []

    class Looking(Stages):
        def on_epoch(self, row, state):
            ends.append(np.asarray(gate.loc).copy())

    train_phase(big, task, "gates", 2, 1, Looking(), control="paper", callbacks=[GateDecay(decay, 0.2)])
    loc, velocity = 1.0, 0.0
    for rate, end in zip((0.1, 0.01), ends, strict=True):
        for _ in range(steps):
            velocity = 0.9 * velocity - rate * decay * loc
            loc += velocity
        np.testing.assert_allclose(end, loc * start, rtol=1e-4)
    assert loc == pytest.approx(np.exp(-(0.1 + 0.01) * decay * steps / (1 - 0.9)), rel=0.05)  # a third of it


def test_a_decayed_gate_without_decay_is_a_gate(sine):
    big = kmerge.merge(sine.build(1), sine.build(2), seed=3)
    twin = with_gates_of(DecayedGate, big)
    np.testing.assert_array_equal(twin(sine.data.x_val), big(sine.data.x_val))
    (gate,), (plain,) = kmerge.gates_of(twin), kmerge.gates_of(big)
    for each in (gate, plain):
        each.pressure.assign(2.0)
        each(sine.data.x_val, training=True)
    assert float(sum(gate.losses)) == float(sum(plain.losses))
    gate.decay.assign(0.5)
    gate(sine.data.x_val, training=True)
    more = 0.25 * np.sum(np.square(gate.loc))
    assert float(sum(gate.losses)) - float(sum(plain.losses)) == pytest.approx(more, rel=1e-4)


def test_the_weight_decay_is_that_of_the_architecture(sine):
    digits = load_suite("digits")
    settings = dict(digits.definition["architecture"])
    net = ARCHITECTURES[settings.pop("name")]((8, 8, 1), 10, 1, **settings)
    assert weight_decay_of(net) == pytest.approx(1e-4)
    shelf = Shelf()
    with pytest.raises(kmerge.InvalidArgumentError, match="Received: model .* with none. Give the suite's .architecture."):
        STRATEGIES["l0_merge_decayed_gates"](sine, BUDGET, 1, shelf)
    assert not shelf.steps
    net.layers[1].kernel.regularizer = keras.regularizers.L2(1e-3)
    with pytest.raises(kmerge.InvalidArgumentError, match=r"with \[0.0001, 0.002\]"):
        weight_decay_of(net)


def residual(seed):
    x = inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for block in ("a", "b"):
        y = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name=f"in_{block}")(x)
        y = keras.layers.BatchNormalization(name=f"norm_{block}")(y)
        x = keras.layers.Add(name=f"add_{block}")([x, keras.layers.Conv2D(4, 1, name=f"out_{block}")(y)])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    randomize(model, seed)
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


def by_name(big):
    return {gate.name: gate for gate in kmerge.gates_of(big)}


def set_gates(big, values):
    """Gives the gates these values in inference, all between 0 and 1 exclusive."""
    for gate, value in zip(kmerge.gates_of(big), values, strict=True):
        s = (value + 0.1) / 1.2
        gate.loc.assign(np.log(s / (1 - s)))


@pytest.mark.parametrize("name", ["resnet8", "vgg11_bn", "nested_two_deep"])
def test_gates_before_norm_meet_every_unit_once_on_its_way(name):
    big = kmerge.merge(ZOO[name](0), ZOO[name](1), gates="open", seed=3)
    inputs = example_inputs(big)
    moved = before_norm(big)
    checks.assert_close(checks.outputs(moved, inputs), checks.outputs(big, inputs), 1e-5)
    assert {name: g.get_config() for name, g in by_name(moved).items()} == {
        name: g.get_config() for name, g in by_name(big).items()
    }


def test_gates_stand_before_norm_and_elsewhere_where_there_is_none():
    big = kmerge.merge(residual(1), residual(2), seed=3)
    moved = before_norm(big)
    gated = [layer for layer in moved.layers if isinstance(layer, ApplyGates)]
    # One before each of the two BatchNormalizations; the residual stream passes none and is read at three places.
    assert sorted(len(layer.indices) for layer in gated) == [6, 6, 8, 8, 8]


@pytest.mark.parametrize(
    ("network", "sampling"), [(residual, "example"), (ZOO["vgg11_bn"], "batch")], ids=["residual-example", "vgg11_bn-batch"]
)
def test_values_of_gates_before_norm_go_into_its_statistics(network, sampling):
    big = kmerge.merge(network(0), network(1), sampling=sampling, seed=3)
    inputs, moved = example_inputs(big), before_norm(big)
    rng = np.random.default_rng(1)
    set_gates(moved, [rng.uniform(0.05, 0.95, gate.units) for gate in kmerge.gates_of(moved)])
    back = checks.check_arguments_unchanged([moved, big], after_norm)
    checks.assert_close(checks.outputs(back, inputs), checks.outputs(moved, inputs), 1e-4)
    for name, gate in by_name(back).items():
        np.testing.assert_array_equal(gate.kept(), by_name(moved)[name].kept())
    assert kmerge.compress(back).count_params() == network(0).count_params()


def test_the_cut_behind_norm_is_not_lossless():
    """With gates at exactly 0 and 1 the cut of a merge changes nothing; before a norm it loses what the norm makes of 0."""
    big = kmerge.merge(ZOO["vgg11_bn"](0), ZOO["vgg11_bn"](1), seed=3)
    inputs, moved = example_inputs(big), before_norm(big)
    for model in (big, moved):
        for gate in kmerge.gates_of(model):
            gate.loc.assign(np.where(np.arange(gate.units) % 2, 9.0, -9.0))
    before, cut = checks.outputs(moved, inputs), checks.outputs(kmerge.compress(after_norm(moved, big)), inputs)
    assert checks.relative_error(cut[0], before[0]) > 0.01
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


def test_a_network_without_norm_is_refused_before_training(sine):
    stages = Shelf()
    with pytest.raises(kmerge.InvalidArgumentError, match=r"need units that pass one. Received: model '\w+'"):
        STRATEGIES["l0_merge_paper_before_norm"](sine, BUDGET, 1, stages)
    assert not stages.steps
