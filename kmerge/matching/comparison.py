"""How alike two models are before they are merged, and what each way of joining them gives at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import in_our_words, sentence
from kmerge.costs import multiply_accumulates, parameters
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.matching.alignment import align, average, match_activations
from kmerge.matching.assignment import assigned
from kmerge.matching.paired_weights import Pair
from kmerge.matching.unit_correlation import correlations
from kmerge.merging import metrics_of
from kmerge.spaces import trace
from kmerge.surgery import CommonWidths, at_common_widths, concatenate, for_surgery
from kmerge.training import recalibrate


@dataclass(frozen=True)
class SpaceComparison:
    """How alike the units of a space are in both models.

    Attributes:
        units: their number in the first model.
        of_other: their number in the other one. Where it differs, each unit of the narrower model has a partner in the wider
            one, and only these pairs count.
        in_place: mean correlation of each unit with the one in its place in the other model, from -1 to 1; units that never
            change on the data do not count.
        matched: the same once the other model's units are in the order that makes it largest. The wider model's surplus makes
            it larger even by chance.
    """

    units: int
    of_other: int
    in_place: float
    matched: float


class Comparison(dict):
    """`SpaceComparison` by name of the space. Prints as a table.

    Attributes:
        metrics: what the metric is on the data, by "first", "second", "mean of the outputs", "averaged in place" and
            "averaged, matched" (None for these two where widths differ: there is no such mean); empty if there was no metric.
        costs: parameters and multiply-accumulates of an example (None where an input's size is open), by "one model", or
            "first" and "second" where widths differ, and by "concatenated".
        order: units of the other model that correspond to those of the first, for each space; -1 for a unit without a
            partner, where the first model is wider.

    Example:
        >>> kmerge.compare(model, other, x).order["first"].shape
        (6,)
    """

    def __init__(self, metrics: Mapping[str, float | None], costs: Mapping[str, tuple], order: Mapping[str, np.ndarray]):
        super().__init__()
        self.metrics, self.costs, self.order = dict(metrics), dict(costs), dict(order)

    def __str__(self) -> str:
        units = {n: str(row.units) if row.units == row.of_other else f"{row.units}, {row.of_other}" for n, row in self.items()}
        wide = max(6, *map(len, units.values()), 0)
        lines = [f"{'space':40} {'units':>{wide}} {'in place':>9} {'matched':>8}"]
        for name, row in self.items():
            lines.append(f"{name:40} {units[name]:>{wide}} {row.in_place:9.2f} {row.matched:8.2f}")
        if self.metrics:
            lines += ["", f"{'joined without training':40} {'metric':>9}"]
            for name, value in self.metrics.items():
                lines.append(f"{name:40} {'not possible, as widths differ' if value is None else f'{value:9.4f}'}")
        lines += ["", f"{'cost':40} {'parameters':>12} {'multiply-accumulates':>21}"]
        for name, (count, products) in self.costs.items():
            lines.append(f"{name:40} {count:12,} {'unknown' if products is None else f'{products:,}':>21}")
        return "\n".join(lines)


def compare(
    model: keras.Model,
    other: keras.Model,
    data: Any,
    *,
    metric: keras.metrics.Metric | str | None = None,
    batch_size: int = 64,
    steps: int | None = None,
) -> Comparison:
    """Tells how alike two models are, and how good each way to join them is before any training.

    The units of two models that were trained from other seeds are about as alike as chance in place, and more so once
    matched. Where matched units are nearly equal, averaging is as good as merging and costs nothing; where they are not,
    the mean of the outputs is what `merge` starts from, and the mean of the weights has to be trained anew.

    Args:
        model: a Functional or Sequential model.
        other: a model of the same architecture, whose widths may differ. Neither is changed.
        data: whatever `model.evaluate` takes, best of data that no model was trained on: inputs, or inputs and targets
            where there is a metric. It is walked several times; a generator is kept in memory.
        metric: what is measured, a Keras metric or its name, such as "sparse_categorical_accuracy"; None for none.
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches of the data to take; None for all.

    Returns:
        A mapping from space names to `SpaceComparison`; `print` shows it with metrics and costs. Spaces whose units no tensor
        shows, such as heads of attention, are left out.

    Raises:
        ArchitectureMismatchError: names the first layer that differs in more than its width, or in one that cannot differ.
        InvalidArgumentError: for weights that are not finite, or data that is missing, empty or of another shape.

    Reference:
        Li et al., Convergent Learning, 2016. Ainsworth et al., Git Re-Basin, ICLR 2023. Jordan et al., REPAIR, 2023.

    Example:
        >>> found = kmerge.compare(model, other, (x, y), metric="sparse_categorical_accuracy")
        >>> list(found), list(found.costs)
        (['first', 'second'], ['one model', 'concatenated'])
    """
    if not all(isinstance(each, keras.Model) for each in (model, other)):
        raise InvalidArgumentError(sentence("two Keras models", (type(model).__name__, type(other).__name__), of="compare"))
    pair, widened = _paired(model, other)
    batches = Batches(
        model, data, "compare", batch_size=batch_size, steps=steps, targets=metric is not None, again=True
    )
    if widened.sizes:
        found = correlations(trace(widened.models[0]), widened.models, batches)
        # What the narrower model was widened by is none of its own.
        found = {name: found[name][: sizes[0], : sizes[1]] for name, sizes in widened.sizes.items() if name in found}
        order = {name: _partners(correlation) for name, correlation in found.items()}
    else:
        found = correlations(pair.walked, (model, other), batches)
        match_activations(pair, found)
        order = pair.order
    metrics = {}
    if metric is not None:
        with in_our_words("a metric that outputs can be measured by", metric, of="compare"):
            metrics = _metrics(model, other, None if widened.sizes else order, batches, metric)
    comparison = Comparison(metrics, _costs(model, other, bool(widened.sizes)), order)
    for name, correlation in found.items():
        comparison[name] = _compared(correlation, order[name])
    return comparison


def _paired(model: keras.Model, other: keras.Model) -> tuple[Pair | None, CommonWidths]:
    """Two models weight by weight; where their widths differ, no such pairs, but both models as wide as the wider."""
    try:
        return Pair(model, other), CommonWidths((model, other), {})
    except ArchitectureMismatchError:
        widened = at_common_widths(for_surgery([model, other]))
        if not widened.sizes:
            raise
        return None, widened


def _partners(correlation: np.ndarray) -> np.ndarray:
    """For each unit of the first model the one of the other that it is matched with, or -1."""
    if len(correlation) <= correlation.shape[1]:
        return assigned(correlation)
    partners = np.full(len(correlation), -1)
    partners[assigned(correlation.T)] = np.arange(correlation.shape[1])
    return partners


def _compared(correlation: np.ndarray, order: np.ndarray) -> SpaceComparison:
    places = np.arange(min(correlation.shape))
    paired = np.flatnonzero(order >= 0)
    return SpaceComparison(*correlation.shape, _mean(correlation[places, places]), _mean(correlation[paired, order[paired]]))


def _metrics(
    model: keras.Model, other: keras.Model, order: Mapping | None, batches: Batches, metric
) -> dict[str, float | None]:
    """What the metric is of each way of joining the models; None for means of weights, where there is no order."""
    of = {"first": [model], "second": [other], "mean of the outputs": [model, other]}
    names = ("averaged in place", "averaged, matched")
    if order is None:
        return {**metrics_of(of, batches, metric, "compare"), **dict.fromkeys(names)}
    for name, second in zip(names, (other, align(model, other, order)), strict=True):
        of[name] = [recalibrate(average(model, second), batches)]
    return metrics_of(of, batches, metric, "compare")


def _mean(correlations: np.ndarray) -> float:
    changing = correlations[correlations != 0]  # of a unit that never changes it is exactly 0
    return float(np.mean(changing)) if len(changing) else 0.0


def _costs(model: keras.Model, other: keras.Model, differ: bool) -> dict[str, tuple[int, int | None]]:
    of = {"first": model, "second": other} if differ else {"one model": model}
    return {name: _cost(each) for name, each in {**of, "concatenated": concatenate(model, other)}.items()}


def _cost(model: keras.Model) -> tuple[int, int | None]:
    try:
        return parameters(model), multiply_accumulates(model)
    except InvalidArgumentError:
        return parameters(model), None
