"""Figures of auto-sizing: how the sizes that a network finds depend on what it is given.

    python -m benchmarks.studies.sizing_figures --suite das_puzzle             # all three
    python -m benchmarks.studies.sizing_figures starts --suite das_cifar100 --strategy auto_sizing_paper --data-dir DATA

- `alpha`: sizes of the layers for several strengths of the penalty; figure 1 of Cahlik, Kordik and Cepek, "Adapting the
  size of artificial neural networks using dynamic auto-sizing".
- `starts`: sizes over the epochs for several sizes at the start; their figure 2.
- `drift`: a task that becomes harder and then easy again, which the paper only speaks of. Images: the first classes, all of
  them, and the first again. Puzzles: boards near the goal, all, and those near again. The easy examples are repeated,
  so that all epochs have as many steps.

Each writes a CSV with every number drawn, a PNG and a PDF. `--strategy` says what sizes the networks: `auto_sizing` carries
Adam's state, `auto_sizing_paper` restarts it, as the paper does. Nothing is fine-tuned: all epochs are dynamic, as in the
paper's figures. Trainings are kept in the output folder: the same command again trains what is missing and draws.
Validation data is watched, test data is not touched.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command_line import (
    DATA_MISSING,
    DONE,
    UsageError,
    command_parser,
    ended,
    positive_number,
    positive_whole_number,
    seeds_of,
)
from benchmarks.data.cache import DataMissingError
from benchmarks.files import write_atomically
from benchmarks.records.tables import write_csv
from benchmarks.reports.style import files_of, in_style, new_figure
from benchmarks.runs.stages import StageCache
from benchmarks.strategies.registry import SIZING, STRATEGIES
from benchmarks.suites.suite import Suite, load_suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from baselines.protocol.strategy import TrainingRecord
    from baselines.protocol.task import Data, Task
    from baselines.sizing.auto_sizing import AutoSizing

FIGURES = ("alpha", "starts", "drift")
COLUMNS = (
    *("figure", "suite", "strategy", "examples", "seed", "value"),
    *("epoch", "space", "trained", "units", "val_metric", "loss"),
)
# Of the suite's alpha; about the puzzle's, the four of the paper's figure.
ALPHA_FACTORS = (0.1, 1.0, 10.0, 100.0)
STARTS = (25, 50, 100, 150)
_PARTS = ("easy", "hard", "easy again")
_EASY_CLASSES, _EASY_DISTANCE = 0.3, 0.5

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sizing:
    """Trains networks that find their sizes, and keeps them.

    Attributes:
        suite: with a table [sizing].
        how: what sizes the networks.
        epochs: dynamic ones, of each training and of each part of a drift.
        examples: for training; None for all.
        data_dir, cache_dir: as for `benchmarks.run`.
        folder: where trainings are kept.
    """

    suite: Suite
    how: "AutoSizing"
    epochs: int
    examples: int | None
    data_dir: Path | None
    cache_dir: Path
    folder: Path

    def task(self, seed: int, alpha: float | None = None, start: int | None = None) -> "Task":
        """The suite's task, with another strength of the penalty or other widths at the start."""
        definition, sizing = dict(self.suite.definition), dict(self.suite.sizing)
        if alpha is not None:
            sizing["alphas"] = {**sizing["alphas"], "weighted_l1": alpha}
        if start is not None:
            architecture = definition["architecture"]
            if "hidden" not in architecture:
                raise SystemExit(f"{architecture['name']} of suite {self.suite.name} has no widths `hidden` to start from.")
            widths = [start] * len(architecture["hidden"])
            definition["architecture"] = {**architecture, "hidden": widths}
        suite = replace(self.suite, definition=definition, sizing=sizing)
        return suite.task(seed, self.data_dir, self.cache_dir, examples=self.examples)

    def train(self, parts: "Sequence[Task]", seed: int) -> "TrainingRecord":
        """A network that sizes itself on tasks of one network, one after the other; its epochs are numbered through."""
        from baselines.protocol.task import Budget
        from baselines.sizing.auto_sizing import SizedNetwork
        from kmerge.seeds import seed_of

        how, budget = replace(self.how, finetune=False), Budget(0, 0, 0, self.epochs)
        stages = StageCache(self.folder / "stages")
        seeds = [seed_of("figure", seed, number) for number in range(len(parts))]

        def train(network: SizedNetwork) -> "TrainingRecord":
            records = [how.train(network, task, budget, s, stages) for task, s in zip(parts, seeds, strict=True)]
            rows = [row for record in records for row in record.rows]
            seconds, flops = (sum(getattr(record, name) for record in records) for name in ("seconds", "flops"))
            return replace(records[-1], rows=rows, seconds=seconds, flops=flops)

        keys = [how.key(task, budget, s) for task, s in zip(parts, seeds, strict=True)]
        key = {"stage": "figure", "parts": keys, "validation": [len(task.data.x_val) for task in parts]}
        build = parts[0].build
        return stages.run(key, lambda: SizedNetwork(build(seed_of("figure", seed))), train)[1]

    def rows(self, figure: str, seed: int, value: object, record: "TrainingRecord") -> Iterator[Row]:
        """What is drawn of a training: for each epoch and space its units."""
        about = {"suite": self.suite.name, "strategy": self.how.name, "examples": self.examples}
        head = {"figure": figure, **about, "seed": seed, "value": value}
        for epoch, row in enumerate(record.rows, 1):
            tail = {name: row[name] for name in ("val_metric", "loss")}
            for space, units in row["sizes"].items():
                yield {**head, "epoch": epoch, "space": space, "trained": row["trained_sizes"][space], "units": units, **tail}


