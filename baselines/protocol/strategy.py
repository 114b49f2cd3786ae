"""What a strategy is: a function of a task, a budget and a seed, which trains by `Stages` and returns an `Outcome`.

A *strategy* is one way to spend a training budget so as to end with one network of the target architecture:
train one network, train three and take the best, train two and merge them. It gets a `Task` (data, architecture,
hyper-parameters), a `Budget` (epochs of each phase), a seed and `Stages` to train with, and returns an `Outcome`.

A strategy never reads `task.data.x_test`: it decides on validation data, and its caller evaluates the outcome on the
test data once, at the end.

Example, with a budget of 2 x 200 + 100 + 100 epochs:

    one_model      |------------------------- single 600 -------------------------|
    best_of_three  |---- teacher 200 ----|---- teacher 200 ----|---- teacher 200 ----|
    l0_merge       |---- teacher 200 ----|---- teacher 200 ----|- gates 100 -|- finetune 100 -|

The teachers number 0, 1 and 2 of a seed are the same networks in every strategy: the benchmark trains each once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from baselines.protocol.task import Budget, Task

if TYPE_CHECKING:  # The command line lists suites and strategies without importing Keras.
    import keras
    import numpy as np

    import kmerge


@dataclass
class TrainingRecord:
    """What is known of one training phase once it is over.

    Attributes:
        rows: one JSON-able dict per epoch: `phase`, `epoch` (from 1), `loss`, `train_metric`, `val_loss`,
            `val_metric`, `learning_rate` (at the epoch's end), `seconds`, and what callbacks put in the logs.
        seconds: wall time of the training, validation included, compilation not; where several networks trained in
            one program, its time over their number.
        flops: floating-point operations of training: 6 per multiply-accumulate of the forward pass, example, epoch.
        best_weights: `model.get_weights()` at the epoch of the best validation metric.
        program: what ran, see `kmerge.fit`: `program`, `xla`, `compile_seconds` (shared like `seconds`), `together`,
            the number of networks that trained in it, and `packed`, the most of them that share a convolution.
        stopped: whether a callback ended the phase early.
    """

    rows: list[dict[str, Any]]
    seconds: float
    flops: float
    best_weights: list[np.ndarray]
    program: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False

    def is_over(self, epochs: int) -> bool:
        """Whether a phase of so many epochs has no more of them before it."""
        return self.stopped or len(self.rows) >= epochs


def check_record(record: TrainingRecord) -> None:
    """Raise `ValueError` unless a record, which may come from any file, is of the types of one."""
    sound = isinstance(record.rows, list) and all(isinstance(row, dict) for row in record.rows)
    sound = sound and all(isinstance(number, int | float) for number in (record.seconds, record.flops))
    if not sound or not isinstance(record.program, dict) or not isinstance(record.stopped, bool):
        raise ValueError("its record is not one of a training")


def check_shapes(arrays: Sequence[np.ndarray], variables: Sequence[Any]) -> None:
    """Raise `ValueError` unless there is an array of numbers for each of some variables, of its shape."""
    found, wanted = [tuple(array.shape) for array in arrays], [tuple(variable.shape) for variable in variables]
    if found != wanted or any(array.dtype.kind not in "fiubV" for array in arrays):
        raise ValueError(f"its {len(found)} arrays are not of the shapes of the {len(wanted)} variables that are to be set")


@dataclass(frozen=True)
class TrainingState:
    """All that a phase needs to go on from the end of an epoch, in the same process or in another.

    Attributes:
        record: of the epochs so far.
        variables: every variable of the network, its optimizer and its augmentation, random state included.
    """

    record: TrainingRecord
    variables: list[np.ndarray]


@dataclass
class Outcome:
    """What a strategy ends with.

    Attributes:
        model: the final network, a plain `keras.Model`; of the target architecture, unless the strategy's row in
            baselines/README.md says otherwise.
        best_model: the same network at the best validation epoch of its last phase; may be `model` itself.
        history: the rows of all phases, in the order in which they were trained.
        epochs: sum of the epochs of all phases, shared stages included.
        flops: of training, shared stages charged in full.
        seconds: of training, shared stages charged in full.
        teacher_epoch_equivalents: `flops` over those of one epoch of the target architecture.
        extras: further columns of the row.
        programs: by phase, what ran; see `TrainingRecord.program`.
        first: where pixels have labels, the network of the first of several phases at its best epoch, to be looked at beside
            `model`: a teacher, or what was pruned. None elsewhere.
    """

    model: keras.Model
    best_model: keras.Model
    history: list[dict[str, Any]]
    epochs: int
    flops: float
    seconds: float
    teacher_epoch_equivalents: float
    extras: dict[str, Any] = field(default_factory=dict)
    programs: dict[str, dict[str, Any]] = field(default_factory=dict)
    first: keras.Model | None = None


class Stages:
    """What a strategy trains with. This one trains everything on the spot and keeps nothing.

    The benchmark's own trains each stage that strategies share once, resumes phases that were cut off, and may train
    the networks of several runs together; see `benchmarks.runs.stages`.
    """

    def run(
        self,
        key: Mapping[str, Any],
        build: Callable[[], keras.Model],
        train: Callable[[keras.Model], TrainingRecord],
    ) -> tuple[keras.Model, TrainingRecord]:
        """The trained network of a stage that strategies share, from a cache or trained now.

        Args:
            key: everything the stage depends on, as JSON can hold it.
            build: makes the network, uncompiled: to be trained, or to be filled with the cached weights.
            train: trains the network in place.

        Returns:
            The network with the weights of the last epoch, and the record (with the best epoch's weights), both the
            same whether they come from a cache or not.
        """
        model = build()
        return model, train(model)

    def resume(self, key: Mapping[str, Any], check: Callable[[TrainingState], None]) -> TrainingState | None:
        """Called when a phase begins: the state to go on from, if an earlier try was cut off.

        Args:
            key: everything the phase depends on but the phases before it, as JSON can hold it.
            check: changes nothing, and raises for a state that cannot be one of this phase, which then counts as none.
        """
        return None

    def fit(self, model: keras.Model, x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Train a compiled network in place.

        Args:
            model: the network.
            x: inputs.
            y: targets.
            **how: as for `kmerge.fit`.
        """
        import kmerge

        kmerge.fit(model, x, y, verbose=0, **how)

    def size(self, sizer: kmerge.AutoSizer, x: np.ndarray, y: np.ndarray, **how: Any) -> None:
        """Let a compiled sizer train its network and find its size.

        Args:
            sizer: the sizer.
            x: inputs.
            y: targets.
            **how: as for `kmerge.AutoSizer.fit`.
        """
        sizer.fit(x, y, verbose=0, **how)

    def before_epoch(self) -> None:
        """Called before each epoch. An exception raised here ends the training where it can be resumed."""

    def on_epoch(self, row: Mapping[str, Any], state: Callable[[], TrainingState]) -> None:
        """Hear of an epoch that has just ended, in a shared stage or not.

        Args:
            row: as in `TrainingRecord.rows`.
            state: gives what `resume` would have to return to go on from here; to be called before the next epoch.
        """


class Strategy(Protocol):
    """One way to spend a budget."""

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """Train.

        Args:
            task: what to learn.
            budget: epochs of each phase.
            seed: of this replicate; every draw derives from it by `kmerge.seeds.seed_of`.
            stages: what to train with.

        Returns:
            The outcome; the test data has not been looked at.
        """
