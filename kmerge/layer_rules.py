"""One small rule per layer type: what a layer does to the units of its inputs.

A rule has a `walk`, which names the units of the outputs and the axes of the weights, and `changes`, which gives the
entries of the layer's configuration that depend on widths. Both are written once and serve every verb. A rule for a
layer of your own:

    class ScaleRule(kmerge.Rule):                   # y = x * layer.scale, one scale per channel
        def walk(self, site, x):
            x = site.hold(x)
            site.weight("scale", channel(x.units))
            return x

    kmerge.register_rule(Scale, ScaleRule())
"""

import functools
from collections.abc import Callable

import numpy as np
from keras import Layer, activations, layers, ops

from kmerge.graph import Call
from kmerge.labels import Axis, Labels, Site


def consumes(units: np.ndarray) -> Axis:
    """A weight axis that mixes the units of an input."""
    return Axis("consumes", units)


def produces(units: np.ndarray) -> Axis:
    """A weight axis that makes the units of an output."""
    return Axis("produces", units)


def channel(units: np.ndarray) -> Axis:
    """A weight axis with one value for each unit that passes."""
    return Axis("channel", units)


class Rule:
    """What a layer does to the units of its inputs. Subclass it for a layer of your own; see `register_rule`."""

    # Whether it only applies an activation: one that ends the model stands behind the mean of logits.
    is_activation = False
    # The layer class that stands for this one in a big student if `Site.consume_inside` is used: it has the same weights
    # and takes `head_gates`, of shape (batch or 1, units mixed inside), as a further argument of its call.
    gated: type | None = None
    # Whether the layer takes the masks off the tensors that it reads, so that whoever reads these later finds none.
    takes_masks = False

    def walk(self, site: Site, *inputs: Labels) -> Labels | list[Labels]:
        """Follows the units through one call.

        Args:
            site: the call; declares units, ties and weights, and gives the labels of outputs.
            *inputs: labels of the input tensors.

        Returns:
            The labels of the output, or a list of them.
        """
        raise NotImplementedError

    def changes(self, site: Site, inputs: list[Labels], outputs: list[Labels]) -> dict:
        """Entries of the layer's configuration that differ when its inputs and outputs have these labels."""
        return {}

    def hands_on(self, layer: object) -> bool:
        """Whether, in inference, the output is the very tensor that the layer reads."""
        return False

    def replay(self, call: Call, operation: object, tensors: list, picks: dict) -> list:
        """Calls the new operation on the new tensors; only slices and gathers need a way of their own.

        Args:
            call: the call in the template.
            operation: the layer or operation of the new model.
            tensors: its symbolic inputs.
            picks: for each output that reads positions of an axis, that axis and the new positions.

        Returns:
            The list of symbolic outputs.
        """
        return call.replay(operation, tensors)


RULES: dict[type, Rule] = {}


def register_rule(layer_class: type, rule: Rule) -> None:
    """Teaches kmerge a layer.

    Args:
        layer_class: a `keras.Layer` class. Subclasses that do not override `call` get the rule too.
        rule: its `Rule`.

    Raises:
        TypeError: if the arguments are not a layer class and a rule.
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, Layer)):
        raise TypeError(f"Expected a subclass of keras.Layer. Received: layer_class={layer_class!r}.")
    if not isinstance(rule, Rule):
        raise TypeError(f"Expected an instance of kmerge.Rule. Received: rule={rule!r}.")
    RULES[layer_class] = rule


def rules_for(*classes: type) -> Callable[[type], type]:
    """Registers one rule, made without arguments, for several layer classes."""

    def register(rule):
        for layer_class in classes:
            register_rule(layer_class, rule())
        return rule

    return register


@functools.cache
def is_elementwise(function: Callable) -> bool:
    """Whether a function treats all positions of the last axis alike and apart; found out by trying."""
    x = np.linspace(-2.0, 2.5, 14, dtype="float32").reshape(2, 7)
    other = x.copy()
    other[:, 3] += 0.25
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    try:
        inputs = (ops.convert_to_tensor(v) for v in (x, other, x[:, order]))
        y, z, permuted = (np.asarray(ops.convert_to_numpy(function(v))) for v in inputs)
    except (ValueError, TypeError, IndexError):
        return False
    rest = np.arange(7) != 3
    if y.shape != x.shape:
        return False
    return np.allclose(y[:, rest], z[:, rest], atol=1e-6) and np.allclose(y[:, order], permuted, atol=1e-6)


def apply_activation(site: Site, function: Callable | None, x: Labels) -> None:
    """Declares an activation on `x`. One that ends the model stands outside the mean of logits, so may be any."""
    if function is None or function is activations.linear or site.final:
        return
    if not is_elementwise(function):
        name = getattr(function, "__name__", repr(function))
        site.refuse(f"its activation {name!r} mixes channels inside the model.", "Only the last layer may have it.")
    site.curve(x)


def require_channels_last(site: Site) -> None:
    """Refuses `data_format="channels_first"`, where the feature axis is not the last."""
    if getattr(site.layer, "data_format", None) == "channels_first":
        site.refuse("data_format='channels_first' is not followed.", "Build the model with 'channels_last'.")


@rules_for(layers.Dense)
class DenseRule(Rule):
    def walk(self, site, x):
        site.require_last_axis(x)
        units = site.own(site.layer.units)
        site.weight("kernel", consumes(site.consume(x)), produces(units))
        site.weight("bias", produces(units))
        out = site.output(units)
        apply_activation(site, site.layer.activation, out)
        return out

    def changes(self, site, inputs, outputs):
        return {"units": len(outputs[0].units)}


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
