"""Figures of a protocol, each as vector PDF and as PNG: results, curves, gates, and what accuracy costs.

Nothing is drawn where matplotlib is not installed.
"""

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.command_line import shown
from benchmarks.files import own_folder, write_atomically
from benchmarks.records.results import Row, is_number
from benchmarks.records.store import FILTERS, FUNCTION, read_json
from benchmarks.reports.summaries import done, grouped, protocol_text, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[Row]]

# Okabe and Ito's colours, which colour-blind readers can tell apart; beyond them, other dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
_DASHES = ("-", "--", ":", "-.")
# More curves in one figure cannot be told apart.
_MOST_CURVES = 8
# Of a file that a run left: points of a function; side, filters and parents of a kernel; and the most of a figure of them.
_MOST_POINTS, _MOST_SIDE, _MOST_FILTERS, _MOST_PARENTS = 100_000, 32, 1024, 8
_MOST_BYTES, _MOST_LINES, _MOST_IN_A_LINE = 5_000_000, 32, 64
# Of the epochs' rows: what it is, on which axis it lies, and what it says.
_GATES = {"gate_pressure": "pressure (lambda)", "gate_penalty": "penalty", "gate_undecided": "share of undecided gates"}


def write_figures(
    folder: Path, name: str, rows: Sequence[Row], history: History, problems: list[str]
) -> dict[str, str]:
    """Draw what the runs of one protocol have; curves of the first eight strategies, which the captions then say.

    Args:
        folder: of the suite; the files go into its `figures`.
        name: of the protocol: ends the names of the files.
        rows: of the protocol.
        history: by run, its epochs.
        problems: gains a sentence about each file and figure that cannot be drawn.

    Returns:
        What each figure shows, by the path of its PNG file, relative to the folder.
    """
    finished = done(rows)
    if not finished or importlib.util.find_spec("matplotlib") is None:
        return {}
    own_folder(folder / "figures")
    epochs = {row["run"]: history.get(row["run"], ()) for row in finished}
    functions = {row["run"]: _left(folder / "runs" / row["run"] / FUNCTION, _function, problems) for row in finished}
    filters = {row["run"]: _left(folder / "runs" / row["run"] / FILTERS, _filters, problems) for row in finished}
    filtered = [row for row in finished if filters[row["run"]] is not None]
    gated = [row for row in finished if any(epoch.get("phase") == "gates" for epoch in epochs[row["run"]])]
    drawings = {
        "boxplot": ("Test results of the last epoch, a point per seed", finished, _box_plot),
        "curves": (
            "Validation results over all epochs of a run: mean, and range over the seeds",
            *_few(finished, epochs, _curves),
        ),
        "gates": ("The gates over their phase, mean over the seeds", *_few(gated, epochs, _gates)),
        "functions": ("What the networks compute, a line per seed", *_few(finished, functions, _functions)),
        "filters": ("First filters by parent, of each strategy's first seed", *_few(filtered, filters, _first_filters)),
        "parameters": ("Test results against parameters at inference", finished, partial(_against, "parameters")),
        "compute": ("Test results against compute", finished, partial(_against, "teacher_epoch_equivalents")),
    }
    captions = {}
    for kind, (caption, drawn, draw) in drawings.items():
        path = f"figures/{kind}-{name}"
        if drawn and _draw(folder / path, draw, drawn, problems):
            left_out = len(grouped(finished if kind != "gates" else gated, "strategy")) - len(
                grouped(drawn, "strategy")
            )
            captions[f"{path}.png"] = caption + (f"; {left_out} more strategies are left out" if left_out else "")
    return captions


def _few(rows: Sequence[Row], data: Mapping, draw) -> tuple[list[Row], partial]:
    names = list(grouped(rows, "strategy"))[:_MOST_CURVES]
    return [row for row in rows if row["strategy"] in names], partial(draw, data)


def _left(path: Path, read: Callable[[Any], Any], problems: list[str]) -> Any:
    """What a file that a run left says, or None where there is none, or none that can be drawn, which is told."""
    if not path.exists():
        return None
    try:
        found = read(read_json(path, _MOST_BYTES))
    except (KeyError, TypeError, ValueError, OverflowError):
        found = None
    if found is None:
        problems.append(f"{path} cannot be drawn, and is left out: its content is not what a run leaves.")
    return found


