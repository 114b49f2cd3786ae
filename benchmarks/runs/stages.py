"""What strategies train with in the benchmark: shared stages are trained once, and what was cut off is resumed.

    results/digits/stages/<hash of all the stage depends on>/
        stage.npz           the weights of the last and of the best epoch, the key and the record
        checkpoint.npz      while it is not done: where to go on

This module does not import Keras.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.protocol.strategy import Stages, TrainingRecord, TrainingState, check_record, check_shapes
from benchmarks.files import locked_in_turn, pause, real_folder
from benchmarks.records.store import hash_of
from benchmarks.runs.arrays import listed, move_aside, numbered, read_arrays, write_arrays
from benchmarks.runs.checkpoints import NAME, Checkpoint
from benchmarks.runs.devices import over_devices
from benchmarks.runs.stopping import Stop, Stopped

if TYPE_CHECKING:
    import keras

    import kmerge

STAGE = "stage.npz"
# Seconds after which a wait for another's network is told to people.
LONG_WAIT = 60.0
# What is kept of a record besides the weights.
_RECORDED = ("rows", "seconds", "flops", "program")


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
        on_epoch: is called for every epoch that ends, with its row.
        stop: whether to end before the next epoch.
        trainer: what trains; see `Alone`.
        tell: is told "waits" when somebody else trains the stage that is asked for, with `holder` for who and, once that takes
            long, `seconds` for how long; "resumes" when it is there; "damaged" with a `text` about a file that counts as none.
        devices: over so many each batch is split.
    """

    def __init__(
        self,
        folder: Path,
        on_epoch: Callable[[Mapping[str, Any]], None] = lambda row: None,
        stop: Stop | None = None,
        trainer: Any = None,
        tell: Callable[..., None] = lambda kind, **detail: None,
        devices: int = 1,
    ) -> None:
        self.folder = Path(folder)
        self._tell_epoch = on_epoch
        self._stop = stop or Stop()
        self._trainer = trainer or Alone()
        self._tell = tell
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
        folder = real_folder(self.folder / hash_of(key))
        begun = self._phases
        with self._turn(folder / "lock"):
            stage = _read(folder, build, self.tell_damage)
            if stage is None:
                model = build()
                with self.keeping(Checkpoint(folder / NAME, self.tell_damage)):
                    record = train(model)
                    _write(folder, key, record, model.get_weights())
                stage = _read(folder, build, self.tell_damage)
                if stage is None:
                    raise OSError(f"{folder / STAGE} was written, but cannot be read back.")
            (folder / NAME).unlink(missing_ok=True)
        self._phases = begun + 1
        return stage

    def tell_damage(self, text: str) -> None:
        """Report a file that counts as none."""
        self._tell("damaged", text=text)

    def _turn(self, lock: Path) -> contextlib.AbstractContextManager[None]:
        """That lock: waiting for it is told, and again if it takes long."""

        def tell(holder: str, seconds: float) -> None:
            self._tell("waits", holder=holder, **({"seconds": seconds} if seconds >= LONG_WAIT else {}))

        return locked_in_turn(lock, tell, lambda: self._tell("resumes"), 0.0, LONG_WAIT, pause=self._trainer.wait)

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

    def resume(self, key: Mapping[str, Any], check: Callable[[TrainingState], None]) -> TrainingState | None:
        """The state that an earlier try left of the phase that begins; see `Stages.resume`."""
        self._phases += 1
        return self._checkpoints[-1].resume(key, check) if self._checkpoints else None

    def fit(self, model: "keras.Model", x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Train a compiled network in place; see `Stages.fit`."""
        with self._stop.deferred(), over_devices(self._devices):
            self._trainer.fit(self._phases, model, x, y, **how)

    def size(self, sizer: "kmerge.AutoSizer", x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Let a sizer train its network, alone: no two runs have the same sizes; see `Stages.size`."""
        with self._stop.deferred(), over_devices(self._devices):
            super().size(sizer, x, y, **how)

    def before_epoch(self) -> None:
        """End here if the process was asked to."""
        self._stop.check()

    def on_epoch(self, row: Mapping[str, Any], state: Callable[[], TrainingState]) -> None:
        """Note and tell that an epoch has ended; see `Stages.on_epoch`."""
        if self._checkpoints:
            self._checkpoints[-1].update(state)
        self._tell_epoch(row)


def _write(folder: Path, key: Mapping[str, Any], record: TrainingRecord, weights: list[np.ndarray]) -> None:
    contents = {"key": key, **{name: getattr(record, name) for name in _RECORDED}}
    write_arrays(folder / STAGE, numbered("last", weights) | numbered("best", record.best_weights), contents)


def _read(
    folder: Path, build: Callable[[], "keras.Model"], tell: Callable[[str], None]
) -> tuple["keras.Model", TrainingRecord] | None:
    """The network of a stage with the weights of its last epoch, and its record; None where no file is whole and fits."""
    found = read_arrays(folder / STAGE, tell)
    if found is None:
        return None
    arrays, contents = found
    try:
        if hash_of(contents["key"]) != folder.name:
            raise ValueError("it is of another stage")
        record = TrainingRecord(best_weights=listed("best", arrays), **{name: contents[name] for name in _RECORDED})
        check_record(record)
        model = build()
        model.set_weights(listed("last", arrays))
        if record.rows:
            check_shapes(record.best_weights, model.weights)
    except Exception as error:  # whole, but of arrays that may have any names, shapes and types
        move_aside(folder / STAGE, error, tell)
        return None
    return model, record
