"""How units are ranked, and which of them a budget allows.

How many units of each space stay is decided in one of two ways:

    selection   what is ranked
    "local"     shares: every space keeps the same share of its units
    "global"    units: all of the model in one order, by importance; a space that matters little becomes narrow

Both are ladders for `budgets.widths_within`, which takes as much as the budget allows. Between spaces, importances are
compared after `normalization`: as they are, "magnitude" would take all from the layers with small kernels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kmerge.batching import check_amount
from kmerge.checks import one_of, refuse, sentence
from kmerge.checks import seed as check_seed
from kmerge.costs import Budget, Ladder, WidthCosts, check_reachable, share_ladder, widths_within
from kmerge.errors import InvalidArgumentError
from kmerge.pruning.bounds import allowed_widths
from kmerge.pruning.criteria import Importance
from kmerge.pruning.importance import check_asked, checked_importance, importance_of
from kmerge.pruning.measured_budgets import Yardstick, choose_measured
from kmerge.pruning.unit_choice import UnitChoice
from kmerge.spaces import Trace
from kmerge.surgery import select_walked

SELECTIONS = ("local", "global")
# What makes importances of several spaces comparable.
NORMALIZATIONS = {
    "mean": lambda values: values / (np.mean(values) or 1.0),
    "max": lambda values: values / (np.max(values) or 1.0),
    "sum": lambda values: values / (np.sum(values) or 1.0),
    "range": lambda values: (values - np.min(values)) / (np.ptp(values) or 1.0),
    "standard": lambda values: (values - np.mean(values)) / (np.std(values) or 1.0),
}


@dataclass(frozen=True)
class Ranking:
    """How units are ranked, and between which widths: the arguments of `choose_units` but for model and budget."""

    importance: str | Importance | Mapping[str, np.ndarray]
    selection: str
    normalization: str | None
    bounds: dict
    data: object
    batch_size: int
    steps: int | None
    seed: int
    yardstick: Yardstick | None = None  # of budgets that are measured: that of an earlier model

    def __post_init__(self):
        one_of("selection", self.selection, SELECTIONS)
        one_of("normalization", self.normalization, (*NORMALIZATIONS, "auto", None))
        check_amount(self.batch_size, self.steps)
        check_seed("seed", self.seed)
        if isinstance(self.importance, str) and self.importance == "gates":
            do = (
                "A gated model is cut by kmerge.compress. To prune the model without gates by theirs, pass "
                "importance=kmerge.unit_importance(gated, 'gates')."
            )
            refuse("importance", "that of a model without gates", self.importance, do)

    def choice(self, walked: Trace, arrays: Mapping[int, np.ndarray], budget: Budget) -> UnitChoice:
        """The units that a budget allows."""
        costs, widths = WidthCosts(walked), allowed_widths(walked.spaces, **self.bounds)
        least = {name: least for name, (least, *_) in widths.items()}
        build = partial(select_walked, walked, arrays)
        if not budget.measured():
            check_reachable(costs, costs.limits(budget), least)
        found = self._importance(walked, arrays)
        _check_ranked(widths, found, walked)
        choose = partial(self._within, costs, widths, found)
        if not budget.measured():
            return choose(budget)
        least = {name: width for name, width in least.items() if name in found}
        return choose_measured(budget, costs, choose, build, least, self.yardstick)

    def _within(self, costs: WidthCosts, widths: Mapping, found: Mapping[str, np.ndarray], budget: Budget) -> UnitChoice:
        """The most important units that a budget of counted costs allows."""
        limits = costs.limits(budget)
        ladders = {
            name: _ladder(values, widths[name])
            if self.selection == "global"
            else share_ladder(len(values), widths[name])
            for name, values in found.items()
        }
        chosen = widths_within(costs, budget, ladders, even=self.selection == "local")
        keep = {name: best_units(found[name], width) for name, width in chosen.items()}
        spent = {name: (getattr(costs, name)({}), getattr(costs, name)(chosen), limit) for name, limit in limits.items()}
        return UnitChoice(keep, {name: len(found[name]) for name in keep}, spent)

    def _importance(self, walked: Trace, arrays: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
        given = isinstance(self.importance, Mapping)
        if given and self.data is not None:
            do = "Only 'taylor' and 'hessian' read data."
            refuse("data", "None, as the importance of units is given", type(self.data).__name__, do)
        if given:
            found = checked_importance(self.importance, walked.spaces)
        else:
            check_asked(self.importance, self.data)
            found = importance_of(walked, arrays, self.importance, self.data, self.batch_size, self.steps, self.seed)
        how = self.normalization
        if how == "auto":
            how = None if given or callable(self.importance) or self.importance == "lamp" else "mean"
        if how is None or self.selection == "local":
            return found
        return {name: NORMALIZATIONS[how](values) for name, values in found.items()}


def _check_ranked(widths: Mapping[str, list[int]], found: Mapping[str, np.ndarray], walked: Trace) -> None:
    """Refuses spaces that must become narrower but whose units have no importance."""
    missing = [name for name, (*_, most) in widths.items() if name not in found and most < walked.spaces[name].size]
    if missing:
        do = "It has none there. Leave them out of maximum, or take another importance."
        refuse("importance", "of all spaces that a maximum makes narrower", missing, do)


def checked_budget(budget: float | Budget) -> Budget:
    """A budget; of a float, that of the parameters. Raises `InvalidArgumentError` for what is none, or above the whole."""
    if isinstance(budget, (float, np.floating)):
        budget = Budget(parameters=budget)
    if not isinstance(budget, Budget):
        what = (
            "a share of the parameters (a float above 0 and at most 1) or a kmerge.Budget, such as "
            "kmerge.Budget(multiply_accumulates=0.5)"
        )
        refuse("budget", what, budget)
    above = {name: share for name, share in budget.shares().items() if share > 1}
    if above:
        raise InvalidArgumentError(sentence("shares of the model's costs above 0 and at most 1", above))
    return budget


def _ladder(importance: np.ndarray, widths: Sequence[int]) -> Ladder:
    """A width is worth the mean importance of the units that it adds."""
    descending = -np.sort(-importance)
    added = [descending[low:high] for low, high in zip([0, *widths], widths, strict=False)]
    return [(width, float(np.mean(units))) for width, units in zip(widths, added, strict=True)]


def best_units(importance: np.ndarray, count: int) -> np.ndarray:
    """Ascending indices of the `count` most important units; of equally important ones, the first."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])
