"""The command line, on real suites made small."""

import json
import os
import re
import signal

import keras
import pytest

from benchmarks import run
from benchmarks.data import datasets
from benchmarks.records import store
from benchmarks.runs import planning, worker
from benchmarks.runs.stages import StageCache
from benchmarks.suites.suite import load_suite
from tests import launches
from tests.programs import without_programs

# Digits for a network that compiles in a moment.
SMALL_NET = (
    ('name = "resnet"', 'name = "mlp"'),
    (r"depth = 8 .*\n.*\nweight_decay.*", "hidden = [4]"),
)


def test_a_plan_lists_runs_and_how_they_stand(tmp_path):
    arguments = ("--suite", "sine", "--seeds", "4-6", "--strategy", "one_model", *launches.places(tmp_path))
    status, out, _ = launches.call(*arguments, "--dry-run")
    assert status == 0
    assert re.findall(r"^(\w{16})  missing +one_model seed (\d)$", out, re.MULTILINE).__len__() == 3
    assert "3 runs, 3 to do" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--suite NAME", "sine"]),
        (["--suite", "digit"], ["'digit'", "Did you mean digits?", "sine"]),
        (["--suite", "nowhere/x.toml"], ["nowhere/x.toml", "cannot be read"]),
        (["--suite", "sine", "--strategy", "l0merge"], ["'l0merge'", "Did you mean l0_merge?", "best_of_three"]),
        (["--suite", "sine", "--seeds", "0"], ["--seeds", "'0'", "100-129"]),
        (["--suite", "sine", "--seeds", "9-1"], ["--seeds", "'9-1'"]),
        (["--suite", "sine", "--seeds", "-3"], ["--seeds"]),
        (["--suite", "sine", "--seeds", "all"], ["--seeds", "'all'"]),
        (["--suite", "sine", "--scale", "0"], ["--scale", "'0'"]),
        (["--suite", "sine", "--scale", "inf"], ["--scale", "'inf'"]),
        (["--suite", "sine", "--scale", "much"], ["--scale", "'much'"]),
        (["--suite", "sine", "--examples", "-1"], ["--examples"]),
        (["--suite", "sine", "--jobs", "0"], ["--jobs", "'0'"]),
        (["--suite", "sine", "--together", "0"], ["--together", "'0'"]),
        (["--suite", "sine", "--together", "3", "--backend", "tensorflow"], ["--together", "--backend jax"]),
        (["--suite", "sine", "--backend", "theano"], ["--backend", "theano", "jax"]),
        (["--sweet", "sine"], ["--sweet"]),
        (["--suite", "digits", "--examples", "5000"], ["900", "5000"]),
    ],
)
def test_wrong_usage_is_told_before_any_work(arguments, words, tmp_path):
    status, _, err = launches.call(*arguments, *launches.places(tmp_path))
    assert status == run.USAGE
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_broken_suite_file_is_told(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("dataset = [")
    status, _, err = launches.call("--suite", path, *launches.places(tmp_path))
    assert status == run.USAGE and "mine.toml" in err and "Traceback" not in err


def test_a_plan_tells_how_long_it_takes_by_what_is_done(tmp_path):
    arguments = ("--suite", "sine", "--out", tmp_path, "--seeds", "100-103", "--strategy", "one_model", "l0_merge")
    assert "no run done here tells how long these take: l0_merge, one_model" in launches.call(*arguments, "--dry-run")[1]
    options = run.parsed([str(a) for a in arguments])
    suite = planning.named_suite("sine")
    for folder, scale in zip(planning.planned_runs(suite, options)[::2], (1.0, 0.5), strict=False):
        folder = store.RunFolder.of(tmp_path / "sine", {**folder.configuration, "scale": scale})
        folder.create({})
        folder.finish({"wall_seconds": 3600.0}, [])
    _, out, _ = launches.call(*arguments, "--dry-run")
    assert "about 3 hours of one worker" in out and "these take: l0_merge" in out
    _, out, _ = launches.call(*arguments, "--scale", "0.25", "--strategy", "one_model", "--dry-run")
    # a quarter of 3600 seconds, or half of 3600: their mean is 1350 seconds, four times
    assert "about 1.5 hours of one worker" in out


def test_at_equal_compute_each_strategy_has_the_epochs_that_spend_as_much(tmp_path):
    arguments = ("--suite", "sine", *launches.SMALL, *launches.places(tmp_path), "--jobs", "1", "--seeds", "1")
    arguments = [*arguments, "--scale", "0.02", "--strategy", "l0_merge", "one_model", "best_of_three"]
    status, out, err = launches.call(*arguments, "--match", "compute", "--dry-run")
    assert status == run.USAGE and "best_of_three, l0_merge, one_model has no such run" in err
    assert launches.call(*arguments, executor=launches.asleep)[0] == run.DONE
    status, out, err = launches.call(*arguments, "--match", "compute", executor=launches.asleep)
    assert status == run.DONE, out + err
    assert "equal compute of l0_merge" in out
    rows = launches.table_of(tmp_path / "out" / "sine" / "runs.csv")
    spent = {(row["strategy"], row["match"]): float(row["teacher_epoch_equivalents"]) for row in rows}
    reference = spent["l0_merge", "compute of l0_merge"]
    assert len(rows) == 6 and reference == spent["l0_merge", ""]
    for name in ("one_model", "best_of_three"):
        assert abs(spent[name, "compute of l0_merge"] / reference - 1) < 0.1 < abs(spent[name, ""] / reference - 1)
    assert len({row["protocol"] for row in rows}) == 2


def test_a_worker_multiplies_epochs_by_the_factor_of_equal_compute(tmp_path):
    suite, common = load_suite("sine"), {"suite": "sine", "strategy": "one_model", "seed": 1, "scale": 0.004}
    common |= {"definition": suite.definition, "examples": 64, "backend": keras.backend.backend()}
    found = []
    for own in ({}, {"match": "compute of l0_merge", "factor": 3.0}):
        folder = store.RunFolder.of(tmp_path, common | own)
        folder.create({"suite": "sine", "data_dir": None, "cache_dir": str(tmp_path / "cache")})
        with without_programs():
            found.append(worker.train(folder, StageCache(tmp_path / "stages"))[0])
    assert [result["epochs"] for result in found] == [suite.budget(scale).single for scale in (0.004, 0.012)] == [4, 12]


def test_missing_data_names_the_command_that_gets_it(tmp_path):
    places = launches.places(tmp_path)
    status, _, err = launches.call("--suite", "cifar100", "--data-dir", tmp_path / "none", *places)
    assert status == run.DATA_MISSING
    assert "tfds.load('cifar100" in err and str(tmp_path / "none") in err
    assert "Traceback" not in err and not (tmp_path / "out").exists()


def test_corrupt_data_is_told(tmp_path):
    folder = tmp_path / "data" / "fashion_mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{")
    (folder / "features.json").write_text("{")
    status, _, err = launches.call(
        "--suite", "fashion_mnist", "--data-dir", tmp_path / "data", *launches.places(tmp_path)
    )
    assert status == run.DATA_MISSING
    assert "fashion_mnist" in err and "Traceback" not in err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small suite, trained to its end by a worker: the arguments, the folder of its results, and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = ("--suite", "sine", *launches.SMALL, "--seeds", "1", *launches.places(folder), "--jobs", "1")
    status, out, err = launches.call(*arguments, drawn=True)
    assert status == run.DONE, out + err
    return arguments, folder / "out" / "sine", out


