"""What the results of several suites say together.

A *column* is one protocol with at least two strategies. Against a *reference* strategy, paired by seed, each strategy has a
difference in each column, positive where it is better. Differences of different metrics do not add up; *scores* do:

    score = 1 - error / mean error of the reference in that column

the share of the reference's error that a run is without. An error is 1 less a metric of which higher is better, or the metric
itself. The reference has a mean score of 0; -1 is twice its error.

Scores are summed up over a *block*: strategies that all have results in the same columns, with common seeds. Otherwise a
strategy that ran on easy suites alone would look good. Every column weighs as much as any other, however many seeds it has.

Interquartile means, probabilities of improvement, performance profiles and the stratified bootstrap are those of Agarwal et
al. 2021. Their library rliable wants as many seeds in every column, and does not run with the current version of what it
resamples by. Here the seeds of each column are resampled for all strategies at once, as they are paired.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from baselines.protocol.metrics import METRICS
from benchmarks.records.results import Results, Row
from benchmarks.reports.statistics import LEVEL, bootstrap_interval
from benchmarks.reports.summaries import done, examples_text, grouped, mean, protocol_text
from benchmarks.strategies.registry import STRATEGIES

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Column:
    """One protocol.

    Attributes:
        name: short, as tables head it.
        text: the protocol in words.
        metric: of its results.
        groups: by strategy and seed, the finished rows.
    """

    name: str
    text: str
    metric: str
    groups: Mapping[str, Mapping[int, Row]]

    def values(self, strategy: str, seeds: Iterable[int]) -> np.ndarray:
        """Test results of the last epoch."""
        return np.array([self.groups[strategy][seed]["test_last"] for seed in seeds], "float64")

    def common(self, strategies: Iterable[str]) -> list[int]:
        """The seeds that all of these have, sorted."""
        return sorted(set.intersection(*(set(self.groups.get(name, ())) for name in strategies)))

    def errors(self, strategy: str, seeds: Iterable[int]) -> np.ndarray:
        """What scores are shares of."""
        values = self.values(strategy, seeds)
        return 1 - values if METRICS[self.metric].higher_is_better else values


def columns_of(results: Sequence[Results], problems: list[str]) -> list[Column]:
    """The protocols of several folders in which strategies can be compared.

    Args:
        results: of the folders. Rows of one protocol belong together wherever they lie.
        problems: gains a sentence about runs that stand in two folders with different results.

    Returns:
        Columns, each with its own name: suites in the order of the folders, those of one by examples and scale.
    """
    protocols: dict[str, dict[str, dict[int, Row]]] = {}
    doubled: dict[tuple[str, str], int] = {}
    for row in (row for one in results for row in done(one.rows)):
        known = protocols.setdefault(row["protocol"], {}).setdefault(row["strategy"], {})
        if known.setdefault(row["seed"], row)["test_last"] != row["test_last"]:
            which = row["suite"], row["strategy"]
            doubled[which] = doubled.get(which, 0) + 1
    problems += [
        f"{suite}: {count} runs of {strategy} are left out: a folder before, which counts, has other results of them."
        for (suite, strategy), count in doubled.items()
    ]
    kept = {name: groups for name, groups in protocols.items() if len(groups) > 1}
    first = {name: next(iter(next(iter(groups.values())).values())) for name, groups in kept.items()}
    names, suites = _names(first), list(dict.fromkeys(row["suite"] for row in first.values()))
    order = sorted(kept, key=lambda name: (suites.index(first[name]["suite"]), *_size(first[name])))
    return [Column(names[name], protocol_text(first[name]), first[name]["metric"], kept[name]) for name in order]


def _size(row: Row) -> tuple[float, float]:
    """How large a protocol is: of what two of one suite may differ in, what has an order."""
    return math.inf if row["examples"] is None else row["examples"], row["scale"] or 0.0


def _names(rows: Mapping[str, Row]) -> dict[str, str]:
    """By protocol its suite, and where that has several what tells them apart."""
    names = {}
    for suite, group in grouped(rows.values(), "suite").items():
        marks = {row["protocol"]: _marks(row) for row in group}
        varying = [i for i, different in enumerate(zip(*marks.values(), strict=True)) if len(set(different)) > 1]
        names |= {name: ", ".join([suite, *(texts[i] for i in varying)]) for name, texts in marks.items()}
    doubled = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {protocol: f"{name} ({protocol})" if name in doubled else name for protocol, name in names.items()}


def _marks(row: Row) -> tuple[str, ...]:
    """What tells protocols of one suite apart, in words."""
    scale = "unknown scale" if row["scale"] is None else f"scale {row['scale']:g}"
    precision = row.get("precision") or "float32"
    return examples_text(row), scale, f"equal {row.get('match') or 'epochs'}", str(row["backend"]), precision


def reference_of(columns: Sequence[Column]) -> str:
    """The strategy that stands in the most columns, of several the first of the registry."""
    names = [name for column in columns for name in column.groups]
    rank = {name: i for i, name in enumerate(STRATEGIES)}
    return min(set(names), key=lambda name: (-names.count(name), rank.get(name, len(rank)), name))


class Difference(NamedTuple):
    """A strategy less the reference in one column: positive is better, in the metric's unit."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def sign(self) -> str:
        """+ or - where the 95 % interval of the mean is on one side of zero, 0 where it is not."""
        return "+" if self.low > 0 else "-" if self.high < 0 else "0"


