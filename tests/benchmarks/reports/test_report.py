"""Tables and sentences from run folders that stand on the disk."""

import csv
import json
import shutil
import statistics as stdlib
import subprocess

import numpy as np
import pytest

from benchmarks import report
from benchmarks.files import write_atomically
from benchmarks.records import results, store
from benchmarks.records.tables import write_csv
from benchmarks.reports import claims, latex, summaries

LAST = {
    "l0_merge": [0.90, 0.92, 0.91, 0.93, 0.94, 0.95, 0.96],
    "one_model": [0.80, 0.81, 0.83, 0.82, 0.84, 0.86, 0.85],
    "best_of_three": [0.91, 0.91, 0.92, 0.92, 0.95, 0.94, 0.97],
}
ORDER = ["l0_merge", "one_model", "best_of_three"]


def _finish(folder, strategy, seed, last, metric="accuracy", extras=None, history=(), **changes):
    configuration = {"suite": "s", "strategy": strategy, "seed": seed, "scale": 1.0, "examples": None, "backend": "jax"}
    run = store.RunFolder.of(folder, {**configuration, **changes})
    run.create({"command": "python -m benchmarks.run", "commit": "abc"})
    result = {"metric": metric, "test_last": last, "test_best": last + 0.01, "epochs": 6, "seconds": 2.0 + seed}
    run.finish({**result, "teacher_epoch_equivalents": 7.5, "device": "cpu", "extras": extras or {}}, list(history))
    return run


def _fill(folder, **changes):
    for strategy, values in LAST.items():
        for seed, value in enumerate(values):
            _finish(folder, strategy, seed, value, **changes)


def _report(folder, **how):
    found = results.read_results(folder)
    results.write_tables(found)
    sections = report.write_report(found, ORDER, **how).sections
    text = (folder / "summary.md").read_text()
    assert sections.keys() == {row["protocol"] for row in found.rows} and all(
        part in text for part in sections.values()
    )
    return text


def _table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_summary_holds_the_spread_of_each_strategy(tmp_path):
    _fill(tmp_path)
    text = _report(tmp_path)
    table = _table(tmp_path / "summary.csv")
    assert list(table[0]) == list(summaries.SUMMARY_COLUMNS)
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
    assert all(row["validation"] == row["validation_teachers"] == "" for row in table)  # these runs do not say theirs


def test_the_first_strategy_is_compared_with_each_other_one(tmp_path):
    _fill(tmp_path)
    text = _report(tmp_path)
    first, second = _table(tmp_path / "comparisons.csv")
    assert list(first) == list(claims.COMPARISON_COLUMNS)
    assert (first["first"], first["second"], first["n"]) == ("l0_merge", "one_model", "7")
    assert float(first["p"]) == pytest.approx(2 / 2**7) and first["p_holm"] == "" and first["family"] == "exploration"
    assert first["claim"] == "exploration: l0_merge is ahead of one_model, before correction"
    assert f"p = 0.016, p of inferiority by 1.00 or more = 0.0078: **{first['claim']}**" in text
    assert second["second"] == "best_of_three" and second["claim"].startswith("no significant difference")
    assert second["family"] == "primary" and second["p_holm"] == second["p"]  # alone in its family
    heads = ("### Primary comparisons, by default", "- l0_merge - best", "### Exploration", "- l0_merge - one_model")
    assert sorted(heads, key=text.index) == list(heads)
    assert float(second["margin"]) == 0.01
    for row in (first, second):
        for name in ("median", "mean"):
            assert float(row[f"{name}_low"]) <= float(row[f"{name}_difference"]) <= float(row[f"{name}_high"])


def test_a_file_declares_the_comparisons(tmp_path, capsys):
    _fill(tmp_path / "s")
    (tmp_path / "s.toml").write_text(
        'based_on = "digits"\n[comparisons]\nreference = "best_of_three"\nprimary = ["one_model"]\ntest = "t"\nmargin = 0.003'
    )
    assert report.main([str(tmp_path / "s"), "--suite", str(tmp_path / "s.toml")]) == 0
    rows = {row["second"]: row for row in _table(tmp_path / "s" / "comparisons.csv")}
    assert {name: row["family"] for name, row in rows.items()} == {"one_model": "primary", "l0_merge": "exploration"}
    assert {(row["first"], row["test"], row["margin"]) for row in rows.values()} == {("best_of_three", "t", "0.003")}
    text = (tmp_path / "s" / "summary.md").read_text()
    head = "### Primary comparisons, declared in the suite's file"
    assert f"{head}\n\nPaired by seed, last epoch; p by the paired t-test" in text
    assert report.main([str(tmp_path / "s"), "--suite", "digit"]) == 2
    assert "received 'digit'" in capsys.readouterr().err


