"""Suites: a data set, an architecture, a budget, hyper-parameters and strategies; one TOML file per table of results.

A suite's file says everything, with the source of each number beside it; a key that is missing or unknown is an error.
`scale` multiplies the epochs of all phases, of which at least one remains each. What happens at an epoch moves along:
drops of the learning rate stand at fractions of a phase, and what the controls of the gates add per epoch grows as the
epochs become fewer: its step times the epochs stays. The paper's lambda, which grows by step * sqrt(lambda) an epoch, then
ends lower in few epochs, as interest that is added less often does: CIFAR-100's at 7.25 after 100 epochs, at 5.90 after 10.

A table [comparisons] declares, before the runs, which rivals the claims are about, and by which test; no run depends on it.

A table [parents] gives two teachers a part of the training data each, as all examples of half of the classes, and all that
comes after them `few` examples of each class. Their choices are still made on the whole validation part, of all classes.

A table [epochs.early] says how long teachers and gates are trained where networks are merged before they are annealed. What
it leaves out is a sixth of the epochs of merging for a teacher, and a twelfth for the gates.

A table [teacher] gives distillation a big teacher of another architecture, with epochs and a schedule of its own. It may be
left out: then the big teacher has the target's architecture at twice the width.

With `based_on` a file says only what differs from another suite.

Data, a network and strategies may be one's own, `module:function`, an npz file or a folder of images; see
`benchmarks.suites.own`. The hashes of what they are belong to the definition. `own_folder` says where they are, if not beside
the file.

This file imports neither Keras nor data until `Suite.task` or `Suite.prepare` is called.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from baselines.protocol.metrics import METRICS
from baselines.protocol.task import BigTeacher, Budget, EarlySettings, GateSettings, Phase, SizingSettings, Task
from benchmarks.checkout import SIZING_CODE, TRAINING_CODE, digest_of
from benchmarks.command_line import one_of, refusal
from benchmarks.data import datasets
from benchmarks.data.own_data import is_own
from benchmarks.data.sources import CLASS_NAMES
from benchmarks.own_code import is_reference
from benchmarks.strategies.registry import EARLY, SIZING, own_source
from benchmarks.suites import own
from benchmarks.suites.checks import check_content, early_epochs, merging_epochs
from benchmarks.suites.files import content_of
from benchmarks.suites.parents import divided
from benchmarks.suites.schema import LAUNCH_KEYS, PHASES
from benchmarks.suites.values import SuiteError

FOLDER = Path(__file__).parent
# Ends the name of a suite under the cross-validation of the auto-sizing paper: das_mnist:paper.
PAPER = ":paper"
# What a suite does not take from the one that it is based on: it is about other runs.
_NOT_INHERITED = ("published", "tuning")
# What of the definition a trained network depends on, beside its data.
_TRAINED_ON = ("metric", "augmentation", "architecture", "own")
# Names of the suites that come with the benchmark.
SUITES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@dataclass(frozen=True)
class Suite:
    """What one TOML file says.

    Attributes:
        name: of the file, without its ending.
        description: one line.
        dataset: one of `benchmarks.data.datasets.NAMES`, or data of one's own.
        metric: one of `baselines.protocol.metrics.METRICS`, measured on the test data.
        strategies: that run by default.
        seeds: that run by default.
        runs_per_process: how many runs share a process, where starting one takes longer than a run.
        published: what papers report, for tables: each with a `strategy`, a `source`, and some of `min`, `max`, `median`,
            `mean`, `std` and `n`, in the metric's unit, accuracies and the like as shares.
        tuning: by strategy, what to vary of this file to choose hyper-parameters; see `benchmarks.tune`.
        comparisons: what is compared and how, as the file declares it before the runs: some of `reference` (without that
            key the first strategy), `primary` (the rivals of the primary family), `test` and `margin`.
        definition: the rest of the file's content: what a run depends on, but for `sizing` beside other strategies.
        sizing: settings of the strategies of auto-sizing, or None. Beside strategies of another kind they are no part of
            the definition: what those runs are does not depend on them.
        early: epochs of a teacher and of the gates for the strategies that merge before annealing, or None in a suite for
            auto-sizing alone. No part of the definition either.
        folder: where code and data of one's own may be: that of the file, or the one that it names as `own_folder`.
        folds: of the paper's cross-validation, which the runs are under; None for the protocol of `benchmarks.data.datasets`.
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
    sizing: Mapping[str, Any] | None = None
    early: Mapping[str, int] | None = None
    folds: int | None = None
    comparisons: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = FOLDER

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the metric is better."""
        return METRICS[self.metric].higher_is_better

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
            raise SuiteError(f"scale: {refusal('a number above 0', scale, 'It multiplies epochs.')}")
        whole = Budget(**dict.fromkeys(PHASES, 0) | self.definition["epochs"])
        scaled = Budget(**{p: max(1, round(scale * epochs)) if epochs else 0 for p, epochs in asdict(whole).items()})
        return replace(scaled, single=scaled.merging) if whole.single == whole.merging else scaled

    def settings_of(self, strategy: str) -> dict[str, Any]:
        """What the runs of a strategy depend on beside the definition.

        Args:
            strategy: its name.

        Returns:
            Further entries of the run's configuration.

        Raises:
            SuiteError: if the suite lacks what the strategy needs.
        """
        if own_source(strategy) is not None:
            return own.settings_of(strategy, self.folder)
        if strategy in SIZING:
            if self.sizing is None:
                raise SuiteError(f"suite {self.name}: expected a table [sizing], which {strategy} needs, received none.")
            return {} if "sizing" in self.definition else {"sizing": self.sizing}
        if "phases" not in self.definition:
            raise SuiteError(
                f"suite {self.name}: expected the tables [phases] and [gates], which {strategy} needs, received neither. "
                f"It is for {', '.join(sorted(SIZING))}."
            )
        return {"early": self.early} if strategy in EARLY else {}

    def prepare(self, data_dir: str | Path | None, cache_dir: str | Path) -> None:
        """Decode the data into the cache, once per machine; see `benchmarks.data.datasets.prepare`."""
        if not is_own(self.dataset):
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
            examples: use this many training examples, and no more than that for validation; None for all. With a table
                [parents], so many labelled ones after the teachers, which have all; None for the few that the suite names.

        Returns:
            The task.

        Raises:
            DataMissingError: if the data is not there; see `benchmarks.data.datasets.load`.
            SuiteError: if the architecture does not take an option, or there are too few examples.
        """
        # Here, as command lines that only list suites do without Keras.
        from baselines.protocol.outcomes import loss_of

        parents = self.definition.get("parents")
        try:
            dataset = own.dataset_of(self.definition, self.folder, seed, examples) or datasets.load(
                self.dataset,
                data_dir,
                cache_dir,
                seed,
                parents.get("examples") if parents else examples,
                standardize_by=self.definition.get("standardize_by", "channel"),
                folds=self.folds,
            )
        except ValueError as error:
            raise SuiteError(str(error)) from error
        build = self._builder(dataset, self.definition["architecture"])
        build(seed)  # Refuses images of a wrong size now.
        merges = "phases" in self.definition
        phases = {p: phase_of(self.definition["phases"][p], self.definition["epochs"][p]) for p in PHASES} if merges else {}
        task = Task(
            name=self.name,
            data=dataset.data,
            build=build,
            loss=loss_of(self.metric),
            metric=self.metric,
            augment=self._augmentation(dataset),
            phases=phases,
            gates=self._gates(self.budget(scale)) if merges else None,
            identity=self._identity(dataset),
            sizing=self._sizing(dataset),
            early=self._early() if merges else EarlySettings(),
            classes=CLASS_NAMES[self.dataset] if METRICS[self.metric].of_pixels else (),
        )
        task = divided(task, dataset, self.definition, seed, examples, self.folds)
        return replace(task, big_teacher=self._big_teacher(task, dataset, seed, scale))

    def _big_teacher(self, task: Task, dataset: datasets.Dataset, seed: int, scale: float) -> BigTeacher | None:
        settings = self.definition.get("teacher")
        if settings is None:
            return None
        build = self._builder(dataset, settings["architecture"])
        build(seed)
        phases = {**task.phases, "teacher": phase_of(settings["phase"], settings["epochs"])}
        identity = {**task.identity, "architecture": settings["architecture"]}
        # Where it has the epochs of two teachers, it also has as many after rounding.
        as_two = settings["epochs"] == 2 * self.definition["epochs"]["teacher"]
        epochs = 2 * self.budget(scale).teacher if as_two else max(1, round(scale * settings["epochs"]))
        return BigTeacher(replace(task, build=build, phases=phases, identity=identity), epochs)

    def _builder(self, dataset: datasets.Dataset, architecture: Mapping[str, Any]) -> Callable:
        if is_reference(architecture["name"]):
            return own.builder_of(architecture, dataset, self.folder)
        from benchmarks.networks.architectures import ARCHITECTURES

        options = {key: value for key, value in architecture.items() if key != "name"}
        if dataset.standardize is not None:
            options["standardize"] = dataset.standardize
        return partial(ARCHITECTURES[architecture["name"]], dataset.data.x_val.shape[1:], dataset.outputs, **options)

    def _sizing(self, dataset: datasets.Dataset) -> SizingSettings | None:
        if self.sizing is None:
            return None
        settings = dict(self.sizing)
        net = settings.pop("net", None)
        if net is not None:
            net = self._builder(dataset, net)  # not built yet: other strategies may have data that it cannot take
        return SizingSettings(**settings, net=net, code=digest_of(*SIZING_CODE))

    def _gates(self, budget: Budget) -> GateSettings:
        settings = GateSettings(**self.definition["gates"])
        return settings.stretched(self.definition["epochs"]["gates"] / budget.gates)

    def _early(self) -> EarlySettings:
        merging = merging_epochs(self.definition["epochs"])
        return EarlySettings(**{phase: epochs / merging for phase, epochs in self.early.items()})

    def _augmentation(self, dataset: datasets.Dataset) -> Callable | None:
        how = self.definition["augmentation"]
        if how == "none":
            return None
        from benchmarks.data.augmentation import RandomResizedCrop, ScaleCropFlip, ShiftAndFlip

        if how == "scale_crop_flip":
            from kmerge import WithMasks

            fill = dataset.black or (0,) * dataset.data.x_val.shape[-1]
            return lambda seed: WithMasks(ScaleCropFlip(fill, dataset.void, seed))
        if isinstance(how, dict):
            return partial(RandomResizedCrop, dataset.data.x_val.shape[1], **how)
        if not dataset.black:
            raise SuiteError(f"suite {self.name}, augmentation: " + refusal("none where inputs are no images of bytes", how))
        return partial(ShiftAndFlip, 4, dataset.black)

    def _identity(self, dataset: datasets.Dataset) -> dict[str, Any]:
        import keras

        backend = keras.backend.backend()
        return {
            "data": dataset.identity,
            **{key: self.definition[key] for key in _TRAINED_ON if key in self.definition},
            "code": digest_of(*TRAINING_CODE),
            "versions": {name: importlib.import_module(name).__version__ for name in ("keras", "numpy", backend)},
            "precision": keras.config.dtype_policy().name,
            "devices": sorted({device.partition(":")[0] for device in keras.distribution.list_devices()}),
        }


