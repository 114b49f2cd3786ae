"""The steps of pruning in several: when how much goes, what each of them cost, and where a run that was killed goes on."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from kmerge.checks import file_path, mapping, number, one_of, refuse, sentence, warn, whole_number
from kmerge.errors import InvalidArgumentError, told
from kmerge.files import write_arrays

SHAPES = {"linear": 1, "cubic": 3}


@dataclass(frozen=True)
class PruningSchedule:
    """How much of a model goes at which step.

    After step i of n a model may cost what is asked for, and of what is to go the share `(1 - i / n) ** power`:

        from 100 to 20 in 4 steps     "linear" 80 60 40 20     "cubic" 53.75 30 21.25 20: much at first, little at the end

    Attributes:
        steps: number of steps.
        shape: "linear" or "cubic".

    Raises:
        InvalidArgumentError: if `steps` is no positive integer, or there is no such shape.

    Example:
        >>> schedule = kmerge.PruningSchedule(steps=8, shape="linear")      # for prune_iteratively(..., steps=schedule)

    Reference:
        "cubic": Zhu & Gupta, To Prune, or Not to Prune, 2017, equation 1.
    """

    steps: int = 5
    shape: str = "cubic"

    def __post_init__(self):
        whole_number("steps", self.steps, of="PruningSchedule")
        one_of("shape", self.shape, SHAPES, of="PruningSchedule")

    def limits(self, whole: Mapping[str, float], final: Mapping[str, float]) -> list[dict[str, int]]:
        """The limits after each step.

        Args:
            whole: what the model costs before the first, by name of the measure.
            final: what it may cost after the last.

        Returns:
            For each step the limits by name of the measure, the last ones those of `final`.
        """
        for name, costs in (("whole", whole), ("final", final)):
            for measure, cost in mapping(name, costs, of="PruningSchedule.limits").items():
                number(f"{name}[{measure!r}]", cost, least=0, of="PruningSchedule.limits")
        if missing := sorted(final.keys() - whole.keys()):
            refuse("whole", "what the model costs, of each measure that final limits", missing, of="PruningSchedule.limits")
        left = [(1 - i / self.steps) ** SHAPES[self.shape] for i in range(1, self.steps + 1)]
        return [{n: int(most + max(0, whole[n] - most) * share) for n, most in final.items()} for share in left]


@dataclass(frozen=True)
class PruningStep:
    """What one step did.

    Attributes:
        number: number of the step, from 1.
        costs: a tuple for each measure that was limited: what the first model costs, what is left, and the limit of this step.
        noise: noise of the measures that were measured, see `UnitChoice`.
        units: number of units of each space before and after the step.
        after_cut: what `evaluate` gave before the training; empty without it.
        after_training: what it gave behind it.

    Example:
        >>> model.compile("sgd", loss)
        >>> result = kmerge.prune_iteratively(model, budget=0.5, train=lambda small: None, steps=2)
        >>> [step.number for step in result.steps]
        [1, 2]
    """

    number: int
    costs: dict[str, tuple[int, int, int]]
    noise: dict[str, int]
    units: dict[str, tuple[int, int]]
    after_cut: dict[str, float] = field(default_factory=dict)
    after_training: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [
            f"{name} {first:,} -> {now:,}{f' ± {self.noise[name]:,}' if name in self.noise else ''} of {limit:,} allowed"
            for name, (first, now, limit) in self.costs.items()
        ]
        parts += [
            f"{name} {value:.4g} after the cut, {self.after_training[name]:.4g} after training"
            for name, value in self.after_cut.items()
        ]
        changed = [f"{name} {before} -> {after}" for name, (before, after) in self.units.items() if before != after]
        return f"step {self.number}: {'; '.join([*parts, ', '.join(changed) or 'no unit went'])}"


@dataclass(frozen=True)
class IterativePruning:
    """What `prune_iteratively` gives. Prints a line for each step.

    Attributes:
        model: the model after the last step, trained.
        steps: what each step did.

    Example:
        >>> model.compile("sgd", loss)
        >>> result = kmerge.prune_iteratively(model, budget=0.5, train=lambda small: None, steps=2)
        >>> len(result.steps)
        2
    """

    model: keras.Model
    steps: tuple[PruningStep, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


class _OtherRunError(InvalidArgumentError):
    """The files are of another run."""


class StepFiles:
    """A folder with a file for each step that is done: the units kept, the weights after training, and the report.

    Args:
        folder: path; None keeps nothing.
        run: what the steps depend on; a folder of other steps is refused.
    """

    def __init__(self, folder: str | Path | None, run: Mapping[str, str]):
        self._folder = None if folder is None else file_path("folder", folder)
        self._run = dict(run)

    def _path(self, number: int) -> Path:
        return self._folder / f"step_{number}.npz"

    def read(self, number: int, take: Callable[[dict, list], keras.Model]) -> tuple[keras.Model, PruningStep] | None:
        """The model and the report of a step; None if it is not done, or its file is damaged, which a warning says.

        Args:
            number: of the step.
            take: makes the model of the units kept and the weights.
        """
        if self._folder is None or not self._path(number).exists():
            return None
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                weights = [file[f"weight_{i}"] for i in range(about["weights"])]
            if other := [name for name in {*about["run"], *self._run} if about["run"].get(name) != self._run.get(name)]:
                self._refuse(sorted(other))
            if about["step"]["number"] != number:
                raise ValueError("it is of another step")
            pairs = {name: {key: tuple(value) for key, value in about["step"][name].items()} for name in ("costs", "units")}
            return take(about["keep"], weights), PruningStep(**about["step"] | pairs)
        except _OtherRunError:
            raise
        except Exception as error:  # a damaged file may lead to anything
            warn(f"prune_iteratively: {self._path(number)} is damaged: {told(error)}. Its step is done anew.")
            return None

    def _refuse(self, other: list[str]) -> None:
        do = f"It differs in {', '.join(other)}. Take another folder, or empty this one."
        raise _OtherRunError(sentence("a folder of the same run", str(self._folder), do, of="folder"))

    def write(self, keep: Mapping[str, np.ndarray], model: keras.Model, step: PruningStep) -> None:
        """Writes a step, whole, so that a run that is killed leaves it done or not done."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        weights = model.get_weights()
        about = {
            "run": self._run,
            "keep": {name: [int(unit) for unit in units] for name, units in keep.items()},
            "step": dataclasses.asdict(step),
            "weights": len(weights),
        }
        # NumPy's files do not know bfloat16, which float32 holds.
        arrays = {f"weight_{i}": w.astype("float32") if w.dtype.kind == "V" else w for i, w in enumerate(weights)}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), "uint8")
        write_arrays(self._path(step.number), arrays)


def digest_of(model: keras.Model) -> str:
    """A text that differs for models of other shapes or weights."""
    found = hashlib.sha256()
    for weight in model.weights:
        found.update(f"{weight.name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return found.hexdigest()
