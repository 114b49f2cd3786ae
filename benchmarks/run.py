"""The main job: run strategies on a suite and tell which is better.

    python -m benchmarks.run --suite digits
    python -m benchmarks.run --suite sine --seeds 100-129 --strategy l0_merge one_model --jobs 2
    python -m benchmarks.run --list

Each run is kept in a folder named by its configuration; the same command again runs only what is missing or failed.

Exit status: 0 all runs are done, 1 some failed or could not be written, 2 wrong usage, 3 data missing (the message says
how to get it), 4 all runs are done but tables and figures could not be written, 130 interrupted. Whatever the status,
nothing that was finished is lost.

This module and what it imports do without Keras, so help, lists and plans come at once.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkout import commit
from benchmarks.command_line import (
    DATA_MISSING,
    DONE,
    FAILED,
    INTERRUPTED,
    TABLES_STALE,
    USAGE,
    UsageError,
    command_parser,
    ended,
    positive_number,
    positive_whole_number,
    printable,
    whole_number,
)
from benchmarks.data.datasets import IMAGES
from benchmarks.files import is_disk_full, remove_drafts
from benchmarks.records.results import ResultsError, read_results, tables_locked, write_tables
from benchmarks.records.store import RunFolder
from benchmarks.report import Report, write_report
from benchmarks.runs.estimating import Estimate
from benchmarks.runs.executors import Event, Executor, LocalProcesses, default_jobs, worker_environment
from benchmarks.runs.log_to import LogTo, add_log_to, check_loggers
from benchmarks.runs.planning import (
    PRECISIONS,
    STATUSES,
    batches,
    listing,
    named_suite,
    plan_text,
    planned_runs,
)
from benchmarks.runs.progress import progress
from benchmarks.runs.ray_executor import RayTasks
from benchmarks.suites.suite import PAPER, SUITES, Suite


class _CutShortError(Exception):
    """The launch ends here; the message says why."""


def main(arguments: Sequence[str] | None = None, hear: Callable[[Event], None] = lambda event: None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.
        hear: is told what happens to runs.

    Returns:
        The exit status; see the module.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        parser = _parser()
        options = parser.parse_args(arguments)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if options.list:
            print(listing())
            return DONE
        if options.suite is None:
            raise UsageError(f"expected --suite NAME, one of {', '.join(SUITES)}, received no --suite.")
        suite = named_suite(options.suite)
        if not options.dry_run:
            _check_folder(options.out / suite.name)
        check_loggers(options.log_to)
        if options.tables:
            return TABLES_STALE if _write_results(options.out / suite.name, suite, suite.strategies) is None else DONE
        runs = planned_runs(suite, options)
        if options.dry_run:
            print(plan_text(suite, runs, options))
            return DONE
        if not runs:
            print(f"No run is {options.only}.")
            return DONE
        return _launch(suite, runs, options, recorded_command(arguments), hear)
    except UsageError as error:
        return ended(parser, error)
    except KeyboardInterrupt:
        print("\nInterrupted before a run began.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output is gone; let the interpreter's last flush find no pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options that a command line names."""
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    shared = ("--suite", "--seeds", "--scale", "--examples", "--data-dir", "--cache-dir", "--out", "--jobs", "--backend")
    statuses = "Exit status: 0 all done, 1 some runs failed, 2 wrong usage, 3 data missing, 4 tables stale, 130 interrupted."
    parser = command_parser(__file__, __doc__, *shared, epilog=statuses)
    parser.add_argument(
        "--strategy", metavar="S", nargs="+", action="extend", help="only these strategies (default: the suite's)"
    )
    parser.add_argument(
        "--match",
        choices=("epochs", "compute"),
        default="epochs",
        help="strategies have equal epochs, or as many as make each spend what the suite's first one does (default: epochs)",
    )
    parser.add_argument(
        "--stages", metavar="DIR", type=Path, help="folder of networks that runs share (default: in that of the results)"
    )
    parser.add_argument(
        "--together",
        metavar="K",
        type=positive_whole_number,
        default=1,
        help="on JAX: train K seeds of a strategy in one program, which keeps a GPU busy (default: 1)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the networks; a mixed one keeps weights and logits in float32 (default: float32)",
    )
    parser.add_argument("--list", action="store_true", help="list suites and strategies")
    parser.add_argument(
        "--tables", action="store_true", help="rebuild tables and figures from the run folders; run nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs and how each stands; run nothing")
    _add_launch_options(parser)
    return parser


