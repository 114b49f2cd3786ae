"""What a campaign is to do: launches of `benchmarks.run` in order of worth, from a TOML file, checked before the first.

    description = "what this is for"
    arguments = ["--backend", "jax", "--jobs", "6"]         # of all launches

    [environment]                                           # of all workers, where it does not say otherwise
    XLA_FLAGS = "..."

    [[launches]]
    name = "a tenth"
    arguments = ["--suite", "cifar100", "--scale", "0.1", "--strategy", "l0_merge", "one_model"]
    seeds_at_a_time = 1                                     # whole seeds first; without it all seeds go at once
    futility = { strategy = "l0_merge", rivals = ["one_model"], seeds = 2, below = -0.005 }

The folders of results and of data are the campaign's, not a launch's. This module does not import Keras.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import run
from benchmarks.command_line import DATA_MISSING, UsageError, one_of, refusal
from benchmarks.records.store import RunFolder
from benchmarks.runs.planning import named_suite, planned_runs
from benchmarks.suites.files import content_of
from benchmarks.suites.schema import STRATEGY
from benchmarks.suites.suite import Suite
from benchmarks.suites.values import ListOf, Number, OwnDataMissingError, Place, SuiteError, Table, Text, whole

FOLDER = Path(__file__).parent
# Names of the campaigns that come with the benchmark.
CAMPAIGNS = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))

_ARGUMENTS = ListOf(Text("--suite"))
_FUTILITY = Table(
    {"strategy": STRATEGY, "rivals": ListOf(STRATEGY, 1), "seeds": whole(1), "below": Number(-0.005, least=-1e9, most=1e9)}
)
_LAUNCH = Table({"name": Text("a tenth"), "arguments": _ARGUMENTS}, {"seeds_at_a_time": whole(1), "futility": _FUTILITY})
# Options of `benchmarks.run` that no launch of a campaign has: they name folders, run nothing, or divide the work otherwise.
_NOT_HERE = ("out", "data_dir", "cache_dir", "stages", "list", "tables", "dry_run", "only", "shard")


@dataclass(frozen=True)
class Futility:
    """When the rest of a launch is not worth its time: declared before the first run, and decided by the first seeds.

    Attributes:
        strategy: that the launch is about.
        rivals: of which the one counts whose mean validation metric on these seeds is better.
        seeds: how many, the first of the launch.
        below: the launch is given up if the strategy's advantage in the test metric is below this on each of them; a share
            for accuracy, and negative where the strategy may be somewhat worse.
    """

    strategy: str
    rivals: tuple[str, ...]
    seeds: int
    below: float


@dataclass(frozen=True)
class Launch:
    """One launch of a campaign.

    Attributes:
        name: for people.
        arguments: of `benchmarks.run`, folders included.
        seeds_at_a_time: so many seeds are finished before the next begin; None for all at once.
        futility: when to give up the rest, if ever.
    """

    name: str
    arguments: tuple[str, ...]
    seeds_at_a_time: int | None = None
    futility: Futility | None = None

    @cached_property
    def suite(self) -> Suite:
        """What its runs are of."""
        return named_suite(run.parsed(self.arguments).suite)

    @cached_property
    def runs(self) -> list[RunFolder]:
        """All of its runs, seed by seed."""
        return planned_runs(self.suite, run.parsed(self.arguments))

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return list(dict.fromkeys(each.configuration["seed"] for each in self.runs))

    def turns(self) -> Iterator[tuple[tuple[str, ...], list[RunFolder]]]:
        """The parts that are finished one after the other: the arguments of each, and its runs."""
        seeds, size = self.seeds, self.seeds_at_a_time
        if size is None:
            yield self.arguments, self.runs
            return
        for first in range(0, len(seeds), size):
            part = seeds[first : first + size]
            arguments = (*self.arguments, "--seeds", f"{part[0]}-{part[-1]}")
            yield arguments, [each for each in self.runs if each.configuration["seed"] in part]


@dataclass(frozen=True)
class Campaign:
    """What one TOML file says.

    Attributes:
        name: of the file, without its ending.
        description: one line.
        launches: in order of worth.
        environment: variables that workers get where the environment does not have them.
    """

    name: str
    description: str
    launches: tuple[Launch, ...]
    environment: dict[str, str] = field(default_factory=dict)


def load_campaign(name_or_path: str, places: Sequence[str]) -> Campaign:
    """A campaign, checked to its last launch.

    Args:
        name_or_path: a name of `CAMPAIGNS`, or a path that ends in .toml or .json.
        places: arguments of `benchmarks.run` that name the folders.

    Raises:
        SuiteError: if there is no such campaign, or its file is wrong; the message names the launch.
    """
    path, plain = Path(name_or_path), name_or_path.removesuffix(".toml")
    if plain in CAMPAIGNS and not path.exists():
        path = FOLDER / f"{plain}.toml"
    elif path.suffix not in (".toml", ".json"):
        raise SuiteError(f"campaign: {one_of(CAMPAIGNS, name_or_path)} A file's path ends in .toml or .json.")
    place, content = Place(str(path)), content_of(path, "a campaign's file")
    environment = content.get("environment", {})
    variables = dict.fromkeys(environment, Text("1")) if isinstance(environment, dict) else {}
    optional = {"arguments": _ARGUMENTS, "environment": Table({}, variables)}
    Table({"description": Text(), "launches": ListOf(_LAUNCH, 1, 100)}, optional).check(place, content)
    if wrong := [name for name in environment if not name or set(name) & set("=\0")]:
        (place / "environment").refuse("names of variables, without =", wrong[0])
    launches: list[Launch] = []
    for number, table in enumerate(content["launches"], 1):
        here = (place / "launches").item(number)
        if table["name"] in [launch.name for launch in launches]:
            (here / "name").refuse("a name of its own", table["name"])
        arguments = (*content.get("arguments", []), *table["arguments"])
        launches.append(_launch(here, table, arguments, places))
    return Campaign(path.stem, content["description"], tuple(launches), environment)


def _launch(place: Place, table: Mapping[str, Any], arguments: Sequence[str], places: Sequence[str]) -> Launch:
    """A launch whose runs can be planned."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options, without = run.parsed(arguments), run.parsed([])
    except SystemExit as end:
        why = said.getvalue().rpartition("error: ")[2].strip() if end.code else refusal("runs", "--help")
        raise SuiteError(f"{place / 'arguments'}: {why}") from None
    if found := [name for name in _NOT_HERE if getattr(options, name) != getattr(without, name)]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in found)
        (place / "arguments").refuse(f"none of {names}", list(arguments), "Folders are the campaign's, and the work is whole.")
    if options.suite is None:
        (place / "arguments").refuse("--suite", list(arguments))
    rule = table.get("futility")
    futility = None if rule is None else Futility(**rule | {"rivals": tuple(rule["rivals"])})
    launch = Launch(table["name"], (*arguments, *places), table.get("seeds_at_a_time"), futility)
    try:
        strategies = {each.configuration["strategy"] for each in launch.runs}
    except UsageError as error:
        kind = OwnDataMissingError if error.status == DATA_MISSING else SuiteError
        raise kind(f"{place / 'arguments'}: {error}") from error
    if futility and not {futility.strategy, *futility.rivals} <= strategies:
        (place / "futility").refuse(f"strategies of the launch, which are {', '.join(sorted(strategies))}", dict(rule))
    return launch
