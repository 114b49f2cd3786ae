"""Budgets: the widths of channel spaces that keep the costs of a model below a limit.

A weight has as many elements as the product of the lengths of its axes, and a length is a sum of widths: with the spaces
a of 4 units and b of 6, the kernel of a Dense layer that reads both and makes b has (a + b) * b = 60 elements. So the
costs of a model with other widths follow from the labels, and nothing has to be built to know them.

Widths are chosen on *ladders*, one per space: widths from the smallest to the largest, and what each step up is worth.
All steps stand in one order, the most valuable first, and are taken as long as the costs stay within the budget. A step
that is too expensive ends the ladder of its space. The others go on: as far as they can, so that in the end no space can
go up one step; or, where widths are to stay even, by one step, which rounds an equal share up.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from kmerge.checks import number, sentence
from kmerge.costs.counting import warn_of_unknown
from kmerge.costs.layer_products import products
from kmerge.costs.product import Product
from kmerge.costs.sizes import sized_calls
from kmerge.errors import InvalidArgumentError
from kmerge.spaces import Record, Trace
from kmerge.surgery import weight_axes

# A step of a ladder: its width, and what going up to it is worth. Along a ladder widths rise and worths do not.
Ladder = Sequence[tuple[int, float]]


# What is measured, and what it grows with.
MEASURED_COSTS = {"latency": "multiply_accumulates", "file_bytes": "parameters"}


@dataclass(frozen=True)
class Budget:
    """Limits on what a model may cost. Each is a share of what the whole model costs (a float) or a number (an int).

    Limits that are given hold together: `Budget(parameters=0.5, multiply_accumulates=1_000_000)`.

    `latency` and `file_bytes` are not counted but measured, on models that are built for it: `prune`, `choose_units` and
    `prune_iteratively` take them, and what they give is below the limit, or above by no more than the noise that they print.

    Attributes:
        parameters: number of weights, as `kmerge.parameters` counts them.
        multiply_accumulates: those of one example, as `kmerge.multiply_accumulates` counts them.
        units: number of units of all selectable spaces together.
        latency: time of one prediction of one example, on this machine and backend, in microseconds where it is a number.
        file_bytes: size of the `.keras` file of the uncompiled model.

    Raises:
        InvalidArgumentError: if there is no limit, or one is no positive number.

    Example:
        >>> budget = kmerge.Budget(multiply_accumulates=0.5, parameters=1_000_000)
        >>> small = kmerge.prune(model, budget=budget)
        >>> kmerge.multiply_accumulates(small) <= 0.5 * kmerge.multiply_accumulates(model)
        True
    """

    parameters: int | float | None = None
    multiply_accumulates: int | float | None = None
    units: int | float | None = None
    latency: int | float | None = None
    file_bytes: int | float | None = None

    def __post_init__(self):
        if not self.given():
            do = "Give one, as in Budget(parameters=0.5)."
            raise InvalidArgumentError(sentence("at least one limit", None, do, of="Budget"))
        for name, value in self.given().items():
            number(name, value, above=0, of="Budget", do="A float is a share of the whole model's, an int a number.")

    def given(self) -> dict[str, int | float]:
        """The limits that are given, by name of the measure."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def measured(self) -> dict[str, int | float]:
        """Those that are measured."""
        return {name: value for name, value in self.given().items() if name in MEASURED_COSTS}

    def shares(self) -> dict[str, float]:
        """Those that are shares."""
        return {name: value for name, value in self.given().items() if isinstance(value, (float, np.floating))}


