"""What a network costs: parameters and multiply-accumulates.

A *multiply-accumulate* (MAC) is one `a += w * x`. Only layers that mix units are counted: a Dense layer from 3 to 4
units costs 12, a 3x3 convolution from 3 to 4 channels on a 5x5 output 3*3*3*4 * 5*5 = 2,700. Biases, normalisation,
activations, pooling and gates cost about one operation per value and are left out, as the literature does. One training
step costs about three forward passes: one forward, two backward.
"""

import math

import keras
from keras import layers

from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.gate_application import gated_layer
from kmerge.graph import Call, Graph

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
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
    return sum(_macs(call) for call in Graph(model).calls)


def _macs(call: Call) -> int:
    layer = gated_layer(call.operation)
    if call.is_model:
        return multiply_accumulates(layer)
    if isinstance(layer, layers.Dense):
        return math.prod(layer.kernel.shape) * _positions(call, call.outputs[0].shape[1:-1])
    if isinstance(layer, layers.EinsumDense):
        return _einsum_macs(call)
    if isinstance(layer, _CONVOLUTIONS + _DEPTHWISE):
        return math.prod(layer.kernel.shape) * _positions(call, _spatial(layer, call.outputs[0]))
    if isinstance(layer, _SEPARABLE):
        kernels = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
        return kernels * _positions(call, _spatial(layer, call.outputs[0]))
    if isinstance(layer, _TRANSPOSED):
        return math.prod(layer.kernel.shape) * _positions(call, _spatial(layer, call.inputs[0]))
    _refuse_unknown_product(call)
    return 0


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


def _spatial(layer, tensor) -> tuple:
    return tensor.shape[2:] if layer.data_format == "channels_first" else tensor.shape[1:-1]


def _positions(call: Call, sizes: tuple) -> int:
    if None in sizes:
        raise InvalidArgumentError(
            f"Layer {call.name!r} works on sizes {tuple(sizes)}, of which some are unknown, so its "
            "multiply-accumulates are unknown too. Build the model with a keras.Input of fixed size."
        )
    return math.prod(sizes)


def _einsum_macs(call: Call) -> int:
    layer = call.operation
    sources, _, target = layer.equation.replace(" ", "").partition("->")
    data, _, weight = sources.partition(",")
    # Every letter is one loop. A size may be unknown on one side of the arrow only.
    sizes = _named_sizes(target, call.outputs[0].shape)
    for axis, size in _named_sizes(data, call.inputs[0].shape).items():
        sizes[axis] = size if size is not None else sizes.get(axis)
    sizes |= dict(zip(weight, layer.kernel.shape, strict=True))
    return _positions(call, tuple(sizes.values()))


def _named_sizes(term: str, shape: tuple) -> dict:
    """Sizes of the axes of one einsum term but the batch axis, by letter; by place in the ellipsis where there is one."""
    before, dots, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after)
    names = [*before, *(f"...{i}" for i in range(hidden if dots else 0)), *after]
    return dict(list(zip(names, shape, strict=True))[1:])
