"""Greedy merging: the local problems say what the thesis says, and the strategy keeps what it promises."""


import keras
import numpy as np
import pytest

import kmerge
from baselines.merging.local_problems import identification, layers_to_mimic, mimicry, spaces_to_identify
from baselines.protocol.outcomes import training_flops
from baselines.protocol.strategy import Stages
from baselines.protocol.task import Budget
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.checks import relative_error
from tests.models import randomize
from tests.programs import without_programs
from tests.tiny_tasks import StepByStep, with_test_data

BUDGET = Budget(teacher=2, gates=1, finetune=2, single=7)


def residual(seed):
    x = inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="inner")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="back")(y)
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.Flatten(name="flatten")(keras.layers.ReLU(name="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    randomize(model, seed)
    return model


@pytest.fixture(scope="module")
def big():
    return kmerge.concatenate(residual(1), residual(2))


@pytest.fixture(scope="module")
def sample():
    return np.random.default_rng(1).normal(size=(12, 4, 4, 2)).astype("float32")


def open_all(gate):
    gate.chosen.assign(np.ones(gate.units))
    gate.hardness.assign(1.0)


def test_spaces_come_from_the_end_and_layers_from_the_start(big):
    assert spaces_to_identify(big) == ["inner", "stem"]
    assert layers_to_mimic(big, {"stem": np.arange(4), "inner": np.arange(6)}) == ["inner", "back", "logits"]


@pytest.mark.parametrize("space", ["inner", "stem"])
def test_a_local_problem_is_solved_while_all_gates_are_open(big, sample, space):
    problem = identification(big, space, {"inner": np.array([0, 3, 5, 7, 8, 11])}, sample)
    open_all(problem.gate)
    x, y = problem.arrays(sample)
    assert x.shape[1] + y.shape[1] == problem.bytes_per_example / 4
    assert relative_error(problem.model(x), y) < 1e-5


@pytest.mark.parametrize("space", ["inner", "stem"])
def test_gates_cut_off_exactly_their_units(big, sample, space):
    """What a closed gate does to the local problem is what a unit of zeros does to the layers that mix it."""
    problem = identification(big, space, {}, sample)
    unit = 2
    open_all(problem.gate)
    problem.gate.chosen.assign(np.arange(problem.gate.units) != unit)
    x, _ = problem.arrays(sample)
    found = np.asarray(problem.model(x))
    expected = []
    for path in kmerge.channel_spaces(big)[space].consumers:
        layer = big.get_layer(path)
        kernel = np.asarray(layer.kernel).copy()
        if path == "logits":
            kernel[unit :: problem.gate.units] = 0  # behind Flatten, a unit lies at each pixel
        else:
            kernel[:, :, unit] = 0
        twin = type(layer).from_config(layer.get_config())
        read = keras.Model(big.input, layer.input)(sample, training=False)
        twin.build(read.shape)
        twin.set_weights([kernel, *layer.get_weights()[1:]])
        expected.append(np.reshape(twin(read), (len(sample), -1)) / problem.scales[len(expected)])
    assert relative_error(found, np.concatenate(expected, axis=1)) < 1e-5


def test_outputs_of_units_that_do_not_matter_are_left_out(big, sample):
    whole = identification(big, "stem", {}, sample)
    part = identification(big, "stem", {"inner": np.array([1, 4])}, sample)
    width = [problem.model.outputs[0].shape[1] for problem in (whole, part)]
    assert width == [16 * 12 + 3, 16 * 2 + 3]


def test_a_student_that_keeps_everything_has_nothing_to_learn(big, sample):
    chosen = {"stem": np.arange(8), "inner": np.arange(12)}
    student = kmerge.select(big, chosen)
    for path in layers_to_mimic(big, chosen):
        problem = mimicry(big, student, path, chosen, sample)
        x, y = problem.arrays(sample)
        assert relative_error(problem.model(x), y) < 1e-5


def test_mimicry_trains_the_students_layer_towards_the_parents_units(big, sample):
    chosen = {"stem": np.array([0, 2, 5, 6]), "inner": np.array([1, 2, 3, 8, 9, 10])}
    student = kmerge.select(big, chosen)
    problem = mimicry(big, student, "back", chosen, sample)
    assert [tuple(w.shape) for w in problem.layers["back"].weights] == [(3, 3, 6, 4)]
    x, y = problem.arrays(sample)
    reader = keras.Model(big.input, big.get_layer("back").output)
    goal = np.asarray(reader(sample, training=False))[..., chosen["stem"]]
    np.testing.assert_allclose(y, goal.reshape(12, -1) / problem.scales[0], rtol=1e-5, atol=1e-6)
    problem.model.compile(keras.optimizers.Adam(0.02), "mse")
    history = kmerge.fit(problem.model, x, y, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_curvature_says_which_rate_is_stable(big, sample):
    chosen = {"stem": np.array([0, 2, 5, 6]), "inner": np.array([1, 2, 3, 8, 9, 10])}
    large = 30 * sample
    problem = mimicry(big, kmerge.select(big, chosen), "logits", chosen, large)
    x, y = problem.arrays(large)
    before = problem.model.get_weights()
    curvature = problem.curvature(x)
    # Of a Dense layer, each output has the curvature of its inputs and its bias.
    assert curvature == pytest.approx(2 * (np.mean(np.sum(x**2, axis=1)) + 1) / problem.scales[0] ** 2, rel=0.3)
    assert all(map(np.array_equal, before, problem.model.get_weights()))
    losses = {}
    for rate in (1 / curvature, 100 / curvature):
        problem.model.set_weights(before)
        problem.model.compile(keras.optimizers.SGD(rate), "mse")
        with without_programs():
            losses[rate] = kmerge.fit(problem.model, x, y, batch_size=12, epochs=5, verbose=0).history["loss"]
    assert sorted(losses[1 / curvature], reverse=True) == losses[1 / curvature]
    assert losses[100 / curvature][-1] > 100 * losses[100 / curvature][0]


def test_layers_in_nested_models_are_refused(sample):
    def nested(seed):
        inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1, name="inside")], name="nested")
        inputs = keras.Input((4, 4, 2))
        x = keras.layers.Conv2D(3, 1, name="outside")(inputs)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inner(x)))

    big = kmerge.concatenate(nested(1), nested(2))
    with pytest.raises(kmerge.UnsupportedLayerError, match=r"nested/inside.*no nested model.*kmerge\.merge"):
        identification(big, "outside", {}, sample)


