"""What a strategy is given: data, phases, settings and budget, in one `Task`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from baselines.protocol.metrics import METRICS

if TYPE_CHECKING:  # The command line lists suites and strategies without importing Keras.
    import keras
    import numpy as np


@dataclass(frozen=True)
class Data:
    """One data set in three parts: inputs `(n, ...)` and targets, ready for the network.

    Targets are `(n,)` or `(n, outputs)`; in segmentation, where a label per pixel stands for its class, `(n, height, width)`.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def inputs(self) -> np.ndarray:
        """Training inputs as a network has them without augmentation: whole, or of larger images the middle."""
        cuts = [(have - want) // 2 for have, want in zip(self.x_train.shape[1:], self.x_val.shape[1:], strict=True)]
        middle = (slice(cut, cut + want) for cut, want in zip(cuts, self.x_val.shape[1:], strict=True))
        return self.x_train[(slice(None), *middle)]


@dataclass(frozen=True)
class Phase:
    """How the weights are trained in one phase: SGD or Adam, whose learning rate drops in steps.

    Attributes:
        learning_rate: at the start of the phase.
        momentum: of SGD; of Adam, the decay of the mean of gradients.
        nesterov: whether the momentum of SGD is Nesterov's.
        batch_size: in examples.
        drops: where the learning rate is multiplied by `drop_factor`, as fractions of the phase, from 0 to 1.
        drop_factor: what each drop multiplies by.
        optimizer: "sgd" or "adam".
        warmup: the fraction of the phase in which the learning rate rises in equal steps, from almost 0.
    """

    learning_rate: float
    momentum: float
    batch_size: int
    nesterov: bool = False
    drops: tuple[float, ...] = ()
    drop_factor: float = 0.1
    optimizer: str = "sgd"
    warmup: float = 0.0


@dataclass(frozen=True)
class SizingSettings:
    """How networks find their own size, and how those of a fixed size are trained that are held against them.

    Attributes:
        learning_rate: of Adam, constant.
        batch_size: in examples.
        dynamic: share of the epochs in which sizes change; in the rest the network is fine-tuned without a penalty.
        growth: new units of a layer at each period, as a share of those it has.
        min_growth: the least of new units.
        threshold: a unit goes when no weight of it is as large.
        alphas: strengths of the penalty, by its name.
        learning_rates: by the names of strategies, where theirs is another.
        net: another network to size, from a seed as `Task.build`: that of the paper, where the suite's is not; or None.
        code: a hash of the code that the result depends on.
    """

    learning_rate: float
    batch_size: int
    dynamic: float
    growth: float
    min_growth: int
    threshold: float
    alphas: Mapping[str, float]
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    net: Callable[..., keras.Model] | None = None
    code: str = ""

    def learning_rate_of(self, strategy: str) -> float:
        """The learning rate of a strategy."""
        return self.learning_rates.get(strategy, self.learning_rate)


# Settings of gate controls that are added once an epoch.
_PER_EPOCH = ("step", "eta")


@dataclass(frozen=True)
class GateSettings:
    """How the gates of a big student are trained.

    Attributes:
        learning_rate: of the gates' own optimizer, constant.
        momentum: of the gates' own optimizer.
        sampling: "example" or "batch"; see `kmerge.merge`.
        control: name of the control of the budget that the suite uses by default, a key of `controls`.
        controls: by the names of `kmerge.GatePressure`'s controls, its settings.
    """

    learning_rate: float
    momentum: float
    sampling: str
    control: str
    controls: Mapping[str, Mapping[str, Any]]

    def stretched(self, factor: float) -> GateSettings:
        """The same for a phase of fewer epochs, or more: what controls add once an epoch, multiplied by the factor."""
        controls = {
            name: {key: value * factor if key in _PER_EPOCH else value for key, value in control.items()}
            for name, control in self.controls.items()
        }
        return replace(self, controls=controls)


@dataclass(frozen=True)
class EarlySettings:
    """How little of a budget comes before the merge, where networks are merged before they are annealed.

    Attributes:
        teacher: share of each teacher in the epochs of merging.
        gates: share of the gates.
    """

    teacher: float = 1 / 6
    gates: float = 1 / 12


@dataclass(frozen=True)
class Task:
    """What is to be learnt, by what architecture, with what hyper-parameters.

    Attributes:
        name: of the suite.
        data: the data set; the same arrays for every strategy and phase of a seed.
        build: from a seed to a fresh, uncompiled network; `widen=2` doubles the width of every hidden layer.
        loss: makes a new Keras loss object, for logits where the task is classification.
        metric: one of `METRICS`.
        augment: from a seed to a layer that augments training inputs, or None; a `kmerge.WithMasks` moves targets with them.
        phases: "teacher", "gates", "finetune" and "single" to how the weights are trained there; empty where a suite
            has strategies of auto-sizing alone.
        gates: how gates are trained, or None likewise.
        identity: everything of this task that a trained network depends on (data, architecture, scale, versions of
            the code and of what it runs on; the phases are not in it), as JSON can hold it; the start of each key of
            the stage cache.
        big_teacher: the teacher of another architecture that the suite names for distillation; None where the suite
            names none, and twice the target's width is taken.
        parents: where teachers are trained on parts of the training data, which; None where all see all.
        sizing: how networks find their own size, or None where the suite does not say.
        early: how the budget is split where networks are merged before they are annealed.
        classes: names of the classes of pixels, in the order of their labels; empty where pixels have no labels.
    """

    name: str
    data: Data
    build: Callable[..., keras.Model]
    loss: Callable[[], keras.losses.Loss]
    metric: str
    augment: Callable[[int], keras.Layer] | None
    phases: Mapping[str, Phase]
    gates: GateSettings | None
    identity: Mapping[str, Any]
    big_teacher: BigTeacher | None = None
    parents: Parents | None = None
    sizing: SizingSettings | None = None
    early: EarlySettings = EarlySettings()
    classes: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the metric is better."""
        return METRICS[self.metric].higher_is_better

    @property
    def on_all_data(self) -> Task:
        """The same task with all training examples, of which here teachers alone may have them all between them."""
        if self.parents is None:
            return self
        return replace(self, data=self.parents.data, identity=self.parents.identity, parents=None)


@dataclass(frozen=True)
class Parents:
    """Teachers that are trained on different parts of the training data, and so may know different things.

    Attributes:
        data: with all training examples. Those of `Task.data` are all or a few of these, repeated to the same number.
        rows: of `data`, the training examples of each teacher in turn.
        identity: what a network that is trained on `data` depends on, as `Task.identity`.
        division: how the parts are drawn, as JSON can hold it.
        labelled: how many different training examples `Task.data` has.
    """

    data: Data
    rows: Sequence[np.ndarray]
    identity: Mapping[str, Any]
    division: Mapping[str, Any]
    labelled: int

    def part(self, number: int) -> np.ndarray:
        """The training examples of the teacher of that number, from 0."""
        return self.rows[number % len(self.rows)]


@dataclass(frozen=True)
class BigTeacher:
    """A teacher of another architecture than the target's.

    Attributes:
        task: the same task, but for the architecture that it builds and the phase "teacher", which are the teacher's.
        epochs: of its training, after scaling.
    """

    task: Task
    epochs: int


@dataclass(frozen=True)
class Budget:
    """Epochs of each phase, after scaling: `teacher` for each teacher, `gates`, `finetune`, `single` in one go.

    Where a suite has strategies of auto-sizing alone, only `single` is not zero.
    """

    teacher: int
    gates: int
    finetune: int
    single: int

    @property
    def merging(self) -> int:
        """Epochs of two teachers, gates and fine-tuning."""
        return 2 * self.teacher + self.gates + self.finetune
