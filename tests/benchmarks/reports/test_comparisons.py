"""What is claimed of two strategies, and of a family of rivals."""

import numpy as np
import pytest

from benchmarks.reports import comparisons


def _values(n, shift, noise=0.002):
    rng = np.random.default_rng([n, 5])
    base = rng.uniform(0.8, 0.9, n)
    return {"a": dict(enumerate(base + shift)), "b": dict(enumerate(base + rng.normal(0, noise, n)))}


def test_a_clear_difference_is_claimed_in_the_right_direction():
    for shift, better, word in [(0.05, True, "better"), (0.05, False, "worse"), (-0.05, False, "better")]:
        comparison = comparisons.compare("a", "b", _values(10, shift), better)
        assert comparison.claim == f"a is significantly {word} than b"
        assert comparison.p == pytest.approx(2 / 1024)
        assert comparison.mean_interval[0] < comparison.mean_difference < comparison.mean_interval[1]


def test_five_seeds_never_bear_a_claim():
    comparison = comparisons.compare("a", "b", _values(5, 0.5), True)
    assert comparison.p is None and comparison.p_holm is None
    assert comparison.claim == "no claim: n = 5 is too small, two-sided p < 0.05 needs at least 6 seeds"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_non_inferiority_depends_on_the_margin_and_the_direction(higher_is_better):
    worse = -0.005 if higher_is_better else 0.005
    values = _values(10, worse)
    within = comparisons.compare("a", "b", values, higher_is_better, margin=0.01)
    beyond = comparisons.compare("a", "b", values, higher_is_better, margin=0.004)
    assert within.p_non_inferior < 0.05 < beyond.p_non_inferior
    assert within.claim == "a is significantly worse than b; a is not inferior by the margin of 0.01"
    assert beyond.claim == "a is significantly worse than b"


def test_equal_strategies_are_not_inferior_but_not_different():
    values = {"a": dict.fromkeys(range(8), 0.9), "b": dict.fromkeys(range(8), 0.9)}
    comparison = comparisons.compare("a", "b", values, True, margin=0.01)
    assert comparison.p == 1.0
    assert comparison.claim == "no significant difference; a is not inferior by the margin of 0.01"


def test_only_common_seeds_are_compared():
    values = {"a": {1: 0.5, 2: 0.6, 3: 0.7}, "b": {2: 0.5, 3: 0.5, 4: 0.0}}
    comparison = comparisons.compare("a", "b", values, True)
    assert comparison.n == 2
    assert comparison.mean_difference == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no seed in common"):
        comparisons.compare("a", "b", {"a": {1: 0.5}, "b": {2: 0.5}}, True)
    with pytest.raises(ValueError, match="Got: -1"):
        comparisons.compare("a", "b", values, True, margin=-1)


def test_comparing_with_all_others_corrects_for_their_number():
    values = _values(10, 0.05)
    values["c"] = {seed: value - 0.1 for seed, value in values["b"].items()}
    values["few"] = {0: 0.1, 1: 0.1}
    values["stranger"] = {99: 0.5}
    found = {c.second: c for c in comparisons.compare_all("a", values, True)}
    assert found.keys() == {"b", "c", "few"}
    assert found["b"].p_holm == pytest.approx(2 * found["b"].p)
    assert found["few"].p_holm is None


def test_the_claim_goes_with_the_test_where_the_median_lies_on_the_other_side():
    """Sixteen small losses and fourteen large gains: the ranks are for the gains."""
    differences = [-1e-4 * (i + 1) for i in range(16)] + [0.01 + 1e-3 * i for i in range(14)]
    values = {"a": dict(enumerate(differences)), "b": dict.fromkeys(range(30), 0.0)}
    comparison = comparisons.compare("a", "b", values, higher_is_better=True)
    assert comparison.p < 0.05 and comparison.median_difference < 0 < comparison.effect_size
    assert comparison.claim == "a is significantly better than b"
    assert comparisons.compare("a", "b", values, higher_is_better=False).claim == "a is significantly worse than b"


def test_claims_of_non_inferiority_are_corrected_for_their_number():
    values = _values(10, 0.0)
    alone = comparisons.compare_all("a", values, True, margin=0.01)[0]
    rivals = {f"b{i}": values["b"] for i in range(60)}
    several = comparisons.compare_all("a", {"a": values["a"], **rivals}, True, margin=0.01)
    assert "not inferior" in alone.claim
    assert all(c.p_non_inferior == pytest.approx(60 * alone.p_non_inferior) for c in several)
    assert not any("not inferior" in c.claim for c in several)


