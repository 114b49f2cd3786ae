"""Rules for layers around a layer with a kernel."""

from typing import Any

from keras import layers

from kmerge.cloning import describe
from kmerge.rules.kernels import ConvRule, DenseRule
from kmerge.rules.labels import Axis
from kmerge.rules.rule import Rule, produces, rules_for
from kmerge.sameness import without_entries

_INNER = {layers.Dense: DenseRule, layers.Conv1D: ConvRule, layers.Conv2D: ConvRule, layers.Conv3D: ConvRule}


class _Inside:
    """The site of a wrapper, as the rule of the layer inside sees it."""

    def __init__(self, site: Any):
        self._site = site
        self.layer = site.layer.layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def weight(self, name: str, *axes: Axis | None) -> None:
        self._site.weight(f"layer/{name}", *axes)


@rules_for(layers.SpectralNormalization)
class SpectralNormalizationRule(Rule):
    """In inference it is the layer inside; in training it divides what is left of the kernel by its largest singular value."""

    def walk(self, site, x):
        layer = site.layer.layer
        rule = _INNER.get(type(layer))
        if rule is None or getattr(layer, "groups", 1) != 1:
            site.refuse("it divides a kernel whose last axis is not that of the channels that it makes.",
                        "Wrap Dense or a convolution without groups.")  # fmt: skip
        site.require_last_axis(x)
        out = rule().walk(_Inside(site), x)
        site.weight("vector_u", None, produces(out.units))
        return out

    def changes(self, site, inputs, outputs):
        layer = site.layer.layer
        saved = without_entries(describe(site.layer)[0]["layer"], ("build_config",))
        changes = _INNER[type(layer)]().changes(_Inside(site), inputs, outputs)
        return {"layer": saved | {"config": saved["config"] | changes}}
