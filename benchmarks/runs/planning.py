"""Which runs a command asks for, how each stands, how long they take, and which of them share a process.

Nothing here imports Keras, so plans come at once.
"""

import argparse
import importlib.util
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import BACKENDS, USAGE, UsageError, digits, one_of, refusal, seeds_of
from benchmarks.own_code import is_reference
from benchmarks.records.results import Row, fault_of, is_number
from benchmarks.records.store import RunFolder, read_runs
from benchmarks.reports.summaries import mean
from benchmarks.strategies.registry import STRATEGIES, installed
from benchmarks.suites.parents import check_examples
from benchmarks.suites.suite import PAPER, SUITES, Suite, load_suite

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STATUSES = ("failed", "unfinished", "missing")


def check_name(option: str, name: str, known: Iterable[str]) -> None:
    """Refuses a name that is not known.

    Raises:
        UsageError: with all names that are, and a hint at the nearest.
    """
    known = sorted(known)  # of a mapping its keys alone: to look one up in STRATEGIES would import Keras
    if name not in known:
        raise UsageError(f"{option}: {one_of(known, name)}")


def named_suite(name: str) -> Suite:
    """The suite of that name, or of that file.

    Raises:
        UsageError: if there is none, its file is wrong, or data of one's own is not there, which has a status of its own.
    """
    plain = name.removesuffix(PAPER)
    if not plain.endswith((".toml", ".json")):
        check_name("--suite", plain, SUITES)
    try:
        return load_suite(name)
    except (OSError, ValueError) as error:
        message = f"--suite: expected a suite that can be read, received {name!r}. {error}"
        raise UsageError(message, getattr(error, "status", USAGE)) from error


def settings_of(suite: Suite, strategy: str) -> dict[str, Any]:
    """What the runs of a strategy depend on beside the suite's definition; see `Suite.settings_of`.

    Raises:
        UsageError: if there is no such strategy, or the suite lacks what it needs.
    """
    if not is_reference(strategy):
        check_name("--strategy", strategy, (*STRATEGIES, *installed()))
    try:
        return suite.settings_of(strategy)
    except ValueError as error:
        raise UsageError(str(error)) from error


def planned_runs(suite: Suite, options: argparse.Namespace) -> list[RunFolder]:
    """All runs that the command asks for, seed by seed, so that early results are paired ones.

    Raises:
        UsageError: for anything that is not known or not installed.
    """
    strategies = list(dict.fromkeys(options.strategy or suite.strategies))
    own = {name: settings_of(suite, name) for name in strategies}
    try:
        check_examples(suite.definition, options.examples, suite.folds)
    except ValueError as error:
        raise UsageError(f"--examples: {error}") from error
    backend = options.backend or os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND: {one_of(BACKENDS, backend)}")
    if importlib.util.find_spec(backend) is None:
        raise UsageError(refusal("a backend that is installed", backend, f"Run: pip install {backend}, or choose another."))
    if options.together > 1 and backend != "jax":
        raise UsageError("--together: " + refusal("the JAX backend", backend, "Add --backend jax."))
    if options.devices > 1 and (backend != "jax" or options.together > 1):
        received = f"{backend} and --together {options.together}"
        do = "Leave out --together." if backend == "jax" else "Add --backend jax, without --together."
        raise UsageError("--devices: " + refusal("the JAX backend without --together", received, do))
    seeds = shard(seeds_of(options.seeds, suite.seeds), options.shard)
    common = {
        "suite": suite.name,
        "definition": suite.definition,
        "scale": options.scale,
        "examples": options.examples,
        "backend": backend,
    }
    if options.precision != "float32":  # runs of before this could be chosen keep their names
        common["precision"] = options.precision
    if options.devices != 1:
        common["devices"] = options.devices
    if options.match == "compute":
        factors = _factors(options.out / suite.name, common, suite.strategies[0], strategies)
        own = {name: {**own[name], **factors[name]} for name in strategies}
    runs = [
        RunFolder.of(options.out / suite.name, {**common, "strategy": strategy, "seed": seed, **own[strategy]})
        for seed in seeds
        for strategy in strategies
    ]
    return runs if options.only is None else [run for run in runs if run.status == options.only]


def _factors(folder: Path, common: Mapping, reference: str, strategies: Sequence[str]) -> dict[str, dict]:
    """By strategy, what its runs have besides at equal compute: the factor on its epochs that makes it spend as much as
    the reference, by what both spent at equal epochs; with two decimals, so that one seed more does not change it.

    Raises:
        UsageError: if there is no run at equal epochs to tell.
    """
    protocol = RunFolder.of(folder, {**common, "strategy": "", "seed": 0}).protocol
    runs, _ = read_runs(folder)
    rows = [run.row() for run in runs if run.protocol == protocol and run.status == "done"]
    rows = [row for row in rows if fault_of(row) is None]
    spent = {
        s: mean(row["teacher_epoch_equivalents"] for row in rows if row["strategy"] == s)
        for s in (reference, *strategies)
    }
    match = f"compute of {reference}"
    # What was planned once stays, though more runs, or other ends of phases, may move the mean.
    matched = RunFolder.of(folder, {**common, "match": match}).protocol
    known = [(run.configuration["strategy"], run.configuration.get("factor")) for run in runs if run.protocol == matched]
    planned = {strategy: factor for strategy, factor in known if is_number(factor)}
    lacking = sorted(name for name, value in spent.items() if not value)
    if lacking:
        raise UsageError(
            f"--match compute goes by what strategies spend at equal epochs, and {', '.join(lacking)} has no such run in "
            f"{folder} that is done. Launch once without --match, with a seed at least, then again."
        )
    factors = {s: round(spent[reference] / spent[s], 2) for s in strategies} | planned
    return {s: {"match": match, "factor": factors[s]} for s in strategies}