def _add_launch_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which of the runs are done, where, and when to give up."""
    parser.add_argument(
        "--devices",
        metavar="N",
        type=positive_whole_number,
        default=1,
        help="on JAX: split each batch over N GPUs or TPUs (default: 1)",
    )
    parser.add_argument("--verify-data", action="store_true", help="check the SHA-256 of the decoded data once more")
    parser.add_argument("--only", choices=STATUSES, help="only runs that stand so")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only every N-th seed, from the I-th on: for N machines with one folder of results",
    )
    parser.add_argument("--max-failures", metavar="N", type=positive_whole_number, help="stop once so many runs have failed")
    parser.add_argument("--timeout", metavar="S", type=positive_number, help="a run that takes longer, in seconds, fails")
    parser.add_argument(
        "--retries",
        metavar="N",
        type=whole_number,
        default=1,
        help="repeat a run that was killed from outside so often, from its last epoch on (default: 1)",
    )
    parser.add_argument(
        "--executor", choices=("local", "ray"), default="local", help="processes on this machine, or a Ray cluster"
    )
    add_log_to(parser, "log runs that end")
    parser.add_argument("--address", metavar="A", help="of the Ray cluster's head (default: a cluster on this machine)")


def recorded_command(arguments: Sequence[str]) -> str:
    """The command as rows report it: without options that change no result, as those that name folders of this machine.

    Args:
        arguments: of the command line.

    Returns:
        The command, to be run in the repository.
    """
    kept, is_value = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if name in _NO_RESULT:
            is_value = not equals
        elif is_value:
            is_value = False
        else:
            kept.append(argument)
    return shlex.join(["python", "-m", "benchmarks.run", *kept])


_NO_RESULT = ("--out", "--data-dir", "--cache-dir", "--stages", "--log-to")


def _launch(
    suite: Suite, runs: Sequence[RunFolder], options: argparse.Namespace, command: str, hear: Callable[[Event], None]
) -> int:
    folder = options.out / suite.name
    waiting = [run for run in runs if run.status != "done"]
    environment = worker_environment(runs[0].configuration["backend"])
    launch = {
        "suite": options.suite if options.suite.removesuffix(PAPER) in SUITES else str(Path(options.suite).absolute()),
        "command": command,
        "commit": commit(),
        "launched": time.time(),
        "stages": None if options.stages is None else str(options.stages.absolute()),
        **_data_places(options),
    }
    executor = _executor(options, runs[0].configuration["backend"], launch)
    is_read = (waiting or options.verify_data) and suite.dataset in IMAGES  # others are drawn
    if is_read and (status := _check_data(suite.dataset, options, environment)):
        return status
    try:
        for run in waiting:
            run.announce(launch)
    except OSError as error:
        print(f"Cannot write in {folder}: {error.strerror}.", file=sys.stderr)
        return FAILED if is_disk_full(error) else USAGE
    _tidy_up(folder, options.stages)
    print(f"{len(runs)} runs in {folder}, {len(runs) - len(waiting)} done before, {executor}")
    _tell_of_other_code(runs, launch["commit"])
    shared = batches(waiting, suite.runs_per_process, executor.jobs, options.together)
    estimate = Estimate(waiting, suite.budget(options.scale), executor.jobs)
    with LogTo(options.log_to if waiting else (), folder) as others:
        status = _execute(shared, executor, estimate, options.max_failures, others, hear)
    report = _write_results(folder, suite, [*suite.strategies, *(options.strategy or ())], runs[0].protocol)
    status = _conclude(runs, folder, status, report is not None)
    if report is not None and (verdict := report.verdicts[runs[0].protocol]):
        print(f"\n{verdict}")
    return status


def _tidy_up(folder: Path, stages: Path | None) -> None:
    """Remove the drafts that killed processes left behind; where a link leads is none of our business."""
    ours = [place for place in (folder / "runs", folder / "stages") if not place.is_symlink()]
    places = [*ours, *([] if stages is None else [stages])]
    folders = [folder, folder / "figures", *(path for place in places for path in place.glob("*"))]
    if gone := remove_drafts(folders):
        print(f"Removed {len(gone)} files that a killed process had begun to write.")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and a campaign's alarm while this lasts, and no longer: some commands launch again and again."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.signal(name, signal.SIG_IGN) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds tables alone, as published results do, which would be replaced; and a link, which somebody
    may have packed into --out and which could lead anywhere."""
    if folder.is_symlink():
        raise UsageError(f"expected a folder at {folder}, received a link. Delete it, or let --out itself be a link.")
    if (folder / "runs.csv").exists() and not (folder / "runs").is_dir():
        raise UsageError(
            f"expected run folders in {folder}, from which tables are rebuilt, received tables alone. Choose another --out; "
            "`python -m benchmarks.report` makes a report of tables alone."
        )


