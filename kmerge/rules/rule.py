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

import abc
import sys
from collections.abc import Callable

import numpy as np
from keras import Operation

from kmerge.checks import refuse, whole_numbers
from kmerge.graph import Call
from kmerge.rules.labels import Axis, Labels
from kmerge.rules.site import Site


def consumes(units: np.ndarray) -> Axis:
    """A weight axis that mixes the units of an input, such as axis 0 of a Dense kernel.

    Args:
        units: integer array with one unit for each position of the axis: the labels of that input, `x.units`.

    Returns:
        The axis, to be handed to `site.weight`.

    Example:
        >>> axis = kmerge.consumes(np.arange(4))           # for axis 0 of the kernel of Dense on four channels
    """
    return Axis("consumes", whole_numbers("units", units, of="consumes"))


def produces(units: np.ndarray) -> Axis:
    """A weight axis that makes the units of an output, such as the last axis of a Dense kernel.

    Args:
        units: integer array with one unit for each position of the axis: those that the layer makes, from `site.own`.

    Returns:
        The axis, to be handed to `site.weight`.

    Example:
        >>> axis = kmerge.produces(np.arange(6))           # for the last axis of the kernel of Dense(6)
    """
    return Axis("produces", whole_numbers("units", units, of="produces"))


def channel(units: np.ndarray) -> Axis:
    """A weight axis with one value for each unit that passes, such as gamma of BatchNormalization.

    Args:
        units: integer array with one unit for each position of the axis: the labels of the input that passes, `x.units`.

    Returns:
        The axis, to be handed to `site.weight`.

    Example:
        >>> axis = kmerge.channel(np.arange(4))            # for gamma of a normalization of four channels
    """
    return Axis("channel", whole_numbers("units", units, of="channel"))


class Rule(abc.ABC):
    """What a layer does to the units of its inputs. Subclass it for a layer of your own; see `register_rule`.

    A subclass must have `walk`. It sets the attributes that differ, and overrides the methods whose answers differ.

    Attributes:
        is_activation: whether it only applies an activation. One that ends the model stands behind the mean of logits if
            `ends_behind_logits` says so.
        is_opaque: whether it runs as it is, on units that stay as they are.
        is_elementwise: whether it acts on each value alone.
        takes_any_tensor: whether it needs no channel axis: it can read token ids of shape `(None,)`.
        reads_sizes: whether it reads nothing but the sizes of its inputs, so that what it makes is the same for all models.
        may_lose: whether it can do without some or all of the units that it reads.
        gathers: whether what `Site.pick` reads for it is any choice of positions, in any order, not one in a row.
        multiplies: whether it multiplies its inputs with each other, so that a unit which is zero in one of them is zero
            behind it.
        is_transposed: whether it is a transposed convolution: the last two axes of its kernel are the units that it
            makes and those that it reads, and it spreads each place over several.
        takes_masks: whether the layer takes the masks off the tensors that it reads, so that whoever reads these later
            finds none.
        gated: the layer class that stands for this one in a big student, where it mixes units inside itself. It has the
            same weights. If it uses `Site.normalize`, it is called on `[x, gates]`; if it uses `Site.consume_inside`, it takes
            `head_gates`, of shape (batch or 1, units mixed inside), as a further argument of its call.

    Example:
        >>> class PassAlong(kmerge.Rule):
        ...     def walk(self, site, x):
        ...         return x                                   # every unit stays where it is
        >>> class Double(keras.layers.Layer):
        ...     def call(self, x):
        ...         return 2 * x
        >>> kmerge.register_rule(Double, PassAlong())
    """

    is_activation = False
    is_opaque = False
    is_elementwise = False
    takes_any_tensor = False
    reads_sizes = False
    may_lose = False
    gathers = False
    multiplies = False
    is_transposed = False
    takes_masks = False
    gated: type | None = None

    @abc.abstractmethod
    def walk(self, site: Site, *inputs: Labels) -> Labels | list[Labels]:
        """Follows the units through one call.

        Args:
            site: the call; declares units, ties and weights, and gives the labels of outputs.
            *inputs: labels of the input tensors.

        Returns:
            The labels of the output, or a list of them.
        """

    def changes(self, site: Site, inputs: list[Labels], outputs: list[Labels]) -> dict:
        """Entries of the layer's configuration that differ when its inputs and outputs have these labels."""
        return {}

    def ends_behind_logits(self, layer: object) -> bool:
        """Whether the layer, where it ends the model, stands behind the mean of logits; otherwise outputs are averaged."""
        return self.is_activation

    def hands_on(self, layer: object) -> bool:
        """Whether, in inference, the output is the very tensor that the layer reads."""
        return False

    def replay(self, call: Call, operation: object, tensors: list, picks: dict) -> list:
        """Calls the new operation on the new tensors; only slices and gathers need a way of their own.

        Args:
            call: the call in the template.
            operation: the layer or operation of the new model.
            tensors: symbolic inputs of the layer.
            picks: a list with, for each output that reads positions of an axis, that axis and the new positions.

        Returns:
            The list of symbolic outputs.
        """
        return call.replay(operation, tensors)


