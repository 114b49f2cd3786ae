"""Structured pruning of one model: the most important units that a budget allows.

    small = kmerge.prune(model, "magnitude", budget=0.5)              half of the parameters

The importance of units says which of a space go first, `ranking.py` how many of each space stay.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from kmerge.checks import flag, refuse
from kmerge.compiling import training_of
from kmerge.costs import Budget
from kmerge.pruning.bounds import Bound
from kmerge.pruning.compensating import compensated
from kmerge.pruning.criteria import MEASURED, Importance
from kmerge.pruning.ranking import Ranking, checked_budget
from kmerge.pruning.unit_choice import UnitChoice
from kmerge.spaces import check_selectable, trace
from kmerge.surgery import check_finite, for_surgery, select_walked


def choose_units(
    model: keras.Model,
    importance: str | Importance | Mapping[str, np.ndarray] = "magnitude",
    *,
    budget: float | Budget,
    selection: str = "local",
    normalization: str | None = "auto",
    multiple: int = 1,
    minimum: Bound = 1,
    maximum: Bound | None = None,
    exclude: Iterable[str] = (),
    data: Any = None,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
) -> UnitChoice:
    """Chooses the units that `prune` keeps, without building anything: look at it, or change it, before you cut.

    Args:
        model: a Functional or Sequential model.
        importance: name of an importance, one of those of `unit_importance` other than "gates"; a function, as
            `register_importance` takes it; or a mapping of your own from names of spaces to arrays of shape `(units,)`.
            Spaces that are not named stay whole.
        budget: a `Budget`; a float is a share of the parameters.
        selection: "local" keeps the same share of every space, up to rounding. "global" ranks all units by importance.
        normalization: way in which "global" makes importances of several spaces comparable. "mean", "max" and "sum" divide
            by that of the space; "range" brings them to 0 to 1, "standard" to mean 0 and deviation 1; None takes them as
            they are. "auto" is None for "lamp" and importance of your own, and "mean" for all others.
        multiple: widths are multiples of it, as devices like them, or a space's whole width.
        minimum: number of units (an int) or share of them (a float) that stays at least, of each space; at least one.
            For some, by name of a space or of a layer that makes it: `{"conv1": 16, "dense": 0.5}`.
        maximum: the most that stays, in the same ways.
        exclude: names of spaces, or of layers that make them, that stay whole.
        data: examples for "taylor" and "hessian": whatever `model.evaluate` takes, see `unit_importance`.
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches of the data to take; None for all.
        seed: seed of "random".

    Returns:
        A `UnitChoice`, never above the budget. With "global", in no space would one unit more (`multiple` more) fit.
        With "local" it is the largest equal share, rounded up in the spaces where that fits.

    Raises:
        InvalidArgumentError: for a model without selectable spaces; an unknown importance or selection; importance that does
            not fit the model or is not finite; a bound or a name in it that does not fit; a budget out of range or out of
            reach; whatever `unit_importance` raises.
        UnsupportedLayerError: names a layer whose channels cannot be followed.

    Warns:
        UserWarning: if the budget limits multiply-accumulates, names layers and operations of which these are not known.

    Example:
        >>> choice = kmerge.choose_units(model, budget=0.7, selection="global", minimum={"first": 4})
        >>> len(choice["first"]) >= 4
        True

    Reference:
        The mean as normalizer of global rankings, and other ones: Fang et al., DepGraph, CVPR 2023.
    """
    bounds = {"multiple": multiple, "minimum": minimum, "maximum": maximum, "exclude": exclude}
    ranking = Ranking(importance, selection, normalization, bounds, data, batch_size, steps, seed)
    budget = checked_budget(budget)
    walked = trace(model)
    check_selectable(walked)
    return ranking.choice(walked, check_finite(walked.model), budget)


def prune(
    model: keras.Model,
    importance: str | Importance | Mapping[str, np.ndarray] = "magnitude",
    *,
    budget: float | Budget,
    selection: str = "local",
    normalization: str | None = "auto",
    multiple: int = 1,
    minimum: Bound = 1,
    maximum: Bound | None = None,
    exclude: Iterable[str] = (),
    data: Any = None,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
    compile: bool = False,
    compensate: bool = False,
) -> keras.Model:
    """Removes the least important units of a model: `select(model, choose_units(model, ...))`.

    The result is smaller, not only sparser, and has to be fine-tuned. Pruning by learned gates is
    `compress(trained(gate(model, width)))`.

    Args:
        model: a Functional or Sequential model.
        importance: name of an importance, one of those of `unit_importance` other than "gates"; a function, as
            `register_importance` takes it; or a mapping of your own from names of spaces to arrays of shape `(units,)`.
            Spaces that are not named stay whole.
        budget: a `Budget`; a float is a share of the parameters.
        selection: "local" keeps the same share of every space, up to rounding. "global" ranks all units by importance.
        normalization: way in which "global" makes importances of several spaces comparable. "mean", "max" and "sum" divide
            by that of the space; "range" brings them to 0 to 1, "standard" to mean 0 and deviation 1; None takes them as
            they are. "auto" is None for "lamp" and importance of your own, and "mean" for all others.
        multiple: widths are multiples of it, as devices like them, or a space's whole width.
        minimum: number of units (an int) or share of them (a float) that stays at least, of each space; at least one.
            For some, by name of a space or of a layer that makes it: `{"conv1": 16, "dense": 0.5}`.
        maximum: the most that stays, in the same ways.
        exclude: names of spaces, or of layers that make them, that stay whole.
        data: examples for "taylor" and "hessian": whatever `model.evaluate` takes, see `unit_importance`; with
            `compensate=True` also, or only, to compensate on, for which inputs are enough.
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches of the data to take; None for all.
        seed: seed of "random".
        compile: whether the new model is compiled as this one is, with the same losses, new metrics and a new optimizer
            of the same configuration.
        compensate: whether each Dense and convolution layer that loses inputs is corrected for them, by least squares on
            the activations of these data: where the model can be trained no more, it is most of what can be done.

    Returns:
        A plain `keras.Model`, uncompiled unless `compile=True`, the largest that the ranking gives within the budget.

    Raises:
        InvalidArgumentError, UnsupportedLayerError: as `choose_units`; with `compile=True` as `select`, with
            `compensate=True` as `gate`.

    Example:
        >>> small = kmerge.prune(model, budget=0.7, exclude=["first"])
        >>> small.get_layer("first").units, kmerge.parameters(small) <= 0.7 * kmerge.parameters(model)
        (6, True)
        >>> repaired = kmerge.prune(model, budget=0.7, data=x, compensate=True)
    """
    bounds = {"multiple": multiple, "minimum": minimum, "maximum": maximum, "exclude": exclude}
    ranked_on, examples = divided(data, importance, compensate)
    ranking = Ranking(importance, selection, normalization, bounds, ranked_on, batch_size, steps, seed)
    budget = checked_budget(budget)
    training = training_of(model) if flag("compile", compile) else {}
    _, small = cut(model, ranking, budget, examples)
    if training:
        small.compile(**training)
    return small


def cut(model: keras.Model, ranking: Ranking, budget: Budget, examples: object = None) -> tuple[UnitChoice, keras.Model]:
    """The units that a budget allows, and the uncompiled model of these; with examples, what goes is compensated for."""
    (model,) = for_surgery([model])
    walked = trace(model)
    check_selectable(walked)
    arrays = check_finite(walked.model)
    choice = ranking.choice(walked, arrays, budget)
    if examples is not None:
        return choice, compensated(model, choice, examples, ranking.batch_size, ranking.steps)
    return choice, select_walked(walked, arrays, choice)


def divided(data: object, importance: object, compensate: bool) -> tuple[object, object]:
    """Of the data of `prune`, what units are ranked on and what is compensated on; refuses to compensate without any."""
    if not flag("compensate", compensate):
        return data, None
    if data is None:
        refuse("data", "inputs of the model, to compensate on", None, "Pass data=x, or data=(x, y).")
    return (data if isinstance(importance, str) and importance in MEASURED else None), data
