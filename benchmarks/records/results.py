"""Results as they lie on the disk, checked: what cannot be trusted is told, not averaged.

Run folders are the truth; where a folder has none, as that of published results, its runs.csv and history.csv are read.
Files of strangers are only parsed. This module does not import Keras.
"""

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.records.store import HISTORY_COLUMNS, RUN_COLUMNS, read_runs
from benchmarks.records.tables import read_csv, write_csv

Row = Mapping[str, Any]

HIGHER_IS_BETTER = {"accuracy": True, "mse": False}
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
        fault = _fault(row)
        if fault is None and rows.setdefault((row["protocol"], row["strategy"], row["seed"]), row) is not row:
            fault = "another row, which counts, is of the same strategy and seed"
        if fault is None:
            continue
        results.problems.append(f"Run {row.get('run')} is left out: {fault}. Delete its folder to repeat it.")
    known = {row["run"] for row in rows.values()}
    history = {run: epochs for run, epochs in results.history.items() if run in known}
    return Results(folder, list(rows.values()), history, results.configurations, results.problems)


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
        except (TypeError, AttributeError):
            problems.append(f"{run.path / 'history.json'} is not a list of epochs; its curves are left out.")
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
        return json.loads(cell)
    except ValueError:
        return cell


def _fault(row: Row) -> str | None:
    """Why a row cannot be used; None if it can."""
    missing = [name for name in _NEEDED if row.get(name) is None]
    if missing:
        return f"it does not say its {', '.join(missing)}"
    if not isinstance(row["seed"], int) or not all(isinstance(row[name], str) for name in _NAMES):
        return "its names are no texts, or its seed is no whole number"
    if row["status"] not in ("done", "failed", "unfinished"):
        return f"its status is {row['status']!r}"
    if not re.fullmatch(r"\w+", row["protocol"]):
        return f"its protocol is {row['protocol']!r}, which no file could be named by"
    scale = row.get("scale")
    if scale is not None and not is_number(scale):
        return f"its scale is {scale!r}, not a number"
    if row["status"] != "done":
        return None
    if row["metric"] not in list(HIGHER_IS_BETTER):
        return f"its metric is {row['metric']!r}, none of {', '.join(HIGHER_IS_BETTER)}"
    for name in ("test_last", "test_best"):
        if not is_number(row[name]):
            return f"its {name} is {row[name]!r}, not a finite number"
    if not isinstance(row["extras"] or {}, dict):
        return "its extras are no mapping"
    return None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float can be
        return False
