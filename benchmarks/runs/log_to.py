"""Logs runs elsewhere, too, as they end: TensorBoard, MLflow, Weights & Biases, or a function of one's own.

    python -m benchmarks.run --suite digits --log-to tensorboard --log-to my_module:my_function
    python -m benchmarks.report results/digits --log-to mlflow       what has been done before

A function gets each run once, when it has ended, as a `benchmarks.runs.loggers.LoggedRun`: its configuration, its row and its
epochs. What it does costs no run: it works in a process of its own, whose failures stand in log_to.txt of the results, and the
launch waits for it for a minute at its end, and no longer. Run folders stay what counts; nothing is read back.

This module is also that process: `python -m benchmarks.runs.log_to NAME...` reads run folders from its input, one a line.
"""

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.command_line import DONE, FAILED, UsageError, command_parser, one_of, printable, refusal
from benchmarks.files import new_file
from benchmarks.own_code import OwnCodeError, check, imported, is_reference
from benchmarks.records.store import RunFolder
from benchmarks.runs.loggers import READY, LoggedRun, is_installed

LOG = "log_to.txt"
# For so long a launch that has ended waits for what logs it.
_PATIENCE = 60.0
Logger = Callable[[LoggedRun], None]


def add_log_to(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option `--log-to`, which may be given again; `what` begins its help and names the runs that are logged."""
    known = f"{', '.join(READY)}, or module:function"
    how = f"{what} elsewhere, too: {known}; may be given again"
    parser.add_argument("--log-to", metavar="L", action="append", default=[], help=how)


def check_loggers(names: Sequence[str]) -> None:
    """Refuse what `--log-to` cannot be, before a run begins.

    Raises:
        UsageError: for a name that is none, a package that is not installed, or a function that is not there.
    """
    for name in names:
        if is_reference(name):
            try:
                check(name, Path.cwd())
            except OwnCodeError as error:
                raise UsageError(f"--log-to: {error}") from error
        elif name not in READY:
            raise UsageError(f"--log-to: {one_of([*READY, 'module:function'], name)}")
        elif not is_installed(name):
            raise UsageError("--log-to: " + refusal("a package that is installed", name, f"Run: pip install {name}"))


def loggers(names: Sequence[str]) -> dict[str, Logger]:
    """The functions by what `--log-to` calls them; one that cannot be imported fails whenever it is called."""
    return {name: READY[name] if name in READY else functools.partial(_late, name) for name in names}


def _late(name: str, run: LoggedRun) -> None:
    imported(name, Path.cwd())(run)


def log_run(functions: dict[str, Logger], run: LoggedRun) -> list[str]:
    """Call each function with a run; a sentence about each that failed, whose traceback is printed."""
    problems = []
    for name, logger in functions.items():
        try:
            logger(run)
        except (Exception, SystemExit) as error:  # of code of anybody
            traceback.print_exc()
            problems.append(printable(f"{name} did not log {run.name}: {type(error).__name__}: {error}"))
    return problems


class LogTo:
    """The process that logs the runs of a launch; a context manager, which waits for it at the end. Nothing here raises.

    Args:
        names: of functions; see `check_loggers`. None for no process.
        folder: of the results, where its log goes.
        patience: seconds that it has at the end.
    """

    def __init__(self, names: Sequence[str], folder: Path, patience: float = _PATIENCE) -> None:
        self.names, self.folder, self.patience = names, Path(folder), patience
        self._process: subprocess.Popen | None = None
        self._lost = 0

    def __enter__(self) -> "LogTo":
        if self.names:
            command = [sys.executable, "-m", "benchmarks.runs.log_to", *self.names]
            try:
                with new_file(self.folder / LOG) as log:
                    # Ctrl-C ends runs, which are logged then.
                    how = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "start_new_session": True}
                    self._process = subprocess.Popen(command, **how)
                os.set_blocking(self._process.stdin.fileno(), False)
            except OSError as error:
                print(f"--log-to: no process can be started: {error}", file=sys.stderr)
        return self

    def log(self, run: RunFolder) -> None:
        """Have a run that has ended logged, sometime."""
        if self._process is not None:
            try:  # less than a pipe takes at once, so all of it or nothing
                os.write(self._process.stdin.fileno(), f"{run.path.absolute()}\n".encode())
            except OSError:
                self._lost += 1

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            is_well = self._process.wait(self.patience) == DONE and not self._lost
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            is_well = False
            self._process.kill()
            self._process.wait()
        if not is_well:
            again = " ".join(f"--log-to {name}" for name in self.names)
            print(
                f"--log-to: not all runs were logged; see {self.folder / LOG}. No result depends on it. To log all of them: "
                f"python -m benchmarks.report {self.folder} {again}",
                file=sys.stderr,
            )


def main(arguments: Sequence[str] | None = None, lines: Iterable[str] | None = None) -> int:
    """The process: 0 if all functions logged all runs, else 1.

    Args:
        arguments: of the command line, names of functions; None for the process' own.
        lines: paths of run folders; None for standard input.
    """
    parser = command_parser(__file__, __doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(READY)}, or module:function")
    functions, problems = loggers(parser.parse_args(arguments).names), []
    for line in sys.stdin if lines is None else lines:
        try:
            run = LoggedRun.of(RunFolder.read(Path(line.rstrip("\n"))))
        except ValueError as error:
            problems.append(str(error))
        else:
            problems += log_run(functions, run)
    print(*problems, sep="\n")
    return FAILED if problems else DONE


if __name__ == "__main__":
    sys.exit(main())
