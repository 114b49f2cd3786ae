"""One-shot fusion of two VGG-11: how well networks that were aligned and averaged do, with and without measuring anew.

    python -m benchmarks.studies.fusion --out results/published/fusion/digits --seeds 0-9

trains two networks per seed and fuses them by each matching of `baselines.fusion`. It writes `runs.csv`, a row per seed and
matching, and `summary.md`: test accuracy of the fused network as it is, after `kmerge.recalibrate` (where there
is BatchNormalization), and after a short fine-tuning; and paired tests against plain averaging. What is in
runs.csv is not run again. Nothing is tuned to this table. The digits are enlarged four times, Fashion-MNIST is padded with
black: VGG-11 takes 32x32 images.
"""

import argparse
import csv
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.command_line import DONE, UsageError, command_parser, ended, positive_whole_number, seeds_of
from benchmarks.reports.comparisons import compare_all
from benchmarks.reports.statistics import summarize

STATES = {"fused": "as fused", "recalibrated": "and recalibrated", "tuned": "and fine-tuned"}
NAMES = {
    None: "averaging",
    "weights": "weight matching",
    "activations": "activation matching",
    "transport": "OT, exact",
    "sinkhorn": "OT, Sinkhorn",
    "graphs": "GAMF",
}
# Examples on which units are correlated and statistics are measured anew, as `baselines.fusion.model_fusion` takes them.
_EXAMPLES = 2_000


@dataclass(frozen=True)
class Setting:
    """What is trained, and for how long.

    Attributes:
        data: "digits" or "fashion_mnist".
        network: "vgg11_bn", or "vgg11", without BatchNormalization.
        width: channels of the first stage; 64 is the published network.
        examples: training examples, None for all.
        epochs: of each parent.
        tuning: epochs of fine-tuning.
    """

    data: str
    network: str
    width: int
    examples: int | None
    epochs: int
    tuning: int


_OF_SETTING = tuple(field.name for field in fields(Setting))
COLUMNS = (*_OF_SETTING, "seed", "matching", "parent_0", "parent_1", "score", *STATES, "matching_seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        seeds = seeds_of(options.seeds, range(1))
    except UsageError as error:
        return ended(parser, error)
    setting = Setting(*(getattr(options, name) for name in _OF_SETTING))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "runs.csv"
    rows = _read(path)
    expected = {name: "" if value is None else str(value) for name, value in asdict(setting).items()}
    if other := next((row for row in rows if any(row[name] != expected[name] for name in _OF_SETTING)), None):
        found = {name: other[name] for name in _OF_SETTING}
        parser.error(f"{path} holds rows of another setting: expected {expected}, received {found}. Choose another --out.")
    for seed in seeds:
        done = {row["matching"] for row in rows if int(row["seed"]) == seed}
        missing = [each for each in NAMES if (each or "none") in options.matchings and NAMES[each] not in done]
        if missing:
            rows += list(_measure(setting, seed, options.data_dir, missing))
            _write(path, rows)
    header = f"{setting}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    (options.out / "summary.md").write_text(f"{header}\n\n{table(rows)}\n\n{comparisons(rows)}\n")
    print(table(rows), comparisons(rows), sep="\n\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    shared = ("--seeds", "--examples", "--data-dir", "--out")
    parser = command_parser(__file__, __doc__, *shared, required=["--out"], seeds="10", out=None)
    parser.add_argument("--data", choices=["digits", "fashion_mnist"], default="digits")
    parser.add_argument("--network", choices=["vgg11_bn", "vgg11"], default="vgg11_bn")
    numbers = {"type": positive_whole_number, "metavar": "N"}
    parser.add_argument("--width", default=8, help="channels of the first stage; 64 is the published network", **numbers)
    parser.add_argument("--epochs", default=6, help="of each parent (default: 6)", **numbers)
    parser.add_argument("--tuning", default=1, help="epochs of fine-tuning (default: 1)", **numbers)
    choices = [name or "none" for name in NAMES]
    parser.add_argument("--matchings", nargs="+", choices=choices, default=choices)
    return parser


def _read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict]) -> None:
    half = path.with_suffix(".half")
    with half.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    half.replace(path)


