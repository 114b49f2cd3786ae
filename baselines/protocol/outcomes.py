"""What a strategy returns: its metrics, and the operations that it spent."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from baselines.protocol.metrics import METRICS, VOID
from baselines.protocol.pixels import PixelMetric, examples_at_a_time
from baselines.protocol.strategy import Outcome, TrainingRecord
from baselines.protocol.task import Task
from kmerge import costs
from kmerge.seeds import seed_of

# Forward 2 floating-point operations per multiply-accumulate; backward twice that.
_OPERATIONS_PER_MAC = 6
_VALIDATION_BATCH = 500


def loss_of(metric: str) -> Callable[[], keras.losses.Loss]:
    """What makes a new Keras object for the loss that goes with a metric: of logits where targets are classes."""
    measure = METRICS[metric]
    if not measure.of_classes:
        return keras.losses.MeanSquaredError
    left_out = {"ignore_class": VOID} if measure.of_pixels else {}
    return partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True, **left_out)


def metric_of(task: Task) -> keras.metrics.Metric:
    """A new Keras object for the task's metric, of its name."""
    if METRICS[task.metric].of_pixels:
        return PixelMetric(len(task.classes), task.metric)
    if METRICS[task.metric].of_classes:
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    return keras.metrics.MeanSquaredError(name=task.metric)


def training_flops(model: keras.Model, task: Task, epochs: int) -> float:
    """Floating-point operations of training a network on the task's training data."""
    return operations_of(costs.multiply_accumulates(model), task) * epochs


def operations_of(multiply_accumulates: int, task: Task) -> float:
    """Floating-point operations of an epoch, from the multiply-accumulates of one example."""
    return float(_OPERATIONS_PER_MAC * multiply_accumulates * len(task.data.x_train))


def validation_metric(task: Task, *models: keras.Model) -> float:
    """The task's metric on the validation data of a network, or of the mean of the outputs of several."""
    metric, x = metric_of(task), task.data.x_val
    step = examples_at_a_time(x) if METRICS[task.metric].of_pixels else _VALIDATION_BATCH
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        # Not `predict`: to compile a network for one pass takes longer than the pass.
        outputs = [keras.ops.convert_to_numpy(model(x[part], training=False)) for model in models]
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
        extras={**_labelled(task, records), **(extras or {})},
        programs={record.rows[0]["phase"]: record.program for record in records},
        first=_first(task, records) if METRICS[task.metric].of_pixels else None,
    )


def _first(task: Task, records: Sequence[TrainingRecord]) -> keras.Model | None:
    """The network of the first phase at its best epoch, where another phase came after it and its kind is known."""
    weights = records[0].best_weights
    shapes = [weight.shape for weight in weights]
    builds = [task.build, partial(task.build, widen=2), *([task.big_teacher.task.build] if task.big_teacher else [])]
    for build in builds if len(records) > 1 else []:
        model = build(seed_of("target"))
        if [tuple(weight.shape) for weight in model.weights] == shapes:
            model.set_weights(weights)
            return model
    return None


def _labelled(task: Task, records: Sequence[TrainingRecord]) -> dict[str, int]:
    """How many different labelled examples the teachers had between them, and how many whatever came after them."""
    labels = [record.rows[0]["phase"] for record in records]
    teachers, parents = [label for label in labels if "teacher" in label], task.parents
    after = of_teachers = len(task.data.x_train)
    if parents is not None:
        after = parents.labelled
        if not any(label.startswith("wide") for label in teachers):  # which have all
            parts = [parents.part(int(label.rpartition("_")[2])) for label in teachers]
            of_teachers = len(set().union(*parts))
    return {
        "labelled_examples": 0 if teachers == labels else after,
        "labelled_examples_of_teachers": of_teachers if teachers else 0,
    }
