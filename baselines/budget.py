"""The phases of a budget: schedules, training, the teachers that strategies share, and what it all costs.

Every strategy trains through `train_phase`, and so through `Stages.fit`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import keras
import numpy as np

import kmerge
from baselines.schedules import optimizer_of
from baselines.strategy import Budget, Data, Outcome, Stages, Task, TrainingRecord, TrainingState
from kmerge import costs
from kmerge.seeds import rng_of, seed_of

# Forward 2 floating-point operations per multiply-accumulate; backward twice that.
_OPERATIONS_PER_MAC = 6
_VALIDATION_BATCH = 500


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
    state = stages.resume(_key(task, phase, label, epochs, seed, control) | {"patience": patience})
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


def metric_of(task: Task) -> keras.metrics.Metric:
    """A new Keras object for the task's metric, of its name."""
    if task.metric == "accuracy":
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    return keras.metrics.MeanSquaredError(name=task.metric)


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

    def restore(self, state: TrainingState) -> None:
        """Go back to a state; the network is compiled."""
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


def training_flops(model: keras.Model, task: Task, epochs: int) -> float:
    """Floating-point operations of training a network on the task's training data."""
    return operations_of(costs.multiply_accumulates(model), task) * epochs


def operations_of(multiply_accumulates: int, task: Task) -> float:
    """Floating-point operations of an epoch, from the multiply-accumulates of one example."""
    return float(_OPERATIONS_PER_MAC * multiply_accumulates * len(task.data.x_train))


def train_teacher(
    task: Task, budget: Budget, seed: int, number: int, stages: Stages, widen: int = 1
) -> tuple[keras.Model, TrainingRecord]:
    """One of the networks of a seed that strategies share, trained for `budget.teacher` epochs or taken from the cache.

    Where teachers have parts of the data, each has as many more epochs, so that it sees as many examples.

    Args:
        task: what to learn.
        budget: gives the epochs.
        seed: of the replicate.
        number: which teacher, from 0.
        stages: what to train with.
        widen: factor on its width; wider ones are called `wide_teacher_0`, ...

    Returns:
        The network, with the weights of the last epoch, and the record of its training.
    """
    label = f"teacher_{number}" if widen == 1 else f"wide_teacher_{number}"
    epochs = budget.teacher * task.teacher_parts
    key = {
        **task.identity,
        "stage": "teacher",
        "number": number,
        "widen": widen,
        "seed": seed,
        "epochs": epochs,
        "phase": asdict(task.phases["teacher"]),
    }
    if task.teacher_parts > 1:
        key["parts"] = task.teacher_parts
        task = replace(task, data=_part(task.data, task.teacher_parts, number, seed))
    return stages.run(
        key,
        lambda: task.build(seed_of(label, seed), widen=widen),
        lambda model: train_phase(model, task, "teacher", epochs, seed, stages, label=label),
    )


def _part(data: Data, parts: int, number: int, seed: int) -> Data:
    """The same data with a part of the training examples: of so many disjoint ones, drawn by the seed, the number-th."""
    rows = rng_of("teacher data", seed).permutation(len(data.x_train))[number % parts :: parts]
    return replace(data, x_train=data.x_train[rows], y_train=data.y_train[rows])


def shared_among(name: str, budget: Budget, networks: int, cuts: int) -> tuple[Budget, list[int], list[int]]:
    """The epochs of merging two networks, shared among more of them.

    Args:
        name: of the method, for errors.
        budget: for two networks.
        networks: how many there are.
        cuts: how often some of them become one.

    Returns:
        The budget in which each network has an equal part of two teachers' epochs; and for each cut, its epochs of gates
        and of fine-tuning. The last cut gets what does not divide evenly, and what the teachers leave.

    Raises:
        InvalidArgumentError: if a network or a cut would be left without an epoch.
    """
    each, over = divmod(2 * budget.teacher, networks)
    need = f"an epoch at least for each of {networks} networks, and of gates and fine-tuning for each of {cuts} cuts"
    enough = each > 0 and budget.gates >= cuts and budget.finetune + over >= cuts
    check_budget(name, enough, need, budget)
    return replace(budget, teacher=each), parted(budget.gates, cuts), parted(budget.finetune + over, cuts)


def parted(epochs: int, parts: int) -> list[int]:
    """Epochs in equal parts; the last gets what is left over."""
    part = epochs // parts
    return [part] * (parts - 1) + [epochs - part * (parts - 1)]


def check_budget(name: str, needed: bool, what: str, budget: Budget) -> None:
    """Refuses, before anything is trained, a budget that a method cannot be spent on.

    Args:
        name: of the method.
        needed: what must hold.
        what: what it needs, in words.
        budget: what there is.

    Raises:
        InvalidArgumentError: if it does not hold.
    """
    if not needed:
        raise kmerge.InvalidArgumentError(
            f"{name} needs {what}; received {budget}. Raise the epochs of the suite, or --scale."
        )


def validation_metric(task: Task, *models: keras.Model) -> float:
    """The task's metric on the validation data of a network, or of the mean of the outputs of several."""
    metric = metric_of(task)
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
    target = task.build(seed_of("target"))
    return Outcome(
        model=model,
        best_model=best_model,
        history=history,
        epochs=len(history),
        flops=flops,
        seconds=sum(record.seconds for record in records),
        teacher_epoch_equivalents=flops / training_flops(target, task, epochs=1),
        extras=dict(extras or {}),
        programs={record.rows[0]["phase"]: record.program for record in records},
    )
