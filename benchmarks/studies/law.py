"""When to merge: what merging gains over one network, against what three short trainings gain over a long one.

    python -m benchmarks.studies.law results/published/* --out results/published/law

Each protocol of the folders in which one network, the best of three and merging have results is a *cell*, and so is each
paper's table that a suite's file quotes for all three. For each cell, in points of accuracy:

    x    best of three - one network: how much less than nothing three times the epochs are worth
    y    merging - one network

It writes cells.csv, law.csv (the line y = intercept + slope x by least squares, with t-intervals) and law.png and law.pdf.
Both differences have the same network in them, so its noise alone would give a slope. `slope_disjoint` is fitted with x from
every other seed and y from the rest, over the cells with at least four seeds: it has no noise in common.

Merging is `l0_merge_fade`, or `l0_merge` where that did not run. `rival` is the better of one network at equal compute and a
restarted teacher, by validation.

Where a folder has the epochs of its runs, a cell also has what is known before anything is merged: `rise`, what doubling the
epochs still gave the teachers; `gain_of_mean`, what the mean of their outputs is ahead of them by. The lines `restart_rise`
and `restart_mean` are merging - restart against these: what to do with two networks that are trained already. `--earlier
cells.csv` gives the rises of cells whose epochs were not kept.
"""

import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from baselines.protocol.metrics import METRICS
from benchmarks.command_line import DONE, command_parser, ended
from benchmarks.files import write_atomically
from benchmarks.records.results import Results, ResultsError, Row, read_results
from benchmarks.records.tables import read_csv, write_csv
from benchmarks.reports.style import files_of, in_style, new_figure, point_style
from benchmarks.reports.summaries import done, grouped
from benchmarks.suites.suite import SUITES, load_suite
from kmerge.merging import FEWEST_EPOCHS, rise_per_doubling

MERGING = ("l0_merge_fade", "l0_merge")
ONE, THREE = "one_model", "best_of_three"
RESTART = "restart"
RIVALS = ("one_model_equal_compute", RESTART)
_FEWEST_FOR_HALVES = 4


@dataclass(frozen=True)
class Cell:
    """A protocol in which merging, one network and the best of three have results; all differences are in points.

    Attributes:
        name: of the suite, or of the paper.
        source: the folder, or the paper's table.
        epochs: of one network.
        examples: training examples where not all were used.
        n: seeds in common.
        merging: the strategy that merges.
        x: mean of best of three - one network.
        x_error: its standard error.
        y: mean of merging - one network.
        y_error: its standard error.
        rival: the best of `RIVALS` by validation, where there is one.
        ahead: mean of merging - rival.
        ahead_error: its standard error.
        restarted: mean of merging - restart.
        restarted_error: its standard error.
        rise: mean over teachers of `rise_per_doubling`.
        gain_of_mean: validation metric of the mean of two teachers' outputs, less the mean of theirs.
    """

    name: str
    source: str
    epochs: float | None
    examples: int | None
    n: int | None
    merging: str
    x: float
    x_error: float | None
    y: float
    y_error: float | None
    rival: str | None = None
    ahead: float | None = None
    ahead_error: float | None = None
    restarted: float | None = None
    restarted_error: float | None = None
    rise: float | None = None
    gain_of_mean: float | None = None


