"""What is left of launches after faults: rounds of kills, double launches, full disks and damaged files, drawn by a seed.

    python -m benchmarks.studies.crashes --rounds 10000

Scheduler, workers, store, stages, checkpoints and tables are the real ones; training is arithmetic, whose result is a function
of strategy and seed (`benchmarks.studies.arithmetic`). Each round has a folder of its own, one to three launches with faults,
and a last one without. After each launch:

- its exit status is one that fits the fault, and nothing that it said is a traceback;
- each run that is done has exactly the result, the history and the launch that it ought to have;
- no run that was done is lost, but where a file of its own was damaged.

After the last launch all runs are done, each has one row in the tables, and no draft is left. Prints how many faults of each
kind there were. `--first N --rounds 1` repeats round N; a kill "from outside" then comes at about the same moment.

Exit status: 0, or 1 if anything of that did not hold, which is then told.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import run
from benchmarks.command_line import DONE, FAILED, command_parser, positive_whole_number, whole_number
from benchmarks.files import HeldError, holder_of, locked_at_once
from benchmarks.records.results import read_results
from benchmarks.records.store import RUN_COLUMNS, RunFolder, read_json
from benchmarks.runs.planning import named_suite, planned_runs
from benchmarks.runs.preloading import adopt_orphans
from benchmarks.studies.arithmetic import expected
from benchmarks.studies.forked_launches import Fault, Launch, launch

_SUITE = 'based_on = "sine"\ndescription = "a few epochs"\nruns_per_process = 3\n'
_EPOCHS = "[epochs]\nteacher = 3\ngates = 2\nfinetune = 2\nsingle = 5\n"
_DROPS = "".join(f"[phases.{phase}]\ndrops = []\n" for phase in ("teacher", "finetune", "single"))
_SEEDS = 2
# Seconds after which a launch counts as one that hangs; the largest part of one that is not disturbed.
_HANGS, _LONGEST = 60.0, 0.35
# What a launch and a worker of it do to files, and how many lines of code about files they run, both about.
_ACTIONS, _WORKER_ACTIONS = 215, 190
_LINES, _WORKER_LINES = 24_000, 60_000
_ANY_FAILURE = {DONE, FAILED, run.TABLES_STALE, run.USAGE}


class Round:
    """One folder of results, and what happens to it.

    Args:
        seed: of all that is drawn.
        suite: the file of the suite.
        folder: of this round alone.
    """

    def __init__(self, seed: int, suite: Path, folder: Path) -> None:
        self.draw = random.Random(seed)
        self.folder, self.out, self.suite = folder, folder / "out", suite
        self.problems: list[str] = []
        self.faults: list[str] = []
        self.launches: list[Launch] = []
        self.damaged: set[str] = set()
        self.done: set[str] = set()
        options = run.parsed(self._arguments())
        self.runs = planned_runs(named_suite(str(suite)), options)

    def play(self) -> None:
        """Launch with faults, then without."""
        for _ in range(self.draw.randint(1, 3)):
            kind = self.draw.choice(list(_KINDS))
            self.faults.append(kind)
            _KINDS[kind](self)
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
        return ["--suite", str(self.suite), "--seeds", str(_SEEDS), *settings, *places]

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
        if not fits(of.status) or "Traceback" in of.text():
            self.problems.append(f"{of.name} ended with {of.status}: {of.text()[-2500:]}")
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
        told = sum("is not a list of epochs" in text for text in results.problems)
        cut = [each for each in self.runs if not isinstance(read_json(each.path / "history.json"), list)]
        if told != len(cut) or (cut and "is not a list of epochs" not in last.text()):
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
        """Process ids of those that do runs now."""
        holders = {holder_of(each.lock) for each in self.runs}
        return [int(name.split()[1]) for name in holders if name.startswith("process ")]

    def wait(self, most: float = _LONGEST) -> None:
        """Let a launch go on for some time."""
        time.sleep(self.draw.uniform(0.0, most))


def _kill(pid: int, how: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def _survived(status: int) -> bool:
    return status in (DONE, -signal.SIGKILL)


def _scheduler_dies(of: Round) -> None:
    of.end(of.start(fault=of.death(scheduler=True)), _survived)


def _worker_dies(of: Round) -> None:
    of.end(of.start(fault=of.death(worker=True)))


def _both_die(of: Round) -> None:
    of.end(of.start(fault=of.death(scheduler=True, worker=True)), _survived)


def _killed_from_outside(of: Round) -> None:
    started = of.start()
    of.wait()
    for pid in of.draw.choice(([started.pid], [*of.workers(), started.pid])):
        _kill(pid)
    of.end(started, _survived)


def _workers_killed_from_outside(of: Round) -> None:
    started = of.start()
    of.wait()
    for pid in of.workers():
        _kill(pid)
    of.end(started)


def _interrupted(of: Round) -> None:
    started = of.start()
    of.wait()
    _kill(started.pid, of.draw.choice((signal.SIGINT, signal.SIGTERM)))
    of.end(started, lambda status: status in (DONE, run.INTERRUPTED, -signal.SIGTERM))


def _two_launches(of: Round) -> None:
    first = of.start()
    of.wait()
    second = of.start()
    of.end(first)
    of.end(second)


def _two_launches_of_which_one_is_killed(of: Round) -> None:
    first = of.start(fault=of.death(scheduler=True))
    of.wait()
    second = of.start()
    of.end(first, _survived)
    of.end(second)


def _shards(of: Round) -> None:
    """Each does its own half; the one that began first reads the rows, and is slow to write them."""
    numbers = of.draw.sample(range(1, _SEEDS + 1), _SEEDS)
    first = of.start("--shard", f"{numbers.pop()}/{_SEEDS}", fault=Fault(pause=0.4))
    of.wait()
    for each in (first, *(of.start("--shard", f"{number}/{_SEEDS}") for number in numbers)):
        of.end(each)
    of.check_tables()


def _full_disk(of: Round) -> None:
    largest = of.draw.choice((200, 1_000, 3_000, 9_000, 20_000))
    of.end(of.start(fault=Fault(largest=largest)), lambda status: status in _ANY_FAILURE)


def _clock_set_back(of: Round) -> None:
    of.end(of.start(fault=of.death(scheduler=of.draw.random() < 0.5, clock=1e7)), _survived)


def _frozen_worker(of: Round) -> None:
    """A worker stands still, its scheduler is killed, and the next launch has a limit."""
    started = of.start()
    limit = time.monotonic() + 2 * _LONGEST
    while not (frozen := of.workers()) and time.monotonic() < limit:
        time.sleep(0.002)
    of.wait(0.1)
    frozen = of.workers()
    for pid in frozen:
        _kill(pid, signal.SIGSTOP)
    _kill(started.pid)
    of.end(started, _survived)
    held = {each.path: holder for each in of.runs if (holder := _holder(each)) is not None}
    following = of.end(of.start("--timeout", "0.5"), lambda status: status == (FAILED if held else DONE))
    if touched := [path.name for path in held if (path / "failed.json").exists()]:
        of.problems.append(f"{following.name} wrote in {touched}, which it waited for")
    if not all(holder in following.text() for holder in held.values()):
        of.problems.append(f"{following.name} does not say that it waits for {held}: {following.text()[-1000:]}")
    for pid in frozen:
        _kill(pid)


def _holder(of: RunFolder) -> str | None:
    """Who holds the lock of a run; None if nobody does."""
    if of.path.exists():
        try:
            with locked_at_once(of.lock):
                pass
        except HeldError as holder:
            return str(holder)
    return None


def _damaged(of: Round) -> None:
    """A launch is killed; files that it left are cut, changed, emptied or replaced."""
    _scheduler_dies(of)
    time.sleep(0.1)  # for what its workers still write
    folder = of.out / of.suite.stem
    whole = [*folder.glob("stages/*/*.npz"), *folder.glob("runs/*/*.npz")]
    cut = [*folder.glob("runs/*/*.json"), *folder.glob("runs/*/done")]
    for path in of.draw.sample(whole, min(2, len(whole))):
        _damage(of, path, of.draw.choice(("cut", "changed", "emptied", "link", "pipe", "folder")))
    for path in of.draw.sample(cut, min(2, len(cut))):
        of.damaged.add(path.parent.name)
        _damage(of, path, of.draw.choice(("cut", "emptied", "link", "pipe", "gone")))


def _damage(of: Round, path: Path, how: str) -> None:
    with contextlib.suppress(OSError):  # it went meanwhile
        content = bytearray(path.read_bytes())
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: of.draw.randrange(max(1, len(content) - 1))])
        elif how == "changed":
            content[of.draw.randrange(len(content))] ^= 1 << of.draw.randrange(8)
            path.write_bytes(content)
        elif how == "emptied":
            path.write_bytes(b"")
        elif how == "link":
            path.symlink_to("/dev/zero")
        elif how == "pipe":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()


_KINDS: dict[str, Callable[[Round], None]] = {
    "scheduler killed at an action on files": _scheduler_dies,
    "worker killed at an action on files": _worker_dies,
    "both": _both_die,
    "scheduler, or all, killed from outside": _killed_from_outside,
    "workers killed from outside": _workers_killed_from_outside,
    "Ctrl-C or SIGTERM": _interrupted,
    "two launches at once": _two_launches,
    "two launches at once, one killed": _two_launches_of_which_one_is_killed,
    "shards that end together": _shards,
    "full disk": _full_disk,
    "clock set back four months": _clock_set_back,
    "frozen worker of a killed scheduler": _frozen_worker,
    "damaged files": _damaged,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    parser = command_parser(__file__, __doc__)
    parser.add_argument("--rounds", type=positive_whole_number, default=200, metavar="N", help="(default: 200)")
    parser.add_argument("--first", type=whole_number, default=0, metavar="N", help="seed of the first round (default: 0)")
    options = parser.parse_args(arguments)
    faults: Counter[str] = Counter()
    launches, wrong, began = 0, 0, time.monotonic()
    adopt_orphans(True)
    # Nothing here is about what a power cut leaves, and a disk in memory lets more rounds be played.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        suite = Path(folder) / "crash.toml"
        suite.write_text(_SUITE + _EPOCHS + _DROPS)
        for seed in range(options.first, options.first + options.rounds):
            of = Round(seed, suite, Path(folder) / str(seed))
            of.folder.mkdir()
            of.play()
            _kill_orphans()
            shutil.rmtree(of.folder, ignore_errors=True)
            faults.update(of.faults)
            launches += len(of.launches)
            wrong += bool(of.problems)
            for problem in of.problems:
                print(f"Round {seed} ({', '.join(of.faults)}): {problem}", flush=True)
    for kind, count in sorted(faults.items()):
        print(f"{count:6}  {kind}")
    seconds = time.monotonic() - began
    print(f"{options.rounds} rounds, {launches} launches, {seconds:.0f} s: {wrong} rounds went wrong")
    return FAILED if wrong else DONE


def _kill_orphans() -> None:
    """End what is left of the launches of a round: workers that have not yet noticed that their launch is gone."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        _kill(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
