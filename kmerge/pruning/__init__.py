"""The importance of units, and which of them a budget allows."""

from kmerge.pruning.importance import IMPORTANCES, unit_importance
from kmerge.pruning.selection import UnitChoice, best_units, choose_units, prune

__all__ = [
    "IMPORTANCES",
    "UnitChoice",
    "best_units",
    "choose_units",
    "prune",
    "unit_importance",
]
