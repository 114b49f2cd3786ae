"""Rules for layers with kernels: Dense and the convolutions."""

import keras
import numpy as np
from keras import layers

from kmerge.rules.elementwise import apply_activation
from kmerge.rules.rule import Rule, channel, consumes, pass_apart, produces, require_channels_last, rules_for


@rules_for(layers.Dense)
class DenseRule(Rule):
    """Where the channels lie on another axis than the last, it mixes places, and each channel passes alone."""

    def walk(self, site, x):
        if x.axis != len(x.shape) - 1:
            x = pass_apart(site, x, "kernel", "bias")
            out = site.output(x.units, x.axis)
            apply_activation(site, site.layer.activation, out)
            return out
        units = site.own(site.layer.units)
        site.weight("kernel", consumes(site.consume(x)), produces(units))
        site.weight("bias", produces(units))
        out = site.output(units)
        apply_activation(site, site.layer.activation, out)
        return out

    def changes(self, site, inputs, outputs):
        out = outputs[0]
        return {"units": len(out.units)} if out.axis == len(out.shape) - 1 else {}


@rules_for(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvRule(Rule):
    """With groups, a group is one unit on both sides: the convolution mixes inside it, and so passes it."""

    def walk(self, site, x):
        require_channels_last(site)
        site.require_last_axis(x)
        layer = site.layer
        spatial = [None] * layer.rank
        if layer.groups == 1:
            units = site.own(layer.filters)
            site.weight("kernel", *spatial, consumes(site.consume(x)), produces(units))
            out = site.output(units)
        else:
            x = site.couple(site.hold(x), self._inputs_per_group(layer))
            units = site.own(layer.filters)
            out = site.couple(site.output(units), layer.filters // layer.groups)
            site.tie(
                out.with_units(out.units[:: layer.filters // layer.groups]),
                x.with_units(x.units[:: self._inputs_per_group(layer)]),
            )
            site.weight("kernel", *spatial, None, channel(units))
        site.weight("bias", produces(units))
        apply_activation(site, layer.activation, out)
        return out

    @staticmethod
    def _inputs_per_group(layer):
        return layer.kernel.shape[-2]

    def changes(self, site, inputs, outputs):
        if site.layer.groups == 1:
            return {"filters": len(outputs[0].units)}
        groups = len(inputs[0].units) // self._inputs_per_group(site.layer)
        return {"filters": len(outputs[0].units), "groups": groups}


@rules_for(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
class ConvTransposeRule(Rule):
    is_transposed = True

    def walk(self, site, x):
        require_channels_last(site)
        site.require_last_axis(x)
        units = site.own(site.layer.filters)
        site.weight("kernel", *[None] * site.layer.rank, produces(units), consumes(site.consume(x)))
        site.weight("bias", produces(units))
        out = site.output(units)
        apply_activation(site, site.layer.activation, out)
        return out

    def changes(self, site, inputs, outputs):
        return {"filters": len(outputs[0].units)}


@rules_for(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseRule(Rule):
    def walk(self, site, x):
        require_channels_last(site)
        site.require_last_axis(x)
        x = site.hold(x)
        out = site.output(np.repeat(x.units, site.layer.depth_multiplier))
        site.weight("kernel", *[None] * site.layer.rank, channel(x.units), None)
        site.weight("bias", channel(out.units))
        apply_activation(site, site.layer.activation, out)
        return out


@rules_for(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableRule(Rule):
    def walk(self, site, x):
        require_channels_last(site)
        site.require_last_axis(x)
        layer = site.layer
        x = site.hold(x)
        spatial = [None] * layer.rank
        units = site.own(layer.filters)
        inner = np.repeat(site.consume(x), layer.depth_multiplier)
        site.weight("depthwise_kernel", *spatial, channel(x.units), None)
        site.weight("pointwise_kernel", *spatial, consumes(inner), produces(units))
        site.weight("bias", produces(units))
        out = site.output(units)
        apply_activation(site, layer.activation, out)
        return out

    def changes(self, site, inputs, outputs):
        return {"filters": len(outputs[0].units)}


KERNEL_LAYERS = (
    keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D,
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose,
)  # fmt: skip
