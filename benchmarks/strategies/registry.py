"""Strategies by name. Names can be listed without importing Keras; getting a strategy imports what it needs."""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path

from baselines.protocol.strategy import Strategy
from benchmarks.own_code import imported, is_reference


class _Strategies(Mapping[str, Strategy]):
    """A mapping whose values are imported when they are asked for."""

    def __init__(self, sources: dict[str, tuple[str, str, dict]]):
        self._sources = sources

    def __getitem__(self, name: str) -> Strategy:
        module, attribute, settings = self._sources[name]
        found = getattr(importlib.import_module(module), attribute)
        return found(**settings) if isinstance(found, type) else found

    def source(self, name: str) -> tuple[str, str, dict]:
        """(module, name in it, settings) of a strategy, which is not imported."""
        return self._sources[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own would get the value, and so import it.
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


_L0_MERGE = ("benchmarks.strategies.l0_merging", "L0Merge")
_L0_MANY = ("benchmarks.strategies.l0_merging", "L0MergeMany")
_DISTILLATION = ("baselines.distillation.distillation", "Distillation")
_TRANSPLANTATION = ("baselines.merging.neuron_transplantation", "MagnitudeMerge")
_CHANNEL_PRUNING = ("baselines.pruning.channel_pruning", "ChannelPruning")
_WEIGHT_PRUNING = ("baselines.pruning.weight_pruning", "WeightPruning")
_FUSION = ("baselines.fusion.model_fusion", "Fusion")
_AUTO_SIZING = ("baselines.sizing.auto_sizing", "AutoSizing")
_FOUND = {"start": "found"}
_FIXED = {**_FOUND, "grow": False, "prune": "never"}

# Rows of the auto-sizing paper and our variants; all need the settings of auto-sizing.
_VARIANTS = {
    "auto_sizing": {},
    "auto_sizing_paper": {"optimizer_state": "restart"},
    "auto_sizing_paper_net": {"paper_net": True},
    "auto_sizing_l21": {"penalty": "l21"},
    "auto_sizing_linf1": {"penalty": "linf1"},
    "auto_sizing_prune_at_end": {"penalty": "l21", "grow": False, "prune": "end"},
    # The factors on alpha bring the penalty of each to the scale of the suites' strengths.
    "auto_sizing_proximal": {"proximal": True, "factor": 1000.0},
    "auto_sizing_adaptive": {"growth": "adaptive"},
    "auto_sizing_fan_in": {"normalize": "fan_in", "factor": 1500.0},
    "auto_sizing_no_growth": {**_FOUND, "grow": False},
    "auto_sizing_no_growth_no_finetuning": {**_FOUND, "grow": False, "finetune": False},
    "static_weighted_l1_finetuned": _FIXED,
    "static_weighted_l1": {**_FIXED, "finetune": False},
    "static_l1": {**_FIXED, "penalty": "l1", "finetune": False},
}
_SIZING = {
    **{name: (*_AUTO_SIZING, {"name": name, **settings}) for name, settings in _VARIANTS.items()},
    **{name: ("baselines.sizing.static_sizing", name, {}) for name in ("static_a", "static_b", "static_adam_restart")},
}
SIZING = frozenset(_SIZING)

# Merging before annealing: only these depend on the suite's split of the budget.
_EARLY = {
    # Fade, as the paper's pressure was made for long phases.
    "l0_merge_before_annealing": (*_L0_MERGE, {"control": "fade", "early": True}),
    "magnitude_merge_before_annealing": (*_TRANSPLANTATION, {"early": True}),
}
EARLY = frozenset(_EARLY)

STRATEGIES = _Strategies(
    {
        "l0_merge": (*_L0_MERGE, {}),
        "l0_merge_three": (*_L0_MANY, {"networks": 3}),
        "l0_merge_four": (*_L0_MANY, {"networks": 4}),
        "l0_merge_four_hierarchical": (*_L0_MANY, {"networks": 4, "hierarchical": True}),
        "l0_merge_paper": (*_L0_MERGE, {"control": "paper"}),
        "l0_merge_lagrangian": (*_L0_MERGE, {"control": "lagrangian"}),
        "l0_merge_fade": (*_L0_MERGE, {"control": "fade"}),
        "l0_merge_batch": (*_L0_MERGE, {"sampling": "batch"}),
        "l0_merge_early": (*_L0_MERGE, {"control": "fade", "patience": 1}),
        "l0_merge_paper_early": (*_L0_MERGE, {"control": "paper", "patience": 5}),
        "l0_merge_compensated": (*_L0_MERGE, {"compensate": True}),
        "l0_merge_paper_constant": (*_L0_MERGE, {"control": "paper", "constant": True}),
        "l0_merge_paper_beta": (*_L0_MERGE, {"control": "paper", "learned_beta": True}),
        "l0_merge_decayed_gates": (*_L0_MERGE, {"control": "paper", "decayed": True}),
        "l0_merge_paper_unlinked": (*_L0_MERGE, {"control": "paper", "sampling": "example", "arrangement": "unlinked"}),
        "l0_merge_paper_before_norm": (*_L0_MERGE, {"control": "paper", "arrangement": "before_norm"}),
        "aligned_merge": (*_L0_MERGE, {"merged_above": 0.5}),
        "greedy_merge": ("baselines.merging.greedy_merging", "greedy_merge", {}),
        "no_gate_phase": ("benchmarks.strategies.l0_merging", "no_gate_phase", {}),
        "magnitude_merge": (*_TRANSPLANTATION, {}),
        "magnitude_merge_wide": (*_TRANSPLANTATION, {"wide": True}),
        "magnitude_merge_four": (*_TRANSPLANTATION, {"networks": 4}),
        "magnitude_merge_four_hierarchical": (*_TRANSPLANTATION, {"networks": 4, "hierarchical": True}),
        **_EARLY,
        "random_merge": (*_TRANSPLANTATION, {"importance": "random"}),
        "taylor_merge": (*_TRANSPLANTATION, {"importance": "taylor"}),
        "fusion_average": (*_FUSION, {"matching": None}),
        "fusion_weight_matching": (*_FUSION, {"matching": "weights"}),
        "fusion_activation_matching": (*_FUSION, {"matching": "activations"}),
        "fusion_ot": (*_FUSION, {"matching": "transport"}),
        "fusion_ot_sinkhorn": (*_FUSION, {"matching": "sinkhorn"}),
        "fusion_gamf": (*_FUSION, {"matching": "graphs"}),
        "one_model": ("baselines.single.single_model", "one_model", {}),
        "one_model_all_data": ("baselines.single.single_model", "one_model_all_data", {}),
        "one_model_equal_compute": ("benchmarks.strategies.l0_merging", "one_model_equal_compute", {}),
        "restart": ("baselines.single.restarts", "restart", {}),
        "restart_whole": ("baselines.single.restarts", "restart_whole", {}),
        "best_of_three": ("baselines.single.single_model", "best_of_three", {}),
        "one_big_model": ("baselines.single.single_model", "one_big_model", {}),
        "best_of_three_big": ("baselines.single.single_model", "best_of_three_big", {}),
        "ensemble": ("baselines.single.single_model", "ensemble", {}),
        "channel_pruning": (*_CHANNEL_PRUNING, {}),
        "channel_pruning_global": (*_CHANNEL_PRUNING, {"to": "global"}),
        "channel_pruning_l1": (*_CHANNEL_PRUNING, {"importance": "magnitude_l1"}),
        "channel_pruning_bn": (*_CHANNEL_PRUNING, {"importance": "bn_scale"}),
        "channel_pruning_random": (*_CHANNEL_PRUNING, {"importance": "random"}),
        "channel_pruning_fpgm": (*_CHANNEL_PRUNING, {"importance": "fpgm"}),
        "weight_pruning_random": (*_WEIGHT_PRUNING, {"method": "random"}),
        "weight_pruning_uniform": (*_WEIGHT_PRUNING, {"method": "class_uniform"}),
        "weight_pruning_blind": (*_WEIGHT_PRUNING, {"method": "class_blind"}),
        "distil_two": (*_DISTILLATION, {}),
        "distil_two_outputs": (*_DISTILLATION, {"label_weight": 0.0}),
        "distil_two_features": (*_DISTILLATION, {"feature_weight": 1.0}),
        "distil_big": (*_DISTILLATION, {"big_teacher": True}),
        "distil_big_outputs": (*_DISTILLATION, {"big_teacher": True, "label_weight": 0.0}),
        "distil_prune": ("baselines.distillation.distilled_pruning", "DistilledPruning", {}),
        **_SIZING,
    }
)

# What packages that are installed call their strategies in their `entry_points`.
GROUP = "kmerge_strategies"


@functools.cache
def installed() -> dict[str, str]:
    """Strategies of packages that are installed, `module:function` by name; none that has the name of one of ours."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point.value for point in points if point.name not in STRATEGIES and is_reference(point.value)}


def own_source(name: str) -> str | None:
    """The `module:function` of a strategy that is none of ours: its name, or what a package says of it; None for others."""
    if name in STRATEGIES:
        return None
    return name if is_reference(name) else installed().get(name)


def strategy_named(name: str, folder: Path) -> Strategy:
    """A strategy, ours or not; see `STRATEGIES`.

    Args:
        name: one of `STRATEGIES`, of `installed`, or `module:function`.
        folder: where such a module may also be.

    Raises:
        KeyError: if there is no such strategy.
        OwnCodeError: if its code is not there.
    """
    source = own_source(name)
    if source is None:
        return STRATEGIES[name]
    found = imported(source, folder)
    return found() if isinstance(found, type) else found