def _function(content: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The function of one variable that a network is: points, and the outputs there."""
    x, y = (np.asarray(content[name], "float64") for name in ("x", "y"))
    is_right = x.ndim == 1 and x.shape == y.shape and 0 < len(x) <= _MOST_POINTS
    return (x, y) if is_right and all(map(is_number, [*x.tolist(), *y.tolist()])) else None


def _filters(content: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The first kernel of a merged network, `(height, width, channels, filters)`, and the parent of each filter."""
    kernel, parents = np.asarray(content["kernel"], "float64"), np.asarray(content["parents"], "int64")
    is_right = kernel.ndim == 4 and kernel.shape[2] in (1, 3) and parents.shape == kernel.shape[3:] and kernel.size
    is_small = max(kernel.shape[:2], default=0) <= _MOST_SIDE and parents.size <= _MOST_FILTERS
    if not (is_right and is_small and len(np.unique(parents)) <= _MOST_PARENTS):
        return None
    return (kernel, parents) if all(map(is_number, kernel.ravel().tolist())) else None


def new_figure(**options: Any) -> "Figure":
    """An empty figure that needs no display; options are those of Matplotlib's `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def files_of(figure: "Figure", dpi: int = 150) -> dict[str, bytes]:
    """The contents of a figure's files by their endings, "png" and "pdf". The same drawing gives the same files.

    Args:
        figure: the figure.
        dpi: dots an inch of the PNG.
    """
    files = {}
    for kind in ("png", "pdf"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=dpi, metadata={"CreationDate": None} if kind == "pdf" else None)
        files[kind] = content.getvalue()
    return files


def _draw(path: Path, draw, rows: Sequence[Row], problems: list[str]) -> bool:
    """Have one figure drawn and written; False if it has nothing to show, or cannot be drawn, which is told."""
    figure = new_figure()
    try:
        if not draw(figure, rows):
            return False
        figure.suptitle(_plain(protocol_text(rows[0])), fontsize="medium", x=0.02, horizontalalignment="left")
        files = files_of(figure)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # Matplotlib's, of odd values
        problems.append(f"The figure {path.name} cannot be drawn: {shown(str(error))}")
        return False
    for kind, content in files.items():
        write_atomically(path.with_name(f"{path.name}.{kind}"), content)
    return True


def _plain(name: str) -> str:
    """A name as figures show it: dollar signs would begin a formula."""
    return name.replace("$", r"\$")


def point_style(index: int) -> dict[str, str]:
    """Colour and marker of the points of a strategy or suite, by its number."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": "osD^vP"[index // len(COLOURS) % 6]}


def _style(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)]}


def _box_plot(figure, rows: Sequence[Row]) -> bool:
    groups = grouped(rows, "strategy")
    scale = 100 if unit(rows[0]["metric"]) else 1
    figure.set_size_inches(7, 1.5 + 0.3 * len(groups))
    axes = figure.subplots()
    values = [[scale * row["test_last"] for row in group] for group in groups.values()]
    labels = [f"{_plain(name)} (n = {len(group)})" for name, group in groups.items()]
    axes.boxplot(values, orientation="horizontal", tick_labels=labels, showfliers=False)
    for position, group in enumerate(values, start=1):
        axes.plot(group, [position] * len(group), "o", color=COLOURS[0], alpha=0.4, markersize=4)
    axes.invert_yaxis()
    axes.set_xlabel(f"test {rows[0]['metric']}{unit(rows[0]['metric'])}")
    axes.grid(axis="x", alpha=0.3)
    return True


