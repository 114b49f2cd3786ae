"""Runs batches of runs in worker processes on this machine.

A worker gets a few run folders, works through them in order and reports on its standard output, one JSON object a
line. What it reports is for the progress display; what counts is what stands in the folders. A worker that dies takes
only the run it was at with it: that run fails, and the rest of its batch goes to a new worker. One that was killed from
outside is no fault of its run, which is tried again, from its last epoch on, as often as retries are allowed.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from benchmarks.files import name_of, open_regular
from benchmarks.records.store import RunFolder, json_text
from benchmarks.runs.compiling import shared_programs
from benchmarks.runs.preloading import Copy, Preloaded, has_devices, preload

# What a worker runs.
WORKER = "benchmarks.runs.worker"
# From being asked to end to being killed: more than checkpoints are apart, so that what ends in time loses nothing.
GRACE_SECONDS = 10.0
# What a process ends by when a machine runs out of memory, is shut down or asked to give way. A crash of its own code,
# as by SIGSEGV or SIGABRT, would come again.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGBUS)
# The status of a worker that heard SIGTERM, and ended after the epoch that it was at.
_ASKED_TO_END = 130
_IMPORTS = ("keras", "kmerge")  # what it imports once it has a run to do


@dataclass(frozen=True)
class Event:
    """What happened to a run; `detail` depends on the kind.

    Kinds are "queues" (for somebody else who does the run), "start", "epoch", "waits" (for a network that another run trains),
    "resumes", "damaged" (of a file that counts as none), "retry", "done", "failed".
    """

    kind: str
    run: RunFolder
    detail: dict[str, Any] = field(default_factory=dict)


class Executor(Protocol):
    """Works through batches of runs; a context manager, which stops what still runs when it is left."""

    jobs: int

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, batches: Sequence[Sequence[RunFolder]]) -> Iterator[Event]:
        """Work through all batches; what happens is told as it happens, and each run ends in one "done" or "failed"."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def default_jobs() -> int:
    """How many workers run at a time unless told otherwise: one on a GPU or TPU, else one per core, at most four."""
    return 1 if has_devices() else min(4, cores())


