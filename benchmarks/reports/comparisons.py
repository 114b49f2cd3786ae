"""Two strategies compared, and a family of such comparisons.

They are compared seed by seed: both saw the same data, split and teachers, so the differences are paired. The test is
Wilcoxon's signed-rank test, or the paired t-test where the suite's file declares it. Where a test can say nothing, as the
former of fewer than six seeds, no claim is made, and the text says why.

Claims are made of the *primary* family alone, corrected for its size by Holm's method. All other comparisons are
*exploration*: their p-values are as they are, and say where to look next.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.reports.statistics import (
    LEVEL,
    bootstrap_interval,
    holm,
    rank_biserial,
    seeds_for_power,
    seeds_needed,
    signed_rank_p,
    smallest_p,
    t_interval,
    t_p,
)
from benchmarks.suites.schema import TESTS


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
        mean_interval: 95 % interval of the mean difference: Student's for the t-test, otherwise by bootstrap.
        effect_size: rank-biserial correlation: 1 if first - second is positive for every seed, -1 if for none.
        seeds_for_power: see the function; None where no number of seeds would do.
        p: two-sided, of the test; None where it can say nothing.
        p_holm: `p` corrected for the size of the primary family; None where `p` is, and in exploration.
        margin: how much worse the first may be and still count as not inferior; None where that is not asked.
        p_non_inferior: one-sided, of the hypothesis that the first is worse by the margin or more; corrected in the primary
            family, not in exploration.
        higher_is_better: of the metric.
        test: "signed_rank" or "t".
        family: "primary" or "exploration".
        same_as: the strategy whose runs the second's are, value by value, and with which it is counted; None for its own.
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
    test: str = "signed_rank"
    family: str = "primary"
    same_as: str | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether what the test goes by is in favour of the first strategy."""
        # The signed-rank test tells apart sums of ranks; median and mean may lie on the other side of zero.
        measure = self.mean_difference if self.test == "t" else self.effect_size
        return (measure > 0) == self.higher_is_better

    @property
    def is_significant(self) -> bool:
        """Whether a difference may be claimed: in the primary family alone."""
        return self.p_holm is not None and self.p_holm < LEVEL

    @property
    def is_not_inferior(self) -> bool:
        """Whether the test of non-inferiority says so, at the level; in exploration that is no claim."""
        return self.p_non_inferior is not None and self.p_non_inferior < LEVEL

    @property
    def claim(self) -> str:
        """The sentence that the data bears."""
        if self.same_as is not None:
            return f"the values of {self.same_as} in every common seed, at its cost: counted once"
        if self.p is None:
            return f"no claim: {_why_no_test(self.test, self.n)}"
        if self.family == "exploration":
            where = f"{self.first} is {'ahead of' if self.is_ahead else 'behind'} {self.second}, before correction"
            return f"exploration: {where if self.p < LEVEL else 'no difference shows'}"
        text = "no significant difference"
        if self.is_significant and self.is_ahead:
            return f"{self.first} is significantly better than {self.second}"
        if self.is_significant:
            text = f"{self.first} is significantly worse than {self.second}"
        if self.is_not_inferior:
            text += f"; {self.first} is not inferior by the margin of {self.margin:g}"
        return text


def _why_no_test(test: str, n: int) -> str:
    if test == "signed_rank":
        return f"n = {n} is too small, two-sided p < {LEVEL} needs at least {seeds_needed()} seeds"
    if n < 2:
        return f"n = {n} is too small, the t-test needs at least 2 seeds"
    return "the differences do not vary over the seeds, and the t-test goes by how much they do"


