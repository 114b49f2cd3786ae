"""Summaries, and tests and intervals of paired differences.

Tests are Wilcoxon's signed-rank test with its exact null distribution, ties included, and the paired t-test. Below some
number of seeds no result of the former could reach a level of .05, however large the difference.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.05
_RESAMPLES = 10_000
_RESAMPLES_OF_CURVES = 2_000
# Ashman's D of two heaps, and how many values show any: so one normal sample in 70 looks like two heaps.
_HEAPS, _FEWEST_FOR_HEAPS = 5.0, 20


@dataclass(frozen=True)
class Summary:
    """Of `n` values: minimum, maximum, median, mean and standard deviation (n - 1; NaN for one value)."""

    n: int
    minimum: float
    maximum: float
    median: float
    mean: float
    std: float


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
    2^n sign flips, so it is exact with ties too. Without ties it is SciPy's.

    Args:
        differences: paired, one per seed.
        alternative: "two-sided", or "greater" for "the differences are above zero".

    Returns:
        The p-value; 1.0 where all differences are zero.

    Raises:
        ValueError: for another alternative, or a difference that is not finite.
    """
    signs, ranks = _signed_ranks(_checked(differences, alternative))
    if len(np.unique(ranks)) == len(ranks) > 0:
        from scipy.stats import wilcoxon  # here, because most of what reads tables tests nothing

        return float(wilcoxon(signs * ranks, alternative=alternative, method="exact").pvalue)
    # With ties SciPy's exact distribution does not hold, and its permutations are too many from 20 seeds on.
    null = np.ones(1)
    for rank in ranks:
        flipped = np.concatenate([null, np.zeros(rank)])
        flipped[rank:] += null
        null = flipped / 2
    w = ranks[signs > 0].sum()
    greater, less = null[w:].sum(), null[: w + 1].sum()
    return float(min(1.0, greater if alternative == "greater" else 2 * min(greater, less)))


def _checked(differences: Sequence[float], alternative: str = "two-sided") -> np.ndarray:
    if alternative not in ("two-sided", "greater"):
        raise ValueError(f"alternative is 'two-sided' or 'greater'. Got: {alternative!r}")
    d = np.asarray(differences, "float64")
    if not np.isfinite(d).all():
        raise ValueError(f"Differences are finite numbers. Got: {d[~np.isfinite(d)][0]} among {len(d)}.")
    return d


def _signed_ranks(differences: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Of the differences that are not zero: their signs, and the ranks of their sizes, doubled."""
    d = _checked(differences)
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


def t_p(differences: Sequence[float], alternative: str = "two-sided") -> float | None:
    """p-value of the paired t-test, which takes the differences for normal.

    Args:
        differences: paired, one per seed.
        alternative: "two-sided", or "greater" for "the differences are above zero".

    Returns:
        The p-value; 1.0 where all differences are zero; None for fewer than two, or where they are all the same otherwise:
        their spread, which the test goes by, is then unknown or nothing.

    Raises:
        ValueError: for another alternative, or a difference that is not finite.
    """
    d = _checked(differences, alternative)
    if len(d) < 2 or not d.any():
        return None if len(d) < 2 else 1.0
    if not _varies(d):
        return None
    from scipy.stats import ttest_1samp  # here, because only a declared t-test needs it

    return float(ttest_1samp(d, 0.0, alternative=alternative).pvalue)


def _varies(differences: np.ndarray) -> bool:
    """Whether they are more apart than in the last bits, in which even what is equal on paper may differ."""
    return bool(differences.std(ddof=1) > 1e-9 * np.abs(differences).max())


def t_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; NaN for fewer than two values."""
    d = np.asarray(differences, "float64")
    if len(d) < 2:
        return math.nan, math.nan
    if not _varies(d):
        return float(d.mean()), float(d.mean())
    from scipy.stats import ttest_1samp

    return tuple(map(float, ttest_1samp(d, 0.0).confidence_interval(1 - LEVEL)))


def seeds_for_power(differences: Sequence[float], power: float = 0.8, test: str = "signed_rank") -> int | None:
    """How many seeds would show a difference as large as this sample's, at `LEVEL`, two-sided, without correction.

    An approximation for normal differences: that of the paired t-test with the quantiles of Student's distribution, or for
    the signed-rank test with those of the normal one, over .955, its efficiency. The effect seen in few seeds is itself
    uncertain, so it is a hint for planning, and no result.

    Args:
        differences: paired, one per seed.
        power: the probability of showing it.
        test: "signed_rank" or "t".

    Returns:
        At least `seeds_needed()`, or 2 for the t-test; None for fewer than two differences, or if their mean is zero.
    """
    d = np.asarray(differences, "float64")
    if len(d) < 2 or d.mean() == 0:
        return None
    spread = d.std(ddof=1) / abs(d.mean())
    normal = ((NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(power)) * spread) ** 2
    if test == "signed_rank":
        return max(seeds_needed(), math.ceil(normal / 0.955))
    from scipy.special import stdtrit

    return next(
        n
        for n in itertools.count(max(2, math.ceil(normal)))
        if n >= ((stdtrit(n - 1, 1 - LEVEL / 2) + stdtrit(n - 1, power)) * spread) ** 2
    )


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
    from scipy.stats import bootstrap

    # Not `kmerge.seeds`: it would bring Keras into a process that only reads tables.
    rng = np.random.default_rng([len(v), _RESAMPLES])
    drawn = bootstrap((v,), statistic, n_resamples=_RESAMPLES, vectorized=True, method="percentile", rng=rng)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def mean_intervals(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals of many means at once, from 2,000 resamples of the runs.

    Args:
        values: shape `(runs, points)`.

    Returns:
        Lower and upper ends, shape `(points,)`; the mean itself for one run.
    """
    runs = len(values)
    counts = np.random.default_rng([runs, _RESAMPLES_OF_CURVES]).multinomial(
        runs, [1 / runs] * runs, _RESAMPLES_OF_CURVES
    )
    low, high = np.quantile(counts @ values / runs, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return low, high


def is_bimodal(values: Sequence[float]) -> bool:
    """Whether values fall in two heaps: a guide for what to draw, and no test.

    At least 20 values are parted where the squares within the two groups sum to least. They are heaps if each has a tenth
    of the values, and Ashman's D, the distance of the means over the root mean square of the deviations, is above 5. That of
    two halves of a uniform distribution is 3.5.

    Reference: Ashman, Bird and Zepf, Detecting bimodality in astronomical datasets, 1994.
    """
    v = np.sort(np.asarray(values, "float64"))
    if len(v) < _FEWEST_FOR_HEAPS:
        return False
    fewest = math.ceil(len(v) / 10)
    parted = [(v[:i], v[i:]) for i in range(fewest, len(v) - fewest + 1)]
    low, high = min(parted, key=lambda pair: sum(len(part) * part.var() for part in pair))
    return bool(high.mean() - low.mean() > _HEAPS * math.sqrt((low.var() + high.var()) / 2))
