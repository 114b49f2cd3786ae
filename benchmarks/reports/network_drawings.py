"""Drawings of what networks are, from files that runs left: the functions that they compute, and their first filters."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.data.datasets import sine_of
from benchmarks.records.results import Row, is_number
from benchmarks.records.store import read_json
from benchmarks.reports.style import look_of, name_of
from benchmarks.reports.summaries import grouped, writer
from benchmarks.suites.suite import SUITES, load_suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a file that a run left: points of a function; side, filters and parents of a kernel; and the most of a figure of them.
_MOST_POINTS, _MOST_SIDE, _MOST_FILTERS, _MOST_PARENTS = 100_000, 32, 1024, 8
_MOST_BYTES, _MOST_LINES, _MOST_IN_A_LINE = 5_000_000, 32, 64


def read_left(path: Path, read: Callable[[Any], Any], problems: list[str]) -> Any:
    """What a file that a run left says.

    Args:
        path: of the file.
        read: `function_in` or `filters_in`.
        problems: gains a sentence about a file that cannot be drawn.

    Returns:
        What `read` makes of it; None where there is no file, or none that can be drawn.
    """
    if not path.exists():
        return None
    try:
        found = read(read_json(path, _MOST_BYTES))
    except (KeyError, TypeError, ValueError, OverflowError):
        found = None
    if found is None:
        problems.append(f"{path} cannot be drawn, and is left out: its content is not what a run leaves.")
    return found


def function_in(content: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The function of one variable that a network is: points, and the outputs there."""
    x, y = (np.asarray(content[name], "float64") for name in ("x", "y"))
    is_right = x.ndim == 1 and x.shape == y.shape and 0 < len(x) <= _MOST_POINTS
    return (x, y) if is_right and all(map(is_number, [*x.tolist(), *y.tolist()])) else None


def filters_in(content: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The first kernel of a merged network, `(height, width, channels, filters)`, and the parent of each filter."""
    kernel, parents = np.asarray(content["kernel"], "float64"), np.asarray(content["parents"], "int64")
    is_right = kernel.ndim == 4 and kernel.shape[2] in (1, 3) and parents.shape == kernel.shape[3:] and kernel.size
    is_small = max(kernel.shape[:2], default=0) <= _MOST_SIDE and parents.size <= _MOST_FILTERS
    if not (is_right and is_small and len(np.unique(parents)) <= _MOST_PARENTS):
        return None
    return (kernel, parents) if all(map(is_number, kernel.ravel().tolist())) else None


def draw_functions(functions: Mapping, figure: "Figure", rows: Sequence[Row]) -> bool:
    """A panel for each strategy with the functions of all its runs, over the one to be learned where that is known."""
    groups = {name: [row for row in group if functions[row["run"]]] for name, group in grouped(rows, "strategy").items()}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        return False
    columns = 1 + (len(groups) > 3)
    lines = -(-len(groups) // columns)
    figure.set_size_inches(8, 1.7 * lines + 0.6)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    is_sine = rows[0]["suite"] in SUITES and load_suite(rows[0]["suite"]).dataset == "sine"
    write = writer(rows[0]["metric"])
    for axes, (name, group) in zip(panels.flat, groups.items(), strict=False):
        for row in group:
            axes.plot(*functions[row["run"]], color=look_of(name).colour, alpha=0.35, linewidth=0.8)
        if is_sine:
            x = functions[group[0]["run"]][0]
            axes.plot(x, sine_of(x), color="black", linestyle=":", linewidth=1.0, label="the function to learn")
        middle = write(float(np.median([row["test_last"] for row in group])))
        axes.set_title(f"{name_of(name)}: median {rows[0]['metric']} {middle}, n = {len(group)}", fontsize=8)
    if is_sine:
        figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower right")
    return True


def draw_filters(filters: Mapping, figure: "Figure", rows: Sequence[Row]) -> bool:
    """A row of filters per strategy and parent, from its first seed; grey, or the middle of a colour, is zero."""
    lines: list[tuple[str, np.ndarray]] = []
    for name, group in grouped(rows, "strategy").items():
        row = min(group, key=lambda row: row["seed"])
        kernel, parents = filters[row["run"]]
        kernel = 0.5 + 0.5 * kernel / (np.abs(kernel).max() or 1.0)
        found = [(p, kernel[..., parents == p][..., :_MOST_IN_A_LINE]) for p in np.unique(parents)]
        lines += [(f"{name_of(name)}, parent {p + 1}", of_it) for p, of_it in found]
    lines = lines[:_MOST_LINES]
    if not lines:
        return False
    most = max(kernel.shape[3] for _, kernel in lines)
    figure.set_size_inches(max(7, 2 + 0.4 * most), 0.6 * len(lines) + 0.4)
    panels = figure.subplots(len(lines), most, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for line, (label, kernel) in zip(panels, lines, strict=True):
        line[0].text(-0.3, 0.5, label, fontsize="small", ha="right", va="center", transform=line[0].transAxes)
        for axes, number in zip(line, range(kernel.shape[3]), strict=False):
            image = kernel[..., number]
            axes.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
    return True
