"""Rules for functions along axes: softmax, sorting and running sums, which keep the axes, and sums, which take them away.

Over axes without channels they pass units on. A sum over the channels is a Dense layer of ones: it mixes all units, and a
unit that is zero adds nothing. A mean is a sum over a number, that of the channels of the template: it stays when units go.
The largest of channels is such a sum where none is negative.
"""

import math

import numpy as np
from keras import layers

from kmerge.graph import rename_operation
from kmerge.rules.labels import Labels, channel_axis
from kmerge.rules.rule import OPERATION_RULES, Rule, rules_for
from kmerge.rules.site import Site


def axes_of(site: Site, x: Labels) -> list[int]:
    """The axes along which an operation works, counted from the front; refuses that of the batch."""
    axis, rank = site.layer.axis, len(x.shape)
    axes = list(range(rank)) if axis is None else [int(a) % rank for a in np.atleast_1d(axis)]
    if 0 in axes:
        site.refuse("it works along the batch axis.", "Name the axes that it shall work along.")
    return axes


class AlongAxesRule(Rule):
    """A function along axes that are still there behind it."""

    takes_any_tensor = True

    def __init__(self, linear: bool = False):
        self.linear = linear

    def walk(self, site, x):
        if x.axis in axes_of(site, x):
            site.refuse(f"it works along axis {x.axis}, that of the channels.", "Let it work along other axes.")
        if not self.linear:
            site.curve(x)
        return site.output(x.units, x.axis)


class SoftmaxOperationRule(AlongAxesRule):
    is_activation = True

    def walk(self, site, x):
        return x if site.final else super().walk(site, x)


@rules_for(layers.Softmax)
class SoftmaxRule(SoftmaxOperationRule):
    def walk(self, site, x):
        # A mask counts its axes from the last one, as all that is repeated.
        masks = [tuple(site.call.inputs[i].shape) for i in site.call.masks]
        if any(((1,) * len(x.shape) + shape)[x.axis - len(x.shape)] != 1 for shape in masks) and not site.final:
            site.refuse("its mask has an axis of channels.", "Mask places, with a mask of size 1 along the channels.")
        return super().walk(site, x)


class ReduceRule(Rule):
    """A function of all values along some axes.

    Args:
        linear: whether it is linear.
        adds: whether a value that is zero changes nothing, so that it may also be left out, if channels are reduced.
    """

    def __init__(self, linear: bool = False, adds: bool = False):
        self.linear = linear
        self.adds = adds

    def walk(self, site, x):
        axes = axes_of(site, x)
        if x.axis in axes:
            return self._over_channels(site, x)
        if not self.linear:
            site.curve(x)
        kept = getattr(site.layer, "keepdims", False)
        return site.output(x.units, x.axis if kept else x.axis - sum(a < x.axis for a in axes))

    def _over_channels(self, site, x):
        if not self._adds(site, x):
            site.refuse(f"it reduces axis {x.axis}, that of the channels.",
                        "Take their sum or mean, or mix them with Dense or a 1x1 convolution.")  # fmt: skip
        shape = tuple(site.call.outputs[0].shape)
        axis, count = (x.axis, 1) if site.layer.keepdims else channel_axis(shape)
        out = site.output(site.contract(x, count=count), axis)
        if not self.linear:
            site.curve(out)
        return out

    def _adds(self, site: Site, x: Labels) -> bool:
        return self.adds and "float" in str(site.call.inputs[0].dtype)


class NormRule(ReduceRule):
    def _adds(self, site, x):
        return super()._adds(site, x) and site.layer.ord in (None, 1, 2) and np.size(site.layer.axis) == 1


class MaximumOfRule(ReduceRule):
    """The largest of channels without a negative number among them, as behind a ReLU, is a norm of them."""

    def _adds(self, site, x):
        return super()._adds(site, x) and x.no_negative


class MeanRule(ReduceRule):
    def replay(self, call, operation, tensors, picks):
        before, after = call.inputs[0].shape, tensors[0].shape
        axis, rank = operation.axis, len(before)
        axes = range(rank) if axis is None else [int(a) % rank for a in np.atleast_1d(axis)]
        share = math.prod(after[a] / before[a] for a in axes if None not in (before[a], after[a]))
        outputs = super().replay(call, operation, tensors, picks)
        if share == 1:
            return outputs
        name = operation.name
        mean = rename_operation(outputs[0], f"{name}_of_what_is_left")
        return [rename_operation(mean * share, name)]


OPERATION_RULES |= {
    **{name: SoftmaxOperationRule() for name in ("Softmax", "LogSoftmax", "Sparsemax")},
    **{name: AlongAxesRule(linear=True) for name in ("Cumsum", "Diff", "Flip", "Roll")},
    **{name: AlongAxesRule() for name in ("Cumprod", "Nancumprod", "Nancumsum", "Normalize", "Sort")},
    "Sum": ReduceRule(linear=True, adds=True),
    "Mean": MeanRule(linear=True, adds=True),
    "Norm": NormRule(adds=True),
    **{name: MaximumOfRule(adds=True) for name in ("Amax", "Max")},
    **{
        name: ReduceRule()
        for name in (
            "All Amin Any CountNonzero Logsumexp Median Min Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd "
            "Nansum Nanvar Prod Ptp Std Trapezoid Var"
        ).split()
    },
}
