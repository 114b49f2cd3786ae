"""What each layer multiplies: a table by class, whose subclasses are counted alike."""

import functools
from collections.abc import Iterable
from dataclasses import replace

import keras
from keras import layers

from kmerge.costs.operation_products import operation_products
from kmerge.costs.product import (
    Place,
    Product,
    einsum_axes,
    places,
    places_between,
    product,
    spatial_places,
    unknown_product,
)
from kmerge.costs.sizes import calls_on, graph_in
from kmerge.gates import gated_layer
from kmerge.graph import Call, find_weight

_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
# Without any weights, they call what somebody else wrote, or multiply in ways that are counted nowhere.
_UNKNOWN = (layers.Lambda, layers.MelSpectrogram, layers.Pipeline, layers.TFSMLayer)


def products(call: Call) -> list[Product]:
    """What is multiplied in a call; empty if that happens but value by value.

    Args:
        call: a call of a layer or operation, with the sizes of its tensors.

    Returns:
        A list of `Product`.

    Raises:
        InvalidArgumentError: if a size is unknown.
    """
    layer = gated_layer(call.operation)
    return _work(layer, replace(call, operation=layer))


@functools.singledispatch
def _work(operation: keras.Operation, call: Call) -> list[Product]:
    """The products of a call, by the class of its operation: this one for all classes that are not named below."""
    kind = type(operation)
    module = next(c.__module__ for c in kind.__mro__ if "call" in vars(c))
    if module.startswith("keras.src.ops"):
        return operation_products(call)
    holds_kernels = any(len(w.shape) > 1 for w in getattr(operation, "weights", ()))
    if holds_kernels or isinstance(operation, _UNKNOWN) or not module.startswith(("keras.", "kmerge.")):
        return [unknown_product(call)]
    return []


def multiplies_nothing(kind: type) -> type:
    """A decorator for layer classes that multiply but value by value, or in training alone."""
    _work.register(kind, lambda operation, call: [])
    return kind


@_work.register(layers.BatchNormalization)
@_work.register(layers.Embedding)
@_work.register(layers.GroupNormalization)
@_work.register(layers.LayerNormalization)
@_work.register(layers.Normalization)
@_work.register(layers.PReLU)
@_work.register(layers.RMSNormalization)
def _each_value_alone(layer, call):
    """Whatever the shapes of their weights: they work on each value alone, or only look values up."""
    return []


@_work.register
def _(layer: layers.ReversibleEmbedding, call):
    if not call.kwargs.get("reverse", call.args[1:2]):
        return []
    kernel = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
    return [product(call, kernel, places_between(call, "outputs"))]


@_work.register
def _(layer: layers.Dense, call):
    return [product(call, layer.kernel, places_between(call, "outputs"))]


@_work.register
def _(layer: layers.EinsumDense, call):
    sources, _, target = layer.equation.replace(" ", "").partition("->")
    data, _, weight = sources.partition(",")
    # Every letter is one loop, those of the kernel among them. A size may be unknown on one side of the arrow only.
    places = {}
    for side, term in (("outputs", target), ("inputs", data)):
        shape = getattr(call, side)[0].shape
        for name, axis in einsum_axes(term, len(shape)).items():
            if axis and name not in weight and (name not in places or shape[axis] is not None):
                places[name] = ((side, 0), axis)
    return [product(call, layer.kernel, places.values())]


@_work.register(layers.Conv1D)
@_work.register(layers.Conv2D)
@_work.register(layers.Conv3D)
@_work.register(layers.DepthwiseConv1D)
@_work.register(layers.DepthwiseConv2D)
def _convolution(layer, call):
    return [product(call, layer.kernel, spatial_places("outputs", layer.rank, layer.data_format))]


@_work.register(layers.SeparableConv1D)
@_work.register(layers.SeparableConv2D)
def _separable(layer, call):
    kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
    return [product(call, kernel, spatial_places("outputs", layer.rank, layer.data_format)) for kernel in kernels]


@_work.register(layers.Conv1DTranspose)
@_work.register(layers.Conv2DTranspose)
@_work.register(layers.Conv3DTranspose)
def _transposed(layer, call):
    return [product(call, layer.kernel, spatial_places("inputs", layer.rank, layer.data_format))]