def test_five_seeds_bear_a_claim_by_a_declared_t_test():
    base = {"a": dict.fromkeys(range(5), 0.61), "b": dict(enumerate([0.63, 0.64, 0.635, 0.645, 0.636]))}
    found = comparisons.compare("a", "b", base, True, margin=0.01, test="t")
    # mean -.0272, deviation .0056303: t = -10.80 at 4 degrees of freedom
    assert found.p == pytest.approx(0.000417, rel=1e-2) and found.p_non_inferior > 0.99
    assert found.mean_interval == pytest.approx((-0.0342, -0.0202), abs=1e-4)
    assert found.claim == "a is significantly worse than b"
    assert comparisons.compare("b", "a", base, True, test="t").claim == "b is significantly better than a"
    alike = comparisons.compare("a", "b", {"a": {0: 0.5, 1: 0.6}, "b": {0: 0.4, 1: 0.5}}, True, test="t")
    assert alike.p is None and alike.claim.startswith("no claim: the differences do not vary over the seeds")
    assert "at least 2 seeds" in comparisons.compare("a", "b", {"a": {0: 0.5}, "b": {0: 0.4}}, True, test="t").claim
    with pytest.raises(ValueError, match="signed_rank, t. Got: 'z'"):
        comparisons.compare("a", "b", base, True, test="z")


def test_holm_runs_over_the_primary_family_alone():
    """Seven seeds, all ahead: p = 2 / 2^7. Two primary rivals double it, whatever else was run."""
    values = {"a": {seed: 0.9 + 0.001 * seed for seed in range(7)}}
    for number, name in enumerate(("b", "c", "x", "y", "z")):
        values[name] = {seed: value - 0.1 - 0.01 * number * (seed % 2) for seed, value in values["a"].items()}
    found = {c.second: c for c in comparisons.compare_all("a", values, True, margin=0.01, primary=["b", "c", "not run"])}
    assert [found[name].family for name in values if name != "a"] == ["primary"] * 2 + ["exploration"] * 3
    for name in ("b", "c"):
        assert found[name].p == 2 / 2**7 and found[name].p_holm == 4 / 2**7
        assert found[name].p_non_inferior == 2 / 2**7  # one-sided 1 / 2^7, for two
        assert found[name].claim == f"a is significantly better than {name}"
    for name in ("x", "y", "z"):
        assert found[name].p == 2 / 2**7 and found[name].p_holm is None and not found[name].is_significant
        assert found[name].p_non_inferior == 1 / 2**7
        assert found[name].claim == f"exploration: a is ahead of {name}, before correction"


def test_exploration_never_speaks_of_significance():
    values = _values(10, 0.0)
    for shift in (-0.05, 0.0, 0.05):
        shifted = values | {"a": {seed: value + shift for seed, value in values["a"].items()}}
        (found,) = comparisons.compare_all("a", shifted, True, margin=0.01, primary=())
        assert found.claim.startswith("exploration: ") and "significant" not in found.claim


def test_the_same_runs_count_once():
    values = _values(10, 0.05)
    values |= {"twin": values["b"], "c": {seed: value - 0.1 for seed, value in values["b"].items()}}
    found = {c.second: c for c in comparisons.compare_all("a", values, True, same_as={"twin": "b"})}
    assert found["b"].p_holm == pytest.approx(2 * found["b"].p)
    assert found["twin"].p is None and found["twin"].p_holm is None
    assert found["twin"].claim == "the values of b in every common seed, at its cost: counted once"


def test_what_is_not_worse_than_the_best_could_have_been_found_worse():
    """Of fifty rivals in ten seeds a corrected test finds none worse."""
    rng = np.random.default_rng(0)
    best = dict(enumerate(rng.normal(0.9, 0.01, 10)))
    rivals = {f"far_{i}": {seed: value - 0.1 for seed, value in best.items()} for i in range(50)}
    near = {seed: value + (-1) ** seed * 0.01 - 1e-4 for seed, value in best.items()}
    few = {seed: best[seed] - 0.001 for seed in range(5)}  # no test
    values = {**rivals, "near": near, "few": few, "best": best}
    assert comparisons.not_worse(values, higher_is_better=True) == ["best", "near"]
    assert comparisons.not_worse({name: values[name] for name in ("best", "far_1")}, higher_is_better=False) == ["far_1"]
