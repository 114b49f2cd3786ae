"""Greedy merging: which units matter is learned layer by layer from the end, then a student mimics them from the start.

The parents lie side by side, `concatenate(*models)`. Both stages are made of local problems, small networks that learn to
put out what some layers of the parents put out:

    identify   from the last space to the first     x of the parents -- gates -- layers that mix the space -- their outputs
    mimic      from the first layer to the last     x of the student ----------- one layer ------------------ the parents'

Outputs of units that were found unimportant are left out. Nothing before a local problem is trained by it, so what it
reads and what it is to put out are computed once, by `LocalProblem.arrays`.

Reference: Pašen, master's thesis 2022, chapter 3.1. What differs: gates stand at the inputs of the layers that mix a space,
one gate per unit also where several layers do, and a residual stream is one space. Its units are chosen where it begins,
so what is added to it inside is matched in all units. The outputs of the model are matched to the parents' mean, where the
thesis takes the labels. Targets are divided by their standard deviation, so that losses are shares of a variance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.cloning import clone_operation
from kmerge.errors import UnsupportedLayerError
from kmerge.gates import ApplyGates, HardConcreteGate
from kmerge.seeds import seed_of
from kmerge.spaces import Record, Trace, trace

_BATCH = 256
_PROBES, _PROBE_SIZE = 4, 0.01


@dataclass(frozen=True)
class LocalProblem:
    """Some layers, what they read and what they are to put out.

    Attributes:
        name: of the space or the layer.
        model: from `(batch, values read)` to `(batch, values put out)`, uncompiled; to be trained by the mean squared error.
        layers: those that the model holds, by path.
        gate: the gate to be trained, or None.
        reader: from the model's inputs to what the layers read.
        target: from the model's inputs to what they are to put out.
        scales: what the outputs of each call are divided by.
    """

    name: str
    model: keras.Model
    layers: Mapping[str, keras.Layer]
    gate: HardConcreteGate | None
    reader: keras.Model
    target: keras.Model
    scales: Sequence[float]

    @property
    def bytes_per_example(self) -> int:
        """Of what `arrays` gives."""
        return 4 * (self.model.inputs[0].shape[1] + self.model.outputs[0].shape[1])

    def arrays(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the model is to read and to put out for these examples, a row for each."""
        return _rows(self.reader, x, [1.0] * len(self.reader.outputs)), _rows(self.target, x, self.scales)

    def curvature(self, x: np.ndarray) -> float:
        """How steep the mean squared error is in the weights of the layers, at the most.

        Gradient descent is stable at a learning rate of one over it. What a layer reads is not normalized, so the rate
        that suits the whole model need not suit the problem.

        Args:
            x: examples of what the model reads, the first array of `arrays`.

        Returns:
            The trace of the Gauss-Newton matrix, estimated by random probes; the largest eigenvalue is not larger.
        """
        weights = [weight for layer in self.layers.values() for weight in layer.trainable_variables]
        before = [keras.ops.convert_to_numpy(weight) for weight in weights]
        here = _computed(self.model, x)[0]
        rng, squares = np.random.default_rng(seed_of("curvature")), []
        for _ in range(_PROBES):
            for weight, value in zip(weights, before, strict=True):
                weight.assign(value + _PROBE_SIZE * rng.standard_normal(value.shape))
            squares.append(np.mean(np.square(_computed(self.model, x)[0] - here)))
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)
        return 2 * float(np.mean(squares)) / _PROBE_SIZE**2


def spaces_to_identify(big: keras.Model) -> list[str]:
    """The names of the spaces of the parents side by side, in the order in which greedy merging goes through them."""
    return [space.name for space in reversed(trace(big).spaces.selectable)]


def identification(
    big: keras.Model,
    space: str,
    chosen: Mapping[str, np.ndarray],
    sample: np.ndarray,
    *,
    target: float = 0.5,
    sampling: str = "example",
    seed: int = 0,
) -> LocalProblem:
    """The local problem that tells which units of a space matter.

    Args:
        big: the parents side by side.
        space: one of its spaces.
        chosen: the units of other spaces that were found important.
        sample: a few inputs of the model, on which outputs are scaled.
        target: share of the units to keep.
        sampling: of the gates, as for `merge`.
        seed: of the gates.

    Returns:
        The problem; after training, `problem.gate.kept()` are the units.

    Raises:
        UnsupportedLayerError: for a layer that greedy merging cannot take out of its model.
    """
    walked = trace(big)
    found = walked.spaces[space]
    gate = HardConcreteGate(
        found.size, target, sampling=sampling, seed=seed_of("gates", seed, space), name="gate", dtype="float32"
    )
    number = [s.name for s in walked.spaces.values()].index(found.name)
    records = [r for r in walked.records.values() if r.path in found.consumers and number in _spaces_read(walked, r)]
    return _problem(found.name, walked, records, [r.call.inputs[0] for r in records], big, chosen, sample, gate)


