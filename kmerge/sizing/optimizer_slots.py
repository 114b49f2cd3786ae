"""Which variable of an optimizer belongs to which weight: its *slots*, such as the momentum and velocity of Adam.

A slot has the shape of its weight, so whatever is done to the units of a weight can be done to its slots. Keras does not
tell which slot belongs to which weight. An optimizer of the same configuration, built on weights with telling names,
does: it makes the same variables in the same order, and names each after its weight.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.errors import InvalidArgumentError
from kmerge.graph import array_of

_NAME = "weight{}of_stand_in"
# What Keras calls the slot of `use_ema`. Its zeros are never read: the first step of all sets it to the weight.
_AVERAGE = "of_stand_in_average"
_PATTERN = re.compile(r"weight(\d+)of_stand_in")


@dataclass(frozen=True)
class Slot:
    """A variable of an optimizer that belongs to a weight.

    Attributes:
        variable: its number among the optimizer's variables.
        weight: the number of the weight among those it trains.
        start: the value with which all its elements start; None where that is the weight's own, as of its moving average.
    """

    variable: int
    weight: int
    start: float | None


def fresh_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """An optimizer of the same class and configuration that has trained nothing yet."""
    return type(optimizer).from_config(optimizer.get_config())


def find_slots(optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]) -> list[Slot]:
    """The slots of an optimizer for these weights, in the order of its variables.

    Args:
        optimizer: any; it is not changed.
        weights: the trainable weights, in the order in which the optimizer is built on them.

    Returns:
        A list of `Slot`; empty for an optimizer without state per weight, as SGD without momentum.

    Raises:
        InvalidArgumentError: for an optimizer whose state for a weight has another shape, as Adafactor's.
    """
    twin = fresh_optimizer(optimizer)
    stand_ins = [
        keras.Variable(np.zeros(weight.shape), dtype=weight.dtype, name=_NAME.format(i))
        for i, weight in enumerate(weights)
    ]
    twin.build(stand_ins)
    slots = []
    for number, variable in enumerate(twin.variables):
        found = _PATTERN.search(variable.path)
        if found is None:
            continue
        weight = weights[int(found[1])]
        if tuple(variable.shape) != tuple(weight.shape):
            raise InvalidArgumentError(
                f"Expected an optimizer whose state for a weight has one value per element, received one that does not: "
                f"{type(optimizer).__name__} keeps a state of shape {tuple(variable.shape)} for the weight {weight.path!r} of "
                f"shape {tuple(weight.shape)}, which cannot be carried when units come and go. Use Adam, AdamW, RMSprop or "
                "SGD with momentum."
            )
        start = np.ravel(array_of(variable))
        averages = variable.path.endswith(_AVERAGE)
        slots.append(Slot(number, int(found[1]), None if averages else float(start[0]) if start.size else 0.0))
    return slots
