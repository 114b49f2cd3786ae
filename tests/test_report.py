"""Tables and sentences from run folders that stand on the disk."""

import csv
import json
import statistics as stdlib

import pytest

from benchmarks import report, store

LAST = {
    "l0_merge": [0.90, 0.92, 0.91, 0.93, 0.94, 0.95, 0.96],
    "one_model": [0.80, 0.81, 0.83, 0.82, 0.84, 0.86, 0.85],
    "best_of_three": [0.91, 0.91, 0.92, 0.92, 0.95, 0.94, 0.97],
}
ORDER = ["l0_merge", "one_model", "best_of_three"]


def _finish(folder, strategy, seed, last, metric="accuracy", extras=None, **changes):
    configuration = {"suite": "s", "strategy": strategy, "seed": seed, "scale": 1.0, "examples": None, "backend": "jax"}
    run = store.RunFolder.of(folder, {**configuration, **changes})
    run.create({"command": "python -m benchmarks.run", "commit": "abc"})
    result = {"metric": metric, "test_last": last, "test_best": last + 0.01, "epochs": 6, "seconds": 2.0 + seed}
    run.finish({**result, "teacher_epoch_equivalents": 7.5, "device": "cpu", "extras": extras or {}}, [])
    return run


def _fill(folder, **changes):
    for strategy, values in LAST.items():
        for seed, value in enumerate(values):
            _finish(folder, strategy, seed, value, **changes)


def _report(folder):
    rows, problems = store.write_tables(folder)
    sections = report.write_report(folder, rows, ORDER, problems)
    text = (folder / "summary.md").read_text()
    assert sections.keys() == {row["protocol"] for row in rows} and all(part in text for part in sections.values())
    return text


def _table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_summary_holds_the_spread_of_each_strategy(tmp_path):
    _fill(tmp_path)
    text = _report(tmp_path)
    table = _table(tmp_path / "summary.csv")
    assert list(table[0]) == list(report.SUMMARY_COLUMNS)
    assert [(row["strategy"], row["model"]) for row in table] == [(s, m) for s in ORDER for m in ("last", "best")]
    for row in table:
        values = [value + 0.01 * (row["model"] == "best") for value in LAST[row["strategy"]]]
        assert int(row["n"]) == len(values)
        for name, function in [
            ("min", min),
            ("max", max),
            ("median", stdlib.median),
            ("mean", stdlib.mean),
            ("std", stdlib.stdev),
        ]:
            assert float(row[name]) == pytest.approx(function(values))
        assert float(row["teacher_epoch_equivalents"]) == 7.5 and float(row["seconds"]) == 5.0
    assert "| one_model     | last epoch           | 7 | 80.00 | 86.00 | 83.00  | 83.00 | 2.16 |" in text


def test_the_first_strategy_is_compared_with_each_other_one(tmp_path):
    _fill(tmp_path)
    text = _report(tmp_path)
    first, second = _table(tmp_path / "comparisons.csv")
    assert list(first) == list(report.COMPARISON_COLUMNS)
    assert (first["first"], first["second"], first["n"]) == ("l0_merge", "one_model", "7")
    assert float(first["p"]) == pytest.approx(2 / 2**7) and float(first["p_holm"]) == pytest.approx(4 / 2**7)
    assert first["claim"] == "l0_merge is significantly better than one_model"
    assert "**l0_merge is significantly better than one_model**" in text
    assert second["second"] == "best_of_three" and second["claim"].startswith("no significant difference")
    assert float(second["margin"]) == 0.01
    for row in (first, second):
        for name in ("median", "mean"):
            assert float(row[f"{name}_low"]) <= float(row[f"{name}_difference"]) <= float(row[f"{name}_high"])


def test_a_lower_error_is_better(tmp_path):
    _fill(tmp_path, metric="mse")
    text = _report(tmp_path)
    assert "l0_merge is significantly worse than one_model" in text
    assert "0.8300" in text and "test mse of" in text


def test_failed_unfinished_and_corrupt_runs_come_first(tmp_path):
    _fill(tmp_path)
    failed = _finish(tmp_path, "l0_merge", 7, 0.5)
    failed.start()
    failed.fail("ValueError: broken", "Traceback ...")
    _finish(tmp_path, "l0_merge", 8, 0.5).start()
    (tmp_path / "runs" / "foreign").mkdir()
    text = _report(tmp_path)
    table = text.index("| strategy")
    assert 0 < text.index("**l0_merge seed 7 failed:** ValueError: broken") < table
    assert 0 < text.index("**Unfinished runs: 1.**") < table
    assert 0 < text.index("foreign is not a run folder") < table
    row = _table(tmp_path / "summary.csv")[0]
    assert (row["n"], row["failed"], row["unfinished"]) == ("7", "1", "1")


def test_protocols_are_never_averaged(tmp_path):
    _fill(tmp_path)
    _finish(tmp_path, "l0_merge", 0, 0.1, scale=0.01)
    text = _report(tmp_path)
    table = _table(tmp_path / "summary.csv")
    assert sorted({(row["scale"], row["n"]) for row in table}) == [("0.01", "1"), ("1.0", "7")]
    assert text.count("## s: scale") == 2
    assert len(list(tmp_path.glob("boxplot-*.png"))) == 2


def test_means_of_what_strategies_report_besides(tmp_path):
    for seed in range(3):
        extras = {"validation_after_cut": 0.8 + 0.01 * seed, "control": "paper", "teachers": [1, 2], "winner": 2}
        _finish(tmp_path, "l0_merge", seed, 0.9, extras=extras)
        _finish(tmp_path, "one_model", seed, 0.8)
    text = _report(tmp_path)
    assert "| l0_merge | 0.81                 |" in text
    assert "teachers" not in text and "winner" not in text
    assert json.loads(_table(tmp_path / "runs.csv")[0]["extras"])["control"] == "paper"


def test_too_few_seeds_are_said_to_be_too_few(tmp_path):
    _finish(tmp_path, "l0_merge", 0, 0.9)
    _finish(tmp_path, "one_model", 0, 0.8)
    text = _report(tmp_path)
    assert "n = 1: **no claim: n = 1 is too small, two-sided p < 0.05 needs at least 6 seeds**" in text
    assert "nan" not in text


def test_a_suite_without_a_finished_run_has_a_report(tmp_path):
    _finish(tmp_path, "l0_merge", 0, 0.9).start()
    text = _report(tmp_path)
    assert "No run is done." in text
    assert _table(tmp_path / "summary.csv")[0]["n"] == "0"
    assert not list(tmp_path.glob("*.png"))


def test_the_box_plot_is_a_png(tmp_path):
    _fill(tmp_path)
    _report(tmp_path)
    (figure,) = tmp_path.glob("*.png")
    content = figure.read_bytes()
    assert content.startswith(b"\x89PNG\r\n") and len(content) > 5_000
    assert not list(tmp_path.glob(".*"))


def test_markdown_tables_have_equal_rows(tmp_path):
    _fill(tmp_path)
    lines = [line for line in _report(tmp_path).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6
    assert len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
