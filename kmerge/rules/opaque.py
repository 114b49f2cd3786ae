"""Layers of which nobody knows what they do to channels: they run as they are.

Such a layer cannot be cut or mixed. But it can run once for each model, on that model's own channels, and what these
runs give lies side by side: so `concatenate` is exact. The channels that it reads and makes cannot be selected.
"""

from keras import layers

from kmerge.checks import text
from kmerge.rules.rule import OPERATION_RULES, Rule, rules_for


@rules_for(layers.Masking)
class MaskingRule(Rule):
    def walk(self, site, x):
        site.fix(x, "compares all channels of a step with its mask value")
        return x


@rules_for(layers.TimeDistributed)
class OpaqueRule(Rule):
    """A layer that runs as it is, as all do that kmerge cannot follow. Register it to say that this is meant:

        kmerge.register_rule(MyLayer, kmerge.OpaqueRule())

    The layer must be what its configuration and its weights say, without any other state, and must treat each example
    of a batch alone.

    Args:
        why: why the layer cannot be followed, and what to do about it; empty if that is meant.

    Example:
        >>> class Secret(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x[:, ::-1]
        >>> kmerge.register_rule(Secret, kmerge.OpaqueRule())
    """

    is_opaque = True
    takes_any_tensor = True

    def __init__(self, why: str = ""):
        self.why = text("why", why, of="OpaqueRule")

    def walk(self, site, *inputs):
        return site.isolate(*inputs, why=self.why)


class CrossEntropyRule(OpaqueRule):
    """A loss of probabilities: what it is depends on what computes them, and so on each gather before it."""

    def walk(self, site, *inputs):
        if not site.layer.from_logits:
            why = "under TensorFlow, Keras looks behind the sigmoid or softmax that it reads, and takes its logits instead."
            site.forbid(why, "Give it the logits, with from_logits=True.")
        return super().walk(site, *inputs)


OPERATION_RULES |= {
    name: CrossEntropyRule()
    for name in ("BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy")
}
