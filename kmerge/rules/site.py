"""What a rule sees of one use of a layer, and what it may declare."""

import numpy as np

from kmerge.errors import UnsupportedLayerError
from kmerge.rules.labels import Axis, Labels


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

    def normalize(self, x: Labels) -> Labels:
        """Declares that the layer normalizes over all units of `x` together and holds weights for each, which passes.

        Returns `x` with the units of each source in a row, where each source is normalized by a layer of its own.
        """
        raise NotImplementedError

    def isolate(self, *inputs: Labels) -> list[Labels]:
        """Declares that no one knows what the layer does to units: those it reads and those it makes stay as they are.

        Returns the labels of its outputs, with new units on their last axes.
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
