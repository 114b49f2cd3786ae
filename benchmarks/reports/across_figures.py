"""Figures across suites: the matrix of differences, scores with intervals, performance profiles, and what scores cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.reports.across import Block, Column, Difference, Estimate, profiles
from benchmarks.reports.figures import draw_files, draw_front
from benchmarks.reports.style import look_of, name_of, plain
from benchmarks.reports.summaries import writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The most strategies of a matrix, and in how many columns they stand at least.
_MOST_ROWS, _FEWEST_COLUMNS = 24, 2
# Half-widths of an interval by which a mean is away from zero where its colour is full.
_FULL = 3.0


class Summary(NamedTuple):
    """A block of strategies with what sums it up."""

    block: Block
    means: Mapping[str, Estimate]
    improvements: Mapping[str, Estimate]


def write_across_figures(
    folder: Path,
    columns: Sequence[Column],
    matrix: Mapping[str, Mapping[str, Difference]],
    summary: Summary | None,
    reference: str,
    problems: list[str],
) -> dict[str, str]:
    """Draw what suites say together.

    Args:
        folder: for the files; it exists.
        columns: of the suites.
        matrix: of differences against the reference.
        summary: of a block; None where there is none.
        reference: the strategy.
        problems: gains a sentence about each figure that cannot be drawn.

    Returns:
        What each figure shows, by the name of its PNG file.
    """
    rows = [name for name, found in matrix.items() if len(found) >= _FEWEST_COLUMNS][:_MOST_ROWS]
    below = f"against {name_of(reference)}, paired by seed; positive is better; bold: the interval excludes 0"
    below += f"; {len(matrix) - len(rows)} more strategies stand in matrix.csv" if len(matrix) > len(rows) else ""
    drawings = {}
    if rows:
        head = "Mean differences in test results with 95 % intervals"
        drawings["matrix"] = (head, below, _draw_matrix, (columns, {name: matrix[name] for name in rows}))
    if summary is not None:
        block = summary.block
        error, number = f'the error of "{name_of(reference)}"', len(block.columns)
        where = f"score: the share of {error} that is gone; over {number} columns of the matrix"
        drawings["scores"] = ("Interquartile mean scores, and probability of improvement", where, _draw_scores, summary)
        drawings["profiles"] = ("Performance profiles: the share of runs with a higher score", where, _draw_profiles, block)
        drawings["front"] = ("Scores against compute", where, _draw_compute, summary)
    captions = {}
    for kind, (head, of_what, draw, data) in drawings.items():
        if draw_files(folder / kind, draw, data, (head, of_what), problems):
            captions[f"{kind}.png"] = head
    return captions


def _draw_matrix(figure: "Figure", data: tuple[Sequence[Column], Mapping[str, Mapping[str, Difference]]]) -> bool:
    columns, matrix = data
    columns = [column for column in columns if any(column.name in found for found in matrix.values())]
    figure.set_size_inches(2.5 + 0.85 * len(columns), 2.2 + 0.34 * len(matrix))
    axes = figure.subplots()
    colours = np.full((len(matrix), len(columns)), np.nan)
    for i, found in enumerate(matrix.values()):
        for j, column in enumerate(columns):
            if (d := found.get(column.name)) is None:
                continue
            half = (d.high - d.low) / 2
            colours[i, j] = 0 if not half > 0 else np.clip(d.mean / half, -_FULL, _FULL)
            weight = "bold" if d.sign in "+-" else "normal"
            text = cell_text(d, column, "\n").replace("-", "\N{MINUS SIGN}")  # as on axes
            axes.text(j, i, text, ha="center", va="center", fontsize=5.5, fontweight=weight)
    axes.imshow(colours, cmap="RdBu", vmin=-1.6 * _FULL, vmax=1.6 * _FULL, aspect="auto")
    axes.set_xticks(range(len(columns)), [plain(column.name.replace(", ", ",\n")) for column in columns])
    axes.tick_params(axis="x", labelrotation=90, labelsize=6.5)
    axes.set_yticks(range(len(matrix)), list(map(name_of, matrix)))
    axes.grid(visible=False)
    return True


def cell_text(d: Difference, column: Column, between: str) -> str:
    """A difference and its interval in the metric's unit."""
    write = writer(column.metric)
    sign = "+" if d.mean > 0 else ""
    return f"{sign}{write(d.mean)}{between}[{write(d.low)}, {write(d.high)}]"


def _draw_scores(figure: "Figure", summary: Summary) -> bool:
    order = sorted(summary.means, key=lambda name: summary.means[name].value)
    figure.set_size_inches(8, 1.4 + 0.3 * len(order))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, found, middle in ((left, summary.means, 0.0), (right, summary.improvements, 0.5)):
        axes.axvline(middle, color="#7f7f7f", linewidth=0.8)
        for position, name in enumerate(order):
            if name in found:
                e = found[name]
                around = [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]
                axes.errorbar(e.value, position, xerr=around, **look_of(name).point)
    left.set_yticks(range(len(order)), list(map(name_of, order)))
    left.set_ylim(-0.6, len(order) - 0.4)
    left.set_xlabel("interquartile mean score")
    right.set_xlabel(f"P(better than {name_of(summary.block.reference)})")
    return True


def _draw_profiles(figure: "Figure", block: Block) -> bool:
    figure.set_size_inches(8, 4)
    axes = figure.subplots()
    thresholds, found = profiles(block)
    for name, (share, low, high) in found.items():
        axes.plot(thresholds, share, label=name_of(name), **look_of(name).line)
        axes.fill_between(thresholds, low, high, color=look_of(name).colour, alpha=0.12, linewidth=0)
    axes.set_xlabel("score")
    axes.set_ylabel("share of runs above")
    figure.legend(loc="outside right center")
    return True


def _draw_compute(figure: "Figure", summary: Summary) -> bool:
    """A point per strategy, with the front of those that no other beats in both."""
    points = {name: (cost, summary.means[name].value) for name, cost in summary.block.compute.items()}
    if not points:
        return False
    figure.set_size_inches(8, 4)
    axes = figure.subplots()
    for name, point in points.items():
        e = summary.means[name]
        around = [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]
        axes.errorbar(*point, around, label=name_of(name), linestyle="none", elinewidth=0.8, **look_of(name).point)
    draw_front(axes, points, higher_is_better=True)
    axes.set_xlabel(f"compute, times that of {name_of(summary.block.reference)}")
    axes.set_ylabel("interquartile mean score")
    figure.legend(loc="outside right center")
    return True