@_work.register(layers.MultiHeadAttention)
@_work.register(layers.GroupQueryAttention)
def _heads(layer, call):
    """The projections, the scores, and the values that the scores weigh."""
    query, value = (call.named_inputs[name][0] for name in ("query", "value"))
    moved = {i: places_between(call, "inputs", i) for i in (query, value)}
    found = []
    for name in ("query", "gate", "attention_output", "key", "value"):
        kernel = find_weight(layer, f"{name}/kernel")
        if kernel is not None:
            found.append(product(call, kernel, moved[value if name in ("key", "value") else query]))
    # Of every head, all that it says of one place meets what it says of another.
    seen = places("inputs", getattr(layer, "attention_axes", (1,)), value)
    for name, axes in (("query", (1, 2)), ("attention_output", (0, 1))):
        kernel = find_weight(layer, f"{name}/kernel")
        found.append(product(call, kernel, moved[query] + seen, axes))
    return found


@_work.register
def _(layer: layers.Attention, call):
    """The scores of all pairs of places, over the depth of query and key; and the values, which these weigh."""
    query, value = call.named_inputs["inputs"][:2]
    pairs = places_between(call, "inputs", query) + places_between(call, "inputs", value)[-1:]
    return [product(call, None, [*pairs, (("inputs", i), len(call.inputs[i].shape) - 1)]) for i in (query, value)]


@_work.register
def _(layer: layers.Dot, call):
    ranks = [len(x.shape) for x in call.inputs]
    summed = [axis % rank for axis, rank in zip(_pair(layer.axes), ranks, strict=True)]
    rest = [axis for axis in range(1, ranks[1]) if axis != summed[1]]
    return [product(call, None, places("inputs", range(1, ranks[0])) + places("inputs", rest, 1))]


def _pair(axes: int | Iterable[int]) -> tuple[int, int]:
    return (axes, axes) if isinstance(axes, int) else tuple(axes)


# Layers around layers -------------------------------------------------------------------------------------------------


@_work.register
def _(layer: layers.RNN, call):
    """Every cell of a recurrent layer, at each step."""
    steps = places("inputs", [1])
    if isinstance(layer, layers.ConvLSTM1D | layers.ConvLSTM2D | layers.ConvLSTM3D):
        moved = spatial_places("outputs", layer.cell.rank, layer.cell.data_format, before=1 + layer.return_sequences)
        return [product(call, kernel, steps + moved) for kernel in (layer.cell.kernel, layer.cell.recurrent_kernel)]
    return _cell_work(layer.cell, call, steps)


@_work.register(layers.LSTMCell)
@_work.register(layers.GRUCell)
@_work.register(layers.SimpleRNNCell)
@_work.register(layers.StackedRNNCells)
def _one_step(layer, call):
    return _cell_work(layer, call, [])


def _cell_work(cell: keras.Layer, call: Call, positions: list) -> list[Product]:
    if isinstance(cell, layers.StackedRNNCells):
        return [p for part in cell.cells for p in _cell_work(part, call, positions)]
    if not isinstance(cell, _CELLS):
        return [unknown_product(replace(call, operation=cell))]
    return [product(call, kernel, positions) for kernel in (cell.kernel, cell.recurrent_kernel)]


@_work.register
def _(layer: layers.Bidirectional, call):
    both = (layer.forward_layer, layer.backward_layer)
    return [product for part in both for product in _work(part, replace(call, operation=part))]


@_work.register
def _(layer: layers.SpectralNormalization, call):
    return _work(layer.layer, replace(call, operation=layer.layer))


@_work.register
def _(layer: layers.TimeDistributed, call):
    """What is inside, at each step."""
    inside = replace(
        call,
        operation=layer.layer,
        inputs=tuple(_without_steps(x) for x in call.inputs[:1]),
        outputs=tuple(map(_without_steps, call.outputs)),
    )
    graph = graph_in(inside)
    if graph is None:
        work = _work(layer.layer, inside)
    else:
        work = [p for _, each in calls_on(graph, inside.inputs) for p in products(each)]
        work = [replace(p, positions=p.sizes) for p in work]  # the tensors in there are none of this call
    steps = product(call, None, places("inputs", [1]))
    return [
        replace(p, positions=steps.positions + tuple(map(_with_steps, p.positions)), sizes=steps.sizes + p.sizes)
        for p in work
    ]


def _without_steps(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return keras.KerasTensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype)


def _with_steps(position: Place | int) -> Place | int:
    return (position[0], position[1] + 1) if isinstance(position, tuple) else position
