"""The epochs of an `AutoSizer`: when units come and go, and what callbacks see."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from kmerge.batching import Continued
from kmerge.sizing.schedule import Schedule, next_sizes
from kmerge.sizing.state import SizingState
from kmerge.training import ModelFitWarning, arrays_of, fit

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


class _Inside(keras.callbacks.Callback):
    """Runs inside `fit`: prunes before the model is validated."""

    def __init__(self, finish: Callable[[], None]):
        super().__init__()
        self._finish = finish

    def on_test_begin(self, logs=None):
        self._finish()

    def on_epoch_end(self, epoch, logs=None):
        self._finish()


class _Batches(keras.callbacks.Callback):
    """Hands the hooks of single batches on to the callbacks that have them."""

    def __init__(self, callbacks: list):
        super().__init__()
        self._callbacks = callbacks

    def on_train_batch_begin(self, batch, logs=None):
        for callback in self._callbacks:
            callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        for callback in self._callbacks:
            callback.on_train_batch_end(batch, logs)


def run_epochs(
    state: SizingState,
    schedule: Schedule,
    alpha_at: Callable[[int], float],
    data: Mapping,
    callbacks: Sequence,
    verbose: str | int,
) -> keras.callbacks.History:
    """Runs the epochs of a schedule.

    Args:
        state: the model that is sized; what comes of each epoch is recorded in it.
        schedule: what happens when.
        alpha_at: gives the strength of the penalty in an epoch.
        data: arguments of `fit`.
        callbacks: of the user.
        verbose: 0 is silent.

    Returns:
        The history.
    """
    run = _Run(state, schedule, alpha_at, data, verbose)
    total = schedule.dynamic + schedule.static
    history = keras.callbacks.History()
    hooks = keras.callbacks.CallbackList(
        [*callbacks, history], add_history=False, model=None, epochs=total, verbose=verbose
    )
    run.relayed = [c for c in callbacks if _has_batch_hooks(c)]
    units, logs, started = [], {}, False
    for epoch in range(schedule.start, total):
        model = run.begin(epoch)
        if getattr(hooks, "model", None) is not model:
            hooks.set_model(model)
        if not started:
            hooks.on_train_begin()
            started = True
        hooks.on_epoch_begin(epoch)
        logs = run.train(epoch)
        if state.working.trained is not model:
            model = state.working.trained
            hooks.set_model(model)
        units.append(state.sizes)
        hooks.on_epoch_end(epoch, logs)
        run.tell(epoch, total, logs)
        if model.stop_training:
            break
    if started:
        hooks.on_train_end(logs)
        state.pull()
    history.history["units"] = units
    return history


def _has_batch_hooks(callback: keras.callbacks.Callback) -> bool:
    base = keras.callbacks.Callback
    return any(getattr(type(callback), hook) is not getattr(base, hook) for hook in _BATCH_HOOKS)


class _Run:
    def __init__(self, state: SizingState, schedule: Schedule, alpha_at: Callable, data: Mapping, verbose):
        self.state, self.schedule, self.alpha_at, self.data, self.verbose = state, schedule, alpha_at, dict(data), verbose
        self.relayed: list = []
        self._open = False  # whether the sizes of this epoch are still to be found
        self._record: dict = {}
        self._ready = False  # whether the model that is trained holds the weights
        self._told = False  # whether a first `fit` has said why it is left to `model.fit`

    def begin(self, epoch: int) -> keras.Model:
        """Adds units, and returns the model to train."""
        state, schedule = self.state, self.schedule
        if not schedule.is_dynamic(epoch):
            if not self._ready or state.working.penalty is not None:
                state.load(None)
                self._ready = True
            return state.working.trained
        grows, before = schedule.grows(epoch), state.sizes
        if grows:
            state.grow(next_sizes(before, state.options, state.history))
            self._restart()
            self._ready = False
        if not self._ready:
            state.load(self.alpha_at(epoch))
            self._ready = True
        state.set_alpha(self.alpha_at(epoch))
        last = state.history[-1] if state.history else {}
        new = {name: n - before[name] for name, n in state.sizes.items()}
        if not grows and last and "stayed" not in last:
            new = last["new"]  # the period goes on
        self._record = {"epoch": epoch, "grown": state.sizes, "new": new, "room": dict(state.working.room)}
        return state.working.trained

    def train(self, epoch: int) -> dict:
        """Trains one epoch, which `begin` has begun, and drops units; returns the logs."""
        found, parts = [], self.schedule.parts(epoch, self.data)
        for number, part in enumerate(parts):
            if number:
                self.begin(epoch)
            found.append(
                (len(arrays_of(part["x"])[0]) if len(parts) > 1 else 1, self._fit(epoch, part, part is parts[-1]))
            )
        self.state.epochs_done = epoch + 1
        total = sum(n for n, _ in found)
        means = (
            {name: sum(n * logs[name] for n, logs in found) / total for name in found[0][1]} if len(found) > 1 else {}
        )
        return {**found[-1][1], **means}

    def _fit(self, epoch: int, data: Mapping, last_part: bool) -> dict:
        dynamic = self._open = self.schedule.is_dynamic(epoch)
        inside = [_Inside(lambda: self._finish(epoch, last_part))] if dynamic else []
        inside += [_Batches(self.relayed)] if self.relayed else []
        while True:
            model = self.state.working.trained
            with warnings.catch_warnings():
                if self._told:
                    warnings.simplefilter("ignore", ModelFitWarning)
                history = fit(model, **data, initial_epoch=epoch, epochs=epoch + 1, callbacks=inside, verbose=0)
            self._told = True
            if isinstance(data["x"], Continued):
                data["x"].next_epoch()
            self.state.compile_seconds += history.params.get("compile_seconds", 0.0)
            if not self._open:
                break
            # Idle units were not idle. The weights from before the epoch are still there: once more, without room.
            self.state.load(self.alpha_at(epoch))
        return {name: values[-1] for name, values in history.history.items()}

    def _finish(self, epoch: int, last_part: bool) -> None:
        """After the steps of a dynamic epoch or a part of it: reads the weights, and drops units if it is time."""
        if not self._open or self.state.woken():
            return
        self._open = False
        self.state.pull()
        if self.schedule.prunes(epoch, last_part):
            keep, grown, new = self.state.prune(), self._record["grown"], self._record["new"]
            self._restart()
            self.state.refill()
            self._record["stayed"] = {n: int(np.sum(ranks >= grown[n] - new[n])) for n, ranks in keep.items()}
            self._record |= {"change": self.state.change, "not_exact": self.state.not_exact}
        self.state.history.append({**self._record, "sizes": self.state.sizes})

    def _restart(self) -> None:
        if self.state.options.optimizer_state == "restart":
            self.state.weights.restart_slots()

    def tell(self, epoch: int, total: int, logs: Mapping) -> None:
        """Prints a line on an epoch."""
        if self.verbose:
            sizes = " ".join(f"{name} {n}" for name, n in self.state.sizes.items())
            kind = "dynamic" if self.schedule.is_dynamic(epoch) else "static"
            values = " ".join(f"{name} {value:.4g}" for name, value in logs.items())
            print(f"Epoch {epoch + 1}/{total} {kind}: units {sizes}; {values}", flush=True)
