"""Launches of `benchmarks.run` as forks of one process, which start in a moment and can be made to die at any.

Scheduler, workers and all that they write are the real ones; training is arithmetic. The process that forks has one thread.
"""

import contextlib
import functools
import mmap
import os
import resource
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import run
from benchmarks.checkout import code_digest
from benchmarks.files import locked_at_once
from benchmarks.runs import worker
from benchmarks.runs.executors import LocalProcesses
from benchmarks.runs.preloading import Preloaded, adopt_orphans, copies, import_for_copies
from benchmarks.studies.arithmetic import calculate

# What launches and workers import late. Of SciPy's statistics that takes five times as long as all else that a launch does.
_LATE = ("scipy.stats", "numpy.ma", "numpy.random", "encodings.cp437")
# The code about files; and what a process does to files, as the interpreter announces it.
_TRACED = ("benchmarks/files.py", "records/store.py", "records/results.py", "runs/arrays.py", "runs/checkpoints.py",
           "runs/executors.py", "runs/stages.py", "runs/worker.py", "pathlib.py")  # fmt: skip
_TOLD = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "fcntl.flock")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a launch.

    Attributes:
        scheduler: it is killed before its so many-th step; 0 for never.
        worker: likewise one of the workers.
        which: of the workers that is, in the order of their starts, from 1 on.
        by_lines: whether a step is a line of code about files, or what is done to a file in the results.
        largest: bytes that a file may have, as on a full disk; 0 for any number.
        clock: seconds that the clock is set back.
        pause: seconds between reading all rows and writing them.
    """

    scheduler: int = 0
    worker: int = 0
    which: int = 1
    by_lines: bool = False
    largest: int = 0
    clock: float = 0.0
    pause: float = 0.0


@dataclass
class Launch:
    """A launch that runs, or ran.

    Attributes:
        pid: of its scheduler.
        name: what its rows report as their commit.
        said: the file of what it prints.
        status: its exit status, negative for a signal; None while it runs.
    """

    pid: int
    name: str
    said: Path
    status: int | None = None

    def text(self) -> str:
        """What it printed; nothing if it died before that."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""


def launch(arguments: Sequence[str], results: Path, name: str, said: Path, fault: Fault) -> Launch:
    """Fork a launch.

    Args:
        arguments: of the command line.
        results: the folder in which faults are counted.
        name: of this launch.
        said: what it prints goes there.
        fault: what goes wrong.
    """
    sys.stdout.flush()
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it is the launch that hears it
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGINT, heard)
        return Launch(pid, name, said)
    status = 1
    try:
        with open(said, "wb") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
        os.setsid()
        status = _launched(arguments, results, name, fault)
    except BaseException:  # as the interpreter does it, which is not to go on with what this process is a fork of
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # what it prints to may be full
                stream.flush()
        os._exit(status)


def warm_up() -> None:
    """Do once what each launch and worker would do again, and what no fault is about: imports, and reading the code."""
    code_digest()
    import_for_copies(_LATE)


def _launched(arguments: Sequence[str], results: Path, name: str, fault: Fault) -> int:
    if fault.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, fault.largest))
    if fault.clock:
        now = time.time
        time.time = lambda: now() - fault.clock
    if fault.pause:
        read = run.read_results
        run.read_results = lambda folder: (read(folder), time.sleep(fault.pause))[0]
    # None of these is asked what it does when it dies; without them tables are written in a moment.
    sys.modules |= dict.fromkeys(("matplotlib", "pandas", "jinja2"))
    run.commit = lambda: name
    count = mmap.mmap(-1, 1)
    run.LocalProcesses = functools.partial(_Forks, functools.partial(_worked, results, name, fault, count))
    if fault.scheduler:
        _die_before(fault.scheduler, results, fault.by_lines)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = None
    try:
        status = run.main(arguments)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        if status is None:
            raise
    return status  # an interrupt after that is one of the harness alone


def _worked(results: Path, name: str, fault: Fault, count: mmap.mmap, arguments: list[str]) -> int:
    """What a worker of such a launch does."""
    count[0] += 1
    calculate(seconds_per_epoch=0.0, seconds_between_writes=0.0)
    train = worker.train

    def marked(of: Any, stages: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        with locked_at_once(results.parent / of.path.name):  # a run that two do at once fails
            result, history = train(of, stages)
        return result | {"extras": {"launch": name}}, history

    worker.train = marked
    if fault.worker and count[0] == fault.which:
        _die_before(fault.worker, results, fault.by_lines)
    return worker.main(arguments)


def _die_before(number: int, results: Path, by_lines: bool) -> None:
    """Have this process killed before its so many-th step from now on."""
    here, left, within = os.getpid(), number, str(results)

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0 and os.getpid() == here:
            os.kill(here, signal.SIGKILL)

    def hear(event: str, about: tuple) -> None:
        if event in _TOLD:
            paths = [os.fspath(each) for each in about if isinstance(each, str | os.PathLike)]
            if event == "fcntl.flock" or any(path.startswith(within) for path in paths):
                step()

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        if event == "line":
            step()
        return trace if frame.f_code.co_filename.endswith(_TRACED) else None

    if by_lines:
        sys.settrace(trace)
    else:
        sys.addaudithook(hear)


class _Forks(LocalProcesses):
    """Workers that are forks of the launch as it was when it began."""

    def __init__(self, main: Callable[[list[str]], int], *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings, module="forks")
        self._main = main

    def __enter__(self) -> "_Forks":
        self._preloaded = _Forker(self._main)
        return self


class _Forker(Preloaded):
    """As `Preloaded`, of what this process has imported."""

    def __init__(self, main: Callable[[list[str]], int]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(60.0)
        adopt_orphans(True)
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            os.setsid()
            arguments, status = copies(theirs), 1
            try:
                status = 0 if arguments is None else main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        theirs.close()

    def close(self) -> None:
        """End the process; its copies go on."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        adopt_orphans(False)
