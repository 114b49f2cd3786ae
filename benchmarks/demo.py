"""The demo: two networks that know five digits each become one that knows all ten, then a network is cut to half its work.

    python -m benchmarks.demo

It measures an epoch first, and takes as many seeds as end within three minutes, five on two idle cores; on a machine that is
several times slower it takes two, and up to ten minutes. The launch is that of `benchmarks.run --suite halves_digits`, with
merging and its alternatives that need no paper to understand. Exit status: that of the launch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import run
from benchmarks.command_line import DONE, command_parser
from benchmarks.records.results import Row, read_results
from benchmarks.reports.summaries import done, grouped, mean
from benchmarks.runs.executors import default_jobs

if TYPE_CHECKING:
    import keras

    from baselines.protocol.strategy import TrainingRecord
    from baselines.protocol.task import Task

SUITE = "halves_digits"
MERGED = "l0_merge_fade"
NOT_MERGED = {"restart": "a parent that is trained on with the same labels", "one_model": "a new network, trained with them"}
STRATEGIES = (MERGED, *NOT_MERGED, "ensemble")
FIRST_SEED, MOST_SEEDS, LEAST_SEEDS = 100, 5, 2
# What a seed of these strategies costs: epochs of one network, with the operations of the big one, and compiled programs.
EPOCHS, PROGRAMS = 170, 6
# Seconds that the launch may take by the estimate: three minutes, less what comes before and after it.
_LONGEST = 150.0
# How much slower an epoch is in one of the workers, which share the machine.
_SHARED = 1.5
_SEED, _EPOCHS_AFTER_CUT = 0, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status of the launch.
    """
    options = command_parser(__file__, __doc__, "--out", "--cache-dir", "--jobs").parse_args(arguments)
    print("Training a network on all digits, to see how fast this machine is ...", flush=True)
    task, model, record = trained_network(options.cache_dir)
    epoch = sum(row["seconds"] for row in record.rows[1:]) / (len(record.rows) - 1)
    jobs = options.jobs or default_jobs()
    seeds = seeds_within(epoch, record.program["compile_seconds"], jobs)
    print(
        f"An epoch takes {epoch:.2g} s. Now {seeds} times, each with other digits: two networks know five digits each, and "
        "five labelled images of each of the ten are left to make one network that knows all ten.",
        flush=True,
    )
    command = ["--suite", SUITE, "--seeds", f"{FIRST_SEED}-{FIRST_SEED + seeds - 1}", "--jobs", str(jobs)]
    command += ["--out", str(options.out), "--cache-dir", str(options.cache_dir), "--strategy", *STRATEGIES]
    status = run.main(command)
    if status == DONE:
        print(f"\n{merged(read_results(options.out / SUITE).rows)}\n\n{halved(task, model)}", flush=True)
    return status


def merged(rows: Sequence[Row]) -> str:
    """What merging came to, in words.

    Args:
        rows: of the launch.
    """
    own = [row for row in done(rows) if row["examples"] is None and row["scale"] == 1]
    values = {name: {row["seed"]: row["test_last"] for row in group} for name, group in grouped(own, "strategy").items()}
    seeds = set.intersection(*(set(values[name]) for name in STRATEGIES))
    means = {name: mean(values[name][seed] for seed in seeds) for name in STRATEGIES}
    other = max(NOT_MERGED, key=means.get)
    ahead = sum(values[MERGED][seed] > values[other][seed] for seed in seeds)
    parents = mean(parent for row in own for parent in (row["extras"] or {}).get("validation_teachers", ()))
    return (
        f"In words: a parent knows half of the digits, and has {parents:.1%} on all ten. Merged, one network of the same size "
        f"has {means[MERGED]:.1%}; the best that is not merged, {NOT_MERGED[other]}, {means[other]:.1%}: ahead in {ahead} of "
        f"{len(seeds)} seeds. Both parents together, at twice the cost: {means['ensemble']:.1%}. Ten seeds and more rivals, "
        "among them a cut by magnitude that is as good: docs/results/digits.md."
    )


def seeds_within(epoch_seconds: float, compile_seconds: float, jobs: int) -> int:
    """How many seeds end in time.

    Args:
        epoch_seconds: of the target network on all data, measured alone.
        compile_seconds: of a program.
        jobs: how many runs at a time.
    """
    a_seed = _SHARED * (EPOCHS * epoch_seconds + PROGRAMS * compile_seconds)
    fitting = [seeds for seeds in range(LEAST_SEEDS, MOST_SEEDS + 1) if seeds / min(seeds, jobs) * a_seed <= _LONGEST]
    return max(fitting, default=LEAST_SEEDS)


def trained_network(cache_dir: Path) -> "tuple[Task, keras.Model, TrainingRecord]":
    """The network of the suite, trained on all digits for as long as a parent; with its task and the record of it."""
    from baselines.protocol.phases import train_phase
    from baselines.protocol.strategy import Stages
    from benchmarks.suites.suite import load_suite

    suite = load_suite(SUITE)
    suite.prepare(None, cache_dir)
    task = suite.task(_SEED, None, cache_dir).on_all_data
    model = task.build(_SEED)
    return task, model, train_phase(model, task, "teacher", suite.budget().teacher, _SEED, Stages())


def halved(task: "Task", model: "keras.Model") -> str:
    """Cut a trained network to half of its operations, train it briefly, and tell what became of it.

    Args:
        task: what it was trained on.
        model: the network; not changed.
    """
    import kmerge
    from baselines.protocol.outcomes import validation_metric
    from baselines.protocol.phases import train_phase
    from baselines.protocol.strategy import Stages

    small = kmerge.prune(model, budget=0.5)
    before, cut = validation_metric(task, model), validation_metric(task, small)
    record = train_phase(small, task, "finetune", _EPOCHS_AFTER_CUT, _SEED, Stages())
    operations, left = kmerge.multiply_accumulates(model), kmerge.multiply_accumulates(small)
    return (
        f"Pruning: a network that was trained on all digits has {before:.1%} with {operations:,} multiply-accumulates an "
        f"image. kmerge.prune(model, budget=0.5) leaves {left:,} of them; after {_EPOCHS_AFTER_CUT} epochs of fine-tuning it "
        f"has {record.rows[-1]['val_metric']:.1%} ({cut:.1%} before; on validation data)."
    )


if __name__ == "__main__":
    sys.exit(main())
