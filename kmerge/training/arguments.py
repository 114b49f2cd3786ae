"""Arguments of `model.fit` that are turned into data before anything is trained: `validation_split` and `class_weight`."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kmerge import checks
from kmerge.batching import comes_in_batches, map_arrays, rows_of
from kmerge.training.checks import arrays_of, is_array


def without_end(data: tuple) -> tuple:
    """The data `(x, y, sample_weight)` without what is None at its end."""
    return data if len(data) == 1 or data[-1] is not None else without_end(data[:-1])


def held_out(data: tuple, share: float, of: str) -> tuple[tuple, tuple]:
    """Data without its last examples, and these, which validate: as `validation_split` of `model.fit`.

    Args:
        data: `(x, y, sample_weight)`, or the start of it; parts may be None.
        share: of the examples, those that validate.
        of: the function that was given it, for messages.

    Raises:
        InvalidArgumentError: if the data comes in batches, or the share leaves nothing on one side.
    """
    if comes_in_batches(data[0]):
        do = f"It came as {type(data[0]).__name__}. Give validation_data."
        checks.refuse("validation_split", "0 where x is not arrays", share, do, of)
    examples = len(arrays_of(data[0])[0])
    end = math.floor(examples * (1.0 - share))
    if end in (0, examples):
        checks.refuse("validation_split", f"a share that leaves some of {examples} examples on both sides", share, of=of)
    before, after = (
        map_arrays(lambda array: rows_of(array, rows), data)  # noqa: B023
        for rows in (slice(end), slice(end, None))
    )
    return before, without_end(after)


def weighted_by_class(data: tuple, weights: Mapping[int, float], of: str) -> tuple:
    """Data with weights of classes as weights of its examples, so that an epoch is one program.

    Args:
        data: `(x, y, sample_weight)`, or the start of it, in arrays.
        weights: by class, as `class_weight` of `model.fit`.
        of: the function that was given it, for messages.

    Raises:
        InvalidArgumentError: for weights of another kind, beside others, or with labels that are none of classes.
    """
    x, y, sample_weight = (*data, None, None)[:3]
    if not isinstance(weights, Mapping):
        checks.refuse("class_weight", "a dict of weights by class", weights, of=of)
    if sample_weight is not None:
        checks.refuse("class_weight", "None beside sample_weight", weights, "Multiply the weights yourself.", of)
    labels: list[Any] = arrays_of(y)
    if len(labels) != 1 or not is_array(labels[0]) or len(labels[0].shape) > 2:
        do = "Give sample_weight."
        checks.refuse("class_weight", "None unless y is one array of labels or of one-hot rows", weights, do, of)
    for label, weight in weights.items():
        checks.number(f"class_weight[{label!r}]", weight, of=of)
    y_array = np.asarray(labels[0])
    if np.isnan(y_array.sum(dtype="float64")):
        checks.refuse("y", "labels of classes beside class_weight", np.nan, "Remove or replace these examples.", of)
    classes = y_array if y_array.ndim == 1 else y_array[:, 0] if y_array.shape[1] == 1 else y_array.argmax(axis=1)
    found = [weights.get(int(label), 1.0) for label in np.round(classes)]
    return x, y, np.asarray(found, keras.config.floatx())