def series(runs: Sequence[Sequence[Row]], column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of the runs' epochs, laid over each other.

    Args:
        runs: epochs of each run, in order.
        column: what of them; it may be one of a row's `extras`.

    Returns:
        The numbers of the epochs that all runs have, from 1, and the values, shape `(runs, epochs)`, NaN where a row has
        none.
    """
    length = min((len(epochs) for epochs in runs), default=0)
    values = [[_number(row, column) for row in epochs[:length]] for epochs in runs]
    return np.arange(1, length + 1), np.array(values, "float64").reshape(len(runs), length)


def _number(row: Row, column: str) -> float:
    value = row.get(column)
    if value is None and isinstance(row.get("extras"), dict):
        value = row["extras"].get(column)
    return value if is_number(value) else np.nan


def _curves(epochs: History, figure, rows: Sequence[Row]) -> bool:
    figure.set_size_inches(8, 4.5)
    axes = figure.subplots()
    scale = 100 if unit(rows[0]["metric"]) else 1
    if not _lines(axes, rows, epochs, "val_metric", scale, bands=True):
        return False
    axes.set_xlabel("epoch, all phases in a row")
    axes.set_ylabel(f"validation {rows[0]['metric']}{unit(rows[0]['metric'])}")
    if not unit(rows[0]["metric"]):
        axes.set_yscale("log")
    figure.legend(loc="outside right upper", fontsize="small")
    return True


def _lines(axes: "Axes", rows, epochs: History, column: str, scale: float = 1, bands: bool = False) -> bool:
    """A line for each strategy that has such a column; False if none has."""
    any_drawn = False
    for index, (name, group) in enumerate(grouped(rows, "strategy").items()):
        numbers, values = series([run for row in group if (run := epochs[row["run"]])], column)
        known = ~np.isnan(values).any(axis=0) if values.size else np.zeros(0, bool)
        if not known.any():
            continue
        numbers, values = numbers[known], scale * values[:, known]
        axes.plot(numbers, values.mean(axis=0), label=_plain(name), linewidth=1.2, **_style(index))
        if bands and len(values) > 1:
            axes.fill_between(numbers, values.min(axis=0), values.max(axis=0), alpha=0.12, color=_style(index)["color"])
        any_drawn = True
    axes.grid(alpha=0.3)
    return any_drawn


def _gates(epochs: History, figure, rows: Sequence[Row]) -> bool:
    figure.set_size_inches(8, 6.5)
    panels = figure.subplots(len(_GATES), 1, sharex=True)
    phases = {run: [row for row in history if row.get("phase") == "gates"] for run, history in epochs.items()}
    drawn = [_lines(axes, rows, phases, column) for axes, column in zip(panels, _GATES, strict=True)]
    for axes, text in zip(panels, _GATES.values(), strict=True):
        axes.set_ylabel(text, fontsize="small")
    panels[-1].set_xlabel("epoch of the gates' phase")
    if any(drawn):
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    return any(drawn)


def _functions(functions: Mapping, figure, rows: Sequence[Row]) -> bool:
    """A panel per strategy with the functions of all its runs."""
    groups = {name: [functions[row["run"]] for row in group] for name, group in grouped(rows, "strategy").items()}
    groups = {name: found for name, group in groups.items() if (found := [pair for pair in group if pair is not None])}
    if not groups:
        return False
    figure.set_size_inches(8, 1.9 * len(groups))
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for index, (axes, (name, group)) in enumerate(zip(panels, groups.items(), strict=True)):
        for x, y in group:
            axes.plot(x, y, color=COLOURS[index % len(COLOURS)], alpha=0.35, linewidth=0.8)
        axes.set_title(f"{_plain(name)} (n = {len(group)})", fontsize="small")
        axes.grid(alpha=0.3)
    return True


def _first_filters(filters: Mapping, figure, rows: Sequence[Row]) -> bool:
    """A row of filters per strategy and parent, from its first seed; grey, or the middle of a colour, is zero."""
    lines: list[tuple[str, np.ndarray]] = []
    for name, group in grouped(rows, "strategy").items():
        row = min(group, key=lambda row: row["seed"])
        kernel, parents = filters[row["run"]]
        kernel = 0.5 + 0.5 * kernel / (np.abs(kernel).max() or 1.0)
        found = [(p, kernel[..., parents == p][..., :_MOST_IN_A_LINE]) for p in np.unique(parents)]
        lines += [(f"{_plain(name)}, parent {p + 1}", of_it) for p, of_it in found]
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


def _against(cost: str, figure, rows: Sequence[Row]) -> bool:
    """Mean test results over a mean cost, a point per strategy with its range over the seeds."""
    scale = 100 if unit(rows[0]["metric"]) else 1
    groups = {name: [row for row in group if is_number(row[cost])] for name, group in grouped(rows, "strategy").items()}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        return False
    figure.set_size_inches(8, max(4.5, 0.5 + 0.2 * len(groups)))
    axes = figure.subplots()
    for index, (name, group) in enumerate(groups.items()):
        values = scale * np.array([row["test_last"] for row in group])
        costs = np.array([row[cost] for row in group])
        below, above = values.mean() - values.min(), values.max() - values.mean()
        axes.errorbar(costs.mean(), values.mean(), [[below], [above]], label=_plain(name), capsize=2, **point_style(index))
    axes.set_xlabel(cost.replace("_", " "))
    axes.set_ylabel(f"test {rows[0]['metric']}{unit(rows[0]['metric'])}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return True
