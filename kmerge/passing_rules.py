"""Rules for layers that pass units on: normalisation, activations, noise, pooling, padding.

Such a layer leaves every unit where it is. It may hold one weight for each, or apply a function to it.
"""

from collections.abc import Sequence

import numpy as np
from keras import activations, layers

from kmerge.labels import Labels, Site
from kmerge.layer_rules import (
    Rule,
    apply_activation,
    channel,
    is_elementwise,
    require_channels_last,
    rules_for,
)


def require_axis(site: Site, axis: int | Sequence[int], x: Labels) -> None:
    """Refuses a normalisation over an axis on which the channels do not lie."""
    axes = [a % len(x.shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    if axes != [x.axis]:
        site.refuse(f"it works on axis {axis}, but the channels lie on axis {x.axis} of shape {x.shape}.",
                    f"Use axis={x.axis}.")  # fmt: skip


@rules_for(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    def walk(self, site, x):
        require_axis(site, site.layer.axis, x)
        x = site.hold(x)
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            site.weight(name, channel(x.units))
        return x


@rules_for(layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """A group is normalised as a whole, so it is one unit: groups can be kept or dropped, exactly."""

    def walk(self, site, x):
        require_axis(site, site.layer.axis, x)
        x = site.couple(site.hold(x), self._group_size(site))
        site.curve(x)
        site.weight("gamma", channel(x.units))
        site.weight("beta", channel(x.units))
        return x

    @staticmethod
    def _group_size(site):
        shape = site.call.inputs[0].shape
        return shape[site.layer.axis] // site.layer.groups if site.layer.groups > 0 else 1

    def changes(self, site, inputs, outputs):
        return {"groups": len(inputs[0].units) // self._group_size(site)}


@rules_for(layers.Normalization)
class NormalizationRule(Rule):
    def walk(self, site, x):
        layer = site.layer
        if not layer.axis:
            if layer.input_mean is None:
                site.refuse("axis=None holds one mean for all channels, which two models need not share.",
                            "Pass mean= and variance=, or use axis=-1.")  # fmt: skip
            return x
        require_axis(site, layer.axis, x)
        if layer.input_mean is None:
            x = site.hold(x)
            site.weight("adapt_mean", channel(x.units))
            site.weight("adapt_variance", channel(x.units))
        return x

    def changes(self, site, inputs, outputs):
        return {name: listed for name in ("mean", "variance")
                if (listed := per_unit(site, site.layer.get_config()[name])) is not None}  # fmt: skip


@rules_for(layers.Rescaling)
class RescalingRule(Rule):
    def walk(self, site, x):
        size = site.call.inputs[0].shape[x.axis]
        for value in (site.layer.scale, site.layer.offset):
            if np.size(value) > 1 and (np.ndim(value) != 1 or np.size(value) != size or x.axis != len(x.shape) - 1):
                site.refuse(f"its value of shape {np.shape(value)} is not one per channel.", "Pass a list of channels.")
        return x

    def changes(self, site, inputs, outputs):
        return {name: listed for name in ("scale", "offset")
                if (listed := per_unit(site, getattr(site.layer, name))) is not None}  # fmt: skip


def per_unit(site: Site, values: object) -> list | None:
    """A list of constants in a configuration, one per channel, in the order of the new channels; None for a scalar."""
    if values is None or np.size(values) <= 1:
        return None
    return np.ravel(values)[site.old_positions(0)].tolist()


@rules_for(layers.PReLU)
class PReLURule(Rule):
    def walk(self, site, x):
        require_last = len(x.shape) - 1
        if x.axis != require_last or (site.layer.shared_axes and x.axis in site.layer.shared_axes):
            site.refuse("its slopes are shared over channels or lie on another axis.", "Share spatial axes only.")
        x = site.hold(x)
        site.weight("alpha", *[None] * (len(x.shape) - 2), channel(x.units))
        site.curve(x)
        return x


@rules_for(
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.GaussianDropout,
    layers.GaussianNoise, layers.AlphaDropout, layers.ActivityRegularization, layers.Identity,
)  # fmt: skip
class PassRule(Rule):
    """Layers that leave every value where it is, and linear in inference."""

    def walk(self, site, x):
        return x

    def hands_on(self, layer):
        return True


@rules_for(layers.Activation)
class ActivationRule(Rule):
    is_activation = True

    def walk(self, site, x):
        apply_activation(site, site.layer.activation, x)
        if site.final and not site.call.alone and is_elementwise(site.layer.activation):
            site.curve(x)  # what it reads is an output or read elsewhere, so it is not merely the end of the model
        return x

    def hands_on(self, layer):
        return layer.activation is activations.linear


@rules_for(layers.Softmax)
class SoftmaxRule(Rule):
    is_activation = True

    def walk(self, site, x):
        apply_activation(site, activations.softmax, x)
        return x


@rules_for(layers.ReLU, layers.LeakyReLU, layers.ELU)
class ElementwiseRule(Rule):
    is_activation = True

    def walk(self, site, x):
        if not (site.final and site.call.alone):
            site.curve(x)
        return x


class SpatialRule(Rule):
    """Layers that work on the axes between batch and channels, on each channel alone."""

    def walk(self, site, x):
        require_channels_last(site)
        site.require_last_axis(x)
        return site.output(x.units)


rules_for(
    layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D, layers.Cropping1D, layers.Cropping2D,
    layers.Cropping3D, layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D, layers.AveragePooling1D,
    layers.AveragePooling2D, layers.AveragePooling3D, layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)(SpatialRule)  # fmt: skip


@rules_for(
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
)  # fmt: skip
class MaximumRule(SpatialRule):
    def walk(self, site, x):
        out = super().walk(site, x)
        site.curve(out)
        return out