def differences(columns: Sequence[Column], reference: str) -> dict[str, dict[str, Difference]]:
    """The matrix: by strategy and column, where both have two common seeds; strategies of most columns first."""
    matrix: dict[str, dict[str, Difference]] = {}
    for column in columns:
        sign = 1 if METRICS[column.metric].higher_is_better else -1
        for name in column.groups if reference in column.groups else ():
            if name != reference and len(seeds := column.common([name, reference])) > 1:
                d = sign * (column.values(name, seeds) - column.values(reference, seeds))
                interval = bootstrap_interval(d, np.mean)
                matrix.setdefault(name, {})[column.name] = Difference(len(d), float(d.mean()), *interval)
    return dict(sorted(matrix.items(), key=lambda item: -len(item[1])))


@dataclass(frozen=True)
class Block:
    """Strategies that can be summed up over the same columns.

    Attributes:
        reference: what scores are relative to; one of the strategies.
        strategies: all of them.
        columns: names.
        scores: by column, shape `(strategies, seeds)`.
        compute: by strategy, the mean over the columns of its compute over the reference's; none where that is not known.
    """

    reference: str
    strategies: tuple[str, ...]
    columns: tuple[str, ...]
    scores: tuple[np.ndarray, ...]
    compute: Mapping[str, float] = field(default_factory=dict)


def block_of(columns: Sequence[Column], reference: str, rivals: Collection[str] = ()) -> Block | None:
    """The block of the reference and its rivals.

    Without named rivals it is the largest block around the reference, by rivals times columns, when those are added first
    that leave most columns. Which these are depends on what ran: for a paper name them.

    Args:
        columns: of the suites.
        reference: a strategy.
        rivals: strategies; none for those that make the largest block.

    Returns:
        The block; None for fewer than two columns, or no rival.
    """
    if named := [name for name in dict.fromkeys(rivals) if name != reference]:
        kept = _with_seeds(columns, [reference, *named])
        return _block(reference, (reference, *named), kept) if len(kept) > 1 else None
    chosen, best = [reference], None
    left = {name for column in columns for name in column.groups} - {reference}
    while left:
        kept = {name: _with_seeds(columns, [*chosen, name]) for name in sorted(left)}
        name = max(kept, key=lambda name: len(kept[name]))
        left.remove(name)
        if len(kept[name]) < 2:
            break
        chosen.append(name)
        if best is None or (len(chosen) - 1) * len(kept[name]) > (len(best[0]) - 1) * len(best[1]):
            best = tuple(chosen), kept[name]
    return None if best is None else _block(reference, *best)


