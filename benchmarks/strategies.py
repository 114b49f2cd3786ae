"""Strategies by name. Names can be listed without importing Keras; getting a strategy imports what it needs."""

import importlib
from collections.abc import Iterator, Mapping

from baselines.strategy import Strategy


class _Strategies(Mapping[str, Strategy]):
    """A mapping whose values are imported when they are asked for."""

    def __init__(self, sources: dict[str, tuple[str, str, dict]]):
        self._sources = sources

    def __getitem__(self, name: str) -> Strategy:
        module, attribute, settings = self._sources[name]
        found = getattr(importlib.import_module(module), attribute)
        return found(**settings) if isinstance(found, type) else found

    def __contains__(self, name: object) -> bool:  # Mapping's own would get the value, and so import it.
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


_L0_MERGE = ("benchmarks.l0_merging", "L0Merge")
_FUSION = ("baselines.model_fusion", "Fusion")

STRATEGIES = _Strategies(
    {
        "l0_merge": (*_L0_MERGE, {}),
        "l0_merge_paper": (*_L0_MERGE, {"control": "paper"}),
        "l0_merge_lagrangian": (*_L0_MERGE, {"control": "lagrangian"}),
        "l0_merge_fade": (*_L0_MERGE, {"control": "fade"}),
        "l0_merge_batch": (*_L0_MERGE, {"sampling": "batch"}),
        "l0_merge_early": (*_L0_MERGE, {"control": "fade", "patience": 1}),
        "l0_merge_paper_early": (*_L0_MERGE, {"control": "paper", "patience": 5}),
        "l0_merge_compensated": (*_L0_MERGE, {"compensate": True}),
        "fusion_average": (*_FUSION, {"matching": None}),
        "fusion_weight_matching": (*_FUSION, {"matching": "weights"}),
        "fusion_activation_matching": (*_FUSION, {"matching": "activations"}),
        "fusion_ot": (*_FUSION, {"matching": "transport"}),
        "fusion_ot_sinkhorn": (*_FUSION, {"matching": "sinkhorn"}),
        "magnitude_merge": ("baselines.neuron_transplantation", "magnitude_merge", {}),
        "one_model": ("baselines.single_model", "one_model", {}),
        "one_model_equal_compute": ("benchmarks.l0_merging", "one_model_equal_compute", {}),
        "best_of_three": ("baselines.single_model", "best_of_three", {}),
    }
)