def test_rows_show_what_their_teachers_reached(tmp_path):
    for seed in range(3):
        extras = {"validation_teachers": [0.70 + 0.01 * seed, 0.74 + 0.01 * seed]}
        for strategy, more in (("l0_merge", extras), ("one_model", {})):
            run = _finish(tmp_path, strategy, seed, 0.9, extras=more)
            run_result = run.result | {"validation_last": 0.8 + 0.01 * seed, "validation_best": 0.85}
            (run.path / "result.json").write_text(json.dumps(run_result))
    text = _report(tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    at = lines[0].index("teachers (validation)")
    shown = [line[at - 1 : at + 1] for line in lines[1:5]]
    assert shown == [["81.00", "73.00"], ["85.00", "73.00"], ["81.00", ""], ["85.00", ""]]
    assert "No row of `one_model_equal_compute` here" in text
    assert float(_table(tmp_path / "summary.csv")[0]["validation_teachers"]) == pytest.approx(0.73)


def test_a_lower_error_is_better(tmp_path):
    _fill(tmp_path, metric="mse")
    text = _report(tmp_path)
    assert "l0_merge is behind one_model, before correction" in text
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
    assert len(list(tmp_path.glob("figures/boxplot-*.png"))) == 2


def test_means_of_what_strategies_report_besides(tmp_path):
    for seed in range(3):
        extras = {"validation_after_cut": 0.8 + 0.01 * seed, "control": "paper", "teachers": [1, 2], "winner": 2}
        _finish(tmp_path, "l0_merge", seed, 0.9, extras=extras)
        _finish(tmp_path, "one_model", seed, 0.8)
    text = _report(tmp_path)
    assert "| l0_merge | 0.81                 |" in text
    assert "| strategy | validation_after_cut |\n" in text and "winner" not in text
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
    assert not (tmp_path / "figures").exists()


def test_figures_are_drawn_from_what_runs_left(tmp_path):
    epochs = [
        {"phase": phase, "epoch": epoch, "val_metric": 0.5 + 0.01 * epoch}
        | ({"gate_pressure": float(epoch), "gate_undecided": 0.5} if phase == "gates" else {})
        for phase in ("teacher_0", "gates", "finetune")
        for epoch in (1, 2, 3)
    ]
    for seed in range(3):
        run = _finish(tmp_path, "l0_merge", seed, 0.9, history=epochs)
        write_atomically(run.path / store.FUNCTION, json.dumps({"x": [0.0, 1.0, 2.0], "y": [0.0, seed, 0.0]}))
        filters = {"kernel": np.arange(-54, 54).reshape(3, 3, 3, 4).tolist(), "parents": [0, 1, 1, 0]}
        write_atomically(run.path / store.FILTERS, json.dumps(filters))
        _finish(tmp_path, "one_model", seed, 0.8, history=epochs[:3])
    text = _report(tmp_path)
    for kind in ("boxplot", "curves", "gates", "functions", "filters"):
        (png,), (pdf,) = (list((tmp_path / "figures").glob(f"{kind}-*.{ending}")) for ending in ("png", "pdf"))
        assert png.read_bytes().startswith(b"\x89PNG\r\n") and png.stat().st_size > 5_000
        assert pdf.read_bytes().startswith(b"%PDF-") and f"(figures/{png.name})" in text
    assert not list((tmp_path / "figures").glob("parameters-*"))  # these runs do not say theirs
    assert not list((tmp_path / "figures").glob("compute-*"))  # which is the same for both
    assert not list(tmp_path.rglob("*/.*"))


def test_a_file_in_the_place_of_a_function_is_not_drawn(tmp_path):
    for seed, content in enumerate(("[]", '{"x": [1, 2], "y": [1]}', '{"x": "a", "y": "b"}', "{")):
        run = _finish(tmp_path, "l0_merge", seed, 0.9)
        (run.path / store.FUNCTION).write_text(content)
        (run.path / store.FILTERS).write_text(content.replace("x", "kernel").replace("y", "parents"))
    assert _report(tmp_path).count("cannot be drawn, and is left out") == 8
    assert not [*(tmp_path / "figures").glob("functions-*"), *(tmp_path / "figures").glob("filters-*")]


def test_published_numbers_stand_beside_ours(tmp_path):
    for seed in range(3):
        _finish(tmp_path, "l0_merge", seed, 0.7, suite="cifar100")
    text = _report(tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| l0")]
    assert ["l0_merge", "Pašen and Boža, Table 2: student", "5", "68.80", "69.60", "68.80", "69.00", "0.30"] in lines
    assert ["l0_merge", "here", "3", *["70.00"] * 4, "0.00"] in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_latex_compiles(tmp_path):
    _fill(tmp_path)
    letters = "".join(map(chr, range(0xA1, 0x180)))
    _finish(tmp_path, 'odd_{name}%&$#^~\\ <é>|"' + letters[1:].replace("\xad", ""), 0, 0.5)
    _report(tmp_path)
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "tables.tex"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, (tmp_path / "tables.log").read_text()
    assert (tmp_path / "tables.pdf").stat().st_size > 5_000
    assert r"\cite{pasen2024}" in (tmp_path / "tables.tex").read_text()
    assert "@article{pasen2024," in (tmp_path / "methods.bib").read_text()


def test_latex_tables_hold_what_the_others_hold(tmp_path):
    _fill(tmp_path)
    rows = summaries.by_protocol(results.read_results(tmp_path).rows, ORDER).popitem()[1]
    text, best = ("".join(latex.tables_of(rows, claims.claims(rows, {}), (), epoch)) for epoch in ("last", "best"))
    assert r"One model & 7 & 83.00 $\pm$ 2.16 &" in text  # worse than the best in all seven seeds
    assert r"L0 merging~\cite{pasen2024} & 7 & \textbf{93.00 $\pm$ 2.16} &" in text
    assert r"Best of three~\cite{pasen2024} & 7 & \textbf{93.14 $\pm$ 2.27} &" in text
    assert r"Best of three~\cite{pasen2024} & 7 & $-$0.14 [$-$0.71, 0.71] & $-$0.14 & 1.000 & 1.000 & no difference" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 6 and r"One model & 7 & 84.00 $\pm$ 2.16 &" in best
    assert latex.escaped("a_b {50 %}") == r"a\_b \{50 \%\}"
    assert latex.escaped("Pašen and Boža, λ − ĸ\xad") == "Pašen and Boža, ? {-} ??"


def test_published_results_are_read_from_their_tables(tmp_path, capsys):
    _fill(tmp_path / "whole")
    results.write_tables(results.read_results(tmp_path / "whole"))
    published = tmp_path / "published"
    published.mkdir()
    shutil.copy(tmp_path / "whole" / "runs.csv", published)
    assert report.main([str(tmp_path / "whole"), str(published)]) == 0
    assert (published / "summary.csv").read_bytes() == (tmp_path / "whole" / "summary.csv").read_bytes()
    said = capsys.readouterr().out
    assert f"21 runs: {published / 'report.html'}" in said
    reason = "expected two protocols with two seeds in common of l0_merge and another strategy, received 1."
    assert f"Nothing is said across suites: {reason}" in said


def test_learning_curves_are_written_for_tensorboard(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = [
        {"phase": phase, "epoch": epoch, "loss": 1.0 / epoch, "val_metric": 0.25 * epoch, "lambda": 2.0 * epoch}
        for phase in ("teacher", "finetune")
        for epoch in (1, 2)
    ]
    run = _finish(tmp_path, "../odd", 3, 0.9, history=history)
    _finish(tmp_path, "l0_merge", 4, 0.9)
    for _ in range(2):  # the second call replaces what the first one wrote
        assert report.main([str(tmp_path), "--tensorboard"]) == 0
    folder = tmp_path / "tensorboard"
    assert f"curves: {folder}" in capsys.readouterr().out
    (path,) = folder.glob("*/*")
    assert path == folder / "___odd" / f"seed_3-{run.path.name}" and len(list(path.iterdir())) == 1
    read = EventAccumulator(str(path)).Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "val_metric", "lambda"}
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 1.0), (4, 0.5)]
    assert [event.value for event in read.Scalars("lambda")] == [2.0, 4.0, 2.0, 4.0]


