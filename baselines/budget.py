"""The phases of a budget: schedules, training, the teachers that strategies share, and what it all costs.

Every strategy trains through `train_phase`, and so through `kmerge.fit`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

import kmerge
from baselines.strategy import Budget, Outcome, Phase, Stages, Task, TrainingRecord
from kmerge import costs
from kmerge.seeds import seed_of

# Forward 2 floating-point operations per multiply-accumulate; backward twice that.
_OPERATIONS_PER_MAC = 6
_VALIDATION_BATCH = 500


def train_phase(
    model: keras.Model,
    task: Task,
    phase: str,
    epochs: int,
    seed: int,
    on_epoch: Callable[[Mapping[str, Any]], None],
    *,
    label: str | None = None,
    control: str | None = None,
    patience: int | None = None,
) -> TrainingRecord:
    """Train a network in place for one phase, on the task's training data, watching its validation data.

    Args:
        model: uncompiled, or compiled before: it gets a fresh optimizer, loss and metric.
        task: gives data, loss, metric, augmentation and hyper-parameters.
        phase: name of the phase in `task.phases`.
        epochs: how many; drops of the learning rate stand at their fractions of it.
        seed: of the data order and the augmentation, with the label.
        on_epoch: called with each epoch's row.
        label: what rows call the phase, if the phase happens more than once; its name by default.
        control: for a model with gates: name of the control in `task.gates.controls`. None for a model without.
        patience: of `kmerge.GatePressure`, which may end the phase early.

    Returns:
        The record of the phase.
    """
    label = label or phase
    settings = task.phases[phase]
    optimizer, schedule = _optimizer(settings, epochs, len(task.data.x_train))
    pressure = []
    if control is not None:
        gates = task.gates
        optimizer = kmerge.gate_optimizer(
            optimizer, gate_learning_rate=gates.learning_rate, gate_momentum=gates.momentum
        )
        pressure = [kmerge.GatePressure(control, patience, **gates.controls[control])]
    model.compile(optimizer, loss=task.loss(), metrics=[_metric(task)])
    recorder = _Recorder(task, label, schedule, steps=-(-len(task.data.x_train) // settings.batch_size), hear=on_epoch)
    start = time.perf_counter()
    kmerge.fit(
        model,
        task.data.x_train,
        task.data.y_train,
        batch_size=settings.batch_size,
        epochs=epochs,
        validation_data=(task.data.x_val, task.data.y_val),
        callbacks=[*pressure, recorder],
        seed=seed_of("order", seed, label),
        augment=task.augment(seed_of("augment", seed, label)) if task.augment else None,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    flops = training_flops(model, task, len(recorder.rows))
    return TrainingRecord(recorder.rows, seconds, flops, recorder.best_weights)


def _optimizer(phase: Phase, epochs: int, examples: int) -> tuple[keras.optimizers.Optimizer, Callable[[int], float]]:
    """SGD of a phase, and its learning rate by step."""
    steps = epochs * -(-examples // phase.batch_size)
    # PiecewiseConstantDecay keeps the old rate at the boundary itself: the step after it is the first of the new.
    boundaries = [max(0, round(drop * steps) - 1) for drop in phase.drops]
    values = [phase.learning_rate * phase.drop_factor**i for i in range(len(boundaries) + 1)]
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values) if boundaries else values[0]

    def rate_at(step: int) -> float:
        return values[sum(step > boundary for boundary in boundaries)]

    return keras.optimizers.SGD(rate, momentum=phase.momentum, nesterov=phase.nesterov), rate_at


def _metric(task: Task) -> keras.metrics.Metric:
    if task.metric == "accuracy":
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    return keras.metrics.MeanSquaredError(name=task.metric)


class _Recorder(keras.callbacks.Callback):
    """Makes a row of each epoch and keeps the weights of the best."""

    def __init__(self, task: Task, label: str, rate_at: Callable, steps: int, hear: Callable):
        super().__init__()
        self.task, self.label, self.rate_at, self.steps, self.hear = task, label, rate_at, steps, hear
        self.rows: list[dict[str, Any]] = []
        self.best_weights: list[np.ndarray] = []
        self.best_value = None

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in logs.items()}
        row = {
            "phase": self.label,
            "epoch": epoch + 1,
            "loss": logs.pop("loss"),
            "train_metric": logs.pop(self.task.metric),
            "val_loss": logs.pop("val_loss"),
            "val_metric": logs.pop(f"val_{self.task.metric}"),
            "learning_rate": self.rate_at((epoch + 1) * self.steps - 1),
            "seconds": time.perf_counter() - self.start,
            **logs,
        }
        self.rows.append(row)
        if not self.best_weights or is_better(row["val_metric"], self.best_value, self.task):
            self.best_weights, self.best_value = self.model.get_weights(), row["val_metric"]
        self.hear(row)


def is_better(value: float, other: float, task: Task) -> bool:
    """Whether a value of the task's metric is better than another; NaN is worse than anything."""
    if np.isnan(value) or np.isnan(other):
        return bool(np.isnan(other)) and not np.isnan(value)
    return value > other if task.higher_is_better else value < other


