"""Training the networks of several runs in one program: `kmerge.fit_many` under strategies that know nothing of it.

Each run has a thread, but only one thread works at any time. A run works until it wants to train (or to wait for a lock);
then the next one works. When all of them want something, those that want to train the same phase from the same epoch are
trained together, and each goes on with its trained network as if it had been alone.

    seed 100   build ->|                     |-> merge ->|
    seed 101           build ->|             |           merge ->|
    seed 102                   build ->|     |                   merge ->|
    together                           fit_many                          fit_many

Where there are several devices, each trains its part of the networks.

A run that fails or ends leaves the others. Networks that cannot be trained in one program are trained one by one.
"""

import functools
import itertools
import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.files import pause
from benchmarks.runs.devices import over_devices
from benchmarks.runs.stopping import Stop, Stopped

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class _Fit:
    """A network that a run wants to be trained."""

    phase: int
    model: "keras.Model"
    x: np.ndarray
    y: np.ndarray
    how: dict[str, Any]

    @property
    def place(self) -> tuple:
        """What is equal for networks that may be trained together; smaller for those that are further behind."""
        return (self.phase, self.how["initial_epoch"], self.how["epochs"], self.how["batch_size"])


class _Seat(threading.Thread):
    """A run's thread; what its strategy trains with, see `benchmarks.runs.stages.Alone`."""

    def __init__(self, job: Callable[["_Seat"], Any]) -> None:
        super().__init__(daemon=True)
        self._job = job
        self._to_run: queue.SimpleQueue = queue.SimpleQueue()
        self._from_run: queue.SimpleQueue = queue.SimpleQueue()
        self._draws = (random.getstate(), np.random.get_state())
        self.wish: _Fit | None = None
        self.result: Any = None
        self.start()

    def fit(self, phase: int, model: "keras.Model", x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Train a compiled network in place, perhaps together with others."""
        self._leave(_Fit(phase, model, x, y, how))

    def wait(self) -> None:
        """Let others work for some time."""
        self._leave(None)

    def go_on(self, error: BaseException | None = None) -> bool:
        """Let the run work until it wants something; whether it has not ended.

        Args:
            error: raise it in the run, where it wanted something.
        """
        # Python's and NumPy's own generators belong to the process: each run gets what it left there.
        kept = random.getstate(), np.random.get_state()
        self._set_draws(self._draws)
        self._to_run.put(error)
        self.wish = self._from_run.get()
        self._draws = random.getstate(), np.random.get_state()
        self._set_draws(kept)
        return self.wish is not self

    @staticmethod
    def _set_draws(draws: tuple) -> None:
        random.setstate(draws[0])
        np.random.set_state(draws[1])

    def run(self) -> None:
        """The thread."""
        self._to_run.get()
        try:
            self.result = self._job(self)
        except BaseException as error:  # `Stopped`, too, ends the thread; whoever let it go on knows
            self.result = error
        self._from_run.put(self)

    def _leave(self, wish: _Fit | None) -> None:
        self._from_run.put(wish)
        error = self._to_run.get()
        if error is not None:
            raise error


def work_together(jobs: Sequence[Callable[[Any], Any]], stop: Stop) -> list[Any]:
    """Work through jobs at once, one thread at a time; what they train at the same place is trained together.

    Args:
        jobs: each is called with what it is to train with.
        stop: whether to end before the next epoch.

    Returns:
        The result of each job; the exception of one that raised.

    Raises:
        Stopped: if the process was asked to end; each job has then ended by it.
    """
    with stop.deferred():
        seats = [_Seat(job) for job in jobs]
        going = [seat for seat in seats if seat.go_on()]
        while going:
            ready = [seat for seat in going if seat.wish is not None]
            waiting = [seat for seat in going if seat.wish is None]
            errors = dict.fromkeys(waiting)
            try:
                stop.check()
                if ready:
                    # Those that are behind come first, so that all arrive together at the next phase.
                    behind = min(seat.wish.place for seat in ready)
                    chosen = [seat for seat in ready if seat.wish.place == behind]
                    errors |= dict(zip(chosen, _train([seat.wish for seat in chosen]), strict=True))
                else:
                    pause()
            except Stopped as stopped:
                errors = dict.fromkeys(going, stopped)
            ended = {seat for seat, error in errors.items() if not seat.go_on(error)}
            going = [seat for seat in going if seat not in ended]
    for seat in seats:
        if isinstance(seat.result, Stopped):
            raise seat.result
    return [seat.result for seat in seats]


def _train(fits: Sequence[_Fit]) -> list[Exception | None]:
    """Train networks, together if that can be; what was raised for each."""
    import kmerge

    if len(fits) > 1:
        try:
            _fit_many(fits)
            return [None] * len(fits)
        except (kmerge.ArchitectureMismatchError, kmerge.InvalidArgumentError) as error:
            print(f"Trained one by one: {error}", flush=True)  # raised before anything was trained
        except Exception as error:
            return [error] * len(fits)
    return [_raised(functools.partial(kmerge.fit, fit.model, fit.x, fit.y, verbose=0, **fit.how)) for fit in fits]


def _raised(work: Callable[[], Any]) -> Exception | None:
    try:
        work()
    except Exception as error:
        return error
    return None


def _fit_many(fits: Sequence[_Fit]) -> None:
    import kmerge

    first = fits[0].how
    with over_devices(len(fits)):
        kmerge.fit_many(
            [fit.model for fit in fits],
            _shared([fit.x for fit in fits]),
            _shared([fit.y for fit in fits]),
            batch_size=first["batch_size"],
            epochs=first["epochs"],
            initial_epoch=first["initial_epoch"],
            validation_data=_shared_pairs([fit.how["validation_data"] for fit in fits]),
            callbacks=[fit.how["callbacks"] for fit in fits],
            seeds=[fit.how["seed"] for fit in fits],
            augments=[fit.how["augment"] for fit in fits],
        )


def _shared(arrays: Sequence[Any]) -> Any:
    """One array if all are the same one, so that it lies on the device once."""
    return arrays[0] if all(a is b for a, b in itertools.pairwise(arrays)) else list(arrays)


def _shared_pairs(pairs: Sequence[tuple]) -> Any:
    is_shared = all(a is b for pair in itertools.pairwise(pairs) for a, b in zip(*pair, strict=True))
    return pairs[0] if is_shared else list(pairs)
