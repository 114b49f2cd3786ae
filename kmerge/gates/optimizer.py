"""An optimizer that trains gates at a learning rate of their own."""

import contextlib

import keras
import numpy as np

from kmerge import checks
from kmerge.errors import InvalidArgumentError
from kmerge.gates.hard_concrete import GATE_WEIGHT


def optimizer_of(name: str, value: object) -> keras.optimizers.Optimizer:
    """The optimizer of an argument of this name, which may be the name of one, or its configuration."""
    with contextlib.suppress(Exception):  # whatever Keras says to what is none, or a stranger's object does
        if isinstance(found := keras.optimizers.get(value), keras.optimizers.Optimizer):
            return found
    checks.refuse(name, "a Keras optimizer or its name", value)


@keras.saving.register_keras_serializable("kmerge")
class GateOptimizer(keras.optimizers.MultiOptimizer):
    """Trains the gates with an optimizer of their own and everything else with `base`; made by `gate_optimizer`.

    `learning_rate` is the base's, to read and to set. The attribute `optimizers` that Keras' callbacks look for is
    hidden on purpose: they would set the learning rate of the gates too.

    Args:
        base: optimizer, or its Keras name, of all other variables; not built yet.
        gate_learning_rate: learning rate of the gates.
        gate_momentum: momentum of the gates.
        name: name of the optimizer.

    Attributes:
        base: the optimizer given.
        gates: optimizer of the gates, a `keras.optimizers.SGD`.

    Raises:
        InvalidArgumentError: if `base` is built already, would put the gates into a second group (it is itself a
            `MultiOptimizer`, or wraps another optimizer), or a number is out of its range; when it is built, if there are no
            gates among the variables.

    Example:
        >>> optimizer = kmerge.gate_optimizer(keras.optimizers.SGD(0.05))
        >>> isinstance(optimizer, kmerge.GateOptimizer), round(float(optimizer.learning_rate), 3)
        (True, 0.05)
    """

    def __init__(
        self,
        base: keras.optimizers.Optimizer | str,
        gate_learning_rate: float = 0.1,
        gate_momentum: float = 0.9,
        name: str = "gate_optimizer",
    ):
        base = optimizer_of("base", base)
        checks.text("name", name, of="gate_optimizer")
        _check_base(base)
        gate_learning_rate = float(checks.number("gate_learning_rate", gate_learning_rate, above=0))
        gate_momentum = float(checks.number("gate_momentum", gate_momentum, least=0, below=1))
        # MultiOptimizer overwrites the scale factors of its parts with its own.
        super().__init__(self._part_of, loss_scale_factor=base.loss_scale_factor, name=name)
        self.base = base
        self.gates = keras.optimizers.SGD(
            gate_learning_rate,
            momentum=gate_momentum,
            loss_scale_factor=base.loss_scale_factor,
            gradient_accumulation_steps=base.gradient_accumulation_steps,
            name="gates_sgd",
        )

    def _part_of(self, variable) -> keras.optimizers.Optimizer:
        return self.gates if variable.name == GATE_WEIGHT else self.base

    def build(self, variables):
        if not self.built and not any(variable.name == GATE_WEIGHT for variable in variables):
            raise InvalidArgumentError(
                f"gate_optimizer: expected a model with gates among its trainable variables, received {len(variables)} "
                "variables and no gate. Compile a model without gates with the base optimizer."
            )
        super().build(variables)

    @property
    def optimizers(self):
        raise AttributeError("The parts of a GateOptimizer are its attributes `base` and `gates`.")

    @property
    def learning_rate(self):
        return self.base.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.base.learning_rate = value

    def get_config(self) -> dict:
        return {
            "base": keras.saving.serialize_keras_object(self.base),
            "gate_learning_rate": float(np.asarray(self.gates.learning_rate)),
            "gate_momentum": self.gates.momentum,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        base = keras.saving.deserialize_keras_object(config["base"], custom_objects=custom_objects)
        return cls(**(config | {"base": base}))


def gate_optimizer(
    base: keras.optimizers.Optimizer | str, gate_learning_rate: float = 0.1, gate_momentum: float = 0.9
) -> GateOptimizer:
    """An optimizer for a gated model: SGD with a rate of its own for the gates, `base` for everything else.

    The gates' rate is constant, and they are neither decayed nor clipped nor averaged, whatever `base` does. The
    result's `learning_rate` is the base's, so learning rate schedules, `LearningRateScheduler` and `ReduceLROnPlateau`
    act on the base alone. The result saves and loads with the model that is compiled with it.

    Args:
        base: optimizer, or its Keras name, of all other variables; not built yet.
        gate_learning_rate: learning rate of the gates.
        gate_momentum: momentum of the gates.

    Returns:
        An optimizer to compile the model with.

    Raises:
        InvalidArgumentError: if `base` is built already, would put the gates into a second group (it is itself made by
            `gate_optimizer`, a `MultiOptimizer`, or wraps another optimizer), or a number is out of its range.

    Reference:
        Pašen and Boža, Merging of neural networks: gates have their own optimizer with a constant learning rate.

    Example:
        >>> big = kmerge.merge(model, other)
        >>> big.compile(kmerge.gate_optimizer(keras.optimizers.SGD(0.05), gate_learning_rate=0.01), loss)
    """
    return GateOptimizer(base, gate_learning_rate, gate_momentum)


def plain_optimizer(optimizer: keras.optimizers.Optimizer | None) -> keras.optimizers.Optimizer | None:
    """The optimizer of all that is no gate, without the loss scaling that `compile` adds by itself."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer.base if isinstance(optimizer, GateOptimizer) else optimizer


def _check_base(base: keras.optimizers.Optimizer) -> None:
    if isinstance(base, keras.optimizers.MultiOptimizer | keras.optimizers.LossScaleOptimizer):
        raise InvalidArgumentError(
            f"Expected base to be one optimizer for everything but the gates, received {type(base).__name__}, in which gates "
            "would sit in a second group. Pass the optimizer that it wraps; compile adds loss scaling by itself."
        )
    if base.built:
        raise InvalidArgumentError(
            f"Expected base to be not built yet, received {base.name!r}, which already belongs to a model. Make a new one."
        )
