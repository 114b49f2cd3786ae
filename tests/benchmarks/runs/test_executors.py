"""What happens to workers, and to what they finished, when somebody or something stops them; and what is shown of it."""

import contextlib
import os
import resource
import signal
import subprocess
import sys

import pytest

from benchmarks import run
from benchmarks.files import SOMEBODY, locked, name_of
from benchmarks.records import store
from benchmarks.runs import executors, worker
from benchmarks.runs.stopping import Stop
from tests import launches


def _long(tmp_path, *strategies, options=()):
    """A launch in which one_model takes for ever; its process, and the folder of its results."""
    suite = launches.variant(tmp_path, "sine", (r"\nsingle = \d+", "\nsingle = 10000000"))
    arguments = (
        "--suite",
        suite,
        *launches.SMALL,
        "--strategy",
        *strategies,
        "--seeds",
        "1",
        *launches.places(tmp_path),
    )
    return launches.start(*arguments, "--jobs", "1", *options, asleep=True), tmp_path / "out" / "variant"


def _workers(process, folder, strategy):
    """The worker processes, once one is at that strategy's run."""

    def is_at_it():
        assert process.poll() is None, process.communicate()
        runs, _ = store.read_runs(folder)
        return any(r.configuration["strategy"] == strategy and (r.path / "lock").exists() for r in runs)

    launches.wait_for(is_at_it)
    return launches.children(process.pid)


def test_ctrl_c_stops_the_workers_and_keeps_what_is_done(tmp_path):
    process, folder = _long(tmp_path, "best_of_three", "one_model")
    workers = _workers(process, folder, "one_model")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == run.INTERRUPTED
    assert "the same command goes on" in err and "Traceback" not in err
    assert workers and not any(map(launches.alive, workers))
    assert launches.statuses(launches.table_of(folder / "runs.csv")) == {
        ("best_of_three", 100): "done",
        ("one_model", 100): "unfinished",
    }
    assert "1 done, 1 unfinished" in out


def test_sigterm_is_an_interrupt_too(tmp_path):
    process, folder = _long(tmp_path, "one_model")
    workers = _workers(process, folder, "one_model")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == run.INTERRUPTED and "Traceback" not in err
    assert not any(map(launches.alive, workers))
    assert launches.statuses(launches.table_of(folder / "runs.csv")) == {("one_model", 100): "unfinished"}


def test_a_killed_worker_is_a_failed_row_and_the_rest_of_its_batch_goes_on(tmp_path):
    process, folder = _long(tmp_path, "one_model", "best_of_three", options=["--retries", "0"])
    (worker,) = _workers(process, folder, "one_model")
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == run.FAILED, out + err
    table = launches.table_of(folder / "runs.csv")
    assert launches.statuses(table) == {("best_of_three", 100): "done", ("one_model", 100): "failed"}
    assert "signal 9" in next(row["error"] for row in table if row["status"] == "failed")


