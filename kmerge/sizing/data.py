"""The data of `AutoSizer.fit`: arguments of `model.fit` as those of `kmerge.fit`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from kmerge import checks
from kmerge.batching import Batches, Continued, comes_in_batches
from kmerge.training import arrays_of, check_augment, check_options, is_array

_OF = "AutoSizer.fit"


def fit_data(
    model: keras.Model,
    data: Mapping,
    validation_split: float,
    class_weight: Mapping[int, float] | None,
    steps_per_epoch: int | None,
    verbose: str | int,
) -> tuple[dict, Any, int | None]:
    """What `kmerge.fit` is given in each epoch.

    Args:
        model: the model that is sized.
        data: x, y, sample_weight and other arguments of `kmerge.fit`.
        validation_split: as in `model.fit`.
        class_weight: likewise.
        steps_per_epoch: as in `AutoSizer.fit`.
        verbose: likewise.

    Returns:
        The arguments of `kmerge.fit`; the inputs of two examples, nested as the model's inputs are; and the steps of an
        epoch, or None where they are not known.

    Raises:
        InvalidArgumentError: for data that an argument does not go with.
    """
    found = {**data, "batch_size": 32 if data["batch_size"] is None else data["batch_size"]}
    checks.whole_number("batch_size", found["batch_size"])
    check_options(found["shuffle"], verbose)
    check_augment(found["augment"])
    for name in ("validation_steps", "validation_batch_size"):  # what is given of them is left to model.fit
        if found[name] is None:
            del found[name]
    checks.number("validation_split", validation_split, least=0, below=1, of=_OF)
    if validation_split and found["validation_data"] is None:
        found |= _split(found, validation_split)
    if class_weight is not None:
        found |= _weighted(found, class_weight)
    if steps_per_epoch is not None or isinstance(found["x"], Iterator):
        found |= {"x": _continued(found["x"], steps_per_epoch), "shuffle": False}
    steps = steps_per_epoch
    if not comes_in_batches(found["x"]):
        steps = math.ceil(len(arrays_of(found["x"])[0]) / found["batch_size"])
    first, *_ = next(iter(Batches(model, found["x"], _OF, name="x", batch_size=2)))
    return found, keras.tree.map_structure(lambda array: array[:2], first), steps


def _split(data: Mapping, share: float) -> dict:
    """The data without its last examples, which validate."""
    parts = [data[name] for name in ("x", "y", "sample_weight")]
    arrays = arrays_of(parts)
    if others := [array for array in arrays if not is_array(array)]:
        checks.refuse("validation_split", "0 where x is not arrays", share, f"{_came(others)} Give validation_data.", _OF)
    examples = len(arrays[0])
    end = math.floor(examples * (1.0 - share))
    if end in (0, examples):
        checks.refuse("validation_split", f"a share that leaves some of {examples} examples on both sides", share, of=_OF)
    before, after = (
        keras.tree.map_structure(lambda array: None if array is None else array[rows], parts)  # noqa: B023
        for rows in (slice(end), slice(end, None))
    )
    validation = tuple(after) if after[2] is not None else tuple(after[:2]) if after[1] is not None else (after[0],)
    return {**dict(zip(("x", "y", "sample_weight"), before, strict=True)), "validation_data": validation}


def _weighted(data: Mapping, weights: Mapping[int, float]) -> dict:
    """Weights of classes, as weights of the examples where there are arrays: so an epoch is one program."""
    if not isinstance(weights, Mapping):
        checks.refuse("class_weight", "a dict of weights by class", weights, of=_OF)
    if data["sample_weight"] is not None:
        checks.refuse("class_weight", "None beside sample_weight", weights, "Multiply the weights yourself.", _OF)
    if comes_in_batches(data["x"]):
        return {"class_weight": weights}
    labels = arrays_of(data["y"])
    if len(labels) != 1 or not is_array(labels[0]) or len(labels[0].shape) > 2:
        do = "Give sample_weight."
        checks.refuse("class_weight", "None unless y is one array of labels or of one-hot rows", weights, do, _OF)
    y = np.asarray(labels[0])
    classes = y if y.ndim == 1 else y[:, 0] if y.shape[1] == 1 else y.argmax(axis=1)
    found = [weights.get(int(label), 1.0) for label in np.round(classes)]
    return {"sample_weight": np.asarray(found, keras.config.floatx())}


def _continued(x: Any, steps: int | None) -> Continued:
    """So many batches of some data for each epoch."""
    if not comes_in_batches(x):
        do = "Leave it out: an epoch goes through all of an array."
        checks.refuse("steps_per_epoch", "None where x is arrays", steps, do, of=_OF)
    do = "A generator does not tell how many batches an epoch has." if steps is None else ""
    return Continued(x, checks.whole_number("steps_per_epoch", steps, do=do, of=_OF), _OF)


def _came(others: list) -> str:
    return f"It came as {type(others[0]).__name__}."
