"""One phase of a budget: a network trained by a schedule, with a record of what came of it.

Every strategy trains through `train_phase`, and so through `Stages.fit`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import keras
import numpy as np

import kmerge
from baselines.protocol.outcomes import metric_of, training_flops
from baselines.protocol.schedules import optimizer_of
from baselines.protocol.strategy import Stages, TrainingRecord, TrainingState, check_record, check_shapes
from baselines.protocol.task import Task
from kmerge.seeds import seed_of


def train_phase(
    model: keras.Model,
    task: Task,
    phase: str,
    epochs: int,
    seed: int,
    stages: Stages,
    *,
    label: str | None = None,
    control: str | None = None,
    patience: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainingRecord:
    """Train a network in place for one phase, on the task's training data, watching its validation data.

    A phase that was cut off in an earlier try goes on after its last known epoch, as if nothing had happened.

    Args:
        model: uncompiled, or compiled before: it gets a fresh optimizer, loss and metric.
        task: gives data, loss, metric, augmentation and hyper-parameters.
        phase: name of the phase in `task.phases`.
        epochs: how many; drops of the learning rate stand at their fractions of it.
        seed: of the data order and the augmentation, with the label.
        stages: trains, knows where to go on, and hears of each epoch.
        label: what rows call the phase, if the phase happens more than once; its name by default.
        control: for a model with gates: name of the control in `task.gates.controls`. None for a model without.
        patience: of `kmerge.GatePressure`, which may end the phase early. Such a phase is not resumed but begun anew.
        callbacks: more of them, without state of their own; what they do is told by the label.

    Returns:
        The record of the phase.
    """
    label = label or phase
    settings = task.phases[phase]
    optimizer, schedule = optimizer_of(settings, epochs, len(task.data.x_train))
    pressure = []
    if control is not None:
        gates = task.gates
        optimizer = kmerge.gate_optimizer(
            optimizer, gate_learning_rate=gates.learning_rate, gate_momentum=gates.momentum
        )
        pressure = [kmerge.GatePressure(control, patience, **gates.controls[control])]
    model.compile(optimizer, loss=task.loss(), metrics=[metric_of(task)])
    augment = task.augment(seed_of("augment", seed, label)) if task.augment else None
    progress = _Progress(model, task, label, epochs, schedule, augment)
    recorder = _Recorder(progress, settings.batch_size, stages.on_epoch)
    state = stages.resume(_key(task, phase, label, epochs, seed, control) | {"patience": patience}, progress.check)
    if state is not None and (patience is None or state.record.is_over(epochs)):
        progress.restore(state)
    if not progress.record.is_over(epochs):
        stages.fit(
            model,
            task.data.x_train,
            task.data.y_train,
            batch_size=settings.batch_size,
            epochs=epochs,
            initial_epoch=len(progress.record.rows),
            validation_data=(task.data.x_val, task.data.y_val),
            callbacks=[Beginning(stages.before_epoch), *pressure, *callbacks, recorder],
            seed=seed_of("order", seed, label),
            augment=augment,
        )
    return progress.record


def _key(task: Task, phase: str, label: str, epochs: int, seed: int, control: str | None) -> dict[str, Any]:
    """What a phase depends on, besides the network it begins with."""
    settings = {"phase": asdict(task.phases[phase]), "label": label, "epochs": epochs, "seed": seed}
    gates = None if control is None else asdict(task.gates) | {"control": control}
    return {"task": task.identity, **settings, "gates": gates}


class _Progress:
    """How far a phase is: the record of its epochs, and the variables that the next one starts from."""

    def __init__(self, model, task: Task, label: str, epochs: int, rate_at: Callable, augment):
        self.model, self.task, self.label, self.epochs, self.augment = model, task, label, epochs, augment
        self.rate_at = rate_at
        self.flops = training_flops(model, task, epochs=1)
        self.record = TrainingRecord([], 0.0, 0.0, [])
        self.best_value = None

    @property
    def _variables(self) -> list:
        augment = [] if self.augment is None else self.augment.variables
        return [*self.model.variables, *self.model.optimizer.variables, *augment]

    def add(self, row: dict[str, Any]) -> None:
        """Note an epoch that has ended; the network has the weights of its end."""
        record = self.record
        record.rows.append(row)
        record.flops = self.flops * len(record.rows)
        if self._is_best(row):
            record.best_weights = self.model.get_weights()

    def _is_best(self, row: Mapping[str, Any]) -> bool:
        is_best = self.best_value is None or is_better(row["val_metric"], self.best_value, self.task)
        if is_best:
            self.best_value = row["val_metric"]
        return is_best

    def state(self) -> TrainingState:
        """A copy of all of it."""
        record = replace(self.record, rows=list(self.record.rows), program=dict(self.record.program))
        return TrainingState(record, [np.array(keras.ops.convert_to_numpy(value)) for value in self._variables])

    def check(self, state: TrainingState) -> None:
        """Raise `ValueError` for a state that is none of this phase; the network is compiled."""
        check_record(state.record)
        self.model.optimizer.build(self.model.trainable_variables)
        check_shapes(state.variables, self._variables)
        if state.record.rows:
            check_shapes(state.record.best_weights, self.model.weights)
        for row in state.record.rows:
            float(row["val_metric"])

    def restore(self, state: TrainingState) -> None:
        """Go back to a state that `check` has passed."""
        self.model.optimizer.build(self.model.trainable_variables)
        for variable, value in zip(self._variables, state.variables, strict=True):
            variable.assign(value)
        self.record = replace(state.record, rows=list(state.record.rows))
        for row in self.record.rows:
            self._is_best(row)


class Beginning(keras.callbacks.Callback):
    """Tells that an epoch begins, before other callbacks change anything.

    Args:
        tell: is called.
    """

    def __init__(self, tell: Callable[[], None]):
        super().__init__()
        self.tell = tell

    def on_epoch_begin(self, epoch, logs=None):
        self.tell()


class _Recorder(keras.callbacks.Callback):
    """Makes a row of each epoch and takes the time; the last of the callbacks, as it tells what the others did."""

    def __init__(self, progress: _Progress, batch_size: int, hear: Callable):
        super().__init__()
        self.progress, self.hear = progress, hear
        self.steps = -(-len(progress.task.data.x_train) // batch_size)

    def on_train_begin(self, logs=None):
        # Whatever ran before this moment, in `kmerge.fit`, was compilation.
        self.start, self.seconds = time.perf_counter(), self.progress.record.seconds
        self.together = self.params.get("together", 1)
        program, before = self.params.get("program", "model.fit"), self.progress.record.program
        compiling = self.params.get("compile_seconds", 0.0) / self.together
        self.progress.record.program = {
            "program": program,
            "xla": bool(self.params.get("xla", self.model.jit_compile)),
            "compile_seconds": before.get("compile_seconds", 0.0) + compiling,
            "together": max(before.get("together", 1), self.together),
            "packed": max(before.get("packed", 1), self.params.get("packed", 1)),
        }

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        progress, now = self.progress, time.perf_counter()
        logs = {name: float(value) for name, value in logs.items()}
        metric = progress.task.metric
        row = {
            "phase": progress.label,
            "epoch": epoch + 1,
            "loss": logs.pop("loss"),
            "train_metric": logs.pop(metric),
            "val_loss": logs.pop("val_loss"),
            "val_metric": logs.pop(f"val_{metric}"),
            "learning_rate": progress.rate_at((epoch + 1) * self.steps - 1),
            "seconds": (now - self.epoch_start) / self.together,
            **logs,
        }
        progress.add(row)
        progress.record.stopped = self.model.stop_training
        progress.record.seconds = self.seconds + (now - self.start) / self.together
        # After the last epoch whoever called for the training may change the network.
        last = progress.state() if progress.record.is_over(progress.epochs) else None
        self.hear(row, progress.state if last is None else lambda: last)


def is_better(value: float, other: float, task: Task) -> bool:
    """Whether a value of the task's metric is better than another; NaN is worse than anything."""
    if np.isnan(value) or np.isnan(other):
        return bool(np.isnan(other)) and not np.isnan(value)
    return value > other if task.higher_is_better else value < other


def best_of(values: Sequence[float], task: Task) -> int:
    """The index of the best of some values of the task's metric, of equals the first."""
    best = 0
    for index, value in enumerate(values):
        if is_better(value, values[best], task):
            best = index
    return best
