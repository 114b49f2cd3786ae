"""Summaries, and what may be claimed from paired runs.

Two strategies are compared seed by seed: both saw the same data, split and teachers, so the differences are paired.
The test is Wilcoxon's signed-rank test with its exact null distribution, ties included. Below some number of seeds no
result could reach a level of .05, however large the difference; then no claim is made, and the text says why.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

LEVEL = 0.05
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Of `n` values: minimum, maximum, median, mean and standard deviation (n - 1; NaN for one value)."""

    n: int
    minimum: float
    maximum: float
    median: float
    mean: float
    std: float


@dataclass(frozen=True)
class Comparison:
    """Two strategies over the seeds that both finished.

    Attributes:
        first: name of the one strategy.
        second: name of the other.
        n: common seeds.
        median_difference: median of first - second over the seeds, in the metric's unit.
        median_interval: 95 % bootstrap interval of the median difference.
        mean_difference: mean of first - second.
        mean_interval: 95 % bootstrap interval of the mean difference.
        effect_size: rank-biserial correlation: 1 if first - second is positive for every seed, -1 if for none.
        seeds_for_power: see the function; None where no number of seeds would do.
        p: two-sided, of Wilcoxon's signed-rank test; None where n is too small for any claim.
        p_holm: `p` corrected for the number of comparisons made together; None where `p` is.
        margin: how much worse the first may be and still count as not inferior; None where that is not asked.
        p_non_inferior: one-sided, of the hypothesis that the first is worse by the margin or more; corrected like `p_holm`
            where several comparisons are made together.
        higher_is_better: of the metric.
    """

    first: str
    second: str
    n: int
    median_difference: float
    median_interval: tuple[float, float]
    mean_difference: float
    mean_interval: tuple[float, float]
    effect_size: float
    seeds_for_power: int | None
    p: float | None
    p_holm: float | None
    margin: float | None
    p_non_inferior: float | None
    higher_is_better: bool

    @property
    def claim(self) -> str:
        """The sentence that the data bears."""
        if self.p is None:
            return f"no claim: n = {self.n} is too small, two-sided p < {LEVEL} needs at least {seeds_needed()} seeds"
        # What the test tells apart is the sum of ranks; median and mean may lie on the other side of zero.
        ahead = (self.effect_size > 0) == self.higher_is_better
        if self.p_holm < LEVEL and ahead:
            return f"{self.first} is significantly better than {self.second}"
        worse = self.p_holm < LEVEL
        text = f"{self.first} is significantly worse than {self.second}" if worse else "no significant difference"
        if self.p_non_inferior is not None and self.p_non_inferior < LEVEL:
            text += f"; {self.first} is not inferior by the margin of {self.margin:g}"
        return text


def summarize(values: Sequence[float]) -> Summary:
    """Summary of the values.

    Raises:
        ValueError: if there are none.
    """
    if not len(values):
        raise ValueError("A summary needs at least one value; got none.")
    v = np.asarray(values, "float64")
    std = float(v.std(ddof=1)) if len(v) > 1 else math.nan
    return Summary(len(v), float(v.min()), float(v.max()), float(np.median(v)), float(v.mean()), std)


def signed_rank_p(differences: Sequence[float], alternative: str = "two-sided") -> float:
    """Exact p-value of Wilcoxon's signed-rank test.

    Zeros are dropped, tied sizes get their mean rank, and the null distribution is that of the ranks at hand under all
    2^n sign flips, so it is exact with ties too.

    Args:
        differences: paired, one per seed.
        alternative: "two-sided", or "greater" for "the differences are above zero".

    Returns:
        The p-value; 1.0 where all differences are zero.

    Raises:
        ValueError: for another alternative, or a difference that is not finite.
    """
    if alternative not in ("two-sided", "greater"):
        raise ValueError(f"alternative is 'two-sided' or 'greater'. Got: {alternative!r}")
    signs, ranks = _signed_ranks(differences)
    null = np.ones(1)
    for rank in ranks:
        flipped = np.concatenate([null, np.zeros(rank)])
        flipped[rank:] += null
        null = flipped / 2
    w = ranks[signs > 0].sum()
    greater, less = null[w:].sum(), null[: w + 1].sum()
    return float(min(1.0, greater if alternative == "greater" else 2 * min(greater, less)))