def layers_to_mimic(big: keras.Model, chosen: Mapping[str, np.ndarray]) -> list[str]:
    """The layers that lose inputs when only the chosen units stay, in the order in which they run."""
    walked = trace(big)
    consumers = {path for name in chosen for path in walked.spaces[name].consumers}
    return list(dict.fromkeys(record.path for record in walked.records.values() if record.path in consumers))


def mimicry(
    big: keras.Model, student: keras.Model, path: str, chosen: Mapping[str, np.ndarray], sample: np.ndarray
) -> LocalProblem:
    """The local problem that makes one layer of a student put out what the parents' important units do.

    Args:
        big: the parents side by side.
        student: `select(big, chosen)`, trained up to this layer. Not changed.
        path: of the layer.
        chosen: the important units of each space.
        sample: a few inputs of the model, on which outputs are scaled.

    Returns:
        The problem; after training, `problem.layers[path]` holds the weights that the student's layer is to get.

    Raises:
        UnsupportedLayerError: for a layer that greedy merging cannot take out of its model.
    """
    walked, own = trace(big), trace(student)
    keys = [key for key, record in walked.records.items() if record.path == path]
    records = [walked.records[key] for key in keys]
    copied = [own.records[key] for key in keys]
    read = [record.call.inputs[0] for record in copied]
    return _problem(path, walked, records, read, student, chosen, sample, None, copied)


def _spaces_read(walked: Trace, record: Record) -> np.ndarray:
    return np.unique(walked.space_of[record.inputs[0].units])


def _problem(name, walked, records, read, model, chosen, sample, gate, copied=None) -> LocalProblem:
    """The problem of the calls `records` of the parents, made of the layers of `copied`, that read tensors of `model`."""
    for record in records:
        _check(record)
    copies = {r.path: clone_operation(r.call.operation, {}, f"layer_{i}") for i, r in enumerate(copied or records)}
    values = keras.Input((sum(_size(x) for x in read),), name="read")
    mask = None if gate is None else gate(values)
    outputs, start = [], 0
    for record, x in zip(records, read, strict=True):
        part = keras.layers.Reshape(x.shape[1:])(values[:, start : start + _size(x)])
        start += _size(x)
        if gate is not None:
            part = ApplyGates(_gate_numbers(walked, name, record), axis=record.inputs[0].axis)([part, mask])
        outputs.append(copies[record.path](part))
    kept = [_important(walked, record, chosen) for record in records]
    # The copies of a student's layers put out its units only.
    outputs = outputs if copied else [_taken(x, units) for x, units in zip(outputs, kept, strict=True)]
    goals = [_taken(record.call.outputs[0], units) for record, units in zip(records, kept, strict=True)]
    target = keras.Model(walked.model.input, goals)
    scales = [float(np.std(array)) or 1.0 for array in keras.tree.flatten(_computed(target, sample))]
    outputs = [keras.layers.Flatten()(x) / scale for x, scale in zip(outputs, scales, strict=True)]
    local = keras.Model(values, outputs[0] if len(outputs) == 1 else keras.layers.Concatenate()(outputs))
    for record in copied or records:
        copies[record.path].set_weights(record.call.operation.get_weights())
    return LocalProblem(name, local, copies, gate, keras.Model(model.input, read), target, scales)


def _check(record: Record) -> None:
    call = record.call
    at_last = all(labels.axis == len(labels.shape) - 1 for labels in record.outputs)
    if "/" in record.path or len(call.inputs) != 1 or len(call.outputs) != 1 or not at_last:
        raise UnsupportedLayerError(
            record.path,
            type(call.operation).__name__,
            "greedy merging trains each layer alone, outside of its model: one input, one output, no nested model.",
            "Use kmerge.merge.",
        )


def _gate_numbers(walked: Trace, name: str, record: Record) -> list[int]:
    """For each position that a layer reads, 1 + the index of its unit in the space, or 0 where it is of another."""
    units, members = record.inputs[0].units, walked.spaces[name].units
    return [int(walked.index_of[unit]) + 1 if unit in members else 0 for unit in units]


def _important(walked: Trace, record: Record, chosen: Mapping[str, np.ndarray]) -> np.ndarray:
    """The positions of a layer's output whose units are chosen, or of a space without a choice."""
    units = record.outputs[0].units
    dropped = [np.delete(walked.spaces[name].units, kept) for name, kept in chosen.items()]
    return np.flatnonzero(~np.isin(units, np.concatenate([np.empty(0, int), *dropped])))


def _taken(x, positions: np.ndarray):
    return x if len(positions) == x.shape[-1] else keras.ops.take(x, positions.tolist(), axis=-1)


def _size(x) -> int:
    return int(np.prod(x.shape[1:]))


def _computed(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    batches = [keras.tree.flatten(model(x[i : i + _BATCH], training=False)) for i in range(0, len(x), _BATCH)]
    return [
        np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]) for parts in zip(*batches, strict=True)
    ]


def _rows(model: keras.Model, x: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    parts = [part.reshape(len(x), -1) / scale for part, scale in zip(_computed(model, x), scales, strict=True)]
    return np.concatenate(parts, axis=1).astype("float32")
