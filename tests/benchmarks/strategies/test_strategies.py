"""Strategies on small real tasks: budgets are spent as stated, stages are shared, test data is left alone."""

import dataclasses
import json

import numpy as np
import pytest

from baselines.protocol.outcomes import make_outcome, training_flops, validation_metric
from baselines.protocol.phases import is_better, train_phase
from baselines.protocol.strategy import Stages
from baselines.protocol.task import Budget
from baselines.protocol.teachers import train_teacher
from benchmarks.strategies.l0_merging import L0Merge
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from kmerge import costs
from tests.tiny_tasks import Shelf, with_test_data

BUDGET = Budget(teacher=4, gates=2, finetune=2, single=12)
CONTROLLED = ["l0_merge_paper", "l0_merge_lagrangian", "l0_merge_fade", "l0_merge_paper_early"]  # under that control
GATED = ["l0_merge", "l0_merge_compensated", "l0_merge_batch", "l0_merge_early"]
MERGING = [*GATED, "magnitude_merge"]
FUSING = [name for name in STRATEGIES if name.startswith("fusion_")]
NAMES = [*MERGING, *FUSING, "one_model", "one_model_equal_compute", "best_of_three"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sine():
    """The sine task without its test data: a strategy that reads it fails."""
    task = load_suite("sine").task(1, None, "unused", examples=500)
    return with_test_data(task, None)


@pytest.fixture(scope="module")
def digits(cache):
    return load_suite("digits").task(1, None, cache, examples=120)


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def image_shelf():
    return Shelf()


@pytest.fixture(scope="module")
def outcomes(sine, shelf):
    """What each strategy makes of the sine task, with shared teachers."""
    return {name: STRATEGIES[name](sine, BUDGET, 1, shelf) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_outcome_is_a_plain_network_of_the_target_architecture(sine, outcomes, name):
    outcome, target = outcomes[name], sine.build(5)
    for model in (outcome.model, outcome.best_model):
        assert [w.shape for w in model.weights] == [w.shape for w in target.weights]
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


@pytest.mark.parametrize("name", NAMES)
def test_rows_tell_every_epoch(outcomes, name):
    outcome = outcomes[name]
    assert len(outcome.history) == outcome.epochs
    for row in outcome.history:
        assert {"phase", "epoch", "loss", "train_metric", "val_loss", "val_metric", "learning_rate", "seconds"} <= set(
            row
        )
        assert np.isfinite([value for value in row.values() if isinstance(value, float)]).all()
    json.dumps([outcome.history, outcome.extras])


@pytest.mark.parametrize("name", NAMES)
def test_best_model_is_that_of_the_best_validation_epoch(sine, outcomes, name):
    outcome = outcomes[name]
    last = outcome.history[-1]["phase"] if name != "best_of_three" else f"teacher_{outcome.extras['winner']}"
    values = [row["val_metric"] for row in outcome.history if row["phase"] == last]
    assert validation_metric(sine, outcome.best_model) == pytest.approx(min(values), rel=1e-3)
    assert validation_metric(sine, outcome.model) == pytest.approx(values[-1], rel=1e-3)


def test_epochs_are_those_of_the_budget(outcomes):
    assert {name: outcome.epochs for name, outcome in outcomes.items() if name != "one_model_equal_compute"} == {
        **dict.fromkeys([*MERGING, *FUSING], 12),
        "one_model": 12,
        "best_of_three": 12,
    }


def test_epochs_that_patience_saves_are_fine_tuned(sine):
    budget = Budget(teacher=1, gates=10, finetune=2, single=14)
    outcome = L0Merge("fade", patience=1)(sine, budget, 1, Shelf())
    phases = [row["phase"] for row in outcome.history]
    assert phases.count("gates") == 8 and phases.count("finetune") == 4  # three epochs settle, and one is enough
    assert outcome.flops < L0Merge("fade")(sine, budget, 1, Shelf()).flops


def test_costs_are_training_operations(sine, outcomes):
    target = sine.build(1)
    operations = 6 * costs.multiply_accumulates(target) * 500
    assert training_flops(target, sine, 1) == operations == 6 * 200 * 500
    for name in ("one_model", "best_of_three", "magnitude_merge", *FUSING):
        assert outcomes[name].teacher_epoch_equivalents == pytest.approx(12)
        assert outcomes[name].flops == pytest.approx(12 * operations)
    # With one hidden layer, the big student has twice the weights, and so costs twice as much.
    assert outcomes["l0_merge"].teacher_epoch_equivalents == pytest.approx(2 * 4 + 2 * 2 + 2)
    assert outcomes["one_model_equal_compute"].epochs == 14


def test_teachers_are_trained_once_and_charged_to_each(outcomes, shelf):
    assert len(shelf.kept) == 3
    for name in [*MERGING, *FUSING, "best_of_three"]:
        rows = [row for row in outcomes[name].history if row["phase"] == "teacher_0"]
        assert rows == [row for row in outcomes["best_of_three"].history if row["phase"] == "teacher_0"]
        assert outcomes[name].seconds >= sum(row["seconds"] for row in rows)


def test_every_trained_epoch_is_heard(outcomes, shelf):
    trained = sum(outcome.epochs for outcome in outcomes.values())
    shared = sum(row["phase"].startswith("teacher") for outcome in outcomes.values() for row in outcome.history)
    assert len(shelf.rows) == trained - shared + 3 * BUDGET.teacher


def test_best_of_three_takes_the_best_on_validation_data(sine, outcomes):
    extras = outcomes["best_of_three"].extras
    assert extras["winner"] == int(np.argmin(extras["validation_teachers"]))
    assert validation_metric(sine, outcomes["best_of_three"].model) == pytest.approx(
        min(extras["validation_teachers"]), rel=1e-3
    )


@pytest.mark.parametrize("name", MERGING)
def test_merging_reports_before_and_after_the_cut(outcomes, name):
    extras = outcomes[name].extras
    assert {"validation_teachers", "validation_before_cut", "validation_after_cut"} <= set(extras)
    if name in GATED:
        assert 0 <= extras["gates_undecided"] <= 1
        assert extras["control"] in load_suite("sine").definition["gates"]["controls"]


def test_strategies_do_not_look_at_test_data(sine, outcomes):
    assert sine.data.x_test is None and sine.data.y_test is None
    assert outcomes.keys() == set(NAMES)


def test_strategies_are_there():
    assert set(NAMES) | set(CONTROLLED) <= set(STRATEGIES)  # what all promise is in test_contract.py


@pytest.mark.parametrize("name", CONTROLLED)
def test_strategies_for_each_control(sine, name):
    strategy = STRATEGIES[name]
    assert isinstance(strategy, L0Merge) and strategy.control == name.removeprefix("l0_merge_").removesuffix("_early")
    assert (strategy.patience is not None) == name.endswith("_early")
    assert strategy.control in sine.gates.controls


@pytest.mark.parametrize("name", ["l0_merge", "magnitude_merge"])
def test_strategies_on_images_with_batch_normalization(digits, image_shelf, name):
    outcome = STRATEGIES[name](digits, Budget(2, 1, 1, 6), 1, image_shelf)
    assert outcome.model.count_params() == digits.build(1).count_params()
    assert 0 <= validation_metric(digits, outcome.model) <= 1


def test_gate_rows_show_the_pressure(outcomes):
    rows = [row for row in outcomes["l0_merge"].history if row["phase"] == "gates"]
    assert rows[1]["gate_pressure"] > rows[0]["gate_pressure"] > 0
    assert "gate_undecided" in rows[0]


def test_learning_rate_drops_at_fractions_of_the_phase(sine):
    phase = dataclasses.replace(sine.phases["teacher"], drops=(0.5, 0.75), learning_rate=0.01)
    task = dataclasses.replace(sine, phases={"teacher": phase})
    record = train_phase(task.build(1), task, "teacher", 4, 1, Stages())
    assert [row["learning_rate"] for row in record.rows] == pytest.approx([0.01, 0.01, 0.001, 0.0001])


def test_the_program_follows_the_learning_rate_that_rows_tell(sine):
    phase = dataclasses.replace(sine.phases["teacher"], drops=(0.5,), drop_factor=0.0, momentum=0.0)
    task = dataclasses.replace(sine, phases={"teacher": phase})
    seen = []
    model = task.build(1)
    stages = Stages()
    stages.on_epoch = lambda row, state: seen.append(model.get_weights())
    train_phase(model, task, "teacher", 4, 1, stages)
    assert not np.array_equal(seen[0][0], seen[1][0])  # The last epoch before the drop to zero still learns,
    np.testing.assert_array_equal(seen[1][0], seen[3][0])  # and no step after it does.


def test_training_repeats_by_seed(sine):
    def trained(seed):
        model = sine.build(1)
        train_phase(model, sine, "teacher", 2, seed, Stages())
        return model.get_weights()

    for a, b in zip(trained(1), trained(1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(trained(1)[0], trained(2)[0])


def test_teachers_differ(sine, shelf):
    budget = Budget(1, 1, 1, 1)
    (a, _), (b, _) = (train_teacher(sine, budget, 1, number, shelf) for number in (0, 1))
    assert not np.array_equal(a.get_weights()[0], b.get_weights()[0])


def test_better_knows_the_direction_and_nan(sine, digits):
    assert is_better(0.1, 0.2, sine) and not is_better(0.2, 0.1, sine)
    assert is_better(0.2, 0.1, digits) and not is_better(0.1, 0.2, digits)
    for task in (sine, digits):
        assert is_better(0.1, float("nan"), task) and not is_better(float("nan"), 0.1, task)


def test_outcome_sums_shared_stages_in_full(sine):
    model = sine.build(1)
    record = train_phase(model, sine, "teacher", 2, 1, Stages())
    outcome = make_outcome(sine, model, record.best_weights, [record, record])
    assert outcome.epochs == 4 and outcome.teacher_epoch_equivalents == pytest.approx(4)
    assert outcome.seconds == 2 * record.seconds
