"""The epochs of an `AutoSizer`: when units come and go, and what callbacks see."""

import warnings
from collections.abc import Callable, Mapping

import keras
import numpy as np

from kmerge.batching import Continued
from kmerge.graph import array_of
from kmerge.sizing.callbacks import Hooks
from kmerge.sizing.schedule import Schedule, next_sizes
from kmerge.sizing.state import SizingState
from kmerge.training import ModelFitWarning, arrays_of, fit


class _Inside(keras.callbacks.Callback):
    """Runs inside `fit`: prunes before the model is validated, and lets callbacks know of that."""

    def __init__(self, finish: Callable[[], bool], hooks: keras.callbacks.CallbackList):
        super().__init__()
        self._finish, self._hooks, self._tells = finish, hooks, False

    def on_test_begin(self, logs=None):
        self._tells = self._finish()
        if self._tells:
            self._hooks.on_test_begin(logs)

    def on_test_end(self, logs=None):
        if self._tells:
            self._hooks.on_test_end(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._finish()
        self._weights = [array_of(weight) for weight in self.model.trainable_variables] if _averages(self.model) else []

    def put_back(self) -> None:
        """Lets weights be as the epoch left them: at its end `fit` gives them their averages, as after a last epoch."""
        for weight, value in zip(self.model.trainable_variables, self._weights, strict=False):
            weight.assign(value)


def _averages(model: keras.Model) -> bool:
    """Whether the optimizer gives weights their averages when training ends."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer).use_ema


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

    def on_test_batch_begin(self, batch, logs=None):
        for callback in self._callbacks:
            callback.on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        for callback in self._callbacks:
            callback.on_test_batch_end(batch, logs)


def run_epochs(
    state: SizingState, schedule: Schedule, alpha_at: Callable[[int], float], data: Mapping, hooks: Hooks
) -> keras.callbacks.History:
    """Runs the epochs of a schedule.

    Args:
        state: the model that is sized; what comes of each epoch is recorded in it.
        schedule: what happens when.
        alpha_at: gives the strength of the penalty in an epoch.
        data: arguments of `fit`.
        hooks: the callbacks.

    Returns:
        The history.
    """
    run = _Run(state, schedule, alpha_at, data, hooks)
    start = state.epochs_done if hooks.restored else schedule.start
    units, logs = [], None
    for epoch in range(start, schedule.dynamic + schedule.static):
        hooks.set_model(run.begin(epoch))
        if logs is None:
            hooks.list.on_train_begin()
        hooks.list.on_epoch_begin(epoch)
        state.read_others()
        logs = run.train(epoch)
        state.keep()
        hooks.set_model(state.working.trained)
        units.append(state.sizes)
        hooks.list.on_epoch_end(epoch, logs)
        state.keep()
        if state.working.trained.stop_training:
            break
    if logs is not None:
        trained = state.working.trained
        trained.optimizer.finalize_variable_values(trained.trainable_variables)
        state.pull()
        hooks.list.on_train_end(logs)
    hooks.history.history["units"] = units
    return hooks.history


class _Run:
    def __init__(self, state: SizingState, schedule: Schedule, alpha_at: Callable, data: Mapping, hooks: Hooks):
        self.state, self.schedule, self.alpha_at, self.data, self.hooks = state, schedule, alpha_at, dict(data), hooks
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
        self._open = self.schedule.is_dynamic(epoch)
        inside = [sizing := _Inside(lambda: self._finish(epoch, last_part), self.hooks.list)]
        if of_batches := self.hooks.of_batches:  # under their own names, which a warning tells
            inside += [type(type(of_batches[0]).__name__, (_Batches,), {})(of_batches)]
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
                sizing.put_back()
                break
            # Idle units were not idle. The weights from before the epoch are still there: once more, without room.
            self.state.load(self.alpha_at(epoch))
        return {name: values[-1] for name, values in history.history.items()}

    def _finish(self, epoch: int, last_part: bool) -> bool:
        """After the steps of a dynamic epoch or a part of it: reads the weights, and drops units if it is time.

        Returns whether the epoch need not be trained once more.
        """
        if not self._open:
            return True
        if self.state.woken():
            return False
        self._open = False
        self.state.pull()
        if self.schedule.prunes(epoch, last_part):
            keep, grown, new = self.state.prune(), self._record["grown"], self._record["new"]
            self._restart()
            self.state.refill()
            self._record["stayed"] = {n: int(np.sum(ranks >= grown[n] - new[n])) for n, ranks in keep.items()}
            self._record |= {"change": self.state.change, "not_exact": self.state.not_exact}
        self.state.history.append({**self._record, "sizes": self.state.sizes})
        return True

    def _restart(self) -> None:
        if self.state.options.optimizer_state == "restart":
            self.state.weights.restart_slots()
