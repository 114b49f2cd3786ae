"""Statistics against SciPy, against enumeration, and against what must hold for any data."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.reports import statistics


def test_summary_of_known_values():
    assert statistics.summarize([3.0, 1.0, 2.0, 10.0]) == statistics.Summary(4, 1.0, 10.0, 2.5, 4.0, math.sqrt(50 / 3))


def test_summary_of_one_value_has_no_deviation():
    summary = statistics.summarize([0.5])
    assert (summary.n, summary.minimum, summary.maximum, summary.median, summary.mean) == (1, 0.5, 0.5, 0.5, 0.5)
    assert math.isnan(summary.std)


def test_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        statistics.summarize([])


@pytest.mark.parametrize("n", [6, 10, 30, 60])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_signed_rank_agrees_with_scipy_where_there_are_no_ties(n, alternative):
    d = np.random.default_rng([n, 7]).normal(0.3, 1.0, n)
    expected = stats.wilcoxon(d, alternative=alternative, method="exact").pvalue
    assert statistics.signed_rank_p(d, alternative) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_signed_rank_is_exact_with_ties_and_zeros(values):
    """All 2^n sign flips, counted one by one."""
    d = np.array([v for v in values if v], float)
    ranks = stats.rankdata(np.abs(d))
    flips = [np.dot(flip, ranks) for flip in itertools.product([0, 1], repeat=len(d))]
    w = ranks[d > 0].sum()
    greater, less = np.mean([f >= w for f in flips]), np.mean([f <= w for f in flips])
    scaled = [0.1 * v for v in values]  # 0.1 * 3 is not 0.3: the ties must survive rounding
    assert statistics.signed_rank_p(scaled, "greater") == pytest.approx(greater)
    assert statistics.signed_rank_p(scaled) == pytest.approx(min(1, 2 * min(greater, less)))


def test_signed_rank_of_equal_strategies_is_one():
    assert statistics.signed_rank_p([0.0] * 8) == 1.0


def test_signed_rank_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="nan"):
        statistics.signed_rank_p([0.1, float("nan")])
    with pytest.raises(ValueError, match="'less'"):
        statistics.signed_rank_p([0.1], "less")


def test_smallest_p_is_the_known_table():
    assert [statistics.smallest_p(n) for n in (5, 6, 10)] == [0.0625, 0.03125, 2 / 1024]
    assert statistics.seeds_needed() == 6
    assert statistics.smallest_p(5, sides=1) == 1 / 32


def test_holm_of_a_worked_example():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p):
    corrected = statistics.holm(p)
    assert all(c >= q for c, q in zip(corrected, p, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_bootstrap_interval_holds_the_mean_and_shrinks():
    rng = np.random.default_rng([1, 2, 3])
    few, many = rng.normal(2.0, 1.0, 20), rng.normal(2.0, 1.0, 2000)
    narrow, wide = statistics.bootstrap_interval(many, np.mean), statistics.bootstrap_interval(few, np.mean)
    assert narrow[0] < many.mean() < narrow[1]
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])
    assert statistics.bootstrap_interval(few, np.mean) == wide
    low, high = statistics.bootstrap_interval(few, np.median)
    assert low <= np.median(few) <= high
    assert all(math.isnan(end) for end in statistics.bootstrap_interval([1.0], np.mean))


def test_effect_size_is_the_share_of_ranks_for_minus_those_against():
    assert statistics.rank_biserial([1.0, 2.0, 3.0]) == 1.0
    assert statistics.rank_biserial([-1.0, -2.0]) == -1.0
    assert statistics.rank_biserial([1.0, -2.0, 3.0]) == pytest.approx((1 + 3 - 2) / 6)
    assert statistics.rank_biserial([2.0, -2.0, 0.0]) == 0.0
    assert statistics.rank_biserial([0.0, 0.0]) == 0.0


def test_seeds_for_power_show_such_a_difference_about_as_often_as_they_should():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=2000)
    sample = 0.6 + (sample - sample.mean()) / sample.std(ddof=1)
    needed = statistics.seeds_for_power(sample)
    shown = [statistics.signed_rank_p(rng.normal(0.6, 1, size=needed)) < statistics.LEVEL for _ in range(300)]
    assert 0.72 < np.mean(shown) < 0.88
    assert statistics.seeds_for_power(-sample) == needed
    assert statistics.seeds_for_power([1.0, 1.001]) == statistics.seeds_needed()
    assert statistics.seeds_for_power([1.0]) is None and statistics.seeds_for_power([1.0, -1.0]) is None


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_the_t_test_agrees_with_scipys(n, alternative):
    d = np.random.default_rng([n, 8]).normal(0.3, 1.0, n)
    found = stats.ttest_1samp(d, 0.0, alternative=alternative)
    assert statistics.t_p(d, alternative) == pytest.approx(found.pvalue, rel=1e-9)
    assert statistics.t_interval(d) == pytest.approx(tuple(stats.ttest_1samp(d, 0.0).confidence_interval()), rel=1e-9)


def test_the_t_test_of_known_numbers():
    """Student's own: extra hours of sleep by one drug over another, ten patients; and 2 degrees of freedom by hand."""
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert statistics.t_p(sleep) == pytest.approx(0.00283289, rel=1e-5)
    assert statistics.t_interval(sleep) == pytest.approx((0.7001142, 2.4598858), rel=1e-6)
    t = 2.0 * math.sqrt(3)  # of 1, 2 and 3: mean 2, deviation 1
    assert statistics.t_p([1.0, 2.0, 3.0]) == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)
    assert statistics.t_p([-1.0, -2.0, -3.0], "greater") == pytest.approx(1 - statistics.t_p([1.0, 2.0, 3.0]) / 2)


def test_a_t_test_without_spread_says_nothing():
    assert statistics.t_p([0.1 + 0.2, 0.3, 0.3]) is None and statistics.t_p([0.5]) is None
    assert statistics.t_p([0.0, 0.0]) == 1.0
    assert all(math.isnan(end) for end in statistics.t_interval([0.5]))


def test_seeds_for_power_fit_the_test():
    """As many as give the exact power of the t-test, or one more or fewer; the signed-rank test needs at least six."""
    for effect in (0.4, 1.0, 2.0, 4.0):
        d = np.array([effect - 1, effect, effect + 1])
        needed = statistics.seeds_for_power(d, test="t")

        def power(n, effect=effect):
            critical, shift = stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
            return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)

        exact = next(n for n in range(2, 200) if power(n) >= 0.8)
        assert abs(needed - exact) <= 1
    assert statistics.seeds_for_power([3.0, 4.0, 5.0], test="t") < 6 == statistics.seeds_for_power([3.0, 4.0, 5.0])
