"""The optimizer of a phase: its learning rate drops at fractions of the phase, and may rise before."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from baselines.protocol.task import Phase


@keras.saving.register_keras_serializable("kmerge")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate, or a schedule of it, that is reached in equal steps.

    Args:
        rate: what is reached.
        steps: how many; the first has a part of the rate already.
    """

    def __init__(self, rate: float | keras.optimizers.schedules.LearningRateSchedule, steps: int):
        super().__init__()
        self.rate, self.steps = rate, steps

    def __call__(self, step):
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * keras.ops.minimum(1.0, (keras.ops.cast(step, "float32") + 1) / self.steps)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"rate": keras.saving.serialize_keras_object(self.rate), "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """The same schedule again."""
        return cls(keras.saving.deserialize_keras_object(config["rate"]), config["steps"])


def optimizer_of(phase: Phase, epochs: int, examples: int) -> tuple[keras.optimizers.Optimizer, Callable[[int], float]]:
    """The optimizer of a phase, and its learning rate by step.

    Args:
        phase: what the optimizer is to be.
        epochs: of the phase.
        examples: of an epoch.
    """
    steps = epochs * -(-examples // phase.batch_size)
    # PiecewiseConstantDecay keeps the old rate at the boundary itself: the step after it is the first of the new.
    boundaries = [max(0, round(drop * steps) - 1) for drop in phase.drops]
    values = [phase.learning_rate * phase.drop_factor**i for i in range(len(boundaries) + 1)]
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values) if boundaries else values[0]
    if rising := round(phase.warmup * steps):
        rate = WarmUp(rate, rising)

    def rate_at(step: int) -> float:
        return values[sum(step > boundary for boundary in boundaries)] * min(1.0, (step + 1) / max(1, rising))

    if phase.optimizer == "adam":
        return keras.optimizers.Adam(rate, beta_1=phase.momentum), rate_at
    return keras.optimizers.SGD(rate, momentum=phase.momentum, nesterov=phase.nesterov), rate_at


def stretch_of(phase: Phase, start: float, stop: float) -> Phase:
    """The part of a phase's schedule from one fraction of it to another, as a phase of its own.

    Args:
        phase: the whole.
        start: where the part begins, from 0.
        stop: where it ends, up to 1.

    Returns:
        A phase that begins with the learning rate reached at `start`; drops within the part stand at their places. Only a
        part from 0 on has a warm-up.
    """
    warmup = min(1.0, phase.warmup / stop) if start == 0 else 0.0
    passed = sum(drop <= start for drop in phase.drops)
    inside = tuple((drop - start) / (stop - start) for drop in phase.drops if start < drop < stop)
    return replace(phase, learning_rate=phase.learning_rate * phase.drop_factor**passed, drops=inside, warmup=warmup)
