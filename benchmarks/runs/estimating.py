"""How long a launch will still take, from the first run that ends on.

Runs of a seed share teachers, which the first of them trains: so runs differ in what they have to do, and a mean over those
that have ended says little. A run takes a start, its epochs, and the compilation of a program for each of its phases. What
these take is known once a run has ended; how many of them a strategy has follows from the budget. Where a run of the same
strategy has ended, it is its time that counts, plus or minus that of teachers. This module does not import Keras.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from baselines.protocol.task import Budget
from benchmarks.records.store import RunFolder
from benchmarks.strategies.registry import SIZING

# Epochs of one network that an epoch of two side by side, with gates, is about worth.
_GATED = 3


class Estimate:
    """Seconds that are left of a launch.

    Args:
        runs: all that the launch has to do, in their order.
        budget: of the runs' suite.
        jobs: how many run at a time.
    """

    def __init__(self, runs: Iterable[RunFolder], budget: Budget, jobs: int) -> None:
        self._budget, self._jobs = budget, jobs
        self._left = {run.path: run for run in runs}
        self._first_of_seeds: dict[int, Path] = {}
        for path, run in self._left.items():
            if has_teachers(run.configuration["strategy"]):
                self._first_of_seeds.setdefault(run.configuration["seed"], path)
        self._ended: list[tuple[RunFolder, dict[str, Any]]] = []

    def end(self, run: RunFolder, row: dict[str, Any] | None) -> None:
        """Note that a run has ended.

        Args:
            run: which.
            row: its row; None if it failed.
        """
        self._left.pop(run.path, None)
        if row is not None:
            self._ended.append((run, row))

    def seconds_left(self) -> float:
        """Expected, runs that are under way counted whole."""
        rows = [row for _, row in self._ended]
        epoch = _mean(row["seconds"] / row["teacher_epoch_equivalents"] for row in rows)
        program = _mean(row["compile_seconds"] / max(1, len(row["programs"])) for row in rows)
        # A row is charged with teachers that another run trained.
        alone = [row for run, row in self._ended if self._trains(run) or not has_teachers(_name(run))]
        start = _mean(max(0.0, _wall_seconds(row) - row["seconds"] - row["compile_seconds"]) for row in alone)
        seconds = [self._seconds(run, start, epoch, program) for run in self._left.values()]
        return max(sum(seconds) / self._jobs, max(seconds, default=0.0))

    def epochs_left(self) -> int:
        """What the runs that are left are worth in epochs of one network, those included that they did before a stop."""
        return sum(
            self._after_teachers(_name(run))[0] + 2 * self._budget.teacher * self._trains(run) for run in self._left.values()
        )

    def _seconds(self, run: RunFolder, start: float, epoch: float, program: float) -> float:
        teachers = 2 * self._budget.teacher * epoch + 2 * program
        known = [
            max(0.0, _wall_seconds(row) + teachers * (self._trains(run) - self._trains(ended)))
            for ended, row in self._ended
            if _name(ended) == _name(run)
        ]
        if known:
            return mean(known)
        epochs, programs = self._after_teachers(_name(run))
        return start + epochs * epoch + programs * program + teachers * self._trains(run)

    def _trains(self, run: RunFolder) -> bool:
        """Whether a run trains the teachers of its seed."""
        return self._first_of_seeds.get(run.configuration["seed"]) == run.path

    def _after_teachers(self, strategy: str) -> tuple[int, int]:
        """Epochs of one network that a strategy is worth without its teachers, and how many programs it has."""
        if strategy == "ensemble":
            return 0, 0
        if not has_teachers(strategy):
            return self._budget.single, 1
        if strategy.startswith(("l0_", "aligned_")):
            return _GATED * self._budget.gates + self._budget.finetune, 2
        return self._budget.gates + self._budget.finetune, 1


def has_teachers(strategy: str) -> bool:
    """Whether a strategy begins with networks that others of its seed share, as all do that are not of one network alone."""
    return strategy not in SIZING and not strategy.startswith("one_")


def _wall_seconds(row: dict[str, Any]) -> float:
    """The share of a run in the time of all that were trained together: that time stands in each of their rows."""
    return row["wall_seconds"] / (row.get("together") or 1)


def _name(run: RunFolder) -> str:
    return run.configuration["strategy"]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return mean(values) if values else 0.0
