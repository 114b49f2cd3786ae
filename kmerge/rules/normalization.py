"""Rules for layers that normalize: per channel, in groups of channels, or over all of them.

A layer that normalizes over units mixes what its units say of mean and variance. So what is left of a cut changes, unless
what is left are all units of one source, normalized by a layer of their own: as `concatenate` builds it.
"""

from keras import layers

from kmerge.gates import GatedLayerNormalization, GatedRMSNormalization, GatedUnitNormalization
from kmerge.rules.labels import Labels
from kmerge.rules.passing import per_unit
from kmerge.rules.rule import Rule, channel, pass_apart, rules_for
from kmerge.rules.site import Site


def axes_of(site: Site, x: Labels) -> list[int]:
    """The axes that a layer works on, counted from the front."""
    axis = site.layer.axis
    return [a % len(x.shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]


def require_axis(site: Site, x: Labels) -> None:
    """Refuses a normalization over an axis on which the channels do not lie."""
    if axes_of(site, x) != [x.axis]:
        site.refuse(f"it works on axis {site.layer.axis}, but the channels lie on axis {x.axis} of shape {x.shape}.",
                    f"Use axis={x.axis}.")  # fmt: skip


@rules_for(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    def walk(self, site, x):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        if axes_of(site, x) != [x.axis]:
            return pass_apart(site, x, *names)
        x = site.hold(x)
        for name in names:
            site.weight(name, channel(x.units))
        return x


@rules_for(layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """A group is normalized as a whole, so it is one unit: groups can be kept or dropped, exactly."""

    def walk(self, site, x):
        require_axis(site, x)
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
        if x.axis not in axes_of(site, x):  # as with axis=None, which holds one mean for all channels
            return pass_apart(site, x, "adapt_mean", "adapt_variance", "count")
        require_axis(site, x)
        if layer.input_mean is None:
            x = site.hold(x)
            site.weight("adapt_mean", channel(x.units))
            site.weight("adapt_variance", channel(x.units))
            site.weight("count")
        return x

    def changes(self, site, inputs, outputs):
        if inputs[0].axis not in axes_of(site, inputs[0]):
            return {}
        config = site.layer.get_config()
        return {name: listed for name, new in (("mean", 0.0), ("variance", 1.0))
                if (listed := per_unit(site, config[name], new)) is not None}  # fmt: skip


class NormalisingRule(Rule):
    """Layers that normalize over the channels, alone or with other axes, and hold weights for each."""

    may_lose = True
    weights: tuple[str, ...] = ()

    def walk(self, site, x):
        axes = axes_of(site, x)
        if x.axis not in axes:
            x = pass_apart(site, x, *self.weights)
            site.curve(x)
            return x
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

    def walk(self, site, x):
        axes, rank = axes_of(site, x), len(x.shape)
        if sorted(axes) != list(range(rank - len(axes), rank)):  # Keras does not bring the scale to the axes
            site.refuse(f"it normalizes over axis {site.layer.axis}, but its scale lies along the last axes.",
                        "Use axis=-1.")  # fmt: skip
        return super().walk(site, x)


@rules_for(layers.UnitNormalization)
class UnitNormalizationRule(NormalisingRule):
    gated = GatedUnitNormalization
