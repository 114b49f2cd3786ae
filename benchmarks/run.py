"""The main job: run strategies on a suite and tell which is better.

    python -m benchmarks.run --suite digits
    python -m benchmarks.run --suite sine --seeds 100-129 --strategy l0_merge one_model --jobs 2
    python -m benchmarks.run --list

Each run is kept in a folder named by its configuration; the same command again runs only what is missing or failed.

Exit status: 0 all runs are done, 1 some failed or could not be written, 2 wrong usage, 3 data missing (the message says
how to get it), 130 interrupted. Whatever the status, nothing that was finished is lost.

This module and what it imports do without Keras, so help, lists and plans come at once.
"""

import argparse
import difflib
import importlib.util
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.datasets import IMAGES, check_examples
from benchmarks.executors import LocalProcesses, cores, default_jobs, worker_environment
from benchmarks.progress import progress
from benchmarks.report import write_report
from benchmarks.store import RunFolder, commit, is_disk_full, write_tables
from benchmarks.strategies import STRATEGIES
from benchmarks.suites import PAPER, SUITES, Suite, load_suite

DONE, FAILED, USAGE, DATA_MISSING, INTERRUPTED = 0, 1, 2, 3, 130
BACKENDS = ("tensorflow", "jax")


class UsageError(Exception):
    """What the user asked for cannot be; the message says what can."""


