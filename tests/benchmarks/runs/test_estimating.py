"""The time that is left of a launch, told from the first run on, though the first run of a seed trains the teachers."""

import pytest

from baselines.protocol.task import Budget
from benchmarks.records.store import RunFolder
from benchmarks.runs.estimating import Estimate

BUDGET = Budget(teacher=20, gates=10, finetune=10, single=60)
# Seconds of a run, without the teachers.
OWN = {"l0_merge_fade": 14, "magnitude_merge": 9, "restart": 9, "one_model": 19, "ensemble": 2, "one_model_all_data": 19}
TEACHERS = 13


def launch_of(folder, seeds):
    """Runs of a launch, in order, each with its seconds."""
    runs = [(RunFolder.of(folder, {"strategy": name, "seed": seed}), OWN[name]) for seed in seeds for name in OWN]
    return [(run, own + (TEACHERS if i % len(OWN) == 0 else 0)) for i, (run, own) in enumerate(runs)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_time_left_is_right_within_a_factor_of_two_from_the_first_run_on(tmp_path, jobs):
    launch = launch_of(tmp_path, range(5))
    estimate, left = Estimate([run for run, _ in launch], BUDGET, jobs), sum(seconds for _, seconds in launch)
    for run, seconds in launch[:-2]:
        estimate.end(run, {"wall_seconds": seconds})
        left -= seconds
        assert 0.5 < estimate.seconds_left() / (left / jobs) < 2, run.name


def test_once_a_seed_is_done_the_others_take_as_long(tmp_path):
    launch = launch_of(tmp_path, range(3))
    estimate = Estimate([run for run, _ in launch], BUDGET, 1)
    for run, seconds in launch[: len(OWN)]:
        estimate.end(run, {"wall_seconds": seconds})
    assert estimate.seconds_left() == pytest.approx(2 * (sum(OWN.values()) + TEACHERS))


def test_failed_runs_leave_no_time_and_tell_none(tmp_path):
    launch = launch_of(tmp_path, range(1))
    estimate = Estimate([run for run, _ in launch], BUDGET, 1)
    for run, _ in launch:
        estimate.end(run, None)
    assert estimate.seconds_left() == 0


def test_no_estimate_is_below_the_longest_run(tmp_path):
    launch = launch_of(tmp_path, range(1))[:3]
    estimate = Estimate([run for run, _ in launch], BUDGET, 8)
    estimate.end(launch[1][0], {"wall_seconds": 25.0})
    assert estimate.seconds_left() > 25.0
