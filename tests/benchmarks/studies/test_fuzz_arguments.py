"""Wrong arguments of public functions: a seeded sample of what `python -m benchmarks.studies.fuzz_arguments` tries in full."""

import numpy as np

from benchmarks.studies import fuzz_targets
from benchmarks.studies.fuzz_arguments import attack, is_fault, wrong_values

# Those that compile a program, or run a model many times.
SLOW = {"latency", "merge_pairwise", "merge_report", "recalibrate", "compare", "prune compensated", "prune_iteratively"}
SLOW |= {"unit_importance taylor", "unit_importance hessian", "AutoSizer.predict", "AutoSizer.evaluate"}


def is_quick(target):
    return target not in SLOW and not target.removeprefix("AutoSizer.").startswith("fit")


def test_nothing_public_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = fuzz_targets.targets(fuzz_targets.Right())
    assert not fuzz_targets.left_out(found)
    del found["concatenate"], found["grow"].right["seed"]
    assert fuzz_targets.left_out(found) == ["concatenate", "grow(seed)"]


def test_wrong_arguments_are_refused_in_our_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write a file
    rng = np.random.default_rng(21)

    def one():
        values = wrong_values()
        kind = str(rng.choice(list(values)))
        return {kind: values[kind]}

    rows = list(attack(is_quick, one))
    assert len(rows) > 200
    assert not [row for row in rows if is_fault(*row[:4])]


def test_a_seed_is_a_whole_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"text": "x", "NaN": float("nan"), "None": None, "True": True, "huge": 10**30}
    rows = list(attack({"gate", "grow", "unit_importance"}.__contains__, lambda: values))
    assert [row[3] for row in rows if row[1] == "seed"] == ["refused"] * 3 * len(values)
