"""Proximal steps: the penalty on units is no part of the loss, but shrinks weights after each step of the optimizer.

A gradient of `c * |w|` only ever jumps from one side of zero to the other. The proximal step ends there: with the amount
t = learning rate * coefficient of the unit

    L1      w <- sign(w) * max(|w| - t, 0)        each weight
    l2,1    w <- w * max(1 - t / ||w||, 0)        all weights of a unit together

so units become exactly zero, and no threshold has to be compared with the learning rate. It is done within the program
of a step, as part of the optimizer: what an optimizer keeps in variables of its own is an input of the program on every
backend, so coefficients change without a new program. Its slots are left alone, whatever class it has. As with decoupled
weight decay, an adaptive optimizer does not rescale the amounts, so strengths differ from those of a penalty in the loss.

Reference: Parikh and Boyd, Proximal Algorithms, 2014, section 6.5.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmerge.graph import array_of
from kmerge.regularizers import UnitRegularizer
from kmerge.sizing.penalties import Member, Term, parts_of


class ProximalSteps:
    """The amounts by which the weights of a model's units shrink, and where they are.

    Behind a normalization gamma shrinks by the norm of its effective kernel, as it was when the factors were set.

    Args:
        terms: the terms of the penalty.
        regularizer: its `shrunk` is the step.
        units: number of units.
    """

    def __init__(self, terms: Sequence[Term], regularizer: UnitRegularizer, units: int):
        self._regularizer = regularizer
        self._scaled = [term for term in terms if term.kernels]
        self._groups: list[tuple] = []  # members, and the places of their coefficients
        for term in terms:
            if not term.kernels:
                self._add(term.members, term.units)
        size = units + 1
        for term in self._scaled:
            gamma, *beta = term.members
            self._add([gamma], np.arange(size, size + len(term.units)))
            self._add(beta, term.units)
            size += len(term.units)
        self.coefficients = keras.Variable(np.zeros(size), dtype="float32", trainable=False, name="coefficients")

    def _add(self, members: Sequence[Member], places: np.ndarray) -> None:
        trained = [member for member in members if member.variable.trainable]
        if trained:
            self._groups.append((trained, places.astype("int32")))

    def set_factors(self, factors: np.ndarray) -> None:
        """Sets the factor on the norm of each unit, shape (units,)."""
        factors = np.append(factors, 0.0).astype("float32")
        kernels = [factors[term.units] * array_of(term.kernels()) for term in self._scaled]
        self.coefficients.assign(np.concatenate([factors, *kernels]))

    def shrink(self, rate: keras.KerasTensor) -> None:
        """Shrinks all weights of units, by a learning rate times their coefficients."""
        amounts = ops.cast(rate, "float32") * ops.convert_to_tensor(self.coefficients)
        for members, places in self._groups:
            parts = self._regularizer.shrunk(parts_of(members)(), ops.take(amounts, places))
            for (variable, at), part in zip(members, parts, strict=True):
                variable.assign(_put_back(part, variable.shape, at))


def _put_back(part, shape: Sequence[int], at: int):
    """An array of the shape (weights of a unit, units) as a weight with its units on an axis."""
    moved = [*shape[:at], *shape[at + 1 :], shape[at]]
    return ops.moveaxis(ops.reshape(part, moved), -1, at)


class _Shrinking:
    """Put before the class of an optimizer: each of its steps ends with a proximal one."""

    steps: ProximalSteps | None = None

    def apply(self, grads, trainable_variables=None):
        # A step of gradients that are only collected shrinks by its share; shares add up exactly.
        rate = self.learning_rate / (self.gradient_accumulation_steps or 1)
        super().apply(grads, trainable_variables)
        if self.steps is not None:
            self.steps.shrink(rate)

    @property
    def variables(self):
        return super().variables + ([] if self.steps is None else [self.steps.coefficients])


def proximal_optimizer(optimizer: keras.optimizers.Optimizer, steps: ProximalSteps) -> keras.optimizers.Optimizer:
    """A fresh optimizer of the same configuration whose steps end with proximal ones.

    Its variables are those of the given one's kind, in their order, and behind them the coefficients.

    Args:
        optimizer: any; it is not changed.
        steps: what it does then.
    """
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = proximal_optimizer(optimizer.inner_optimizer, steps)
        return type(optimizer)(**{**config, "inner_optimizer": inner})
    kind = type(optimizer)
    # Of the same name and module, so that its configuration is that of an optimizer of this kind.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    result = type(kind.__name__, (_Shrinking, kind), names).from_config(config)
    result.steps = steps
    return result
