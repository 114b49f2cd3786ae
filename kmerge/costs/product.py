"""A product: so many multiply-accumulates, as lengths of axes.

    Dense(4) on (batch, 5, 3)     its kernel of 3 x 4 weights, at 5 places              60 multiply-accumulates
    LSTM(4) on (batch, 5, 3)      a kernel of 3 x 16 and one of 4 x 16, at 5 steps     560

A length is that of a kernel's axis, or of an axis of a tensor that the layer reads or makes. So the products of a model
with other widths follow from those of the model: see `budgets.py`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import keras

from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Call

# An axis of a call's tensors, as (("inputs" or "outputs", number of the tensor), axis).
Place = tuple[tuple[str, int], int]


@dataclass(frozen=True)
class Product:
    """A kernel at work: each of its weights is multiplied once at every position.

    Attributes:
        kernel: the weight; None where tensors are multiplied with each other.
        positions: what the kernel moves over: axes of the call's tensors but never the batch's, or plain numbers.
        sizes: their sizes.
        axes: the axes of the kernel that count, where what it makes is multiplied once more; by default all.
        unknown: the layer or operation whose products nobody knows, so that they count as 0; else empty.
    """

    kernel: keras.Variable | None
    positions: tuple[Place | int, ...]
    sizes: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    unknown: str = ""

    def kernel_axes(self) -> tuple[int, ...]:
        """The axes of the kernel that count."""
        return tuple(range(len(getattr(self.kernel, "shape", ())))) if self.axes is None else self.axes

    def count(self) -> int:
        """Multiply-accumulates for one example."""
        return math.prod(self.kernel.shape[axis] for axis in self.kernel_axes()) * math.prod(self.sizes)


def product(call: Call, kernel: object, positions: Iterable[Place | int], axes: tuple | None = None) -> Product:
    """The product of a kernel, or of tensors with each other, at these positions.

    Raises:
        InvalidArgumentError: if a size is unknown.
    """
    positions = tuple(positions)
    sizes = tuple(p if not isinstance(p, tuple) else getattr(call, p[0][0])[p[0][1]].shape[p[1]] for p in positions)
    if None in sizes:
        do = (
            "Its multiply-accumulates are known only with them: pass input_shape, the shape of one example, to "
            "multiply_accumulates; or build the model with a keras.Input of fixed size."
        )
        raise InvalidArgumentError(sentence("known sizes to work on", sizes, do, of=f"Layer {call.name!r}"))
    return Product(kernel, positions, sizes, axes)


def unknown_product(call: Call) -> Product:
    """What stands for the products of a call that nobody knows."""
    return Product(None, (0,), (0,), unknown=f"{call.name!r} ({type(call.operation).__name__})")


def places(side: str, axes: Iterable[int], number: int = 0) -> list[Place]:
    """Some axes of a tensor that a call reads or makes."""
    return [((side, number), axis) for axis in axes]


def places_between(call: Call, side: str, number: int = 0) -> list[Place]:
    """The axes of a tensor between the batch and the channels."""
    return places(side, range(1, len(getattr(call, side)[number].shape) - 1), number)


def spatial_places(side: str, rank: int, data_format: str | None, before: int = 1) -> list[Place]:
    """The axes over which a convolution moves; `before` axes, the batch among them, stand before these or the channels."""
    channels_first = (data_format or keras.config.image_data_format()) == "channels_first"
    return places(side, range(before + channels_first, before + channels_first + rank))


def einsum_axes(term: str, rank: int) -> dict[str, int]:
    """The axes of one einsum term by letter; those of the ellipsis, where there is one, by their place from its end."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    names = [*before, *(f"...{hidden - i}" for i in range(hidden if dots else 0)), *after]
    return {name: axis for axis, name in enumerate(names)}
