"""Rules for layers that pass units on: rescaling, activations, noise, pooling, padding.

Such a layer leaves every unit where it is. It may hold one weight for each, or apply a function to it.
"""

import inspect

import numpy as np
from keras import activations, layers

from kmerge.rules.elementwise import apply_activation, is_behind_logits, is_elementwise
from kmerge.rules.rule import Rule, channel, pass_apart, require_channels_last, rules_for
from kmerge.rules.site import Site


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


def per_unit(site: Site, values: object, new: float | None = None) -> list | None:
    """A list of constants in a configuration, one per channel, in the order of the new channels; None for a scalar.

    A new channel has the constant `new`, or by default that of the channel next to which it lies.
    """
    if values is None or np.size(values) <= 1:
        return None
    found = np.ravel(values)[site.old_positions(0)]
    return (found if new is None else np.where(site.is_new(0), new, found)).tolist()


@rules_for(layers.PReLU)
class PReLURule(Rule):
    def walk(self, site, x):
        if x.axis in (site.layer.shared_axes or ()):  # one slope for all channels of a place
            x = pass_apart(site, x, "alpha")
        else:
            x = site.hold(x)
            site.weight("alpha", *[channel(x.units) if a == x.axis else None for a in range(1, len(x.shape))])
        site.curve(x)
        return x


@rules_for(
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.GaussianDropout,
    layers.GaussianNoise, layers.AlphaDropout, layers.ActivityRegularization, layers.Identity,
)  # fmt: skip
class PassRule(Rule):
    """Layers that leave every value where it is, and linear in inference."""

    takes_any_tensor = True

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

    def ends_behind_logits(self, layer):
        return is_behind_logits(layer)

    def hands_on(self, layer):
        return layer.activation is activations.linear


@rules_for(layers.ReLU, layers.LeakyReLU, layers.ELU)
class ElementwiseRule(Rule):
    is_activation = is_elementwise = takes_any_tensor = True

    def walk(self, site, x):
        taken = inspect.signature(type(site.layer).__init__).parameters
        for name, value in vars(site.layer).items():
            if name in taken and np.ndim(value) > 0:
                site.refuse(f"its {name!r} is an array of shape {np.shape(value)}.", "Pass one number.")
        if not (site.final and site.call.alone and is_behind_logits(site.layer)):
            site.curve(x)
        return x

    def ends_behind_logits(self, layer):
        return is_behind_logits(layer)


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
