"""What a model costs, and the widths that keep its costs within a budget."""

from kmerge.costs.budgets import (
    MEASURED_COSTS,
    Budget,
    Ladder,
    WidthCosts,
    check_reachable,
    share_ladder,
    widths_within,
)
from kmerge.costs.counting import multiply_accumulates, parameters
from kmerge.costs.layer_products import multiplies_nothing
from kmerge.costs.measuring import latency, latency_beside, latency_with_noise, saved_bytes
from kmerge.costs.widths import target_widths, units_of

__all__ = [
    "Budget",
    "Ladder",
    "MEASURED_COSTS",
    "WidthCosts",
    "check_reachable",
    "latency",
    "latency_beside",
    "latency_with_noise",
    "multiplies_nothing",
    "multiply_accumulates",
    "parameters",
    "saved_bytes",
    "share_ladder",
    "target_widths",
    "units_of",
    "widths_within",
]
