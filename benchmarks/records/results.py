"""Results as they lie on the disk, checked: what cannot be trusted is told, not averaged.

Run folders are the truth; where a folder has none, as that of published results, its runs.csv and history.csv are read.
Files of strangers are only parsed. This module does not import Keras.
"""

import contextlib
import csv
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baselines.protocol.metrics import METRICS
from benchmarks.command_line import shown
from benchmarks.files import locked, saying
from benchmarks.records.store import HISTORY_COLUMNS, RUN_COLUMNS, is_shallow, read_runs
from benchmarks.records.tables import read_csv, write_csv

Row = Mapping[str, Any]
# Tables and figures take some seconds.
_UNTOLD_WAIT = 10.0

_NAMES = ("suite", "strategy", "protocol", "run")
_TEXTS = (
    *_NAMES,
    "status",
    "metric",
    "backend",
    "precision",
    "device",
    "versions",
    "commit",
    "command",
    "error",
    "phase",
)
_NEEDED = ("suite", "strategy", "seed", "status", "protocol", "run")
_NUMBERS = (
    "test_last",
    "test_best",
    "validation_last",
    "validation_best",
    "epochs",
    "teacher_epoch_equivalents",
    "flops",
    "parameters",
    "macs",
    "seconds",
    "compile_seconds",
    "wall_seconds",
    "together",
    "devices",
    "scale",
    "factor",
    "examples",
)
_FACTORS = ("scale", "factor")
# Larger numbers have squares and sums that no float holds. Longer names and texts no table can show.
_LARGEST, _LONGEST_NAME, _LONGEST_TEXT, _MOST_EXTRAS = 1e100, 200, 100_000, 1000


class ResultsError(ValueError):
    """A folder that holds no results."""


@dataclass(frozen=True)
class Results:
    """What a folder holds.

    Attributes:
        folder: where.
        rows: of runs.csv, all statuses.
        history: by run, its rows of history.csv.
        configurations: by run, what its folder says it is; none where there is no folder.
        problems: a sentence about each run or file that is left out.
    """

    folder: Path
    rows: list[Row]
    history: dict[str, list[Row]] = field(default_factory=dict)
    configurations: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def holds_results(folder: Path) -> bool:
    """Whether a folder is one that `read_results` reads."""
    return (folder / "runs").is_dir() or (folder / "runs.csv").is_file()


def read_results(folder: Path) -> Results:
    """The results of a suite.

    Args:
        folder: with `runs/` in it, or else with runs.csv, and history.csv where that was kept.

    Returns:
        All rows that can be trusted.

    Raises:
        ResultsError: if the folder has neither.
    """
    folder = Path(folder)
    if (folder / "runs").is_dir():
        results = _from_runs(folder)
    elif (folder / "runs.csv").is_file():
        results = _from_tables(folder)
    else:
        raise ResultsError(f"{folder} holds no results: expected a folder `runs` in it, or a file runs.csv.")
    rows: dict[tuple, Row] = {}
    for row in results.rows:
        fault = fault_of(row)
        if fault is None and rows.setdefault((row["protocol"], row["strategy"], row["seed"]), row) is not row:
            fault = "another row, which counts, is of the same strategy and seed"
        if fault is None:
            continue
        run = row.get("run")
        name = run if isinstance(run, str) and len(run) <= _LONGEST_NAME and run.isprintable() else shown(run)
        results.problems.append(f"Run {name} is left out: {fault}. Delete its folder to repeat it.")
    history = {run: results.history[run] for row in rows.values() if (run := row["run"]) in results.history}
    for run in [run for run, epochs in history.items() if any(_extras_fault(epoch["extras"]) for epoch in epochs)]:
        del history[run]
        results.problems.append(f"The curves of run {run} are left out: its epochs have extras that no curve can be of.")
    return Results(folder, list(rows.values()), history, results.configurations, results.problems)


@contextlib.contextmanager
def tables_locked(folder: Path) -> Iterator[None]:
    """While this lasts, nobody else writes the tables and figures of these results; a long wait for that is told.

    Args:
        folder: of a suite. Where it has tables alone nobody launches, and nothing is locked.
    """
    if not (folder / "runs").is_dir():
        yield
        return
    lock = folder / "lock"

    def say(holder: str, _: float) -> None:
        print(f"Waiting for {holder}, which writes the tables of {folder}.", file=sys.stderr)

    with locked(lock, saying(lock, say, _UNTOLD_WAIT)):
        yield


