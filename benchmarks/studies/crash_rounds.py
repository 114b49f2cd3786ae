"""One round of `benchmarks.studies.crashes`: a folder of results, launches in it, and what must hold of it after each."""

import contextlib
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import run
from benchmarks.command_line import DONE
from benchmarks.files import holder_of
from benchmarks.records.results import read_results
from benchmarks.records.store import RUN_COLUMNS, RunFolder, read_json
from benchmarks.runs.planning import named_suite, planned_runs
from benchmarks.studies.arithmetic import expected
from benchmarks.studies.forked_launches import Fault, Launch, launch

# What a round's launches run; it imports nothing that takes long.
SUITE = 'based_on = "sine"\ndescription = "a few epochs"\nruns_per_process = 3\n'
SUITE += "[epochs]\nteacher = 3\ngates = 2\nfinetune = 2\nsingle = 5\n"
SUITE += "".join(f"[phases.{phase}]\ndrops = []\n" for phase in ("teacher", "finetune", "single"))
SEEDS = 2
# Seconds after which a launch counts as one that hangs; the largest part of one that is not disturbed.
_HANGS, LONGEST = 60.0, 0.35
# What Python says of an interrupt that comes while a hook of its own runs; nobody hears that one.
_IGNORED = re.compile(r"Exception ignored in: .*\nTraceback [^:]*:\n(  .*\n)*\s*KeyboardInterrupt")
# What a launch and a worker of it do to files, and how many lines of code about files they run, both about.
_ACTIONS, _WORKER_ACTIONS = 215, 190
_LINES, _WORKER_LINES = 24_000, 60_000


