"""What a rule sees of one use of a layer, and what it may declare."""

import abc
from typing import NoReturn

import numpy as np

from kmerge.errors import UnsupportedLayerError
from kmerge.graph import Call
from kmerge.rules.labels import Axis, Labels


class Site(abc.ABC):
    """One use of a layer, as its rule sees it: what the rule may ask for and must declare.

    Two walks run the same rule. The first finds out which units belong together: it notes what the rule declares, and
    hands back the labels as they came. The second builds a new model: its labels say which unit of which source lies
    where, an order that the layer needs may differ from the one that comes, and the methods that return labels return
    them in the order needed. So a rule goes on with what they return, not with what it gave them:

        x = site.hold(x)
        site.weight("scale", channel(x.units))

    Units are integer arrays with one number for each position of an axis; `[0 1 2 3]` are those of four channels.

    Args:
        call: the use: `call.inputs` and `call.outputs` are its symbolic tensors, `call.args` and `call.kwargs` its
            arguments. In both walks these are the template's.
        path: the name of the layer, with those of the nested models that it lies in: "encoder/dense".
        final: whether the outputs of this call are outputs of the model and nothing else reads them.

    Attributes:
        layer: the layer or operation that is called, the template's.

    Example:
        >>> class ScaleRule(kmerge.Rule):
        ...     def walk(self, site, x):                       # site is the Site
        ...         x = site.hold(x)
        ...         site.weight("scale", kmerge.channel(x.units))
        ...         return x
    """

    def __init__(self, call: Call, path: str, final: bool):
        self.call = call
        self.layer = call.operation
        self.path = path
        self.final = final

    @abc.abstractmethod
    def own(self, count: int, name: str = "output") -> np.ndarray:
        """Units that this layer makes, of shape `(count,)`; every use of a shared layer gets the same ones.

        In a new model there may be more or fewer than `count`, which is the template's number: Dense(4) owns `[4 5 6 7]`,
        of which a cut to two may leave `[4 6]`. `name` tells apart several sets that one layer makes, as one for itself
        and one for its output.
        """

    @abc.abstractmethod
    def consume(self, x: Labels, weight: str = "kernel") -> np.ndarray:
        """Declares that the layer mixes the units of `x`; returns them as an axis of `weight` sees them.

        A gate of these units stands before this layer. Uses of a shared layer that are consumed by one weight read the
        same units at equal positions, so these are tied.
        """

    @abc.abstractmethod
    def contract(self, *inputs: Labels, count: int = 1) -> np.ndarray:
        """Declares that the layer adds up all positions of an input, or the products of the equal positions of several.

        What is zero changes nothing, as with a Dense layer of ones. So units of the inputs may go, but none may come,
        and gates before the layer stand in no kernel. Returns the `count` units of what the layer makes, which must stay.
        """

    @abc.abstractmethod
    def weigh(self, sums: Labels, x: Labels) -> Labels:
        """Declares that the units of `x` pass, but their places are mixed by weights computed of the layer's input `sums`.

        These must be what `contract` made, which is of one source or of all together. Returns `x` with the units of each
        source in a row, where each source has sums of its own.
        """

    @abc.abstractmethod
    def attend(self, query: Labels, key: Labels, value: Labels) -> tuple[Labels, Labels]:
        """Declares that places of `value` are mixed by sums over the channels of `query` and `key`, which are tied.

        To such a sum a channel that is zero in both adds nothing, and no weight: so these may go, but none may come. The
        units of `value` pass. Returns `query` and `value` with the units of each source in a row: there is one layer for
        each source. In a big student, whose gates would act on `key` and `value` alike, the layer runs as it is.
        """

    @abc.abstractmethod
    def consume_inside(self, units: np.ndarray) -> np.ndarray:
        """Declares that the layer mixes units of its own, which no other layer reads, as attention mixes its heads.

        Such units can be gated only inside the layer, by the layer class `Rule.gated`. Returns the units.
        """

    @abc.abstractmethod
    def fix(self, x: Labels, why: str) -> None:
        """Declares that the positions of `x` mean something else than units, so that they must stay as they are.

        `why` is read behind the path of the layer: "reads them as places of a sequence".
        """

    @abc.abstractmethod
    def hold(self, x: Labels) -> Labels:
        """Declares that the layer holds weights for each unit of `x`, which passes; returns `x` in the order of these.

        Uses of a shared layer meet the same weights at equal positions, so their units are tied.
        """

    @abc.abstractmethod
    def couple(self, x: Labels, size: int) -> Labels:
        """Makes each `size` neighbours one unit, as a grouped convolution does; returns `x` in such an order.

        With four channels in two groups, `[0 1 2 3]` and a size of 2, 1 is from now on 0 and 3 is 2.
        """

    @abc.abstractmethod
    def tie(self, *inputs: Labels) -> list[Labels]:
        """Makes the units at equal positions one unit; returns the inputs in one common order.

        Of `[0 1 2 3]` and `[4 5 6 7]`, 4 is from now on 0, 5 is 1, and so on.
        """

    @abc.abstractmethod
    def spread(self, x: Labels, over: Labels) -> Labels:
        """Declares that the only unit of `x` is repeated by broadcasting over the units of `over`; returns `x`.

        It must stay: `[8]` that multiplies `[0 1 2 3]` is no unit of the product.
        """

    @abc.abstractmethod
    def pick(self, x: Labels, positions: np.ndarray, output: int = 0) -> np.ndarray:
        """Units of an output that reads `positions` of `x`, of shape `(len(positions),)`: a slice, or a gather.

        Of `[0 1 2 3]`, the positions `[2 3]` are the units `[2 3]`. Positions that repeat, as `[0 0 1 1]`, make units of
        their own: what is read must then stay. The rule's `replay` gets the positions in the new model as `picks`.
        """

    @abc.abstractmethod
    def tile(self, x: Labels, grid: np.ndarray, movable: bool) -> np.ndarray:
        """Makes all rows of the grid into which a reshape cuts the units of `x` the same; returns the grid.

        A reshape of four channels to (2, 2) cuts them into the rows `[0 1]` and `[2 3]`, of which only the second axis
        still holds channels: 2 is from now on 0 and 3 is 1, the grid is `[[0 1] [0 1]]`, and two units are left.

        Args:
            x: labels of what is cut.
            grid: units of the axis, of shape `(rows, units of a row)`.
            movable: whether `x` may be reordered for that: the reshape cuts nothing but its feature axis.
        """

    @abc.abstractmethod
    def normalize(self, x: Labels) -> Labels:
        """Declares that the layer normalizes over all units of `x` together and holds weights for each, which passes.

        Returns `x` with the units of each source in a row, where each source is normalized by a layer of its own: of two
        models of two channels `[A0 B0 A1 B1]` becomes `[A0 A1 B0 B1]`.
        """

    @abc.abstractmethod
    def apart(self, x: Labels) -> Labels:
        """Declares that the layer has the same weights for all units of `x`, which pass, each alone: Dense over places.

        So there is one layer for each source, on its channels: two models side by side have two, with the weights of each.
        Returns `x` with the units of each source in a row. New units go through the layer of the first source that is
        there. The layer is not gated. A merge keeps it, and the units that it meets, whole of one parent.
        """

    @abc.abstractmethod
    def isolate(self, *inputs: Labels, why: str = "") -> list[Labels]:
        """Declares that no one knows what the layer does to units: those it reads and those it makes stay as they are.

        `why` says what cannot be followed, and what to do about it. Returns the labels of its outputs, with new units on
        their last axes. What has no weights and reads the model's
        inputs alone, or what was computed from these alone, makes what counts as channels of an input again.
        """

    @abc.abstractmethod
    def curve(self, *inputs: Labels) -> None:
        """Declares that a function which is not linear is applied to each unit, so that a mean cannot be moved past it."""

    @abc.abstractmethod
    def weight(self, name: str, *axes: Axis | None) -> None:
        """Declares what the axes of the weight `layer.<name>` are; None for an axis without units.

        The weights of a layer's parts are named with a slash: "query/kernel" is `layer.query.kernel`. A weight that the
        layer lacks, as a bias with `use_bias=False`, may be declared all the same. One that is not declared must keep its
        shape, and have equal values in models that are joined. A 3x3 convolution from `x` to `units`:

            site.weight("kernel", None, None, consumes(site.consume(x)), produces(units))
        """

    @abc.abstractmethod
    def constant(self, index: int, *axes: Axis | None) -> None:
        """Declares what the axes of the array `call.constants[index]` are, as `weight` does for a weight.

        It is then cut like one, and may have other values in each of the models that are joined. An array that is not
        declared must be the same in all of them.
        """

    @abc.abstractmethod
    def old_positions(self, index: int) -> np.ndarray:
        """For each position of input `index` of the new model, the position in the template that it comes from.

        For `Rule.changes`, where a configuration lists one number for each channel. Of four channels cut to the second
        and the last it is `[1 3]`.
        """

    @abc.abstractmethod
    def is_new(self, index: int) -> np.ndarray:
        """For each position of input `index` of the new model, whether its unit is new, so that no model has a value for it.

        `old_positions` then gives the place of the unit next to which the new one lies.
        """

    def named(self, inputs: tuple[Labels, ...]) -> dict[str, list[Labels]]:
        """The labels that a rule gets, by the argument of the layer's call that holds the tensors; masks are left out."""
        followed = dict(zip([i for i in range(len(self.call.inputs)) if i not in self.call.masks], inputs, strict=True))
        named = self.call.named_inputs.items()
        return {name: [followed[i] for i in numbers if i in followed] for name, numbers in named}

    def output(self, units: np.ndarray, axis: int = -1, index: int = 0) -> Labels:
        """The labels of output `index`: its shape is that of the template's, with `units` on the feature axis `axis`."""
        shape = tuple(self.call.outputs[index].shape)
        return Labels(units, axis if axis >= 0 else axis + len(shape), shape).with_units(units)

    def refuse(self, why: str, remedy: str) -> NoReturn:
        """Says that the rule cannot follow this call: the layer runs as it is, all of its channels fixed.

        Under `strict`, and in a new model whose widths the layer cannot have, it is refused.

        Args:
            why: a sentence that begins behind the name of the layer: "it reduces axis 1, and with it the channels."
            remedy: a sentence with what the user can do.

        Raises:
            UnsupportedLayerError: with the name and class of this layer.
        """
        raise UnsupportedLayerError(self.path, type(self.layer).__name__, why, remedy)

    def forbid(self, why: str, remedy: str) -> NoReturn:
        """Refuses the layer where even running it as it is would not be right. The arguments are those of `refuse`."""
        raise UnsupportedLayerError(self.path, type(self.layer).__name__, why, remedy, may_run_as_it_is=False)

    def require_last_axis(self, x: Labels) -> None:
        """Refuses units that do not lie on the last axis."""
        if x.axis != len(x.shape) - 1:
            self.refuse(
                f"it works on the last axis, but the channels of its input lie on axis {x.axis} of shape {x.shape}.",
                "Move them to the last axis with Permute before this layer.",
            )
