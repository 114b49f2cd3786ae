"""How long a launch will still take, from the first run that ends on.

Runs of a seed share teachers, which the first of them trains: so runs differ in what they have to do, and a mean over those
that have ended says little. What is known before is epochs: of two teachers, if a run is the first of its seed, and of
all that follows. Seconds per epoch are those of the runs that have ended. Where a strategy has ended, it is its time that
counts, plus or minus the teachers' where it had to train them, or had not. This module does not import Keras.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from baselines.protocol.task import Budget
from benchmarks.records.store import RunFolder
from benchmarks.strategies.registry import SIZING

# Epochs that the start of a run is worth, with what is compiled in it.
_START = 5


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
        self._train_teachers = self._first_of_seeds()
        self._ended: list[tuple[str, bool, float]] = []

    def end(self, run: RunFolder, row: dict[str, Any] | None) -> None:
        """Note that a run has ended.

        Args:
            run: which.
            row: its row; None if it failed.
        """
        self._left.pop(run.path, None)
        if row is not None:
            name = run.configuration["strategy"]
            self._ended.append((name, run.path in self._train_teachers, row["wall_seconds"]))

    def seconds_left(self) -> float:
        """Expected, runs that are under way counted whole."""
        epochs = sum(self._epochs(name, trains) for name, trains, _ in self._ended)
        per_epoch = sum(seconds for *_, seconds in self._ended) / epochs if epochs else 0.0
        seconds = [self._seconds(run, per_epoch) for run in self._left.values()]
        return max(sum(seconds) / self._jobs, max(seconds, default=0.0))

    def _seconds(self, run: RunFolder, per_epoch: float) -> float:
        name, trains = run.configuration["strategy"], run.path in self._train_teachers
        known = [
            max(0.0, seconds + per_epoch * (self._epochs(name, trains) - self._epochs(name, trained)))
            for ended, trained, seconds in self._ended
            if ended == name
        ]
        return sum(known) / len(known) if known else per_epoch * self._epochs(name, trains)

    def _epochs(self, strategy: str, trains_teachers: bool) -> float:
        """Epochs to be trained, of whatever network."""
        teachers = 2 * self._budget.teacher
        if not has_teachers(strategy):
            return _START + self._budget.single
        own = self._budget.merging - teachers if strategy != "ensemble" else 0
        return _START + own + (teachers if trains_teachers else 0)

    def _first_of_seeds(self) -> set[Path]:
        first: dict[int, Path] = {}
        for path, run in self._left.items():
            if has_teachers(run.configuration["strategy"]):
                first.setdefault(run.configuration["seed"], path)
        return set(first.values())


def has_teachers(strategy: str) -> bool:
    """Whether a strategy begins with networks that others of its seed share, as all do that are not of one network alone."""
    return strategy not in SIZING and not strategy.startswith("one_")
