"""What suites declare to be compared: it is checked, and no run depends on it."""

import pytest

from benchmarks.records.store import RunFolder
from benchmarks.suites.suite import SuiteError, load_suite

COMPARED = "[comparisons]\nreference = 'l0_merge'\nprimary = ['best_of_three']\ntest = 't'\nmargin = 0.003\n"


def compared(tmp_path, table):
    """The digits with a table [comparisons]."""
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "digits"\n' + table)
    return load_suite(path)


def test_no_run_depends_on_what_is_compared(tmp_path):
    digits, declared = load_suite("digits"), compared(tmp_path, COMPARED)
    assert declared.definition == digits.definition and "comparisons" not in declared.definition
    assert digits.comparisons == {"reference": "l0_merge"}
    assert declared.comparisons == {"reference": "l0_merge", "primary": ["best_of_three"], "test": "t", "margin": 0.003}
    run = {"suite": "digits", "strategy": "one_model", "seed": 100, "scale": 1.0, "examples": None, "backend": "tensorflow"}
    runs = [RunFolder.of(tmp_path, {**run, "definition": suite.definition}) for suite in (digits, declared)]
    # As before suites could declare anything.
    assert {one.protocol for one in runs} == {"4601a851"} and runs[0].path == runs[1].path


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("reference = 'l0_merge'", "reference = 'l0_merg'", "reference: expected one of .*'l0_merg'. Did you mean l0_merge"),
        ("['best_of_three']", "['best_of_4']", "primary: expected one of .*'best_of_4'. Did you mean best_of_three"),
        ("['best_of_three']", "'best_of_three'", "primary: expected a list, received 'best_of_three'"),
        ("['best_of_three']", "['l0_merge']", "primary: expected rivals of l0_merge, each once, received 'l0_merge'"),
        ("['best_of_three']", "['one_model', 'one_model']", "each once, received 'one_model'"),
        ("test = 't'", "test = 'z'", "test: expected one of signed_rank, t, received 'z'"),
        ("margin = 0.003", "margin = 0.3", "margin: expected a share above 0 and below 0.1, received 0.3"),
        ("margin = 0.003", "margins = 0.003", r"\[comparisons\]: .*unknown keys \['margins'\]. Did you mean margin\?"),
    ],
)
def test_wrong_comparisons_are_refused(tmp_path, old, new, message):
    assert old in COMPARED
    with pytest.raises(SuiteError, match=message):
        compared(tmp_path, COMPARED.replace(old, new))


def test_a_suite_based_on_another_takes_its_comparisons(tmp_path):
    (tmp_path / "more.toml").write_text('based_on = "das_digits"\n[comparisons]\ntest = "t"')
    assert load_suite(tmp_path / "more.toml").comparisons == {
        "reference": "auto_sizing",
        "primary": ["static_a", "static_b"],
        "test": "t",
    }