def _signed_ranks(differences: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Of the differences that are not zero: their signs, and the ranks of their sizes, doubled."""
    d = np.asarray(differences, "float64")
    if not np.isfinite(d).all():
        raise ValueError(f"Differences are finite numbers. Got: {d[~np.isfinite(d)][0]} among {len(d)}.")
    # Differences that are equal on paper may differ in the last bits, and would lose their tie.
    d = np.round(d / np.abs(d).max(initial=np.finfo("float64").tiny), 9)
    d = d[d != 0]
    _, size, counts = np.unique(np.abs(d), return_inverse=True, return_counts=True)
    return np.sign(d), (2 * counts.cumsum() - counts + 1)[size]  # doubled: the mean ranks of ties are integers


def rank_biserial(differences: Sequence[float]) -> float:
    """The share of rank sums in favour of positive differences minus that of negative ones, from -1 to 1.

    Reference: Kerby, The simple difference formula: an approach to teaching nonparametric correlation, 2014.

    Raises:
        ValueError: for a difference that is not finite.
    """
    signs, ranks = _signed_ranks(differences)
    return float((signs * ranks).sum() / ranks.sum()) if len(ranks) else 0.0


def seeds_for_power(differences: Sequence[float], power: float = 0.8) -> int | None:
    """How many seeds would show a difference as large as this sample's, at `LEVEL`, two-sided, without correction.

    An approximation: that of the paired t test for normal differences, over .955, the signed-rank test's efficiency. The
    effect seen in few seeds is itself uncertain, so it is a hint for planning, and no result.

    Args:
        differences: paired, one per seed.
        power: the probability of showing it.

    Returns:
        At least `seeds_needed()`; None for fewer than two differences, or if their mean is zero.
    """
    d = np.asarray(differences, "float64")
    if len(d) < 2 or d.mean() == 0:
        return None
    quantiles = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(power)
    return max(seeds_needed(), math.ceil((quantiles * d.std(ddof=1) / d.mean()) ** 2 / 0.955))


def smallest_p(n: int, sides: int = 2) -> float:
    """The smallest p-value that n paired differences can reach: all have one sign."""
    return min(1.0, sides * 0.5**n)


def seeds_needed() -> int:
    """The fewest paired seeds whose smallest possible two-sided p-value lies below `LEVEL`."""
    return next(n for n in itertools.count(1) if smallest_p(n) < LEVEL)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method, in the order given.

    Reference: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[index]))
        corrected[index] = largest
    return corrected.tolist()


def bootstrap_interval(values: Sequence[float], statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    """95 % percentile bootstrap interval from 10,000 resamples; the same values give the same interval.

    Args:
        values: independent draws, e.g. one paired difference per seed.
        statistic: `np.mean`, `np.median` or the like; takes `axis`.

    Returns:
        Lower and upper end; NaN for fewer than two values.
    """
    v = np.asarray(values, "float64")
    if len(v) < 2:
        return math.nan, math.nan
    # Not `kmerge.seeds`: it would bring Keras into a process that only reads tables.
    picks = np.random.default_rng([len(v), _RESAMPLES]).integers(len(v), size=(_RESAMPLES, len(v)))
    low, high = np.quantile(statistic(v[picks], axis=1), [0.025, 0.975])
    return float(low), float(high)


def compare(
    first: str,
    second: str,
    values: Mapping[str, Mapping[int, float]],
    higher_is_better: bool,
    margin: float | None = None,
) -> Comparison:
    """Compare two strategies over the seeds that both have.

    Args:
        first: name of the one strategy.
        second: name of the other.
        values: per strategy and seed, the metric.
        higher_is_better: of the metric.
        margin: for the test of non-inferiority, positive, in the metric's unit; None for no such test.

    Returns:
        The comparison, not corrected for others: see `compare_all`.

    Raises:
        ValueError: if the margin is not positive, or no seed is common.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"A margin of non-inferiority is positive. Got: {margin}")
    seeds = sorted(values[first].keys() & values[second].keys())
    if not seeds:
        raise ValueError(f"{first} and {second} have no seed in common.")
    d = np.array([values[first][seed] - values[second][seed] for seed in seeds])
    p = signed_rank_p(d) if smallest_p(len(d)) < LEVEL else None
    p_margin = None
    if margin is not None and smallest_p(len(d), sides=1) < LEVEL:
        p_margin = signed_rank_p((d if higher_is_better else -d) + margin, "greater")
    return Comparison(
        first=first,
        second=second,
        n=len(d),
        median_difference=float(np.median(d)),
        median_interval=bootstrap_interval(d, np.median),
        mean_difference=float(d.mean()),
        mean_interval=bootstrap_interval(d, np.mean),
        effect_size=rank_biserial(d),
        seeds_for_power=seeds_for_power(d),
        p=p,
        p_holm=p,
        margin=margin,
        p_non_inferior=p_margin,
        higher_is_better=higher_is_better,
    )


def compare_all(
    reference: str,
    values: Mapping[str, Mapping[int, float]],
    higher_is_better: bool,
    margin: float | None = None,
) -> list[Comparison]:
    """Compare one strategy with each other one that shares a seed with it, corrected by Holm's method.

    Args:
        reference: name of the strategy that is compared.
        values: per strategy and seed, the metric.
        higher_is_better: of the metric.
        margin: as in `compare`.

    Returns:
        One comparison per other strategy, in the order of `values`.
    """
    others = [name for name in values if name != reference and values[name].keys() & values[reference].keys()]
    comparisons = [compare(reference, name, values, higher_is_better, margin) for name in others]
    for test, corrected in (("p", "p_holm"), ("p_non_inferior", "p_non_inferior")):
        tested = [i for i, c in enumerate(comparisons) if getattr(c, test) is not None]
        for i, p in zip(tested, holm([getattr(comparisons[i], test) for i in tested]), strict=True):
            comparisons[i] = replace(comparisons[i], **{corrected: p})
    return comparisons
