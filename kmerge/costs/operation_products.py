"""What each of `keras.ops` multiplies: a table by name. Operands may be tensors of the graph or constants."""

import functools
from collections.abc import Callable

import keras
import numpy as np

from kmerge.costs.product import Place, Product, einsum_axes, places, product, spatial_places, unknown_product
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Call

# Multiply, or call what somebody else wrote, in ways that are counted nowhere.
_UNKNOWN = {
    "AssociativeScan", "CDist", "Cholesky", "CholeskyInverse", "Cond", "Corrcoef", "Correlate", "Det", "Eig", "Eigh", "FFT",
    "FFT2", "ForiLoop", "GaussianBlur", "IFFT2", "IRFFT", "ISTFT", "Inv", "JVP", "Kron", "Logdet", "Lstsq", "LuFactor", "Map",
    "MatrixRank", "Outer", "Pinv", "Qr", "RFFT", "SSIM", "STFT", "SVD", "Scan", "Slogdet", "SobelEdges", "Solve",
    "SolveTriangular", "Switch", "Vdot", "VectorizedMap", "WhileLoop",
}  # fmt: skip

# An operand: its shape, and which input of the call it is; None for a constant.
Operand = tuple[tuple, int | None]


def operation_products(call: Call) -> list[Product]:
    """What an operation multiplies; empty if that happens but value by value.

    Raises:
        InvalidArgumentError: if a size is unknown.
    """
    kind = type(call.operation).__name__
    if kind in _UNKNOWN:
        return [unknown_product(call)]
    if kind not in _PRODUCTS:
        return []
    try:
        return _PRODUCTS[kind](call)
    except InvalidArgumentError:
        if any(x.shape.count(None) > 1 for x in call.inputs):
            raise
        return [unknown_product(call)]  # the one size that is not known is the batch's: it mixes examples


def _operands(call: Call) -> list[Operand]:
    numbers = iter(range(len(call.inputs)))
    found = []
    for value in call.args:
        number = next(numbers) if isinstance(value, keras.KerasTensor) else None
        shape = np.shape(value) if number is None else call.inputs[number].shape
        found.append((tuple(shape), number))
    return found


def _length(operand: Operand, axis: int) -> Place | int:
    shape, number = operand
    return int(shape[axis]) if number is None else (("inputs", number), axis % len(shape))


def _sum_over_last(call: Call) -> list[Product]:
    """matmul, dot and inner: all that they make is a sum over the last axis of the first operand."""
    operands = _operands(call)[:2]
    if not all(shape for shape, _ in operands):
        return []  # a scalar multiplies value by value
    made = places("outputs", range(1, len(call.outputs[0].shape)))
    return [product(call, None, [*made, _length(operands[0], -1)])]


def _tensordot(call: Call) -> list[Product]:
    """All axes of both operands are loops, and those that are summed over are one loop for both."""
    operands, axes = _operands(call)[:2], call.operation.axes
    rank = len(operands[0][0])
    first, second = (range(rank - axes, rank), range(axes)) if isinstance(axes, int) else axes
    first, second = ([x] if isinstance(x, int) else list(x) for x in (first, second))
    summed = [{axis % len(shape) for axis in each} for each, (shape, _) in zip((first, second), operands, strict=True)]
    loops = [(0, axis) for axis in range(rank)]
    loops += [(1, axis) for axis in range(len(operands[1][0])) if axis not in summed[1]]
    batch = next((i, 0) for i in (0, 1) if operands[i][1] is not None)
    return [product(call, None, [_length(operands[i], axis) for i, axis in loops if (i, axis) != batch])]


def _einsum(call: Call) -> list[Product]:
    """Every letter is one loop. More than two operands are multiplied from left to right."""
    sources, arrow, target = call.operation.subscripts.replace(" ", "").partition("->")
    terms, operands = sources.split(","), _operands(call)
    if not arrow:  # what stands but once is left
        target = ("..." if "..." in sources else "") + "".join(
            sorted(c for c in set(sources) - set(".,") if sources.count(c) == 1)
        )
    axes = [einsum_axes(term, len(shape)) for term, (shape, _) in zip(terms, operands, strict=True)]
    batch = next(name for names, x in zip(axes, operands, strict=True) if x[1] is not None for name in names)
    lengths: dict[str, Place | int] = {}
    for names, operand in zip(axes, operands, strict=True):
        for name, axis in names.items():
            if name not in lengths or operand[0][axis] not in (None, 1):  # where it is 1, it is repeated
                lengths[name] = _length(operand, axis)
    made, loops, found = einsum_axes(target, len(call.outputs[0].shape)), list(axes[0]), []
    for i, names in enumerate(axes[1:], start=1):
        loops = list(dict.fromkeys([*loops, *names]))
        found.append(product(call, None, [lengths[name] for name in loops if name != batch]))
        later = {name for names in axes[i + 1 :] for name in names} | set(made)
        loops = [name for name in loops if name in later]
    return found


def _attention(call: Call) -> list[Product]:
    """Of heads: query (batch, places, heads, depth), key and value (batch, others, heads, depth)."""
    query, key, value = _operands(call)[:3]
    pairs = [_length(query, 1), _length(key, 1), _length(query, 2)]
    return [product(call, None, [*pairs, _length(operand, 3)]) for operand in (query, value)]


def _convolution(call: Call, side: str = "outputs") -> list[Product]:
    data, *kernels = _operands(call)
    rank = len(data[0]) - 2
    moved = spatial_places(side, rank, call.operation.data_format)
    return [product(call, None, [*moved, *(_length(kernel, i) for i in range(rank + 2))]) for kernel in kernels]


_PRODUCTS: dict[str, Callable[[Call], list[Product]]] = {
    "Conv": _convolution,
    "ConvTranspose": functools.partial(_convolution, side="inputs"),
    "DepthwiseConv": _convolution,
    "Dot": _sum_over_last,
    "DotProductAttention": _attention,
    "Einsum": _einsum,
    "Inner": _sum_over_last,
    "Matmul": _sum_over_last,
    "SeparableConv": _convolution,
    "Tensordot": _tensordot,
}
