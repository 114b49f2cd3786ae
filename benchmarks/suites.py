"""Suites: a data set, an architecture, a budget, hyper-parameters and strategies; one TOML file per table of results.

A suite's file says everything, with the source of each number beside it; a key that is missing or unknown is an error.
`scale` multiplies the epochs of all phases, of which at least one remains each. What happens at an epoch moves along:
drops of the learning rate stand at fractions of a phase, and what the controls of the gates add per epoch grows as the
epochs become fewer, so that it sums up to the same.

This file imports neither Keras nor data until `Suite.task` or `Suite.prepare` is called.
"""

import hashlib
import importlib
import importlib.util
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from baselines.strategy import Budget, GateSettings, Phase, Task
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
)
# What no run depends on.
_LAUNCH_KEYS = ("description", "seeds", "strategies", "runs_per_process")
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
    "benchmarks.puzzles",
    "benchmarks.splits",
    "benchmarks.datasets",
    "benchmarks.augmentation",
    "benchmarks.self_normalizing",
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
        definition: the rest of the file's content: what a run depends on.
    """

    name: str
    description: str
    dataset: str
    metric: str
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    runs_per_process: int
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
        build = self._builder(dataset)
        build(seed)  # Refuses a wrong size now.
        gates = self._gates(self.budget(scale))
        is_regression = self.metric == "mse"
        return Task(
            name=self.name,
            data=dataset.data,
            build=build,
            loss=keras.losses.MeanSquaredError
            if is_regression
            else partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True),
            metric=self.metric,
            augment=self._augmentation(dataset),
            phases={phase: self._phase(phase) for phase in PHASES},
            gates=gates,
            identity=self._identity(dataset),
        )

    def _builder(self, dataset: datasets.Dataset) -> Callable:
        from benchmarks.architectures import ARCHITECTURES

        options = dict(self.definition["architecture"])
        name = options.pop("name")
        if name not in ARCHITECTURES:
            raise SuiteError(f"Suite {self.name}: unknown architecture {name!r}; there are {', '.join(ARCHITECTURES)}.")
        named = inspect.signature(ARCHITECTURES[name]).parameters.values()
        # The suite says the target; strategies ask for wider networks.
        known = [p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name != "widen"]
        _check_keys(f"suite {self.name}, [architecture]", options, known, required=())
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

    def _phase(self, name: str) -> Phase:
        settings = self.definition["phases"][name]
        epochs = self.definition["epochs"][name]
        return Phase(**settings | {"drops": tuple(drop / epochs for drop in settings["drops"])})

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


def _code_digest() -> str:
    digest = hashlib.sha256()
    for module in _TRAINING_CODE:
        digest.update(Path(importlib.util.find_spec(module).origin).read_bytes())
    return digest.hexdigest()


def load_suite(name_or_path: str | Path) -> Suite:
    """A suite.

    Args:
        name_or_path: one of `SUITES`, or the path of a TOML file.

    Returns:
        The suite.

    Raises:
        SuiteError: if there is no such suite, or its file lacks a key, has an unknown one or a wrong value.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
        if str(name_or_path) not in SUITES:
            raise SuiteError(f"Unknown suite {str(name_or_path)!r}; there are {', '.join(SUITES)}, and paths of files.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SuiteError(f"Suite file {path} cannot be read: {error}") from error
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
        definition={key: content[key] for key in _KEYS if key not in _LAUNCH_KEYS},
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
    _check_keys(where, content, _KEYS)
    for key, known in (("dataset", datasets.NAMES), ("metric", METRICS), ("augmentation", AUGMENTATIONS)):
        _check_in(f"{where}, {key}", content[key], known)
    for strategy in content["strategies"]:
        _check_in(f"{where}, strategies", strategy, list(STRATEGIES))
    _check_launch(where, content["seeds"], content["runs_per_process"])
    if content["augmentation"] != "none" and content["dataset"] not in datasets.IMAGES:
        raise SuiteError(
            f"{where}: augmentation {content['augmentation']!r} is for images, not {content['dataset']!r}."
        )
    if "name" not in content["architecture"]:
        raise SuiteError(f"{where}, [architecture]: missing key name.")
    _check_keys(f"{where}, [epochs]", content["epochs"], PHASES)
    _check_keys(f"{where}, [phases]", content["phases"], PHASES)
    for phase in PHASES:
        _check_phase(f"{where}, phase {phase}", content["epochs"][phase], content["phases"][phase])
    _check_keys(f"{where}, [gates]", content["gates"], [field.name for field in fields(GateSettings)])
    _check_in(f"{where}, gates.control", content["gates"]["control"], content["gates"]["controls"])


def _check_launch(where: str, seeds: object, runs_per_process: object) -> None:
    two = isinstance(seeds, list) and len(seeds) == 2 and all(isinstance(seed, int) for seed in seeds)
    if not (two and 0 <= seeds[0] <= seeds[1]):
        raise SuiteError(f"{where}, seeds: expected [first, last], integers from 0; received {seeds!r}.")
    if not isinstance(runs_per_process, int) or runs_per_process < 1:
        raise SuiteError(f"{where}, runs_per_process: expected a positive integer; received {runs_per_process!r}.")


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
