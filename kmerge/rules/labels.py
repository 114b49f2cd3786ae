"""Labels: which unit lies at which position of a tensor's feature axis.

A *unit* is one channel or neuron. The feature axis of every tensor carries an integer array, one unit per position.
Layers with channels of their own put new integers there, the others pass them on, so that following the arrays
through a graph tells which channels belong together. With four channels:

    Conv2D(4)              [0 1 2 3]
    Flatten of 2 pixels    [0 1 2 3 0 1 2 3]       a unit may occur several times
    Concatenate([h, h])    [0 1 2 3 0 1 2 3]
    x[..., :2]             [0 1]

Rules are written against a `Site`, which two walks implement: that of `spaces` finds out what belongs together, that of
`surgery` computes the labels of a new model from a plan.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Labels:
    """The units along the feature axis of one tensor.

    A tensor without a channel axis, as token ids of shape `(None,)` or `(None, None)`, has one unit, on a *virtual* axis
    behind its last one. Where models differ in it, their tensors are stacked along that axis.

    Attributes:
        units: integer array of shape `(n,)`.
        axis: the feature axis, counted from the batch axis 0.
        shape: shape of the tensor, with None where it is not known; `shape[axis] == n` unless the axis is virtual.
        from_inputs: whether the tensor is computed from the model's inputs alone, without a weight.
        no_negative: whether the tensor is known to hold no negative number.
    """

    units: np.ndarray
    axis: int
    shape: tuple
    from_inputs: bool = False
    no_negative: bool = False

    @property
    def is_virtual(self) -> bool:
        """Whether the tensor has no channel axis."""
        return self.axis == len(self.shape)

    def with_units(self, units: np.ndarray) -> "Labels":
        """These labels with other units on the same axis, and the shape that follows."""
        shape = self.shape if self.is_virtual else self.shape[: self.axis] + (len(units),) + self.shape[self.axis + 1 :]
        return replace(self, units=np.asarray(units), shape=shape)


def channel_axis(shape: tuple) -> tuple[int, int]:
    """The axis on which the channels of a tensor of unknown origin lie, and their number: the last, or a virtual one."""
    if len(shape) < 2 or shape[-1] is None:
        return len(shape), 1
    return len(shape) - 1, shape[-1]


@dataclass(frozen=True, eq=False)
class Axis:
    """What one axis of one weight is to the units along it.

    Attributes:
        role: "consumes" (mixes the units of an input), "produces" (makes the units of an output) or "channel" (holds
            one value per unit that passes).
        units: integer array, one unit per position of the axis.
    """

    role: str
    units: np.ndarray


def occurrences(units: np.ndarray) -> np.ndarray:
    """For each position, how often its unit occurred before: [7 8 7 7] -> [0 0 1 2]."""
    if (units[1:] > units[:-1]).all():  # as along most axes
        return np.zeros(len(units), dtype=int)
    order = np.argsort(units, kind="stable")
    ordered = units[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(units) else np.empty(0, int)
    counts = np.arange(len(units)) - np.repeat(starts, np.diff(np.r_[starts, len(units)]))
    result = np.empty(len(units), dtype=int)
    result[order] = counts
    return result


def positions_of(wanted: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Where the units `wanted`, and the same occurrence of each, lie in `units`; -1 for those that are not there."""
    return match(wanted, occurrences(wanted), units, occurrences(units))


def match(wanted: np.ndarray, wanted_times: np.ndarray, units: np.ndarray, times: np.ndarray) -> np.ndarray:
    """For each pair (wanted, wanted_times), the position of the equal pair (units, times), or -1."""
    if not len(units):
        return np.full(len(wanted), -1)
    base = 1 + max(np.max(times), np.max(wanted_times, initial=0))
    keys, sought = units * base + times, wanted * base + wanted_times
    order = np.argsort(keys)
    found = order[np.minimum(np.searchsorted(keys, sought, sorter=order), len(keys) - 1)]
    return np.where(keys[found] == sought, found, -1)


def runs(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run-length encoding: [5 5 6 6 6] -> ([5 6], [2 3])."""
    starts = np.flatnonzero(np.r_[True, units[1:] != units[:-1]]) if len(units) else np.empty(0, int)
    return units[starts], np.diff(np.r_[starts, len(units)])


def stretches(units: np.ndarray, space_of: np.ndarray) -> list[tuple[int, int, list[int]]]:
    """Cuts an axis into stretches in which every unit of a space stands once, or equally often in a row.

    Args:
        units: the units along the axis.
        space_of: for each unit, the number of its space.

    Returns:
        For each stretch the space, how often each unit stands in a row, and the units: with u and v in space 0 and
        w in space 1, [u u v v w u v] -> [(0, 2, [u, v]), (1, 1, [w]), (0, 1, [u, v])].
    """
    found: list[tuple[int, int, dict]] = []
    for unit, count in zip(*(x.tolist() for x in runs(units)), strict=True):
        space = int(space_of[unit])
        if not found or found[-1][:2] != (space, count) or unit in found[-1][2]:
            found.append((space, count, {}))
        found[-1][2][unit] = None
    return [(space, count, list(members)) for space, count, members in found]
