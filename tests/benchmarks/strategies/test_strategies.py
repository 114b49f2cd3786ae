"""What is special to some strategies, on the sine task, where costs can be counted by hand; test_contract.py has the rest."""

import dataclasses

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
from tests.tiny_tasks import EagerShelf, StepByStep, with_test_data

BUDGET = Budget(teacher=4, gates=2, finetune=2, single=12)
CONTROLLED = ["l0_merge_paper", "l0_merge_lagrangian", "l0_merge_fade", "l0_merge_paper_early"]  # under that control
EXAMPLES = 64
NAMES = ["l0_merge", "one_model_equal_compute", "best_of_three"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sine():
    """The sine task without its test data: a strategy that reads it fails."""
    task = load_suite("sine").task(1, None, "unused", examples=EXAMPLES)
    return with_test_data(task, None)


@pytest.fixture(scope="module")
def digits(cache):
    return load_suite("digits").task(1, None, cache, examples=120)


@pytest.fixture(scope="module")
def shelf():
    return EagerShelf()


@pytest.fixture(scope="module")
def outcomes(sine, shelf):
    """What each strategy makes of the sine task, with shared teachers."""
    return {name: STRATEGIES[name](sine, BUDGET, 1, shelf) for name in NAMES}


def test_epochs_that_patience_saves_are_fine_tuned(sine):
    budget = Budget(teacher=1, gates=10, finetune=2, single=14)
    outcome = L0Merge("fade", patience=1)(sine, budget, 1, EagerShelf())
    phases = [row["phase"] for row in outcome.history]
    assert phases.count("gates") == 8 and phases.count("finetune") == 4  # three epochs settle, and one is enough
    # The big student costs twice as much, so what is saved is the price of two networks' epochs less that of one's.
    assert outcome.flops == pytest.approx((2 + 2 * 8 + 4) * training_flops(sine.build(1), sine, 1))


def test_costs_are_training_operations(sine, outcomes):
    target = sine.build(1)
    operations = 6 * costs.multiply_accumulates(target) * EXAMPLES
    assert training_flops(target, sine, 1) == operations == 6 * 200 * EXAMPLES
    # With one hidden layer, the big student has twice the weights, and so costs twice as much.
    assert outcomes["l0_merge"].teacher_epoch_equivalents == pytest.approx(2 * 4 + 2 * 2 + 2)
    assert outcomes["one_model_equal_compute"].epochs == 14


def test_teachers_are_trained_once(outcomes, shelf):
    assert len(shelf.kept) == 3
    of_one = [[row for row in outcome.history if row["phase"] == "teacher_0"] for outcome in outcomes.values()]
    assert of_one[0] == of_one[2] and len(of_one[0]) == BUDGET.teacher


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


def test_strategies_are_there():
    assert set(NAMES) | set(CONTROLLED) <= set(STRATEGIES)  # what all promise is in test_contract.py


@pytest.mark.parametrize("name", CONTROLLED)
def test_strategies_for_each_control(sine, name):
    strategy = STRATEGIES[name]
    assert isinstance(strategy, L0Merge) and strategy.control == name.removeprefix("l0_merge_").removesuffix("_early")
    assert (strategy.patience is not None) == name.endswith("_early")
    assert strategy.control in sine.gates.controls


def test_gate_rows_show_the_pressure(outcomes):
    rows = [row for row in outcomes["l0_merge"].history if row["phase"] == "gates"]
    assert rows[1]["gate_pressure"] > rows[0]["gate_pressure"] > 0
    assert "gate_undecided" in rows[0]


def test_learning_rate_drops_at_fractions_of_the_phase(sine):
    phase = dataclasses.replace(sine.phases["teacher"], drops=(0.5, 0.75), learning_rate=0.01)
    task = dataclasses.replace(sine, phases={"teacher": phase})
    record = train_phase(task.build(1), task, "teacher", 4, 1, StepByStep())
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


def test_another_seed_is_another_training(sine):
    """From the same start, by the order of the data; that a seed repeats is in the contract."""

    def trained(seed):
        model = sine.build(1)
        train_phase(model, sine, "teacher", 1, seed, StepByStep())
        return model.get_weights()

    assert not np.array_equal(trained(1)[0], trained(2)[0])


def test_teachers_differ(sine, outcomes, shelf):
    (a, _), (b, _) = (train_teacher(sine, BUDGET, 1, number, shelf) for number in (0, 1))
    assert not np.array_equal(a.get_weights()[0], b.get_weights()[0])


def test_better_knows_the_direction_and_nan(sine, digits):
    assert is_better(0.1, 0.2, sine) and not is_better(0.2, 0.1, sine)
    assert is_better(0.2, 0.1, digits) and not is_better(0.1, 0.2, digits)
    for task in (sine, digits):
        assert is_better(0.1, float("nan"), task) and not is_better(float("nan"), 0.1, task)


def test_outcome_sums_shared_stages_in_full(sine, outcomes, shelf):
    model, record = train_teacher(sine, BUDGET, 1, 0, shelf)
    outcome = make_outcome(sine, model, record.best_weights, [record, record])
    assert outcome.epochs == 8 and outcome.teacher_epoch_equivalents == pytest.approx(8)
    assert outcome.seconds == 2 * record.seconds
