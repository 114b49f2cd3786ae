"""How alike two models are before they are merged, and what each way of joining them gives at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import sentence
from kmerge.costs import multiply_accumulates, parameters
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.matching.alignment import align, average, match_activations
from kmerge.matching.paired_weights import Pair
from kmerge.matching.unit_correlation import correlations
from kmerge.merging import metrics_of
from kmerge.surgery import at_common_widths, concatenate, for_surgery
from kmerge.training import recalibrate


@dataclass(frozen=True)
class SpaceComparison:
    """How alike the units of a space are in both models.

    Attributes:
        units: their number in one model.
        in_place: mean correlation of each unit with the one in its place in the other model, from -1 to 1; units that never
            change on the data do not count.
        matched: the same once the other model's units are in the order that makes it largest.
    """

    units: int
    in_place: float
    matched: float


class Comparison(dict):
    """`SpaceComparison` by name of the space. Prints as a table.

    Attributes:
        metrics: what the metric is on the data, by "first", "second", "mean of the outputs", "averaged in place" and
            "averaged, matched"; empty if there was no metric.
        costs: parameters and multiply-accumulates of an example (None where an input's size is open), by "one model" and
            "concatenated".
        order: units of the other model that correspond to those of the first, for each space.

    Example:
        >>> kmerge.compare(model, other, x).order["first"].shape
        (6,)
    """

    def __init__(self, metrics: Mapping[str, float], costs: Mapping[str, tuple], order: Mapping[str, np.ndarray]):
        super().__init__()
        self.metrics, self.costs, self.order = dict(metrics), dict(costs), dict(order)

    def __str__(self) -> str:
        lines = [f"{'space':40} {'units':>6} {'in place':>9} {'matched':>8}"]
        lines += [f"{name:40} {row.units:6} {row.in_place:9.2f} {row.matched:8.2f}" for name, row in self.items()]
        if self.metrics:
            lines += ["", f"{'joined without training':40} {'metric':>9}"]
            lines += [f"{name:40} {value:9.4f}" for name, value in self.metrics.items()]
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
        other: a model of the same architecture. Neither is changed.
        data: whatever `model.evaluate` takes, best of data that no model was trained on: inputs, or inputs and targets
            where there is a metric. It is walked several times; a generator is kept in memory.
        metric: what is measured, a Keras metric or its name, such as "sparse_categorical_accuracy"; None for none.
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches of the data to take; None for all.

    Returns:
        A mapping from space names to `SpaceComparison`; `print` shows it with metrics and costs. Spaces whose units no tensor
        shows, such as heads of attention, are left out.

    Raises:
        ArchitectureMismatchError: names the first layer or space that differs, in widths too.
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
    try:
        pair = Pair(model, other)
    except ArchitectureMismatchError:
        _refuse_widths(model, other)
        raise
    batches = Batches(
        model, data, "compare", batch_size=batch_size, steps=steps, targets=metric is not None, again=True
    )
    found = correlations(pair.walked, (model, other), batches)
    match_activations(pair, found)
    big = concatenate(model, other)
    costs = {"one model": _costs(model), "concatenated": _costs(big)}
    metrics = {} if metric is None else _metrics(model, other, pair.order, batches, metric)
    comparison = Comparison(metrics, costs, pair.order)
    for name, correlation in found.items():
        places = np.arange(len(correlation))
        means = [_mean(correlation[places, units]) for units in (places, pair.order[name])]
        comparison[name] = SpaceComparison(len(correlation), *means)
    return comparison


def _refuse_widths(model: keras.Model, other: keras.Model) -> None:
    """Refuses models that differ in their widths alone: their units are not in pairs."""
    for name, (size, wanted) in at_common_widths(for_surgery([model, other])).sizes.items():
        if size != wanted:
            what = f"two models of the same widths, {size} units in {name!r}"
            raise ArchitectureMismatchError(sentence(what, wanted, "kmerge.merge takes them as they are.", of="compare"))


def _metrics(model: keras.Model, other: keras.Model, order: Mapping, batches: Batches, metric) -> dict[str, float]:
    averaged = {
        "averaged in place": [recalibrate(average(model, other), batches)],
        "averaged, matched": [recalibrate(average(model, align(model, other, order)), batches)],
    }
    of = {"first": [model], "second": [other], "mean of the outputs": [model, other], **averaged}
    return metrics_of(of, batches, metric, "compare")


def _mean(correlations: np.ndarray) -> float:
    changing = correlations[correlations != 0]  # of a unit that never changes it is exactly 0
    return float(np.mean(changing)) if len(changing) else 0.0


def _costs(model: keras.Model) -> tuple[int, int | None]:
    try:
        return parameters(model), multiply_accumulates(model)
    except InvalidArgumentError:
        return parameters(model), None