class Round:
    """One folder of results, and what happens to it.

    Args:
        seed: of all that is drawn.
        suite: the file of the suite.
        folder: of this round alone.
    """

    def __init__(self, seed: int, suite: Path, folder: Path) -> None:
        self.seed, self.draw = seed, random.Random(seed)
        self.folder, self.out, self.suite = folder, folder / "out", suite
        self.problems: list[str] = []
        self.faults: list[str] = []
        self.launches: list[Launch] = []
        self.damaged: set[str] = set()
        self.done: set[str] = set()
        options = run.parsed(self._arguments())
        self.runs = planned_runs(named_suite(str(suite)), options)

    def play(self, kinds: Mapping[str, Callable[["Round"], None]]) -> None:
        """Launch with faults, then without. Rounds take turns with the first fault; others are drawn."""
        names = list(kinds)
        for kind in [names[self.seed % len(names)], *self.draw.choices(names, k=self.draw.randint(0, 2))]:
            self.faults.append(kind)
            kinds[kind](self)
            self._check_runs()
        self._check_end(self.end(self.start()))

    def death(self, scheduler: bool = False, worker: bool = False, clock: float = 0.0) -> Fault:
        """That these die somewhere on their way."""
        by_lines, which = self.draw.random() < 0.4, self.draw.randint(1, 2)
        most = (_LINES, _WORKER_LINES) if by_lines else (_ACTIONS, _WORKER_ACTIONS)
        steps = [of and self.draw.randint(1, number) for of, number in zip((scheduler, worker), most, strict=True)]
        return Fault(*steps, which, by_lines, clock=clock)

    def start(self, *more: str, fault: Fault | None = None) -> Launch:
        """A launch that has just begun."""
        number = len(self.launches)
        arguments = [*self._arguments(), *more]
        said = self.folder / f"launch-{number}.txt"
        self.launches.append(launch(arguments, self.out, f"launch-{number}", said, fault or Fault()))
        return self.launches[-1]

    def _arguments(self) -> list[str]:
        places = ["--out", str(self.out), "--cache-dir", str(self.folder / "cache")]
        settings = ["--jobs", "2", "--backend", "tensorflow", "--retries", "1"]
        return ["--suite", str(self.suite), "--seeds", str(SEEDS), *settings, *places]

    def end(self, of: Launch, fits: Callable[[int], bool] = lambda status: status == DONE) -> Launch:
        """Wait for a launch; its status must fit, and what it said must be no traceback."""
        limit = time.monotonic() + _HANGS
        while of.status is None:
            with contextlib.suppress(ChildProcessError):
                for pid, status in iter(lambda: os.waitpid(-1, os.WNOHANG), (0, 0)):
                    for each in self.launches:
                        each.status = os.waitstatus_to_exitcode(status) if each.pid == pid else each.status
            if time.monotonic() > limit:
                self.problems.append(f"{of.name} hangs: {of.text()[-500:]}")
                os.kill(of.pid, signal.SIGKILL)
                limit += _HANGS
            time.sleep(0.003)
        said = _IGNORED.sub("", of.text())
        if not fits(of.status) or "Traceback" in said:
            where = max(0, said.find("Traceback") - 200) if "Traceback" in said else -2500
            self.problems.append(f"{of.name} ended with {of.status}: {said[where:][:2500]}")
        return of

    def _check_runs(self) -> None:
        """All that is done is right, and stays."""
        done = set()
        for each in self.runs:
            found = RunFolder(each.path, each.configuration)
            result = found.result if found.status == "done" else None
            if result is None:
                continue
            done.add(each.path.name)
            rows = expected(each.configuration)
            history = read_json(each.path / "history.json")
            if history != rows and each.path.name not in self.damaged:
                self.problems.append(f"{each.name}: another history")
            if result["test_last"] != rows[-1]["loss"]:
                self.problems.append(f"{each.name}: {result['test_last']} instead of {rows[-1]['loss']}")
            by = {result["extras"]["launch"], result["commit"]}
            by |= set() if each.path.name in self.damaged else {found.launch.get("commit")}
            if len(by) > 1:
                self.problems.append(f"{each.name}: done, recorded and launched by {sorted(map(str, by))}")
        if lost := self.done - done - self.damaged:
            self.problems.append(f"lost: {sorted(lost)}")
        self.done = done

    def _check_end(self, last: Launch) -> None:
        """All runs are done, have one row each, and nothing is left over."""
        self._check_runs()
        if len(self.done) != len(self.runs):
            self.problems.append(f"{len(self.done)} of {len(self.runs)} are done: {last.text()[-1000:]}")
        results = read_results(self.out / self.suite.stem)
        names = Counter(row["run"] for row in results.rows)
        if names != Counter(each.path.name for each in self.runs):
            self.problems.append(f"rows: {names}")
        self.check_tables()
        drafts = [path for path in self.out.rglob(".*") if path.name != ".." and path.is_file()]
        if drafts:
            self.problems.append(f"left over: {', '.join(map(str, drafts))}")
        cut = [each for each in self.runs if not isinstance(read_json(each.path / "history.json"), list)]
        if last.text().count("is not a list of epochs") != len(cut):
            self.problems.append("a history that was cut is not told")

    def check_tables(self) -> None:
        """The tables on the disk have each run once, with its result."""
        lines = (self.out / self.suite.stem / "runs.csv").read_text().splitlines()
        at = {name: RUN_COLUMNS.index(name) for name in ("strategy", "seed", "status", "test_last")}
        found = sorted(tuple(line.split(",")[i] for i in at.values()) for line in lines[1:])
        right = []
        for each in self.runs:
            loss = expected(each.configuration)[-1]["loss"]
            right.append((each.configuration["strategy"], str(each.configuration["seed"]), "done", repr(loss)))
        if found != sorted(right):
            self.problems.append(f"runs.csv: {found} instead of {right}")

    def workers(self) -> list[int]:
        """Process ids of those that do runs now: forks of this process, whatever a lock of a dead one says."""
        names = {holder_of(each.lock) for each in self.runs}
        pids = [int(name.split()[1]) for name in names if name.startswith("process ")]
        return [pid for pid in pids if _command(str(pid)) == _command("self")]

    def wait(self, most: float = LONGEST) -> None:
        """Let a launch go on for some time."""
        time.sleep(self.draw.uniform(0.0, most))


def _command(pid: str) -> bytes | None:
    """The command line of a process; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None


def kill(pid: int, how: int = signal.SIGKILL) -> None:
    """Send a process a signal, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
