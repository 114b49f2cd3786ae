"""What the merging papers assert of gates without showing it, undone: the rise of lambda, the fixed beta, linked gates,
and that no gate stands before a BatchNormalization. And what their code does without saying it: it decays gates.

Pašen and Boža let lambda rise over the epochs, fix beta at 2/3, link the gates along a residual stream, as the same
channels stay everywhere, and put none before a BatchNormalization. Louizos et al. (2018) name beta as one that may be learned.
"""

import math
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from baselines.protocol.task import GateSettings
from kmerge.errors import InvalidArgumentError
from kmerge.gates import BETA, GAMMA, GATE_WEIGHT, ZETA, ApplyGates, FoldGates, HardConcreteGate, PaperControl, gates_of
from kmerge.merging import GatePlacement, Merged, read_merge
from kmerge.seeds import seed_of
from kmerge.spaces import Trace
from kmerge.surgery import Gating, Layout, build

_BETA_RANGE = 2.0
# Gates of this `loc`, or one more, are exactly 1 in inference, and the larger is the more open one.
_OPEN = 20.0
# What a kept gate counts at least, where its value is divided by.
_LEAST = 1e-3


def constant_pressure(gates: GateSettings, epochs: int) -> GateSettings:
    """The settings with the mean, over the epochs, of the paper's rising lambda instead of the rise.

    Args:
        gates: settings, with a control "paper".
        epochs: of the gate phase.

    Returns:
        New settings.
    """
    paper = PaperControl(**gates.controls["paper"])
    constant = {"start": sum(map(paper.pressure, range(epochs))) / epochs, "step": 0.0}
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

    def beta(self):
        """Its value, a scalar tensor."""
        return _BETA_RANGE * ops.sigmoid(self.raw_beta)

    def open_shift(self):
        return self.beta() * math.log(-ZETA / GAMMA)

    def _sample(self, inputs):
        rows = ops.shape(inputs)[0] if self.sampling == "example" else 1
        u = ops.clip(keras.random.uniform((rows, self.units), seed=self.noise), 1e-6, 1 - 1e-6)
        s = ops.sigmoid((ops.log(u) - ops.log(1 - u) + self.loc) / self.beta())
        return ops.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def with_gates_of(kind: type[HardConcreteGate], big: keras.Model) -> keras.Model:
    """A copy of a fresh big student whose gates are of another class: learn their beta, or can be decayed.

    Args:
        kind: `LearnedBetaGate` or `DecayedGate`.
        big: made by `kmerge.merge`. Not changed.

    Returns:
        An uncompiled model that `kmerge.compress` takes.
    """

    def clone(layer):
        return (kind if isinstance(layer, HardConcreteGate) else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(big, clone_function=clone)
    _copy_weights(big, copy)
    return copy


@keras.saving.register_keras_serializable("kmerge_benchmarks")
class DecayedGate(HardConcreteGate):
    """A gate layer with one more variable, `decay`, and the loss `decay / 2 * sum(loc^2)`, whose gradient is `decay * loc`."""

    def build(self, input_shape):
        super().build(input_shape)
        self.decay = self.add_weight(
            shape=(), initializer="zeros", dtype="float32", trainable=False, autocast=False, name="decay"
        )

    def _penalty(self):
        return super()._penalty() + self.decay / 2 * ops.sum(ops.square(self.loc))


class GateDecay(keras.callbacks.Callback):
    """Decays the gates of a big student with the weights, as the authors' code for CIFAR-100 and VGG-11 does by accident.

    There the gates are in their own optimizer, and again in that of the weights, which multiplies `loc` at each step by
    about `1 - rate * weight_decay / (1 - momentum)`; rate is that of the weights, whose drops end the decay in practice.
    On CIFAR-100 that is `1 - 1e-4` in each of the 19,550 steps of the first 50 epochs: a `loc` that no loss holds has .14
    of its value then, and .13 after all 100. With our 45,000 images there are 17,600 steps, and it is .17 after 50. Here
    it is done in the gates' own optimizer, of the same momentum: `DecayedGate.decay` is the weights' rate times their
    decay over the gates' rate, set when an epoch begins.

    What differs: the other half of the accident, that the weights' optimizer also follows the gates' gradient, is left
    out.

    Args:
        weight_decay: of the weights; see `weight_decay_of`.
        gate_learning_rate: of the gates' optimizer.
    """

    def __init__(self, weight_decay: float, gate_learning_rate: float):
        super().__init__()
        self.factor = weight_decay / gate_learning_rate

    def on_epoch_begin(self, epoch, logs=None):
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for gate in gates_of(self.model):
            gate.decay.assign(self.factor * rate)


def weight_decay_of(model: keras.Model) -> float:
    """The weight decay of a network: twice the one factor of its L2 penalties, whose gradient it is.

    Args:
        model: the network.

    Raises:
        InvalidArgumentError: if it has none, and so nothing that could reach the gates by accident, or several.
    """
    penalties = [weight.regularizer for weight in model.trainable_weights]
    found = sorted({2 * float(penalty.l2) for penalty in penalties if isinstance(penalty, keras.regularizers.L2)})
    if len(found) != 1:
        raise InvalidArgumentError(
            f"Gates that decay as the weights do need a network with one weight decay. Received: model {model.name!r} with "
            f"{found or 'none'}. Give the suite's [architecture] a weight_decay, or take l0_merge_paper."
        )
    return found[0]


def _copy_weights(model: keras.Model, other: keras.Model) -> None:
    """Gives the layers of `other` the weights of those of the same name, gates excepted: they start from their seeds."""
    for layer in other.layers:
        if layer.weights and not isinstance(layer, HardConcreteGate):
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


class _BeforeNorm(GatePlacement):
    """Puts the gates of spaces that pass a BatchNormalization before it, and those of others where they are read."""

    def __init__(self, merged: Merged, layout: Layout):
        first = next(iter(merged.gates.values()))
        super().__init__(layout, merged.widths, first.start, first.sampling, seed=0)
        self.gates = {name: HardConcreteGate.from_config(gate.get_config()) for name, gate in merged.gates.items()}
        self.before = np.concatenate([x.units for x in _normalized(layout).values()])

    def apply(self, placed, operation, tensors):
        if isinstance(operation, keras.layers.BatchNormalization):
            return operation, [self.gated(tensors[0], placed.inputs[0])]
        found = list(tensors)
        for i in placed.consumed:
            units = placed.inputs[i].units
            elsewhere = placed.inputs[i].with_units(np.where(np.isin(units, self.before), -1, units))
            found[i] = self.gated(tensors[i], elsewhere)
        return operation, found


def _normalized(layout: Layout) -> dict:
    """The entries that each BatchNormalization reads, by the path of the layer."""
    norm = keras.layers.BatchNormalization
    calls = layout.calls.values()
    return {each.record.path: each.inputs[0] for each in calls if isinstance(each.record.call.operation, norm)}


def before_norm(big: keras.Model) -> keras.Model:
    """A copy of a fresh big student whose gates stand before BatchNormalization, where a space passes one.

    There the statistics of a batch undo what a gate between 0 and 1 does, and a closed one leaves the constant that
    BatchNormalization makes of zeros. Spaces that pass none are gated where they are read, as ever. What else
    reads a space that passes one, as the shortcut of a pre-activation block does, reads it without gates.

    Args:
        big: made by `kmerge.merge`. Not changed.

    Returns:
        An uncompiled model to train, then to give to `after_norm`.

    Raises:
        InvalidArgumentError: if there is no BatchNormalization to stand before.
    """
    merged = read_merge(big)
    check_normalized(merged.walked)
    layout = Layout(merged.walked, merged.plan)
    placement = _BeforeNorm(merged, layout)
    gated, layers = build(layout, Gating(placement.start, placement.apply, placement.inside), name=big.name)
    placement.finish(gated, layers)
    for path, layer in layers.items():
        layer.set_weights(merged.layers[path].get_weights())
    return gated


def check_normalized(walked: Trace) -> None:
    """Refuses a network in which no units that may go pass a BatchNormalization.

    Args:
        walked: its walk.

    Raises:
        InvalidArgumentError: if there is none.
    """
    free = np.array([space.selectable for space in walked.spaces.values()])
    records = [r for r in walked.records.values() if isinstance(r.call.operation, keras.layers.BatchNormalization)]
    if not any(free[walked.space_of[record.inputs[0].units]].any() for record in records):
        raise InvalidArgumentError(
            f"Gates before BatchNormalization need units that pass one. Received: model {walked.model.name!r}, in which no "
            "units that may be cut do. Take l0_merge_paper."
        )


def after_norm(trained: keras.Model, big: keras.Model) -> keras.Model:
    """A big student that does in inference what one trained with gates before BatchNormalization does.

    A gate's value g goes into the statistics of the BatchNormalization behind it: `g x` has the mean m and the variance v,
    and so x has m / g and v / g^2. `kmerge.compress` then cuts the units whose gates are least open. What these still
    bring, the constant that BatchNormalization makes of nothing, is lost even where a gate is exactly 0. A kept gate
    that is 0 in inference counts as .001.

    Args:
        trained: made by `before_norm`, and trained.
        big: what it was made of. Not changed.

    Returns:
        A model for `kmerge.compress`.
    """
    copy = keras.models.clone_model(big)
    _copy_weights(trained, copy)
    merged, source = read_merge(copy), read_merge(trained).gates
    layout = Layout(merged.walked, merged.plan)
    normalized = _normalized(layout)
    before = np.concatenate([x.units for x in normalized.values()])
    values = {}
    for name, gate in merged.gates.items():
        entries = layout.entries_of(name)
        if np.isin(entries, before).any():
            values |= dict(zip(entries.tolist(), source[name].values().tolist(), strict=True))
            gate.loc.assign(_OPEN + np.isin(np.arange(gate.units), source[name].kept()))
        else:
            gate.set_weights(source[name].get_weights())
    for path, x in normalized.items():
        layer = merged.layers[path]
        gates = np.maximum([values.get(entry, 1.0) for entry in x.units.tolist()], _LEAST)
        layer.moving_mean.assign(np.asarray(layer.moving_mean) / gates)
        layer.moving_variance.assign((np.asarray(layer.moving_variance) + layer.epsilon) / gates**2 - layer.epsilon)
    return copy


# How gates may stand otherwise: what makes a copy of a fresh big student to train, and what brings it back.
ARRANGEMENTS = {"unlinked": (unlinked, relinked), "before_norm": (before_norm, after_norm)}
