"""Labels: which unit lies at which position of a tensor's feature axis.

A *unit* is one channel or neuron. The feature axis of every tensor carries an integer array, one unit per position.
Layers with channels of their own put new integers there, the others pass them on, so that following the arrays
through a graph tells which channels belong together. With four channels:

    Conv2D(4)              [0 1 2 3]
    Flatten of 2 pixels    [0 1 2 3 0 1 2 3]       a unit may occur several times
    Concatenate([h, h])    [0 1 2 3 0 1 2 3]
    x[..., :2]             [0 1]

The rules of `layer_rules` are written against a `Site`, which two walks implement: `channels` finds out what belongs
together, `rewriting` computes the labels of a new model from a plan.
"""

from dataclasses import dataclass, replace

import numpy as np

from kmerge.errors import UnsupportedLayerError


@dataclass(frozen=True, eq=False)
class Labels:
    """The units along the feature axis of one tensor.

    Attributes:
        units: integer array of shape `(n,)`.
        axis: the feature axis, counted from the batch axis 0.
        shape: shape of the tensor, with None where it is not known; `shape[axis] == n`.
    """

    units: np.ndarray
    axis: int
    shape: tuple

    def with_units(self, units: np.ndarray) -> "Labels":
        """These labels with other units on the same axis, and the shape that follows."""
        shape = self.shape[: self.axis] + (len(units),) + self.shape[self.axis + 1 :]
        return replace(self, units=np.asarray(units), shape=shape)


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


class Site:
    """One use of a layer, as its rule sees it: what the rule may ask for and must declare.

    Attributes:
        layer: the layer or operation.
        path: its name, with those of the nested models it lies in.
        call: the `graph.Call`.
        final: whether the outputs of this call are outputs of the model and nothing else reads them.
    """

    def __init__(self, call, path: str, final: bool):
        self.call = call
        self.layer = call.operation
        self.path = path
        self.final = final

    def own(self, count: int, name: str = "output") -> np.ndarray:
        """New units that this layer makes; every use of a shared layer gets the same ones."""
        raise NotImplementedError

    def consume(self, x: Labels, weight: str = "kernel") -> np.ndarray:
        """Declares that the layer mixes the units of `x`; returns them as an axis of `weight` sees them."""
        raise NotImplementedError

    def consume_inside(self, units: np.ndarray) -> np.ndarray:
        """Declares that the layer mixes units of its own, which no other layer reads, as attention mixes its heads.

        Such units can be gated only inside the layer, by the layer class `Rule.gated`. Returns the units.
        """
        raise NotImplementedError

    def fix(self, x: Labels, why: str) -> None:
        """Declares that the positions of `x` mean something else than units, so that they must stay as they are."""
        raise NotImplementedError

    def hold(self, x: Labels) -> Labels:
        """Declares that the layer holds weights for each unit of `x`, which passes."""
        raise NotImplementedError

    def couple(self, x: Labels, size: int) -> Labels:
        """Makes each `size` neighbours one unit, as a grouped convolution does; returns `x` in such an order."""
        raise NotImplementedError

    def tie(self, *inputs: Labels) -> list[Labels]:
        """Makes the units at equal positions one unit; returns the inputs in one common order."""
        raise NotImplementedError

    def spread(self, x: Labels, over: Labels) -> Labels:
        """Declares that the only unit of `x` is repeated by broadcasting over the units of `over`."""
        raise NotImplementedError

    def pick(self, x: Labels, positions: np.ndarray, output: int = 0) -> np.ndarray:
        """Units of an output that reads `positions` of `x`: a slice, or a gather, which may repeat units."""
        raise NotImplementedError

    def tile(self, x: Labels, grid: np.ndarray, movable: bool) -> np.ndarray:
        """Makes all rows of the grid into which a reshape cuts the units of `x` the same; returns the grid.

        `movable` says that `x` may be reordered for that: the reshape cuts nothing but its feature axis.
        """
        raise NotImplementedError

    def curve(self, *inputs: Labels) -> None:
        """Declares that a function which is not linear is applied to each unit."""
        raise NotImplementedError

    def weight(self, name: str, *axes: Axis | None) -> None:
        """Declares what the axes of the weight `layer.<name>` are; None for an axis without units.

        The weights of a layer's parts are named with a slash: "query/kernel" is `layer.query.kernel`.
        """
        raise NotImplementedError

    def old_positions(self, index: int) -> np.ndarray:
        """For each position of input `index` of the new model, the position in the template that it comes from."""
        raise NotImplementedError

    def output(self, units: np.ndarray, axis: int = -1, index: int = 0) -> Labels:
        """The labels of an output: its shape is that of the template's, with `units` on the feature axis."""
        shape = tuple(self.call.outputs[index].shape)
        axis = axis % len(shape)
        return Labels(units, axis, shape).with_units(units)

    def refuse(self, why: str, remedy: str) -> None:
        """Raises `UnsupportedLayerError` with the name and class of this layer."""
        raise UnsupportedLayerError(self.path, type(self.layer).__name__, why, remedy)

    def require_last_axis(self, x: Labels) -> None:
        """Refuses units that do not lie on the last axis."""
        if x.axis != len(x.shape) - 1:
            self.refuse(
                f"it works on the last axis, but the channels of its input lie on axis {x.axis} of shape {x.shape}.",
                "Move them to the last axis with Permute before this layer.",
            )
