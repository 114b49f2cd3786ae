"""The data of `AutoSizer.fit`: arguments of `model.fit` as those of `kmerge.fit`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from kmerge import checks
from kmerge.batching import Batches, Continued, comes_in_batches
from kmerge.training import arrays_of, check_augment, check_options, held_out, weighted_by_class

_OF = "AutoSizer.fit"
_EXAMPLES = ("x", "y", "sample_weight")


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
        if checks.whole_number(name, found[name], optional=True, of=_OF) is None:
            del found[name]
    checks.number("validation_split", validation_split, least=0, below=1, of=_OF)
    examples = tuple(found[name] for name in _EXAMPLES)
    if validation_split and found["validation_data"] is None:
        examples, found["validation_data"] = held_out(examples, validation_split, _OF)
    if class_weight is not None and not comes_in_batches(found["x"]):
        examples = weighted_by_class(examples, class_weight, _OF)
    elif class_weight is not None:
        found["class_weight"] = class_weight
    found |= zip(_EXAMPLES, examples, strict=True)
    if steps_per_epoch is not None or isinstance(found["x"], Iterator):
        found |= {"x": _continued(found["x"], steps_per_epoch), "shuffle": False}
    steps = steps_per_epoch
    if not comes_in_batches(found["x"]):
        steps = math.ceil(len(arrays_of(found["x"])[0]) / found["batch_size"])
    first, *_ = next(iter(Batches(model, found["x"], _OF, name="x", batch_size=2)))
    return found, keras.tree.map_structure(lambda array: array[:2], first), steps


def _continued(x: Any, steps: int | None) -> Continued:
    """So many batches of some data for each epoch."""
    if not comes_in_batches(x):
        do = "Leave it out: an epoch goes through all of an array."
        checks.refuse("steps_per_epoch", "None where x is arrays", steps, do, of=_OF)
    do = "A generator does not tell how many batches an epoch has." if steps is None else ""
    return Continued(x, checks.whole_number("steps_per_epoch", steps, do=do, of=_OF), _OF)