def _check_data(dataset: str, options: argparse.Namespace, environment: dict[str, str]) -> int:
    """Have the data decoded before workers start, in a process that may import what it likes."""
    request = json.dumps({"dataset": dataset, "verify": options.verify_data, **_data_places(options)})
    command = [sys.executable, "-m", "benchmarks.runs.worker", "--check", request]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode in (DONE, DATA_MISSING):
        print(process.stdout, end="", file=sys.stderr)
        return process.returncode
    print(f"Reading the data failed.\n{process.stderr}", file=sys.stderr)
    return FAILED


def _data_places(options: argparse.Namespace) -> dict[str, str | None]:
    data_dir = None if options.data_dir is None else str(options.data_dir.absolute())
    return {"data_dir": data_dir, "cache_dir": str(options.cache_dir.absolute())}


def _tell_of_other_code(runs: Sequence[RunFolder], current: str) -> None:
    """Say which of the runs that are done another version of the code did: their names do not."""
    others = [run.result.get("commit") for run in runs if run.status == "done"]
    others = sorted({printable(str(name)) for name in others if name != current})
    if others:
        print(f"Done before by other code ({', '.join(others)}); this is {current}. Delete run folders to repeat them.")


def _executor(options: argparse.Namespace, backend: str, launch: Mapping[str, Any]) -> Executor:
    settings = {"together": options.together, "timeout": options.timeout, "retries": options.retries, "launch": launch}
    if options.executor == "ray":
        return RayTasks(options.address, backend, options.jobs, devices=options.devices, **settings)
    if options.address is not None:
        raise UsageError("--address: expected the executor ray, received local. Leave it out, or add --executor ray.")
    jobs = options.jobs or (default_jobs() if options.devices == 1 else 1)
    return LocalProcesses(jobs, worker_environment(backend), **settings)


def _execute(
    shared: Sequence[Sequence[RunFolder]],
    executor: Executor,
    estimate: Estimate,
    most_failures: int | None,
    others: LogTo,
    hear: Callable[[Event], None],
) -> int:
    """Work through the batches; DONE unless that was cut short."""
    total = sum(len(batch) for batch in shared)
    failures = 0
    try:
        with executor as workers, progress(total, estimate) as display:
            for event in workers.run(shared):
                display.show(event)
                if event.kind in ("done", "failed"):
                    others.log(event.run)
                hear(event)
                if event.detail.get("disk_full"):
                    raise _CutShortError(f"No room to write results ({event.detail['error']}): stopped. Free some")
                failures += event.kind == "failed"
                if failures == most_failures:
                    raise _CutShortError(
                        f"{failures} runs failed, as many as --max-failures allows: stopped. Look into it"
                    )
    except KeyboardInterrupt:
        return INTERRUPTED
    except _CutShortError as error:
        print(f"{error} and launch again.", file=sys.stderr)
        return FAILED
    return DONE


def _write_results(folder: Path, suite: Suite, order: Sequence[str], protocol: str | None = None) -> Report | None:
    """Rebuild tables and figures from the folders; print what concerns a protocol, or all of it; None if that failed."""
    try:
        # The rows are read under the lock: of two launches that end together, the second writes those of both. What is
        # written in a moment is wanted, and not interrupted.
        with tables_locked(folder), _uninterrupted():
            results = read_results(folder)
            write_tables(results)
            report = write_report(results, list(dict.fromkeys(order)), suite=suite)
    except (OSError, ResultsError) as error:
        print(f"The tables of {folder} are not up to date: {error}. The runs' folders are.", file=sys.stderr)
        return None
    except KeyboardInterrupt:  # while somebody else wrote them
        print(f"The tables of {folder} are not up to date: interrupted. The runs' folders are.", file=sys.stderr)
        return None
    shown = report.sections.values() if protocol is None else [report.sections[protocol]]
    print("", *map(printable, results.problems), *shown, sep="\n", end="\n\n")
    return report


def _conclude(runs: Sequence[RunFolder], folder: Path, status: int, has_tables: bool) -> int:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    tables = f"tables and figures in {folder}" if has_tables else "no tables or figures of that"
    print(f"{', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}; {tables}")
    if status == INTERRUPTED:
        print("Interrupted. What is done is kept; the same command goes on.", file=sys.stderr)
    if status == DONE and counts.get("done") != len(runs):
        return FAILED
    return status if has_tables or status != DONE else TABLES_STALE


if __name__ == "__main__":
    sys.exit(main())