def _values(rows: list[dict], state: str) -> dict[str, dict[int, float]]:
    """Test accuracies by matching and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row[state] not in ("", None):
            found.setdefault(row["matching"], {})[int(row["seed"])] = float(row[state])
    return found


def table(rows: list[dict]) -> str:
    """Mean and standard deviation over the seeds, as a Markdown table.

    Args:
        rows: of `runs.csv`.

    Returns:
        The table; the number of seeds is in every cell.
    """
    parents = [float(row[name]) for row in rows if row["matching"] == NAMES[None] for name in ("parent_0", "parent_1")]
    lines = ["| test accuracy, % | " + " | ".join(STATES.values()) + " |", "|---" * (1 + len(STATES)) + "|"]
    lines.append(f"| the parents | {_cell(parents)} | | |")
    values = {state: _values(rows, state) for state in STATES}
    for name in values["fused"]:
        cells = [_cell(list(values[state].get(name, {}).values())) for state in STATES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    found = summarize(values)
    return f"{found.mean:.1f} (std {found.std:.1f}, n = {found.n})"


def comparisons(rows: list[dict]) -> str:
    """Paired tests of every matching against plain averaging, in each state, as a Markdown table.

    Args:
        rows: of `runs.csv`.

    Returns:
        The table. p is Wilcoxon's signed rank test, beside it corrected by Holm over the matchings of a state.
    """
    lines = ["| difference to averaging | state | n | mean, points | 95 % interval | p | p, Holm |", "|---" * 7 + "|"]
    for state, words in STATES.items():
        values = _values(rows, state)
        for c in compare_all(NAMES[None], values, higher_is_better=True) if NAMES[None] in values else []:
            low, high = (-bound for bound in reversed(c.mean_interval))
            p = ("too few seeds",) * 2 if c.p is None else (f"{c.p:.2g}", f"{c.p_holm:.2g}")
            cells = (c.second, words, str(c.n), f"{-c.mean_difference:.1f}", f"{low:.1f} to {high:.1f}", *p)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _measure(setting: Setting, seed: int, data_dir: str | None, matchings: list):
    """Yields the rows of one seed."""
    from dataclasses import replace

    import kmerge
    from baselines.fusion.model_fusion import aligned_by
    from baselines.protocol.outcomes import validation_metric
    from baselines.protocol.phases import train_phase
    from baselines.protocol.strategy import Stages
    from kmerge.matching import average, match_score
    from kmerge.seeds import seed_of

    task = _task(setting, seed, data_dir)
    data = task.data
    tested = replace(task, data=replace(data, x_val=data.x_test, y_val=data.y_test))
    parents = [task.build(seed_of("parent", number, seed)) for number in (0, 1)]
    for number, parent in enumerate(parents):
        train_phase(parent, task, "teacher", setting.epochs, seed_of(seed, number), Stages())
    whole = [100 * validation_metric(tested, parent) for parent in parents]
    for matching in matchings:
        start = time.perf_counter()
        aligned = aligned_by(matching, *parents, data.inputs[:_EXAMPLES], seed)
        seconds = time.perf_counter() - start
        fused = average(parents[0], aligned)
        student = kmerge.recalibrate(fused, data.inputs[:_EXAMPLES])
        row = asdict(setting) | {"seed": seed, "matching": NAMES[matching], "matching_seconds": round(seconds, 2)}
        row |= {"parent_0": whole[0], "parent_1": whole[1], "score": match_score(parents[0], aligned)}
        row |= {"fused": 100 * validation_metric(tested, fused)}
        row |= {"recalibrated": 100 * validation_metric(tested, student) if setting.network == "vgg11_bn" else ""}
        train_phase(student, task, "finetune", setting.tuning, seed_of(seed, "tuning"), Stages())
        row |= {"tuned": 100 * validation_metric(tested, student)}
        row = {name: round(row[name], 3) if isinstance(row[name], float) else row[name] for name in COLUMNS}
        print(row, file=sys.stderr, flush=True)
        yield row


def _task(setting: Setting, seed: int, data_dir: str | None):
    """The data, enlarged to 32x32, and how networks are trained on it."""
    import keras
    import numpy as np

    from baselines.protocol.task import Data, Phase, Task
    from benchmarks.data.datasets import load
    from benchmarks.networks.architectures import vgg11

    def images(x):
        if len(x.shape) < 4:
            return x  # labels
        times = 32 // x.shape[1]
        x = x.repeat(times, axis=1).repeat(times, axis=2)
        edge = (32 - x.shape[1]) // 2
        return np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)), constant_values=x.min())

    with tempfile.TemporaryDirectory() as cache:
        data = load(setting.data, data_dir, cache, seed, setting.examples).data
        data = Data(**{field.name: images(np.asarray(getattr(data, field.name))) for field in fields(Data)})
    batch_norm = setting.network == "vgg11_bn"

    def build(number: int, widen: int = 1):
        return vgg11((32, 32, 1), 10, number, batch_norm=batch_norm, width=setting.width, widen=widen)

    # Without normalization the larger step diverges in some seeds.
    teacher = Phase(0.05 if batch_norm else 0.01, 0.9, 32, drops=(0.75,))
    return Task(
        name=f"fusion_{setting.data}",
        data=data,
        build=build,
        loss=lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metric="accuracy",
        augment=None,
        phases={"teacher": teacher, "finetune": Phase(0.005, 0.9, 32)},
        gates=None,
        identity={},
    )


if __name__ == "__main__":
    sys.exit(main())
