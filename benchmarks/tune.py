"""Choose hyper-parameters of a strategy on validation data, and write down what that cost.

    python -m benchmarks.tune --suite digits --strategy l0_merge --seeds 0-2 --vary phases.finetune.learning_rate=0.03,0.1
    python -m benchmarks.tune --suite das_mnist --strategy auto_sizing --method bayesian --trials 12

What is varied stands in the suite's file, under `[tuning.STRATEGY]`, or is given by `--vary`: lists of values, or ranges
`{ min = 1e-4, max = 1e-1 }`, searched on a logarithmic scale. keras-tuner picks the trials. A trial is a launch of
`benchmarks.run` on the suite with other values, so runs that are done are never repeated, but networks that runs share
are trained for each trial. Its score is the mean over the seeds of the last epoch's validation metric. Use other seeds
than those that are reported. Test data plays no part, though each run's row has its test result like any other.

Writes results/SUITE/tuning/STRATEGY.csv, a row per trial with its values, score and cost, the chosen one marked; reports
on the suite show it. The suite's file is left alone: put the chosen values in, with their source.

A trial with a run that failed is a row without a score, and is not chosen.

Exit status: 0 values were chosen, 1 every trial failed, and as for `benchmarks.run` 2 wrong usage, 3 data missing, 130
interrupted: the same command goes on.
"""

import argparse
import contextlib
import copy
import io
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.protocol.metrics import METRICS
from benchmarks import run
from benchmarks.command_line import (
    DONE,
    FAILED,
    USAGE,
    UsageError,
    command_parser,
    ended,
    nearest,
    positive_whole_number,
    refusal,
)
from benchmarks.files import is_disk_full, real_folder, write_atomically
from benchmarks.records.store import hash_of, json_text
from benchmarks.records.tables import write_csv
from benchmarks.runs.planning import named_suite, planned_runs, settings_of
from benchmarks.suites.checks import check_content, early_epochs
from benchmarks.suites.suite import FOLDER, PAPER, SUITES, suite_content
from benchmarks.suites.values import Place, SuiteError, Varied

COSTS = ("epochs", "teacher_epoch_equivalents", "flops", "seconds")


class _CutShortError(Exception):
    """A trial's runs are not all done; holds the launch's exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    try:
        content, space, where = _space(options)
        search = _Search(content, where, options, rest)
        chosen = _tuned(search, space, options)
    except UsageError as error:
        return ended(parser, error)
    except OSError as error:
        return ended(parser, error, FAILED if is_disk_full(error) else USAGE)
    except _CutShortError as error:
        return error.args[0]
    print(f"chosen of {len(search.rows)} trials: {json_text(chosen)}; all of them in {search.table}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    handed = "Other options, as --scale, --examples, --data-dir or --jobs, are handed to benchmarks.run."
    shared = ("--suite", "--seeds", "--out")
    parser = command_parser(__file__, __doc__, *shared, required=["--suite"], epilog=handed, seeds="0-2")
    parser.add_argument("--strategy", required=True, metavar="S", help="the strategy to tune")
    parser.add_argument("--method", choices=("grid", "bayesian"), default="grid", help="(default: grid)")
    parser.add_argument(
        "--trials", type=positive_whole_number, metavar="N", help="at most so many (default: the whole grid, or 20)"
    )
    parser.add_argument(
        "--vary", metavar="KEY=V,V", action="append", default=[], help="values of a key of the suite's file, not its own"
    )
    return parser


def _space(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The content of the suite's file, what is to be varied by key, and where what is one's own is, as a file says it."""
    suite = named_suite(options.suite)
    settings_of(suite, options.strategy)
    if options.suite.endswith(PAPER):
        do = f"That one chooses on test data; leave out {PAPER}."
        raise UsageError("--suite: " + refusal("a suite that chooses on validation data", options.suite, do))
    path = FOLDER / f"{options.suite}.toml" if options.suite in SUITES else Path(options.suite)
    content = suite_content(path)
    content.pop("own_folder", None)
    space = dict(suite.tuning.get(options.strategy, {}))
    for text in options.vary:
        key, equals, values = text.partition("=")
        try:
            space[key] = tomllib.loads(f"values = [{values}]")["values"]
        except (ValueError, RecursionError) as error:  # of TOML, or a number of thousands of digits
            raise UsageError("--vary: " + refusal("KEY=V,V with values as in TOML", text)) from error
    if not space:
        expected = f"expected [tuning.{options.strategy}] in the suite's file, or --vary, received neither"
        raise UsageError(f"suite {suite.name}: {expected}. Say what to vary by --vary.")
    if any(key.startswith("epochs.early.") for key in space) and "phases" in content:
        content["epochs"]["early"] = early_epochs(content["epochs"])  # the file may leave it out
    for key, values in space.items():
        _check_values(content, key, values, options.method)
    # What is beside the suite's file is not beside those of the trials.
    return content, space, {} if options.suite in SUITES else {"own_folder": str(suite.folder.resolve())}


def _check_values(content: Mapping, key: str, values: Any, method: str) -> None:
    """Refuses values before the first trial, not at theirs."""
    table, last = _place(content, key)
    try:
        Varied().check(Place("--vary", (key,)), values)
        is_range, kept = isinstance(values, Mapping), table[last]
        for value in values.values() if is_range else values:
            table[last] = value
            check_content(f"--vary {key}", content)
        table[last] = kept
    except SuiteError as error:
        raise UsageError(str(error)) from error
    if is_range and method == "grid":
        raise UsageError(f"{key}: {refusal('a list of values for a grid', values, 'Or use --method bayesian.')}")


