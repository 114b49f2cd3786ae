"""Launches of the benchmark, from the dearest to the cheapest.

`launch` is what a user does: a process of its own, and workers that train. `start(..., asleep=True)` is the same with workers
that sleep instead, for what is asked of processes: signals, kills, the end of a parent. `call` runs the command in this
process, with the workers of the executor that it is given: `asleep` ones, or none at all, as `Here` does the runs itself.

Figures take longer than all else that a launch writes: it has none here, as if matplotlib were not installed, unless `drawn`.
"""

import contextlib
import csv
import functools
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from benchmarks import run
from benchmarks.checkout import ROOT
from benchmarks.runs import worker
from benchmarks.runs.executors import Event, LocalProcesses
from benchmarks.runs.stages import Alone
from benchmarks.runs.stopping import Stop
from benchmarks.suites.suite import FOLDER

SMALL = ("--scale", "0.001", "--examples", "320", "--backend", "tensorflow")

# The environment of a process on JAX that compiles as quickly as can be, on so many devices.
def on_jax(devices=1):
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    return {"KERAS_BACKEND": "jax", "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}


# Worker processes as they are, but for training.
SLEEPING = "tests.sleeping_worker"
asleep = functools.partial(LocalProcesses, module=SLEEPING)
_ASLEEP = """
import functools, sys
from benchmarks import run
from tests import launches
run.LocalProcesses = launches.asleep
run.RayTasks = functools.partial(run.RayTasks, module=launches.SLEEPING)
sys.exit(run.main())
"""


class Here:
    """An executor that trains in this process, on its backend: an import of Keras takes longer than a small run.

    Args:
        eager: whether to do without programs, and so with sums that are rounded otherwise.
    """

    jobs = 1

    def __init__(self, *_, eager=False, **__):
        self._during = contextlib.ExitStack()
        self.eager = eager

    def __enter__(self):
        import keras

        self._during.callback(keras.config.set_dtype_policy, "float32")
        if self.eager:
            from tests.programs import without_programs

            self._during.enter_context(without_programs())
        return self

    def __exit__(self, *_):
        self._during.close()

    def run(self, batches):
        """Do all runs; what happens is told run by run."""
        import keras

        for each in itertools.chain(*batches):
            keras.backend.clear_session()
            events = []
            tell = functools.partial(self._tell, events, each)
            worker._attempt(each, tell, Stop(), Alone())
            yield from events

    @staticmethod
    def _tell(events, folder, kind, /, **detail):
        events.append(Event(kind, folder, detail))


eagerly = functools.partial(Here, eager=True)


def call(*arguments, executor=LocalProcesses, drawn=False):
    """The command line in this process: its exit status and what it printed on standard output and error."""
    out, err, heard = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as during:
        during.callback(signal.signal, signal.SIGTERM, heard)
        during.enter_context(contextlib.redirect_stdout(out))
        during.enter_context(contextlib.redirect_stderr(err))
        during.enter_context(mock.patch.object(run, "LocalProcesses", executor))
        if not drawn:
            during.enter_context(mock.patch.dict(sys.modules, matplotlib=None))
        try:
            status = run.main([*map(str, arguments)])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def start(*arguments, cwd=ROOT, asleep=False, **options):
    """A launch of `benchmarks.run` that has just begun."""
    program = ["-c", _ASLEEP] if asleep else ["-m", "benchmarks.run"]
    command = [sys.executable, *program, *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {"preexec_fn": _hear_interrupts, "env": os.environ | hidden("matplotlib")} | options
    return subprocess.Popen(command, cwd=cwd, text=True, start_new_session=True, **streams, **options)


def hidden(*packages):
    """The environment of processes that find these packages as little as those that are hidden from this one."""
    return {"KMERGE_TESTS_HIDE": ",".join([*packages, *filter(None, [os.environ.get("KMERGE_TESTS_HIDE")])])}


def _hear_interrupts() -> None:
    """A shell lets the jobs it puts in the background ignore Ctrl-C, and they pass that on to all they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launch(*arguments, **options):
    """A launch, waited for: its exit status and what it printed on standard output and error."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def places(folder):
    """Arguments that keep results and decoded data under that folder."""
    return ("--out", folder / "out", "--cache-dir", folder / "cache")


def table_of(path):
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def statuses(table):
    """Status by strategy and seed, of rows of runs.csv."""
    return {(row["strategy"], int(row["seed"])): row["status"] for row in table}


def children(pid):
    """Process ids of the running children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(condition, seconds=120):
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result


def alive(pid):
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def variant(folder, suite, *changes):
    """A suite file of our own: one that comes with the benchmark, with some text replaced."""
    text = (FOLDER / f"{suite}.toml").read_text()
    for old, new in changes:
        assert re.search(old, text), old
        text = re.sub(old, new, text)
    path = folder / "variant.toml"
    path.write_text(text)
    return path