def training_flops(model: keras.Model, task: Task, epochs: int) -> float:
    """Floating-point operations of training a network on the task's training data."""
    return float(_OPERATIONS_PER_MAC * costs.multiply_accumulates(model) * len(task.data.x_train) * epochs)


def train_teacher(
    task: Task, budget: Budget, seed: int, number: int, stages: Stages
) -> tuple[keras.Model, TrainingRecord]:
    """One of the networks of a seed that strategies share, trained for `budget.teacher` epochs or taken from the cache.

    Args:
        task: what to learn.
        budget: gives the epochs.
        seed: of the replicate.
        number: which teacher, from 0.
        stages: the cache.

    Returns:
        The network, with the weights of the last epoch, and the record of its training.
    """
    label = f"teacher_{number}"
    key = {
        **task.identity,
        "stage": "teacher",
        "number": number,
        "seed": seed,
        "epochs": budget.teacher,
        "phase": asdict(task.phases["teacher"]),
    }
    return stages.run(
        key,
        lambda: task.build(seed_of(label, seed)),
        lambda model: train_phase(model, task, "teacher", budget.teacher, seed, stages.on_epoch, label=label),
    )


def validation_metric(task: Task, *models: keras.Model) -> float:
    """The task's metric on the validation data of a network, or of the mean of the outputs of several."""
    metric = _metric(task)
    for start in range(0, len(task.data.x_val), _VALIDATION_BATCH):
        part = slice(start, start + _VALIDATION_BATCH)
        # Not `predict`: to compile a network for one pass takes longer than the pass.
        outputs = [keras.ops.convert_to_numpy(model(task.data.x_val[part], training=False)) for model in models]
        metric.update_state(task.data.y_val[part], np.mean(outputs, axis=0))
    return float(metric.result())


def make_outcome(
    task: Task,
    model: keras.Model,
    best_weights: Sequence[np.ndarray],
    records: Sequence[TrainingRecord],
    extras: Mapping[str, Any] | None = None,
) -> Outcome:
    """An outcome, with its costs summed over the records of all phases, shared stages in full.

    Args:
        task: what was learnt.
        model: the final network.
        best_weights: its weights at the best validation epoch of its last phase.
        records: of every phase, in the order of training.
        extras: further columns of the row.

    Returns:
        The outcome.
    """
    best_model = keras.models.clone_model(model)
    best_model.set_weights(best_weights)
    history = [row for record in records for row in record.rows]
    flops = sum(record.flops for record in records)
    return Outcome(
        model=model,
        best_model=best_model,
        history=history,
        epochs=len(history),
        flops=flops,
        seconds=sum(record.seconds for record in records),
        teacher_epoch_equivalents=flops / training_flops(model, task, epochs=1),
        extras=dict(extras or {}),
    )
