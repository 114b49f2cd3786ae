"""What strategies train with in the benchmark: shared stages are trained once, and what was cut off is resumed.

    results/digits/stages/<hash of all the stage depends on>/
        weights.npz         of the last and of the best epoch
        stage.json          the key and the record; written last
        checkpoint.npz      while it is not done: where to go on

This module does not import Keras.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.protocol.strategy import Stages, TrainingRecord, TrainingState
from benchmarks.records.store import hash_of, json_text, locked, pause, read_json, write_atomically
from benchmarks.runs.checkpoints import NAME, Checkpoint, listed, numbered, write_arrays
from benchmarks.runs.stopping import Stop, Stopped

if TYPE_CHECKING:
    import keras

    import kmerge


class Alone:
    """Trains a run's networks one after the other, in the main thread."""

    def fit(self, phase: int, model: "keras.Model", x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Train a compiled network in place.

        Args:
            phase: how many phases the run has begun.
            model: the network.
            x: inputs.
            y: targets.
            **how: as for `kmerge.fit`.
        """
        import kmerge

        kmerge.fit(model, x, y, verbose=0, **how)

    def wait(self) -> None:
        """Let others work for a moment."""
        pause()


class StageCache(Stages):
    """Networks that strategies share, trained once each and kept by the hash of all they depend on.

    Two workers that ask for one stage at a time train it once: the second waits. The first also gets what it wrote
    read back, so that a result does not depend on who trained.

    Args:
        folder: where the stages are kept.
        on_epoch: is told of every epoch that ends, with its row.
        stop: whether to end before the next epoch.
        trainer: what trains; see `Alone`.
        on_wait: is told "waits" when somebody else trains the stage that is asked for, and "resumes" when it is there.
        devices: over so many each batch is split.
    """

    def __init__(
        self,
        folder: Path,
        on_epoch: Callable[[Mapping[str, Any]], None] = lambda row: None,
        stop: Stop | None = None,
        trainer: Any = None,
        on_wait: Callable[[str], None] = lambda kind: None,
        devices: int = 1,
    ) -> None:
        self.folder = Path(folder)
        self._tell = on_epoch
        self._stop = stop or Stop()
        self._trainer = trainer or Alone()
        self._tell_waiting = on_wait
        self._devices = devices
        self._checkpoints: list[Checkpoint] = []
        self._phases = 0

    def run(
        self,
        key: Mapping[str, Any],
        build: Callable[[], "keras.Model"],
        train: Callable[["keras.Model"], TrainingRecord],
    ) -> tuple["keras.Model", TrainingRecord]:
        """The trained network of a stage, from the cache or trained now; see `Stages.run`."""
        folder = self.folder / hash_of(key)
        begun = self._phases
        with self._turn(folder / "lock"):
            stage = _read(folder)
            if stage is None:
                model = build()
                with self.keeping(Checkpoint(folder / NAME)):
                    record = train(model)
                    _write(folder, key, record, model.get_weights())
                stage = _read(folder)
            (folder / NAME).unlink(missing_ok=True)
        self._phases = begun + 1
        record, weights = stage
        model = build()
        model.set_weights(weights)
        return model, record

    @contextlib.contextmanager
    def _turn(self, lock: Path) -> Iterator[None]:
        """Hold a lock, and tell if that takes waiting."""
        told = False

        def wait() -> None:
            nonlocal told
            if not told:
                self._tell_waiting("waits")
            told = True
            self._trainer.wait()

        with locked(lock, wait):
            if told:
                self._tell_waiting("resumes")
            yield

    @contextlib.contextmanager
    def keeping(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Phases that begin while this lasts are noted in that checkpoint, and resumed from it.

        It is written when the process is stopped and when memory runs out, which `kmerge.fit` survives with the
        weights of the last epoch. No other error says in what state it left the network.
        """
        self._checkpoints.append(checkpoint)
        try:
            yield
        except (Stopped, MemoryError):
            checkpoint.write()
            raise
        finally:
            self._checkpoints.pop()

    def resume(self, key: Mapping[str, Any]) -> TrainingState | None:
        """The state that an earlier try left of the phase that begins; see `Stages.resume`."""
        self._phases += 1
        return self._checkpoints[-1].resume(key) if self._checkpoints else None

    def fit(self, model: "keras.Model", x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Train a compiled network in place; see `Stages.fit`."""
        with self._stop.deferred(), _split_over(self._devices):
            self._trainer.fit(self._phases, model, x, y, **how)

    def size(self, sizer: "kmerge.AutoSizer", x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Let a sizer train its network, alone: no two runs have the same sizes; see `Stages.size`."""
        with self._stop.deferred(), _split_over(self._devices):
            super().size(sizer, x, y, **how)

    def before_epoch(self) -> None:
        """End here if the process was asked to."""
        self._stop.check()

    def on_epoch(self, row: Mapping[str, Any], state: Callable[[], TrainingState]) -> None:
        """Note and tell that an epoch has ended; see `Stages.on_epoch`."""
        if self._checkpoints:
            self._checkpoints[-1].update(state)
        self._tell(row)


def _split_over(devices: int) -> contextlib.AbstractContextManager:
    """While this lasts, training splits its batches over so many devices. Keras cannot predict so for any number of
    examples, so it does not last longer."""
    if devices == 1:
        return contextlib.nullcontext()
    from keras import distribution

    return distribution.DataParallel(devices=distribution.list_devices()[:devices]).scope()


def _write(folder: Path, key: Mapping[str, Any], record: TrainingRecord, weights: list[np.ndarray]) -> None:
    content = {"key": key, **{name: getattr(record, name) for name in ("rows", "seconds", "flops", "program")}}
    write_arrays(folder / "weights.npz", numbered("last", weights) | numbered("best", record.best_weights))
    write_atomically(folder / "stage.json", json_text(content, indent=1))


def _read(folder: Path) -> tuple[TrainingRecord, list[np.ndarray]] | None:
    content = read_json(folder / "stage.json")
    if content is None:
        return None
    try:
        with open(folder / "weights.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
            last, best = listed("last", arrays), listed("best", arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return TrainingRecord(content["rows"], content["seconds"], content["flops"], best, content["program"]), last
