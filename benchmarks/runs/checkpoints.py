"""Where a run that was cut off goes on.

A strategy is a plain function, and a run resumes by calling it again: every phase that it had finished is restored at
once, and the one that was cut off goes on after its last known epoch. So a checkpoint is the list of the phases so far,
each with its state, in one file that is replaced as a whole. It holds numbers and JSON, nothing that is executed.

A state is taken up only by the phase that left it: same place in the list, same settings, same version of all code.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from baselines.protocol.strategy import TrainingRecord, TrainingState
from benchmarks.checkout import code_digest
from benchmarks.records.store import hash_of
from benchmarks.runs.arrays import listed, move_aside, numbered, read_arrays, write_arrays

NAME = "checkpoint.npz"
# A killed run loses as much, and a stopped one nothing.
SECONDS_BETWEEN_WRITES = 5.0
# Where writing is slow, it takes no larger share of the time than this.
_SHARE_OF_WRITING = 0.05


class Checkpoint:
    """The phases of a run, or of a stage, so far.

    Args:
        path: of the file; it need not exist. One that is damaged counts as none.
        tell: is given a sentence about one that is; see `benchmarks.runs.arrays`.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = print) -> None:
        self.path, self._tell = path, tell
        self._stored = _read(path, tell)
        self._phases: list[tuple[str, Callable[[], TrainingState] | None]] = []
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    def resume(
        self, key: Mapping[str, Any], check: Callable[[TrainingState], None] = lambda state: None
    ) -> TrainingState | None:
        """Begin the next phase.

        Args:
            key: what it depends on besides the phases before it.
            check: raises for a state that cannot be one of the phase, whose file then counts as damaged.

        Returns:
            The state that an earlier try left of it.
        """
        name, number = hash_of({"key": key, "code": code_digest()}), len(self._phases)
        state = None
        if number < len(self._stored) and self._stored[number][0] == name:
            state = self._checked(self._stored[number][1], check)
        if state is None:
            self._stored = []  # What comes after another phase is not what comes after this one.
        self._phases.append((name, None if state is None else lambda: state))
        return state

    def _checked(self, state: TrainingState, check: Callable[[TrainingState], None]) -> TrainingState | None:
        try:
            check(state)
        except Exception as error:  # whole, but of arrays and records that may be anything
            move_aside(self.path, error, self._tell)
            return None
        return state

    def update(self, state: Callable[[], TrainingState]) -> None:
        """Note how far the phase is, and write it if the last time is long ago.

        Args:
            state: gives the state of the phase, now and until the next update.
        """
        self._phases[-1] = (self._phases[-1][0], state)
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Replace the file, if there is anything to write."""
        began = time.monotonic()
        states = [(name, state()) for name, state in self._phases if state is not None]
        if states:
            arrays, contents = {}, []
            for i, (name, state) in enumerate(states):
                arrays |= numbered(f"{i} variables", state.variables)
                arrays |= numbered(f"{i} best", state.record.best_weights)
                contents.append({"name": name, "record": asdict(_without_arrays(state.record))})
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(self.path, arrays, contents)
        took = time.monotonic() - began
        self._due = time.monotonic() + max(SECONDS_BETWEEN_WRITES, took / _SHARE_OF_WRITING)


def _without_arrays(record: TrainingRecord) -> TrainingRecord:
    return replace(record, best_weights=[])


def _read(path: Path, tell: Callable[[str], None]) -> list[tuple[str, TrainingState]]:
    found = read_arrays(path, tell)
    if found is None:
        return []
    arrays, contents = found
    try:
        return [
            (content["name"], TrainingState(_record(content, arrays, i), listed(f"{i} variables", arrays)))
            for i, content in enumerate(contents)
        ]
    except (KeyError, TypeError, ValueError) as error:  # whole, but no checkpoint of ours
        move_aside(path, error, tell)
        return []


def _record(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int) -> TrainingRecord:
    return TrainingRecord(**content["record"] | {"best_weights": listed(f"{number} best", arrays)})
