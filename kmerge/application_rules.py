"""Rules for the layers that `keras.applications` defines for itself: they have no public classes, so names tell them."""

from kmerge.layer_rules import Rule, channel
from kmerge.shape_rules import combine


class CustomScaleRule(Rule):
    """InceptionResNetV2: `x + scale * h`, with a number as the scale."""

    def walk(self, site, *inputs):
        return combine(site, inputs)


class LayerScaleRule(Rule):
    """ConvNeXt: one factor for each channel."""

    def walk(self, site, x):
        site.require_last_axis(x)
        x = site.hold(x)
        site.weight("gamma", channel(x.units))
        return x

    def changes(self, site, inputs, outputs):
        return {"projection_dim": len(outputs[0].units)}


class StochasticDepthRule(Rule):
    """ConvNeXt with drop_path_rate: leaves out whole examples while it trains."""

    def walk(self, site, x):
        return x


APPLICATION_RULES: dict[str, Rule] = {
    "CustomScaleLayer": CustomScaleRule(),
    "LayerScale": LayerScaleRule(),
    "StochasticDepth": StochasticDepthRule(),
}
