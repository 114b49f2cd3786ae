"""Suites: a data set, an architecture, a budget, hyper-parameters and strategies; one TOML file per table of results.

A suite's file says everything, with the source of each number beside it; a key that is missing or unknown is an error.
`scale` multiplies the epochs of all phases, of which at least one remains each. What happens at an epoch moves along:
drops of the learning rate stand at fractions of a phase, and what the controls of the gates add per epoch grows as the
epochs become fewer, so that it sums up to the same.

A table [teacher] gives distillation a big teacher of another architecture, with epochs and a schedule of its own. It may be
left out: then the big teacher has the target's architecture at twice the width.

This file imports neither Keras nor data until `Suite.task` or `Suite.prepare` is called.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from baselines.strategy import BigTeacher, Budget, GateSettings, Phase, Task
from benchmarks import datasets
from benchmarks.strategies import STRATEGIES

FOLDER = Path(__file__).parent / "suites"
# Names of the suites that come with the benchmark.
SUITES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
METRICS = ("accuracy", "mse")
AUGMENTATIONS = ("none", "shift_and_flip")
PHASES = tuple(field.name for field in fields(Budget))
_KEYS = (
    "description",
    "dataset",
    "metric",
    "augmentation",
    "seeds",
    "strategies",
    "runs_per_process",
    "architecture",
    "epochs",
    "phases",
    "gates",
    "teacher",
    "published",
    "tuning",
)
_OPTIONAL = ("published", "tuning", "teacher")
_TEACHER_KEYS = ("architecture", "epochs", "phase")
# What no run depends on.
_LAUNCH_KEYS = ("description", "seeds", "strategies", "runs_per_process", "published", "tuning")
# Settings of gate controls that are added once an epoch.
_PER_EPOCH = ("step", "eta")
# The code that a trained network depends on.
_TRAINING_CODE = (
    "kmerge.seeds",
    "kmerge.epoch_programs",
    "kmerge.training_loop",
    "kmerge.training_checks",
    "kmerge.training",
    "baselines.budget",
    "benchmarks.datasets",
    "benchmarks.augmentation",
    "benchmarks.architectures",
)


class SuiteError(ValueError):
    """A suite that does not exist, or whose file is wrong."""


@dataclass(frozen=True)
class Suite:
    """What one TOML file says.

    Attributes:
        name: of the file, without its ending.
        description: one line.
        dataset: one of `benchmarks.datasets.NAMES`.
        metric: "accuracy" or "mse", measured on the test data.
        strategies: that run by default.
        seeds: that run by default.
        runs_per_process: how many runs share a process, where starting one takes longer than a run.
        published: what papers report, for tables: each with a `strategy`, a `source`, and some of `min`, `max`, `median`,
            `mean`, `std` and `n`, in the metric's unit, accuracies as shares.
        tuning: by strategy, what to vary of this file to choose hyper-parameters; see `benchmarks.tune`.
        definition: the rest of the file's content: what a run depends on.
    """

    name: str
    description: str
    dataset: str
    metric: str
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    runs_per_process: int
    published: tuple[Mapping[str, Any], ...]
    tuning: Mapping[str, Mapping[str, Any]]
    definition: Mapping[str, Any]

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the metric is better."""
        return self.metric == "accuracy"

    def budget(self, scale: float = 1.0) -> Budget:
        """Epochs of each phase.

        Args:
            scale: multiplies the suite's epochs.

        Returns:
            The epochs, rounded, at least 1 each. Where the suite gives one network as many epochs as merging takes
            (two teachers, gates, fine-tuning), it also has as many after rounding.

        Raises:
            SuiteError: if the scale is not positive.
        """
        if not 0 < scale < float("inf"):
            raise SuiteError(f"The scale multiplies epochs, so it must be a positive number; received {scale}.")
        whole = Budget(**self.definition["epochs"])
        scaled = Budget(**{phase: max(1, round(scale * epochs)) for phase, epochs in asdict(whole).items()})
        return replace(scaled, single=scaled.merging) if whole.single == whole.merging else scaled

    def prepare(self, data_dir: str | Path | None, cache_dir: str | Path) -> None:
        """Decode the data into the cache, once per machine; see `benchmarks.datasets.prepare`."""
        datasets.prepare(self.dataset, data_dir, cache_dir)

    def task(
        self,
        seed: int,
        data_dir: str | Path | None,
        cache_dir: str | Path,
        scale: float = 1.0,
        examples: int | None = None,
    ) -> Task:
        """What strategies train on.

        Args:
            seed: of the replicate; only data sets that are drawn depend on it.
            data_dir: folder of tensorflow-datasets; None for its default.
            cache_dir: folder of the decoded arrays.
            scale: as for `budget`.
            examples: use this many training examples, and no more than that for validation; None for all.

        Returns:
            The task.

        Raises:
            DataMissingError: if the data is not there; see `benchmarks.datasets.load`.
            SuiteError: if the architecture does not take an option, or there are too few examples.
        """
        import keras  # Here, as command lines that only list suites do without.

        try:
            dataset = datasets.load(self.dataset, data_dir, cache_dir, seed, examples)
        except ValueError as error:
            raise SuiteError(str(error)) from error
        build = self._builder(dataset, "architecture", self.definition["architecture"])
        build(seed)  # Refuses a wrong size now.
        gates = self._gates(self.budget(scale))
        is_regression = self.metric == "mse"
        task = Task(
            name=self.name,
            data=dataset.data,
            build=build,
            loss=keras.losses.MeanSquaredError
            if is_regression
            else partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True),
            metric=self.metric,
            augment=self._augmentation(dataset),
            phases={phase: _phase(self.definition["phases"][phase], self.definition["epochs"][phase]) for phase in PHASES},
            gates=gates,
            identity=self._identity(dataset),
        )
        return replace(task, big_teacher=self._big_teacher(task, dataset, seed, scale))

    def _big_teacher(self, task: Task, dataset: datasets.Dataset, seed: int, scale: float) -> BigTeacher | None:
        settings = self.definition.get("teacher")
        if settings is None:
            return None
        build = self._builder(dataset, "teacher.architecture", settings["architecture"])
        build(seed)
        phases = {**task.phases, "teacher": _phase(settings["phase"], settings["epochs"])}
        identity = {**task.identity, "architecture": settings["architecture"]}
        # Where it has the epochs of two teachers, it also has as many after rounding.
        as_two = settings["epochs"] == 2 * self.definition["epochs"]["teacher"]
        epochs = 2 * self.budget(scale).teacher if as_two else max(1, round(scale * settings["epochs"]))
        return BigTeacher(replace(task, build=build, phases=phases, identity=identity), epochs)

    def _builder(self, dataset: datasets.Dataset, where: str, architecture: Mapping[str, Any]) -> Callable:
        from benchmarks.architectures import ARCHITECTURES

        options = dict(architecture)
        name = options.pop("name")
        if name not in ARCHITECTURES:
            raise SuiteError(f"Suite {self.name}: unknown architecture {name!r}; there are {', '.join(ARCHITECTURES)}.")
        named = inspect.signature(ARCHITECTURES[name]).parameters.values()
        # The suite says the target; strategies ask for wider networks.
        known = [p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name != "widen"]
        _check_keys(f"suite {self.name}, [{where}]", options, known, required=())
        shape = dataset.data.x_train.shape[1:]
        return partial(ARCHITECTURES[name], shape, dataset.outputs, **options)

    def _gates(self, budget: Budget) -> GateSettings:
        from kmerge import GatePressure, HardConcreteGate

        stretch = self.definition["epochs"]["gates"] / budget.gates
        settings = dict(self.definition["gates"])
        settings["controls"] = {
            name: {key: value * stretch if key in _PER_EPOCH else value for key, value in control.items()}
            for name, control in settings["controls"].items()
        }
        # What these do not know they refuse here, not after hours of teachers.
        for name, control in settings["controls"].items():
            GatePressure(control=name, **control)
        HardConcreteGate(1, sampling=settings["sampling"])
        return GateSettings(**settings)

    def _augmentation(self, dataset: datasets.Dataset) -> Callable | None:
        if self.definition["augmentation"] == "none":
            return None
        from benchmarks.augmentation import ShiftAndFlip

        return partial(ShiftAndFlip, 4, dataset.black)

    def _identity(self, dataset: datasets.Dataset) -> dict[str, Any]:
        import keras

        backend = keras.backend.backend()
        return {
            "data": dataset.identity,
            **{key: self.definition[key] for key in ("metric", "augmentation", "architecture")},
            "code": _code_digest(),
            "versions": {name: importlib.import_module(name).__version__ for name in ("keras", "numpy", backend)},
            "precision": keras.config.dtype_policy().name,
            "devices": sorted({device.partition(":")[0] for device in keras.distribution.list_devices()}),
        }


