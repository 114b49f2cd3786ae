"""Runs that have ended are logged elsewhere, and whatever that does costs no run."""

import json
import sys

import pytest

from benchmarks.checkout import ROOT
from benchmarks.command_line import UsageError
from benchmarks.records.store import RunFolder
from benchmarks.runs import log_to, loggers

MODULE = '''
import json, os, time

def say(run):
    with open("said.txt", "a") as file:
        text = [run.name, run.row["status"], run.row["error"], run.configuration["definition"], len(run.epochs)]
        print(json.dumps(text), file=file)

def breaks(run):
    raise RuntimeError("no \\x1b[2J network")

def leaves(run):
    raise SystemExit(0)

def dies(run):
    os._exit(0)

def hangs(run):
    time.sleep(1000)
'''


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A run that is done and one that failed, and a module of loggers in the current folder."""
    found = []
    for seed in range(2):
        configuration = {"suite": "s", "strategy": "one_model", "seed": seed, "scale": 1.0, "backend": "jax"}
        run = RunFolder.of(tmp_path / "s", {**configuration, "definition": {"epochs": {"single": 6}}})
        run.create({"command": "c", "commit": "abc"})
        found.append(run)
    epochs = [{"phase": "single", "epoch": e, "loss": 1 / (e + 1), "val_metric": 0.5, "gate_pressure": 2.0} for e in range(3)]
    found[0].finish({"metric": "accuracy", "test_last": 0.9, "parameters": 10, "extras": {"a": 1.5}}, epochs)
    found[1].fail("ValueError: no", "Traceback")
    (tmp_path / "told_by_a_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield found
    sys.modules.pop("told_by_a_test", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def _said(folder):
    return [json.loads(line) for line in (folder / "said.txt").read_text().splitlines()]


EXPECTED = [
    ["one_model seed 0", "done", None, {"epochs": {"single": 6}}, 3],
    ["one_model seed 1", "failed", "ValueError: no", {"epochs": {"single": 6}}, 0],
]


def test_each_function_gets_each_run_whatever_another_one_does(runs, tmp_path, capsys):
    names = [f"told_by_a_test:{name}" for name in ("breaks", "leaves", "say")]
    lines = [f"{run.path}\n" for run in runs] + [f"{tmp_path / 's' / 'runs' / 'nothing'}\n"]
    assert log_to.main(names, lines) == 1 and _said(tmp_path) == EXPECTED
    problems = capsys.readouterr().out.splitlines()
    assert problems[0] == "told_by_a_test:breaks did not log one_model seed 0: RuntimeError: no \\x1b[2J network"
    assert len(problems) == 5 and "nothing is not a run folder" in problems[-1]


def test_a_launch_has_a_process_that_logs(runs, tmp_path, capsys):
    with log_to.LogTo(["told_by_a_test:say"], tmp_path / "s") as others:
        for run in runs:
            others.log(run)
    assert _said(tmp_path) == EXPECTED and capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["hangs", "dies"])
def test_a_process_that_hangs_or_dies_costs_no_run(runs, tmp_path, capsys, name):
    with log_to.LogTo([f"told_by_a_test:{name}"], tmp_path / "s", patience=1.0) as others:
        others.log(runs[0])
        if name == "dies":
            others._process.wait(60)
        for _ in range(3000):  # more than a pipe holds
            others.log(runs[1])
    assert others._process.returncode == {"hangs": -9, "dies": 0}[name]
    assert (tmp_path / "s" / "log_to.txt").read_text() == ""
    assert f"python -m benchmarks.report {tmp_path / 's'} --log-to told_by_a_test:{name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, message",
    [
        ("nobody", "expected one of tensorboard, mlflow, wandb, module:function, received 'nobody'"),
        ("no_such_module_here:f", "expected a module that Python finds from"),
        ("told_by_a_test:nothing", "expected a function or class that .*told_by_a_test.py defines"),
    ],
)
def test_what_cannot_log_is_refused_before_a_run(runs, name, message):
    with pytest.raises(UsageError, match=f"--log-to: {message}"):
        log_to.check_loggers(["told_by_a_test:say", name])


def test_mlflow_holds_one_run_of_each_with_its_epochs(runs, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for run in [*runs, runs[0]]:  # the third takes the place of the first
        loggers.mlflow(loggers.LoggedRun.of(run))
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 's'")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    statuses = {name: run.info.status for name, run in found.items()}
    assert statuses == {"one_model seed 0": "FINISHED", "one_model seed 1": "FAILED"}
    first = found["one_model seed 0"]
    assert first.data.params["definition.epochs.single"] == "6" and first.data.metrics["result.test_last"] == 0.9
    losses = client.get_metric_history(first.info.run_id, "loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert client.get_metric_history(first.info.run_id, "gate_pressure")[0].value == 2.0


def test_wandb_holds_a_run_by_its_hash(runs, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for run in runs:
        loggers.wandb(loggers.LoggedRun.of(run))
    assert len(list((runs[0].path.parents[1] / "wandb").glob(f"offline-run-*-{runs[0].path.name}"))) == 1


def test_tensorboard_gets_an_event_file_of_each_run_and_no_link_is_followed(runs, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "outside").mkdir()
    (tmp_path / "s" / "tensorboard").mkdir()
    (tmp_path / "s" / "tensorboard" / "one_model").symlink_to(tmp_path / "outside")
    for run in [*runs, runs[0]]:  # the third takes the place of the first
        loggers.tensorboard(loggers.LoggedRun.of(run))
    assert not list((tmp_path / "outside").iterdir())
    files = (tmp_path / "s" / "tensorboard").glob("one_model/seed_*/events*")
    assert sorted(file.parent.name for file in files) == [f"seed_{seed}-{run.path.name}" for seed, run in enumerate(runs)]
