"""Schedulers and workers that are killed at random moments: what is in the end in the table does not depend on it.

Set KMERGE_KILL_ROUNDS for more rounds than a test should take.
"""

import contextlib
import os
import random
import signal
import time

from benchmarks import run
from tests import launches

ROUNDS = int(os.environ.get("KMERGE_KILL_ROUNDS", "2"))
# What tells when and where, but not what came out; a command that was launched again counts its compile time anew.
TIMES = ("seconds", "wall_seconds", "compile_seconds", "programs")


def _outcome(folder):
    rows = launches.table_of(folder / "variant" / "runs.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _killed(process, draw, is_scheduler):
    """Kill a launch's scheduler, or first its workers, at some moment; how many processes that hit."""
    launches.wait_for(lambda: launches.children(process.pid) or process.poll() is not None)
    time.sleep(draw.uniform(0, 3))
    hit = 0
    for pid in [process.pid] if is_scheduler else launches.children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            hit += 1
    if not is_scheduler:
        time.sleep(draw.uniform(0, 1))
    process.kill()
    process.communicate(timeout=60)
    return hit


def test_a_launch_that_is_killed_again_and_again_ends_with_the_same_table(tmp_path):
    suite = launches.variant(
        tmp_path,
        "sine",
        (r"\nteacher = \d+", "\nteacher = 40000"),
        (r"\nsingle = \d+", "\nsingle = 120000"),
        (r"runs_per_process = \d+", "runs_per_process = 2"),
    )
    strategies = ("--strategy", "one_model", "best_of_three", "--seeds", "2", "--jobs", "2", "--retries", "9")
    arguments = ("--suite", suite, *launches.SMALL, *strategies, "--cache-dir", tmp_path / "cache")
    draw = random.Random(7)
    launched = (*arguments, "--out", tmp_path / "killed")
    killed = sum(
        _killed(launches.start(*launched, asleep=True), draw, is_scheduler=number % 2 == 1) for number in range(ROUNDS)
    )
    status, out, err = launches.call(*arguments, "--out", tmp_path / "killed", executor=launches.asleep)
    assert status == run.DONE, out + err
    status, out, err = launches.call(*arguments, "--out", tmp_path / "whole", executor=launches.asleep)
    assert status == run.DONE, out + err
    assert _outcome(tmp_path / "killed") == _outcome(tmp_path / "whole") and killed > 0
    assert {row["status"] for row in _outcome(tmp_path / "killed")} == {"done"}
