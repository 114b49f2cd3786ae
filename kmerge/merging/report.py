"""The report on a merge: which units the gates of a big student keep, and of which parent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import in_our_words, refuse, shown
from kmerge.errors import InvalidArgumentError
from kmerge.merging.measuring import metrics_of
from kmerge.merging.records import read_merge


@dataclass(frozen=True)
class SpaceReport:
    """What the gates of one space say.

    Attributes:
        units, kept: units in the big student, and how many of them `compress` keeps.
        from_parents: how many of the kept ones come from each parent.
        open_share: mean of P(g > 0). Its target is kept / units.
        undecided: share of units with .1 < P(g > 0) < .9.
    """

    units: int
    kept: int
    from_parents: tuple[int, ...]
    open_share: float
    undecided: float


class MergeReport(dict):
    """`SpaceReport` by name of the space. Prints as a table.

    Attributes:
        metrics: what the metric is on the data, by "parent 1", ..., "mean of the parents" and "big student"; empty if no data
            was given.

    Example:
        >>> report = kmerge.merge_report(kmerge.merge(model, other))
        >>> list(report)
        ['first', 'second']
    """

    def __init__(self, metrics: dict[str, float]):
        super().__init__()
        self.metrics = metrics

    def __str__(self) -> str:
        lines = [f"{'space':40} {'units':>6} {'kept':>6}  {'from parents':16} {'open':>6} {'undecided':>9}"]
        for name, r in self.items():
            parents = " + ".join(map(str, r.from_parents))
            lines.append(f"{name:40} {r.units:6} {r.kept:6}  {parents:16} {r.open_share:6.2f} {r.undecided:9.2f}")
        lines += [f"{name:40} {value:.4f}" for name, value in self.metrics.items()]
        return "\n".join(lines)


def merge_report(
    big: keras.Model,
    *,
    parents: Sequence[keras.Model] = (),
    data: Any = None,
    metric: keras.metrics.Metric | str | None = None,
    batch_size: int = 256,
    steps: int | None = None,
) -> MergeReport:
    """Tells, per space, how many units `compress` would keep of which parent, and how decided the gates are.

    With data it also reports how good the big student is, and beside it each parent and the mean of the parents' outputs: a
    big student that is not ahead of its better parent has nothing to hand on.

    Args:
        big: a big student made by `merge`.
        parents: the models that were merged.
        data: whatever `model.evaluate` takes, with targets: `(x, y)` or `(x, y, sample_weight)` of arrays, a
            `tf.data.Dataset`, `PyDataset`, generator, ...; best of data that no model was trained on. It is read once.
        metric: what is measured on the data, a Keras metric or its name, such as "sparse_categorical_accuracy".
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches of the data to take; None for all.

    Returns:
        A mapping from space names to `SpaceReport`, with `metrics`; `print` shows it as a table.

    Raises:
        InvalidArgumentError: if `big` was not made by `merge`; if there are data without a metric, or a metric or parents
            without data; or if there are several outputs, or the parents' are not as the big student's.

    Example:
        >>> metric = "sparse_categorical_accuracy"
        >>> report = kmerge.merge_report(kmerge.merge(model, other), parents=[model, other], data=(x, y), metric=metric)
        >>> list(report.metrics)
        ['parent 1', 'parent 2', 'mean of the parents', 'big student']
    """
    merged = read_merge(big)
    if not isinstance(parents, list | tuple) or len(parents) not in (0, merged.plan.sources):
        refuse("parents", f"a list of the {merged.plan.sources} models that were merged", parents, of="merge_report")
    if (data is None) != (metric is None) or (parents and data is None):
        raise InvalidArgumentError(
            "merge_report: expected data and a metric together, and parents only beside them, received "
            f"data {'of some kind' if data is not None else None}, metric {shown(metric)} and {len(parents)} parents. "
            'Write data=(x_val, y_val), metric="sparse_categorical_accuracy".'
        )
    batches = None
    if data is not None:
        batches = Batches(big, data, "merge_report", batch_size=batch_size, steps=steps, targets=True)
    report = MergeReport({} if batches is None else _metrics(big, parents, batches, metric))
    for name, gate in merged.gates.items():
        kept = gate.kept()
        counts = np.bincount([gate.origins[i][0] for i in kept], minlength=merged.plan.sources)
        share = float(np.mean(gate.open_probabilities()))
        report[name] = SpaceReport(gate.units, len(kept), tuple(counts.tolist()), share, gate.undecided())
    return report


def _metrics(big: keras.Model, parents: Sequence[keras.Model], data: Batches, metric) -> dict[str, float]:
    """What the metric is of each parent, of the mean of their outputs and of the big student."""
    if wrong := next((x for x in parents if not isinstance(x, keras.Model)), None):
        refuse("parents", "models", wrong, of="merge_report")
    for parent in parents:
        _check_outputs(parent, big)
    of = {f"parent {number}": [parent] for number, parent in enumerate(parents, 1)}
    of |= {"mean of the parents": list(parents)} if len(parents) > 1 else {}
    with in_our_words("a metric that outputs can be measured by", metric, of="merge_report"):
        return metrics_of(of | {"big student": [big]}, data, metric, "merge_report")


def _check_outputs(parent: keras.Model, big: keras.Model) -> None:
    """Refuses a parent whose outputs are of another size: the mean of such is nothing that the big student can give."""
    shapes = [[tuple(tensor.shape) for tensor in getattr(model, "outputs", None) or ()] for model in (parent, big)]
    do = "Leave parents out, as where heads='join' gave the student the outputs of all, and measure each by model.evaluate."
    if len(shapes[0]) != len(shapes[1]) or not all(map(_fit, *shapes)):
        refuse("parents", f"models with outputs of shapes {shapes[1]}", shapes[0], do, of="merge_report")


def _fit(shape: tuple, other: tuple) -> bool:
    return len(shape) == len(other) and all(None in sizes or len(set(sizes)) == 1 for sizes in zip(shape, other, strict=True))
