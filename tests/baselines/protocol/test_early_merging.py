"""Merging before annealing: where the epochs go, and that the learning rate falls at the end alone."""

import dataclasses
import itertools

import pytest

import kmerge
from baselines.protocol.early_merging import before_annealing
from baselines.protocol.schedules import optimizer_of
from baselines.protocol.task import Budget, EarlySettings
from benchmarks.strategies.registry import EARLY, STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.tiny_tasks import EagerShelf, with_test_data

BUDGET = Budget(teacher=6, gates=6, finetune=6, single=24)


@pytest.fixture(scope="module")
def sine():
    task = with_test_data(load_suite("sine").task(1, None, "unused", examples=64), None)
    falling = {name: dataclasses.replace(phase, drops=(0.5,)) for name, phase in task.phases.items()}
    single = dataclasses.replace(falling["single"], learning_rate=0.02)
    return dataclasses.replace(task, phases={**falling, "single": single})


@pytest.mark.parametrize("early", [EarlySettings(), EarlySettings(0.05, 0.3), EarlySettings(1 / 3, 1 / 6)])
def test_epochs_sum_up(sine, early):
    task = dataclasses.replace(sine, early=early)
    for teacher, gates, finetune in itertools.product((1, 2, 5, 20), (1, 3, 10), (4, 10, 17)):
        budget = Budget(teacher, gates, finetune, single=7)
        _, own = before_annealing(task, budget)
        assert own.merging == budget.merging and min(dataclasses.astuple(own)) > 0 and own.single == 7
        assert abs(own.teacher - early.teacher * budget.merging) <= 0.5 or own.teacher == 1


def test_the_default_is_a_sixth_and_a_twelfth(sine):
    _, own = before_annealing(sine, Budget(300, 150, 150, 900))
    assert own == Budget(150, 75, 525, 900)


def test_controls_add_up_to_what_they_add_in_the_whole_phase(sine):
    task, own = before_annealing(sine, BUDGET)
    whole, early = sine.gates.controls["lagrangian"], task.gates.controls["lagrangian"]
    assert own.gates < BUDGET.gates and early["eta"] * own.gates == pytest.approx(whole["eta"] * BUDGET.gates)


@pytest.mark.parametrize("name", sorted(EARLY))
def test_the_rate_falls_at_the_end_alone(sine, name):
    outcome = STRATEGIES[name](sine, BUDGET, 1, EagerShelf())
    of = {phase: [*rows] for phase, rows in itertools.groupby(outcome.history, lambda row: row["phase"])}
    annealed = of.pop("finetune")
    assert len(annealed) == 24 - sum(map(len, of.values())) and len(of["teacher_0"]) == len(of["teacher_1"]) == 4
    assert len(of.get("gates", [])) == (2 if name.startswith("l0") else 0)
    for phase, rows in of.items():
        start = sine.phases[phase.rstrip("_01")].learning_rate
        assert {row["learning_rate"] for row in rows} == {start}
    steps = 64 // sine.phases["single"].batch_size
    _, rate_at = optimizer_of(sine.phases["single"], len(annealed), 64)
    expected = [rate_at(steps * epoch - 1) for epoch in range(1, len(annealed) + 1)]
    assert [row["learning_rate"] for row in annealed] == expected and len(set(expected)) == 2


@pytest.mark.parametrize("name", sorted(EARLY))
def test_a_split_that_leaves_nothing_to_anneal_is_refused_before_training(sine, name):
    shelf, task = EagerShelf(), dataclasses.replace(sine, early=EarlySettings(0.4, 0.2))
    with pytest.raises(kmerge.InvalidArgumentError, match=r"an epoch at least for each phase; received Budget\(teacher=6"):
        STRATEGIES[name](task, BUDGET, 1, shelf)
    assert not shelf.steps
