"""The importance of units, and which of them a budget allows."""

from kmerge.pruning.bounds import Bound
from kmerge.pruning.criteria import IMPORTANCES, MEASURED, register_importance
from kmerge.pruning.importance import unit_importance
from kmerge.pruning.iterating import prune_iteratively
from kmerge.pruning.ranking import NORMALIZATIONS, best_units
from kmerge.pruning.selection import choose_units, prune
from kmerge.pruning.steps import IterativePruning, PruningSchedule, PruningStep
from kmerge.pruning.unit_choice import UnitChoice
from kmerge.pruning.unit_weights import UnitWeight, UnitWeights

__all__ = [
    "Bound",
    "IMPORTANCES",
    "IterativePruning",
    "MEASURED",
    "NORMALIZATIONS",
    "PruningSchedule",
    "PruningStep",
    "UnitChoice",
    "UnitWeight",
    "UnitWeights",
    "best_units",
    "choose_units",
    "prune",
    "prune_iteratively",
    "register_importance",
    "unit_importance",
]