def phase_of(settings: Mapping[str, Any], epochs: int) -> Phase:
    """A phase as strategies train it.

    Args:
        settings: its table in the file, where drops and warm-up are told by epochs.
        epochs: of the phase, there.
    """
    drops, warmup = tuple(drop / epochs for drop in settings["drops"]), settings.get("warmup", 0) / epochs
    return Phase(**settings | {"drops": drops, "warmup": warmup})


def suite_content(path: Path) -> dict[str, Any]:
    """What a suite's file says, and where it is `based_on` another suite, what that one says besides; unchecked.

    Raises:
        SuiteError: if it cannot be read.
    """
    content = content_of(path, "a suite's file")
    base = content.pop("based_on", None)
    if base is None:
        return content
    if base not in SUITES or path == FOLDER / f"{base}.toml":
        raise SuiteError(f"{path}, based_on: {one_of([name for name in SUITES if name != path.stem], base)}")
    below = suite_content(FOLDER / f"{base}.toml")
    return _laid_over({key: value for key, value in below.items() if key not in _NOT_INHERITED}, content)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One table over another: tables in both are merged, of other values the upper one counts, and of tables of another name,
    as that of a network with other options."""
    tables = [key for key in above if isinstance(above[key], dict) and isinstance(below.get(key), dict)]
    tables = [key for key in tables if above[key].get("name") in (None, below[key].get("name"))]
    return {**below, **above, **{key: _laid_over(below[key], above[key]) for key in tables}}


def load_suite(name_or_path: str | Path, with_own: bool = True) -> Suite:
    """A suite.

    Args:
        name_or_path: one of `SUITES`, or the path of a TOML file, or of a JSON file with the same content. With `:paper` at
            its end, the suite under the cross-validation of the auto-sizing paper, where the file gives the number of folds.
        with_own: whether data and code of one's own are looked for, as runs need; a report does without them.

    Returns:
        The suite.

    Raises:
        SuiteError: if there is no such suite, or its file lacks a key, has an unknown one or a wrong value.
    """
    plain = str(name_or_path).removesuffix(PAPER)
    is_paper, path = plain != str(name_or_path), Path(plain)
    if path.suffix not in (".toml", ".json"):
        path = FOLDER / f"{plain}.toml"
        if plain not in SUITES:
            raise SuiteError(f"suite: {one_of(SUITES, plain)} A file's path ends in .toml or .json.")
    if path.stem.startswith(".") or not path.stem.isprintable() or len(path.stem) > 100:
        raise SuiteError("suite: " + refusal("a file's name that can name a folder of results, as mine.toml", path.name))
    content = suite_content(path)
    check_content(str(path), content)
    folds = content.get("folds") if is_paper else None
    if is_paper and folds is None:
        raise SuiteError(f"{path}: expected the key folds, for cross-validation, received none. Leave out {PAPER}.")
    definition = {key: value for key, value in content.items() if key not in (*LAUNCH_KEYS, "sizing", "folds")}
    merges, early = "phases" in content, None
    definition |= {} if merges else {"sizing": content["sizing"]}
    if merges:
        early = early_epochs(content["epochs"])
        definition["epochs"] = {phase: epochs for phase, epochs in content["epochs"].items() if phase != "early"}
    definition |= {"folds": folds} if folds else {}
    folder = path.parent / content.get("own_folder", "")
    definition |= own.digests_of(content, folder) if with_own else {}
    first, last = content["seeds"]
    first_is_reference = {"reference": content["strategies"][0]} if content["strategies"] else {}
    return Suite(
        name=path.stem + (PAPER.replace(":", "_") if is_paper else ""),
        description=content["description"] + (f" (the paper's {folds} folds, chosen on test data)" if is_paper else ""),
        dataset=content["dataset"],
        metric=content["metric"],
        strategies=tuple(content["strategies"]),
        seeds=tuple(range(first, last + 1)),
        runs_per_process=content["runs_per_process"],
        published=tuple(content.get("published", ())),
        tuning=content.get("tuning", {}),
        definition=definition,
        sizing=content.get("sizing"),
        early=early,
        folds=folds,
        comparisons=first_is_reference | content.get("comparisons", {}),
        folder=folder,
    )
