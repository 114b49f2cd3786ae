"""Figures of a protocol, each as vector PDF and as PNG: results, curves, gates, and what accuracy costs.

Nothing is drawn where matplotlib is not installed.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.protocol.metrics import METRICS
from benchmarks.command_line import shown
from benchmarks.files import own_folder, write_atomically
from benchmarks.records.results import Row, is_number
from benchmarks.records.store import FILTERS, FUNCTION, PICTURES
from benchmarks.reports.learning_curves import History, draw_curves, draw_gates
from benchmarks.reports.network_drawings import draw_filters, draw_functions, filters_in, function_in, read_left
from benchmarks.reports.pictures import draw_pictures, pictures_from
from benchmarks.reports.statistics import bootstrap_interval, is_bimodal
from benchmarks.reports.style import files_of, in_style, logarithmic, look_of, name_of, new_figure, plain
from benchmarks.reports.summaries import done, grouped, protocol_text, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More curves in one figure cannot be told apart.
_MOST_CURVES = 8
# Costs, and values of a metric without a unit, that differ by this factor are shown on a logarithmic axis.
_WIDE = 10
_COSTS = {"parameters": "parameters at inference", "teacher_epoch_equivalents": "compute (teacher-epoch equivalents)"}


def can_draw() -> bool:
    """Whether what draws is installed."""
    return importlib.util.find_spec("matplotlib") is not None


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
    if not finished or not can_draw():
        return {}
    own_folder(folder / "figures")
    epochs = {row["run"]: history.get(row["run"], ()) for row in finished}
    functions = {row["run"]: read_left(folder / "runs" / row["run"] / FUNCTION, function_in, problems) for row in finished}
    filters = {row["run"]: read_left(folder / "runs" / row["run"] / FILTERS, filters_in, problems) for row in finished}
    pictures = {row["run"]: read_left(folder / "runs" / row["run"] / PICTURES, pictures_from, problems) for row in finished}
    pictured = [row for row in finished if pictures[row["run"]] is not None]
    filtered = [row for row in finished if filters[row["run"]] is not None]
    gated = [row for row in finished if any(epoch.get("phase") == "gates" for epoch in epochs[row["run"]])]
    results = "Test results of the last epoch"
    drawings = {
        "boxplot": (f"{results}: a point per seed, quartiles, and means with 95 % intervals", finished, _box_plot),
        "distributions": (f"{results}: the share of seeds that are as good or better", *_few(finished, _distributions)),
        "curves": (
            "Validation results over all epochs of a run: mean and 95 % interval over the seeds",
            *_few(finished, draw_curves, epochs),
        ),
        "gates": (
            "The gates over their phase: mean and 95 % interval over the seeds",
            *_few(gated, draw_gates, epochs),
        ),
        "functions": ("What the networks compute: a line per seed", *_few(finished, draw_functions, functions)),
        "filters": ("First filters by parent, of each strategy's first seed", *_few(filtered, draw_filters, filters)),
        "parameters": (f"{results} against parameters: means with 95 % intervals", finished, partial(_against, "parameters")),
        "compute": (
            f"{results} against compute: means with 95 % intervals",
            finished,
            partial(_against, "teacher_epoch_equivalents"),
        ),
        "pictures": (
            "Test images, labels, and what networks say before and after, of each strategy's first seed",
            *_few(pictured, draw_pictures, pictures),
        ),
    }
    captions = {}
    for kind, (caption, drawn, draw) in drawings.items():
        candidates = {"gates": gated, "filters": filtered, "pictures": pictured}.get(kind, finished)
        left_out = len(grouped(candidates, "strategy")) - len(grouped(drawn, "strategy"))
        caption += f"; {left_out} more strategies are left out" if left_out and drawn else ""
        path = f"figures/{kind}-{name}"
        if drawn and draw_files(folder / path, draw, drawn, (caption, protocol_text(rows[0])), problems):
            captions[f"{path}.png"] = caption
    return captions


def _few(rows: Sequence[Row], draw, *data: Mapping) -> tuple[list[Row], partial]:
    names = list(grouped(rows, "strategy"))[:_MOST_CURVES]
    return [row for row in rows if row["strategy"] in names], partial(draw, *data)


@in_style
def draw_files(path: Path, draw: Callable[..., bool], data: Any, title: tuple[str, str], problems: list[str]) -> bool:
    """Have one figure drawn and written, as PNG and PDF.

    Args:
        path: of the files, without an ending.
        draw: of a figure and the data; returns False if that has nothing to show.
        data: what is drawn.
        title: what the figure shows, and of what.
        problems: gains a sentence if it cannot be drawn.

    Returns:
        Whether there is a figure.
    """
    figure = new_figure()
    try:
        if not draw(figure, data):
            return False
        _write_title(figure, *title)
        files = files_of(figure)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # Matplotlib's, of odd values
        problems.append(f"The figure {path.name} cannot be drawn: {shown(str(error))}")
        return False
    for kind, content in files.items():
        write_atomically(path.with_name(f"{path.name}.{kind}"), content)
    return True


def _write_title(figure, head: str, below: str) -> None:
    """Two lines above a figure: what it shows, and in small letters of what."""
    figure.suptitle(f"{plain(head)}\n", fontsize=10, x=0.01, horizontalalignment="left", linespacing=1.1)
    lower = 1 - 0.25 / figure.get_figheight()
    figure.text(0.01, lower, plain(below), fontsize=7, color="#555555", verticalalignment="top")


def _scale(metric: str) -> int:
    return 100 if unit(metric) else 1


def _value_axis(axes: "Axes", metric: str, values: Sequence[float], which: str) -> None:
    """Labels an axis, "x" or "y", of test results; without a unit it is logarithmic where they are wide apart."""
    getattr(axes, f"set_{which}label")(f"test {metric}{unit(metric)}")
    if not unit(metric) and min(values) > 0 and max(values) > _WIDE * min(values):
        logarithmic(getattr(axes, f"{which}axis"))


def _box_plot(figure, rows: Sequence[Row]) -> bool:
    groups = grouped(rows, "strategy")
    metric = rows[0]["metric"]
    figure.set_size_inches(7, 1.5 + 0.3 * len(groups))
    axes = figure.subplots()
    values = [np.array([_scale(metric) * row["test_last"] for row in group]) for group in groups.values()]
    labels = [f"{name_of(name)} (n = {len(group)})" for name, group in groups.items()]
    lines = {"color": "#555555", "linewidth": 0.8}
    axes.boxplot(
        values, orientation="horizontal", tick_labels=labels, showfliers=False, showcaps=False, widths=0.6,
        boxprops=lines, whiskerprops=lines, medianprops=lines | {"linewidth": 1.6},
    )  # fmt: skip
    for position, (name, group) in enumerate(zip(groups, values, strict=True), start=1):
        spread = 0.3 * (np.argsort(np.argsort(group)) % 5 - 2) / 2  # so that equal values lie beside each other
        axes.plot(group, position + spread, "o", color=look_of(name).colour, alpha=0.5, markersize=3.5, markeredgewidth=0)
        if len(group) > 1:
            low, high = bootstrap_interval(group, np.mean)
            around = [[max(0.0, group.mean() - low)], [max(0.0, high - group.mean())]]
            axes.errorbar(group.mean(), position, xerr=around, fmt="D", color="black", markersize=4, zorder=5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    _value_axis(axes, metric, np.concatenate(values), "x")
    return True


def _distributions(figure, rows: Sequence[Row]) -> bool:
    """Empirical distribution functions; only where some strategy's results fall in two heaps, which no box shows."""
    groups = {name: [row["test_last"] for row in group] for name, group in grouped(rows, "strategy").items()}
    if not any(map(is_bimodal, groups.values())):
        return False
    metric = rows[0]["metric"]
    figure.set_size_inches(8, 4)
    axes = figure.subplots()
    for name, group in groups.items():
        values = _scale(metric) * np.array(group)
        label = f"{name_of(name)} (n = {len(group)})"
        axes.ecdf(values, complementary=METRICS[metric].higher_is_better, label=label, **look_of(name).line)
    axes.set_ylabel("share of seeds")
    _value_axis(axes, metric, _scale(metric) * np.concatenate(list(groups.values())), "x")
    figure.legend(loc="outside right center")
    return True


