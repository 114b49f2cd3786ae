"""`keras.ops.matmul(x, w)` with a weight `w` that a layer held itself: a Dense layer without a bias, whose rule is known.

    h = HeldWeight((3, 4))(x)    (3, 4)
    y = ops.matmul(x, h)         (batch, 4)        y = Dense(4, use_bias=False)(x)
"""

import copy
from collections import Counter
from dataclasses import replace

import keras

from kmerge.graph import Call, Graph, dense_around, has_mask
from kmerge.opening.holding import HeldWeight
from kmerge.opening.reasons import StaysClosed


def with_dense_layers(graph: Graph, kernels: dict[int, keras.layers.Dense | None]) -> Graph:
    """The graph with a Dense layer instead of each product with a held weight that nothing else reads.

    Args:
        graph: the graph; it is not changed.
        kernels: the layer around each weight so far, by the id of the weight, or None where it is held by itself; new ones
            join.

    Raises:
        StaysClosed: if an earlier call of the layer multiplies by a weight with which this one does something else.
    """
    readers = Counter(id(x) for x in [*graph.outputs, *(x for call in graph.calls for x in call.inputs)])
    held = {id(call.outputs[0]): call.operation for call in graph.calls if isinstance(call.operation, HeldWeight)}
    found: dict[int, keras.layers.Dense] = {}  # by the id of the held tensor
    calls, with_batch = [], {id(x) for x in graph.inputs}
    for call in graph.calls:
        if id(call.outputs[0]) not in held and any(id(x) in with_batch for x in call.inputs):
            with_batch.update(id(x) for x in call.outputs)
            layer = held.get(id(call.inputs[-1]))
            if layer is not None and readers[id(call.inputs[-1])] == 1 and _is_dense(call, layer, with_batch):
                kernel = kernels.setdefault(id(layer.weight), _dense(layer))
                if kernel is not None:
                    found[id(call.inputs[-1])] = kernel
                    call = replace(call, operation=kernel, inputs=call.inputs[:1], args=call.inputs[:1], kwargs={})
        calls.append(call)
    for tensor, layer in held.items():
        if tensor not in found and kernels.setdefault(id(layer.weight), None) is not None:
            raise StaysClosed(f"its calls do different things with its weight {layer.weight.path!r}")
    result = copy.copy(graph)
    result.calls = tuple(call for call in calls if id(call.outputs[0]) not in found)
    return result


def _is_dense(call: Call, held: HeldWeight, with_batch: set[int]) -> bool:
    """Whether a call that reads a held weight last multiplies examples by it, and does what Dense does to types."""
    kind, x = type(call.operation), call.inputs[0]
    if kind.__name__ not in ("Matmul", "Dot") or not kind.__module__.startswith("keras.src.ops"):
        return False
    types = {x.dtype, call.inputs[-1].dtype, held.compute_dtype, call.outputs[0].dtype}
    plain = held.weight_trainable and held.weight_dtype == held.variable_dtype and len(types) == 1 and not has_mask(x)
    return plain and len(call.inputs) == 2 and len(held.shape) == 2 <= len(x.shape) and id(x) in with_batch


def _dense(held: HeldWeight) -> keras.layers.Dense:
    return dense_around(held.weight, dtype=held.dtype_policy, trainable=held.trainable, name=held.name)
