"""Workers that are copies of a preloaded process: that they are what fresh ones are, and who may be killed when."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import run
from benchmarks.records import store
from benchmarks.runs import executors, planning, preloading
from tests import launches
from tests.benchmarks.runs.test_reliability import TIMES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are copied on Linux only")

TOY = """
import os, sys
READ_AT_IMPORT = os.environ.get("TOLD")
def main(arguments):
    print(READ_AT_IMPORT, *arguments, os.getsid(0) == os.getpid(), flush=True)
    print("an error", file=sys.stderr, flush=True)
    return len(sys.stdin.read())
"""


@pytest.fixture
def toys(tmp_path):
    """Makes preloaded processes of a small module, and its log."""
    made = []

    def make(text=TOY, **environment):
        (tmp_path / "toy.py").write_text(text)
        paths = os.pathsep.join([str(tmp_path), str(launches.ROOT)])
        made.append(preloading.preload(["toy"], {**os.environ, "PYTHONPATH": paths, **environment}))
        return made[-1]

    with open(tmp_path / "log.txt", "wb") as log:
        make.log = log
        yield make
    for preloaded in made:
        preloaded.close()


def test_a_copy_has_its_own_arguments_streams_and_session_and_the_environment_of_the_imports(toys, tmp_path):
    others = set(launches.children(os.getpid()))  # of other tests in this process
    preloaded = toys(TOLD="before")
    first, second = preloaded.start(["a"], toys.log), preloaded.start(["b"], toys.log)
    assert (first.stdout.readline(), second.stdout.readline()) == (b"before a True\n", b"before b True\n")
    assert {first.pid, second.pid, preloaded.pid} == set(launches.children(os.getpid())) - others
    first.stdin.write(b"abc")
    first.stdin.close()
    assert first.wait(20) == 3 and first.returncode == 3
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.1)
    os.killpg(second.pid, signal.SIGKILL)
    assert second.wait(20) == -signal.SIGKILL
    assert (tmp_path / "log.txt").read_bytes() == b"an error\nan error\n"


def test_a_copy_outlives_the_preloaded_process_after_which_there_are_no_more(toys):
    preloaded = toys()
    worker = preloaded.start([], toys.log)
    assert worker.stdout.readline() == b"None True\n"
    os.kill(preloaded.pid, signal.SIGKILL)
    launches.wait_for(lambda: not launches.alive(preloaded.pid))
    assert preloaded.start([], toys.log) is None
    worker.stdin.close()
    assert worker.wait(20) == 0


@pytest.mark.parametrize(
    "more",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "raise ImportError('there is no such backend')",
        "os.kill(os.getpid(), 9)",
        "DEVICE = open('/dev/zero', 'rb')",  # stands for that of a GPU
    ],
)
def test_there_are_no_copies_of_a_process_with_threads_or_a_device_or_without_its_imports(toys, more):
    assert toys(TOY + more).start([], toys.log) is None


def _endless(tmp_path):
    """A launch at whose two batches, which take for ever, two workers are; its process, the preloaded one, the workers."""
    suite = launches.variant(
        tmp_path,
        "sine",
        (r"\nsingle = \d+", "\nsingle = 10000000"),
        (r"drops = \[800\]", "drops = []"),
        (r"runs_per_process = \d+", "runs_per_process = 1"),
    )
    what = ("--suite", suite, *launches.SMALL, "--strategy", "one_model", "--seeds", "2", "--jobs", "2", "--retries", "1")
    what += ("--backend", "jax")  # takes half the time to import
    environment = os.environ | launches.on_jax() | launches.hidden("matplotlib", "tensorflow")
    process = launches.start(*what, *launches.places(tmp_path), env=environment)

    def are_at_it():
        assert process.poll() is None, process.communicate()
        runs, _ = store.read_runs(tmp_path / "out" / "variant")
        # One can be at work before the process that forked it has ended, and is the launch's child only then.
        started = launches.children(process.pid)
        return len(started) == 3 and sum((r.path / "lock").exists() for r in runs) == 2 and started

    started = launches.wait_for(are_at_it, seconds=200)
    preloaded = [pid for pid in started if os.readlink(f"/proc/{pid}/fd/0") == os.devnull]
    workers = [pid for pid in started if pid not in preloaded]
    assert len(preloaded) == 1 and len(workers) == 2
    return process, preloaded[0], workers


def test_workers_outlive_the_preloaded_process_are_started_afresh_after_it_and_end_by_ctrl_c(tmp_path):
    process, preloaded, (first, second) = _endless(tmp_path)
    os.kill(preloaded, signal.SIGKILL)
    os.kill(first, signal.SIGKILL)
    others = {preloaded, first, second}
    started = launches.wait_for(lambda: [pid for pid in launches.children(process.pid) if pid not in others])
    assert launches.alive(second)
    time.sleep(2)  # until the launch has taken note of it: what it starts as Ctrl-C comes ends by its closed input
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == run.INTERRUPTED and "Traceback" not in err, out + err
    assert out.count("again one_model") == 1 and "2 unfinished" in out
    assert not launches.alive(second)
    # What was started as Ctrl-C came ends by its input.
    launches.wait_for(lambda: not any(map(launches.alive, started)))


def test_all_end_when_the_launch_is_killed(tmp_path):
    process, preloaded, workers = _endless(tmp_path)
    process.kill()
    process.communicate()
    launches.wait_for(lambda: not any(map(launches.alive, [preloaded, *workers])), seconds=20)


def test_results_of_copies_are_those_of_workers_started_afresh(tmp_path):
    what = ("--suite", "sine", *launches.SMALL, "--strategy", "one_model", "--seeds", "2", *launches.places(tmp_path))
    fresh = planning.planned_runs(planning.named_suite("sine"), run.parsed([*map(str, what)]))
    copies = [store.RunFolder.of(tmp_path / "copies", each.configuration) for each in fresh]
    for each in (*fresh, *copies):
        each.create({"suite": "sine", "data_dir": None, "cache_dir": str(tmp_path / "cache")})
    with executors.LocalProcesses(1, executors.worker_environment("tensorflow")) as workers:
        for _ in workers.run([fresh]):  # one batch, whose worker is started afresh
            assert workers._preloaded is None
        for _ in workers.run([[copy] for copy in copies]):
            assert workers._preloaded is not None
    assert [_without_times(each.result) for each in fresh] == [_without_times(copy.result) for copy in copies]
    assert len(copies) == 2 and all(copy.status == "done" for copy in copies)


def _without_times(row):
    return {name: value for name, value in row.items() if name not in TIMES}
