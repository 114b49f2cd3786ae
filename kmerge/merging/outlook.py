"""Whether two trained networks are worth merging: a forecast from what is known before either is trained on.

    line of least squares over settings:   merging - training on = intercept + slope x rise
    rise:                                  what doubling the epochs still gave the parents
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kmerge.checks import is_number, refuse, sequence, text
from kmerge.errors import InvalidArgumentError

# A curve of fewer epochs has not two before its end.
FEWEST_EPOCHS = 3
# An accuracy that the mean of outputs is ahead of each parent by only where each knows what another does not.
_FAR_AHEAD = 0.1


@dataclass(frozen=True)
class MergingLaw:
    """A line through settings, in points of accuracy, as `python -m benchmarks.studies.law` fits it.

    Attributes:
        cells: how many settings.
        intercept: at a rise of zero.
        slope: points for each point of rise.
        residual: standard deviation about the line.
        mean: of the settings' rises.
        squares: sum of squared deviations of the rises from their mean.
        quantile: of Student's t for a 95 % interval, with cells - 2 degrees of freedom.
    """

    cells: int
    intercept: float
    slope: float
    residual: float
    mean: float
    squares: float
    quantile: float

    def forecast(self, rise: float) -> tuple[float, float, float]:
        """The line at a rise, and the ends of the 95 % interval for one more setting."""
        at = self.intercept + self.slope * rise
        spread = self.residual * math.sqrt(1 + 1 / self.cells + (rise - self.mean) ** 2 / self.squares)
        return at, at - self.quantile * spread, at + self.quantile * spread


# results/published/law: merging with gates less a restarted parent, equal epochs.
LAW = MergingLaw(
    cells=10,
    intercept=0.336057,
    slope=-0.271892,
    residual=0.389624,
    mean=3.507427,
    squares=118.134291,
    quantile=2.306004,
)


@dataclass(frozen=True)
class MergingOutlook:
    """What to do with two trained networks. `print` says it in words.

    Attributes:
        parents: last validation accuracy of each.
        mean: validation accuracy of the mean of their outputs, or None if it was not given.
        rise: what doubling the epochs still gave the parents, in points.
        expected: merging less training the better parent on for as many epochs, in points.
        interval: 95 % prediction interval of `expected`.
        cells: number of settings in which that was measured.
        advice: "merge", "train on" or "either".

    Example:
        >>> outlook = kmerge.merging_outlook([[0.5, 0.7, 0.8], [0.5, 0.6, 0.7]])
        >>> outlook.parents, outlook.advice
        ((0.8, 0.7), 'train on')
    """

    parents: tuple[float, ...]
    mean: float | None
    rise: float
    expected: float
    interval: tuple[float, float]
    cells: int
    advice: str

    @property
    def know_different_things(self) -> bool:
        """Whether the mean is ahead of each parent by so much that each must know what another does not."""
        return self.mean is not None and self.mean - max(self.parents) > _FAR_AHEAD

    def __str__(self) -> str:
        known = ", ".join(f"{value:.2%}" for value in self.parents)
        mean = "" if self.mean is None else f"; the mean of their outputs has {self.mean:.2%}"
        if self.know_different_things:
            measured = "Where each knew all classes, in a domain of its own, training one on was as good."
            return f"Parents at {known}{mean}: they know different things. Merge. {measured}"
        low, high = self.interval
        return (
            f"Parents at {known}{mean}. Doubling their epochs still gave {self.rise:+.2f} points. Merging less training the "
            f"better one on: {self.expected:+.2f} points expected, {low:+.2f} to {high:+.2f} with 95 % probability, by "
            f"{self.cells} settings. {_WORDS[self.advice]}"
        )


_WORDS = {
    "merge": "Merge.",
    "train on": "Train one on, or merge next time before the learning rate falls.",
    "either": "Neither is known to be better here; what one of them costs may decide.",
}


def merging_outlook(
    histories: Sequence[Any], mean: float | None = None, *, monitor: str = "val_accuracy"
) -> MergingOutlook:
    """Forecasts whether merging trained networks beats training the better one on for the same epochs.

    The forecast is a line, fitted over settings in which both were done (`results/published/law`): networks that still gained
    from longer training lost by being merged. It is about parents of one data set; parents that know different things are
    told by the mean of their outputs, which is then far ahead of both.

    Args:
        histories: a list with, for each parent, what `model.fit` returned, its `history`, or the validation accuracy after
            each epoch, between 0 and 1.
        mean: validation accuracy of the mean of the parents' outputs, as `merge_report` measures it.
        monitor: name of the validation accuracy in a history.

    Returns:
        The outlook.

    Raises:
        InvalidArgumentError: if there are fewer than two histories, one has fewer than 3 epochs or lacks the metric, or
            values are not between 0 and 1.

    Example:
        >>> histories = [{"val_accuracy": [0.70, 0.78, 0.80, 0.80]}, {"val_accuracy": [0.60, 0.72, 0.78, 0.79]}]
        >>> kmerge.merging_outlook(histories).advice
        'train on'
    """
    if any(word in text("monitor", monitor, of="merging_outlook").lower() for word in ("loss", "error")):
        refuse("monitor", "the name of an accuracy, which rises", monitor, of="merging_outlook")
    sequence("histories", histories, "a list of the parents' histories", of="merging_outlook")
    curves = [_curve(history, monitor) for history in histories]
    if len(curves) < 2:
        raise InvalidArgumentError(
            f"merging_outlook: expected histories of at least two parents, received a list of {len(curves)}."
        )
    if mean is not None and not (is_number(mean) and 0 <= mean <= 1):
        refuse("mean", "an accuracy from 0 to 1 or None", mean, of="merging_outlook")
    rise = 100 * float(np.mean([rise_per_doubling(curve) for curve in curves]))
    expected, low, high = LAW.forecast(rise)
    outlook = MergingOutlook(tuple(curve[-1] for curve in curves), mean, rise, expected, (low, high), LAW.cells, "either")
    if outlook.know_different_things or low > 0:
        return replace(outlook, advice="merge")
    return replace(outlook, advice="train on") if high < 0 else outlook


def _curve(history: Any, monitor: str) -> list[float]:
    """The validation accuracies of a history of any kind."""
    values = getattr(history, "history", history)
    if isinstance(values, Mapping):
        if monitor not in values:
            refuse("monitor", f"one of {', '.join(values)}", monitor, "Train with validation_data.", of="merging_outlook")
        values = values[monitor]
    try:
        curve = [float(value) for value in values]
    except (TypeError, ValueError):
        curve = []
    if len(curve) < FEWEST_EPOCHS or not all(0 <= value <= 1 for value in curve):
        expected = f"the validation accuracy, from 0 to 1, of at least {FEWEST_EPOCHS} epochs each"
        do = "Train with validation_data and metrics=['accuracy']."
        refuse("histories", expected, history if not curve else curve[:5], do, of="merging_outlook")
    return curve


def rise_per_doubling(curve: Sequence[float]) -> float:
    """What doubling the epochs still gave a network in the first half of its training, before its learning rate fell.

    Args:
        curve: validation metric after each epoch, at least `FEWEST_EPOCHS` of them.

    Returns:
        The slope of the metric over the logarithm of the epoch to base 2, by least squares from a fifth to half of the
        epochs, in the metric's unit.
    """
    start = len(curve) // 5
    stop = max(len(curve) // 2, start + 2)
    doublings = np.log2(np.arange(start + 1, stop + 1))
    return float(np.polyfit(doublings, np.asarray(curve[start:stop], "float64"), 1)[0])