def compare(
    first: str,
    second: str,
    values: Mapping[str, Mapping[int, float]],
    higher_is_better: bool,
    margin: float | None = None,
    test: str = "signed_rank",
) -> Comparison:
    """Compare two strategies over the seeds that both have.

    Args:
        first: name of the one strategy.
        second: name of the other.
        values: per strategy and seed, the metric.
        higher_is_better: of the metric.
        margin: for the test of non-inferiority, positive, in the metric's unit; None for no such test.
        test: "signed_rank", or "t" for the paired t-test.

    Returns:
        The comparison, not corrected for others: see `compare_all`.

    Raises:
        ValueError: if the margin is not positive, no seed is common, or there is no such test.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"A margin of non-inferiority is positive. Got: {margin}")
    if test not in TESTS:
        raise ValueError(f"test is one of {', '.join(TESTS)}. Got: {test!r}")
    seeds = sorted(values[first].keys() & values[second].keys())
    if not seeds:
        raise ValueError(f"{first} and {second} have no seed in common.")
    d = np.array([values[first][seed] - values[second][seed] for seed in seeds])
    p = _p(d, test)
    return Comparison(
        first=first,
        second=second,
        n=len(d),
        median_difference=float(np.median(d)),
        median_interval=bootstrap_interval(d, np.median),
        mean_difference=float(d.mean()),
        mean_interval=t_interval(d) if test == "t" else bootstrap_interval(d, np.mean),
        effect_size=rank_biserial(d),
        seeds_for_power=seeds_for_power(d, test=test),
        p=p,
        p_holm=p,
        margin=margin,
        p_non_inferior=None if margin is None else _p((d if higher_is_better else -d) + margin, test, "greater"),
        higher_is_better=higher_is_better,
        test=test,
    )


def _p(differences: np.ndarray, test: str, alternative: str = "two-sided") -> float | None:
    """The p-value; None where the number of seeds or their spread lets the test say nothing."""
    if test == "t":
        return t_p(differences, alternative)
    sides = 1 if alternative == "greater" else 2
    return signed_rank_p(differences, alternative) if smallest_p(len(differences), sides) < LEVEL else None


def not_worse(values: Mapping[str, Mapping[int, float]], higher_is_better: bool, test: str = "signed_rank") -> list[str]:
    """The strategy of the best mean, and those that a test against it does not find worse.

    The best one is chosen by the values that are then tested, so this is a guide for the eye, and no claim. The test is not
    corrected for the number of strategies: that would call more of them as good as the best, and of many all.

    Args:
        values: per strategy and seed, the metric.
        higher_is_better: of the metric.
        test: as in `compare`.

    Returns:
        Their names, the best one first. Strategies with too few common seeds for the test are not among them.
    """
    sign = 1 if higher_is_better else -1
    best = max(values, key=lambda name: sign * np.mean(list(values[name].values())))
    found = [best]
    for name in values:
        seeds = sorted(values[best].keys() & values[name].keys())
        if name != best and seeds:
            p = _p(np.array([values[best][seed] - values[name][seed] for seed in seeds]), test)
            found += [name] if p is not None and p >= LEVEL else []
    return found


def compare_all(
    reference: str,
    values: Mapping[str, Mapping[int, float]],
    higher_is_better: bool,
    margin: float | None = None,
    *,
    test: str = "signed_rank",
    primary: Collection[str] | None = None,
    same_as: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Compare one strategy with each other one that shares a seed with it.

    Args:
        reference: name of the strategy that is compared.
        values: per strategy and seed, the metric.
        higher_is_better: of the metric.
        margin: as in `compare`.
        test: as in `compare`.
        primary: the rivals of the primary family, which Holm's method corrects; None for all.
        same_as: rivals whose runs are those of another strategy, and of which; these are not tested again.

    Returns:
        One comparison per other strategy, in the order of `values`.
    """
    comparisons = []
    for name in values:
        if name == reference or not values[name].keys() & values[reference].keys():
            continue
        c = compare(reference, name, values, higher_is_better, margin, test)
        if primary is not None and name not in primary:
            c = replace(c, family="exploration", p_holm=None)
        if name in (same_as or {}):
            c = replace(c, same_as=same_as[name], p=None, p_holm=None, p_non_inferior=None)
        comparisons.append(c)
    for own, corrected in (("p", "p_holm"), ("p_non_inferior", "p_non_inferior")):
        tested = [i for i, c in enumerate(comparisons) if c.family == "primary" and getattr(c, own) is not None]
        for i, p in zip(tested, holm([getattr(comparisons[i], own) for i in tested]), strict=True):
            comparisons[i] = replace(comparisons[i], **{corrected: p})
    return comparisons
