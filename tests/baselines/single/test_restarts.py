"""Teachers that train on: which one, from what, and under which schedule."""

import numpy as np
import pytest

from baselines.protocol.phases import best_of
from baselines.protocol.task import Budget
from baselines.protocol.teachers import train_teacher
from baselines.single.restarts import restart, restart_whole
from benchmarks.suites.suite import load_suite
from tests.tiny_tasks import EagerShelf, with_test_data

BUDGET = Budget(teacher=4, gates=2, finetune=4, single=14)


class Looking(EagerShelf):
    """A shelf that sees each network when its training begins."""

    starts = ()

    def fit(self, model, x, y, **how):
        self.starts = [*self.starts, model.get_weights()]
        super().fit(model, x, y, **how)


@pytest.fixture(scope="module")
def sine():
    return with_test_data(load_suite("sine").task(1, None, "unused", examples=64), None)


@pytest.fixture(scope="module")
def shelf():
    return Looking()


@pytest.mark.parametrize("seed, winner", [(4, 0), (10, 1)])
def test_the_better_teacher_goes_on_from_its_last_weights(sine, shelf, seed, winner):
    outcome = restart(sine, BUDGET, seed, shelf)
    finals = outcome.extras["validation_teachers"]
    assert outcome.extras["winner"] == winner == int(np.argmin(finals)) and finals[0] != finals[1]
    teacher, record = train_teacher(sine, BUDGET, seed, winner, shelf)  # from the shelf
    for start, weight, end in zip(shelf.starts[-1], teacher.get_weights(), outcome.model.get_weights(), strict=True):
        np.testing.assert_array_equal(start, weight)
        assert not np.array_equal(start, end)
    assert record.rows[-1]["val_metric"] == finals[winner]


def test_the_first_teacher_alone_goes_on_for_all_that_is_left(sine, shelf):
    outcome = restart_whole(sine, BUDGET, 1, shelf)
    teacher, _ = train_teacher(sine, BUDGET, 1, 0, shelf)
    for start, weight in zip(shelf.starts[-1], teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(start, weight)
    phases = [row["phase"] for row in outcome.history]
    assert phases == ["teacher_0"] * BUDGET.teacher + ["finetune"] * (BUDGET.merging - BUDGET.teacher)


@pytest.mark.parametrize("strategy", [restart, restart_whole])
def test_it_goes_on_under_the_schedule_of_fine_tuning(sine, shelf, strategy):
    rows = [row for row in strategy(sine, BUDGET, 1, shelf).history if row["phase"] == "finetune"]
    phase = sine.phases["finetune"]
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] == phase.learning_rate and rates[-1] == pytest.approx(phase.learning_rate * phase.drop_factor)


def test_the_best_is_the_first_of_equals_and_never_nan(sine, tmp_path):
    nan = float("nan")
    assert best_of([0.3, 0.1, 0.2, 0.1], sine) == 1
    assert best_of([0.3, 0.1, 0.3], load_suite("digits").task(1, None, tmp_path)) == 0
    assert best_of([nan, 0.3, nan], sine) == 1 and best_of([nan, nan], sine) == 0
