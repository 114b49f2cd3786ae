"""Pruning in several steps, with training after each: the model has got over what went early when more of it is chosen."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from kmerge.checks import flag, function, in_our_words, is_number, refuse
from kmerge.compiling import training_of
from kmerge.costs import Budget, WidthCosts, check_reachable
from kmerge.errors import KmergeError
from kmerge.pruning.bounds import Bound, allowed_widths, listed_names
from kmerge.pruning.criteria import Importance
from kmerge.pruning.measured_budgets import Yardstick, absolute_budget
from kmerge.pruning.ranking import Ranking, checked_budget
from kmerge.pruning.selection import cut, divided
from kmerge.pruning.steps import IterativePruning, PruningSchedule, PruningStep, StepFiles, digest_of
from kmerge.spaces import Trace, check_selectable, trace
from kmerge.surgery import select


def prune_iteratively(
    model: keras.Model,
    budget: float | Budget,
    *,
    train: Callable[[keras.Model], object],
    steps: int | PruningSchedule = 5,
    evaluate: Callable[[keras.Model], float | Mapping[str, float]] | None = None,
    folder: str | Path | None = None,
    importance: str | Importance = "magnitude",
    selection: str = "local",
    normalization: str | None = "auto",
    multiple: int = 1,
    minimum: Bound = 1,
    maximum: Bound | None = None,
    exclude: Iterable[str] = (),
    data: object = None,
    batch_size: int = 32,
    seed: int = 0,
    compile: bool = True,
    compensate: bool = False,
) -> IterativePruning:
    """Prunes a model in several steps and trains what is left after each.

    Budget and bounds are those of the first model, not of the step before. The model is not changed.

    Args:
        model: a Functional or Sequential model.
        budget: what the model may cost after the last step, as for `choose_units`.
        train: trains the model that it is given, in place; called once for each step.
        steps: number of steps, under the cubic `PruningSchedule`; or a schedule.
        evaluate: function that gives a number for a model, or several by name, for the report; called before and after
            each training.
        folder: folder in which each step is kept once it is done. A second call with the same arguments goes
            on behind the last one.
        importance: name of an importance, or a function, see `choose_units`; measured anew at each step.
        selection: "local" or "global", see `choose_units`.
        normalization: way in which importances of several spaces are made comparable, see `choose_units`.
        multiple: number of which widths are multiples, see `choose_units`.
        minimum: what stays at least, see `choose_units`.
        maximum: what stays at most, see `choose_units`; it holds from the first step on.
        exclude: names of spaces, or of layers that make them, that stay whole.
        data: examples for importances that read some, and for `compensate`, see `prune`; read at each step, so
            that a generator serves one step alone.
        batch_size: examples per gradient, see `choose_units`.
        seed: seed of "random".
        compile: whether the model of each step is compiled as the first one is, with a new optimizer of the same
            configuration; otherwise `train` compiles it.
        compensate: whether layers that lose inputs are corrected by least squares, see `prune`.

    Returns:
        An `IterativePruning`: the last model and what each step did; `print` shows it.

    Raises:
        InvalidArgumentError: as `prune`; for importance of units that is given as numbers; if `folder` is of another run.
        UnsupportedLayerError: names a layer whose channels cannot be followed.

    Example:
        >>> model.compile("sgd", loss)
        >>> def train(small):
        ...     kmerge.fit(small, x, y, epochs=1, verbose=0)
        >>> result = kmerge.prune_iteratively(model, budget=0.5, train=train, steps=2)
        >>> kmerge.parameters(result.model) <= 0.5 * kmerge.parameters(model)
        True
    """
    schedule = steps if isinstance(steps, PruningSchedule) else PruningSchedule(steps)
    if isinstance(importance, Mapping):
        do = "Units are ranked anew at each step. Pass a function of a kmerge.UnitWeights."
        refuse("importance", "a name or a function", type(importance).__name__, do)
    ranked_on, examples = divided(data, importance, compensate)
    bounds = {"multiple": multiple, "minimum": minimum, "maximum": maximum, "exclude": listed_names(exclude)}
    ranking = Ranking(importance, selection, normalization, bounds, ranked_on, batch_size, None, seed)
    function("train", train, "a function of a model")
    if evaluate is not None:
        function("evaluate", evaluate, "a function of a model or None")
    budget = checked_budget(budget)
    if flag("compile", compile):
        training_of(model)  # refuses before any work
    walked = trace(model)
    check_selectable(walked)
    widths = allowed_widths(walked.spaces, **bounds)
    run = {
        "model": "" if folder is None else digest_of(model),
        "budget": repr(budget),
        "schedule": repr(schedule),
        "importance": importance if isinstance(importance, str) else getattr(importance, "__qualname__", "a function"),
        "options": repr((selection, normalization, bounds, batch_size, seed, compensate)),
    }
    files = StepFiles(folder, run)
    return _Run(model, ranking, train, evaluate, compile, examples, files).through(walked, widths, budget, schedule)


@dataclass(frozen=True)
class _Run:
    """One run: the first model and the arguments of `prune_iteratively`."""

    first: keras.Model
    ranking: Ranking
    train: Callable[[keras.Model], object]
    evaluate: Callable[[keras.Model], float | Mapping[str, float]] | None
    compile: bool
    examples: object
    files: StepFiles

    def through(self, walked: Trace, widths: Mapping, budget: Budget, schedule: PruningSchedule) -> IterativePruning:
        """All steps, from the walk of the first model and the widths that its spaces may have."""
        yardstick = Yardstick(select(self.first, {}), budget.measured()) if budget.measured() else None
        least = {name: least for name, (least, *_) in widths.items()}
        whole, final = _costs(walked, budget, least, {} if yardstick is None else yardstick.whole)
        bounds = _absolute_bounds(walked, widths, self.ranking.bounds["multiple"])
        ranking = replace(self.ranking, bounds=bounds, yardstick=yardstick)
        model, steps = self.first, []
        for number, limits in enumerate(schedule.limits(whole, final), start=1):
            done = self.files.read(number, functools.partial(self._again, model))
            model, step = done or self._step(model, ranking, number, limits, whole)
            steps.append(step)
        return IterativePruning(model, tuple(steps))

    def _step(self, model: keras.Model, ranking: Ranking, number: int, limits: dict, whole: dict) -> tuple:
        choice, small = cut(model, ranking, Budget(**limits), self.examples)
        _check_spaces(model, small, number)
        small = self._compiled(small)
        after_cut = self._measured(small)
        with in_our_words("train to be a function of a model", self.train):
            other = self.train(small)
        if isinstance(other, keras.Model) and other is not small:
            do = "Assign the weights that it found to the model that it is given."
            refuse("train", "a function that trains a model in place", f"one that returns {other.name!r}", do)
        costs = {name: (round(whole[name]), now, limit) for name, (_, now, limit) in choice.costs.items()}
        units = {name: (choice.sizes[name], len(kept)) for name, kept in choice.items()}
        step = PruningStep(number, costs, choice.noise, units, after_cut, self._measured(small))
        self.files.write(choice, small, step)
        return small, step

    def _again(self, model: keras.Model, keep: Mapping[str, list[int]], weights: list) -> keras.Model:
        small = select(model, keep)
        small.set_weights(weights)
        return self._compiled(small)

    def _compiled(self, small: keras.Model) -> keras.Model:
        if self.compile:
            small.compile(**training_of(self.first))
        return small

    def _measured(self, model: keras.Model) -> dict[str, float]:
        with in_our_words("evaluate to be a function of a model", self.evaluate):
            found = {} if self.evaluate is None else self.evaluate(model)
        found = {"value": found} if is_number(found) else found
        if not isinstance(found, Mapping) or not all(is_number(value) for value in found.values()):
            do = "As in evaluate=lambda model: model.evaluate(x, y, return_dict=True)."
            refuse("evaluate", "a function that gives a number, or numbers by name", found, do)
        return {name: float(value) for name, value in found.items()}


def _costs(walked: Trace, budget: Budget, least: Mapping[str, int], measured: Mapping) -> tuple[dict, dict]:
    """What the first model costs, and what the last one may, of each measure that is limited."""
    costs = WidthCosts(walked)
    final = absolute_budget(budget, costs, measured).given()
    check_reachable(costs, {name: limit for name, limit in final.items() if name not in measured}, least)
    return {name: measured[name][0] if name in measured else getattr(costs, name)({}) for name in final}, final


def _absolute_bounds(walked: Trace, widths: Mapping[str, list[int]], multiple: int) -> dict:
    """The bounds of the first model, as numbers that hold for narrower ones."""
    least = {name: least for name, (least, *_) in widths.items()}
    most = {name: most for name, (*_, most) in widths.items() if most < walked.spaces[name].size}
    return {"multiple": multiple, "minimum": least, "maximum": most, "exclude": ()}


def _check_spaces(model: keras.Model, small: keras.Model, number: int) -> None:
    """Refuses a cut after which units are counted otherwise, so that bounds by name would mean something else."""
    before, after = ([space.name for space in trace(m).spaces.selectable] for m in (model, small))
    if before != after:
        other = sorted({*before} ^ {*after})
        raise KmergeError(
            f"After step {number} the channel spaces {other} of {model.name!r} are divided in another way, as some have too "
            "few units to be told apart. Pass minimum=2, or leave them out: exclude=[...]."
        )
