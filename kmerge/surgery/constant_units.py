"""Constant units: what a unit without inputs gives, and how it goes into the biases of the layers that read it.

A unit that nothing feeds any more is a constant c, its activation of its bias. Each reader adds c times a kernel's weights,
and that goes into the reader's bias; or, where it has none, into the moving mean of the BatchNormalization behind it:

    Dense(2) reads h = [h0, .5]     kernel [1 1; 2 0]     bias [0, 0] -> [1, 0], and the second unit may go

This is exact in inference for Dense, for 1x1 convolutions and for those that pad nothing, where the constant is the same at
all places. A convolution that pads reads zeros beyond the border, and has no one constant: then the mean over places is used.
"""

from collections.abc import Mapping

import keras
import numpy as np

from kmerge.graph import Graph, array_of
from kmerge.rules import KERNEL_LAYERS
from kmerge.spaces import Record, Trace

# Constants are told from others by their spread over examples and places, relative to the largest activation.
_CONSTANT = 1e-5
_LINEAR = keras.activations.linear


def fold_constants(
    layers: Mapping[str, keras.Layer],
    walked: Trace,
    constant: np.ndarray,
    dead: np.ndarray,
    examples: object,
    sign: float = 1.0,
) -> dict[str, str]:
    """Adds to layers, in place, what constant units contribute; says where that is not exact, and why.

    Args:
        layers: by path the layers to change: those of the model that was walked, or of a copy.
        walked: the walk of the model.
        constant: for each unit whether it goes and has no inputs.
        dead: for each unit whether it goes.
        examples: inputs of the model, on which the constants are read; two suffice.
        sign: -1 takes away what 1 adds.

    Returns:
        For each layer, or space, at which it is not exact, the reason.
    """
    shifts: dict[str, list] = {}
    why = {
        space.name: "its units are normalized together" if space.is_normalized else "its units are added up without a weight"
        for space in walked.spaces.selectable
        if (space.is_normalized or space.adders) and dead[space.units].any()
    }
    readers = [
        record
        for record in walked.records.values()
        if _mixes(record.call.operation) and constant[record.inputs[0].units].any()
    ]
    values = _read(walked.model, [record.call.inputs[0] for record in readers], examples)
    for record in readers:
        made = ~dead[record.outputs[0].units]
        kernel = _lost(record, layers, constant[record.inputs[0].units])[..., made]  # (places, units, makes)
        if not kernel.any():
            continue
        found = values.get(id(record.call.inputs[0]))
        if found is None:
            why[record.path] = "it lies in a nested model, where constants are not read"
            continue
        reason, units = _constants(record, found, constant[record.inputs[0].units], kernel)
        shift = np.zeros(len(made))
        shift[made] = np.tensordot(units, kernel.sum(axis=0), axes=1)
        shifts.setdefault(record.path, []).append(shift)
        if not np.allclose(shift, shifts[record.path][0], rtol=_CONSTANT, atol=_CONSTANT):
            reason = "it is used several times, and its inputs have other constants each time"
        if len(shifts[record.path]) == 1:
            reason = _add(sign * shift, record, walked, layers) or reason
        if reason:
            why[record.path] = reason
    return why


def _mixes(layer: object) -> bool:
    # A grouped convolution passes its units on.
    return isinstance(layer, KERNEL_LAYERS) and getattr(layer, "groups", 1) == 1


def _lost(record: Record, layers: Mapping, positions: np.ndarray) -> np.ndarray:
    """The weights with which a layer reads some positions of its input, of shape `(places, positions, makes)`."""
    kernel = array_of(layers[record.path].kernel).astype("float64")
    kernel = np.swapaxes(kernel, -2, -1) if record.rule.is_transposed else kernel
    return kernel.reshape(-1, *kernel.shape[-2:])[:, positions, :]


def _read(model: keras.Model, tensors: list, examples: object) -> dict[int, np.ndarray]:
    """The values of a model's own tensors, by id; those of nested models are left out."""
    own = {id(x) for call in Graph(model).calls for x in call.outputs} | {id(x) for x in Graph(model).inputs}
    wanted = list({id(x): x for x in tensors if id(x) in own}.values())
    if not wanted:
        return {}
    found = keras.Model(model.inputs, wanted)(keras.tree.flatten(examples), training=False)
    return {id(x): array_of(value) for x, value in zip(wanted, keras.tree.flatten(found), strict=True)}


def _constants(record: Record, values: np.ndarray, positions: np.ndarray, kernel: np.ndarray) -> tuple:
    """Why a layer's constant inputs cannot be told by one number each, or None; and these numbers."""
    layer = record.call.operation
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
    if single and (not record.rule.is_transposed or set(layer.strides) == {1}):
        return None, means
    if layer.padding == "valid" and not record.rule.is_transposed:
        return None, means
    return "it pads its input, so that constants look different at the border", means


def _add(shift: np.ndarray, record: Record, walked: Trace, layers: Mapping) -> str | None:
    """Adds to a layer's outputs, in its bias or in the normalization behind it; why that is impossible, or None."""
    layer = layers[record.path]
    if layer.use_bias:
        layer.bias.assign(array_of(layer.bias) + shift)
        return None
    if not np.any(shift):
        return None
    for behind in walked.records.values():
        operation = behind.call.operation
        reads = behind.call.alone and behind.call.inputs[0] is record.call.outputs[0]
        if reads and isinstance(operation, keras.layers.BatchNormalization) and layer.activation is _LINEAR:
            norm = layers[behind.path]
            norm.moving_mean.assign(array_of(norm.moving_mean) - shift)
            return None
    return "it has no bias, and no BatchNormalization alone stands behind it"
