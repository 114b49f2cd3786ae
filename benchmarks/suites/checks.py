"""What a suite's file may say: every key is known, none is missing, and values are in range.

A suite is for merging and what is held against it, with the phases of `Budget`; or for auto-sizing alone, with the table
[sizing] and the epochs `single`; or for both. This module imports neither Keras nor data.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from baselines.protocol.task import Budget, GateSettings, Phase, SizingSettings
from benchmarks.data import datasets
from benchmarks.strategies.registry import STRATEGIES

METRICS = ("accuracy", "mse")
AUGMENTATIONS = ("none", "shift_and_flip")
# Of the augmentation of photographs; see `benchmarks.data.augmentation.RandomResizedCrop`.
_CROP_KEYS = ("area", "ratio", "jitter")
PHASES = tuple(field.name for field in fields(Budget))
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
    "published",
    "tuning",
)
# What no run depends on.
LAUNCH_KEYS = ("description", "seeds", "strategies", "runs_per_process", "published", "tuning")
_FOR_IMAGES = ("standardize_by", "folds")
_OPTIONAL = (*_FOR_IMAGES, "sizing", "teacher", "teacher_data", "published", "tuning")
_TEACHER_KEYS = ("architecture", "epochs", "phase")
# Into how many parts training data are cut for teachers.
TEACHER_PARTS = {"all": 1, "halves": 2}
# The suite says the target; strategies ask for wider networks, and data for how inputs are standardized.
_NOT_OPTIONS = ("widen", "standardize")
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
    if name not in architectures:
        raise SuiteError(f"{where}: unknown architecture {name!r}; there are {', '.join(architectures)}.")
    named = inspect.signature(architectures[name]).parameters.values()
    known = [p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_OPTIONS]
    options = {key: value for key, value in table.items() if key != "name"}
    _check_keys(where, options, known, required=())
    return name


def _check_keys(where: str, table: object, known: Sequence[str], required: Sequence[str] | None = None) -> None:
    if not isinstance(table, dict):
        raise SuiteError(f"{where}: expected a table; received {table!r}.")
    required = known if required is None else required
    unknown = [key for key in table if key not in known]
    missing = [key for key in required if key not in table]
    if unknown or missing:
        raise SuiteError(f"{where}: unknown keys {unknown}, missing keys {missing}; expected {', '.join(known)}.")


def _check_in(where: str, value: object, known) -> None:
    if value not in known:
        raise SuiteError(f"{where}: unknown {value!r}; there are {', '.join(known)}.")


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
    _check_keys(where, content, KEYS, required)
    for key, known in (("dataset", datasets.NAMES), ("metric", METRICS)):
        _check_in(f"{where}, {key}", content[key], known)
    _check_augmentation(where, content)
    for strategy in (*content["strategies"], *content.get("tuning", {})):
        _check_in(f"{where}, strategies", strategy, list(STRATEGIES))
    _check_launch(where, content["seeds"], content["runs_per_process"])
    _check_published(f"{where}, [[published]]", content.get("published", []))
    _check_in(f"{where}, standardize_by", content.get("standardize_by", "channel"), datasets.STANDARDIZATIONS)
    _check_in(f"{where}, teacher_data", content.get("teacher_data", "all"), TEACHER_PARTS)
    _check_folds(where, content)
    _check_named(f"{where}, [architecture]", content["architecture"])
    if "teacher" in content:
        teacher = content["teacher"]
        _check_keys(f"{where}, [teacher]", teacher, _TEACHER_KEYS)
        _check_named(f"{where}, [teacher.architecture]", teacher["architecture"])
        _check_phase(f"{where}, [teacher]", teacher["epochs"], teacher["phase"])
    if "sizing" in content:
        _check_sizing(f"{where}, [sizing]", content["sizing"])
    if not merges:
        _check_keys(f"{where}, [epochs]", content["epochs"], ("single",))
        _check_epochs(f"{where}, epochs.single", content["epochs"]["single"])
        return
    _check_keys(f"{where}, [epochs]", content["epochs"], PHASES)
    _check_keys(f"{where}, [phases]", content["phases"], PHASES)
    for phase in PHASES:
        _check_phase(f"{where}, phase {phase}", content["epochs"][phase], content["phases"][phase])
    _check_keys(f"{where}, [gates]", content["gates"], [field.name for field in fields(GateSettings)])
    _check_in(f"{where}, gates.control", content["gates"]["control"], content["gates"]["controls"])


def _check_augmentation(where: str, content: Mapping[str, Any]) -> None:
    how, source = content["augmentation"], datasets.IMAGES.get(content["dataset"])
    if source is not None and source.crop is not None:
        _check_keys(f"{where}, augmentation of photographs", how, _CROP_KEYS)
        return
    _check_in(f"{where}, augmentation", how, AUGMENTATIONS)
    if how != "none" and source is None:
        raise SuiteError(f"{where}: augmentation {how!r} is for images, not {content['dataset']!r}.")


def _check_launch(where: str, seeds: object, runs_per_process: object) -> None:
    two = isinstance(seeds, list) and len(seeds) == 2 and all(isinstance(seed, int) for seed in seeds)
    if not (two and 0 <= seeds[0] <= seeds[1]):
        raise SuiteError(f"{where}, seeds: expected [first, last], integers from 0; received {seeds!r}.")
    if not isinstance(runs_per_process, int) or runs_per_process < 1:
        raise SuiteError(f"{where}, runs_per_process: expected a positive integer; received {runs_per_process!r}.")


def _check_named(where: str, table: object) -> None:
    if not isinstance(table, dict) or "name" not in table:
        raise SuiteError(f"{where}: expected a table with the key name; received {table!r}.")


def _check_folds(where: str, content: Mapping[str, Any]) -> None:
    folds = content.get("folds", 2)
    if not isinstance(folds, int) or folds < 2:
        raise SuiteError(f"{where}, folds: expected a whole number from 2; received {folds!r}.")
    is_images = content["dataset"] in datasets.IMAGES
    if not is_images and (set(_FOR_IMAGES) & content.keys()):
        raise SuiteError(f"{where}: {' and '.join(_FOR_IMAGES)} are for images, not {content['dataset']!r}.")
    if content["augmentation"] == "shift_and_flip" and content.get("standardize_by", "channel") != "channel":
        raise SuiteError(f"{where}: augmentation shifts in black pixels, which have no one value if standardized by pixel.")


def _check_sizing(where: str, table: object) -> None:
    known = [field.name for field in fields(SizingSettings) if field.name != "code"]
    _check_keys(where, table, known, [name for name in known if name not in ("learning_rates", "net")])
    if "net" in table:
        _check_named(f"{where}, net", table["net"])
    _check_keys(f"{where}, alphas", table["alphas"], _PENALTIES, required=())
    rates = table.get("learning_rates", {})
    _check_keys(f"{where}, learning_rates", rates, list(STRATEGIES), required=())
    positive = {"learning_rate": table["learning_rate"], "threshold": table["threshold"], **table["alphas"], **rates}
    positive |= {name: table[name] for name in ("batch_size", "growth", "min_growth")}
    for name, value in positive.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SuiteError(f"{where}, {name}: expected a positive number; received {value!r}.")
    if not 0 < table["dynamic"] < 1:
        raise SuiteError(f"{where}, dynamic: expected a share of the epochs between 0 and 1; received {table['dynamic']}.")


def _check_published(where: str, tables: object) -> None:
    if not isinstance(tables, list):
        raise SuiteError(f"{where}: expected a list of tables; received {tables!r}.")
    for table in tables:
        known = ("strategy", "source", "n", "min", "max", "median", "mean", "std")
        _check_keys(where, table, known, required=("strategy", "source"))
        _check_in(f"{where}, strategy", table["strategy"], list(STRATEGIES))


def _check_epochs(where: str, epochs: object) -> None:
    if not isinstance(epochs, int) or epochs < 1:
        raise SuiteError(f"{where}: expected a positive whole number of epochs; received {epochs!r}.")


def _check_phase(where: str, epochs: object, settings: dict[str, Any]) -> None:
    # No suite gives an optimizer: merging is by SGD, and auto-sizing has settings of its own.
    known = [field.name for field in fields(Phase) if field.name != "optimizer"]
    _check_keys(where, settings, known, [name for name in known if name != "warmup"])
    _check_epochs(where, epochs)
    warmup = settings.get("warmup", 0)
    if not isinstance(warmup, int | float) or not 0 <= warmup < epochs:
        raise SuiteError(f"{where}: expected a warmup from 0 to below {epochs} epochs; received {warmup!r}.")
    drops = settings["drops"]
    if drops != sorted(drops) or not all(0 < drop < epochs for drop in drops):
        raise SuiteError(f"{where}: expected drops at rising epochs between 0 and {epochs}; received {drops}.")
    if not settings["learning_rate"] > 0 or not 0 <= settings["momentum"] < 1 or settings["batch_size"] < 1:
        raise SuiteError(
            f"{where}: expected a positive learning_rate and batch_size, and a momentum from 0 to below 1; received "
            f"{settings['learning_rate']}, {settings['batch_size']} and {settings['momentum']}."
        )
