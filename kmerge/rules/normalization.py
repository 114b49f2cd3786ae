"""Rules for layers that normalize: per channel, in groups of channels, or over all of them.

A layer that normalizes over units mixes what its units say of mean and variance. So what is left of a cut changes, unless
what is left are all units of one source, normalized by a layer of their own: as `concatenate` builds it.
"""

from collections.abc import Sequence

from keras import layers

from kmerge.gates import GatedLayerNormalization, GatedRMSNormalization, GatedUnitNormalization
from kmerge.rules.labels import Labels
from kmerge.rules.passing import per_unit
from kmerge.rules.rule import Rule, channel, rules_for
from kmerge.rules.site import Site


def require_axis(site: Site, axis: int | Sequence[int], x: Labels) -> None:
    """Refuses a normalization over an axis on which the channels do not lie."""
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
    """A group is normalized as a whole, so it is one unit: groups can be kept or dropped, exactly."""

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
        config = site.layer.get_config()
        return {name: listed for name, new in (("mean", 0.0), ("variance", 1.0))
                if (listed := per_unit(site, config[name], new)) is not None}  # fmt: skip


class NormalisingRule(Rule):
    """Layers that normalize over the channels, alone or with other axes, and hold weights for each."""

    normalizes = True
    may_lose = True
    weights: tuple[str, ...] = ()

    def walk(self, site, x):
        axis = site.layer.axis
        axes = [a % len(x.shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
        if x.axis not in axes:
            site.refuse(f"it normalizes over axis {axis}, but the channels lie on axis {x.axis} of shape {x.shape}.",
                        f"Use axis={x.axis}.")  # fmt: skip
        x = site.normalize(x)
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