def _with_seeds(columns: Sequence[Column], strategies: Sequence[str]) -> list[Column]:
    """The columns in which these have two common seeds, and the first of them an error that can be divided by."""
    seeds = [(column, column.common(strategies)) for column in columns]
    return [column for column, s in seeds if len(s) > 1 and column.errors(strategies[0], s).mean() > 0]


def _block(reference: str, strategies: tuple[str, ...], columns: Sequence[Column]) -> Block:
    scores, costs = [], {name: [] for name in strategies}
    for column in columns:
        seeds = column.common(strategies)
        errors = np.array([column.errors(name, seeds) for name in strategies])
        scores.append(1 - errors / errors[strategies.index(reference)].mean())
        own = {name: mean(column.groups[name][s]["teacher_epoch_equivalents"] for s in seeds) for name in strategies}
        for name in strategies:
            costs[name].append(own[name] / own[reference] if own[name] and own[reference] else np.nan)
    compute = {name: float(np.mean(ratios)) for name, ratios in costs.items() if np.isfinite(ratios).all()}
    return Block(reference, strategies, tuple(column.name for column in columns), tuple(scores), compute)


class Estimate(NamedTuple):
    """A number of a strategy, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_means(block: Block) -> dict[str, Estimate]:
    """The mean of the middle half of all scores, by strategy."""
    scores = np.concatenate(block.scores, axis=1)
    weights = np.concatenate(_weights(block), axis=1) / len(block.columns)
    return {name: _estimate(_middle(own, weights)) for name, own in zip(block.strategies, scores, strict=True)}


def _middle(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Interquartile means of scores, one for each row of weights."""
    order = np.argsort(scores)
    ends = np.cumsum(weights[:, order], axis=1)
    inside = np.clip(ends, 0.25, 0.75) - np.clip(ends - weights[:, order], 0.25, 0.75)
    return inside @ scores[order] / inside.sum(axis=1)


def probabilities_of_improvement(block: Block) -> dict[str, Estimate]:
    """How likely a run is better than one of the reference, in a column drawn by chance; ties count half. By strategy."""
    first = block.strategies.index(block.reference)
    found = {}
    for i, name in enumerate(block.strategies):
        shares = []
        for part, weights in zip(block.scores, _weights(block), strict=True):
            ahead = (np.sign(part[i][:, None] - part[first]) + 1) / 2
            shares.append(((weights @ ahead) * weights).sum(axis=1))
        found[name] = _estimate(np.mean(shares, axis=0))
    del found[block.reference]
    return found


def profiles(block: Block, points: int = 101) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Performance profiles: which share of the runs has a score above a threshold.

    Args:
        block: the scores.
        points: how many thresholds, from the lowest twentieth of all scores to the highest.

    Returns:
        The thresholds, and by strategy the shares with the ends of their pointwise 95 % intervals, shape `(3, points)`.
    """
    every = np.concatenate([part.ravel() for part in block.scores])
    thresholds = np.linspace(*np.quantile(every, [0.05, 1.0]), points)
    found = {}
    for i, name in enumerate(block.strategies):
        pairs = zip(block.scores, _weights(block), strict=True)
        shares = np.mean([weights @ (part[i][:, None] > thresholds) for part, weights in pairs], axis=0)
        found[name] = np.array([shares[0], *np.quantile(shares[1:], [LEVEL / 2, 1 - LEVEL / 2], axis=0)])
    return thresholds, found


def _weights(block: Block) -> list[np.ndarray]:
    """By column, how much each seed counts, shape `(1 + resamples, seeds)`: in the sample itself, then in the resamples."""
    weights = []
    for number, part in enumerate(block.scores):
        n = part.shape[1]
        drawn = np.random.default_rng([number, n, _RESAMPLES]).multinomial(n, [1 / n] * n, _RESAMPLES)
        weights.append(np.concatenate([np.ones((1, n)), drawn]) / n)
    return weights


def _estimate(found: np.ndarray) -> Estimate:
    """Of a number of the sample itself, and of the resamples."""
    low, high = np.quantile(found[1:], [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(float(found[0]), float(low), float(high))