RULES: dict[type, Rule] = {}


# By the name of the class: those of Keras' own operations are not public.
OPERATION_RULES: dict[str, Rule] = {}

# Where these are defined; `keras.activations` has some of its own.
_HOMES = ("keras.src.ops", "keras.src.activations")


def operation_rule(kind: type) -> Rule | None:
    """The rule of one of Keras' own operations, or None."""
    return OPERATION_RULES.get(kind.__name__) if kind.__module__.startswith(_HOMES) else None


def register_rule(layer_class: type | Callable, rule: Rule) -> None:
    """Teaches kmerge a layer or an operation.

    Args:
        layer_class: a subclass of `keras.Layer` or `keras.Operation`, or a function of `keras.ops` such as
            `keras.ops.cumsum`. Subclasses that override nothing which makes outputs get the rule too.
        rule: `Rule` of the layer or operation.

    Raises:
        InvalidArgumentError: if the arguments are not such a class or function, and a rule.

    Example:
        >>> class Scale(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        ...     def call(self, x):
        ...         return x * self.scale
        >>> class ScaleRule(kmerge.Rule):
        ...     def walk(self, site, x):
        ...         x = site.hold(x)
        ...         site.weight("scale", kmerge.channel(x.units))
        ...         return x
        >>> kmerge.register_rule(Scale, ScaleRule())
    """
    if not isinstance(rule, Rule):
        refuse(
            "rule", "an instance of kmerge.Rule", rule, "Pass a rule that is made: register_rule(MyLayer, MyRule())."
        )
    kind = layer_class if isinstance(layer_class, type) else class_of(layer_class)
    if kind is None or not issubclass(kind, Operation):
        expected = "a subclass of keras.Layer or keras.Operation, or a function of keras.ops"
        refuse("layer_class", expected, layer_class, "Pass the class, not a layer.")
    if kind.__module__.startswith(_HOMES):
        OPERATION_RULES[kind.__name__] = rule
    else:
        RULES[kind] = rule


def class_of(function: object) -> type | None:
    """The class of the operation that a function of `keras.ops` makes: `Cumsum` for `cumsum`."""
    name, module = (getattr(function, part, "") for part in ("__name__", "__module__"))
    classes = vars(sys.modules[module]) if str(module).startswith(_HOMES) else {}
    return next((kind for key, kind in classes.items() if key.lower() == name.replace("_", "")), None)


def rules_for(*classes: type) -> Callable[[type], type]:
    """Registers one rule, made without arguments, for several layer classes."""

    def register(rule):
        for layer_class in classes:
            register_rule(layer_class, rule())
        return rule

    return register


def pass_apart(site: Site, x: Labels, *weights: str) -> Labels:
    """The labels behind a layer none of whose weights has an axis for channels, which pass it, each alone."""
    if getattr(site.layer, "weights", ()):
        x = site.apart(x)
    for name in weights:
        site.weight(name)
    return x


def refuse_odd_bias(site: Site, shape: tuple) -> None:
    """Refuses to add an array whose only axis of more than one value is not the last.

    Under TensorFlow, Keras takes it for a bias, and adds it along the last axis wherever this has as many channels.
    """
    if len(shape) > 1 and shape[-1] == 1 and sum(size > 1 for size in shape) == 1:
        site.refuse(
            f"under TensorFlow, Keras adds an array of shape {tuple(shape)} to the last axis if that has as many values.",
            "Give it one value for each channel, too, or subtract its negative.",
        )


def require_channels_last(site: Site) -> None:
    """Refuses `data_format="channels_first"`, where the feature axis is not the last."""
    if getattr(site.layer, "data_format", None) == "channels_first":
        site.refuse("data_format='channels_first' is not followed.", "Build the model with 'channels_last'.")
