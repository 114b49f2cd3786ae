"""Where a run that was cut off goes on.

A strategy is a plain function, and a run resumes by calling it again: every phase that it had finished is restored at
once, and the one that was cut off goes on after its last known epoch. So a checkpoint is the list of the phases so far,
each with its state, in one file that is replaced as a whole. It holds numbers and JSON, nothing that is executed.

A state is taken up only by the phase that left it: same place in the list, same settings, same version of all code.
"""

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from baselines.protocol.strategy import TrainingRecord, TrainingState
from benchmarks.checkout import code_digest
from benchmarks.records.store import hash_of, json_text, write_atomically

NAME = "checkpoint.npz"
# A killed run loses as much, and a stopped one nothing.
SECONDS_BETWEEN_WRITES = 5.0
# Where writing is slow, it takes no larger share of the time than this.
_SHARE_OF_WRITING = 0.05


class Checkpoint:
    """The phases of a run, or of a stage, so far.

    Args:
        path: of the file; it need not exist. One that cannot be read counts as none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = _read(path)
        self._phases: list[tuple[str, Callable[[], TrainingState] | None]] = []
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    def resume(self, key: Mapping[str, Any]) -> TrainingState | None:
        """Begin the next phase.

        Args:
            key: what it depends on besides the phases before it.

        Returns:
            The state that an earlier try left of it.
        """
        name, number = hash_of({"key": key, "code": code_digest()}), len(self._phases)
        state = None
        if number < len(self._stored) and self._stored[number][0] == name:
            state = self._stored[number][1]
        else:
            self._stored = []  # What comes after another phase is not what comes after this one.
        self._phases.append((name, None if state is None else lambda: state))
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
            arrays["contents"] = np.frombuffer(json_text(contents).encode(), "uint8")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(self.path, arrays)
        took = time.monotonic() - began
        self._due = time.monotonic() + max(SECONDS_BETWEEN_WRITES, took / _SHARE_OF_WRITING)


def _without_arrays(record: TrainingRecord) -> TrainingRecord:
    return replace(record, best_weights=[])


def _read(path: Path) -> list[tuple[str, TrainingState]]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            contents = json.loads(arrays["contents"].tobytes())
            return [
                (content["name"], TrainingState(_record(content, arrays, i), listed(f"{i} variables", arrays)))
                for i, content in enumerate(contents)
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return []


def _record(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int) -> TrainingRecord:
    return TrainingRecord(**content["record"] | {"best_weights": listed(f"{number} best", arrays)})


def numbered(kind: str, arrays: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """A list of arrays under names of their own, for `write_arrays`; see `listed`."""
    return {f"{kind} {i}": array for i, array in enumerate(arrays)}


def listed(kind: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The list of arrays that `numbered` put under that kind of name."""
    return [arrays[f"{kind} {i}"] for i in range(sum(name.startswith(f"{kind} ") for name in arrays))]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz file as a whole."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
