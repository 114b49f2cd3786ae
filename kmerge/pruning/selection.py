"""Structured pruning of one model: the most important units that a budget allows.

    small = kmerge.prune(model, "magnitude", budget=0.5)              half of the parameters

The importance of units says which of a space go first. How many of each space stay is decided in one of two ways:

    selection   what is ranked
    "local"     shares: every space keeps the same share of its units
    "global"    units: all of the model in one order, by importance; a space that matters little becomes narrow

Both are ladders for `budgets.widths_within`, which takes as much as the budget allows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.checks import one_of, refuse, sentence, whole_number
from kmerge.costs import Budget, Ladder, WidthCosts, check_reachable, share_ladder, units_of, widths_within
from kmerge.errors import InvalidArgumentError
from kmerge.pruning.importance import unit_importance
from kmerge.spaces import ChannelSpace, check_selectable, trace
from kmerge.surgery import by_space, select

SELECTIONS = ("local", "global")


class UnitChoice(dict):
    """The units to keep of each space: ascending indices by its name, as `select` takes them. Prints as a table.

    Args:
        keep: the indices.
        sizes: units of each of these spaces.
        costs: for each measure that was limited: cost of the whole model, of the chosen one, and the limit.
    """

    def __init__(
        self, keep: Mapping[str, np.ndarray], sizes: Mapping[str, int], costs: Mapping[str, tuple[int, int, int]]
    ):
        super().__init__(keep)
        self.sizes = dict(sizes)
        self.costs = dict(costs)

    def __str__(self) -> str:
        lines = [f"{'space':40} {'units':>6} {'kept':>6}"]
        lines += [f"{name:40} {self.sizes[name]:6} {len(units):6}" for name, units in self.items()]
        for measure, (before, after, limit) in self.costs.items():
            lines.append(f"{measure}: {before:,} -> {after:,}, {after / limit:.2%} of the {limit:,} allowed")
        return "\n".join(lines)


def choose_units(
    model: keras.Model,
    importance: str | Mapping[str, np.ndarray] = "magnitude",
    *,
    budget: float | Budget,
    selection: str = "local",
    multiple: int = 1,
    minimum: int | float = 1,
    data: Any = None,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
) -> UnitChoice:
    """Chooses the units that `prune` keeps, without building anything: look at it, or change it, before you cut.

    Args:
        model: a Functional or Sequential model.
        importance: one of those of `unit_importance` other than "gates", by its name; or importance of your own: by name of
            a space an array of shape `(units,)`. Spaces that are not named stay whole.
        budget: a `Budget`; a float is a share of the parameters.
        selection: "local" keeps the same share of every space, up to rounding. "global" ranks all units by importance,
            divided by its mean in the space; importance of your own is taken as it is.
        multiple: widths are multiples of it, as devices like them, or a space's whole width.
        minimum: of each space, at least this number of units (an int) or share of them (a float) stays; at least one.
        data: for "taylor": whatever `model.evaluate` takes, see `unit_importance`.
        batch_size: for "taylor": examples per gradient, where the data is arrays.
        steps: for "taylor": the most batches to take.
        seed: for "random".

    Returns:
        A `UnitChoice`, never above the budget. With "global", in no space would one unit more (`multiple` more) fit.
        With "local" it is the largest equal share, rounded up in the spaces where that fits.

    Raises:
        InvalidArgumentError: for a model without selectable spaces; an unknown importance or selection; importance that does
            not fit the model or is not finite; a budget out of range or out of reach; whatever `unit_importance` raises.
        UnsupportedLayerError: names a layer whose channels cannot be followed.

    Warns:
        UserWarning: if the budget limits multiply-accumulates, names layers and operations of which these are not known.

    Reference:
        The mean as normalizer of global rankings: Fang et al., DepGraph, CVPR 2023.
    """
    budget = _checked(importance, budget, selection, multiple)
    walked = trace(model)
    check_selectable(walked)
    costs = WidthCosts(walked)
    limits = costs.limits(budget)
    widths = {space.name: _widths(space, multiple, minimum) for space in walked.spaces.selectable}
    check_reachable(costs, limits, {name: least for name, (least, *_) in widths.items()})
    if isinstance(importance, Mapping):
        found = _checked_importance(by_space(walked.spaces, importance), data, walked.spaces)
    else:
        found = unit_importance(model, importance, data, batch_size=batch_size, steps=steps, seed=seed)
        found = {name: values / (np.mean(values) or 1.0) for name, values in found.items()}
    ladders = {
        name: _ladder(values, widths[name]) if selection == "global" else share_ladder(len(values), widths[name])
        for name, values in found.items()
    }
    chosen = widths_within(costs, budget, ladders, even=selection == "local")
    keep = {name: best_units(found[name], width) for name, width in chosen.items()}
    spent = {name: (getattr(costs, name)({}), getattr(costs, name)(chosen), limit) for name, limit in limits.items()}
    return UnitChoice(keep, {name: len(found[name]) for name in keep}, spent)


def prune(
    model: keras.Model,
    importance: str | Mapping[str, np.ndarray] = "magnitude",
    *,
    budget: float | Budget,
    selection: str = "local",
    multiple: int = 1,
    minimum: int | float = 1,
    data: Any = None,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
) -> keras.Model:
    """Removes the least important units of a model: `select(model, choose_units(model, ...))`.

    The result is smaller, not only sparser, and has to be fine-tuned. Pruning by learned gates is
    `compress(trained(gate(model, width)))`.

    Args:
        model: a Functional or Sequential model.
        importance: as for `choose_units`.
        budget: as for `choose_units`.
        selection: as for `choose_units`.
        multiple: as for `choose_units`.
        minimum: as for `choose_units`.
        data: as for `choose_units`.
        batch_size: as for `choose_units`.
        steps: as for `choose_units`.
        seed: as for `choose_units`.

    Returns:
        A plain, uncompiled `keras.Model`, the largest that the ranking gives within the budget.

    Raises:
        InvalidArgumentError, UnsupportedLayerError: as `choose_units`.
    """
    choice = choose_units(
        model,
        importance,
        budget=budget,
        selection=selection,
        multiple=multiple,
        minimum=minimum,
        data=data,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
    )
    return select(model, choice)


def _checked(importance, budget: float | Budget, selection: str, multiple: int) -> Budget:
    one_of("selection", selection, SELECTIONS)
    whole_number("multiple", multiple)
    if isinstance(importance, str) and importance == "gates":
        do = (
            "A gated model is cut by kmerge.compress. To prune the model without gates by theirs, pass "
            "importance=kmerge.unit_importance(gated, 'gates')."
        )
        refuse("importance", "that of a model without gates", importance, do)
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


def _widths(space: ChannelSpace, multiple: int, minimum: int | float) -> list[int]:
    """The widths a space may have: multiples from the minimum on, and the whole."""
    if isinstance(minimum, (float, np.floating)) and 0 < minimum <= 1:
        least = units_of(space, minimum)
    elif isinstance(minimum, (int, np.integer)) and not isinstance(minimum, bool) and minimum >= 1:
        least = int(minimum)
    else:
        refuse("minimum", "a number of units from 1 on (an int) or a share of them in (0, 1] (a float)", minimum)
    return [*range(-(-least // multiple) * multiple, space.size, multiple), space.size]


def _checked_importance(importance: Mapping, data, spaces: Mapping[str, ChannelSpace]) -> dict[str, np.ndarray]:
    if data is not None:
        do = "Only importance='taylor' reads data."
        refuse("data", "None, as the importance of units is given", type(data).__name__, do)
    if not importance:
        raise InvalidArgumentError(sentence("importance for at least one space", importance))
    checked = {}
    for name, values in importance.items():
        checked[name] = np.asarray(values, "float64")
        if checked[name].shape != (spaces[name].size,) or not np.isfinite(checked[name]).all():
            what = f"importance to be finite numbers of shape ({spaces[name].size},)"
            raise InvalidArgumentError(sentence(what, values, of=f"Space {name!r}"))
    return checked


def _ladder(importance: np.ndarray, widths: Sequence[int]) -> Ladder:
    """A width is worth the mean importance of the units that it adds."""
    descending = -np.sort(-importance)
    added = [descending[low:high] for low, high in zip([0, *widths], widths, strict=False)]
    return [(width, float(np.mean(units))) for width, units in zip(widths, added, strict=True)]


def best_units(importance: np.ndarray, count: int) -> np.ndarray:
    """Ascending indices of the `count` most important units; of equally important ones, the first."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])
