"""What is counted: the parameters and the multiply-accumulates of a model.

A *multiply-accumulate* (MAC) is one `a += w * x`. Only layers that mix units are counted: a Dense layer from 3 to 4
units costs 12, a 3x3 convolution from 3 to 4 channels on a 5x5 output 3*3*3*4 * 5*5 = 2,700. Biases, normalization,
activations, pooling and gates cost about one operation per value and are left out, as the literature does. One training
step costs about three forward passes: one forward, two backward.

What is counted says little about time: `latency` in `measuring.py` measures it.
"""

import math
from dataclasses import dataclass, replace

import keras
from keras import layers

from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.gates import gated_layer
from kmerge.graph import Call, Graph, find_weight

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
# Work on each value alone whatever the shape of their weights, or only look values up.
_ELEMENTWISE = (
    layers.BatchNormalization,
    layers.Embedding,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
)
# Have no weights, but multiply tensors with each other.
_PRODUCTS = (layers.AdditiveAttention, layers.Attention, layers.Dot)
_PRODUCT_OPERATIONS = ("Dot", "DotProductAttention", "Einsum", "Inner", "Matmul", "Outer", "Tensordot", "Vdot")


def parameters(model: keras.Model) -> int:
    """Number of weights, trainable or not, moving statistics included; a shared layer counts once.

    Args:
        model: a built model.

    Returns:
        The number of scalars in `model.weights`.
    """
    return int(sum(math.prod(weight.shape) for weight in model.weights))


def multiply_accumulates(model: keras.Model) -> int:
    """Multiply-accumulates of one forward pass on one example; a shared layer counts at each of its calls.

    Args:
        model: Functional or Sequential, with fixed input sizes.

    Returns:
        The number of multiply-accumulates.

    Raises:
        UnsupportedLayerError: for a layer that multiplies and that this file cannot count.
        InvalidArgumentError: if the model has no graph, or a size that the count needs is unknown.
    """
    return sum(
        multiply_accumulates(call.operation) if call.is_model else sum(product.count() for product in products(call))
        for call in Graph(model).calls
    )


@dataclass(frozen=True)
class Product:
    """A kernel at work: each of its weights is multiplied once at every position.

    Attributes:
        kernel: the weight.
        positions: the axes of the call's tensors over which the kernel moves: pairs of a tensor's shape, named by
            ("inputs" or "outputs", its number), and the axis; the batch axis is not among them.
        sizes: their sizes.
        axes: the axes of the kernel that count, where what it makes is multiplied once more; by default all.
    """

    kernel: keras.Variable
    positions: tuple[tuple[tuple[str, int], int], ...]
    sizes: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    def count(self) -> int:
        """Multiply-accumulates for one example."""
        shape = self.kernel.shape
        return math.prod(shape if self.axes is None else (shape[i] for i in self.axes)) * math.prod(self.sizes)


def products(call: Call) -> list[Product]:
    """The kernels at work in a call that is no nested model; empty if nothing is multiplied but value by value.

    Args:
        call: a call of a layer or operation.

    Returns:
        A list of `Product`.

    Raises:
        UnsupportedLayerError: if the layer multiplies in a way that is not known here.
        InvalidArgumentError: if a size is unknown.
    """
    layer = gated_layer(call.operation)
    if isinstance(layer, layers.Dense):
        return [_product(call, layer.kernel, "outputs", range(1, len(call.outputs[0].shape) - 1))]
    if isinstance(layer, layers.EinsumDense):
        return [_einsum_product(call)]
    if isinstance(layer, _CONVOLUTIONS + _DEPTHWISE):
        return [_product(call, layer.kernel, "outputs", _spatial(layer))]
    if isinstance(layer, _SEPARABLE):
        kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
        return [_product(call, kernel, "outputs", _spatial(layer)) for kernel in kernels]
    if isinstance(layer, _TRANSPOSED):
        return [_product(call, layer.kernel, "inputs", _spatial(layer))]
    if isinstance(layer, _ATTENTION):
        return _attention_products(call)
    _refuse_unknown_product(call)
    return []


def _refuse_unknown_product(call: Call) -> None:
    layer = call.operation
    matrices = [tuple(w.shape) for w in getattr(layer, "weights", ()) if len(w.shape) > 1]
    is_product = isinstance(layer, _PRODUCTS) or type(layer).__name__ in _PRODUCT_OPERATIONS
    if is_product or (matrices and not isinstance(layer, _ELEMENTWISE)):
        why = f"it has weights of shapes {matrices}" if matrices else "it multiplies tensors with each other"
        raise UnsupportedLayerError(
            call.name,
            type(layer).__name__,
            f"{why}, and multiply_accumulates does not know how it uses them.",
            "Dense, EinsumDense and convolutions can be counted; count this layer by hand.",
        )


def _spatial(layer) -> range:
    return range(2, layer.rank + 2) if layer.data_format == "channels_first" else range(1, layer.rank + 1)


def _product(call: Call, kernel, side: str, axes) -> Product:
    return _moving(call, kernel, [((side, 0), axis) for axis in axes])


def _moving(call: Call, kernel, positions: list) -> Product:
    sizes = tuple(getattr(call, side)[number].shape[axis] for (side, number), axis in positions)
    if None in sizes:
        do = "Its multiply-accumulates are known only with them: build the model with a keras.Input of fixed size."
        raise InvalidArgumentError(sentence("known sizes to work on", sizes, do, of=f"Layer {call.name!r}"))
    return Product(kernel, tuple(positions), sizes)


def _einsum_product(call: Call) -> Product:
    layer = gated_layer(call.operation)
    sources, _, target = layer.equation.replace(" ", "").partition("->")
    data, _, weight = sources.partition(",")
    # Every letter is one loop, those of the kernel among them. A size may be unknown on one side of the arrow only.
    places = {}
    for side, term in (("outputs", target), ("inputs", data)):
        shape = getattr(call, side)[0].shape
        for name, axis in _named_axes(term, len(shape)).items():
            if name not in weight and (name not in places or shape[axis] is not None):
                places[name] = ((side, 0), axis)
    return _moving(call, layer.kernel, list(places.values()))


def _attention_products(call: Call) -> list[Product]:
    """The projections, the scores, and the values that the scores weigh."""
    layer, named = call.operation, call.named_inputs
    query, value = (named[name][0] for name in ("query", "value"))
    places = {i: [(("inputs", i), axis) for axis in range(1, len(call.inputs[i].shape) - 1)] for i in (query, value)}
    found = []
    for name in ("query", "gate", "attention_output", "key", "value"):
        kernel = find_weight(layer, f"{name}/kernel")
        if kernel is not None:
            found.append(_moving(call, kernel, places[value if name in ("key", "value") else query]))
    # Of every head, all that it says of one place meets what it says of another.
    seen = [(("inputs", value), axis) for axis in getattr(layer, "attention_axes", (1,))]
    for name, axes in (("query", (1, 2)), ("attention_output", (0, 1))):
        kernel = find_weight(layer, f"{name}/kernel")
        found.append(replace(_moving(call, kernel, places[query] + seen), axes=axes))
    return found


def _named_axes(term: str, rank: int) -> dict[str, int]:
    """The axes of one einsum term but the batch axis, by letter; by place in the ellipsis where there is one."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    names = [*before, *(f"...{i}" for i in range(hidden if dots else 0)), *after]
    return {name: axis for axis, name in enumerate(names) if axis}
