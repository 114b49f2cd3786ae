"""Shows how far a launch is: a live view on a terminal, plain lines elsewhere."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from benchmarks.runs.estimating import Estimate
from benchmarks.runs.executors import Event


class Progress(Protocol):
    """Is called for every event."""

    def show(self, event: Event) -> None:
        """Show what happened."""


class _Lines:
    """One line per finished run."""

    def __init__(self, total: int, estimate: Estimate) -> None:
        self.total = total
        self.finished = 0
        self.estimate = estimate

    def show(self, event: Event) -> None:
        if (line := self.line(event)) is not None:
            print(line, flush=True)

    def line(self, event: Event) -> str | None:
        """What people have to know of an event, if anything; counts the run, if it ended."""
        if event.kind not in ("done", "failed"):
            return _note(event)
        self.finished += 1
        self.estimate.end(event.run, event.detail if event.kind == "done" else None)
        width = len(str(self.total))
        left = self.total - self.finished
        ending = f", {self.time_left()}" if left else ""
        return f"[{self.finished:{width}}/{self.total}] {_ending(event)}{ending}"

    def time_left(self) -> str:
        """For people."""
        return f"{duration(self.estimate.seconds_left())} left"


class _Live(_Lines):
    """A bar over all runs and a line per running one, kept at the foot of the terminal."""

    def __init__(self, total: int, estimate: Estimate, view: Any) -> None:
        super().__init__(total, estimate)
        self.view = view
        self.bar = view.add_task("runs", total=total, note="")
        self.tasks: dict[Any, Any] = {}

    def show(self, event: Event) -> None:
        if event.kind == "start":
            if event.run.path in self.tasks:  # on a machine that died
                self.view.remove_task(self.tasks.pop(event.run.path))
            self.tasks[event.run.path] = self.view.add_task(event.run.name, total=None, note="starts")
        elif event.kind in ("epoch", "waits") and event.run.path in self.tasks:
            note = _epoch(event.detail) if event.kind == "epoch" else "waits for a network that another run trains"
            self.view.update(self.tasks[event.run.path], note=note)
        elif event.kind in ("retry", "done", "failed") and event.run.path in self.tasks:
            self.view.remove_task(self.tasks.pop(event.run.path))
        if (line := self.line(event)) is not None:
            self.view.console.print(line, highlight=False, markup=False)
        if event.kind in ("done", "failed"):
            left = self.time_left() if self.finished < self.total else ""
            self.view.update(self.bar, completed=self.finished, note=left)


@contextlib.contextmanager
def progress(total: int, estimate: Estimate) -> Iterator[Progress]:
    """The display for a launch of `total` runs: live if the output is a terminal."""
    if not sys.stdout.isatty():
        yield _Lines(total, estimate)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as View

    note = TextColumn("{task.fields[note]}")
    with View(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), note) as view:
        yield _Live(total, estimate, view)


def duration(seconds: float) -> str:
    """A time for people: "41 s", "12 min", "3.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def _note(event: Event) -> str | None:
    """What people have to know of an event that ends no run."""
    name, detail = event.run.name, event.detail
    if event.kind == "retry":
        return f"again {name}: {detail['error']}"
    if event.kind == "queues":
        return f"{name} waits: {detail['holder']} does this run"
    if event.kind == "waits" and detail.get("seconds"):
        return f"{name} waits since {duration(detail['seconds'])} for a network that {detail['holder']} trains"
    return detail["text"] if event.kind == "damaged" else None


def _ending(event: Event) -> str:
    if event.kind == "failed":
        return f"FAILED {event.run.name}: {event.detail.get('error')}"
    row = event.detail
    return f"done {event.run.name}: test {row['metric']} {row['test_last']:.4g}, {duration(row['wall_seconds'])}"


def _epoch(row: dict[str, Any]) -> str:
    numbers = [f"{name} {row[name]:.4g}" for name in ("loss", "val_metric") if isinstance(row.get(name), (int, float))]
    return ", ".join([f"{row.get('phase', '')} epoch {row.get('epoch', '?')}", *numbers])
