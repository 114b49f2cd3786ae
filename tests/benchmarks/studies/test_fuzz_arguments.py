"""Wrong arguments of public functions: a seeded sample of what `python -m benchmarks.studies.fuzz_arguments` tries in full."""

import numpy as np

from benchmarks.studies.fuzz_arguments import attack, is_fault, wrong_values

# Those that compile a program.
SLOW = set("fit fit_many AutoSizer.fit latency merge_pairwise merge_report recalibrate".split()) | {"unit_importance taylor"}


def test_wrong_arguments_are_refused_in_our_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write a file
    rng = np.random.default_rng(21)

    def one():
        values = wrong_values()
        kind = str(rng.choice(list(values)))
        return {kind: values[kind]}

    rows = list(attack(lambda name: name not in SLOW, one))
    assert len(rows) > 200
    assert not [row for row in rows if is_fault(*row[:4])]


def test_a_seed_is_a_whole_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"text": "x", "NaN": float("nan"), "None": None, "True": True, "huge": 10**30}
    rows = list(attack({"gate", "grow", "unit_importance"}.__contains__, lambda: values))
    assert [row[3] for row in rows if row[1] == "seed"] == ["refused"] * 3 * len(values)
