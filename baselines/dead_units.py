"""Dead units: neurons and channels that weight pruning cut off, and their removal.

A unit is dead if all weights that make it, or all that read it, are zero; weights from and to dead units count as zero.
So of the hidden units of Dense(3) -> Dense(2) with these kernels

    inputs x hidden   1 0 2        hidden x outputs   1 1       unit 1 has no inputs: it is the constant of its bias
                      3 0 1                           2 0       unit 2 has no outputs: nobody misses it
                                                      0 0

only unit 0 is left. A unit without inputs is a constant c, its activation of its bias. Each reader adds c times a kernel's
weights, and that goes into the reader's bias; or, where it has none, into the moving mean of the BatchNormalization
behind it. This is exact in inference for Dense, for 1x1 convolutions and for those that pad nothing, where the constant is
the same at all places. A convolution that pads reads zeros beyond the border, and has no one constant: then the mean of the
constant over places is used, and the removal is not exact. The report says so, and how much the outputs changed.

Where all units of a space are dead, the first one stays: a layer without units cannot be built.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

import kmerge
from kmerge.channels import Record, Trace, trace
from kmerge.compensation import KERNEL_LAYERS
from kmerge.graph import Graph
from kmerge.layout import weight_axes

# Constants are told from others by their spread over examples and places, relative to the largest activation.
_CONSTANT = 1e-5
_LINEAR = keras.activations.linear


@dataclass(frozen=True)
class Removal:
    """What came of a removal.

    Attributes:
        model: the smaller model.
        keep: by space, the units that stay.
        removed: number of units that went.
        exact: whether the outputs are the same, by what the removed units fed.
        change: largest difference of an output on the examples given, over the largest output.
        why: for each layer at which the removal is not exact, the reason.
    """

    model: keras.Model
    keep: Mapping[str, np.ndarray]
    removed: int
    exact: bool
    change: float
    why: Mapping[str, str]


def remove_dead_units(model: keras.Model, examples: np.ndarray) -> Removal:
    """Really removes the units that pruning cut off; see the module.

    Args:
        model: a Functional or Sequential model with zeros in its kernels; not changed.
        examples: inputs on which constants are read and the change is measured; two suffice.

    Returns:
        The removal, with an uncompiled model.
    """
    walked = trace(model)
    connections = _connections(walked)
    no_inputs, dead = _dead(walked, connections)
    keep = {space.name: np.flatnonzero(~dead[space.units]) for space in walked.spaces.selectable}
    for name, units in keep.items():
        if not len(units):
            keep[name] = np.array([0])
            dead[walked.spaces[name].units[0]] = False
    removed = sum(walked.spaces[name].size - len(units) for name, units in keep.items())
    whole = kmerge.select(model, {})
    why = _fold(whole, walked, dead & no_inputs, dead, examples)
    smaller = kmerge.select(whole, keep)
    before, after = _outputs(model, examples), _outputs(smaller, examples)
    change = max(float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0)) for a, b in zip(before, after, strict=True))
    return Removal(smaller, keep, removed, not why, change, why)


def _outputs(model: keras.Model, examples: np.ndarray) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(x).astype("float64") for x in keras.tree.flatten(model(examples, training=False))
    ]


@dataclass(frozen=True)
class _Connection:
    """One kernel as a matrix: whether any weight leads from the unit at a position it reads to one that it makes."""

    path: str
    reads: np.ndarray  # units
    makes: np.ndarray
    weights: np.ndarray  # (reads, makes), of bools


def _connections(walked: Trace) -> list[_Connection]:
    found = []
    for path, named in walked.axes.items():
        layer = walked.layers[path]
        if not isinstance(layer, KERNEL_LAYERS) or "kernel" not in named:
            continue
        axes = weight_axes({"kernel": named["kernel"]}, layer)
        ((index, roles),) = axes.items()
        at = {axis.role: number for number, axis in enumerate(roles) if axis is not None}
        if set(at) != {"consumes", "produces"}:
            continue  # a grouped convolution passes its units on
        kernel = np.moveaxis(_array(layer.weights[index]), (at["consumes"], at["produces"]), (-2, -1)) != 0
        kernel = kernel.reshape(-1, *kernel.shape[-2:]).any(axis=0)
        found.append(_Connection(path, roles[at["consumes"]].units, roles[at["produces"]].units, kernel))
    return found


def _dead(walked: Trace, connections: list[_Connection]) -> tuple[np.ndarray, np.ndarray]:
    """For each unit whether its inputs are gone, and whether its inputs or its outputs are."""
    paths = {connection.path for connection in connections}
    may_lose_inputs, may_lose_outputs = np.zeros((2, len(walked.space_of)), bool)
    for space in walked.spaces.selectable:
        may_lose_inputs[space.units] = paths.issuperset(space.owners)
        may_lose_outputs[space.units] = bool(space.consumers) and paths.issuperset(space.consumers)
    no_inputs, no_outputs = np.zeros((2, len(walked.space_of)), bool)
    while True:
        before = (no_inputs | no_outputs).sum()
        fed, missed = ~may_lose_inputs, ~may_lose_outputs
        dead = no_inputs | no_outputs
        for connection in connections:
            alive = connection.weights & ~dead[connection.reads][:, None]
            fed[connection.makes[alive.any(axis=0)]] = True
            alive = connection.weights & ~dead[connection.makes][None, :]
            missed[connection.reads[alive.any(axis=1)]] = True
        no_inputs, no_outputs = no_inputs | ~fed, no_outputs | ~missed
        if (no_inputs | no_outputs).sum() == before:
            return no_inputs, no_inputs | no_outputs


def _fold(
    whole: keras.Model, walked: Trace, constant: np.ndarray, dead: np.ndarray, examples: np.ndarray
) -> dict[str, str]:
    """Adds to a copy of the model, in place, what its constant units contribute; says where that is not exact, and why.

    Args:
        whole: the copy.
        walked: the walk of the model.
        constant: for each unit whether it goes and has no inputs.
        dead: for each unit whether it goes.
        examples: inputs.
    """
    layers, shifts = trace(whole).layers, {}
    why = {
        space.name: "its units are normalised together"
        for space in walked.spaces.selectable
        if "normalised" in space.facts and dead[space.units].any()
    }
    readers = [
        record
        for record in walked.records.values()
        if isinstance(record.call.operation, KERNEL_LAYERS) and constant[record.inputs[0].units].any()
    ]
    values = _read(walked.model, [record.call.inputs[0] for record in readers], examples)
    for record in readers:
        made = ~dead[record.outputs[0].units]
        kernel = _lost(layers[record.path], constant[record.inputs[0].units])[..., made]  # (places, units, makes)
        if not kernel.any():
            continue
        found = values.get(id(record.call.inputs[0]))
        if found is None:
            why[record.path] = "it lies in a nested model, where constants are not read"
            continue
        reason, units = _constants(record.call.operation, found, constant[record.inputs[0].units], kernel)
        shift = np.zeros(len(made))
        shift[made] = np.tensordot(units, kernel.sum(axis=0), axes=1)
        shifts.setdefault(record.path, []).append(shift)
        if not np.allclose(shift, shifts[record.path][0], rtol=_CONSTANT, atol=_CONSTANT):
            reason = "it is used several times, and its inputs have other constants each time"
        if len(shifts[record.path]) == 1:
            reason = _add(shift, record, walked, layers) or reason
        if reason:
            why[record.path] = reason
    return why


def _lost(layer: keras.Layer, positions: np.ndarray) -> np.ndarray:
    """The weights with which a layer reads some positions of its input, of shape `(places, positions, makes)`."""
    kernel = _array(layer.kernel).astype("float64")
    kernel = np.swapaxes(kernel, -2, -1) if _is_transposed(layer) else kernel
    return kernel.reshape(-1, *kernel.shape[-2:])[:, positions, :]


def _is_transposed(layer: keras.Layer) -> bool:
    return "Transpose" in type(layer).__name__


def _read(model: keras.Model, tensors: list, examples: np.ndarray) -> dict[int, np.ndarray]:
    """The values of a model's own tensors, by id; those of nested models are left out."""
    own = {id(x) for call in Graph(model).calls for x in call.outputs} | {id(x) for x in Graph(model).inputs}
    wanted = list({id(x): x for x in tensors if id(x) in own}.values())
    if not wanted:
        return {}
    found = keras.Model(model.inputs, wanted)([examples], training=False)
    return {id(x): _array(value) for x, value in zip(wanted, keras.tree.flatten(found), strict=True)}