def shard(seeds: Sequence[int], text: str | None) -> list[int]:
    """The part of the seeds that `--shard i/n` names: every n-th, from the i-th on, so that a seed's strategies, which
    share teachers, stay together.

    Raises:
        UsageError: unless 1 <= i <= n, or if the part is empty.
    """
    if text is None:
        return list(seeds)
    part, _, count = text.partition("/")
    first, step = digits(part), digits(count)
    if not (first and step and first <= step):
        raise UsageError("--shard: " + refusal("i/n with i from 1 to n, as 2/4", text))
    found = list(seeds)[first - 1 :: step]
    if not found:
        raise UsageError(f"--shard {text}: there are only {len(seeds)} seeds, so this part has none.")
    return found


def listing() -> str:
    """All suites and strategies."""
    suites = [load_suite(name) for name in SUITES]
    own = [f"  {name} ({source})" for name, source in installed().items()]
    lines = ["Suites:"]
    for suite in suites:
        seeds = f"seeds {suite.seeds[0]}-{suite.seeds[-1]}"
        lines.append(f"  {suite.name:16} {suite.description} ({seeds}; {', '.join(suite.strategies)})")
    return "\n".join([*lines, "Strategies:", *(f"  {name}" for name in STRATEGIES), *own])


def plan_text(suite: Suite, runs: Sequence[RunFolder], options: argparse.Namespace) -> str:
    """How each run stands, and what is to come."""
    waiting = [run for run in runs if run.status != "done"]
    folder = options.out / suite.name
    lines = [f"{run.path.name}  {run.status:10}  {run.name}" for run in runs]
    lines.append(f"{len(runs)} runs, {len(waiting)} to do, in {folder}")
    lines.append(f"epochs: {suite.budget(options.scale)}")
    return "\n".join([*lines, *_estimate(waiting, folder)])


def _estimate(waiting: Sequence[RunFolder], folder: Path) -> list[str]:
    """How long the runs will take one worker, by runs of the same strategies that are done."""
    if not waiting:
        return []
    past, _ = read_runs(folder)
    rows = [row for run in past if (row := run.row())["status"] == "done" and _tells_time(row)]
    known = {run.path: _seconds(run, rows) for run in waiting}
    hours = sum(seconds for seconds in known.values() if seconds is not None) / 3600
    unknown_names = sorted({run.configuration["strategy"] for run in waiting if known[run.path] is None})
    lines = []
    if hours:
        lines.append(f"about {hours:.2g} hours of one worker, by runs that are done here")
    if unknown_names:
        lines.append(f"no run done here tells how long these take: {', '.join(unknown_names)}")
    return lines


def _seconds(run: RunFolder, rows: Sequence[Row]) -> float | None:
    """The mean time of runs of that strategy on that backend: of the same protocol, or else over their scale."""
    wanted = run.configuration
    alike = [row for row in rows if all(row[name] == wanted[name] for name in ("strategy", "backend"))]
    same = [row["wall_seconds"] for row in alike if row["protocol"] == run.protocol]
    return mean(same or [row["wall_seconds"] * _epochs_of(wanted) / _epochs_of(row) for row in alike])


def _tells_time(row: Row) -> bool:
    """Whether the time of a run, over what its epochs were multiplied by, is known."""
    return all(is_number(value) and value > 0 for value in (row["wall_seconds"], row["scale"], row["factor"] or 1.0))


def _epochs_of(run: Mapping) -> float:
    """What a run's epochs are multiplied by."""
    return run["scale"] * (run.get("factor") or 1.0)


def batches(runs: Sequence[RunFolder], most: int, jobs: int, together: int = 1) -> list[list[RunFolder]]:
    """Runs that share a process: about `most`, whole seeds where that can be, and as many batches for every job.

    Runs that are to be trained together count as one, follow each other and stay in one batch.
    """
    if not runs:
        return []
    numbers = {seed: i for i, seed in enumerate(sorted({run.configuration["seed"] for run in runs}))}

    def of_seeds(run: RunFolder) -> int:
        return numbers[run.configuration["seed"]] // together

    def of_strategy(run: RunFolder) -> str:
        return run.configuration["strategy"]

    seeds = [list(group) for _, group in itertools.groupby(runs, of_seeds)]
    if together > 1:
        order = list(dict.fromkeys(map(of_strategy, runs)))
        seeds = [sorted(group, key=lambda run: order.index(of_strategy(run))) for group in seeds]
    singles = [list(group) for unit in seeds for _, group in itertools.groupby(unit, of_strategy)]
    count = min(len(singles), math.ceil(math.ceil(len(runs) / (most * together)) / jobs) * jobs)
    units = seeds if count <= len(seeds) else singles
    edges = [round(i * len(units) / count) for i in range(count + 1)]
    return [list(itertools.chain(*units[a:b])) for a, b in itertools.pairwise(edges)]