@dataclass(frozen=True)
class Line:
    """A line y = intercept + slope x through `cells` points.

    Attributes:
        intercept, slope: with the ends of their 95 % t-intervals.
        residual: standard deviation about the line.
        r: Pearson's.
        mean: of x.
        squares: sum of squared deviations of x from its mean.
        quantile: of Student's t for these intervals.
    """

    cells: int
    intercept: float
    intercept_low: float
    intercept_high: float
    slope: float
    slope_low: float
    slope_high: float
    residual: float
    r: float
    mean: float
    squares: float
    quantile: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__, "--out", required=["--out"], out=None)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="results of a suite")
    help_of_earlier = "cells.csv of an earlier run, for cells whose epochs were not kept (default: none)"
    parser.add_argument("--earlier", type=Path, metavar="FILE", help=help_of_earlier)
    options = parser.parse_args(arguments)
    try:
        measured = [cell for folder in options.folders for cell in cells_of(folder)]
        known = read_rises(options.earlier) if options.earlier else {}
    except (ResultsError, OSError) as error:
        return ended(parser, error)
    cells = [cell if cell.rise is not None else replace(cell, rise=known.get(_named(asdict(cell)))) for cell, _ in measured]
    cells += published_cells()
    pairs = [half for _, half in measured if half is not None]
    if len(cells) < 3:
        return ended(parser, ResultsError(f"expected at least 3 cells for a line, received {len(cells)}."))
    lines = {"all": line_through([(cell.x, cell.y) for cell in cells])}
    if len(pairs) > 2:
        lines["disjoint"] = line_through(pairs)
    for name, known in (("restart_rise", "rise"), ("restart_mean", "gain_of_mean")):
        points = [(getattr(cell, known), cell.restarted) for cell in cells]
        points = [(x, y) for x, y in points if x is not None and y is not None]
        if len(points) > 2:
            lines[name] = line_through(points)
    options.out.mkdir(parents=True, exist_ok=True)
    columns = tuple(field.name for field in fields(Cell))
    write_csv(options.out / "cells.csv", columns, list(map(asdict, cells)))
    names = tuple(field.name for field in fields(Line))
    write_csv(options.out / "law.csv", ("fitted", *names), [{"fitted": name, **asdict(line)} for name, line in lines.items()])
    _draw(options.out, cells, lines["all"])
    print(*(f"{name}: {line}" for name, line in lines.items()), sep="\n")
    return DONE


def read_rises(path: Path) -> dict[tuple[str, ...], float]:
    """The rises in a `cells.csv`, by what names a cell: its source, its epochs, its training examples and how many seeds.

    Args:
        path: of the file.

    Raises:
        ResultsError: if it is no such file.
        OSError: if it cannot be read.
    """
    try:
        head, *lines = read_csv(path)
        rows = [dict(zip(head, line, strict=True)) for line in lines]
        return {_named(row): float(row["rise"]) for row in rows if row["rise"]}
    except (KeyError, ValueError, csv.Error) as error:
        raise ResultsError(f"{path}: expected a cells.csv that this command wrote, received another file: {error}.") from None


def _named(cell: Mapping[str, object]) -> tuple[str, ...]:
    return tuple("" if cell[key] is None else str(cell[key]) for key in ("source", "epochs", "examples", "n"))


def cells_of(folder: Path) -> Iterator[tuple[Cell, tuple[float, float] | None]]:
    """The cells of a folder of results, each with (x, y) from disjoint seeds where there are enough."""
    results = read_results(folder)
    for rows in grouped(done(results.rows), "protocol").values():
        groups = grouped(rows, "strategy")
        merging = next((name for name in MERGING if name in groups), None)
        if merging is None or not {ONE, THREE} <= groups.keys() or not METRICS[rows[0]["metric"]].is_share:
            continue
        yield _cell(results, groups, merging), _from_disjoint_seeds(groups, merging)


def _cell(results: Results, groups: Mapping[str, Sequence[Row]], merging: str) -> Cell:
    x, y = (_differences(groups, name, ONE) for name in (THREE, merging))
    one = groups[ONE][0]
    before = {"rise": _rise(results, groups[merging]), "gain_of_mean": _gain_of_mean(groups[merging])}
    if rivals := [name for name in RIVALS if name in groups]:
        rival = max(rivals, key=lambda name: np.mean([row["validation_last"] for row in groups[name]]))
        ahead = _differences(groups, merging, rival)
        before |= {"rival": rival, "ahead": ahead.mean(), "ahead_error": _error(ahead)}
    if RESTART in groups:
        restarted = _differences(groups, merging, RESTART)
        before |= {"restarted": restarted.mean(), "restarted_error": _error(restarted)}
    cell = (one["suite"], results.folder.name, one["epochs"], one["examples"], len(y), merging)
    return Cell(*cell, x.mean(), _error(x), y.mean(), _error(y), **before)


def _rise(results: Results, rows: Sequence[Row]) -> float | None:
    """Over all teachers of these runs; None where their epochs were not kept."""
    rises = []
    for row in rows:
        epochs = [epoch for epoch in results.history.get(row["run"], ()) if str(epoch["phase"]).startswith("teacher")]
        curves = [[epoch["val_metric"] for epoch in phase] for phase in grouped(epochs, "phase").values()]
        rises += [100 * rise_per_doubling(curve) for curve in curves if len(curve) >= FEWEST_EPOCHS]
    return float(np.mean(rises)) if rises else None


