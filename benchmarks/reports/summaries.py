"""What the rows of a suite add up to: spreads, costs and comparisons, strategy by strategy.

Runs are compared only within one *protocol*: the same suite definition, scale, kind of budget, number of examples and
backend.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.records.results import HIGHER_IS_BETTER, Row, is_number
from benchmarks.reports.statistics import Comparison, compare_all, summarize

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
    "epochs",
    "teacher_epoch_equivalents",
    "seconds",
    "parameters",
    "macs",
)
COMPARISON_COLUMNS = (
    "suite",
    "protocol",
    "first",
    "second",
    "n",
    "median_difference",
    "median_low",
    "median_high",
    "mean_difference",
    "mean_low",
    "mean_high",
    "effect_size",
    "p",
    "p_holm",
    "margin",
    "p_non_inferior",
    "seeds_for_power",
    "claim",
)
SPREAD = ("min", "max", "median", "mean", "std")
COSTS = ("epochs", "teacher_epoch_equivalents", "seconds", "parameters", "macs")
_MANY_SEEDS = 1000
NON_INFERIORITY_MARGINS = {"accuracy": 0.01}


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
        for model in ("last", "best"):
            numbers = spread([row[f"test_{model}"] for row in finished]) if finished else {}
            result.append(dict.fromkeys(SUMMARY_COLUMNS) | head | {"model": model} | numbers | costs)
    return result


def comparisons(rows: Sequence[Row], reference: str | None = None) -> list[Comparison]:
    """Of one protocol: a strategy, by default the first one that has a result, with each other one, last epochs."""
    finished = done(rows)
    if not finished:
        return []
    groups = grouped(finished, "strategy")
    values = {name: {row["seed"]: row["test_last"] for row in group} for name, group in groups.items()}
    metric = finished[0]["metric"]
    first = next(iter(values)) if reference is None else reference
    if first not in values:
        return []
    return compare_all(first, values, HIGHER_IS_BETTER[metric], NON_INFERIORITY_MARGINS.get(metric))


def comparison_rows(suite: str, protocol: str, compared: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Rows of comparisons.csv."""
    rows = []
    for c in compared:
        row = {column: getattr(c, column) for column in COMPARISON_COLUMNS if hasattr(c, column)}
        row |= dict(zip(("median_low", "median_high"), c.median_interval, strict=True))
        row |= dict(zip(("mean_low", "mean_high"), c.mean_interval, strict=True))
        rows.append(row | {"suite": suite, "protocol": protocol})
    return rows


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Minimum, maximum, median, mean and standard deviation; None for that of one value."""
    s = summarize(values)
    numbers = (s.minimum, s.maximum, s.median, s.mean, None if math.isnan(s.std) else s.std)
    return dict(zip(SPREAD, numbers, strict=True))


def mean(values: Iterable[Any]) -> float | None:
    """The mean of those that are numbers; None if none is."""
    numbers = [value for value in values if is_number(value)]
    return sum(numbers) / len(numbers) if numbers else None


def protocol_text(row: Row) -> str:
    """The protocol of a row in words."""
    examples = "all examples" if row["examples"] is None else f"{row['examples']} examples"
    match = f"equal {row['match']}" if row.get("match") else "equal epochs"
    precision = "" if row.get("precision") in (None, "float32") else f" {row['precision']}"
    backend = f"{row['backend']}{precision}"
    return f"{row['suite']}: scale {row['scale']:g}, {match}, {examples}, {backend} (protocol {row['protocol']})"


def unit(metric: str) -> str:
    """The unit in which values of a metric are written."""
    return " (%)" if metric == "accuracy" else ""


def writer(metric: str) -> Callable[[float], str]:
    """How values of a metric, and differences of them, are written: accuracy in percent."""
    return (lambda value: f"{100 * value:.2f}") if metric == "accuracy" else (lambda value: f"{value:.4f}")


def result_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table of a protocol as texts, the head first; one with finished runs only."""
    metric = done(rows)[0]["metric"]
    write = writer(metric)
    cells = [["strategy", f"test {metric}{unit(metric)} of", "n", *SPREAD, "epochs", "teacher-epoch equivalents"]]
    cells[0] += ["seconds", "parameters", "MACs"]  # at inference: some strategies end with larger networks than others
    for row in summary_rows(rows):
        values = ["" if row[name] is None else write(row[name]) for name in SPREAD]
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


def sentence(c: Comparison, write: Callable[[float], str]) -> str:
    """A comparison in words."""
    text = f"{c.first} - {c.second}: median {write(c.median_difference)}, mean {write(c.mean_difference)}"
    if c.p is None:
        return f"{text}, n = {c.n}: **{c.claim}**."
    low, high = c.mean_interval
    text += f" (95 % interval {write(low)} to {write(high)}), n = {c.n}, rank-biserial r = {c.effect_size:.2f}, "
    text += f"p = {c.p:.2g}, by Holm {c.p_holm:.2g}"
    if c.p_non_inferior is not None:
        text += f", p of inferiority by {write(c.margin)} or more = {c.p_non_inferior:.2g}"
    text += f": **{c.claim}**."
    if c.p_holm >= 0.05 and c.seeds_for_power is not None and c.seeds_for_power > c.n:
        text += f" If the difference is as large as it looks here, {_number_of_seeds(c.seeds_for_power)} would show it."
    return text


def _number_of_seeds(number: int) -> str:
    """An estimate of one digit or two, and none of a number that nobody can run."""
    return f"about {number} seeds" if number <= _MANY_SEEDS else f"more than {_MANY_SEEDS} seeds"


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