def test_a_small_suite_runs_to_its_end(finished):
    _, folder, out = finished
    table = launches.table_of(folder / "runs.csv")
    assert list(table[0]) == list(store.RUN_COLUMNS)
    strategies = {"l0_merge", "one_model", "best_of_three"}
    assert launches.statuses(table) == {(name, 100): "done" for name in strategies}
    for row in table:
        assert row["metric"] == "mse" and 0.03 < float(row["test_best"]) < 2
        assert all(row[name] for name in ("device", "commit", "command", "parameters", "macs", "seconds"))
        assert row["backend"] == "tensorflow" and re.search(r"keras \S+ numpy \S+ tensorflow \S+", row["versions"])
        assert int(row["parameters"]) == 301 and float(row["scale"]) == 0.001 and row["examples"] == "320"
    assert {row["strategy"] for row in launches.table_of(folder / "summary.csv")} == strategies
    assert "3 done" in out and "| one_model" in out
    assert len(re.findall(r"^\[\d/3\] done ", out, re.MULTILINE)) == 3
    assert list(folder.glob("figures/boxplot-*.png"))


def test_history_has_a_row_per_epoch(finished):
    _, folder, _ = finished
    history = launches.table_of(folder / "history.csv")
    for row in launches.table_of(folder / "runs.csv"):
        epochs = [h for h in history if h["run"] == row["run"]]
        assert len(epochs) == int(row["epochs"])
        assert {h["phase"] for h in epochs if row["strategy"] == "one_model"} <= {"single"}