def _constants(layer: keras.Layer, values: np.ndarray, positions: np.ndarray, kernel: np.ndarray) -> tuple:
    """Why a layer's constant inputs cannot be told by one number each, or None; and these numbers."""
    rows = values.astype("float64").reshape(-1, values.shape[-1])
    scale = np.max(np.abs(rows)) or 1.0
    rows = rows[:, positions]
    means = rows.mean(axis=0)
    matters = kernel.any(axis=(0, 2))
    if np.any(np.ptp(rows, axis=0)[matters] > _CONSTANT * scale):
        return "its constant inputs differ from place to place, as something was padded before", means
    if isinstance(layer, keras.layers.Dense) or np.all(np.abs(means[matters]) <= 1e-7 * scale):
        return None, means
    single = len(kernel) == 1
    if single and (not _is_transposed(layer) or set(layer.strides) == {1}):
        return None, means
    if layer.padding == "valid" and not _is_transposed(layer):
        return None, means
    return "it pads its input, so that constants look different at the border", means


def _add(shift: np.ndarray, record: Record, walked: Trace, layers: Mapping) -> str | None:
    """Adds to a layer's outputs, in its bias or in the normalisation behind it; why that is impossible, or None."""
    layer = layers[record.path]
    if layer.use_bias:
        layer.bias.assign(_array(layer.bias) + shift)
        return None
    if not np.any(shift):
        return None
    for behind in walked.records.values():
        operation = behind.call.operation
        reads = behind.call.alone and behind.call.inputs[0] is record.call.outputs[0]
        if reads and isinstance(operation, keras.layers.BatchNormalization) and layer.activation is _LINEAR:
            norm = layers[behind.path]
            norm.moving_mean.assign(_array(norm.moving_mean) - shift)
            return None
    return "it has no bias, and no BatchNormalization alone stands behind it"


def _array(weight) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight)
