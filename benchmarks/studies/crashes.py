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
import functools
import multiprocessing.pool
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import run
from benchmarks.command_line import DONE, FAILED, command_parser, positive_whole_number, whole_number
from benchmarks.files import SOMEBODY, HeldError, locked_at_once, name_of
from benchmarks.records.store import RunFolder, read_json
from benchmarks.runs.executors import cores
from benchmarks.runs.preloading import adopt_orphans
from benchmarks.studies.crash_rounds import LONGEST, SEEDS, SUITE, Round, kill
from benchmarks.studies.forked_launches import Fault, warm_up

_ANY_FAILURE = {DONE, FAILED, run.TABLES_STALE, run.USAGE}


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
        kill(pid)
    of.end(started, _survived)


def _workers_killed_from_outside(of: Round) -> None:
    started = of.start()
    of.wait()
    for pid in of.workers():
        kill(pid)
    of.end(started)


def _interrupted(of: Round) -> None:
    started = of.start()
    of.wait()
    kill(started.pid, of.draw.choice((signal.SIGINT, signal.SIGTERM)))
    of.end(started, lambda status: status in (DONE, run.INTERRUPTED, run.TABLES_STALE, -signal.SIGTERM))


def _two_launches(of: Round) -> None:
    first = of.start()
    of.wait(of.draw.choice((0.0, LONGEST)))
    second = of.start()
    of.end(first)
    of.end(second)


def _two_launches_of_which_one_is_killed(of: Round) -> None:
    first = of.start(fault=of.death(scheduler=True))
    of.wait(of.draw.choice((0.0, LONGEST)))
    second = of.start()
    of.end(first, _survived)
    of.end(second)


def _shards(of: Round) -> None:
    """Each does its own half; the one that began first reads the rows, and is slow to write them."""
    numbers = of.draw.sample(range(1, SEEDS + 1), SEEDS)
    first = of.start("--shard", f"{numbers.pop()}/{SEEDS}", fault=Fault(pause=1.0))
    of.wait()
    for each in (first, *(of.start("--shard", f"{number}/{SEEDS}") for number in numbers)):
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
    limit = time.monotonic() + 2 * LONGEST
    while not (frozen := of.workers()) and time.monotonic() < limit:
        time.sleep(0.002)
    of.wait(0.1)
    frozen = of.workers()
    for pid in frozen:
        kill(pid, signal.SIGSTOP)
    kill(started.pid)
    of.end(started, _survived)
    names = [SOMEBODY, *(name_of(pid) for pid in frozen)]  # who is frozen with a lock just taken has not written its name
    waited_for = [each for each in of.runs if each.status != "done"]  # and not frozen just before it let go
    held = {each.path: holder for each in waited_for if (holder := _holder(each)) in names}
    # A run that is frozen with its lock just taken has what a launch before wrote.
    failures = {path: read_json(path / "failed.json") for path in held}
    following = of.end(of.start("--timeout", "0.5"), lambda status: status == (FAILED if held else DONE))
    if touched := [path.name for path, before in failures.items() if read_json(path / "failed.json") != before]:
        of.problems.append(f"{following.name} wrote in {touched}, which it waited for")
    if not all(f"waits: {holder} does this run" in following.text() for holder in held.values()):
        of.problems.append(f"{following.name} does not say that it waits for {held}: {following.text()[-1000:]}")
    for pid in frozen:
        kill(pid)


def _holder(of: RunFolder) -> str | None:
    """Who holds the lock of a run; None if nobody does."""
    if not of.path.exists():
        return None
    if (found := _holder_now(of)) == SOMEBODY:
        time.sleep(0.1)  # who is not frozen with a lock just taken has written its name by then
        found = _holder_now(of)
    return found


def _holder_now(of: RunFolder) -> str | None:
    try:
        with locked_at_once(of.lock):
            return None
    except HeldError as holder:
        return str(holder)


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
    if not path.is_file():  # but what it was replaced by before: an endless device, a pipe, a folder
        return
    with contextlib.suppress(OSError):  # it went meanwhile
        content = bytearray(path.read_bytes())
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: of.draw.randrange(max(1, len(content) - 1))])
        elif how == "changed" and content:
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
    parser.add_argument("--players", type=positive_whole_number, metavar="N", help="rounds at a time (default: two per core)")
    options = parser.parse_args(arguments)
    faults: Counter[str] = Counter()
    launches, wrong, began = 0, 0, time.monotonic()
    warm_up()
    # Nothing here is about what a power cut leaves, and a disk in memory lets more rounds be played.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    seeds = range(options.first, options.first + options.rounds)
    with tempfile.TemporaryDirectory(dir=memory) as folder, _players(options.players or 2 * cores()) as players:
        suite = Path(folder) / "crash.toml"
        suite.write_text(SUITE)
        for of in players.imap_unordered(functools.partial(_played, suite), seeds):
            faults.update(of.faults)
            launches += of.launches
            wrong += bool(of.problems)
            for problem in of.problems:
                print(f"Round {of.seed} ({', '.join(of.faults)}): {problem}", flush=True)
    for kind, count in sorted(faults.items()):
        print(f"{count:6}  {kind}")
    seconds = time.monotonic() - began
    print(f"{options.rounds} rounds, {launches} launches, {seconds:.0f} s: {wrong} rounds went wrong")
    return FAILED if wrong else DONE


def _players(number: int) -> multiprocessing.pool.Pool:
    """Forks of this process that play rounds; each is the parent of the launches that it starts."""
    return multiprocessing.get_context("fork").Pool(number, adopt_orphans, (True,))


class _Played(NamedTuple):
    """What the study reports about a round."""

    seed: int
    faults: list[str]
    launches: int
    problems: list[str]


def _played(suite: Path, seed: int) -> _Played:
    """Play a round, of which no file is left."""
    folder = suite.parent / str(seed)
    of = Round(seed, suite, folder)
    folder.mkdir()
    of.play(_KINDS)
    _kill_orphans()
    shutil.rmtree(folder, ignore_errors=True)
    return _Played(seed, of.faults, len(of.launches), of.problems)


def _kill_orphans() -> None:
    """End what is left of the launches of a round: workers that have not yet noticed that their launch is gone."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        kill(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
