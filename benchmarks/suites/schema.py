"""What a suite's file may say, key by key: kinds of values and their ranges. What one key says of another is in `checks`.

A suite is for merging and what is held against it, with the phases of `Budget`; or for auto-sizing alone, with the table
[sizing] and the epochs `single`; or for both. This module imports neither Keras nor data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from baselines.protocol.metrics import METRICS
from baselines.protocol.task import Budget, EarlySettings
from benchmarks.command_line import MOST
from benchmarks.data import datasets
from benchmarks.data.own_data import is_own
from benchmarks.own_code import is_reference
from benchmarks.strategies.registry import STRATEGIES, installed
from benchmarks.suites.values import Flag, Kind, ListOf, Named, Number, OneOf, Place, Table, Text, Tuned, whole

# How strategies are compared: by Wilcoxon's signed-rank test, or by the paired t-test.
TESTS = ("signed_rank", "t")
PHASES = tuple(field.name for field in fields(Budget))
# What no run depends on.
LAUNCH_KEYS = ("description", "seeds", "strategies", "runs_per_process", "comparisons", "published", "tuning", "own_folder")

_EPOCHS = whole(1, MOST, of="a number of epochs")
_LEARNING_RATE = Number(0.1, above=0, most=1e38)  # what float32 holds: a rate at which training diverges is no mistake here
_MOMENTUM = Number(0.9, least=0, below=1)
_BATCH = whole(1)
_POSITIVE = Number(0.1, above=0, most=1e6)
_FROM_ZERO = Number(0.1, least=0, most=1e6)
_SHARE = Number(0.3, least=0, most=1)
_WIDTH = whole(1, 100_000)


@dataclass(frozen=True)
class _OrOwn(OneOf):
    """One of some names, or what names data or code of one's own."""

    is_own: Callable[[object], bool]

    def check(self, place: Place, value: Any) -> None:
        if not self.is_own(value):
            super().check(place, value)


# One of ours, `module:function`, or what a package that is installed calls one.
STRATEGY = _OrOwn(STRATEGIES, lambda name: is_reference(name) or isinstance(name, str) and name in installed())

_PHASE = Table(
    {
        "learning_rate": _LEARNING_RATE,
        "momentum": _MOMENTUM,
        "nesterov": Flag(),
        "batch_size": _BATCH,
        "drops": ListOf(_POSITIVE),
        "drop_factor": Number(0.1, above=0, most=1),
    },
    {"warmup": _FROM_ZERO},
)


@dataclass(frozen=True)
class _Depth(Kind):
    """Of a residual network for small images."""

    expected = "a depth of 6 * blocks + 2: 8, 14, 20, 26, ..."
    example = 20

    def holds(self, value: Any) -> bool:
        return type(value) is int and 8 <= value < 1000 and value % 6 == 2


# By the names of networks, their options; see `benchmarks.networks.architectures`.
_DECAY = {"weight_decay": _SHARE}
_FIVE = {"hidden": ListOf(_WIDTH, 5, 5)}
NETWORKS: dict[str, dict[str, Kind]] = {
    "das_cnn": {**_FIVE, "repeat": whole(1, 64)},
    "das_dense": _FIVE,
    "deep_resnet": {
        **_DECAY,
        "depth": OneOf((18, 34, 50, 101, 152)),
        "width": _WIDTH,
        "stem": OneOf(("cifar", "imagenet")),
    },
    "deeplab_v3": {
        **_DECAY,
        "backbone": OneOf(("mobilenet_v3_large", "resnet50", "resnet101")),
        "multiplier": Number(0.5, above=0, most=100),
        "channels": _WIDTH,
    },
    "fcn_resnet": {**_DECAY, "depth": OneOf((50, 101)), "width": _WIDTH},
    "lenet": {
        **_DECAY,
        "activation": OneOf(("tanh", "relu")),
        "filters": ListOf(_WIDTH, 2, 2),
        "units": ListOf(_WIDTH, 2, 2),
    },
    "mlp": {**_DECAY, "hidden": ListOf(_WIDTH, 1, 100)},
    "resnet": {**_DECAY, "depth": _Depth(), "width": _WIDTH},
    "small_deeplab": {**_DECAY, "channels": _WIDTH},
    "small_fcn": {**_DECAY, "width": _WIDTH},
    "vgg11": {**_DECAY, "batch_norm": Flag(), "width": _WIDTH},
}

# Those that name the class of each pixel; the others put out one row of outputs for an example.
NETWORKS_OF_PIXELS = ("deeplab_v3", "fcn_resnet", "small_deeplab", "small_fcn")


class _Network(Named):
    """One of ours with its options, or `module:function` with any that it takes."""

    def check(self, place: Place, value: Any) -> None:
        if not (isinstance(value, dict) and is_reference(value.get("name"))):
            return super().check(place, value)
        for key, option in value.items():
            if not (key.isidentifier() and len(key) <= 100 and _is_plain(option)):
                (place / key[:100]).refuse("an option: a line of text, true, false, a number, or a list of such", option)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 1000 and all(not isinstance(item, list) and _is_plain(item) for item in value)
    return any(kind.holds(value) for kind in (Text(), Flag(), Number(0, least=-1e38, most=1e38)))