class WidthCosts:
    """What a model would cost if its channel spaces had other widths.

    Args:
        walked: the walk of the model.
    """

    def __init__(self, walked: Trace):
        self.walked = walked
        self.names = list(walked.spaces)
        self._sizes = np.array([space.size for space in walked.spaces.values()])
        self._free = np.array([space.selectable for space in walked.spaces.values()], dtype=bool)
        self._warned = False
        self._rows: list[np.ndarray] = []  # for each labelled axis, positions per unit of each space
        self._numbers: dict[bytes, int] = {}  # of these axes, of which most are alike
        self._sums: dict[str | None, dict[tuple, int]] = {}
        self._shapes = self._weight_shapes()

    def _row(self, units: np.ndarray) -> int:
        """The number of a labelled axis, whose length is then `rows @ widths`."""
        counts = np.bincount(self.walked.space_of[units], minlength=len(self.names))
        number = self._numbers.setdefault(counts.tobytes(), len(self._rows))
        if number == len(self._rows):
            self._rows.append(counts / self._sizes)
        return number

    def _weight_shapes(self) -> dict[int, list[tuple[bool, int]]]:
        """For each weight with units: for each of its axes whether it is labelled, and its number or else its length."""
        shapes = {}
        for path, named in self.walked.axes.items():
            layer = self.walked.layers[path]
            for index, axes in (weight_axes(named, layer) if named else {}).items():
                weight = layer.weights[index]
                shapes[id(weight)] = [
                    (False, length) if axis is None else (True, self._row(axis.units))
                    for axis, length in zip(axes, weight.shape, strict=True)
                ]
        return shapes

    @cached_property
    def _found(self) -> list[tuple[Record, Product]]:
        """Each product with the call that it belongs to."""
        calls = dict(sized_calls(self.walked.model))
        return [
            (record, product)
            for key, record in self.walked.records.items()
            for product in products(calls.get(key, record.call))
        ]

    @cached_property
    def _products(self) -> dict[tuple, int]:
        """All products as one sum of lengths, see `_sum_of`."""
        found = []
        for record, product in self._found:
            kernel = self._shapes.get(id(product.kernel))
            shape = [kernel[i] if kernel else (False, product.kernel.shape[i]) for i in product.kernel_axes()]
            for position, size in zip(product.positions, product.sizes, strict=True):
                shape.append((False, size))
                if isinstance(position, tuple):
                    (side, index), axis = position
                    labels = getattr(record, side)[index]
                    if labels.axis == axis:
                        shape[-1] = (True, self._row(labels.units))
            found.append(shape)
        return _sum_of(found)

    def _value(self, sum_of_products: Mapping[tuple, int], widths: Mapping[str, int]) -> int:
        lengths = np.rint(np.array(self._rows) @ self._vector(widths)).astype(int).tolist() if self._rows else []
        return sum(factor * math.prod(lengths[n] for n in axes) for axes, factor in sum_of_products.items())

    def _vector(self, widths: Mapping[str, int]) -> np.ndarray:
        given = ((widths.get(name, size)) for name, size in zip(self.names, self._sizes, strict=True))
        return np.fromiter(given, dtype="float64", count=len(self.names))

    def parameters(self, widths: Mapping[str, int], path: str | None = None) -> int:
        """Number of weights of the model, or of the layer of this path, with these widths.

        Spaces that are not named have the model's own widths.
        """
        if path not in self._sums:
            holder = self.walked.model if path is None else self.walked.layers.get(path)
            weights = getattr(holder, "weights", ())  # operations and inputs have none
            self._sums[path] = _sum_of([self._shapes.get(id(w), [(False, math.prod(w.shape))]) for w in weights])
        return self._value(self._sums[path], widths)

    def multiply_accumulates(self, widths: Mapping[str, int]) -> int:
        """Multiply-accumulates of one example with these widths."""
        return self._value(self._products, widths)

    def units(self, widths: Mapping[str, int]) -> int:
        """Units of the selectable spaces with these widths."""
        return int(self._vector(widths)[self._free].sum())

    def limits(self, budget: Budget) -> dict[str, int]:
        """The most that a budget allows of each measure that it limits.

        Raises:
            InvalidArgumentError: for limits that are measured on models, which nothing is known of before these are built.

        Warns:
            UserWarning: the first time that multiply-accumulates are limited, names what these are not known of.
        """
        if budget.measured():
            do = "Only prune, choose_units and prune_iteratively build models to measure them: cut by one of these."
            raise InvalidArgumentError(sentence("limits that are counted", list(budget.measured()), do, of="Budget"))
        if budget.multiply_accumulates is not None and not self._warned:
            self._warned = True
            warn_of_unknown([product for _, product in self._found])
        return {
            name: math.floor(value * getattr(self, name)({}) + 1e-9) if name in budget.shares() else int(value)
            for name, value in budget.given().items()
        }


def _sum_of(shapes: Sequence[Sequence[tuple[bool, int]]]) -> dict[tuple, int]:
    """A sum of products of lengths: by the numbers of labelled axes in a product, what their lengths are multiplied by.

    Of shapes that are a x b x 3, a x b and 5 it is {(a, b): 4, (): 5}.
    """
    found: dict[tuple, int] = {}
    for shape in shapes:
        axes = tuple(sorted(n for labelled, n in shape if labelled))
        found[axes] = found.get(axes, 0) + math.prod(n for labelled, n in shape if not labelled)
    return found


def widths_within(costs: WidthCosts, budget: Budget, ladders: Mapping[str, Ladder], even: bool) -> dict[str, int]:
    """The widths of a budget: the most valuable steps that fit.

    Args:
        costs: of the model.
        budget: the limits.
        ladders: for each space that may change, its widths and what each is worth. The first step is always taken.
        even: whether a space goes up by one step at most once a step of another did not fit.

    Returns:
        The width of each space that has a ladder.

    Raises:
        InvalidArgumentError: if the first steps alone are above the budget.
    """
    limits = costs.limits(budget)
    widths = {name: ladder[0][0] for name, ladder in ladders.items()}

    def fits(widths: Mapping[str, int]) -> bool:
        return all(getattr(costs, name)(widths) <= limit for name, limit in limits.items())

    check_reachable(costs, limits, widths)
    steps = [(worth, name, width) for name, ladder in ladders.items() for width, worth in ladder[1:]]
    steps.sort(key=lambda step: -step[0])  # stable: the steps of one ladder stay in order

    def after(count: int) -> dict[str, int]:
        return widths | {name: width for _, name, width in steps[:count]}

    # The costs rise with every step: the first one that does not fit is found by bisection.
    count = bisect.bisect_left(range(1, len(steps) + 1), True, key=lambda count: not fits(after(count)))
    widths, ended = after(count), set()
    for _, name, width in steps[count:]:
        if name not in ended:
            one_more = widths | {name: width}
            if fits(one_more):
                widths = one_more
            if even or widths is not one_more:
                ended.add(name)
    return widths


def share_ladder(size: int, widths: Sequence[int]) -> Ladder:
    """The ladder on which all spaces keep the same share: a width is worth the less, the larger its share."""
    return [(width, -width / size) for width in widths]


def check_reachable(costs: WidthCosts, limits: Mapping[str, int], widths: Mapping[str, int]) -> None:
    """Raises `InvalidArgumentError` if a model of these widths, the smallest allowed, is above a limit."""
    for name, limit in limits.items():
        least = getattr(costs, name)(widths)
        if least > limit:
            raise InvalidArgumentError(
                f"Expected a budget of at least {least:,} {name}, to which the smallest widths allowed bring the model's "
                f"{getattr(costs, name)({}):,}, received {limit:,}. Raise the budget, or allow smaller widths; "
                "print(kmerge.channel_spaces(model)) shows which spaces cannot be cut."
            )
