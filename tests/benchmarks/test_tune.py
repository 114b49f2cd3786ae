"""Choosing hyper-parameters: on validation data, by launches like any other, with its cost written down."""

import json
import sys
import tomllib

import pytest

from benchmarks import report, run, tune
from benchmarks.records import results
from benchmarks.suites.suite import FOLDER, load_suite
from tests import launches


@pytest.fixture
def asleep(monkeypatch):
    """Trials sleep, and end in what their learning rate says."""
    monkeypatch.setattr(run, "LocalProcesses", launches.asleep)


def _arguments(tmp_path, *more):
    small = ("--seeds", "0-1", *launches.SMALL, "--jobs", "1", "--cache-dir", tmp_path / "cache")
    return [str(a) for a in ("--suite", "sine", "--strategy", "one_model", "--out", tmp_path / "out", *small, *more)]


def test_the_best_values_on_validation_data_are_chosen_and_what_fails_is_not(tmp_path, capsys, asleep):
    varied = ("--vary", "phases.single.learning_rate=1e30,0.01")
    assert tune.main(_arguments(tmp_path, *varied)) == run.DONE
    assert "chosen of 2 trials" in capsys.readouterr().out
    folder = tmp_path / "out" / "sine" / "tuning"
    rows = {row["phases.single.learning_rate"]: row for row in launches.table_of(folder / "one_model.csv")}
    assert [rate for rate, row in rows.items() if row["chosen"] == "True"] == ["0.01"]
    assert rows["1e+30"]["score"] == "" and rows["1e+30"]["done"] == "0"
    assert float(rows["0.01"]["score"]) > 0
    assert all(row["runs"] == "2" for row in rows.values()) and float(rows["0.01"]["teacher_epoch_equivalents"]) > 0
    tried = [load_suite(path).definition["phases"]["single"]["learning_rate"] for path in folder.glob("*.json")]
    assert sorted(tried) == [0.01, 1e30]
    # The same command again runs nothing that is done, and a report on the suite tells what was tried.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*/done")}
    assert tune.main(_arguments(tmp_path, *varied)) == run.DONE
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*/done")} and len(before) == 2
    (tmp_path / "out" / "sine" / "runs").mkdir()
    report.write_report(results.read_results(tmp_path / "out" / "sine"), [])
    text = (tmp_path / "out" / "sine" / "summary.md").read_text()
    assert "not charged to the runs above" in text and "phases.single.learning_rate" in text


@pytest.mark.parametrize(
    ("varied", "error"),
    [
        ((), "suite sine: expected [tuning.one_model] in the suite's file, or --vary"),
        (("--vary", "phases.single.rate=1,2"), "received 'phases.single.rate'. Did you mean phases.single."),
        (("--vary", "phases.single.learning_rate=a,b"), "received 'phases.single.learning_rate=a,b'"),
        (("--vary", f"phases.single.learning_rate={'9' * 5000}"), "KEY=V,V with values as in TOML"),
        (("--vary", f"phases.single.learning_rate={'[' * 5000}"), "KEY=V,V with values as in TOML"),
        (("--vary", 'phases.single.learning_rate=1,"b"'), "a list of values of one type"),
        (("--vary", "phases.single.learning_rate={min=1,max=0.1}"), "of one type, or a range"),
        (("--vary", "phases.single.momentum=0.9,1.5"), "phases.single.momentum: expected a number of at least 0 and below 1"),
    ],
)
def test_what_cannot_be_varied_is_told_before_anything_runs(tmp_path, capsys, varied, error):
    assert tune.main(_arguments(tmp_path, *varied)) == run.USAGE
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ranges_are_for_bayesian_search(tmp_path, capsys):
    content = _content("sine")
    for values, error in (
        ({"min": 1e-3, "max": 1e-1}, "expected a list of values for a grid"),
        ({"min": 0.1, "max": 1e-3}, "or a range { min, max } with 0 < min < max, received"),
    ):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({**content, "tuning": {"one_model": {"phases.single.learning_rate": values}}}))
        arguments = _arguments(tmp_path)
        arguments[1] = str(path)
        assert tune.main(arguments) == run.USAGE
        assert error in capsys.readouterr().err


