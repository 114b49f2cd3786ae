"""Curves of weight pruning: accuracy and parameters that are left, against the percentage of connections that goes.

    python -m benchmarks.studies.curves --suite digits --distilled
    python -m benchmarks.studies.curves --suite robots_resnet18 --network teacher --data-dir DATA

trains the suite's network with each seed (as the first of the teachers that strategies share), prunes each percentage of it
at random, class-uniform and class-blind, removes the units that this cuts off, and fine-tunes what is left. With
`--distilled`, a student of the suite's big teacher is pruned class-blind, too. These are figures 3, 4 and 6 of Souroulla et
al., "Model compression for resource-constrained mobile robots"; see `baselines.pruning.weight_pruning`.

    results/curves/digits/curves.csv      a row for each seed, curve, method and percentage
    results/curves/digits/curves.png      and .pdf: the mean over seeds, and the range
    results/curves/digits/rows, stages    the rows of each seed and trained networks; they are not computed again

Accuracies are those of the validation data. Exit status as of `benchmarks.run`: 0 done, 2 wrong usage, 3 data missing.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.checkout import code_digest, commit
from benchmarks.command_line import DATA_MISSING, DONE, UsageError, command_parser, ended, seeds_of, whole_number
from benchmarks.data.cache import DataMissingError
from benchmarks.files import write_atomically
from benchmarks.records.store import hash_of, json_text, read_json
from benchmarks.records.tables import write_csv
from benchmarks.reports.style import files_of, in_style, new_figure
from benchmarks.runs.stages import StageCache
from benchmarks.suites.suite import Suite, SuiteError, load_suite

if TYPE_CHECKING:
    import keras

    from baselines.protocol.strategy import Stages
    from baselines.protocol.task import Budget, Task

Row = Mapping[str, Any]

COLUMNS = (
    "suite",
    "network",
    "curve",
    "seed",
    "method",
    "percentage",
    "parameters",
    "nonzero",
    "reference_parameters",
    "compression",
    "macs",
    "removed_units",
    "removal_exact",
    "removal_change",
    "metric",
    "pruned",
    "removed",
    "tuned",
    "finetune_epochs",
    "seconds",
    "backend",
    "hardware",
    "commit",
)
# Those of the table that is printed.
_SHOWN = (0, 50, 80, 90, 95)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        suite = load_suite(options.suite)
        seeds = seeds_of(options.seeds, suite.seeds)
        _complete(options)
        folder = options.out / (suite.name if options.network == "target" else f"{suite.name}_{options.network}")
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        rows = [row for seed in seeds for row in _of_seed(suite, seed, options, folder)]
    except (UsageError, SuiteError) as error:
        return ended(parser, error)
    except DataMissingError as error:
        return ended(parser, error, DATA_MISSING)
    write_csv(folder / "curves.csv", COLUMNS, rows)
    for ending, content in draw(rows).items():
        write_atomically(folder / f"curves.{ending}", content)
    print(table(rows))
    return DONE


def _parser() -> argparse.ArgumentParser:
    shared = ("--suite", "--seeds", "--scale", "--examples", "--data-dir", "--cache-dir", "--out")
    parser = command_parser(__file__, __doc__, *shared, required=["--suite"], out=Path("results/curves"))
    parser.add_argument(
        "--network", choices=("target", "teacher"), default="target", help="or its big teacher (default: target)"
    )
    parser.add_argument("--distilled", action="store_true", help="also the curve of a student of the big teacher")
    parser.add_argument("--untrained", action="store_true", help="prune the network as it starts: sizes only")
    parser.add_argument("--methods", metavar="M", nargs="+", help="random, class_uniform, class_blind (default: all)")
    parser.add_argument(
        "--percentages", metavar="P", nargs="+", type=float, help="of connections that go (default: 0 5 ... 95)"
    )
    parser.add_argument(
        "--finetune", metavar="N", type=whole_number, help="epochs after each cut, 0 for none (default: the suite's, scaled)"
    )
    return parser


def _complete(options: argparse.Namespace) -> None:
    """Fills in what was left out, and refuses what does not go together, before anything is trained."""
    from baselines.pruning.weight_pruning import METHODS, PERCENTAGES, check_pruning
    from kmerge import InvalidArgumentError

    options.methods = list(options.methods or METHODS)
    options.percentages = list(options.percentages or PERCENTAGES)
    try:
        for method, percentage in itertools.product(options.methods, options.percentages):
            check_pruning(percentage, method)
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from error
    if options.distilled and (options.untrained or options.network == "teacher"):
        raise UsageError("--distilled is a curve of the trained target: leave out --untrained and --network teacher.")
    if options.untrained:
        if options.finetune:
            raise UsageError("--untrained is for sizes: leave out --finetune.")
        options.finetune = 0


def _of_seed(suite: Suite, seed: int, options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all curves of a seed, from an earlier run where they are there."""
    import keras

    asked = ("network", "methods", "percentages", "finetune", "scale", "examples")
    known = {name: getattr(options, name) for name in asked} | {"seed": seed, "definition": suite.definition}
    known["backend"] = keras.backend.backend()
    for curve in ("untrained" if options.untrained else "trained", *(["distilled"] if options.distilled else [])):
        path = folder / "rows" / f"{hash_of({**known, 'curve': curve, 'code': code_digest()})}.json"
        rows = read_json(path)
        if rows is None:
            start = time.perf_counter()
            rows = _rows(suite, seed, curve, options, folder)
            write_atomically(path, json_text(rows, indent=1))
            seconds = time.perf_counter() - start
            print(f"seed {seed}, {curve}: {len(rows)} rows in {seconds:.0f} s", file=sys.stderr, flush=True)
        yield from rows