def front_of(points: Mapping[str, tuple[float, float]], higher_is_better: bool) -> list[str]:
    """What no other one beats or equals in both.

    Args:
        points: by name, cost and result.
        higher_is_better: of the results; a lower cost is better.

    Returns:
        The names of the front, the cheapest one first.
    """
    sign = 1 if higher_is_better else -1
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -sign * points[name][1])):
        if not front or sign * points[name][1] > sign * points[front[-1]][1]:
            front.append(name)
    return front


def draw_front(axes: "Axes", points: Mapping[str, tuple[float, float]], higher_is_better: bool) -> None:
    """The steps along a front, behind its points."""
    x, y = zip(*(points[name] for name in front_of(points, higher_is_better)), strict=True)
    axes.step(x, y, where="post", color="#7f7f7f", linewidth=1, zorder=1, label="front: no other is cheaper and better")


def _against(cost: str, figure, rows: Sequence[Row]) -> bool:
    """Mean test results over a mean cost, a point per strategy with its 95 % interval, and the front; False where all cost
    the same."""
    metric = rows[0]["metric"]
    groups = {name: [row for row in group if is_number(row[cost])] for name, group in grouped(rows, "strategy").items()}
    groups = {name: group for name, group in groups.items() if group}
    if len({row[cost] for group in groups.values() for row in group}) < 2:
        return False
    figure.set_size_inches(8, max(4.0, 0.5 + 0.2 * len(groups)))
    axes = figure.subplots()
    points = {}
    for name, group in groups.items():
        values = _scale(metric) * np.array([row["test_last"] for row in group])
        points[name] = float(np.mean([row[cost] for row in group])), float(values.mean())
        low, high = bootstrap_interval(values, np.mean) if len(values) > 1 else (points[name][1],) * 2
        around = [[max(0.0, points[name][1] - low)], [max(0.0, high - points[name][1])]]
        axes.errorbar(*points[name], around, label=name_of(name), linestyle="none", elinewidth=0.8, **look_of(name).point)
    draw_front(axes, points, METRICS[metric].higher_is_better)
    axes.set_xlabel(_COSTS[cost])
    costs = [of_it for of_it, _ in points.values()]
    if min(costs) > 0 and max(costs) > _WIDE * min(costs):
        logarithmic(axes.xaxis)
    _value_axis(axes, metric, [value for _, value in points.values()], "y")
    figure.legend(loc="outside right center")
    return True
