"""Run folders, tables and locks, with several processes where that is the point."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import files
from benchmarks.records import results, store

CONFIGURATION = {"suite": "s", "strategy": "one_model", "seed": 3, "scale": 0.5, "examples": None, "backend": "jax"}
RESULT = {"metric": "mse", "test_last": 0.25, "test_best": 0.125, "epochs": 4, "extras": {"big": 0.5}}
HISTORY = [{"phase": "single", "epoch": 1, "loss": 0.1 + 0.2, "val_metric": np.float32(0.5), "lambda": 2.0}]


def _run(folder, **changes):
    run = store.RunFolder.of(folder, {**CONFIGURATION, **changes})
    run.create({"command": "c", "commit": "abc"})
    return run


def test_of_runs_that_differ_in_settings_of_their_own_the_newest_that_is_done_counts(tmp_path):
    other = _run(tmp_path)
    first, second, third = (_run(tmp_path, strategy="auto_sizing", sizing={"dynamic": share}) for share in (0.5, 0.6, 0.7))
    assert first.protocol == second.protocol == other.protocol and first.path != second.path
    for launched, run in ((300, first), (100, second), (200, third)):
        run.create({"launched": launched})
    runs, problems = store.read_runs(tmp_path)
    assert {run.path for run in runs} == {other.path, first.path}
    assert len(problems) == 2 and all(f"is left out: {first.path.name} is the same run" in text for text in problems)
    second.finish(RESULT, HISTORY)
    assert {run.path for run in store.read_runs(tmp_path)[0]} == {other.path, second.path}
    third.finish(RESULT, HISTORY)
    assert {run.path for run in store.read_runs(tmp_path)[0]} == {other.path, third.path}


def _tables(folder):
    found = results.read_results(folder)
    results.write_tables(found)
    return found.rows, found.problems


def _python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_run_is_named_by_its_configuration_and_read_back(tmp_path):
    run = _run(tmp_path)
    again = store.RunFolder.read(run.path)
    assert again == run
    assert run.path.name == store.hash_of(dict(reversed(CONFIGURATION.items())))
    assert run.path != store.RunFolder.of(tmp_path, {**CONFIGURATION, "seed": 4}).path
    assert again.launch == {"command": "c", "commit": "abc"}


def test_protocol_is_what_strategies_and_seeds_share(tmp_path):
    run = _run(tmp_path)
    assert run.protocol == _run(tmp_path, strategy="other", seed=9).protocol
    assert run.protocol != _run(tmp_path, scale=1.0).protocol


def test_statuses_of_a_run(tmp_path):
    run = store.RunFolder.of(tmp_path, CONFIGURATION)
    assert run.status == "missing"
    run.create({})
    assert run.status == "unfinished"
    run.fail("RuntimeError: no", "Traceback ...")
    assert (run.status, run.failure["traceback"]) == ("failed", "Traceback ...")
    run.start()
    assert run.status == "unfinished"
    run.finish(RESULT, HISTORY)
    assert (run.status, run.result) == ("done", RESULT)
    run.create({"command": "second"})
    assert run.status == "done"


@pytest.mark.parametrize("lost", ["done", "result.json", "config.json"])
def test_a_run_without_all_its_files_is_not_done(tmp_path, lost):
    run = _run(tmp_path)
    run.finish(RESULT, HISTORY)
    (run.path / lost).unlink()
    assert run.status == ("missing" if lost == "config.json" else "unfinished")


def test_tables_hold_every_run_whatever_its_status(tmp_path):
    _run(tmp_path).finish(RESULT, HISTORY)
    _run(tmp_path, seed=4).fail('ValueError: a, "quoted"\nreason', "")
    _run(tmp_path, seed=5)
    rows, problems = _tables(tmp_path)
    assert problems == []
    with open(tmp_path / "runs.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(store.RUN_COLUMNS)
    assert [(row["seed"], row["status"]) for row in table] == [("3", "done"), ("4", "failed"), ("5", "unfinished")]
    assert table[1]["error"] == 'ValueError: a, "quoted"\nreason'
    assert float(table[0]["test_best"]) == 0.125 and json.loads(table[0]["extras"]) == {"big": 0.5}
    assert [row["commit"] for row in rows] == ["abc"] * 3
    with open(tmp_path / "history.csv", newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert list(epoch) == list(store.HISTORY_COLUMNS)
    assert float(epoch["loss"]) == 0.1 + 0.2 and json.loads(epoch["extras"]) == {"lambda": 2.0}


def test_corrupt_and_foreign_folders_are_reported_and_left_out(tmp_path):
    _run(tmp_path).finish(RESULT, HISTORY)
    corrupt = _run(tmp_path, seed=4).path
    (corrupt / "config.json").write_text('{"configuration": {"su')
    edited = _run(tmp_path, seed=5).path
    (edited / "config.json").write_text((edited / "config.json").read_text().replace("0.5", "0.75"))
    (tmp_path / "runs" / "holiday_photos").mkdir()
    (tmp_path / "runs" / "list").mkdir()
    (tmp_path / "runs" / "list" / "config.json").write_text("[1]")
    rows, problems = _tables(tmp_path)
    assert [row["seed"] for row in rows] == [3]
    assert len(problems) == 4
    for name in (corrupt.name, edited.name, "holiday_photos", "list"):
        assert sum(name in problem for problem in problems) == 1


def test_a_write_that_finds_no_room_leaves_the_old_file(tmp_path):
    path = tmp_path / "runs.csv"
    files.write_atomically(path, "old")
    code = """
import resource, signal, sys
from pathlib import Path
from benchmarks import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_atomically(Path(sys.argv[1]), "new" * 1000)
except OSError as error:
    print(files.is_disk_full(error))
"""
    out, err = _python(code, path).communicate(timeout=60)
    assert out == "True\n", err
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_eight_processes_write_one_table_and_their_own_runs(tmp_path):
    code = """
import sys
from pathlib import Path
from benchmarks.records import results, store
for seed in range(int(sys.argv[2]) * 10, int(sys.argv[2]) * 10 + 10):
    run = store.RunFolder.of(Path(sys.argv[1]), {"suite": "s", "strategy": "a", "seed": seed})
    run.create({})
    run.finish({"metric": "mse", "test_last": seed, "test_best": seed}, [])
    results.write_tables(results.read_results(Path(sys.argv[1])))
"""
    processes = [_python(code, tmp_path, i) for i in range(8)]
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    rows, problems = _tables(tmp_path)
    assert problems == [] and [row["test_last"] for row in rows] == list(range(80))


def test_two_processes_train_a_stage_once_and_a_killed_one_leaves_no_lock(tmp_path):
    """The first is killed while it holds the lock; of the next two, one trains and one waits."""
    code = """
import sys, time
from pathlib import Path
from benchmarks import files
folder = Path(sys.argv[1])
with files.locked(folder / "lock"):
    print("holds", flush=True)
    if not (folder / "trained").exists():
        time.sleep(float(sys.argv[2]))
        (folder / "trained").write_text("")
        print("trained", flush=True)
"""
    killed = _python(code, tmp_path, 60)
    assert killed.stdout.readline() == "holds\n"
    others = [_python(code, tmp_path, 0.3) for _ in range(2)]
    time.sleep(0.5)
    assert not (tmp_path / "trained").exists()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    texts = sorted(process.communicate(timeout=60)[0] for process in others)
    assert texts == ["holds\n", "holds\ntrained\n"]