def _phase(settings: Mapping[str, Any], epochs: int) -> Phase:
    return Phase(**settings | {"drops": tuple(drop / epochs for drop in settings["drops"])})


def _code_digest() -> str:
    digest = hashlib.sha256()
    for module in _TRAINING_CODE:
        digest.update(Path(importlib.util.find_spec(module).origin).read_bytes())
    return digest.hexdigest()


def suite_content(path: Path) -> dict[str, Any]:
    """What a suite's file says, unchecked.

    Raises:
        SuiteError: if it cannot be read.
    """
    read = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        return read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise SuiteError(f"Suite file {path} cannot be read: {error}") from error


def load_suite(name_or_path: str | Path) -> Suite:
    """A suite.

    Args:
        name_or_path: one of `SUITES`, or the path of a TOML file, or of a JSON file with the same content.

    Returns:
        The suite.

    Raises:
        SuiteError: if there is no such suite, or its file lacks a key, has an unknown one or a wrong value.
    """
    path = Path(name_or_path)
    if path.suffix not in (".toml", ".json"):
        path = FOLDER / f"{name_or_path}.toml"
        if str(name_or_path) not in SUITES:
            raise SuiteError(f"Unknown suite {str(name_or_path)!r}; there are {', '.join(SUITES)}, and paths of files.")
    content = suite_content(path)
    _check(str(path), content)
    first, last = content["seeds"]
    return Suite(
        name=path.stem,
        description=content["description"],
        dataset=content["dataset"],
        metric=content["metric"],
        strategies=tuple(content["strategies"]),
        seeds=tuple(range(first, last + 1)),
        runs_per_process=content["runs_per_process"],
        published=tuple(content.get("published", ())),
        tuning=content.get("tuning", {}),
        definition={key: content[key] for key in _KEYS if key in content and key not in _LAUNCH_KEYS},
    )