def _content(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def test_what_ends_a_launch_ends_the_search(tmp_path, capsys, asleep):
    arguments = _arguments(tmp_path, "--vary", "phases.single.learning_rate=0.1,0.2")
    arguments[arguments.index("--seeds") + 1] = "1-0"
    assert tune.main(arguments) == run.USAGE and capsys.readouterr().err.count("--seeds: expected") == 1
    arguments[arguments.index("--out") + 1] = "/dev/null/nowhere"
    assert tune.main(arguments) == run.USAGE and "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "stages", "keras_tuner_one_model"])
def test_links_of_a_strangers_folder_are_not_followed(tmp_path, asleep, name):
    (tmp_path / "outside" / "mine").mkdir(parents=True)
    place = tmp_path / "out" / "sine" / "tuning" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "outside")
    status = tune.main(_arguments(tmp_path, "--vary", "phases.single.learning_rate=0.1"))
    assert status == (run.DONE if name.startswith("keras") else run.USAGE)
    assert [path.name for path in (tmp_path / "outside").rglob("*")] == ["mine"]


def test_values_in_a_suites_file_are_searched(tmp_path, asleep):
    path = tmp_path / "mine.json"
    space = {"phases.single.learning_rate": {"min": 1e-3, "max": 1e-1}}
    path.write_text(json.dumps({**_content("sine"), "tuning": {"one_model": space}}))
    arguments = [*_arguments(tmp_path, "--method", "bayesian", "--trials", "2")]
    arguments[1] = str(path)
    assert tune.main(arguments) == run.DONE
    rows = launches.table_of(tmp_path / "out" / "mine" / "tuning" / "one_model.csv")
    rates = [float(row["phases.single.learning_rate"]) for row in rows]
    assert len(rates) == 2 and all(1e-3 <= rate <= 1e-1 for rate in rates) and rates[0] != rates[1]


def test_a_strategy_and_data_of_ones_own_are_tuned_from_any_folder(tmp_path, asleep, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "tuned_code.py").write_text("def mine(task, budget, seed, stages): pass\ndef draw(seed): pass\n")
    path = tmp_path / "mine.toml"
    path.write_text("""
        based_on = "sine"
        description = "mine"
        dataset = "tuned_code:draw"
        strategies = ["tuned_code:mine"]
        [tuning."tuned_code:mine"]
        "phases.single.learning_rate" = [1e30, 0.01]
    """)
    arguments = _arguments(tmp_path)
    arguments[1], arguments[3] = str(path), "tuned_code:mine"
    assert tune.main(arguments) == run.DONE
    folder = tmp_path / "out" / "mine" / "tuning"
    rows = launches.table_of(folder / "tuned_code-mine.csv")
    assert [row["phases.single.learning_rate"] for row in rows if row["chosen"] == "True"] == ["0.01"]
    assert {load_suite(trial).folder for trial in folder.glob("*.json")} == {tmp_path}
    arguments[3] = "tuned_code:yours"
    assert tune.main(arguments) == run.USAGE


def test_cross_validation_that_chooses_on_test_data_is_refused(tmp_path, capsys):
    arguments = ["--suite", "das_mnist:paper", "--strategy", "auto_sizing", "--out", str(tmp_path / "out")]
    assert tune.main(arguments) == run.USAGE
    assert "chooses on test data" in capsys.readouterr().err


def test_trials_share_the_networks_that_they_do_not_vary(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LocalProcesses", launches.eagerly)
    small = ("--seeds", "0-0", *launches.SMALL, "--jobs", "1", "--cache-dir", tmp_path / "cache")
    arguments = ("--suite", "sine", "--strategy", "magnitude_merge", "--out", tmp_path / "out", *small)
    assert tune.main([*map(str, arguments), "--vary", "phases.finetune.learning_rate=0.01,0.02"]) == run.DONE
    folder = tmp_path / "out" / "sine" / "tuning"
    assert len(list(folder.glob("*/runs/*/done"))) == 2
    assert len(list(folder.glob("stages/*/stage.npz"))) == 2 and not list(folder.glob("*/stages/*"))