class _DiskFullError(Exception):
    """A run could not be written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.list:
            print(_listing())
            return DONE
        if options.suite is None:
            raise UsageError(f"Name a suite: --suite NAME, one of {', '.join(SUITES)}.")
        suite = _suite(options.suite)
        if options.tables:
            return _write_results(options.out / suite.name, suite.strategies)
        runs = _plan(suite, options)
        if options.dry_run:
            print(_plan_text(suite, runs, options))
            return DONE
        return _launch(suite, runs, options, recorded_command(arguments))
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nInterrupted before a run began.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output is gone; let the interpreter's last flush find no pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Run strategies on a suite under equal budgets; the same command again runs what is missing.",
        epilog="Exit status: 0 all done, 1 some runs failed, 2 wrong usage, 3 data missing, 130 interrupted.",
    )
    parser.add_argument("--suite", metavar="NAME", help="the suite to run; see --list")
    parser.add_argument(
        "--strategy", metavar="S", nargs="+", action="extend", help="only these strategies (default: the suite's)"
    )
    parser.add_argument(
        "--seeds", metavar="N|A-B", help="N: the first N seeds of the suite; A-B: seeds A to B (default: the suite's)"
    )
    parser.add_argument("--scale", metavar="F", type=_positive, default=1.0, help="multiply all epochs (default: 1)")
    parser.add_argument("--examples", metavar="N", type=_count, help="use N training examples (default: all)")
    parser.add_argument("--data-dir", metavar="D", type=Path, help="folder of tensorflow-datasets (default: its own)")
    parser.add_argument(
        "--cache-dir",
        metavar="D",
        type=Path,
        default=Path("~/.cache/kmerge").expanduser(),
        help="folder of decoded data; a machine without TensorFlow can run from it (default: ~/.cache/kmerge)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("results"), help="(default: results)")
    parser.add_argument(
        "--jobs", metavar="N", type=_count, help="runs at a time (default: 1 on a GPU, else one per core, at most 4)"
    )
    parser.add_argument(
        "--together",
        metavar="K",
        type=_count,
        default=1,
        help="on JAX: train K seeds of a strategy in one program, which keeps a GPU busy (default: 1)",
    )
    parser.add_argument("--backend", choices=BACKENDS, help="of Keras (default: $KERAS_BACKEND, or tensorflow)")
    parser.add_argument("--list", action="store_true", help="list suites and strategies")
    parser.add_argument(
        "--tables", action="store_true", help="rebuild tables and figures from the run folders; run nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs and how each stands; run nothing")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def parse_seeds(text: str | None, default: Sequence[int]) -> list[int]:
    """The seeds that `--seeds` names.

    Args:
        text: "N" for N seeds from the first default one on, "A-B" for A to B inclusive, None for the default.
        default: seeds of the suite.

    Returns:
        The seeds, ascending.

    Raises:
        UsageError: for any other text.
    """
    if text is None:
        return list(default)
    low, dash, high = text.partition("-")
    if low.isascii() and low.isdigit() and not dash and int(low) > 0:
        return list(range(default[0], default[0] + int(low)))
    if all(part.isascii() and part.isdigit() for part in (low, high)) and int(low) <= int(high):
        return list(range(int(low), int(high) + 1))
    raise UsageError(f"--seeds is a number of seeds above 0, as 10, or a range, as 100-129. Got: {text!r}")


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, with the nearest and with all that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"There is no {kind} {name!r}.{guess} There are: {', '.join(known)}.")


def _suite(name: str) -> Suite:
    plain = name.removesuffix(PAPER)
    if plain not in SUITES and not plain.endswith(".toml"):
        raise unknown("suite", name, SUITES)
    try:
        return load_suite(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"The suite {name} cannot be read: {error}") from error


def _plan(suite: Suite, options: argparse.Namespace) -> list[RunFolder]:
    """All runs that the command asks for, seed by seed, so that early results are paired ones."""
    strategies = list(dict.fromkeys(options.strategy or suite.strategies))
    known = list(STRATEGIES)  # looking a name up in STRATEGIES itself would import the strategy, and Keras with it
    for name in strategies:
        if name not in known:
            raise unknown("strategy", name, known)
    try:
        own = {name: suite.settings_of(name) for name in strategies}
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        check_examples(suite.dataset, options.examples, suite.folds)
    except ValueError as error:
        raise UsageError(f"--examples: {error}") from error
    backend = options.backend or os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND is one of {', '.join(BACKENDS)} here. Got: {backend!r}")
    if importlib.util.find_spec(backend) is None:
        raise UsageError(f"The backend {backend} is not installed. Run: pip install {backend}, or choose another.")
    if options.together > 1 and backend != "jax":
        raise UsageError(f"--together needs the JAX backend: add --backend jax. Got: {backend!r}")
    common = {
        "suite": suite.name,
        "definition": suite.definition,
        "scale": options.scale,
        "examples": options.examples,
        "backend": backend,
    }
    return [
        RunFolder.of(options.out / suite.name, {**common, **own[strategy], "strategy": strategy, "seed": seed})
        for seed in parse_seeds(options.seeds, suite.seeds)
        for strategy in strategies
    ]


def _listing() -> str:
    suites = [load_suite(name) for name in SUITES]
    lines = ["Suites:"]
    for suite in suites:
        seeds = f"seeds {suite.seeds[0]}-{suite.seeds[-1]}"
        lines.append(f"  {suite.name:16} {suite.description} ({seeds}; {', '.join(suite.strategies)})")
    return "\n".join([*lines, "Strategies:", *(f"  {name}" for name in STRATEGIES)])


def _plan_text(suite: Suite, runs: Sequence[RunFolder], options: argparse.Namespace) -> str:
    statuses = [run.status for run in runs]
    lines = [f"{run.path.name}  {status:10}  {run.name}" for run, status in zip(runs, statuses, strict=True)]
    budget = suite.budget(options.scale)
    open_runs = sum(status != "done" for status in statuses)
    return "\n".join(
        [
            *lines,
            f"{len(runs)} runs, {open_runs} to do, in {options.out / suite.name}",
            f"epochs: {budget}",
        ]
    )


def recorded_command(arguments: Sequence[str]) -> str:
    """The command as rows tell it: without the options that name folders of this machine, which change no result.

    Args:
        arguments: of the command line.

    Returns:
        The command, to be run in the repository.
    """
    kept, is_value = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if name in _FOLDERS:
            is_value = not equals
        elif is_value:
            is_value = False
        else:
            kept.append(argument)
    return shlex.join(["python", "-m", "benchmarks.run", *kept])


_FOLDERS = ("--out", "--data-dir", "--cache-dir")


def _launch(suite: Suite, runs: Sequence[RunFolder], options: argparse.Namespace, command: str) -> int:
    folder = options.out / suite.name
    waiting = [run for run in runs if run.status != "done"]
    jobs = options.jobs or default_jobs()
    environment = worker_environment(runs[0].configuration["backend"])
    launch = {
        "suite": options.suite if options.suite.removesuffix(PAPER) in SUITES else str(Path(options.suite).absolute()),
        "command": command,
        "commit": commit(),
        **_data_places(options),
    }
    is_read = waiting and suite.dataset in IMAGES  # others are drawn
    if is_read and (status := _check_data(suite.dataset, options, environment)):
        return status
    try:
        for run in waiting:
            run.create(launch)
    except OSError as error:
        print(f"Cannot write in {folder}: {error.strerror}.", file=sys.stderr)
        return FAILED if is_disk_full(error) else USAGE
    print(f"{len(runs)} runs in {folder}, {len(runs) - len(waiting)} done before, {jobs} at a time on {cores()} cores")
    _tell_of_other_code(runs, launch["commit"])
    batches = _batches(waiting, suite.runs_per_process, jobs, options.together)
    status = _execute(batches, LocalProcesses(jobs, environment, options.together))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tables are written in a moment, and wanted
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _write_results(folder, [*(options.strategy or ()), *suite.strategies], runs[0].protocol)
    return _conclude(runs, folder, status)


def _check_data(dataset: str, options: argparse.Namespace, environment: dict[str, str]) -> int:
    """Have the data decoded before workers start, in a process that may import what it likes."""
    request = json.dumps({"dataset": dataset, **_data_places(options)})
    command = [sys.executable, "-m", "benchmarks.worker", "--check", request]
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
    others = sorted({str(name) for name in others if name != current})
    if others:
        print(f"Done before by other code ({', '.join(others)}); this is {current}. Delete run folders to repeat them.")


def _batches(runs: Sequence[RunFolder], most: int, jobs: int, together: int = 1) -> list[list[RunFolder]]:
    """Runs that share a process: about `most`, whole seeds where that can be, and as many batches for every job.

    Runs that are to be trained together count as one, follow each other and stay in one batch.
    """
    if not runs:
        return []
    numbers = {seed: i for i, seed in enumerate(sorted({run.configuration["seed"] for run in runs}))}

    def of_seeds(run: RunFolder) -> int:
        return numbers[run.configuration["seed"]] // together

    def of_strategy(run: RunFolder) -> str:
        return run.configuration["strategy"]

    seeds = [list(group) for _, group in itertools.groupby(runs, of_seeds)]
    if together > 1:
        order = list(dict.fromkeys(map(of_strategy, runs)))
        seeds = [sorted(group, key=lambda run: order.index(of_strategy(run))) for group in seeds]
    singles = [list(group) for unit in seeds for _, group in itertools.groupby(unit, of_strategy)]
    count = min(len(singles), math.ceil(math.ceil(len(runs) / (most * together)) / jobs) * jobs)
    units = seeds if count <= len(seeds) else singles
    edges = [round(i * len(units) / count) for i in range(count + 1)]
    return [list(itertools.chain(*units[a:b])) for a, b in itertools.pairwise(edges)]


def _execute(batches: Sequence[Sequence[RunFolder]], processes: LocalProcesses) -> int:
    """Work through the batches; DONE unless that was cut short."""
    total = sum(len(batch) for batch in batches)
    try:
        with processes as workers, progress(total) as display:
            for event in workers.run(batches):
                display.show(event)
                if event.detail.get("disk_full"):
                    raise _DiskFullError(event.detail["error"])
    except KeyboardInterrupt:
        return INTERRUPTED
    except _DiskFullError as error:
        print(f"No room to write results ({error}): stopped. Free some and launch again.", file=sys.stderr)
        return FAILED
    return DONE


def _write_results(folder: Path, order: Sequence[str], protocol: str | None = None) -> int:
    """Rebuild tables and figures from the folders; print what concerns a protocol, or all of it."""
    try:
        rows, problems = write_tables(folder)
        sections = write_report(folder, rows, list(dict.fromkeys(order)), problems)
    except OSError as error:
        print(f"The tables of {folder} are not up to date: {error}. The runs' folders are.", file=sys.stderr)
        return FAILED
    shown = sections.values() if protocol is None else [sections[protocol]]
    print("", *problems, *shown, sep="\n", end="\n\n")
    return DONE


def _conclude(runs: Sequence[RunFolder], folder: Path, status: int) -> int:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    print(f"{', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}; tables and figures in {folder}")
    if status == INTERRUPTED:
        print("Interrupted. What is done is kept; the same command goes on.", file=sys.stderr)
    return status or (DONE if counts.get("done") == len(runs) else FAILED)


if __name__ == "__main__":
    sys.exit(main())