def test_another_strategy_may_be_the_reference(tmp_path, capsys):
    _fill(tmp_path)
    assert report.main([str(tmp_path), "--reference", "best_of_three"]) == 0
    table = _table(tmp_path / "comparisons.csv")
    assert [(row["first"], row["second"]) for row in table] == [
        ("best_of_three", "l0_merge"),
        ("best_of_three", "one_model"),
    ]
    assert {row["family"] for row in table} == {"exploration"}
    assert report.main([str(tmp_path), "--reference", "nobody"]) == 2
    assert "expected one of best_of_three, l0_merge, one_model, received 'nobody'" in capsys.readouterr().err


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "holds no results: expected a folder `runs`" in capsys.readouterr().err


def test_what_cannot_be_trusted_is_told_and_not_averaged(tmp_path):
    faults = [
        ({"test_last": float("nan")}, "its test_last is nan, not a finite number"),
        ({"test_best": "0.9"}, "its test_best is '0.9', not a finite number"),
        ({"metric": "bleu"}, "its metric is 'bleu', none of accuracy, mse"),
        ({"metric": ["accuracy"]}, "its metric is ['accuracy'], none of accuracy, mse"),
        ({"test_last": 10**400}, "its test_last is a whole number of 1329 bits, not a"),
        ({"extras": [1]}, "its extras are no mapping"),
    ]
    _fill(tmp_path)
    told = []
    for seed, (change, fault) in enumerate(faults, start=9):
        run = _finish(tmp_path, "l0_merge", seed, 0.9)
        (run.path / "result.json").write_text(json.dumps(run.result | change))
        told.append(f"Run {run.path.name} is left out: {fault}")
    text = _report(tmp_path)
    assert not [sentence for sentence in told if sentence not in text]
    assert _table(tmp_path / "summary.csv")[0]["n"] == "7"