# The strategy


def test_strategy():
    task = load_suite("sine").task(1, None, "unused", examples=64)
    task = with_test_data(task, None)
    outcome = STRATEGIES["greedy_merge"](task, BUDGET, 1, StepByStep())
    assert [w.shape for w in outcome.model.weights] == [w.shape for w in task.build(1).weights]
    assert np.isfinite([row["loss"] for row in outcome.history]).all()
    phases = list(dict.fromkeys(row["phase"] for row in outcome.history))
    assert phases[:2] == ["teacher_0", "teacher_1"] and phases[-1] == "finetune"
    assert phases[2:-1] == ["identify_dense_1", "mimic_output"]
    assert {"validation_after_cut", "validation_after_mimicking", "gates_undecided"} <= set(outcome.extras)
    assert outcome.extras["greedy_examples"] == len(task.data.x_train)
    # In networks of the target's cost: two teachers; gates on the output layer of two, and one pass of each of their
    # layers; the output layer of one, and one pass of that much less; fine-tuning.
    spent = [2 * 2, 1, (1 + 2) / 3, 1 / 2, (1 / 2 + 2) / 3, 1]
    assert outcome.flops == pytest.approx(sum(spent) * training_flops(outcome.model, task, 1))


def test_a_budget_too_small_for_its_phases_is_refused():
    task = load_suite("sine").task(1, None, "unused", examples=100)
    with pytest.raises(kmerge.InvalidArgumentError, match="2 or more. Received: 1"):
        STRATEGIES["greedy_merge"](task, Budget(1, 1, 1, 4), 1, Stages())