def _gain_of_mean(rows: Sequence[Row]) -> float | None:
    known = [row["extras"] for row in rows if "validation_ensemble" in (row["extras"] or {})]
    gains = [100 * (extras["validation_ensemble"] - np.mean(extras["validation_teachers"])) for extras in known]
    return float(np.mean(gains)) if gains else None


def _differences(groups: Mapping[str, Sequence[Row]], first: str, second: str, parity: int | None = None) -> np.ndarray:
    """Differences of test results in points over the common seeds, sorted; of every other one where a parity is given."""
    values = [{row["seed"]: row["test_last"] for row in groups[name]} for name in (first, second)]
    seeds = sorted(values[0].keys() & values[1].keys())
    chosen = seeds if parity is None else seeds[parity::2]
    return np.array([100 * (values[0][seed] - values[1][seed]) for seed in chosen])


def _from_disjoint_seeds(groups: Mapping[str, Sequence[Row]], merging: str) -> tuple[float, float] | None:
    x, y = (_differences(groups, name, ONE, parity) for parity, name in enumerate((THREE, merging)))
    enough = len(x) + len(y) >= _FEWEST_FOR_HALVES
    return (float(x.mean()), float(y.mean())) if enough else None


def _error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def published_cells() -> Iterator[Cell]:
    """The papers' tables that suites quote, where they have all three means of an accuracy or another share."""
    for name in SUITES:
        suite = load_suite(name)
        if not METRICS[suite.metric].is_share:
            continue
        found = {table["strategy"]: table for table in suite.published if "mean" in table}
        if {"l0_merge", ONE, THREE} <= found.keys():
            merging, one, three = (found[key] for key in ("l0_merge", ONE, THREE))
            x, y = (100 * (table["mean"] - one["mean"]) for table in (three, merging))
            epochs, n = suite.definition["epochs"]["single"], merging.get("n")
            yield Cell(name, merging["source"], epochs, None, n, "l0_merge", x, None, y, None)


def line_through(points: Sequence[tuple[float, float]]) -> Line:
    """The line of least squares.

    Args:
        points: at least three pairs of x and y.
    """
    from scipy.stats import linregress, t

    x, y = np.array(points, "float64").T
    fit = linregress(x, y)
    width = t.ppf(0.975, len(x) - 2)
    ends = [
        (float(value), float(value - width * error), float(value + width * error))
        for value, error in ((fit.intercept, fit.intercept_stderr), (fit.slope, fit.stderr))
    ]
    residual = math.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / (len(x) - 2))
    of_x = (float(x.mean()), float(((x - x.mean()) ** 2).sum()))
    return Line(len(x), *ends[0], *ends[1], residual, float(fit.rvalue), *of_x, float(width))


@in_style
def _draw(folder: Path, cells: Sequence[Cell], line: Line) -> None:
    """The cells with their standard errors, and the line."""
    figure = new_figure(figsize=(7.5, 5))
    axes = figure.subplots()
    for index, (name, group) in enumerate(grouped(map(asdict, cells), "name").items()):
        x, y, x_error, y_error = ([cell[key] or 0.0 for cell in group] for key in ("x", "y", "x_error", "y_error"))
        hollow = {} if group[0]["x_error"] is not None else {"markerfacecolor": "none"}
        axes.errorbar(x, y, y_error, x_error, label=name, linestyle="none", capsize=2, **point_style(index), **hollow)
    ends = np.array([min(cell.x for cell in cells), max(cell.x for cell in cells)])
    axes.plot(ends, line.intercept + line.slope * ends, color="#7f7f7f", zorder=0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("best of three - one network, three times as long (points of test accuracy)")
    axes.set_ylabel("merging - one network (points)")
    slope = f"slope {line.slope:.2f} (95 % interval {line.slope_low:.2f} to {line.slope_high:.2f})"
    axes.set_title(f"{line.cells} cells: {slope}, r = {line.r:.2f}", fontsize="medium", loc="left")
    figure.legend(loc="outside right upper", fontsize="small")
    for kind, content in files_of(figure).items():
        write_atomically(folder / f"law.{kind}", content)


if __name__ == "__main__":
    sys.exit(main())
