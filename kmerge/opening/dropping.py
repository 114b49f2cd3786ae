"""Stochastic depth: a layer that hands on what it reads in inference, and drops whole rows of it in training.

The numbers that it draws cannot be recorded, but what it does with them can be seen: on many rows, each is either zero or
`x / (1 - rate)`, as many are zero as that rate says, and others the next time. That is a `Dropout` of whole rows.
"""

import keras
import numpy as np

from kmerge.graph import Graph, array_of, input_like

_ROWS, _LARGEST = 1024, 2**24


def as_dropout(layer: keras.Layer, graph: Graph) -> Graph | None:
    """The graph of a `Dropout` of whole rows that does what a layer does; None where that is not seen.

    Args:
        layer: the layer.
        graph: of its call in inference.
    """
    if graph.calls or len(graph.inputs) != 1 or graph.outputs[0] is not graph.inputs[0] or layer.weights:
        return None
    rate = _rate(layer, graph.inputs[0])
    if rate is None:
        return None
    x = input_like(graph.inputs[0], f"{layer.name}_input_0")
    noise = (None, *[1] * (len(x.shape) - 1))
    dropout = keras.layers.Dropout(rate, noise_shape=noise, dtype=layer.dtype_policy, name=f"{layer.name}_dropout")
    return Graph(keras.Model(x, dropout(x), name=layer.name))


def _rate(layer: keras.Layer, tensor: keras.KerasTensor) -> float | None:
    """The share of rows that a layer drops in training, from two calls on many rows."""
    shape = (_ROWS, *(size or 2 for size in tensor.shape[1:]))
    if tensor.dtype != "float32" or layer.compute_dtype != "float32" or np.prod(shape) > _LARGEST:
        return None
    x = np.random.default_rng(23).uniform(0.5, 1.5, shape).astype("float32")
    try:
        with keras.StatelessScope():
            ratios = [array_of(layer(keras.ops.convert_to_tensor(x), training=True)) / x for _ in range(2)]
    except Exception:
        return None
    first = [ratio.reshape(_ROWS, -1)[:, 0] for ratio in ratios]
    dropped = [row == 0.0 for row in first]
    scale = max(np.max(row) for row in first)
    rate = 1.0 - 1.0 / scale if scale >= 1.0 else 1.0
    near = 5.0 * np.sqrt(_ROWS * rate * (1.0 - rate)) + 1e-3
    for ratio, zero in zip(ratios, dropped, strict=True):
        expected = np.where(zero, 0.0, scale).reshape(_ROWS, *[1] * (ratio.ndim - 1))
        if not np.allclose(ratio, expected, atol=1e-5) or abs(zero.sum() - _ROWS * rate) > near:
            return None
    same = np.array_equal(*dropped)
    return None if rate > 1e-5 and same or rate >= 1.0 else round(float(rate), 5)
