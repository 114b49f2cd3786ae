"""Structured sparsity: penalties that drive whole units, neurons or filters, to zero.

A *unit's norm* n_j is taken over all weights that lead into unit j, its bias among them where both are known. With
the rank j = 1..N of a unit in its layer:

    WeightedL1    alpha * sum_j f(j) * sum |w_j|        the last units pay most, so they go first
    L21           alpha * sum_j sqrt(sum w_j^2)         group lasso
    LInf1         alpha * sum_j max |w_j|

Each can stand on its own, as `kernel_regularizer` of any Keras layer whose kernel has its units on the last axis, and
`AutoSizer` drives the sizes of layers with them.

Example:
    >>> layer = keras.layers.Dense(4, kernel_regularizer=kmerge.regularizers.L21(1e-3))
    >>> sizer = kmerge.AutoSizer(model, alpha=1e-3, penalty=kmerge.regularizers.WeightedL1(1e-3, normalize="fan_in"))
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from keras import ops

from kmerge import checks
from kmerge.errors import InvalidArgumentError

_GROWTHS = {
    "identity": lambda rank: rank,
    "sqrt": np.sqrt,
    "square": np.square,
    # All units alike: the plain L1 norm.
    "step": lambda rank: np.minimum(rank, 1.0),
}
# Ranks at which a growth function is tried: all up to the width of a large layer.
_TRIED = np.arange(4097, dtype="float64")
# Below it a unit counts as zero, where the square root has no gradient.
_TINY = 1e-24


class UnitRegularizer(keras.regularizers.Regularizer):
    """A penalty `sum_j coefficients[j] * norm_j` over units. Subclasses name the norm.

    Args:
        alpha: strength, a positive number.

    Attributes:
        normalize: "fan_in" if factors are divided by the number of a unit's weights, else None.
        of_each_weight: whether the norm is a sum over weights.
    """

    normalize: str | None = None
    of_each_weight = False

    def __init__(self, alpha: float):
        do = "A model without a penalty needs no regularizer."
        self.alpha = float(checks.number("alpha", alpha, above=0, of=type(self).__name__, do=do))

    def coefficients(self, ranks: np.ndarray, alpha: float | None = None, fan_in: np.ndarray | int = 1) -> np.ndarray:
        """The factors on the norms of units with these ranks, counted from 1; rank 0 is no unit, and free.

        Args:
            ranks: integer array.
            alpha: strength to take instead of the regularizer's own.
            fan_in: number of weights of each unit, by which the factors are divided where `normalize` asks for it.

        Returns:
            A float32 array of the same shape.
        """
        factors = (self.alpha if alpha is None else alpha) * self.growth(ranks)
        return (factors / fan_in if self.normalize else factors).astype("float32")

    def growth(self, ranks: np.ndarray) -> np.ndarray:
        """How the strength grows with the rank."""
        return np.minimum(np.asarray(ranks, "float64"), 1.0)

    def norms(self, *parts: keras.KerasTensor) -> keras.KerasTensor:
        """The norms of units, shape (units,). Each of the parts holds weights of all of them: (weights of a unit, units)."""
        raise NotImplementedError

    def shrunk(self, parts: Sequence[keras.KerasTensor], amounts: keras.KerasTensor) -> list:
        """The parts after a proximal step: what minimizes `sum_j amounts[j] * norm_j` plus half the squared distance to them.

        Args:
            parts: as in `norms`.
            amounts: of the shape (units,), not negative.
        """
        raise NotImplementedError

    def __call__(self, x):
        units = x.shape[-1]
        fan_in = math.prod(x.shape[:-1])
        factors = ops.cast(self.coefficients(np.arange(1, units + 1), fan_in=fan_in), x.dtype)
        return ops.sum(factors * self.norms(ops.reshape(x, (-1, units))))

    def get_config(self) -> dict:
        return {"alpha": self.alpha}


@keras.saving.register_keras_serializable("kmerge")
class WeightedL1(UnitRegularizer):
    """Weighted L1: `alpha * sum_j f(j) * sum |w_j|` over units of rank j = 1..N.

    Args:
        alpha: strength, a positive number; 2e-5 in the paper.
        f: how the strength grows with the rank: "identity" (the paper's), "sqrt", "square", "step" (all units alike:
            plain L1), or any function of an array of ranks that does not decrease and is 0 at 0. A function of your own
            must be registered with `keras.saving.register_keras_serializable` for the model to be saved.
        normalize: "fan_in" divides what a unit pays by the number of its weights, so that it pays for their mean size
            and the same alpha suits layers with few inputs and with many. `AutoSizer` counts the weights of a unit's
            kernels and biases at the current sizes; in a layer it is those of the kernel, or of the bias. None is the paper's.

    Raises:
        InvalidArgumentError: if alpha is not positive, f is not such a function, or normalize is something else.

    Reference:
        Cahlik et al., Adapting the Size of Artificial Neural Networks Using Dynamic Auto-Sizing, 2022, equation 1.
    """

    of_each_weight = True

    def __init__(
        self,
        alpha: float = 2e-5,
        f: str | Callable[[np.ndarray], np.ndarray] = "identity",
        normalize: str | None = None,
    ):
        super().__init__(alpha)
        self.normalize = checks.one_of("normalize", normalize, ("fan_in", None), of="WeightedL1")
        if isinstance(f, dict):
            with checks.in_our_words("f to be the configuration of a function", f, of="WeightedL1"):
                f = keras.saving.deserialize_keras_object(f)
        is_function = callable(f) and not isinstance(f, type)
        self.f = f if is_function else checks.one_of("f", f, tuple(_GROWTHS), of="WeightedL1", do="Or give a function.")
        with checks.in_our_words("f to be a function of an array of ranks", f, of="WeightedL1"):
            _check_growth(self.growth, f)

    def growth(self, ranks):
        return np.asarray((self.f if callable(self.f) else _GROWTHS[self.f])(np.asarray(ranks, "float64")))

    def norms(self, *parts):
        return _sum(ops.sum(_absolute(part), axis=0) for part in parts)

    def shrunk(self, parts, amounts):
        return [ops.sign(part) * ops.maximum(ops.abs(part) - ops.cast(amounts, part.dtype), 0) for part in parts]

    def get_config(self):
        f = keras.saving.serialize_keras_object(self.f) if callable(self.f) else self.f
        return {**super().get_config(), "f": f, "normalize": self.normalize}


def _absolute(x):
    # Its gradient at 0 is 0 on every backend; that of ops.abs is 1 under JAX, and would wake units that are zero.
    return x * ops.stop_gradient(ops.sign(x))


def _sum(values: Iterable) -> keras.KerasTensor:
    return functools.reduce(ops.add, values)


def _check_growth(growth: Callable, f: object) -> None:
    values = growth(_TRIED)
    if values.shape != _TRIED.shape:
        raise InvalidArgumentError(
            f"WeightedL1: expected f to give one number for each rank of an array, received the shape {values.shape} for "
            f"{_TRIED.shape} from {f!r}. Write it with NumPy operations."
        )
    if not np.isfinite(values).all() or values[0] != 0 or np.any(np.diff(values) < 0) or values[-1] <= 0:
        raise InvalidArgumentError(
            f"WeightedL1: expected f to be finite, 0 at rank 0, and not to decrease but somewhere rise, received {f!r}, which "
            f"gives {values[:3].tolist()} for ranks 0, 1, 2 and {values[-1]} for rank {len(values) - 1}."
        )


@keras.saving.register_keras_serializable("kmerge")
class L21(UnitRegularizer):
    """Group lasso: `alpha * sum_j sqrt(sum w_j^2)`, without a factor for the size of a group.

    Args:
        alpha: strength, a positive number.

    Raises:
        InvalidArgumentError: if alpha is not positive.

    Reference:
        Murray & Chiang, Auto-Sizing Neural Networks, 2015.
    """

    def __init__(self, alpha: float = 4e-3):
        super().__init__(alpha)

    def norms(self, *parts):
        squares = _sum(ops.sum(ops.square(part), axis=0) for part in parts)
        # Below the bound the maximum is a constant: the gradient of a unit that is zero is zero, not NaN.
        return ops.sqrt(ops.maximum(squares, _TINY))

    def shrunk(self, parts, amounts):
        left = ops.maximum(1.0 - amounts / self.norms(*parts), 0.0)
        return [part * ops.cast(left, part.dtype) for part in parts]


@keras.saving.register_keras_serializable("kmerge")
class LInf1(UnitRegularizer):
    """`alpha * sum_j max |w_j|`.

    Args:
        alpha: strength, a positive number.

    Raises:
        InvalidArgumentError: if alpha is not positive.

    Reference:
        Murray & Chiang, Auto-Sizing Neural Networks, 2015.
    """

    def __init__(self, alpha: float = 4e-3):
        super().__init__(alpha)

    def norms(self, *parts):
        return functools.reduce(ops.maximum, (ops.max(_absolute(part), axis=0) for part in parts))


PENALTIES = {
    "weighted_l1": WeightedL1,
    "l1": lambda alpha: WeightedL1(alpha, "step"),
    "l21": L21,
    "linf1": LInf1,
}
