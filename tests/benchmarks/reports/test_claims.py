"""What is said of a protocol's rows: families, runs that are the same, and the verdict."""

import pytest

from benchmarks.reports.claims import Claims, claims, comparison_parts, listed, missing_control
from benchmarks.reports.summaries import writer

SEEDS = range(100, 107)


def rows(metric="accuracy", **strategies):
    """Rows of a protocol: of each strategy its test values, by name, or pairs of them and validation values."""
    found = []
    for strategy, values in strategies.items():
        for seed, value in zip(SEEDS, values, strict=False):
            test, validation = value if isinstance(value, tuple) else (value, value)
            row = {"strategy": strategy, "seed": seed, "status": "done", "metric": metric, "test_last": test, "extras": None}
            row |= {"test_best": test, "validation_last": validation, "validation_best": validation}
            found.append(row | {"teacher_epoch_equivalents": 60.0, "parameters": 9})
    return found


def series(start, step=0.001):
    return [start + step * number for number in range(len(SEEDS))]


def test_the_verdict_names_the_best_other_by_validation_and_what_the_family_bears():
    found = claims(
        rows(
            l0_merge=series(0.94),
            best_of_three=[(value, 1.0) for value in series(0.909)],  # the maximum of three: no better for that
            magnitude_merge=[(value, 0.99) for value in series(0.93, 0.002)],
            one_model=[(value, 0.98) for value in series(0.97)],
            ensemble=[(value, 1.0) for value in series(0.99)],  # no rival: twice the size
        ),
        {"reference": "l0_merge"},
    )
    assert found.verdict == (
        "Test accuracy: l0_merge 94.30 %, best other (by validation) magnitude_merge 93.60 %: ahead in 7 of 7 seeds; "
        "significantly better than best_of_three and magnitude_merge."
    )
    assert {c.second for c in found.comparisons if c.family == "primary"} == {"best_of_three", "magnitude_merge"}
    assert not found.is_declared


def test_the_verdict_of_losses_ties_and_few_seeds():
    values = {"l0_merge": series(0.9), "one_model_equal_compute": series(0.905), "restart": [0.8, 0.8]}
    values |= {"best_of_three": [0.9, 0.902, 0.901, 0.904, 0.903, 0.906, 0.905]}
    assert claims(rows(**values), {}).verdict == (
        "Test accuracy: l0_merge 90.30 %, best other (by validation) one_model_equal_compute 90.80 %: ahead in 0 of 7 seeds; "
        "significantly worse than one_model_equal_compute, no significant difference to best_of_three, "
        "not inferior by 1.00 to one_model_equal_compute and best_of_three, "
        "no claim: n = 2 is too small, two-sided p < 0.05 needs at least 6 seeds (restart)."
    )
    level = claims(rows("mse", a=[0.1, 0.2, 0.3], one_model=[0.1, 0.1, 0.5]), {"reference": "a", "primary": ["one_model"]})
    text = "Test mse: a 0.2000, best other (by validation) one_model 0.2333: ahead in 1 of 3 seeds, level in 1; no claim"
    assert level.verdict.startswith(text)
    assert claims(rows(a=[0.5]), {}).verdict == "Test accuracy: a 50.00 %; no primary comparison: all of this is exploration."
    assert claims([], {}) == Claims()


def test_the_best_other_is_chosen_and_shown_on_the_seeds_in_common():
    """A rival with one easy seed is not the best for that."""
    one = [(0.70, 0.70), (0.90, 0.90)]
    found = claims(rows(l0_merge=[0.8, 0.8], one_model=one, best_of_three=[(0.78, 0.78)]), {"reference": "l0_merge"})
    assert "best other (by validation) one_model 80.00 %: ahead in 1 of 2 seeds" in found.verdict
    found = claims(rows(l0_merge=[0.8, 0.9], best_of_three=[0.7]), {"reference": "l0_merge"})
    assert found.verdict.startswith("Test accuracy: l0_merge 80.00 %, best other (by validation) best_of_three 70.00 %")


def test_a_declared_family_is_the_family():
    values = rows(a=series(0.9), b=series(0.8), best_of_three=series(0.7), c=series(0.6))
    found = claims(values, {"reference": "a", "primary": ["b", "c"], "margin": 0.003})
    assert {c.second: (c.family, c.p_holm, c.margin) for c in found.comparisons} == {
        "b": ("primary", pytest.approx(4 / 2**7), 0.003),
        "c": ("primary", pytest.approx(4 / 2**7), 0.003),
        "best_of_three": ("exploration", None, 0.003),
    }
    heads = [(head, how) for head, how, _ in comparison_parts(found, writer("accuracy"))]
    assert heads == [
        (
            "Primary comparisons, declared in the suite's file",
            "Paired by seed, last epoch; p by Wilcoxon's signed-rank test, corrected by Holm's method:",
        ),
        (
            "Exploration",
            "Paired by seed, last epoch; p by Wilcoxon's signed-rank test, not corrected, so that nothing is claimed:",
        ),
    ]


@pytest.mark.parametrize("reference, first", [("c", "c"), (None, "a")])
def test_a_reference_that_nobody_declared_explores(reference, first):
    """One that is asked for afterwards, and the first with a result where the declared one has none."""
    values = rows(a=series(0.9), best_of_three=series(0.7), c=series(0.6))
    found = claims(values, {"reference": "l0_merge"}, reference)
    assert {c.first for c in found.comparisons} == {first}
    assert {c.family for c in found.comparisons} == {"exploration"} and "significantly" not in found.verdict


def test_runs_that_are_the_same_are_compared_once():
    values = series(0.8)
    own, others = {"l0_merge": series(0.9), "l0_merge_paper": series(0.9)}, {"channel": values, "best_of_three": values}
    same = rows(**own, **others, magnitude_merge=series(0.7))
    found = {c.second: c for c in claims(same, {"reference": "l0_merge"}).comparisons}
    assert found["l0_merge_paper"].same_as == "l0_merge" and found["l0_merge_paper"].p is None
    assert found["channel"].same_as == "best_of_three"  # the one of the family is tested
    assert found["best_of_three"].p_holm == pytest.approx(4 / 2**7)
    twins = claims(rows(l0_merge=series(0.9), best_of_three=values, restart=values), {"reference": "l0_merge"})
    assert [c.p_holm for c in twins.comparisons] == [pytest.approx(2 / 2**7), None]  # a family of one
    assert "better than best_of_three." in twins.verdict


@pytest.mark.parametrize("column, value", [("teacher_epoch_equivalents", 61.0), ("validation_last", 0.1), ("test_last", 0.1)])
def test_one_difference_makes_other_runs(column, value):
    values = rows(l0_merge=series(0.9), best_of_three=series(0.8), restart=series(0.8))
    values[-1][column] = value
    assert [c.same_as for c in claims(values, {"reference": "l0_merge"}).comparisons] == [None, None]


def test_a_merge_without_equal_compute_is_told():
    assert missing_control(rows(l0_merge=[0.9], one_model=[0.8])).startswith("No row of `one_model_equal_compute` here")
    assert missing_control(rows(l0_merge=[0.9], one_model_equal_compute=[0.8])) == "" == missing_control(rows(static_a=[0.9]))


def test_names_are_listed_as_people_do():
    assert [listed(names) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
