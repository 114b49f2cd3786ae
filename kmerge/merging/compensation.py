"""Least-squares correction of the layers that lose inputs when channels are cut.

A layer reads the units x, of which x_k stay and x_d go. On data, x_d is predicted from x_k: x_d ~ M x_k + m, where the
Gram matrix of the activations gives M and m. The kernel then reads W_k + M' W_d instead of W_k, and m goes into the
bias where the layer has one. With four units of which the last is the sum of the first two, dropping the last changes nothing.
"""

from collections.abc import Mapping

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.errors import InvalidArgumentError
from kmerge.gates import ApplyGates, gated_layer
from kmerge.graph import Graph, array_of
from kmerge.rules import KERNEL_LAYERS, positions_of
from kmerge.surgery import Layout

# Relative to the mean square of an activation: keeps units that are almost equal from taking huge opposite weights.
_RIDGE = 1e-3


def compensate(
    big: keras.Model,
    layers: Mapping[str, keras.Layer],
    before: Layout,
    after: Layout,
    arrays: dict,
    data: Batches,
) -> None:
    """Corrects, in place, the arrays of the layers that lose inputs.

    Args:
        big: the model before the cut.
        layers: its layers by path in the template.
        before, after: its layout, and that of the cut model.
        arrays: for each path the list of the layer's weights, with gates folded in; changed.
        data: the batches to correct on.

    Raises:
        InvalidArgumentError: if inputs are not finite.
    """
    cut = {}
    for path, layer in layers.items():
        kernel = before.axes.get(path, {}).get("kernel")
        if kernel is None or not isinstance(layer, KERNEL_LAYERS):
            continue
        at = next((i for i, a in enumerate(kernel) if a is not None and a.role == "consumes"), None)
        if at is None:
            continue
        kept = positions_of(after.axes[path]["kernel"][at].units, kernel[at].units)
        if len(kept) < len(kernel[at].units):
            cut[path] = (at, kept)
    if not cut:
        return
    grams = _grams(big, {path: layers[path] for path in cut}, data)
    for path, (at, kept) in cut.items():
        _correct(arrays[path], layers[path], at, kept, *grams[path])


def _grams(big: keras.Model, layers: Mapping[str, keras.Layer], data: Batches) -> dict[str, tuple]:
    """For each layer the Gram matrix and the sum of its ungated inputs over all examples and places, and their number."""
    paths = {id(layer): path for path, layer in layers.items()}
    tensors, owners = [], []
    before_gates = {}
    for call in Graph(big).calls:
        layer, x = gated_layer(call.operation), call.inputs[0]
        if isinstance(layer, ApplyGates):
            before_gates[id(call.outputs[0])] = x
        elif id(layer) in paths:
            tensors.append(before_gates.get(id(x), x))  # the gates are in the kernel, see `arrays`
            owners.append(paths[id(layer)])
    reader = keras.Model(big.inputs, tensors)
    grams: dict[str, list] = {}
    for inputs, *_ in data:
        inputs = keras.tree.flatten(inputs)
        if not all(np.isfinite(array).all() for array in inputs if array.dtype.kind == "f"):
            raise InvalidArgumentError("compress: expected data to be finite inputs, received NaN or infinity.")
        outputs = reader(inputs, training=False)
        for path, x in zip(owners, outputs if isinstance(outputs, (list, tuple)) else [outputs], strict=True):
            x = array_of(x).astype("float64")
            x = x.reshape(-1, x.shape[-1])
            gram, total, count = grams.get(path, (0, 0, 0))
            grams[path] = (gram + x.T @ x, total + x.sum(axis=0), count + len(x))
    return grams


def _correct(arrays: list, layer, at: int, kept: np.ndarray, gram: np.ndarray, total: np.ndarray, count: int) -> None:
    index = {id(w): i for i, w in enumerate(layer.weights)}
    kernel = arrays[index[id(layer.kernel)]]
    dropped = np.setdiff1d(np.arange(len(gram)), kept)
    has_bias = layer.bias is not None
    mean = total / count if has_bias else np.zeros_like(total)
    covariance = gram / count - np.outer(mean, mean)
    ridge = _RIDGE * np.trace(covariance) / len(covariance) + 1e-12
    known = covariance[np.ix_(kept, kept)] + ridge * np.eye(len(kept))
    weights = np.linalg.solve(known, covariance[np.ix_(kept, dropped)])  # (kept, dropped)
    moved = np.moveaxis(kernel, at, 0).astype("float64")  # (units, ...)
    lost = moved[dropped]
    moved[kept] += np.tensordot(weights, lost, axes=1)
    if has_bias:
        constant = mean[dropped] - mean[kept] @ weights
        bias = arrays[index[id(layer.bias)]]
        # A convolution reads the constant at each of its places. Without the units' axis the outputs' is the last.
        through = np.tensordot(constant, lost, axes=1).reshape(-1, len(bias)).sum(axis=0)
        arrays[index[id(layer.bias)]] = (bias + through).astype(bias.dtype)
    arrays[index[id(layer.kernel)]] = np.moveaxis(moved, 0, at).astype(kernel.dtype)