def _rows(suite: Suite, seed: int, curve: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    import keras

    from baselines.pruning.weight_pruning import pruning_curve
    from benchmarks.runs.provenance import hardware
    from kmerge.seeds import seed_of

    keras.utils.set_random_seed(seed_of("curves", suite.name, curve, seed))
    task = suite.task(seed, options.data_dir, options.cache_dir, options.scale, options.examples)
    budget, stages = suite.budget(options.scale), StageCache(folder / "stages")
    epochs = budget.finetune if options.finetune is None else options.finetune
    network, task, reference = _network(curve, options.network, task, budget, seed, stages)
    methods = ["class_blind"] if curve == "distilled" else options.methods
    about = {
        "suite": suite.name,
        "network": options.network,
        "curve": curve,
        "seed": seed,
        "reference_parameters": reference,
        "metric": task.metric,
        "finetune_epochs": epochs,
        "backend": keras.backend.backend(),
        "hardware": hardware(),
        "commit": commit(),
    }
    rows = []
    for method, percentage in itertools.product(methods, options.percentages):
        settings = {"methods": [method], "percentages": [percentage], "epochs": epochs}
        (row,) = pruning_curve(network, task, stages, seed=seed_of("pruning", seed), **settings)
        rows.append({**about, **row, "compression": 100 * (1 - row["nonzero"] / reference)})
        keras.utils.clear_session()  # Or the programs of all points stay in memory.
    return rows


def _network(
    curve: str, which: str, task: "Task", budget: "Budget", seed: int, stages: "Stages"
) -> tuple["keras.Model", "Task", int]:
    """The network that is pruned, the task it is fine-tuned on, and the parameters that it is compared with."""
    import kmerge
    from baselines.distillation.distillation import big_teacher
    from baselines.distillation.distilled_pruning import DistilledPruning
    from baselines.protocol.teachers import train_teacher
    from kmerge.seeds import seed_of

    if curve == "distilled":
        student, _ = DistilledPruning().distillation.distil(task, budget, budget.gates, seed, stages)
        taught, _, widen = big_teacher(task, budget)
        return student, task, kmerge.parameters(taught.build(seed, widen=widen))
    taught, its_budget, widen = big_teacher(task, budget) if which == "teacher" else (task, budget, 1)
    if curve == "untrained":
        network = taught.build(seed_of("untrained", seed), widen=widen)
    else:
        network, _ = train_teacher(taught, its_budget, seed, 0, stages, widen)
    return network, taught, kmerge.parameters(network)


def _name(row: Row) -> str:
    return row["method"] if row["curve"] != "distilled" else f"distilled, {row['method']}"


def _groups(rows: Sequence[Row]) -> dict[str, dict[float, list[Row]]]:
    """Rows by the name of their line in figures, then by percentage."""
    groups: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        groups.setdefault(_name(row), {}).setdefault(row["percentage"], []).append(row)
    return groups


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: accuracy without and with fine-tuning, parameters that are not zero, and all that are left.

    Args:
        rows: of the curves, of all seeds.

    Returns:
        For each line a row, with the mean over seeds and the range in brackets, at some percentages.
    """
    found = _groups(rows)
    shown = [p for p in _SHOWN if any(p in line for line in found.values())]
    lines = ["| curve | what | " + " | ".join(f"{p} %" for p in shown) + " |", "|---" * (len(shown) + 2) + "|"]
    for name, line in found.items():
        for key, what, form in (
            ("removed", "pruned", ".3f"),
            ("tuned", "and fine-tuned", ".3f"),
            ("nonzero", "parameters", ",.0f"),
            ("parameters", "zeros, too", ",.0f"),
        ):
            cells = [_cell([row[key] for row in line.get(p, []) if key in row], form) for p in shown]
            if any(cells):
                lines.append(f"| {name} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


@in_style
def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """Draws the curves: lines are means over seeds, bands their range; solid with fine-tuning, dashed without.

    Args:
        rows: of the curves, of all seeds.

    Returns:
        By the ending of a file, `png` and `pdf`, its content.
    """
    figure = new_figure(figsize=(14, 4.2))
    accuracy, left, compressed = figure.subplots(1, 3)
    for number, (name, line) in enumerate(_groups(rows).items()):
        color = f"C{number}"
        for key, style in (("removed", "--"), ("tuned", "-")):
            label = name if key == "removed" else None
            _line(accuracy, line, "percentage", key, color, style, label)
            _line(compressed, line, "compression", key, color, style, None)
        _line(left, line, "percentage", "nonzero", color, "-", None)
        _line(left, line, "percentage", "parameters", color, ":", None)
    metric, seeds = rows[0]["metric"], len({row["seed"] for row in rows})
    accuracy.set(xlabel="connections pruned, %", ylabel=f"validation {metric}")
    left.set(xlabel="connections pruned, %", ylabel="parameters left (dotted: zeros, too)", yscale="log")
    compressed.set(xlabel="parameters gone, % (distilled: of the teacher)", ylabel=f"validation {metric}")
    accuracy.legend(fontsize="small", title="dashed: not fine-tuned", title_fontsize="small")
    figure.suptitle(f"{rows[0]['suite']}, {rows[0]['network']}, n = {seeds}", fontsize="medium")
    return files_of(figure, dpi=110)


def _line(axes, line: Mapping[float, Sequence[Row]], x: str, y: str, color: str, style: str, label: str | None) -> None:
    points = [[row for row in line[p] if y in row] for p in sorted(line)]
    points = [(sum(row[x] for row in group) / len(group), [row[y] for row in group]) for group in points if group]
    if points:
        places, values = zip(*points, strict=True)
        axes.plot(places, [sum(each) / len(each) for each in values], style, color=color, label=label, linewidth=1.4)
        axes.fill_between(
            places, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15, linewidth=0
        )


if __name__ == "__main__":
    sys.exit(main())
