"""What the rows of a suite add up to: spreads and costs, strategy by strategy.

Runs are compared only within one *protocol*: the same suite definition, scale, kind of budget, number of examples and
backend.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from baselines.protocol.metrics import METRICS
from benchmarks.records.results import Row, is_number
from benchmarks.reports.statistics import summarize

SUMMARY_COLUMNS = (
    "suite",
    "protocol",
    "scale",
    "examples",
    "backend",
    "strategy",
    "metric",
    "model",
    "n",
    "failed",
    "unfinished",
    "min",
    "max",
    "median",
    "mean",
    "std",
    "validation",
    "validation_teachers",
    "epochs",
    "teacher_epoch_equivalents",
    "seconds",
    "parameters",
    "macs",
)
SPREAD = ("min", "max", "median", "mean", "std")
# Of pixels, in a table.
_MOST_CLASSES, _LONGEST_CLASS = 200, 100
# The most columns of the table of classes on a printed page.
_MOST_PRINTED = 12
COSTS = ("epochs", "teacher_epoch_equivalents", "seconds", "parameters", "macs")


def by_protocol(rows: Iterable[Row], order: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of each protocol, strategies in that order, those that it does not name behind, by name."""
    rank = {name: i for i, name in enumerate(order)}

    def key(row: Row) -> tuple:
        return rank.get(row["strategy"], len(rank)), row["strategy"], row["seed"]

    return {name: sorted(group, key=key) for name, group in grouped(rows, "protocol").items()}


