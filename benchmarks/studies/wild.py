"""The promises of kmerge on models as people have them: public ones that are not in `keras.applications`.

    python -m benchmarks.studies.wild --out docs/development                          # all that wild.csv there lacks
    python -m benchmarks.studies.wild --only unet keras_hub --out docs/development    # whose names hold one of these words
    python -m benchmarks.studies.wild --only unet --again                             # measured anew, and printed

The models are rebuilt from the layers of public examples, or come from packages: benchmarks/studies/wild_models. Packages
are installed without their dependencies, next to kmerge or in a folder on PYTHONPATH,

    pip install --no-deps --target DIR PACKAGES         # those that --packages prints

and models of absent packages are rows that say so. Each model is built twice, as small as it can be, with random weights and
statistics, in a process of its own with a limit of time and memory; what each verb must keep there stands in
`benchmarks.studies.wild_promises`. With `--out`, a folder for wild.csv and wild.md, rows that lie there are kept.
"""

import argparse
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import BinaryIO

from benchmarks.checkout import ROOT, commit
from benchmarks.command_line import DONE, FAILED, UsageError, command_parser, ended, positive_number
from benchmarks.runs.preloading import Copy, Preloaded, preload
from benchmarks.studies.wild_page import VERBS, page, read, write

_WORKER = "benchmarks.studies.wild_promises"


class Processes:
    """Starts the processes of the study, as copies of one that has imported Keras where that can be.

    Args:
        limit: seconds that each may take.

    Attributes:
        commit: of the code that all of them run, which may be edited since.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.commit = limit, commit()
        # Of a convolution of size 1 with strides, TensorFlow 2.21 with oneDNN writes beside the gradient, and aborts.
        self._environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", **os.environ}
        self._preloaded: Preloaded | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Processes":
        self._preloaded = preload([_WORKER], self._environment)
        return self

    def __exit__(self, *_: object) -> None:
        if self._preloaded:
            self._preloaded.close()

    def lines(self, *arguments: str) -> tuple[list[dict], str]:
        """What a process with these arguments prints; and why it ended, or "" where all went well."""
        with tempfile.TemporaryFile() as log:
            process = self._start(arguments, log)
            late = threading.Event()

            def end() -> None:
                late.set()
                os.killpg(process.pid, signal.SIGKILL)

            timer = threading.Timer(self.limit, end)
            timer.start()
            found = [json.loads(line) for line in process.stdout if line.endswith(b"\n")]
            status = process.wait()
            timer.cancel()
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
        if late.is_set():
            return found, f"took more than {self.limit:g} seconds"
        return found, "" if status == DONE else f"ended with status {status}: {said[-1] if said else ''}"

    def _start(self, arguments: Sequence[str], log: BinaryIO) -> subprocess.Popen | Copy:
        with self._lock:
            copy = self._preloaded.start(arguments, log) if self._preloaded else None
        command = [sys.executable, "-m", "benchmarks.studies.wild", "--measure", *arguments]
        how = {"stdout": subprocess.PIPE, "stderr": log, "start_new_session": True}
        return copy or subprocess.Popen(command, env=self._environment, cwd=ROOT, **how)


def rows_of(name: str, source: str, package: str, processes: Processes) -> dict[str, dict]:
    """One model's rows by verb; a verb that the process did not come to has one, too.

    Args:
        name: of the model.
        source: where it comes from.
        package: the module that it needs, or "".
        processes: that measure it.
    """
    if package and importlib.util.find_spec(package) is None:
        rows, outcome, says = {}, "skipped", f"needs {package}"
    else:
        lines, says = processes.lines(name)
        rows, outcome = {row["verb"]: row for row in lines}, "killed"
    about = next(iter(rows.values()), {"model": name, "source": source})
    about = {key: about.get(key, "") for key in ("model", "source", "package", "kind", "parameters", "rounding", "spread")}
    missing = {verb: {**about, "verb": verb, "outcome": outcome, "says": says} for verb in VERBS if verb not in rows}
    return {verb: {**row, "commit": processes.commit} for verb, row in {**rows, **missing}.items()}


def measured(names: dict[str, tuple[str, str]], processes: Processes, jobs: int) -> Iterator[tuple[str, dict]]:
    """Yields (name, rows) of each model as soon as it is measured.

    Args:
        names: for each model its source and package.
        processes: that measure them.
        jobs: how many at a time.
    """
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(rows_of, name, *about, processes): name for name, about in names.items()}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if a result was wrong, or an exception foreign."""
    parser = command_parser(__file__, __doc__, "--out", "--jobs", out=None, jobs=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models whose names hold one of these (default: all)")
    parser.add_argument("--limit", type=positive_number, default=300.0, metavar="SECONDS", help="of a model (default: 300)")
    parser.add_argument("--again", action="store_true", help="measure those that have rows, too")
    parser.add_argument("--packages", action="store_true", help="print what to install, and end")
    parser.add_argument("--measure", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure is not None:
        return importlib.import_module(_WORKER).main(options.measure)
    rows = read(options.out)
    with Processes(options.limit) as processes:
        (listed,), _ = processes.lines()
        if options.packages:
            print(*listed["packages"])
            return DONE
        models = listed["models"]
        chosen = {n: about for n, about in models.items() if not options.only or any(word in n for word in options.only)}
        if not chosen:
            names = f"expected a part of one of {', '.join(models)}"
            return ended(parser, UsageError(f"--only: {names}, received {' '.join(options.only)!r}."))
        todo = {name: about for name, about in chosen.items() if options.again or name not in rows}
        for name, found in measured(todo, processes, options.jobs):
            print(f"{name}: {', '.join(row['outcome'] for row in found.values())}", file=sys.stderr, flush=True)
            rows[name] = found
            rows = {known: rows[known] for known in models if known in rows}
            write(options.out, rows)
    shown = {name: rows[name] for name in chosen}
    print(page(shown))
    outcomes = {row["outcome"] for verbs in shown.values() for row in verbs.values()}
    return FAILED if outcomes & {"wrong", "foreign"} else DONE


if __name__ == "__main__":
    sys.exit(main())