def write_tables(results: Results) -> None:
    """Write runs.csv and history.csv anew: of all that can be trusted, whatever its status.

    Args:
        results: of a folder with run folders.
    """
    write_csv(results.folder / "runs.csv", RUN_COLUMNS, results.rows)
    epochs = [epoch for row in results.rows for epoch in results.history.get(row["run"], [])]
    write_csv(results.folder / "history.csv", HISTORY_COLUMNS, epochs)


def _from_runs(folder: Path) -> Results:
    runs, problems = read_runs(folder)
    history = {}
    for run in runs:
        try:
            history[run.path.name] = run.history()
        except ValueError as error:
            problems.append(str(error))
    configurations = {run.path.name: dict(run.configuration) for run in runs}
    return Results(folder, [run.row() for run in runs], history, configurations, problems)


def _from_tables(folder: Path) -> Results:
    problems: list[str] = []
    rows = _read_csv(folder / "runs.csv", RUN_COLUMNS, problems)
    history: dict[str, list[Row]] = {}
    if (folder / "history.csv").is_file():
        for row in _read_csv(folder / "history.csv", HISTORY_COLUMNS, problems):
            history.setdefault(row["run"], []).append(row)
    return Results(folder, rows, history, {}, problems)


def _read_csv(path: Path, columns: tuple[str, ...], problems: list[str]) -> list[Row]:
    """The rows of a table, columns that it lacks as None: tables of an earlier version have fewer."""
    rows: list[Row] = []
    try:
        head, *lines = read_csv(path)
        for cells in lines:
            if len(cells) != len(head):
                problems.append(f"{path}: a row has not as many cells as columns; it is left out.")
                continue
            known = {name: _value(name, cell) for name, cell in zip(head, cells, strict=True)}
            rows.append(dict.fromkeys(columns) | known)
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{path} cannot be read: {error}")
    return rows


def _value(column: str, cell: str) -> Any:
    """What a cell of a table says: text, a number, or what `store.write_csv` wrote as JSON."""
    if cell == "":
        return None
    if column in _TEXTS:
        return cell
    try:
        content = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return content if is_shallow(content) else cell


def fault_of(row: Row) -> str | None:
    """Why no table and no figure can show a row; None if they can."""
    missing = [name for name in _NEEDED if row.get(name) is None]
    if missing:
        return f"it does not say its {', '.join(missing)}"
    if type(row["seed"]) is not int or not all(isinstance(row[name], str) for name in _NAMES):
        return "its names are no texts, or its seed is no whole number"
    if not abs(row["seed"]) <= _LARGEST:
        return "its seed is too large"
    for name in _NAMES:
        if not (0 < len(row[name]) <= _LONGEST_NAME and row[name].isprintable()):
            return f"its {name} is {shown(row[name])}, no name of 1 to {_LONGEST_NAME} letters"
    if row["status"] not in ("done", "failed", "unfinished"):
        return f"its status is {shown(row['status'])}"
    if not re.fullmatch(r"\w+", row["protocol"]):
        return f"its protocol is {row['protocol']!r}, which no file could be named by"
    texts = [(name, value) for name, value in row.items() if isinstance(value, str) and name != "error"]  # shown in part
    if long := [name for name, text in texts if len(text) > _LONGEST_TEXT]:
        return f"its {shown(long[0])} has more than {_LONGEST_TEXT} letters"
    return _fault_of_numbers(row) or _extras_fault(row["extras"])


def _fault_of_numbers(row: Row) -> str | None:
    is_done = row["status"] == "done"
    if is_done and row["metric"] not in list(METRICS):
        return f"its metric is {shown(row['metric'])}, none of {', '.join(METRICS)}"
    for name in _NUMBERS:
        value, is_needed = row.get(name), is_done and name in ("test_last", "test_best")
        # What did not come out, as a loss that overflowed, is shown as what is not known.
        is_unknown = value is None or isinstance(value, float) and not math.isfinite(value) and name not in _FACTORS
        if not is_number(value) and (is_needed or not is_unknown):
            return f"its {name} is {shown(value)}, not a finite number"
        if name in _FACTORS and value is not None and not value > 0:
            return f"its {name} is {value!r}, which multiplies epochs"
    return None


def _extras_fault(extras: Any) -> str | None:
    """Why the extras of a row or an epoch cannot be shown; None if they can."""
    if not isinstance(extras or {}, dict):
        return "its extras are no mapping"
    names = extras or {}
    if len(names) > _MOST_EXTRAS or not all(len(name) <= _LONGEST_NAME and name.isprintable() for name in names):
        return f"its extras are more than {_MOST_EXTRAS}, or have names that no table can show"
    return None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that can be squared and summed, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