def fair_share() -> int:
    """How many cores a worker has of this machine's."""
    return max(1, cores() // default_jobs())


def next_batch(waiting: Sequence[Sequence[RunFolder]], running: Sequence[Sequence[RunFolder]]) -> int:
    """Index of the batch to start: one whose seeds nobody is at, lest it wait for a stage that another trains."""
    busy = {run.configuration["seed"] for batch in running for run in batch}
    free = (i for i, batch in enumerate(waiting) if not busy & {run.configuration["seed"] for run in batch})
    return next(free, 0)


def worker_environment(backend: str, threads: int | None = None) -> dict[str, str]:
    """Environment variables of a worker: the backend, its share of the cores, memory of a GPU taken as needed.

    Args:
        backend: "tensorflow" or "jax".
        threads: the cores that it may use; None for its share of this machine's.

    Returns:
        The whole environment. What the caller's environment says of threads and logging goes before our defaults.
    """
    # Sums are rounded by how they are split over threads, and training magnifies it: the number of threads must not
    # follow from how many jobs were asked for, or the same run would end in other numbers.
    count = str(threads or fair_share())
    defaults = {
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": "1",
        "NPROC": count,  # the size of XLA's thread pool, for JAX on a CPU
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return {**defaults, **os.environ, "KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}


@dataclass
class _Worker:
    process: subprocess.Popen | Copy
    batch: Sequence[RunFolder]
    reported: set[Path] = field(default_factory=set)
    started: dict[Path, float] = field(default_factory=dict)
    waiting: dict[Path, float] = field(default_factory=dict)
    # For whom runs wait that none of our workers is, and since when: to do the run itself, or a network that it needs.
    strangers: dict[Path, tuple[str, float]] = field(default_factory=dict)
    late: RunFolder | None = None
    words: BinaryIO | None = None  # what it says before it has the log of a run

    def said(self) -> str:
        """The end of what it said before its first run."""
        return _tail(self.words) if self.words else ""

    def close(self) -> None:
        """Let go of a process that has ended."""
        self.process.stdin.close()
        if self.words:
            self.words.close()


class LocalProcesses:
    """Worker processes on this machine, a fixed number at a time.

    A context manager: leaving it, in whatever way, stops the workers that still run.

    Args:
        jobs: how many workers at a time.
        environment: of the workers; see `worker_environment`. Those of JAX also share their programs, see `compiling`.
        together: how many seeds a worker trains in one program.
        timeout: seconds that a run may take, those left out in which it waits for a network that another run trains; where
            none of our workers does that, the wait may take as long. None for any time.
        retries: how often a run is tried again whose worker was killed from outside.
        launch: what config.json is to say of the runs that are done here; None for what it says.
        module: what a worker runs. Of the default, several batches are worked through by copies of a process that has
            imported it and what it needs; see `benchmarks.runs.preloading`.
    """

    def __init__(
        self,
        jobs: int,
        environment: dict[str, str],
        together: int = 1,
        timeout: float | None = None,
        retries: int = 0,
        launch: Mapping[str, Any] | None = None,
        module: str = WORKER,
    ) -> None:
        self.jobs = jobs
        self.launch = launch
        self.together = together
        self.environment = environment
        self.timeout = timeout
        self.retries = retries
        self.module = module
        self._tries: Counter[Path] = Counter()
        self._workers: list[_Worker] = []
        self._preloaded: Preloaded | None = None
        self._open = contextlib.ExitStack()
        self._messages: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()

    def __str__(self) -> str:
        return f"{self.jobs} at a time on {cores()} cores"

    def __enter__(self) -> "LocalProcesses":
        self.environment = self._open.enter_context(shared_programs(self.environment))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._open.close()

    def run(self, batches: Sequence[Sequence[RunFolder]]) -> Iterator[Event]:
        """Work through all batches.

        Args:
            batches: run folders that exist; the runs of a batch share a process.

        Yields:
            What happens, as it happens. Each run ends in one "done" or "failed".
        """
        waiting = list(batches)
        if len(waiting) > 1 and self.module == WORKER:
            self._preloaded = preload([self.module, *_IMPORTS], self.environment)
        while waiting or self._workers:
            while waiting and len(self._workers) < self.jobs:
                self._start(waiting.pop(next_batch(waiting, [worker.batch for worker in self._workers])))
            try:
                worker, message = self._messages.get(timeout=self._stop_late_ones())
            except queue.Empty:
                continue
            if message is not None:
                ours = [name_of(worker.process.pid) for worker in self._workers]
                event = _event(worker, message, ours)
                if event is not None:
                    yield event
                continue
            self._workers.remove(worker)
            events, rest = self._last_words(worker)
            worker.close()
            yield from events
            if rest:
                waiting.insert(0, rest)

    def _stop_late_ones(self) -> float | None:
        """Kill workers whose run takes too long; seconds until the next look, None where there is no limit."""
        if self.timeout is None:
            return None
        now = time.monotonic()
        for worker in self._workers:
            for run in worker.batch:
                began, end = worker.started.get(run.path, now), worker.waiting.get(run.path, now)
                _, since = worker.strangers.get(run.path, ("", now))
                is_late = max(end - began, now - since) > self.timeout
                if worker.late is None and run.path not in worker.reported and is_late:
                    worker.late = run
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(worker.process.pid, signal.SIGKILL)
        return 0.2

    def _last_words(self, worker: _Worker) -> tuple[list[Event], list[RunFolder]]:
        """What is to be reported of a worker's runs that it did not report itself, and those that are still to be done."""
        open_runs = [run for run in worker.batch if run.path not in worker.reported]
        events = [Event("done", run, run.result) for run in open_runs if run.status == "done"]
        open_runs = [run for run in open_runs if run.status != "done"]
        late = worker.late
        if not open_runs or (late is not None and late not in open_runs):
            return events, open_runs  # the late one ended just before its worker was killed: nothing went wrong
        run = open_runs[0] if late is None else late
        status = worker.process.returncode
        error = _reason(status)
        if late is not None:
            stranger, _ = worker.strangers.get(late.path, ("", 0.0))
            what = f"it waited for {stranger}, which takes" if stranger else "it took"
            error = f"{what} longer than the limit of {self.timeout:g} seconds"
        elif (-status in _FROM_OUTSIDE or status == _ASKED_TO_END) and self._tries[run.path] < self.retries:
            self._tries[run.path] += 1
            return [*events, Event("retry", run, {"error": error})], open_runs
        log = _last_of(run.path / "log.txt") if run.path in worker.started else worker.said()
        error = run.give_up(error, log)
        events.append(Event("failed", run, {"error": error, "traceback": log}))
        return events, [other for other in open_runs if other is not run]

    def stop(self) -> None:
        """Stop all workers: asked first, killed if they do not go."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            for worker in self._workers:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.process.pid, how)
            for worker in self._workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(GRACE_SECONDS)
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._forget_preloaded()

    def _forget_preloaded(self) -> None:
        if self._preloaded is not None:
            self._preloaded.close()
            self._preloaded = None

    def _start(self, batch: Sequence[RunFolder]) -> None:
        # A session of its own, or Ctrl-C on the terminal would reach the workers before us. They notice our death,
        # however it comes, by the end of their standard input.
        arguments = ["--attached", "--together", str(self.together), *(str(run.path) for run in batch)]
        if self.launch is not None:
            arguments[:0] = ["--launch", json_text(self.launch)]
        words = tempfile.TemporaryFile()
        process = self._copy(arguments, words) or subprocess.Popen(
            [sys.executable, "-m", self.module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env=self.environment,
            start_new_session=True,
        )
        self._begin(process, batch, words)

    def _copy(self, arguments: list[str], log: BinaryIO) -> Copy | None:
        """A worker that need not import anything, where there can be one."""
        worker = self._preloaded and self._preloaded.start(arguments, log)
        if worker is None:
            self._forget_preloaded()
        return worker

    def _begin(
        self, process: subprocess.Popen | Copy, batch: Sequence[RunFolder], words: BinaryIO | None = None
    ) -> None:
        worker = _Worker(process, batch, words=words)
        self._workers.append(worker)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()

    def _read(self, worker: _Worker) -> None:
        with worker.process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # half a line, of a worker that was killed while it wrote
                    self._messages.put((worker, json.loads(line)))
        worker.process.wait()
        self._messages.put((worker, None))


def _event(worker: _Worker, message: dict[str, Any], ours: Collection[str]) -> Event | None:
    """The event that a worker's message reports; None if it is about none of its runs. `ours` are the names of workers."""
    folder, kind = message.pop("folder", None), message.pop("event", None)
    run = next((run for run in worker.batch if str(run.path) == folder), None)
    if run is None or run.path in worker.reported:
        return None
    now = time.monotonic()
    if kind in ("queues", "waits"):
        worker.waiting.setdefault(run.path, now)
        if (holder := message["holder"]) in ours:
            worker.strangers.pop(run.path, None)
        elif worker.strangers.get(run.path, ("", now))[0] != holder:
            worker.strangers[run.path] = holder, now
    if kind == "resumes" and run.path in worker.started:  # one that queued starts later
        worker.started[run.path] += now - worker.waiting.get(run.path, now)
    if kind in ("start", "resumes"):
        worker.waiting.pop(run.path, None)
        worker.strangers.pop(run.path, None)
    if kind == "start":
        worker.started[run.path] = now
    if kind in ("done", "failed"):
        worker.reported.add(run.path)
    return Event(kind, run, message)


def _reason(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the worker was killed by signal 9 (by hand, or because memory ran out)"
    if status == _ASKED_TO_END:
        return "the worker was asked to end, from outside"
    if status < 0:
        return f"the worker was killed by signal {-status} ({signal.Signals(-status).name})"
    return f"the worker exited with status {status} and left no result"


def _last_of(path: Path) -> str:
    """The end of a log."""
    try:
        with open_regular(path) as file:
            return _tail(file)
    except OSError:
        return ""


def _tail(file: BinaryIO, most: int = 4000) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - most))
    return file.read().decode(errors="replace")
