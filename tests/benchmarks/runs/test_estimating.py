"""The time that is left of a launch, told from the first run on, though the first run of a seed trains the teachers."""

import pytest

from baselines.protocol.task import Budget
from benchmarks.records.store import RunFolder
from benchmarks.runs.estimating import Estimate

BUDGET = Budget(teacher=20, gates=10, finetune=10, single=60)
# As measured on digits: epochs of one network without the teachers', and programs.
OWN = {
    "l0_merge_fade": (39, 2),
    "magnitude_merge": (20, 1),
    "restart": (20, 1),
    "one_model": (60, 1),
    "ensemble": (0, 0),
    "one_model_all_data": (60, 1),
}
TEACHERS = (40, 2)


def launch_of(folder, seeds, start, epoch, program):
    """Runs of a launch, in order, each with its row."""
    launch = []
    for seed in seeds:
        for place, (name, (epochs, programs)) in enumerate(OWN.items()):
            shared = (0, 0) if name.startswith("one_") else TEACHERS
            spent = shared if place == 0 else (0, 0)
            row = {
                "wall_seconds": start + (epochs + spent[0]) * epoch + (programs + spent[1]) * program,
                "seconds": (epochs + shared[0]) * epoch,
                "compile_seconds": (programs + shared[1]) * program,
                "teacher_epoch_equivalents": epochs + shared[0],
                "programs": dict.fromkeys(range(programs + shared[1])),
            }
            launch.append((RunFolder.of(folder, {"strategy": name, "seed": seed}), row))
    return launch


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("costs", [(2, 0.1, 2), (10, 0.5, 10), (5, 40, 20)], ids=["idle", "shared", "large"])
def test_the_time_left_is_right_within_a_factor_of_two_from_the_first_run_on(tmp_path, costs, jobs):
    launch = launch_of(tmp_path, range(5), *costs)
    estimate, left = Estimate([run for run, _ in launch], BUDGET, jobs), sum(row["wall_seconds"] for _, row in launch)
    for run, row in launch[:-2]:
        estimate.end(run, row)
        left -= row["wall_seconds"]
        assert 0.5 < estimate.seconds_left() / (left / jobs) < 2, run.name


def test_once_a_seed_is_done_the_others_take_as_long(tmp_path):
    launch = launch_of(tmp_path, range(3), 2, 0.1, 2)
    estimate = Estimate([run for run, _ in launch], BUDGET, 1)
    for run, row in launch[: len(OWN)]:
        estimate.end(run, row)
    assert estimate.seconds_left() == pytest.approx(sum(row["wall_seconds"] for _, row in launch[len(OWN) :]))


def test_failed_runs_leave_no_time_and_tell_none(tmp_path):
    launch = launch_of(tmp_path, range(1), 2, 0.1, 2)
    estimate = Estimate([run for run, _ in launch], BUDGET, 1)
    for run, _ in launch:
        estimate.end(run, None)
    assert estimate.seconds_left() == 0


def test_no_estimate_is_below_the_longest_run(tmp_path):
    launch = launch_of(tmp_path, range(1), 2, 0.1, 2)[:3]
    estimate = Estimate([run for run, _ in launch], BUDGET, 8)
    estimate.end(*launch[1])
    assert estimate.seconds_left() > launch[1][1]["wall_seconds"]


def test_networks_that_are_trained_together_take_their_time_once(tmp_path):
    launch = [(RunFolder.of(tmp_path, {"strategy": "one_model", "seed": seed}), row) for seed in range(10)
              for row in [{"wall_seconds": 100.0, "seconds": 16.0, "compile_seconds": 4.0, "together": 5,
                           "teacher_epoch_equivalents": 60, "programs": {"single": {}}}]]  # fmt: skip
    estimate = Estimate([run for run, _ in launch], BUDGET, 1)
    for run, row in launch[:5]:
        estimate.end(run, row)
    assert estimate.seconds_left() == pytest.approx(100)