def _check_keys(where: str, table: object, known: tuple | list, required: tuple | list | None = None) -> None:
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


def _check(where: str, content: dict[str, Any]) -> None:
    _check_keys(where, content, _KEYS, required=[key for key in _KEYS if key not in _OPTIONAL])
    for key, known in (("dataset", datasets.NAMES), ("metric", METRICS), ("augmentation", AUGMENTATIONS)):
        _check_in(f"{where}, {key}", content[key], known)
    for strategy in (*content["strategies"], *content.get("tuning", {})):
        _check_in(f"{where}, strategies", strategy, list(STRATEGIES))
    _check_launch(where, content["seeds"], content["runs_per_process"])
    _check_published(f"{where}, [[published]]", content.get("published", []))
    if content["augmentation"] != "none" and content["dataset"] not in datasets.IMAGES:
        raise SuiteError(
            f"{where}: augmentation {content['augmentation']!r} is for images, not {content['dataset']!r}."
        )
    _check_architecture(f"{where}, [architecture]", content["architecture"])
    if "teacher" in content:
        teacher = content["teacher"]
        _check_keys(f"{where}, [teacher]", teacher, _TEACHER_KEYS)
        _check_architecture(f"{where}, [teacher.architecture]", teacher["architecture"])
        _check_phase(f"{where}, [teacher]", teacher["epochs"], teacher["phase"])
    _check_keys(f"{where}, [epochs]", content["epochs"], PHASES)
    _check_keys(f"{where}, [phases]", content["phases"], PHASES)
    for phase in PHASES:
        _check_phase(f"{where}, phase {phase}", content["epochs"][phase], content["phases"][phase])
    _check_keys(f"{where}, [gates]", content["gates"], [field.name for field in fields(GateSettings)])
    _check_in(f"{where}, gates.control", content["gates"]["control"], content["gates"]["controls"])


def _check_architecture(where: str, table: object) -> None:
    if not isinstance(table, dict) or "name" not in table:
        raise SuiteError(f"{where}: expected a table with the key name; received {table!r}.")


def _check_launch(where: str, seeds: object, runs_per_process: object) -> None:
    two = isinstance(seeds, list) and len(seeds) == 2 and all(isinstance(seed, int) for seed in seeds)
    if not (two and 0 <= seeds[0] <= seeds[1]):
        raise SuiteError(f"{where}, seeds: expected [first, last], integers from 0; received {seeds!r}.")
    if not isinstance(runs_per_process, int) or runs_per_process < 1:
        raise SuiteError(f"{where}, runs_per_process: expected a positive integer; received {runs_per_process!r}.")


def _check_published(where: str, tables: object) -> None:
    if not isinstance(tables, list):
        raise SuiteError(f"{where}: expected a list of tables; received {tables!r}.")
    for table in tables:
        known = ("strategy", "source", "n", "min", "max", "median", "mean", "std")
        _check_keys(where, table, known, required=("strategy", "source"))
        _check_in(f"{where}, strategy", table["strategy"], list(STRATEGIES))


def _check_phase(where: str, epochs: object, settings: dict[str, Any]) -> None:
    _check_keys(where, settings, [field.name for field in fields(Phase)])
    if not isinstance(epochs, int) or epochs < 1:
        raise SuiteError(f"{where}: expected a positive whole number of epochs; received {epochs!r}.")
    drops = settings["drops"]
    if drops != sorted(drops) or not all(0 < drop < epochs for drop in drops):
        raise SuiteError(f"{where}: expected drops at rising epochs between 0 and {epochs}; received {drops}.")
    if not settings["learning_rate"] > 0 or not 0 <= settings["momentum"] < 1 or settings["batch_size"] < 1:
        raise SuiteError(
            f"{where}: expected a positive learning_rate and batch_size, and a momentum from 0 to below 1; received "
            f"{settings['learning_rate']}, {settings['batch_size']} and {settings['momentum']}."
        )
