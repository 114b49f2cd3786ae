"""What the merging papers assert of gates without showing it, undone: the rise of lambda, the fixed beta, linked gates.

Pašen and Boža let lambda rise over the epochs, fix beta at 2/3 and link the gates along a residual stream, as the same
channels stay everywhere. Louizos et al. (2018) name beta as one that may be learned.
"""

import math
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from baselines.strategy import GateSettings
from kmerge.errors import InvalidArgumentError
from kmerge.gate_application import ApplyGates, FoldGates
from kmerge.gates import BETA, GAMMA, GATE_WEIGHT, ZETA, HardConcreteGate, gates_of
from kmerge.seeds import seed_of

_BETA_RANGE = 2.0


def constant_pressure(gates: GateSettings, epochs: int) -> GateSettings:
    """The settings with the mean, over the epochs, of the paper's rising lambda in the place of the rise.

    Args:
        gates: settings, with a control "paper".
        epochs: of the gate phase.

    Returns:
        New settings.
    """
    paper = gates.controls["paper"]
    pressure, pressures = paper["start"], []
    for _ in range(epochs):
        pressure += paper["step"] * pressure**0.5
        pressures.append(pressure)
    constant = {"start": sum(pressures) / epochs, "step": 0.0}
    return replace(gates, controls={**gates.controls, "paper": constant})


@keras.saving.register_keras_serializable("kmerge_benchmarks")
class LearnedBetaGate(HardConcreteGate):
    """A gate layer with one more weight, its beta: from 0 to 2, at first 2/3 as everywhere else.

    The gates' optimizer trains it: it has the name by which that one knows its weights. It is `2 * sigmoid(weight)`, so no
    step brings it to where P(g > 0) is not defined.

    Reference:
        Louizos et al. 2018, section 2.2.
    """

    def build(self, input_shape):
        super().build(input_shape)
        start = keras.initializers.Constant(math.log(BETA / (_BETA_RANGE - BETA)))
        self.raw_beta = self.add_weight(shape=(), initializer=start, dtype="float32", autocast=False, name=GATE_WEIGHT)

    def beta(self) -> float:
        """Its value."""
        return float(_BETA_RANGE / (1 + np.exp(-np.asarray(self.raw_beta, "float64"))))

    def open_probabilities(self) -> np.ndarray:
        logits = np.asarray(self.loc, "float64") + self.beta() * math.log(-ZETA / GAMMA)
        soft = 1 / (1 + np.exp(-logits))
        return (soft + np.asarray(self.hardness) * (np.asarray(self.chosen) - soft)).astype("float32")

    def _beta(self):
        return _BETA_RANGE * ops.sigmoid(self.raw_beta)

    def _sample(self, inputs):
        rows = ops.shape(inputs)[0] if self.sampling == "example" else 1
        u = ops.clip(keras.random.uniform((rows, self.units), seed=self.noise), 1e-6, 1 - 1e-6)
        s = ops.sigmoid((ops.log(u) - ops.log(1 - u) + self.loc) / self._beta())
        return ops.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)

    def _penalty(self):
        is_open = ops.sigmoid(self.loc + self._beta() * math.log(-ZETA / GAMMA))
        distance = ops.mean(is_open) - self.target
        undecided = ops.mean(is_open * (1 - is_open))
        return self.pressure * ops.square(distance) + self.multiplier * distance + self.polarisation * undecided


def with_learned_beta(big: keras.Model) -> keras.Model:
    """A copy of a fresh big student whose gates learn their beta.

    Args:
        big: made by `kmerge.merge`. Not changed.

    Returns:
        An uncompiled model that `kmerge.compress` takes.
    """

    def clone(layer):
        kind = LearnedBetaGate if isinstance(layer, HardConcreteGate) else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(big, clone_function=clone)
    _copy_weights(big, copy)
    return copy


def _copy_weights(model: keras.Model, other: keras.Model) -> None:
    """Gives the layers of `other` the weights of those of the same name, gates excepted: they start from their seeds."""
    for layer in other.layers:
        if not isinstance(layer, HardConcreteGate):
            layer.set_weights(model.get_layer(layer.name).get_weights())


def unlinked(big: keras.Model) -> keras.Model:
    """A copy of a fresh big student with a gate of its own for each place at which a space is read.

    Args:
        big: made by `kmerge.merge` with `sampling="example"`. Not changed.

    Returns:
        An uncompiled model to train, then to give to `relinked`. The first place of a space has its gate's name, the
        others that name with a number behind.

    Raises:
        InvalidArgumentError: if gates meet kernels instead of inputs, as with `sampling="batch"`.
    """
    if folded := [layer.name for layer in big.layers if isinstance(layer, FoldGates)]:
        raise InvalidArgumentError(
            f"Expected a model merged with sampling='example'. Received: gates folded in {folded}."
        )
    places: dict[int, list] = {}  # of a mask: the gate, and the number of places that read it so far

    def call(layer, *args, **kwargs):
        if isinstance(layer, ApplyGates):
            x, *masks = args[0]
            return layer([x, *(_own_mask(x, mask, places[id(mask)]) for mask in masks)], **kwargs)
        outputs = layer(*args, **kwargs)
        if isinstance(layer, HardConcreteGate):
            places[id(outputs)] = [layer, 0]
        return outputs

    copy = keras.models.clone_model(big, call_function=call)
    _copy_weights(big, copy)
    return copy


def _own_mask(x, mask, place: list):
    gate, number = place
    place[1] += 1
    if number == 0:
        return mask
    seed = seed_of("unlinked", gate.seed, number)
    return HardConcreteGate.from_config(gate.get_config() | {"name": f"{gate.name}_{number}", "seed": seed})(x)


def relinked(trained: keras.Model, big: keras.Model) -> keras.Model:
    """A big student with the weights of an unlinked one, and one gate per space: the mean `loc` of its places.

    Args:
        trained: made by `unlinked`, and trained.
        big: what it was made of. Not changed.

    Returns:
        A model for `kmerge.compress`.
    """
    copy = keras.models.clone_model(big)
    _copy_weights(trained, copy)
    for gate in gates_of(copy):
        names = [gate.name, *(f"{gate.name}_{number}" for number in range(1, len(trained.layers)))]
        places = [np.asarray(place.loc) for place in gates_of(trained) if place.name in names]
        gate.loc.assign(np.mean(places, axis=0))
    return copy
