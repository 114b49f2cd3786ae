"""Tables and a figure from the rows of runs.csv: how good each strategy is, and what may be claimed.

Runs are compared only within one *protocol*: the same suite definition, scale, number of examples and backend.
"""

import importlib.util
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.statistics import Comparison, Summary, compare_all, summarise
from benchmarks.store import write_atomically, write_csv

Row = Mapping[str, Any]

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
    "p",
    "p_holm",
    "margin",
    "p_non_inferior",
    "claim",
)
NON_INFERIORITY_MARGINS = {"accuracy": 0.01}
_COSTS = ("epochs", "teacher_epoch_equivalents", "seconds", "parameters", "macs")
_HIGHER_IS_BETTER = {"accuracy": True, "mse": False}


def write_report(
    suite_folder: Path, rows: Sequence[Row], order: Sequence[str], problems: Sequence[str] = ()
) -> dict[str, str]:
    """Write summary.csv, comparisons.csv, summary.md and a box plot per protocol.

    Args:
        suite_folder: where they go.
        rows: of runs.csv; all statuses.
        order: of the strategies in tables; the first is the one that is compared with the others.
        problems: sentences about what is not in the rows; they go on top.

    Returns:
        Per protocol, its section of summary.md.
    """
    folder = Path(suite_folder)
    protocols = {name: _ordered(group, order) for name, group in _grouped(rows, "protocol").items()}
    summaries = [row for group in protocols.values() for row in summary_rows(group)]
    comparisons = {name: _comparisons(group) for name, group in protocols.items()}
    write_csv(folder / "summary.csv", SUMMARY_COLUMNS, summaries)
    write_csv(folder / "comparisons.csv", COMPARISON_COLUMNS, list(_comparison_rows(protocols, comparisons)))
    sections = {name: "\n\n".join(_section(name, group, comparisons[name])) for name, group in protocols.items()}
    head = [f"# Results of {folder.name}", *(f"**{problem}**" for problem in problems)]
    write_atomically(folder / "summary.md", "\n\n".join([*head, *sections.values()]) + "\n")
    for name, group in protocols.items():
        box_plot(folder / f"boxplot-{name}.png", group)
    return sections


