"""Budgets of what cannot be counted: the latency of a model on this machine, and the size of its file.

Each grows with a cost that is counted, nearly in a straight line: latency with multiply-accumulates, a file with
parameters. So the limit on the counted cost is looked for that brings the measured one just within its own:

    multiply-accumulates     latency
    all                      5.0 ms
    .01, the smallest        1.0 ms       part of it does not shrink
    .38, by the line         2.6 ms       above the limit of 2.5 ms
    .36                      2.48 ms      within it, and close
"""

import math
from collections.abc import Callable, Mapping

import keras

from kmerge.costs import MEASURED_COSTS, Budget, WidthCosts, latency_beside, latency_with_noise, saved_bytes
from kmerge.errors import InvalidArgumentError
from kmerge.pruning.unit_choice import UnitChoice

# Models that are built at most, and how near below its limit a measured cost is near enough.
_TRIES = 6
_NEAR = 0.03
_REPETITIONS = 60
# A file holds a date.
_FILE_NOISE = 200


class Yardstick:
    """Measures costs of models that are not compiled, each with its noise: microseconds, and bytes.

    A machine does not keep its speed: the clock changes, other work comes and goes. So each model is timed in turn with the
    reference, and its latency told as it was when the reference was measured: limits that were found then still hold.

    Args:
        reference: the model that is measured first.
        names: the costs that are measured.

    Attributes:
        whole: those of the reference.
    """

    def __init__(self, reference: keras.Model, names: Mapping):
        self._reference, self.whole = reference, {}
        if "latency" in names:
            self.whole["latency"] = _microseconds(latency_with_noise(reference, repetitions=_REPETITIONS))
        if "file_bytes" in names:
            self.whole["file_bytes"] = _file_bytes(reference)

    def costs(self, model: keras.Model) -> dict[str, tuple[float, float]]:
        """The costs of another model, by name."""
        found = {}
        if "latency" in self.whole:
            seconds = 1e-6 * self.whole["latency"][0]
            found["latency"] = _microseconds(latency_beside(model, self._reference, seconds, _REPETITIONS))
        if "file_bytes" in self.whole:
            found["file_bytes"] = _file_bytes(model)
        return found


def _microseconds(latency: tuple[float, float]) -> tuple[float, float]:
    return 1e6 * latency[0], 1e6 * latency[1]


def _file_bytes(model: keras.Model) -> tuple[float, float]:
    return float(saved_bytes(model)), float(_FILE_NOISE)


def absolute_budget(budget: Budget, costs: WidthCosts, whole: Mapping[str, tuple[float, float]]) -> Budget:
    """A budget with numbers instead of shares of a model's costs.

    Args:
        budget: the budget.
        costs: of the model.
        whole: the measured costs of the model, of those that the budget limits.
    """
    measured, shares = budget.measured(), budget.shares()
    counted = {name: value for name, value in budget.given().items() if name not in measured}
    limits = costs.limits(Budget(**counted)) if counted else {}
    of_measured = {name: value * (whole[name][0] if name in shares else 1) for name, value in measured.items()}
    return Budget(**limits, **{name: max(1, int(value)) for name, value in of_measured.items()})


