"""Curves over the epochs of runs: validation results with their phases, and the gates."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.records.results import Row, is_number
from benchmarks.reports.statistics import mean_intervals
from benchmarks.reports.style import SHARED, logarithmic, look_of, name_of
from benchmarks.reports.summaries import grouped, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[Row]]

# Of the epochs' rows: what it is, on which axis it lies, and what it says.
_GATES = {"gate_pressure": "pressure (lambda)", "gate_penalty": "penalty", "gate_undecided": "share of undecided gates"}
_PHASES = {"single": "training", "gates": "gates", "finetune": "fine-tuning"}
# The narrowest part of a bar that has room for a word.
_ROOM = 0.14


class Segment(NamedTuple):
    """One phase of a strategy: after how many epochs it begins, and by seed the values of its epochs."""

    phase: str
    start: int
    values: dict[int, list[float]]

    @property
    def length(self) -> int:
        """The epochs that all its runs have."""
        return min(map(len, self.values.values()))

    def first(self, epochs: int) -> np.ndarray:
        """The values of so many epochs from its beginning, shape `(runs, epochs)`."""
        return np.array([values[:epochs] for values in self.values.values()])

    def last(self, epochs: int) -> np.ndarray:
        """The values of so many epochs before its end, shape `(runs, epochs)`."""
        return np.array([values[-epochs:] for values in self.values.values()])


def segments(rows: Sequence[Row], epochs: History, column: str) -> list[Segment]:
    """The phases of a strategy's runs, in order; runs of other phases than the first one's are left out.

    Args:
        rows: of one strategy.
        epochs: by run, its epochs.
        column: what of them; it may be one of a row's `extras`.
    """
    runs: dict[int, dict[str, list[Row]]] = {}
    for row in rows:
        for epoch in epochs[row["run"]]:
            runs.setdefault(row["seed"], {}).setdefault(str(epoch.get("phase")), []).append(epoch)
    phases = list(next(iter(runs.values()), ()))
    runs = {seed: run for seed, run in runs.items() if list(run) == phases}
    found, start = [], 0
    for phase in phases:
        values = {seed: [_number(row, column) for row in run[phase]] for seed, run in runs.items()}
        found.append(Segment(phase, start, values))
        start += found[-1].length
    return found


def _number(row: Row, column: str) -> float:
    value = row.get(column)
    if value is None and isinstance(row.get("extras"), dict):
        value = row["extras"].get(column)
    return value if is_number(value) else np.nan


def draw_curves(epochs: History, figure: "Figure", rows: Sequence[Row]) -> bool:
    """Validation results over all epochs, their phases below, and the last epochs beside; False if none is known."""
    groups = {name: segments(group, epochs, "val_metric") for name, group in grouped(rows, "strategy").items()}
    known = {name: parts for name, parts in groups.items() if any(np.isfinite(p.first(p.length)).any() for p in parts)}
    if not known:
        return False
    height = 0.3 + 0.22 * len(known)
    figure.set_size_inches(9.5, 3.5 + height)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(3, height))
    whole, end = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[:, 1])
    bars = figure.add_subplot(grid[1, 0], sharex=whole)
    scale = 100 if unit(rows[0]["metric"]) else 1
    for axes in (whole, end) if scale == 1 else ():
        logarithmic(axes.yaxis)
    _whole_runs(whole, known, scale)
    _last_epochs(end, known, scale)
    _phase_bars(bars, known)
    whole.set_ylabel(f"validation {rows[0]['metric']}{unit(rows[0]['metric'])}")
    whole.tick_params(labelbottom=False)
    bars.set_xlabel("epoch, all phases in a row; grey: what several strategies share")
    end.set_xlabel("epochs before the end")
    return True


def shared_with(part: Segment, others: Mapping[str, Sequence[Segment]]) -> list[str]:
    """The strategies that have this very phase: the same epochs with the same values in all common seeds."""

    def is_same(other: Segment) -> bool:
        common = part.values.keys() & other.values.keys()
        same = all(part.values[seed] == other.values[seed] for seed in common)
        return bool(common) and same and (part.phase, part.start) == (other.phase, other.start)

    return [name for name, parts in others.items() if any(map(is_same, parts))]


def _whole_runs(axes: "Axes", known: Mapping[str, Sequence[Segment]], scale: float) -> None:
    """A line for each strategy, broken where a phase ends; what several share once, in grey."""
    drawn = set()
    for name, parts in known.items():
        for part in parts:
            sharing = shared_with(part, known)
            if len(sharing) < 2:
                _line(axes, part, scale, look_of(name).line)
            elif (mark := (part.phase, part.start, *sharing)) not in drawn:
                drawn.add(mark)
                _line(axes, part, scale, {"color": SHARED})


def _line(axes: "Axes", part: Segment, scale: float, how: dict, label: str | None = None, most: int | None = None) -> None:
    """The mean of a phase over its runs, and its 95 % interval; epochs that some run does not know are left out.

    With `most`, so many of its last epochs, counted from the end.
    """
    if most is None:
        values, numbers = scale * part.first(part.length), part.start + 1 + np.arange(part.length)
    else:
        values, numbers = scale * part.last(most), np.arange(1 - most, 1)
    known = np.isfinite(values).all(axis=0)
    if not known.any():
        return
    numbers, values = numbers[known], values[:, known]
    dot = {"marker": "."} if len(numbers) == 1 else {}  # else a single epoch would not be seen
    axes.plot(numbers, values.mean(axis=0), label=label, **how, **dot)
    if len(values) > 1:
        axes.fill_between(numbers, *mean_intervals(values), alpha=0.15, color=how["color"], linewidth=0)


def _last_epochs(axes: "Axes", known: Mapping[str, Sequence[Segment]], scale: float) -> None:
    """The end of the last phase, as long as the shortest one; the axis fits its second half, where the differences are."""
    length = min(parts[-1].length for parts in known.values())
    seen = []
    for name, parts in known.items():
        _line(axes, parts[-1], scale, look_of(name).line, most=length)
        means = scale * parts[-1].last(length // 2 + 1).mean(axis=0)
        seen += means[np.isfinite(means)].tolist()
    axes.set_title(f"the last {length} epochs")
    if seen and 0 < min(seen) < max(seen):
        room = (max(seen) / min(seen)) ** 0.3
        margin = 0.3 * (max(seen) - min(seen))
        is_linear = axes.get_yscale() == "linear"
        axes.set_ylim(*(min(seen) - margin, max(seen) + margin) if is_linear else (min(seen) / room, max(seen) * room))


def _phase_bars(axes: "Axes", known: Mapping[str, Sequence[Segment]]) -> None:
    """A bar for each strategy, which says how its line looks, and a part of it for each phase."""
    total = max(parts[-1].start + parts[-1].length for parts in known.values())
    for position, (name, parts) in enumerate(known.items()):
        for number, part in enumerate(parts):
            colour = look_of(name).colour if len(shared_with(part, known)) < 2 else SHARED
            axes.barh(position, part.length, left=part.start, height=0.7, color=colour, alpha=0.2 + 0.2 * (number % 2))
            if part.length > _ROOM * total:
                middle = part.start + part.length / 2
                axes.text(middle, position, phase_words(part.phase), ha="center", va="center", fontsize=6.5)
        axes.plot([0, parts[-1].start + parts[-1].length], [position + 0.42] * 2, **look_of(name).line)
    axes.set_yticks(range(len(known)), [f"{name_of(name)} (n = {len(parts[0].values)})" for name, parts in known.items()])
    axes.invert_yaxis()
    axes.grid(visible=False)


def phase_words(phase: str) -> str:
    """The name of a phase in words, teachers counted from 1.

    Example:
        >>> phase_words("teacher_0"), phase_words("finetune"), phase_words("gates_2")
        ('teacher 1', 'fine-tuning', 'gates 2')
    """
    kind, _, number = phase.partition("_")
    if kind == "teacher" and number.isdecimal():
        return f"teacher {int(number) + 1}"
    return " ".join([_PHASES.get(kind, kind), *filter(None, [number])])


def draw_gates(epochs: History, figure: "Figure", rows: Sequence[Row]) -> bool:
    """What drives the gates, and what they do, over the epochs of their phase; False if nothing is known."""
    figure.set_size_inches(8, 6.5)
    panels = figure.subplots(len(_GATES), 1, sharex=True)
    handles: dict = {}
    for axes, (column, text) in zip(panels, _GATES.items(), strict=True):
        for name, group in grouped(rows, "strategy").items():
            for part in segments(group, epochs, column):
                if part.phase == "gates":
                    _line(axes, part._replace(start=0), 1, look_of(name).line, f"{name_of(name)} (n = {len(group)})")
        axes.set_ylabel(text)
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[-1].set_xlabel("epoch of the gates' phase")
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    return bool(handles)
