"""What a launch costs beside its runs: many dummy runs, some of which fail or die, through the real executor.

    python -m benchmarks.studies.scheduling --runs 200 --jobs 2

A dummy run sleeps and writes its folder as a real one does; of every ten, one fails and one is killed by signal 9 once.
The overhead is the time of the launch over that of the sleeps, shared evenly among the jobs, less one. Prints one line.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import DONE, FAILED, command_parser, positive_number, positive_whole_number
from benchmarks.records.results import read_results, write_tables
from benchmarks.records.store import RunFolder
from benchmarks.runs.executors import LocalProcesses, default_jobs, worker_environment
from benchmarks.runs.planning import batches


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status: 0, or 1 if a run did not end as it should.
    """
    parser = command_parser(__file__, __doc__, "--jobs")
    parser.add_argument("--runs", type=positive_whole_number, default=200, metavar="N", help="(default: 200)")
    parser.add_argument(
        "--seconds", type=positive_number, default=2.0, metavar="S", help="mean of a run's sleep (default: 2)"
    )
    # As the executor starts a worker: that one of this file only sleeps.
    parser.add_argument("folders", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--together", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.attached:
        work(options.folders)
        return DONE
    options.jobs = options.jobs or default_jobs()
    with tempfile.TemporaryDirectory() as folder:
        wall, slept, counts = _measured(Path(folder), options)
    overhead = wall * options.jobs / slept - 1
    ends = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    print(f"{options.runs} runs, {options.jobs} at a time: {ends}; {wall:.1f} s, overhead {overhead:.1%}")
    return DONE if counts == {"done": options.runs - options.runs // 10, "failed": options.runs // 10} else FAILED


def _measured(folder: Path, options: argparse.Namespace) -> tuple[float, float, dict[str, int]]:
    """Seconds of the launch and of all sleeps, and how many runs ended how."""
    draw = random.Random(0)
    kinds = ["fails", "dies", *["sleeps"] * 8]
    runs, slept = [], 0.0
    for seed in range(options.runs):
        content = {"suite": "dummy", "strategy": kinds[seed % 10], "seed": seed, "scale": 1.0, "examples": None}
        run = RunFolder.of(folder, {**content, "backend": "jax"})
        seconds = draw.uniform(0.5, 1.5) * options.seconds
        run.create({"command": "python -m benchmarks.studies.scheduling", "commit": "", "seconds": seconds})
        runs.append(run)
        slept += seconds
    began = time.monotonic()
    environment = worker_environment("jax")
    executor = LocalProcesses(options.jobs, environment, retries=1, module="benchmarks.studies.scheduling")
    with executor as workers:
        for _ in workers.run(batches(runs, most=10, jobs=options.jobs)):
            pass
    results = read_results(folder)
    write_tables(results)
    wall = time.monotonic() - began
    counts: dict[str, int] = {}
    for row in results.rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return wall, slept, counts


def work(folders: Sequence[Path]) -> None:
    """What the dummy worker does: the runs of these folders, with events on standard output."""
    for folder in folders:
        run = RunFolder.read(folder)
        kind, seconds = run.configuration["strategy"], run.launch["seconds"]
        _tell(folder, "start")
        if kind == "dies" and not (run.path / "died").exists():
            (run.path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        if kind == "fails":
            run.fail("RuntimeError: a dummy that fails", "")
            _tell(folder, "failed", error="a dummy that fails")
            continue
        result = {"metric": "mse", "test_last": seconds, "test_best": seconds, "wall_seconds": seconds, "extras": {}}
        run.finish(result, [])
        _tell(folder, "done", **result)


def _tell(folder: Path, kind: str, **detail: object) -> None:
    print(json.dumps({"event": kind, "folder": str(folder), **detail}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
