"""The weights of a model by the units that they belong to: what an importance is computed from.

    hidden (Dense(4))      kernel (3, 4): its columns make the units 0 to 3        bias (4,): one number for each
    head (Dense(2))        kernel (4, 2): its rows read them

    weights.sums(lambda weight: np.abs(weight.array))       for each unit the sum over its column, its bias and its row
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.rules import Axis
from kmerge.spaces import ChannelSpaces, Trace
from kmerge.surgery import weight_axes

# What an axis of a weight is to the units along it: it makes them, holds one value for each that passes, or reads them.
ROLES = ("produces", "channel", "consumes")
_OFFSETS = {"bias", "beta", "moving_mean", "moving_variance", "mean", "variance"}


@dataclass(frozen=True, eq=False)
class UnitWeight:
    """A weight on whose axes units lie.

    Attributes:
        path: path of the layer that holds it.
        name: name of the weight, such as "kernel".
        array: values of the weight.
        axes: a list with, for each axis, its `Axis`, or None if no units lie on it. The role is "produces" where the weight
            makes the units, "consumes" where it reads them, "channel" where it holds one value for each that passes.
        variable: the weight itself.

    Example:
        >>> def of_kernels(weights):
        ...     return weights.sums(lambda weight: np.abs(weight.array) if weight.name == "kernel" else 0 * weight.array)
        >>> small = kmerge.prune(model, of_kernels, budget=0.5)
    """

    path: str
    name: str
    array: np.ndarray
    axes: tuple[Axis | None, ...]
    variable: keras.Variable

    @property
    def is_offset(self) -> bool:
        """Whether it is a bias, an offset or a statistic, which say nothing about how much of a signal passes."""
        return self.name in _OFFSETS


class UnitWeights:
    """The weights of a model on whose axes units lie; iterating gives a `UnitWeight` for each.

    Args:
        walked: the walk of the model.
        arrays: what `check_finite` gives of it.
        seed: seed of an importance that is drawn.

    Attributes:
        model: the model.
        spaces: channel spaces of the model, those that are not selectable among them.
        seed: the seed.

    Example:
        >>> def smallest(weights):
        ...     return weights.sums(lambda weight: -np.square(weight.array))
        >>> small = kmerge.prune(model, smallest, budget=0.5)
    """

    def __init__(self, walked: Trace, arrays: Mapping[int, np.ndarray], seed: int = 0):
        self.model: keras.Model = walked.model
        self.spaces: ChannelSpaces = walked.spaces
        self.seed = seed
        self.walked = walked
        self._arrays = arrays

    def __iter__(self) -> Iterator[UnitWeight]:
        for path, named in self.walked.axes.items():
            layer = self.walked.layers[path]
            for index, axes in (weight_axes(named, layer) if named else {}).items():
                weight = layer.weights[index]
                yield UnitWeight(path, weight.name, self._arrays[id(weight)].astype("float64"), axes, weight)

    def sums(
        self, values: Callable[[UnitWeight], np.ndarray | None], roles: Collection[str] = ROLES
    ) -> dict[str, np.ndarray]:
        """Sums values over all that belongs to a unit: what makes, carries and reads it, wherever it lies.

        Args:
            values: gives for a weight an array of its shape, or None if it does not count.
            roles: those of the axes that count: "produces", "channel" and "consumes".

        Returns:
            An array of shape `(units,)` for each selectable space, by its name.
        """
        totals = np.zeros(len(self.walked.space_of))
        for weight in self:
            found = values(weight)
            for number, axis in enumerate(weight.axes if found is not None else ()):
                if axis is not None and axis.role in roles:
                    add_to_units(totals, found, number, axis.units)
        return self.of_spaces(totals)

    def of_spaces(self, by_unit: np.ndarray) -> dict[str, np.ndarray]:
        """Numbers by unit, as `Trace.space_of` counts units, for each selectable space."""
        return {space.name: by_unit[space.units] for space in self.spaces.selectable}


def add_to_units(totals: np.ndarray, values: np.ndarray, number: int, units: np.ndarray) -> None:
    """Adds, to the total of each unit, the values at its places along one axis of a weight."""
    others = tuple(i for i in range(values.ndim) if i != number)
    np.add.at(totals, units, values.sum(axis=others))
