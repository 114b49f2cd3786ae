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


def _values(n, shift, noise=0.002):
    rng = np.random.default_rng([n, 5])
    base = rng.uniform(0.8, 0.9, n)
    return {"a": dict(enumerate(base + shift)), "b": dict(enumerate(base + rng.normal(0, noise, n)))}


def test_a_clear_difference_is_claimed_in_the_right_direction():
    for shift, better, word in [(0.05, True, "better"), (0.05, False, "worse"), (-0.05, False, "better")]:
        comparison = statistics.compare("a", "b", _values(10, shift), better)
        assert comparison.claim == f"a is significantly {word} than b"
        assert comparison.p == pytest.approx(2 / 1024)
        assert comparison.mean_interval[0] < comparison.mean_difference < comparison.mean_interval[1]


def test_five_seeds_never_bear_a_claim():
    comparison = statistics.compare("a", "b", _values(5, 0.5), True)
    assert comparison.p is None and comparison.p_holm is None
    assert comparison.claim == "no claim: n = 5 is too small, two-sided p < 0.05 needs at least 6 seeds"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_non_inferiority_depends_on_the_margin_and_the_direction(higher_is_better):
    worse = -0.005 if higher_is_better else 0.005
    values = _values(10, worse)
    within = statistics.compare("a", "b", values, higher_is_better, margin=0.01)
    beyond = statistics.compare("a", "b", values, higher_is_better, margin=0.004)
    assert within.p_non_inferior < 0.05 < beyond.p_non_inferior
    assert within.claim == "a is significantly worse than b; a is not inferior by the margin of 0.01"
    assert beyond.claim == "a is significantly worse than b"


def test_equal_strategies_are_not_inferior_but_not_different():
    values = {"a": dict.fromkeys(range(8), 0.9), "b": dict.fromkeys(range(8), 0.9)}
    comparison = statistics.compare("a", "b", values, True, margin=0.01)
    assert comparison.p == 1.0
    assert comparison.claim == "no significant difference; a is not inferior by the margin of 0.01"


def test_only_common_seeds_are_compared():
    values = {"a": {1: 0.5, 2: 0.6, 3: 0.7}, "b": {2: 0.5, 3: 0.5, 4: 0.0}}
    comparison = statistics.compare("a", "b", values, True)
    assert comparison.n == 2
    assert comparison.mean_difference == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no seed in common"):
        statistics.compare("a", "b", {"a": {1: 0.5}, "b": {2: 0.5}}, True)
    with pytest.raises(ValueError, match="Got: -1"):
        statistics.compare("a", "b", values, True, margin=-1)


def test_comparing_with_all_others_corrects_for_their_number():
    values = _values(10, 0.05)
    values["c"] = {seed: value - 0.1 for seed, value in values["b"].items()}
    values["few"] = {0: 0.1, 1: 0.1}
    values["stranger"] = {99: 0.5}
    comparisons = {c.second: c for c in statistics.compare_all("a", values, True)}
    assert comparisons.keys() == {"b", "c", "few"}
    assert comparisons["b"].p_holm == pytest.approx(2 * comparisons["b"].p)
    assert comparisons["few"].p_holm is None


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
    shown = [statistics.signed_rank_p(rng.normal(0.6, 1, size=needed)) < statistics.LEVEL for _ in range(1000)]
    assert 0.74 < np.mean(shown) < 0.86
    assert statistics.seeds_for_power(-sample) == needed
    assert statistics.seeds_for_power([1.0, 1.001]) == statistics.seeds_needed()
    assert statistics.seeds_for_power([1.0]) is None and statistics.seeds_for_power([1.0, -1.0]) is None


def test_the_claim_goes_with_the_test_where_the_median_lies_on_the_other_side():
    """Sixteen small losses and fourteen large gains: the ranks are for the gains."""
    differences = [-1e-4 * (i + 1) for i in range(16)] + [0.01 + 1e-3 * i for i in range(14)]
    values = {"a": dict(enumerate(differences)), "b": dict.fromkeys(range(30), 0.0)}
    comparison = statistics.compare("a", "b", values, higher_is_better=True)
    assert comparison.p < 0.05 and comparison.median_difference < 0 < comparison.effect_size
    assert comparison.claim == "a is significantly better than b"
    assert statistics.compare("a", "b", values, higher_is_better=False).claim == "a is significantly worse than b"


def test_claims_of_non_inferiority_are_corrected_for_their_number():
    values = _values(10, 0.0)
    alone = statistics.compare_all("a", values, True, margin=0.01)[0]
    rivals = {f"b{i}": values["b"] for i in range(60)}
    several = statistics.compare_all("a", {"a": values["a"], **rivals}, True, margin=0.01)
    assert "not inferior" in alone.claim
    assert all(c.p_non_inferior == pytest.approx(60 * alone.p_non_inferior) for c in several)
    assert not any("not inferior" in c.claim for c in several)