def test_teachers_are_trained_once_and_charged_to_each(finished):
    _, folder, _ = finished
    _assert_teachers_are_shared(folder, ["100"])


def _assert_teachers_are_shared(folder, seeds):
    assert len(list(folder.glob("stages/*/stage.npz"))) == 3 * len(seeds)
    history = launches.table_of(folder / "history.csv")
    for seed in seeds:
        losses = {
            name: [
                h["loss"] for h in history if h["strategy"] == name and h["seed"] == seed and h["phase"] == "teacher_0"
            ]
            for name in ("l0_merge", "best_of_three")
        }
        assert losses["l0_merge"] == losses["best_of_three"] and losses["l0_merge"]


def test_two_workers_at_a_time_do_all_runs_of_all_seeds(tmp_path):
    arguments = ("--suite", "sine", *launches.SMALL, "--seeds", "2", *launches.places(tmp_path), "--jobs", "2")
    status, out, err = launches.call(*arguments, executor=launches.asleep)
    assert status == run.DONE, out + err
    folder, strategies = tmp_path / "out" / "sine", {"l0_merge", "one_model", "best_of_three"}
    table = launches.table_of(folder / "runs.csv")
    assert launches.statuses(table) == {(name, seed): "done" for name in strategies for seed in (100, 101)}
    assert "6 done" in out and len(re.findall(r"^\[\d/6\] done ", out, re.MULTILINE)) == 6
    _assert_teachers_are_shared(folder, ["100", "101"])


def test_a_second_launch_runs_nothing_and_writes_the_same_table(finished):
    arguments, folder, _ = finished
    before = (folder / "runs.csv").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/done")}
    status, out, _ = launches.call(*arguments)
    assert status == run.DONE and "3 done before" in out
    assert out.rstrip().splitlines()[-1].startswith("Test mse: l0_merge ")  # the verdict is the last word
    assert (folder / "runs.csv").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/done")} == stamps
    status, out, _ = launches.call(*arguments, "--dry-run")
    assert "3 runs, 0 to do" in out


def test_tables_alone_are_rebuilt_from_the_folders(finished):
    _, folder, _ = finished
    before = (folder / "runs.csv").read_text()
    (folder / "runs.csv").unlink()
    status, out, _ = launches.call("--suite", "sine", "--tables", "--out", folder.parent)
    assert status == run.DONE and "| one_model" in out
    assert (folder / "runs.csv").read_text() == before
    status, _, err = launches.call("--suite", "sine", "--tables", "--out", folder / "nowhere")
    assert status == run.TABLES_STALE and "not up to date" in err and "Traceback" not in err


def test_a_result_does_not_depend_on_what_ran_before(finished, tmp_path):
    """The last run of a shared process, with no cached stage and after all that ran in this one, gives the same numbers."""
    _, folder, _ = finished
    arguments = ("--suite", "sine", *launches.SMALL, "--seeds", "1", "--strategy", "best_of_three")
    status, out, err = launches.call(*arguments, *launches.places(tmp_path), executor=launches.Here)
    assert status == run.DONE, out + err
    (alone,) = launches.table_of(tmp_path / "out" / "sine" / "runs.csv")
    (row,) = (row for row in launches.table_of(folder / "runs.csv") if row["run"] == alone["run"])
    for name in ("test_last", "test_best", "validation_last", "validation_best", "epochs", "flops"):
        assert alone[name] == row[name]