def test_truncated_tables_are_told(tmp_path):
    _fill(tmp_path / "whole")
    _report(tmp_path / "whole")
    lines = (tmp_path / "whole" / "runs.csv").read_text().splitlines()
    (tmp_path / "runs.csv").write_text("\n".join([*lines[:5], lines[5][:40]]))
    found = results.read_results(tmp_path)
    assert len(found.rows) == 4 and "not as many cells as columns" in found.problems[0]


def test_a_row_that_stands_twice_in_a_table_counts_once(tmp_path):
    _fill(tmp_path / "whole")
    _report(tmp_path / "whole")
    lines = (tmp_path / "whole" / "runs.csv").read_text().splitlines()
    (tmp_path / "runs.csv").write_text("\n".join([*lines, *lines[1:3]]))
    found = results.read_results(tmp_path)
    assert len(found.rows) == len(lines) - 1 and len(found.problems) == 2
    assert "another row, which counts, is of the same strategy and seed" in found.problems[0]


def test_a_broken_history_leaves_the_tables_whole(tmp_path):
    run = _finish(tmp_path, "l0_merge", 1, 0.9, history=[{"phase": "single", "epoch": 1}])
    _finish(tmp_path, "l0_merge", 2, 0.8, history=[{"phase": "single", "epoch": 1}])
    (run.path / "history.json").write_text("[3]")
    text = _report(tmp_path)
    assert f"{run.path / 'history.json'} is not a list of epochs" in text
    assert [row["seed"] for row in _table(tmp_path / "runs.csv")] == ["1", "2"]
    assert [row["seed"] for row in _table(tmp_path / "history.csv")] == ["2"]


def test_markdown_tables_have_equal_rows(tmp_path):
    _fill(tmp_path)
    lines = [line for line in _report(tmp_path).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6
    assert len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(("column", "fault"), [("status", "its status is '../x'"), ("protocol", "its protocol is '../x'")])
def test_tables_of_strangers_with_names_that_mean_nothing_are_told(tmp_path, column, fault):
    _fill(tmp_path / "whole")
    results.write_tables(results.read_results(tmp_path / "whole"))
    table = _table(tmp_path / "whole" / "runs.csv")
    write_csv(tmp_path / "runs.csv", tuple(table[0]), [table[0] | {column: "../x"}, *table[1:]])
    found = results.read_results(tmp_path)
    assert len(found.rows) == 20 and fault in found.problems[0]


def test_a_result_does_not_change_which_run_it_is_of(tmp_path):
    run = _finish(tmp_path, "l0_merge", 1, 0.9)
    (run.path / "result.json").write_text(json.dumps(run.result | {"strategy": "x", "seed": 2, "protocol": "y"}))
    row = run.row()
    assert (row["strategy"], row["seed"], row["protocol"]) == ("l0_merge", 1, run.protocol) and row["test_last"] == 0.9


def test_errors_and_names_are_no_markup(tmp_path):
    _finish(tmp_path, "a$b$ <b>[x](http://y)", 1, 0.9)
    store.RunFolder.of(tmp_path, {"suite": "s", "strategy": "one_model", "seed": 2, "scale": 1.0}).create({})
    (run,) = [run for run in store.read_runs(tmp_path)[0] if run.status == "unfinished"]
    run.fail("<script>\n\n# head ![i](http://z)", "")
    text = _report(tmp_path)
    assert "<" not in text.replace("&lt;", "") and "](http" not in text
    assert "**one_model seed 2 failed:** &lt;script> # head" in text
    assert (tmp_path / "figures").is_dir()


def test_a_cell_does_not_begin_the_options_of_the_line_above():
    assert latex.escaped("[2pt] *") == "{[}2pt] {*}"