def sizing_strategy(name: str) -> "AutoSizing":
    """A strategy that changes the widths of a suite's network as it trains.

    Args:
        name: of the strategy.

    Raises:
        UsageError: if it is none of those.
    """
    from baselines.sizing.auto_sizing import AutoSizing

    sizing = {key: of for key in sorted(SIZING) if isinstance(of := STRATEGIES[key], AutoSizing)}
    ours = {key: of for key, of in sizing.items() if of.start == "network" and not of.paper_net}
    if name not in ours:
        raise UsageError(f"--strategy: expected one that sizes the suite's network, of {', '.join(ours)}, received {name!r}.")
    return ours[name]


def easy_part(data: "Data", metric: str) -> "Data":
    """The easier part of a task, with as many training examples, repeated.

    Args:
        data: all of it.
        metric: "accuracy", whose labels are classes: three tenths of them, the first, are the easier task, but at least
            two; or "mse", with distances from a goal: the nearer half is.

    Returns:
        Those examples of the training and of the validation part; no test part.
    """
    import numpy as np

    top = float(np.max(data.y_train))
    limit = max(1, round(_EASY_CLASSES * (top + 1)) - 1) if metric == "accuracy" else _EASY_DISTANCE * top
    train, val = (np.flatnonzero(np.ravel(y) <= limit) for y in (data.y_train, data.y_val))
    train = np.resize(train, len(data.y_train))
    return replace(
        data,
        x_train=data.x_train[train],
        y_train=data.y_train[train],
        x_val=data.x_val[val],
        y_val=data.y_val[val],
        x_test=None,
        y_test=None,
    )


def measure(figure: str, sizing: Sizing, seeds: Sequence[int], values: Sequence[float]) -> list[Row]:
    """Trains what a figure shows.

    Args:
        figure: one of `FIGURES`.
        sizing: what trains.
        seeds: of the trainings.
        values: alphas or widths at the start; for "drift" not used.

    Returns:
        The rows of its CSV.
    """
    rows: list[Row] = []
    for seed in seeds:
        if figure == "drift":
            task = sizing.task(seed)
            easy = replace(task, data=easy_part(task.data, task.metric))
            rows += sizing.rows(figure, seed, "drift", sizing.train([easy, task, easy], seed))
        for value in values if figure != "drift" else ():
            task = sizing.task(seed, **{{"alpha": "alpha", "starts": "start"}[figure]: value})
            rows += sizing.rows(figure, seed, value, sizing.train([task], seed))
            print(f"{figure} {value:g}, seed {seed}: {_last(rows)}", flush=True)
    return rows


def _last(rows: Sequence[Row]) -> dict[str, int]:
    names = list(dict.fromkeys(row["space"] for row in rows))
    return {row["space"]: row["units"] for row in rows[-len(names) :]}


@in_style
def draw(figure: str, rows: Sequence[Row], epochs: int, metric: str) -> "dict[str, bytes]":
    """Draws a figure.

    Args:
        figure: one of `FIGURES`.
        rows: of its CSV.
        epochs: of each part of a drift.
        metric: of the validation data.

    Returns:
        The content of the file by its ending, "png" and "pdf".
    """
    drawing = new_figure(figsize=(7, 4))
    seeds = sorted({row["seed"] for row in rows})
    axes = drawing.subplots()
    {"alpha": _draw_alpha, "starts": _draw_starts, "drift": _draw_drift}[figure](axes, rows, epochs, metric)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.set_title(f"{rows[0]['suite']}, {rows[0]['strategy']}, n = {len(seeds)}", fontsize="medium", pad=18)
    return files_of(drawing)


