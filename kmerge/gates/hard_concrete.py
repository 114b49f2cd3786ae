"""Stochastic gates on channels, and what trains them towards a budget.

A gate decides whether one unit (a channel or a neuron) is kept. A hard concrete gate is a random number in [0, 1] that
is exactly 0 and exactly 1 with positive probability, and whose distribution is moved by gradient descent through one
parameter `loc` per unit. With the paper's start, loc = 1:

    P(g > 0) = .931    P(g = 1) = .355    E[g] = .707    value in inference = .777

Four channels with loc = -4, -1, 1, 4 have P(g > 0) = .08, .65, .93, 1.00 and inference values 0, .22, .78, 1. If half
of them is to be kept, the last two are.

One `HardConcreteGate` layer holds the gates of one channel space. It is called once per forward pass, and its one mask
feeds every layer that mixes the space: see `application.py`. `GatePressure` drives the share of open gates to
its target, and `gate_optimizer` gives the gates a learning rate of their own.

Reference: Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018. Merging of neural networks
(Pašen, Boža) uses it to merge two networks.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmerge import checks
from kmerge.errors import InvalidArgumentError
from kmerge.seeds import rng_of, seed_of

BETA = 2 / 3
GAMMA = -0.1
ZETA = 1.1
GATE_WEIGHT = "gate_loc"
# Inference gates are exactly 1 from loc = ln 11 = 2.398 on; .1 above that is ten times the noise of the start.
_OPEN_START = 2.5
_START_NOISE = 0.01
SAMPLINGS = ("example", "batch")
# Gates that are this close to 0 or 1 count as decided.
DECIDED = 1e-6


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, "float64")))


def _are_pairs(origins: object, count: int) -> bool:
    try:
        return np.shape(origins) == (count, 2) and np.asarray(origins).dtype.kind in "iu"
    except Exception:  # whatever a stranger's object raises when it is made an array
        return False


@keras.saving.register_keras_serializable("kmerge")
class HardConcreteGate(keras.layers.Layer):
    """The gates of one channel space: a mask over its units.

    In training the mask is sampled anew at every call:
    `u ~ U(0, 1)`, `s = sigmoid((ln u - ln(1 - u) + loc) / beta)`, `g = clip(s * (zeta - gamma) + gamma, 0, 1)`
    with beta = 2/3, gamma = -.1, zeta = 1.1. In inference it is `clip(sigmoid(loc) * (zeta - gamma) + gamma, 0, 1)`.
    The layer must be called once per forward pass and its mask given to every consumer: each call draws another mask.

    A training call adds the loss `pressure * d^2 + multiplier * d + polarization * mean(P * (1 - P))`, where
    `P = P(g > 0)` and `d = mean(P) - target`. Its three weights start at 0 and are set by `GatePressure`. The loss is
    not added in inference, so that a validation loss stays comparable while the pressure rises.

    `hardness` h moves the mask to a fixed choice: `g + h * (chosen - g)`. At h = 1 the mask is exactly `chosen`, and
    what `compress` removes contributes nothing any more.

    Args:
        units: number of units of the space.
        target: share of the units to keep, in (0, 1]: units kept / units present.
        origins: `[source, unit]` for each unit: the parent it comes from and its index there; kept in the configuration.
        sampling: `"example"` draws a mask for each example (the paper), `"batch"` one for all examples of a batch.
        start: mean of the initial `loc`; 1 in the paper. `"open"` is 2.5: every gate is exactly 1 in inference, is 1
            with probability .71 in training, and open with .98.
        seed: seed of the initial `loc` and of the noise. Drawn from NumPy's global generator if not given.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`. The mask has the policy's compute dtype; the
            weights, the noise and the loss are float32 under every policy.

    Call arguments:
        inputs: an input of the model: a tensor of any dtype, whose first axis is the batch. Only its batch size is used.
        training: whether to sample.

    Output shape:
        `(batch, units)` in training with `sampling="example"`, otherwise `(1, units)`.

    Raises:
        InvalidArgumentError: if an argument is out of its range.

    Reference:
        Louizos et al. 2018, equations 10 to 12. Pašen and Boža, Merging of neural networks, section 3.

    Example:
        >>> gate = kmerge.HardConcreteGate(8, target=0.5, start="open", seed=1)
        >>> tuple(gate(x).shape), tuple(gate(x, training=True).shape)
        ((1, 8), (32, 8))
    """

    def __init__(
        self,
        units: int,
        target: float = 0.5,
        origins: Sequence[Sequence[int]] | None = None,
        sampling: str = "example",
        start: float | str = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self._check(units, target, origins, sampling, start)
        checks.seed("seed", seed, optional=True, of=f"Gate {self.name!r}")
        self.units = int(units)
        self.target = float(target)
        self.origins = None if origins is None else [[int(source), int(unit)] for source, unit in origins]
        self.sampling = sampling
        self.start = start
        self.seed = int(np.random.randint(1, 2**31 - 1)) if seed is None else int(seed)
        self.noise = keras.random.SeedGenerator(seed_of("gate noise", self.seed))

    def _check(self, units, target, origins, sampling, start) -> None:
        of = f"Gate {self.name!r}"
        checks.whole_number("units", units, of=of)
        checks.number("target", target, above=0, most=1, of=of)
        if origins is not None and not _are_pairs(origins, units):
            checks.refuse("origins", f"one [source, unit] pair for each of the {units} units", origins, of=of)
        checks.one_of("sampling", sampling, SAMPLINGS, of=of)
        if not checks.is_number(start) and not (isinstance(start, str) and start == "open"):
            checks.refuse("start", "a finite number or 'open'", start, of=of)

    def _initial_loc(self) -> np.ndarray:
        # Drawn by NumPy, so that every backend starts from the same gates and `trained` can compare with them.
        mean = _OPEN_START if self.start == "open" else self.start
        return rng_of("gate loc", self.seed).normal(mean, _START_NOISE, self.units).astype("float32")

    def build(self, input_shape):
        self.loc = self._weight(GATE_WEIGHT, (self.units,), lambda shape, dtype: self._initial_loc(), trainable=True)
        self.pressure = self._weight("pressure")
        self.multiplier = self._weight("multiplier")
        self.polarization = self._weight("polarization")
        self.hardness = self._weight("hardness")
        self.chosen = self._weight("chosen", (self.units,))

    def _weight(self, name, shape=(), initializer="zeros", trainable=False):
        return self.add_weight(
            shape=shape, initializer=initializer, dtype="float32", trainable=trainable, autocast=False, name=name
        )

    def call(self, inputs, training=False):
        if training:
            self.add_loss(self._penalty())
        mask = self._sample(inputs) if training else ops.expand_dims(_stretch(ops.sigmoid(self.loc)), 0)
        mask = mask + self.hardness * (self.chosen - mask)  # (batch or 1, units)
        return ops.cast(mask, self.compute_dtype)

    def _sample(self, inputs):
        rows = ops.shape(inputs)[0] if self.sampling == "example" else 1
        # Beyond 40 a gate is 0 or 1 whatever the noise, and a power of it would overflow.
        return _hard_concrete(ops.clip(self.loc, -40.0, 40.0), _uniform(rows, self.units, self.noise.next()))

    def open_shift(self) -> "float | keras.KerasTensor":
        """`-beta * ln(-gamma / zeta)`, by which P(g > 0) = sigmoid(loc + shift): a number, or a scalar tensor."""
        return BETA * math.log(-ZETA / GAMMA)

    def _penalty(self):
        is_open = ops.sigmoid(self.loc + self.open_shift())
        distance = ops.mean(is_open) - self.target
        return (
            self.pressure * ops.square(distance)
            + self.multiplier * distance
            + self.polarization * ops.mean(is_open * (1 - is_open))
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0] if self.sampling == "example" else 1, self.units)

    def _require_built(self) -> None:
        if not self.built:
            raise InvalidArgumentError(
                f"Expected a gate that was called, received {self.name!r}, which has no weights, because it was never called. "
                "Call it on an input of the model, or take the gated model that kmerge.merge returns."
            )

    def _harden(self, soft: np.ndarray) -> np.ndarray:
        hardness, chosen = np.asarray(self.hardness), np.asarray(self.chosen)
        return (soft + hardness * (chosen - soft)).astype("float32")

    def open_probabilities(self) -> np.ndarray:
        """P(g > 0) of each unit, shape `(units,)`: `sigmoid(loc - beta * ln(-gamma / zeta))`, moved by `hardness`."""
        self._require_built()
        return self._harden(_sigmoid(np.asarray(self.loc) + np.asarray(self.open_shift())))

    def values(self) -> np.ndarray:
        """The mask in inference, shape `(units,)`, float32."""
        self._require_built()
        return self._harden(np.clip(_sigmoid(np.asarray(self.loc)) * (ZETA - GAMMA) + GAMMA, 0, 1))

    def undecided(self) -> float:
        """The share of units with .1 < P(g > 0) < .9."""
        probabilities = self.open_probabilities()
        return float(np.mean((probabilities > 0.1) & (probabilities < 0.9)))

    def kept(self) -> np.ndarray:
        """The units to keep: indices, ascending, of the `round(target * units)` most open ones."""
        probabilities = self.open_probabilities()
        order = np.lexsort((-np.asarray(self.loc), -probabilities))  # the last key sorts first
        return np.sort(order[: max(1, round(self.target * self.units))])

    def is_decided(self) -> bool:
        """Whether the mask in inference is the choice that `kept` makes, so that a cut changes nothing."""
        chosen = np.isin(np.arange(self.units), self.kept())
        return bool(np.max(np.abs(self.values() - chosen)) <= DECIDED)

    def choose(self) -> None:
        """Fixes the choice that `hardness` moves the mask to: 1 for the units of `kept`, 0 for the others."""
        chosen = np.zeros(self.units, "float32")
        chosen[self.kept()] = 1
        self.chosen.assign(chosen)

    def trained(self) -> bool:
        """Whether any `loc` has moved from where the seed put it."""
        self._require_built()
        return not np.array_equal(np.asarray(self.loc), self._initial_loc())

    def get_config(self) -> dict:
        config = super().get_config()
        names = ("units", "target", "origins", "sampling", "start", "seed")
        return config | {name: getattr(self, name) for name in names}


def _uniform(rows: int, units: int, key):
    """Uniform noise, float32, shape (rows, units), from a seed generator's key: two integers.

    A hash of each place and the key. Inside a program that XLA compiles for a CPU, `keras.random.uniform` is ten to a
    hundred times slower, and the noise would take nearly all of a small net's step.
    """
    place = ops.reshape(ops.arange(rows * units, dtype="int32"), (rows, units))
    bits = _hash(place ^ _hash(ops.cast(key[0], "int32") ^ _hash(ops.cast(key[1], "int32"))))
    # The upper 23 bits, halfway between two steps: never 0, never 1.
    return (ops.cast(_shift(bits, 9), "float32") + 0.5) * 2.0**-23


def _shift(bits, by: int):
    return ops.bitwise_and(ops.right_shift(bits, by), 2 ** (32 - by) - 1)  # int32 drags its sign along


def _hash(bits):
    """A bijection of int32 in which every bit depends on all others; products wrap around."""
    for by, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        bits = (bits ^ _shift(bits, by)) * factor
    return bits ^ _shift(bits, 16)


def _stretch(s):
    return ops.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


@ops.custom_gradient
def _hard_concrete(loc, u):
    """The mask (rows, units) for noise u of that shape: `_stretch(sigmoid((ln u - ln(1 - u) + loc) / beta))`.

    1 / beta is 3/2, so a root does for logarithm and exponential; and the gradient is that of the sigmoid, told from the
    mask itself. In a small net this is a third of the time of the formula as it stands.
    """
    odds = (1 - u) / u * ops.exp(-loc)
    mask = _stretch(1 / (1 + odds * ops.sqrt(odds)))

    def gradient(*arguments, upstream=None):
        upstream = arguments[0] if upstream is None else upstream
        inside = ops.logical_and(mask > 0, mask < 1)
        slope = (mask - GAMMA) * (ZETA - mask) * (1 / (BETA * (ZETA - GAMMA)))
        return ops.sum(ops.where(inside, upstream * slope, 0.0), axis=0), ops.zeros_like(mask)

    return mask, gradient


def gates_of(model: keras.Model) -> list[HardConcreteGate]:
    """The gate layers of a model, those of nested models included, each once, in the model's order of layers.

    Args:
        model: any model.

    Returns:
        A list, empty for a model without gates.

    Example:
        >>> [gate.units for gate in kmerge.gates_of(kmerge.merge(model, other))]
        [12, 8]
    """
    if not isinstance(model, keras.Model):
        checks.refuse("model", "a keras.Model", model, of="gates_of")
    found: dict[int, HardConcreteGate] = {}
    for layer in model.layers:
        inner = gates_of(layer) if isinstance(layer, keras.Model) else [layer]
        found |= {id(gate): gate for gate in inner if isinstance(gate, HardConcreteGate)}
    return list(found.values())