def summary_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of summary.csv for one protocol: per strategy one for the last epoch's model, one for the best one's."""
    result = []
    for group in _grouped(rows, "strategy").values():
        done = _done(group)
        head = {name: group[0][name] for name in ("suite", "protocol", "scale", "examples", "backend", "strategy")}
        head |= {"metric": done[0]["metric"] if done else None, "n": len(done)}
        head |= {status: sum(row["status"] == status for row in group) for status in ("failed", "unfinished")}
        costs = {name: _mean(row[name] for row in done) for name in _COSTS}
        for model in ("last", "best"):
            numbers = _spread(summarise([row[f"test_{model}"] for row in done])) if done else {}
            result.append(dict.fromkeys(SUMMARY_COLUMNS) | head | {"model": model} | numbers | costs)
    return result


def box_plot(path: Path, rows: Sequence[Row]) -> None:
    """Draw the test metric of each strategy of one protocol, a box with its single values, into a PNG file.

    Nothing is drawn where no run is done, or where matplotlib is not installed.
    """
    groups = {name: _done(group) for name, group in _grouped(rows, "strategy").items()}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        return
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(1.5 + 1.3 * len(groups), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [[row["test_last"] for row in group] for group in groups.values()]
    axes.boxplot(values, tick_labels=[f"{name}\nn = {len(group)}" for name, group in groups.items()], showfliers=False)
    for position, group in enumerate(values, start=1):
        axes.plot([position] * len(group), group, "o", color="tab:blue", alpha=0.4, markersize=4)
    axes.set_ylabel(f"test {next(iter(groups.values()))[0]['metric']}")
    axes.set_title(_protocol(rows[0]), fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    write_atomically(path, png.getvalue())


def _section(name: str, rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[str]:
    parts = [f"## {_protocol(rows[0])}"]
    failed = [row for row in rows if row["status"] == "failed"]
    parts += [f"**{row['strategy']} seed {row['seed']} failed:** {row['error']}" for row in failed]
    unfinished = sum(row["status"] == "unfinished" for row in rows)
    if unfinished:
        parts.append(f"**Unfinished runs: {unfinished}.** The same command runs them.")
    done = _done(rows)
    if not done:
        return [*parts, "No run is done."]
    write = _writer(done[0]["metric"])
    parts.append(_table(_result_cells(rows, write)))
    together = max(row.get("together") or 1 for row in done)
    if together > 1:
        parts.append(f"Up to {together} networks trained in one program; seconds are the program's over their number.")
    extras = _extras_cells(done)
    if len(extras) > 1:
        parts += ["Means of what the strategies report besides:", _table(extras)]
    if comparisons:
        parts += ["Paired by seed, last epoch:", "\n".join(f"- {_sentence(c, write)}" for c in comparisons)]
    sources = sorted({f"`{row['command']}` at {row['commit']} on {row['device']}" for row in done})
    has_plots = importlib.util.find_spec("matplotlib") is not None
    plot = f"![Box plot](boxplot-{name}.png)" if has_plots else "No box plot: matplotlib is not installed."
    return [*parts, "\n".join(f"- {source}" for source in sources), plot]


def _result_cells(rows: Sequence[Row], write: Callable[[float], str]) -> list[list[str]]:
    metric, unit = _done(rows)[0]["metric"], " (%)" if write(1.0) == "100.00" else ""
    numbers = ("min", "max", "median", "mean", "std")
    cells = [["strategy", f"test {metric}{unit} of", "n", *numbers, "epochs", "teacher-epoch equivalents", "seconds"]]
    cells[0] += ["parameters", "MACs"]  # at inference: some strategies end with larger networks than others
    for row in summary_rows(rows):
        values = ["" if row[name] is None else write(row[name]) for name in numbers]
        costs = ["" if row[name] is None else f"{row[name]:.0f}" for name in _COSTS]
        cells.append([row["strategy"], f"{row['model']} epoch", str(row["n"]), *values, *costs])
    return cells


def _extras_cells(done: Sequence[Row]) -> list[list[str]]:
    groups = _grouped(done, "strategy")
    # Whole numbers, as which of three won, have no mean worth telling.
    names = sorted({name for row in done for name, value in (row["extras"] or {}).items() if isinstance(value, float)})
    cells = [["strategy", *names]]
    for strategy, group in groups.items():
        values = [_mean((row["extras"] or {}).get(name) for row in group) for name in names]
        if any(value is not None for value in values):
            cells.append([strategy, *("" if value is None else f"{value:.4g}" for value in values)])
    return cells


def _sentence(c: Comparison, write: Callable[[float], str]) -> str:
    text = f"{c.first} - {c.second}: median {write(c.median_difference)}, mean {write(c.mean_difference)}"
    if c.p is None:
        return f"{text}, n = {c.n}: **{c.claim}**."
    low, high = c.mean_interval
    text += f" (95 % interval {write(low)} to {write(high)}), n = {c.n}, p = {c.p:.2g}, by Holm {c.p_holm:.2g}"
    if c.p_non_inferior is not None:
        text += f", p of inferiority by {write(c.margin)} or more = {c.p_non_inferior:.2g}"
    return f"{text}: **{c.claim}**."


def _comparisons(rows: Sequence[Row]) -> list[Comparison]:
    done = _done(rows)
    if not done:
        return []
    groups = _grouped(done, "strategy")
    values = {name: {row["seed"]: row["test_last"] for row in group} for name, group in groups.items()}
    metric = done[0]["metric"]
    margin = NON_INFERIORITY_MARGINS.get(metric)
    return compare_all(next(iter(values)), values, _HIGHER_IS_BETTER[metric], margin)


def _comparison_rows(
    protocols: Mapping[str, Sequence[Row]], comparisons: Mapping[str, Sequence[Comparison]]
) -> Iterable[dict[str, Any]]:
    for name, group in comparisons.items():
        for c in group:
            row = {column: getattr(c, column) for column in COMPARISON_COLUMNS if hasattr(c, column)}
            row |= dict(zip(("median_low", "median_high"), c.median_interval, strict=True))
            row |= dict(zip(("mean_low", "mean_high"), c.mean_interval, strict=True))
            yield row | {"suite": protocols[name][0]["suite"], "protocol": name}


def _ordered(rows: Sequence[Row], order: Sequence[str]) -> list[Row]:
    rank = {name: i for i, name in enumerate(order)}
    return sorted(rows, key=lambda row: (rank.get(row["strategy"], len(rank)), row["strategy"], row["seed"]))


def _grouped(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def _done(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "done"]


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if _is_number(value)]
    return sum(numbers) / len(numbers) if numbers else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _spread(summary: Summary) -> dict[str, float]:
    return {
        "min": summary.minimum,
        "max": summary.maximum,
        "median": summary.median,
        "mean": summary.mean,
        "std": None if math.isnan(summary.std) else summary.std,
    }


def _protocol(row: Row) -> str:
    examples = "all examples" if row["examples"] is None else f"{row['examples']} examples"
    return f"{row['suite']}: scale {row['scale']:g}, {examples}, {row['backend']} (protocol {row['protocol']})"


def _writer(metric: str) -> Callable[[float], str]:
    """How values of a metric, and differences of them, are written: accuracy in percent."""
    return (lambda value: f"{100 * value:.2f}") if metric == "accuracy" else (lambda value: f"{value:.4f}")


def _table(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand under each other in a terminal too; the first row is the head."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*cells, fillvalue="")]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