def _place(content: Mapping, key: str) -> tuple[dict, str]:
    """The table that a dotted key stands in, and its last part."""
    *path, last = key.split(".")
    table = content
    for name in path:
        table = table.get(name) if isinstance(table, dict) else None
    if not isinstance(table, dict) or last not in table:
        known = _dotted_keys(content)
        do = "Keys are written with dots, as phases.teacher.learning_rate."
        raise UsageError("--vary: " + refusal("a key of the suite's file", key, f"{nearest(key, known)} {do}".strip()))
    return table, last


def _dotted_keys(content: Mapping, start: str = "") -> list[str]:
    """The keys of all values, also of those in tables."""
    return [
        name
        for key, value in content.items()
        for name in (_dotted_keys(value, f"{start}{key}.") if isinstance(value, Mapping) else [start + key])
    ]


class _Search:
    """Trials of one strategy on one suite, as launches of `benchmarks.run`."""

    def __init__(
        self, content: dict[str, Any], where: dict[str, str], options: argparse.Namespace, rest: Sequence[str]
    ) -> None:
        self.content, self.where = content, where
        self.name = Path(options.suite).stem
        self.folder = options.out / self.name / "tuning"
        self.table = self.folder / f"{options.strategy.replace(':', '-')}.csv"
        # Teachers that a trial leaves as they are need no training of its own.
        folders = ["--out", str(self.folder), "--stages", str(self.folder / "stages")]
        self.rest = ["--strategy", options.strategy, "--seeds", options.seeds, *folders, *rest]
        self.higher_is_better = METRICS[content["metric"]].higher_is_better
        self.rows: list[dict[str, Any]] = []

    def score(self, values: Mapping[str, Any]) -> float | None:
        """Run the suite with these values; the mean validation metric of the seeds, None if one of them failed."""
        content = copy.deepcopy(self.content)
        for key, value in values.items():
            table, last = _place(content, key)
            table[last] = value
        name = f"{self.name}-{hash_of(content)}"
        for place in (self.folder.parent, self.folder, self.folder / "stages", self.folder / name):
            real_folder(place)
        path = self.folder / f"{name}.json"
        write_atomically(path, json_text(content | self.where, indent=1))
        print(f"trial {len(self.rows) + 1}: {json_text(values)}", flush=True)
        arguments = ["--suite", str(path), *self.rest]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = run.main(arguments)
        if status not in (DONE, FAILED):
            print(said.getvalue())
            raise _CutShortError(status)
        rows = [folder.row() for folder in planned_runs(named_suite(str(path)), run.parsed(arguments))]
        costs = {cost: sum(row[cost] or 0 for row in rows) for cost in COSTS}
        scores = [row["validation_last"] for row in rows if row["status"] == "done"]
        score = sum(scores) / len(scores) if len(scores) == len(rows) else None
        self.rows.append({**values, "score": score, "runs": len(rows), "done": len(scores), **costs, "chosen": False})
        return score

    def choose(self) -> dict[str, Any]:
        """Mark the best trial, the earlier one of equals, and write the table."""
        scored = [row for row in self.rows if row["score"] is not None]
        best = (max if self.higher_is_better else min)(scored, key=lambda row: row["score"], default=None)
        if best is not None:
            best["chosen"] = True
        write_csv(self.table, tuple(self.rows[0]), self.rows)
        if best is None:
            print(f"Every trial has a run that failed; see {self.folder}.", file=sys.stderr)
            raise _CutShortError(FAILED)
        return {key: value for key, value in best.items() if key not in (*COSTS, "runs", "done", "chosen")}


def _tuned(search: _Search, space: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Have keras-tuner pick trials until it is through; the chosen values and their score."""
    import keras_tuner

    parameters = keras_tuner.HyperParameters()
    for key, values in space.items():
        if isinstance(values, Mapping):
            parameters.Float(key, values["min"], values["max"], sampling="log")
        else:
            parameters.Choice(key, values, ordered=False if isinstance(values[0], (str, bool)) else None)
    objective = keras_tuner.Objective("score", "max" if search.higher_is_better else "min")
    known = {"objective": objective, "hyperparameters": parameters, "tune_new_entries": False}
    known |= {"max_consecutive_failed_trials": sys.maxsize, "max_retries_per_trial": 0}
    if options.method == "grid":
        oracle = keras_tuner.oracles.GridSearchOracle(max_trials=options.trials, **known)
    else:
        oracle = keras_tuner.oracles.BayesianOptimizationOracle(max_trials=options.trials or 20, seed=0, **known)

    class Trials(keras_tuner.Tuner):
        """keras-tuner's loop, whose trials are ours."""

        def run_trial(self, trial, *_, **__):
            try:
                score = search.score(trial.hyperparameters.values)
            except (_CutShortError, UsageError, OSError) as error:  # else it would go on with the next trial
                raise keras_tuner.errors.FatalError("the search ends here") from error
            if score is None:
                raise keras_tuner.errors.FailedTrialError("a run failed")
            return {"score": score}

    # What it keeps of its own is of no use to us: our runs are found again by what they are.
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(sys.stderr):
        try:
            Trials(oracle=oracle, directory=unused).search()
        except keras_tuner.errors.FatalError as error:
            raise error.__cause__ or error from None
    return search.choose()


if __name__ == "__main__":
    sys.exit(main())
