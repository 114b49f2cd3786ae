"""What a suite's file may say: every key is known, none is missing, and values are in range.

A suite is for merging and what is held against it, with the phases of `Budget`; or for auto-sizing alone, with the table
[sizing] and the epochs `single`; or for both. This module imports neither Keras nor data.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from baselines.protocol.task import Budget, EarlySettings, GateSettings, Phase, SizingSettings
from benchmarks.command_line import nearest, one_of, refusal
from benchmarks.data import datasets
from benchmarks.strategies.registry import STRATEGIES

METRICS = ("accuracy", "mse")
AUGMENTATIONS = ("none", "shift_and_flip")
# Of the augmentation of photographs; see `benchmarks.data.augmentation.RandomResizedCrop`.
_CROP_KEYS = ("area", "ratio", "jitter")
PHASES = tuple(field.name for field in fields(Budget))
EARLY_PHASES = tuple(field.name for field in fields(EarlySettings))
KEYS = (
    "description",
    "dataset",
    "metric",
    "augmentation",
    "standardize_by",
    "folds",
    "seeds",
    "strategies",
    "runs_per_process",
    "architecture",
    "epochs",
    "phases",
    "gates",
    "sizing",
    "teacher",
    "teacher_data",
    "parents",
    "comparisons",
    "published",
    "tuning",
)
# What no run depends on.
LAUNCH_KEYS = ("description", "seeds", "strategies", "runs_per_process", "comparisons", "published", "tuning")
_FOR_IMAGES = ("standardize_by", "folds")
_OPTIONAL = (*_FOR_IMAGES, "sizing", "teacher", "teacher_data", "parents", "comparisons", "published", "tuning")
_TEACHER_KEYS = ("architecture", "epochs", "phase")
# What teachers have of the training data: each all of them, or two disjoint halves. A table [parents] says more.
TEACHER_DATA = ("all", "halves")
_PARENTS_KEYS = ("by", "overlap", "few", "examples")
_DIVISIONS = ("classes", "domains")
# The suite says the target; strategies ask for wider networks, and data for how inputs are standardized.
_NOT_OPTIONS = ("widen", "standardize")
# How strategies are compared: by Wilcoxon's signed-rank test, or by the paired t-test.
TESTS = ("signed_rank", "t")
_PENALTIES = ("weighted_l1", "l21", "linf1", "l1")


class SuiteError(ValueError):
    """A suite that does not exist, or whose file is wrong."""


def check_architecture(where: str, table: Mapping[str, Any], architectures: Mapping[str, Callable]) -> str:
    """The name of the network of a table, whose other keys are options that the network knows.

    Args:
        where: what errors call the table.
        table: the name and the options.
        architectures: by name.

    Raises:
        SuiteError: if there is no such network, or it does not know an option.
    """
    name = table["name"]
    _check_in(f"{where}, name", name, architectures)
    named = inspect.signature(architectures[name]).parameters.values()
    known = [p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_OPTIONS]
    check_keys(where, {key: value for key, value in table.items() if key != "name"}, known, required=())
    return name


def check_keys(where: str, table: object, known: Sequence[str], required: Sequence[str] | None = None) -> None:
    """Refuses a table with a key that is not known, or without one that is required.

    Args:
        where: what errors call the table.
        table: what may be one.
        known: its keys.
        required: those that it must have; None for all.

    Raises:
        SuiteError: with a hint for each key that is near one that is known.
    """
    if not isinstance(table, dict):
        raise SuiteError(f"{where}: {refusal('a table', table)}")
    unknown = [key for key in table if key not in known]
    missing = [key for key in (known if required is None else required) if key not in table]
    if unknown or missing:
        found = [f"unknown keys {unknown}"] * bool(unknown) + [f"missing keys {missing}"] * bool(missing)
        free = [key for key in known if key not in table]
        hints = [hint for key in unknown if (hint := nearest(key, free))]
        text = f"{where}: expected keys of {', '.join(known)}, received {' and '.join(found)}."
        raise SuiteError(" ".join([text, *hints]))


def _check_in(where: str, value: object, known: Iterable[str]) -> None:
    known = list(known)
    if value not in known:
        raise SuiteError(f"{where}: {one_of(known, value)}")


def _check_whole(where: str, value: object, least: int, of: str = "a whole number") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SuiteError(f"{where}: {refusal(f'{of} of at least {least}', value)}")


def _check_number(where: str, value: object, expected: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise SuiteError(f"{where}: {refusal(expected, value)}")


def _check_list(where: str, values: object) -> None:
    if not isinstance(values, list):
        raise SuiteError(f"{where}: {refusal('a list', values)}")


def check_content(where: str, content: dict[str, Any]) -> None:
    """Check all of a file.

    Args:
        where: what errors call it.
        content: what it says.

    Raises:
        SuiteError: if a key is missing or unknown, or a value is wrong.
    """
    merges = "phases" in content or "gates" in content or "sizing" not in content
    required = [key for key in KEYS if key not in _OPTIONAL and (merges or key not in ("phases", "gates"))]
    check_keys(where, content, KEYS, required)
    for key, known in (("dataset", datasets.NAMES), ("metric", METRICS)):
        _check_in(f"{where}, {key}", content[key], known)
    _check_augmentation(where, content)
    _check_list(f"{where}, strategies", content["strategies"])
    for strategy in content["strategies"]:
        _check_in(f"{where}, strategies", strategy, STRATEGIES)
    check_keys(f"{where}, [tuning]", content.get("tuning", {}), list(STRATEGIES), required=())
    _check_launch(where, content["seeds"], content["runs_per_process"])
    _check_comparisons(f"{where}, [comparisons]", content)
    _check_published(f"{where}, [[published]]", content.get("published", []))
    _check_in(f"{where}, standardize_by", content.get("standardize_by", "channel"), datasets.STANDARDIZATIONS)
    _check_in(f"{where}, teacher_data", content.get("teacher_data", "all"), TEACHER_DATA)
    _check_folds(where, content)
    _check_named(f"{where}, [architecture]", content["architecture"])
    if "teacher" in content:
        teacher = content["teacher"]
        check_keys(f"{where}, [teacher]", teacher, _TEACHER_KEYS)
        _check_named(f"{where}, [teacher.architecture]", teacher["architecture"])
        _check_whole(f"{where}, teacher.epochs", teacher["epochs"], 1, "a number of epochs")
        _check_phase(f"{where}, [teacher.phase]", teacher["epochs"], teacher["phase"])
    if "parents" in content:
        _check_parents(f"{where}, [parents]", content)
    if "sizing" in content:
        _check_sizing(f"{where}, [sizing]", content["sizing"])
    if not merges:
        check_keys(f"{where}, [epochs]", content["epochs"], ("single",))
        _check_whole(f"{where}, epochs.single", content["epochs"]["single"], 1, "a number of epochs")
        return
    check_keys(f"{where}, [epochs]", content["epochs"], (*PHASES, "early"), PHASES)
    check_keys(f"{where}, [phases]", content["phases"], PHASES)
    for phase in PHASES:
        epochs = content["epochs"][phase]
        _check_whole(f"{where}, epochs.{phase}", epochs, 1, "a number of epochs")
        _check_phase(f"{where}, [phases.{phase}]", epochs, content["phases"][phase])
    _check_early(f"{where}, [epochs.early]", content["epochs"])
    check_keys(f"{where}, [gates]", content["gates"], [field.name for field in fields(GateSettings)])
    _check_in(f"{where}, gates.control", content["gates"]["control"], content["gates"]["controls"])


def _check_early(where: str, epochs: Mapping[str, Any]) -> None:
    early = epochs.get("early", {})
    check_keys(where, early, EARLY_PHASES, required=())
    for phase, value in early.items():
        _check_whole(f"{where}, {phase}", value, 1, "a number of epochs")
    merging, early = merging_epochs(epochs), early_epochs(epochs)
    if 2 * early["teacher"] + early["gates"] >= merging:
        do = "They are two teachers' and the gates'; the rest is annealed."
        raise SuiteError(f"{where}: {refusal(f'fewer than the {merging} epochs of merging', early, do)}")


def early_epochs(epochs: Mapping[str, Any]) -> dict[str, int]:
    """The epochs before the merge, where it comes before annealing: of a teacher and of the gates.

    Args:
        epochs: the table of a suite; where its table `early` says nothing, the shares of `EarlySettings` count.
    """
    shares = asdict(EarlySettings()).items()
    return {phase: max(1, round(share * merging_epochs(epochs))) for phase, share in shares} | epochs.get("early", {})


def merging_epochs(epochs: Mapping[str, Any]) -> int:
    """The epochs of merging in the table of a suite."""
    return Budget(**{phase: epochs[phase] for phase in PHASES}).merging


def _check_augmentation(where: str, content: Mapping[str, Any]) -> None:
    how, source = content["augmentation"], datasets.IMAGES.get(content["dataset"])
    if source is not None and source.crop is not None:
        check_keys(f"{where}, augmentation of photographs", how, _CROP_KEYS)
        return
    _check_in(f"{where}, augmentation", how, AUGMENTATIONS)
    if how != "none" and source is None:
        do = f"Images are {', '.join(datasets.IMAGES)}."
        raise SuiteError(f"{where}, augmentation {how!r}: {refusal('a data set of images', content['dataset'], do)}")


def _check_launch(where: str, seeds: object, runs_per_process: object) -> None:
    two = isinstance(seeds, list) and len(seeds) == 2 and all(isinstance(seed, int) for seed in seeds)
    if not (two and 0 <= seeds[0] <= seeds[1]):
        raise SuiteError(f"{where}, seeds: {refusal('[first, last], whole numbers from 0 on', seeds)}")
    _check_whole(f"{where}, runs_per_process", runs_per_process, 1)


def _check_named(where: str, table: object) -> None:
    if not isinstance(table, dict) or "name" not in table:
        raise SuiteError(f"{where}: {refusal('a table with the key name', table)}")


def _check_folds(where: str, content: Mapping[str, Any]) -> None:
    _check_whole(f"{where}, folds", content.get("folds", 2), 2)
    is_images = content["dataset"] in datasets.IMAGES
    if not is_images and (found := [key for key in _FOR_IMAGES if key in content]):
        do = f"Leave out {' and '.join(found)}."
        raise SuiteError(f"{where}, {found[0]}: {refusal('a data set of images', content['dataset'], do)}")
    if content["augmentation"] == "shift_and_flip" and content.get("standardize_by", "channel") != "channel":
        do = "Augmentation shifts in black pixels, which have no one value if standardized by pixel."
        raise SuiteError(f"{where}, standardize_by: {refusal('channel beside shift_and_flip', 'pixel', do)}")


def _check_parents(where: str, content: Mapping[str, Any]) -> None:
    table, source = content["parents"], datasets.IMAGES.get(content["dataset"])
    check_keys(where, table, _PARENTS_KEYS, required=("by",))
    _check_in(f"{where}, by", table["by"], _DIVISIONS)
    if source is None or source.crop is not None:
        raise SuiteError(f"{where}: {refusal('a data set of images that fit into memory', content['dataset'])}")
    if found := [key for key in ("teacher_data", "teacher") if key in content]:
        raise SuiteError(f"{where}: {refusal(f'no {found[0]} beside it', content[found[0]], 'Leave one out.')}")
    for key in ("few", "examples"):
        _check_whole(f"{where}, {key}", table.get(key, 1), 1)
    if table["by"] == "domains":
        known = [name for name, images in datasets.IMAGES.items() if images.domains > 1]
        if source.domains == 1:
            do = f"Such are {', '.join(known)}."
            raise SuiteError(f"{where}, by domains: {refusal('a data set of several domains', content['dataset'], do)}")
        if "overlap" in table:
            raise SuiteError(f"{where}, overlap: {refusal('none where parents differ by domains', table['overlap'])}")
        return
    overlap, classes = table.get("overlap", 0.0), source.classes
    expected = f"a share of the {classes} classes that is a whole number of them, two of them at least not shared"

    def holds(value: float) -> bool:
        return 0 <= value * classes <= classes - 2 and math.isclose(value * classes, round(value * classes))

    _check_number(f"{where}, overlap", overlap, expected, holds)


def _check_sizing(where: str, table: object) -> None:
    known = [field.name for field in fields(SizingSettings) if field.name != "code"]
    check_keys(where, table, known, [name for name in known if name not in ("learning_rates", "net")])
    if "net" in table:
        _check_named(f"{where}, net", table["net"])
    check_keys(f"{where}, alphas", table["alphas"], _PENALTIES, required=())
    rates = table.get("learning_rates", {})
    check_keys(f"{where}, learning_rates", rates, list(STRATEGIES), required=())
    positive = {"learning_rate": table["learning_rate"], "threshold": table["threshold"], **table["alphas"], **rates}
    positive |= {name: table[name] for name in ("batch_size", "growth", "min_growth")}
    for name, value in positive.items():
        _check_number(f"{where}, {name}", value, "a number above 0", lambda value: value > 0)
    share = "a share of the epochs between 0 and 1"
    _check_number(f"{where}, dynamic", table["dynamic"], share, lambda value: 0 < value < 1)


def _check_comparisons(where: str, content: Mapping[str, Any]) -> None:
    table = content.get("comparisons", {})
    check_keys(where, table, ("reference", "primary", "test", "margin"), required=())
    reference, primary = table.get("reference", *content["strategies"][:1]), table.get("primary", [])
    _check_list(f"{where}, primary", primary)
    _check_in(f"{where}, reference", table.get("reference", "l0_merge"), STRATEGIES)
    for name in primary:
        _check_in(f"{where}, primary", name, STRATEGIES)
    if found := [name for name in primary if primary.count(name) > 1 or name == reference]:
        raise SuiteError(f"{where}, primary: {refusal(f'rivals of {reference}, each once', found[0])}")
    _check_in(f"{where}, test", table.get("test", "signed_rank"), TESTS)
    if "margin" in table:
        # A margin of .3 would be 30 points of accuracy, and everything within it.
        most = 0.1 if content["metric"] == "accuracy" else math.inf
        share = "a share above 0 and below 0.1, as 0.003 for .3 points" if most < 1 else "a number above 0"
        _check_number(f"{where}, margin", table["margin"], share, lambda value: 0 < value < most)


def _check_published(where: str, tables: object) -> None:
    _check_list(where, tables)
    for table in tables:
        known = ("strategy", "source", "n", "min", "max", "median", "mean", "std")
        check_keys(where, table, known, required=("strategy", "source"))
        _check_in(f"{where}, strategy", table["strategy"], STRATEGIES)


def _check_phase(where: str, epochs: int, settings: object) -> None:
    # No suite gives an optimizer: merging is by SGD, and auto-sizing has settings of its own.
    known = [field.name for field in fields(Phase) if field.name != "optimizer"]
    check_keys(where, settings, known, [name for name in known if name != "warmup"])
    below = f"a number of epochs from 0 to below {epochs}"
    _check_number(f"{where}, warmup", settings.get("warmup", 0), below, lambda value: 0 <= value < epochs)
    drops = settings["drops"]
    _check_list(f"{where}, drops", drops)
    for drop in drops:
        _check_number(f"{where}, drops", drop, f"epochs between 0 and {epochs}", lambda value: 0 < value < epochs)
    if drops != sorted(drops):
        raise SuiteError(f"{where}, drops: {refusal('epochs that rise', drops)}")
    _check_number(f"{where}, learning_rate", settings["learning_rate"], "a number above 0", lambda value: value > 0)
    _check_number(f"{where}, momentum", settings["momentum"], "a number from 0 to below 1", lambda value: 0 <= value < 1)
    _check_whole(f"{where}, batch_size", settings["batch_size"], 1)