def test_a_run_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    suite = launches.variant(
        tmp_path, "sine", (r"(?s)(\[phases\.single\].*?)learning_rate = \S+", r"\1learning_rate = 1e30")
    )
    arguments = ("--suite", suite, *launches.SMALL, "--seeds", "1", "--strategy", "one_model", "best_of_three")
    status, out, err = launches.call(*arguments, *launches.places(tmp_path), executor=launches.eagerly)
    assert status == run.FAILED, out + err
    folder = tmp_path / "out" / "variant"
    table = launches.table_of(folder / "runs.csv")
    assert launches.statuses(table) == {("best_of_three", 100): "done", ("one_model", 100): "failed"}
    assert "diverged" in next(row["error"] for row in table if row["strategy"] == "one_model")
    assert "FAILED one_model seed 100" in out and "1 done, 1 failed" in out
    (failed,) = folder.glob("runs/*/failed.json")
    assert "Traceback" in json.loads(failed.read_text())["traceback"]
    status, out, _ = launches.call(*arguments, *launches.places(tmp_path), "--dry-run")
    assert status == run.DONE and "2 runs, 1 to do" in out


def test_a_results_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    status, _, err = launches.call("--suite", "digits", *launches.places(tmp_path))
    assert status == run.USAGE and str(tmp_path / "out") in err and "Traceback" not in err


def test_rows_tell_the_command_without_folders_of_this_machine():
    arguments = [
        "--suite",
        "sine",
        "--out",
        "/here",
        "--seeds",
        "0-3",
        "--data-dir=/there",
        "--cache-dir",
        "c",
        "--jobs",
        "2",
    ]
    assert run.recorded_command(arguments) == "python -m benchmarks.run --suite sine --seeds 0-3 --jobs 2"


def test_a_machine_with_numpy_keras_and_jax_alone_runs_a_suite_from_cached_arrays(tmp_path):
    """No TensorFlow, no reader of data sets, nothing that draws; two seeds together."""
    datasets.prepare("digits", None, tmp_path / "cache")
    hidden = launches.hidden("tensorflow", "tensorflow_datasets", "pandas", "sklearn", "matplotlib")
    suite = launches.variant(tmp_path, "digits", *SMALL_NET)
    arguments = ("--suite", suite, "--scale", "0.001", "--examples", "64", "--backend", "jax", "--together", "2")
    chosen = ("--strategy", "one_model", "--seeds", "2", *launches.places(tmp_path))
    environment = os.environ | launches.on_jax() | hidden
    status, out, err = launches.launch(*arguments, *chosen, env=environment)
    assert status == run.DONE, out + err
    folder = tmp_path / "out" / "variant"
    for row in launches.table_of(folder / "runs.csv"):
        assert row["together"] == "2" and row["precision"] == "float32" and float(row["compile_seconds"]) > 0
        assert json.loads(row["environment"])["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        assert json.loads(row["programs"])["single"]["xla"] is True
    summary = (folder / "summary.md").read_text()
    assert "No figures: matplotlib is not installed." in summary and "No tables.tex: pandas and" in summary
    status, _, err = launches.launch(*arguments, *chosen, "--backend", "tensorflow", "--together", "1", env=environment)
    assert status == run.USAGE and "pip install tensorflow" in err


def test_networks_of_mixed_precision_are_runs_of_their_own_and_end_in_float32_logits(tmp_path):
    suite = launches.variant(tmp_path, "digits", *SMALL_NET)
    small = ("--scale", "0.001", "--examples", "64", "--backend", "tensorflow", "--seeds", "1")
    arguments = ("--suite", suite, *small, "--strategy", "one_model", *launches.places(tmp_path))
    status, out, err = launches.call(*arguments, "--precision", "mixed_bfloat16", executor=launches.eagerly)
    assert status == run.DONE, out + err
    (row,) = launches.table_of(tmp_path / "out" / "variant" / "runs.csv")
    assert row["precision"] == "mixed_bfloat16" and 0 <= float(row["test_last"]) <= 1
    assert "mixed_bfloat16 (protocol" in out
    alone = launches.call(*arguments, "--dry-run")[1]
    assert "1 runs, 1 to do" in alone and row["run"] not in alone


def test_published_tables_are_not_replaced(tmp_path):
    (tmp_path / "sine").mkdir()
    (tmp_path / "sine" / "runs.csv").write_text("suite,strategy\n")
    for option in (["--tables"], ["--seeds", "1"]):
        status, _, err = launches.call("--suite", "sine", *option, "--out", tmp_path)
        assert status == run.USAGE and "expected run folders in" in err and "received tables alone" in err
    assert [path.name for path in (tmp_path / "sine").iterdir()] == ["runs.csv"]


def test_signals_are_ignored_only_while_tables_are_written():
    before = signal.getsignal(signal.SIGINT)
    with run._uninterrupted():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == before