def _draw_alpha(axes: "Axes", rows: Sequence[Row], epochs: int, metric: str) -> None:
    spaces = list(dict.fromkeys(row["space"] for row in rows))
    last = max(row["epoch"] for row in rows)
    for number, value in enumerate(_unique(rows, "value")):
        for seed in _unique(rows, "seed"):
            found = {r["space"]: r["units"] for r in rows if (r["value"], r["seed"], r["epoch"]) == (value, seed, last)}
            label = f"alpha = {value:g}" if seed == _unique(rows, "seed")[0] else None
            axes.plot(spaces, [found[space] for space in spaces], "o-", color=f"C{number}", alpha=0.7, label=label)
    axes.set_ylabel(f"units after {last} epochs")
    axes.tick_params(axis="x", labelrotation=30 if len(spaces) > 5 else 0)


def _draw_starts(axes: "Axes", rows: Sequence[Row], epochs: int, metric: str) -> None:
    """The last convolution, as in the paper, or else the last hidden layer."""
    spaces = _unique(rows, "space")
    space = next((name for name in reversed(spaces) if "conv" in name), spaces[-1])
    for number, value in enumerate(_unique(rows, "value")):
        for seed in _unique(rows, "seed"):
            of = [r for r in rows if (r["space"], r["value"], r["seed"]) == (space, value, seed)]
            label = f"{value:g} at the start" if seed == _unique(rows, "seed")[0] else None
            units = [value, *(r["units"] for r in of)]
            axes.plot(range(len(units)), units, color=f"C{number}", alpha=0.7, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"units of {space}")


def _draw_drift(axes: "Axes", rows: Sequence[Row], epochs: int, metric: str) -> None:
    for number, space in enumerate(_unique(rows, "space")):
        for seed in _unique(rows, "seed"):
            of = [r for r in rows if (r["space"], r["seed"]) == (space, seed)]
            label = space if seed == _unique(rows, "seed")[0] else None
            axes.plot([r["epoch"] for r in of], [r["units"] for r in of], color=f"C{number}", alpha=0.7, label=label)
    for number, part in enumerate(_PARTS):
        if number:
            axes.axvline(number * epochs + 0.5, color="black", linewidth=0.8)
        axes.text((number + 0.5) / len(_PARTS), 1.0, part, transform=axes.transAxes, ha="center", va="bottom")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, len(_PARTS) * epochs + 0.5)
    axes.set_ylabel("units")


def _unique(rows: Sequence[Row], name: str) -> list:
    return list(dict.fromkeys(row[name] for row in rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 3 where data is missing.

    Args:
        arguments: of the command line; None for the process' own.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        suite = load_suite(options.suite)
        how = sizing_strategy(options.strategy)
        suite.settings_of(options.strategy)
        seeds = seeds_of(options.seeds, suite.seeds)
    except (UsageError, ValueError) as error:
        return ended(parser, error)
    values = {
        "alpha": options.alphas or [factor * suite.sizing["alphas"]["weighted_l1"] for factor in ALPHA_FACTORS],
        "starts": options.starts,
        "drift": [],
    }
    epochs = options.epochs or round(suite.budget().single * suite.sizing["dynamic"])
    folder = options.out / suite.name
    sizing = Sizing(suite, how, epochs, options.examples, options.data_dir, options.cache_dir, folder)
    try:
        for figure in options.figures or FIGURES:
            rows = measure(figure, sizing, seeds, values[figure])
            write_csv(folder / f"{figure}.csv", COLUMNS, rows)
            for kind, content in draw(figure, rows, epochs, suite.metric).items():
                write_atomically(folder / f"{figure}.{kind}", content)
            print(f"{folder / figure}.csv, .png and .pdf: {len(rows)} rows")
    except DataMissingError as error:
        return ended(parser, error, DATA_MISSING)
    return DONE


def _parser() -> argparse.ArgumentParser:
    shared = ("--suite", "--seeds", "--examples", "--data-dir", "--cache-dir", "--out")
    parser = command_parser(__file__, __doc__, *shared, required=["--suite"], seeds="1", out=Path("results/sizing"))
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)} (default: all)")
    parser.add_argument(
        "--strategy", default="auto_sizing", metavar="S", help="what sizes the networks (default: %(default)s)"
    )
    parser.add_argument(
        "--alphas", type=positive_number, nargs="+", help="(default: .1, 1, 10 and 100 times the suite's)"
    )
    parser.add_argument(
        "--starts", type=positive_whole_number, nargs="+", default=list(STARTS), help="widths (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=positive_whole_number, help="dynamic epochs of a training (default: the suite's)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