def test_a_run_whose_worker_is_killed_is_tried_again_as_often_as_that_is_allowed(tmp_path):
    process, folder = _long(tmp_path, "one_model", options=["--retries", "1"])
    (first,) = _workers(process, folder, "one_model")
    os.kill(first, signal.SIGKILL)
    second = launches.wait_for(lambda: [pid for pid in launches.children(process.pid) if pid != first])
    os.kill(second[0], signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == run.FAILED, out + err
    assert out.count("again one_model seed 100") == 1 and "FAILED one_model seed 100" in out


def test_a_run_that_takes_too_long_fails_and_the_rest_goes_on(tmp_path):
    runs = []
    for seed, seconds in enumerate((0.05, 1000.0, 0.05)):
        content = {"suite": "dummy", "strategy": "sleeps", "seed": seed, "scale": 1.0, "examples": None, "backend": "jax"}
        runs.append(store.RunFolder.of(tmp_path, content))
        runs[-1].create({"seconds": seconds})
    environment, module = executors.worker_environment("jax"), "benchmarks.studies.scheduling"
    with executors.LocalProcesses(1, environment, timeout=4.0, retries=1, module=module) as workers:
        ends = [(event.kind, event.run.path) for event in workers.run([runs]) if event.kind != "start"]
    assert ends == [("done", runs[0].path), ("failed", runs[1].path), ("done", runs[2].path)]
    assert "longer than the limit of 4 seconds" in runs[1].failure["error"]


def test_a_launch_stops_after_so_many_failures_and_repeats_only_what_failed(tmp_path):
    suite = launches.variant(tmp_path, "sine", (r"(?s)(\[phases\.teacher\].*?)learning_rate = \S+", r"\1learning_rate = 1e30"))
    settings = ("--suite", suite, *launches.SMALL, "--seeds", "2", *launches.places(tmp_path), "--jobs", "1")
    strategies = ("--strategy", "best_of_three", "one_model")
    status, out, err = launches.call(*settings, *strategies, "--max-failures", "1", executor=launches.asleep)
    assert status == run.FAILED and "1 runs failed, as many as --max-failures allows" in err, out + err
    status, out, err = launches.call(*settings, *strategies, "--only", "failed", "--dry-run")
    assert status == run.DONE and "1 runs, 1 to do" in out and "one_model" not in out
    status, out, err = launches.call(*settings, "--strategy", "one_model", executor=launches.asleep)
    assert status == run.DONE, out + err
    status, out, err = launches.call(*settings, "--strategy", "one_model", "--only", "missing")
    assert status == run.DONE and "No run is missing." in out


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process, folder = _long(tmp_path, "one_model")
    workers = _workers(process, folder, "one_model")
    process.kill()
    process.communicate()
    launches.wait_for(lambda: not any(map(launches.alive, workers)), seconds=20)
    assert workers


def test_every_run_of_a_batch_tells_how_it_failed(tmp_path):
    """The second run of a worker, and the worker goes on after it."""
    suite = launches.variant(
        tmp_path, "sine", (r"(?s)(\[phases\.single\].*?)learning_rate = \S+", r"\1learning_rate = 1e30")
    )
    arguments = ("--suite", suite, *launches.SMALL, "--seeds", "1", *launches.places(tmp_path), "--jobs", "1")
    strategies = ("one_model", "one_model_equal_compute")
    status, out, err = launches.call(*arguments, "--strategy", *strategies, executor=launches.asleep)
    assert status == run.FAILED, out + err
    table = launches.table_of(tmp_path / "out" / "variant" / "runs.csv")
    assert [row["error"] for row in table if row["status"] == "failed"] == [
        "DivergedError: training diverged: the network's outputs are not finite"
    ] * 2


def test_a_full_disk_stops_the_launch_and_loses_nothing(tmp_path):
    """A limit on the size of a file stands for the disk: no run's stage fits, a failure's traceback does."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_500, 3_500))

    places = launches.places(tmp_path)
    arguments = (
        "--suite",
        "sine",
        *launches.SMALL,
        "--seeds",
        "1",
        "--strategy",
        "best_of_three",
        *places,
        "--jobs",
        "1",
    )
    status, out, err = launches.launch(*arguments, preexec_fn=limit, asleep=True)
    assert status == run.FAILED, out + err
    assert "No room to write" in err and "launch again" in err
    status, out, _ = launches.call(*arguments, "--dry-run")
    assert status == run.DONE and "unfinished  best_of_three seed 100" in out


def _shown(folder, stdout):
    """Start a process that shows two runs, one of which fails, on that output."""
    code = """
import sys, time
from pathlib import Path
from benchmarks.runs.executors import Event
from benchmarks.runs.progress import progress
from benchmarks.runs.estimating import Estimate
from baselines.protocol.task import Budget
from benchmarks.records.store import RunFolder
runs = [RunFolder.of(Path(sys.argv[1]), {"strategy": "one_model", "seed": seed}) for seed in (1, 2)]
with progress(2, Estimate(runs, Budget(20, 10, 10, 60), 1)) as display:
    display.show(Event("start", runs[0]))
    display.show(Event("epoch", runs[0], {"phase": "single", "epoch": 7, "loss": 0.123456}))
    time.sleep(0.3)  # the live view is drawn ten times a second
    spent = {"wall_seconds": 150.0, "seconds": 140.0, "teacher_epoch_equivalents": 60.0}
    spent |= {"compile_seconds": 5.0, "programs": {}}
    display.show(Event("done", runs[0], {"metric": "mse", "test_last": 0.25, **spent}))
    display.show(Event("failed", runs[1], {"error": "[bold]bad[/bold]"}))
"""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=launches.ROOT, stdout=stdout, env=environment
    )


ENDINGS = ("[1/2] done one_model seed 1: test mse 0.25, 2 min", "[2/2] FAILED one_model seed 2: [bold]bad[/bold]")


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path):
    with _shown(tmp_path, subprocess.PIPE) as process:
        lines = process.stdout.read().decode().splitlines()
    assert process.returncode == 0 and len(lines) == 2
    assert lines[0].startswith(ENDINGS[0]) and lines[0].endswith("left") and lines[1] == ENDINGS[1]


def test_progress_is_live_on_a_terminal(tmp_path):
    leader, follower = os.openpty()
    process = _shown(tmp_path, follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # what Linux says at the end of a terminal
            break
        shown += chunk
    os.close(leader)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert all(ending in text for ending in ENDINGS)
    assert "single epoch 7, loss 0.1235" in text and "2/2" in text and "\x1b[" in text


def test_the_environment_of_a_worker(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("NPROC", "7")
    environment = executors.worker_environment("jax")
    threads = executors.cores() // executors.default_jobs()
    assert environment["KERAS_BACKEND"] == "jax" and environment["OMP_NUM_THREADS"] == str(threads)
    assert environment["NPROC"] == "7"
    assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


class _Scripted(executors.LocalProcesses):
    """Worker processes that do what a script says instead of runs."""

    def __init__(self, script, **settings):
        super().__init__(1, dict(os.environ), **settings)
        self.script = script

    def _start(self, batch):
        command = [sys.executable, "-c", self.script, *(str(run.path) for run in batch)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._begin(subprocess.Popen(command, cwd=launches.ROOT, start_new_session=True, **streams), batch)


def _scripted(tmp_path, script, runs, **settings):
    """What happens to so many runs whose workers do that."""
    folders = [store.RunFolder.of(tmp_path, {"suite": "s", "strategy": "a", "seed": seed}) for seed in range(runs)]
    for folder in folders:
        folder.create({})
    with _Scripted(script, **settings) as workers:
        events = [(event.kind, event.run.configuration["seed"]) for event in workers.run([folders])]
    return events, folders


@pytest.mark.parametrize("last", ["os.write(1, b'{\"event\": \"do'); os.kill(os.getpid(), 9)", "sys.exit(130)"])
def test_a_worker_that_is_asked_to_end_or_killed_in_the_middle_of_a_line_is_started_again(tmp_path, last):
    events, (folder,) = _scripted(tmp_path, f"import os, sys; {last}", 1, retries=1)
    assert events == [("retry", 0), ("failed", 0)] and folder.status == "failed"


def test_a_run_that_ends_just_before_its_worker_is_killed_for_it_is_done(tmp_path):
    """It is told once, and the run behind it is not blamed."""
    script = """
import json, sys, time
from pathlib import Path
from benchmarks.records.store import RunFolder
runs = [RunFolder.read(Path(path)) for path in sys.argv[1:]]
if len(runs) == 2:
    print(json.dumps({"event": "start", "folder": sys.argv[1]}), flush=True)
runs[0].finish({}, [])
if len(runs) == 2:
    time.sleep(60)
"""
    events, (first, second) = _scripted(tmp_path, script, 2, timeout=3)
    assert events == [("start", 0), ("done", 0), ("done", 1)]
    assert first.failure is None and second.status == "done"


def test_time_in_which_a_run_waits_for_a_network_of_another_is_not_its_own(tmp_path):
    script = """
import json, os, sys, time
from pathlib import Path
from benchmarks.files import name_of
from benchmarks.records.store import RunFolder
def tell(kind):
    print(json.dumps({"event": kind, "folder": sys.argv[1], "holder": name_of(os.getpid())}), flush=True)
if len(sys.argv) == 3:
    tell("start"), tell("waits")
    time.sleep(3)
    tell("resumes")
    RunFolder.read(Path(sys.argv[1])).finish({}, [])
    tell("done")
    sys.argv = sys.argv[1:]
tell("start")
time.sleep(60)
"""
    events, (first, second) = _scripted(tmp_path, script, 2, timeout=1.5)
    assert [event for event in events if event[1] == 0] == [(kind, 0) for kind in ("start", "waits", "resumes", "done")]
    assert first.status == "done" and "longer than the limit of 1.5 seconds" in second.failure["error"]


@pytest.mark.parametrize("holder", ["process 1 on another-machine", SOMEBODY])
def test_a_wait_for_a_network_that_no_worker_of_this_launch_trains_has_the_same_limit(tmp_path, holder):
    script = f"""
import json, os, sys, time
from benchmarks.files import name_of
def tell(kind, holder):
    print(json.dumps(dict(event=kind, folder=sys.argv[1], holder=holder)), flush=True)
tell("start", None), tell("waits", name_of(os.getpid()))
time.sleep(1.0)  # for one of ours, which is not limited
tell("waits", {holder!r})
time.sleep(60)
"""
    events, (run,) = _scripted(tmp_path, script, 1, timeout=0.7)
    assert events == [("start", 0), ("waits", 0), ("waits", 0), ("failed", 0)]
    assert f"waited for {holder}, which takes longer than the limit of 0.7 seconds" in run.failure["error"]


def test_a_run_that_another_launch_let_go_of_waits_for_nobody_while_its_worker_prepares(tmp_path):
    """Nor while that waits for a further run to train together with it."""
    script = """
import json, sys, time
from pathlib import Path
from benchmarks.records.store import RunFolder
def tell(kind, **detail):
    print(json.dumps(dict(event=kind, folder=sys.argv[1], **detail)), flush=True)
tell("queues", holder="process 1 on another-machine")
time.sleep(0.5)
tell("resumes")
time.sleep(1.2)
tell("start")
RunFolder.read(Path(sys.argv[1])).finish({}, [])
tell("done")
"""
    events, _ = _scripted(tmp_path, script, 1, timeout=1.0)
    assert events == [("queues", 0), ("resumes", 0), ("start", 0), ("done", 0)]


def test_a_worker_tells_that_it_has_a_run_for_which_it_queued(tmp_path):
    folder = store.RunFolder.of(tmp_path, {"suite": "s", "strategy": "a", "seed": 0})
    folder.create({})
    folder.finish({}, [])
    heard, held = [], contextlib.ExitStack()
    held.enter_context(locked(folder.lock))

    def emit(_, kind, **detail):
        heard.append((kind, detail))
        held.close()

    assert worker.work([folder], emit, Stop()) == ["done"]
    assert heard == [("queues", {"holder": name_of(os.getpid())}), ("resumes", {}), ("done", {})]


def test_a_run_whose_worker_dies_keeps_its_own_log(tmp_path):
    script = """
import json, sys
from pathlib import Path
from benchmarks.records.store import RunFolder
for path in sys.argv[1:]:
    print(json.dumps({"event": "start", "folder": path}), flush=True)
    Path(path, "log.txt").write_text("log of " + Path(path).name)
    if path == sys.argv[1]:
        RunFolder.read(Path(path)).finish({}, [])
sys.exit(3)
"""
    events, (_, second) = _scripted(tmp_path, script, 2)
    assert events == [("start", 0), ("start", 1), ("done", 0), ("failed", 1)]
    assert second.failure["traceback"] == "log of " + second.path.name


def test_a_worker_may_have_fewer_cores_than_its_share(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert executors.worker_environment("jax", 3)["TF_NUM_INTRAOP_THREADS"] == "3"