_NETWORK = _Network(NETWORKS)

# By the names of the controls of `kmerge.GatePressure`, their settings.
CONTROLS: dict[str, dict[str, Kind]] = {
    "paper": {"start": _FROM_ZERO, "step": _FROM_ZERO},
    "lagrangian": {"rho": _FROM_ZERO, "eta": _FROM_ZERO, "polarization": _FROM_ZERO},
    "fade": {"pressure": _FROM_ZERO, "compete": _SHARE, "settle": _SHARE},
}
_GATES = Table(
    {
        "learning_rate": _LEARNING_RATE,
        "momentum": _MOMENTUM,
        "sampling": OneOf(("example", "batch")),
        "control": OneOf(CONTROLS),
        "controls": Table({}, {name: Table({}, settings) for name, settings in CONTROLS.items()}),
    }
)
_SIZING = Table(
    {
        "learning_rate": _LEARNING_RATE,
        "batch_size": _BATCH,
        "dynamic": Number(0.5, above=0, below=1, of="a share of the epochs"),
        "growth": Number(0.2, above=0, most=100),
        "min_growth": whole(1),
        "threshold": _POSITIVE,
        "alphas": Table({}, dict.fromkeys(("weighted_l1", "l21", "linf1", "l1"), _POSITIVE)),
    },
    {"learning_rates": Table({}, dict.fromkeys(STRATEGIES, _LEARNING_RATE)), "net": _NETWORK},
)
_PARENTS = Table(
    {"by": OneOf(("classes", "domains"))},
    {"overlap": Number(0.3, least=0, below=1), "few": _BATCH, "examples": whole(1, 100_000_000)},
)
# Of the augmentation of photographs; see `benchmarks.data.augmentation.RandomResizedCrop`.
_CROP = Table({}, {"area": ListOf(_POSITIVE, 2, 2), "ratio": ListOf(_POSITIVE, 2, 2), "jitter": _SHARE})
_EARLY = Table({}, {field.name: _EPOCHS for field in fields(EarlySettings)})


def _is_share(metric: object) -> bool:
    return metric in list(METRICS) and METRICS[metric].is_share


def _comparisons(metric: object) -> Table:
    # A margin of .3 would be 30 points, and everything within it.
    share = Number(0.003, above=0, below=0.1, of="a share")
    margin = share if _is_share(metric) else _POSITIVE
    return Table({}, {"reference": STRATEGY, "primary": ListOf(STRATEGY), "test": OneOf(TESTS), "margin": margin})


def _published(metric: object) -> ListOf:
    value = Number(0.9, least=0, most=1 if _is_share(metric) else 1e9)
    known = {"n": _BATCH, **dict.fromkeys(("min", "max", "median", "mean", "std"), value)}
    return ListOf(Table({"strategy": STRATEGY, "source": Text()}, known))


def _tuning(content: object) -> Table:
    own = [name for name in content if STRATEGY.is_own(name)] if isinstance(content, dict) else []
    return Table({}, dict.fromkeys([*STRATEGIES, *own], Tuned()))


def suite_table(content: Mapping[str, Any]) -> Table:
    """All that a file may say, where it is for merging, for auto-sizing or for both, on data of its kind.

    Args:
        content: of the file, unchecked.
    """
    merges = "phases" in content or "gates" in content or "sizing" not in content
    dataset, metric = content.get("dataset"), content.get("metric")
    source = datasets.IMAGES[dataset] if dataset in list(datasets.IMAGES) else None
    augmentation: Kind = OneOf(("none", "shift_and_flip"))
    if source is not None and source.void is not None:
        augmentation = OneOf(("none", "scale_crop_flip"))  # the one that moves masks with their images
    elif source is not None and source.crop is not None:
        augmentation = _CROP
    needed: dict[str, Kind] = {
        "description": Text(),
        "dataset": _OrOwn(datasets.NAMES, is_own),
        "metric": OneOf(METRICS),
        "augmentation": augmentation,
        "seeds": ListOf(whole(0, MOST), 2, 2),
        "strategies": ListOf(STRATEGY),
        "runs_per_process": whole(1),
        "architecture": _NETWORK,
        "epochs": Table({"single": _EPOCHS}),
    }
    if merges:
        needed |= {
            "epochs": Table(dict.fromkeys(PHASES, _EPOCHS), {"early": _EARLY}),
            "phases": Table(dict.fromkeys(PHASES, _PHASE)),
            "gates": _GATES,
        }
    optional = {
        "standardize_by": OneOf(datasets.STANDARDIZATIONS),
        "folds": whole(2, 1000),
        "sizing": _SIZING,
        "teacher": Table({"architecture": _NETWORK, "epochs": _EPOCHS, "phase": _PHASE}),
        # What teachers have of the training data: each all of them, or two disjoint halves. A table [parents] says more.
        "teacher_data": OneOf(("all", "halves")),
        "parents": _PARENTS,
        "comparisons": _comparisons(metric),
        "published": _published(metric),
        "tuning": _tuning(content.get("tuning")),
        "own_folder": Text("my_code/"),
    }
    return Table(needed, optional)
