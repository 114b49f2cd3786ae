"""Rules for layers that normalise over units.

Such a layer mixes what its units say of mean and variance. So what is left of a cut changes, unless what is left are
all units of one source, normalised by a layer of their own: as `concatenate` builds it.
"""

from keras import layers

from kmerge.gates import GatedLayerNormalization, GatedRMSNormalization, GatedUnitNormalization
from kmerge.layer_rules import Rule, channel, rules_for


class NormalisingRule(Rule):
    """Layers that normalise over the channels, alone or with other axes, and hold weights for each."""

    normalises = True
    may_lose = True
    weights: tuple[str, ...] = ()

    def walk(self, site, x):
        axis = site.layer.axis
        axes = [a % len(x.shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
        if x.axis not in axes:
            site.refuse(f"it normalises over axis {axis}, but the channels lie on axis {x.axis} of shape {x.shape}.",
                        f"Use axis={x.axis}.")  # fmt: skip
        x = site.normalise(x)
        for name in self.weights:
            site.weight(name, *[channel(x.units) if a == x.axis else None for a in axes])
        return x


@rules_for(layers.LayerNormalization)
class LayerNormalizationRule(NormalisingRule):
    weights, gated = ("gamma", "beta"), GatedLayerNormalization


@rules_for(layers.RMSNormalization)
class RMSNormalizationRule(NormalisingRule):
    weights, gated = ("scale",), GatedRMSNormalization


@rules_for(layers.UnitNormalization)
class UnitNormalizationRule(NormalisingRule):
    gated = GatedUnitNormalization