def choose_measured(
    budget: Budget,
    costs: WidthCosts,
    choose: Callable[[Budget], UnitChoice],
    build: Callable[[Mapping], keras.Model],
    least: Mapping[str, int],
    yardstick: Yardstick | None = None,
) -> UnitChoice:
    """The largest choice found whose measured costs are within their limits, by interpolation between two that bracket it.

    Args:
        budget: some of whose limits are of measured costs.
        costs: of the model.
        choose: gives the units that a counted budget allows.
        build: gives a model with these units kept; of none, the whole model.
        least: the smallest widths.
        yardstick: what measures, where limits are those of an earlier model; otherwise this model is its reference.

    Raises:
        InvalidArgumentError: if not even the smallest widths meet a limit.
    """
    if yardstick is None:
        yardstick = Yardstick(build({}), budget.measured())
        whole = yardstick.whole
    else:
        whole = yardstick.costs(build({}))
    budget = absolute_budget(budget, costs, whole)
    limits, counted = budget.measured(), {n: v for n, v in budget.given().items() if n not in budget.measured()}
    brackets = {name: _Bracket(costs, name, limit, least) for name, limit in limits.items()}

    def tried(asked: Mapping[str, int]) -> tuple[UnitChoice, dict]:
        """A choice whose counted costs are at most these, and its measured costs."""
        both = dict(counted)
        for proxy, most in asked.items():
            both[proxy] = min(most, both.get(proxy, most))
        choice = choose(Budget(**both))
        found = yardstick.costs(build(choice))
        for name, (value, _) in found.items():
            brackets[name].add(choice.costs[MEASURED_COSTS[name]][1], value)
        return choice, found

    for name, bracket in brackets.items():
        bracket.add(bracket.whole, whole[name][0])
    best = tried({bracket.proxy: bracket.least for bracket in brackets.values()})
    _check_within(whole, best[1], limits)
    for _ in range(_TRIES):
        choice, found = tried({bracket.proxy: bracket.guess() for bracket in brackets.values()})
        if all(found[name][0] <= limit for name, limit in limits.items()):
            best = choice, found
        if all(bracket.is_closed() for bracket in brackets.values()):
            break
    choice, found = best
    spent = {name: tuple(round(x) for x in (whole[name][0], found[name][0], limits[name])) for name in limits}
    kept = {name: (*choice.costs[name][:2], limit) for name, limit in counted.items()}  # not the limit last tried
    return UnitChoice(choice, choice.sizes, kept | spent, {name: round(found[name][1]) for name in limits})


class _Bracket:
    """The largest model found within the limit on a measured cost, and the smallest found above, by their counted costs."""

    def __init__(self, costs: WidthCosts, name: str, limit: int, least: Mapping[str, int]):
        self.proxy, self.limit = MEASURED_COSTS[name], limit
        # A model whose products nobody knows counts nothing.
        self.whole, self.least = (max(1, getattr(costs, self.proxy)(widths)) for widths in ({}, least))
        self._models: list[tuple[float, float]] = []  # (counted, measured)

    def add(self, counted: float, measured: float) -> None:
        """Takes note of a model."""
        self._models.append((counted, measured))

    @property
    def above(self) -> tuple[float, float] | None:
        """The smallest model above the limit."""
        return min((model for model in self._models if model[1] > self.limit), default=None)

    @property
    def within(self) -> tuple[float, float] | None:
        """The largest model within the limit, and below `above`: a model near the limit may be found on both sides of it."""
        most = math.inf if self.above is None else self.above[0]
        return max((model for model in self._models if model[1] <= self.limit and model[0] < most), default=None)

    def guess(self) -> int:
        """The counted cost at which a straight line between the two comes near the limit from below."""
        if self.above is None or self.within is None:
            return self.whole if self.above is None else self.least
        (low, less), (high, more) = self.within, self.above
        aim = (1 - _NEAR / 3) * self.limit
        share = min(max((aim - less) / (more - less), 0.1), 0.9)
        return max(self.least, int(low + share * (high - low)))

    def is_closed(self) -> bool:
        """Whether a larger model is hardly to be found."""
        if self.above is None or self.within is None:
            return True
        return self.within[1] >= (1 - _NEAR) * self.limit or self.above[0] - self.within[0] < 0.005 * self.whole


def _check_within(whole: Mapping, least: Mapping, limits: Mapping[str, int]) -> None:
    for name, limit in limits.items():
        if least[name][0] > limit:
            unit = "microseconds" if name == "latency" else "bytes"
            raise InvalidArgumentError(
                f"Expected a budget of at least {least[name][0]:,.0f} {unit} of {name}, measured with the smallest widths "
                f"allowed, of the model's {whole[name][0]:,.0f}, received {limit:,}. Raise the budget, or allow smaller ones."
            )