def grouped(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Rows by what stands in a column, in the order in which that first occurs."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def done(rows: Iterable[Row]) -> list[Row]:
    """The rows of runs that are done."""
    return [row for row in rows if row["status"] == "done"]


def summary_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of summary.csv for one protocol: per strategy one for the last epoch's model, one for the best one's."""
    result = []
    for group in grouped(rows, "strategy").values():
        finished = done(group)
        head = {name: group[0][name] for name in ("suite", "protocol", "scale", "examples", "backend", "strategy")}
        head |= {"metric": finished[0]["metric"] if finished else None, "n": len(finished)}
        head |= {status: sum(row["status"] == status for row in group) for status in ("failed", "unfinished")}
        costs = {name: mean(row[name] for row in finished) for name in COSTS}
        teachers = mean(map(_teachers, finished))
        for model in ("last", "best"):
            numbers = spread([row[f"test_{model}"] for row in finished]) if finished else {}
            validation = {"validation": mean(row[f"validation_{model}"] for row in finished), "validation_teachers": teachers}
            result.append(dict.fromkeys(SUMMARY_COLUMNS) | head | {"model": model} | numbers | validation | costs)
    return result


def _teachers(row: Row) -> float | None:
    """The mean of the validation metrics of the networks that a run began with, each after its own training."""
    found = (row["extras"] or {}).get("validation_teachers")
    return mean(found) if isinstance(found, list) else None


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Minimum, maximum, median, mean and standard deviation; None for that of one value."""
    s = summarize(values)
    numbers = (s.minimum, s.maximum, s.median, s.mean, None if math.isnan(s.std) else s.std)
    return dict(zip(SPREAD, numbers, strict=True))


def mean(values: Iterable[Any]) -> float | None:
    """The mean of those that are numbers; None if none is."""
    numbers = [value for value in values if is_number(value)]
    return sum(numbers) / len(numbers) if numbers else None


def examples_text(row: Row) -> str:
    """The training examples of a row's protocol in words. A suite may itself have a few, for what follows its parents."""
    return "the suite's examples" if row["examples"] is None else f"{row['examples']} examples"


def protocol_text(row: Row) -> str:
    """The protocol of a row in words."""
    match = f"equal {row['match']}" if row.get("match") else "equal epochs"
    precision = "" if row.get("precision") in (None, "float32") else f" {row['precision']}"
    backend = f"{row['backend']}{precision}"
    scale = "unknown" if row["scale"] is None else f"{row['scale']:g}"
    return f"{row['suite']}: scale {scale}, {match}, {examples_text(row)}, {backend} (protocol {row['protocol']})"


def unit(metric: str) -> str:
    """The unit in which values of a metric are written."""
    return " (%)" if METRICS[metric].is_share else ""


def writer(metric: str) -> Callable[[float], str]:
    """How values of a metric, and differences of them, are written: shares, as accuracy, in percent."""
    return (lambda value: f"{100 * value:.2f}") if METRICS[metric].is_share else (lambda value: f"{value:.4f}")


def result_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table of a protocol as texts, the head first; one with finished runs only."""
    metric = done(rows)[0]["metric"]
    write = writer(metric)
    cells = [["strategy", f"test {metric}{unit(metric)} of", "n", *SPREAD, "validation", "teachers (validation)"]]
    cells[0] += ["epochs", "teacher-epoch equivalents", "seconds"]
    cells[0] += ["parameters", "MACs"]  # at inference: some strategies end with larger networks than others
    for row in summary_rows(rows):
        shown = (*SPREAD, "validation", "validation_teachers")
        values = ["" if row[name] is None else write(row[name]) for name in shown]
        costs = ["" if row[name] is None else f"{row[name]:.0f}" for name in COSTS]
        cells.append([row["strategy"], f"{row['model']} epoch", str(row["n"]), *values, *costs])
    return cells


def extras_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Means of what strategies report besides, as texts, the head first."""
    finished = done(rows)
    # Whole numbers, as which of three won, have no mean worth telling.
    names = sorted({name for row in finished for name, value in (row["extras"] or {}).items() if type(value) is float})
    cells = [["strategy", *names]]
    for strategy, group in grouped(finished, "strategy").items():
        values = [mean((row["extras"] or {}).get(name) for row in group) for name in names]
        if any(value is not None for value in values):
            cells.append([strategy, *("" if value is None else f"{value:.4g}" for value in values)])
    return cells


def class_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Mean test intersection over union of each class of pixels, in percent, as texts, the head first.

    A class that is neither in the labels nor in the predictions of any run has an empty cell. There is a head alone where
    pixels have no labels, or a stranger's file has something else for them.
    """
    found: dict[str, list[Row]] = {}
    for row in done(rows):
        values = (row["extras"] or {}).get("test_iou_of_classes")
        if isinstance(values, dict) and len(values) <= _MOST_CLASSES:
            found.setdefault(row["strategy"], []).append(values)
    names = list(dict.fromkeys(name for group in found.values() for values in group for name in values))
    names = [name for name in names if len(name) <= _LONGEST_CLASS and name.isprintable()][:_MOST_CLASSES]
    cells = [["strategy", "n", *names]]
    for strategy, group in found.items():
        means = [mean(values.get(name) for values in group) for name in names]
        cells.append([strategy, str(len(group)), *("" if value is None else f"{100 * value:.2f}" for value in means)])
    return cells


def turned(cells: list[list[str]]) -> list[list[str]]:
    """The table of `class_cells` for print: with a row for each class that has results, where columns would be too many."""
    if len(cells[0]) <= _MOST_PRINTED:
        return cells
    names, *columns = map(list, zip(*cells, strict=True))
    return [["class", *names[1:]], *(column for column in columns if any(column[1:]))]


def published_cells(rows: Sequence[Row], published: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Our medians and means beside published ones of the same strategy, as texts, the head first.

    Args:
        rows: of one protocol.
        published: tables of a suite's `[[published]]`: `strategy`, `source`, and some of `SPREAD`.
    """
    summaries = {row["strategy"]: row for row in summary_rows(rows) if row["model"] == "last"}
    cells = [["strategy", "source", "n", *SPREAD]]
    write = writer(done(rows)[0]["metric"])
    for table in published:
        ours = summaries.get(table["strategy"])
        for source, numbers in ((table["source"], table), ("here", ours)):
            if numbers is None or numbers is ours and not ours["n"]:
                continue
            values = ["" if numbers.get(name) is None else write(numbers[name]) for name in SPREAD]
            cells.append([table["strategy"], source, str(numbers.get("n") or ""), *values])
    return cells
