"""Sizes that a call computes with though its inputs leave them open: how many places a sequence has.

On symbolic tensors such a size is None, with which little can be computed. So the call is recorded with a number in its
place, and what has come of that number is made to depend on the input again:

    slice(weight, (0, 0), (101, 8))              ->  FirstRows()(weight, x)
    an array that is 1 on and below its diagonal ->  CausalMask()(x)                   (1, length, length)

What is left of the number elsewhere shows when the result is compared on inputs of other lengths. That a layer does something
else with longer ones, as attention in a window does, shows when it is recorded once more with a length far beyond.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from kmerge.graph import Call, Graph, array_of
from kmerge.opening.numbering import OfSizesRule, Places
from kmerge.rules import Rule, register_rule

# Primes that are no usual sizes, and small enough for masks of that many rows and columns.
_LENGTHS = (101, 103, 107, 109, 113, 127, 131, 137, 139)


@keras.saving.register_keras_serializable("kmerge")
class FirstRows(keras.Layer):
    """The first rows of its first input, as many as an axis of its second one has places.

    Args:
        axis: that of the second input.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(self, axis: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True  # it lets masks be, and gives none

    def call(self, inputs, like):
        rest = tuple(inputs.shape[1:])
        return ops.slice(inputs, (0,) * (1 + len(rest)), (ops.shape(like)[self.axis], *rest))

    def compute_mask(self, inputs, previous_mask):
        return None

    def compute_output_spec(self, inputs, like):
        return keras.KerasTensor((like.shape[self.axis], *inputs.shape[1:]), inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis}


class FirstRowsRule(Rule):
    """It passes the units of its first input, and does not care for those of the second."""

    takes_any_tensor = True

    def walk(self, site, x, like):
        if x.axis == 0:
            site.refuse("it takes some of its channels.", "Give what it reads an axis for places.")
        return site.output(x.units, x.axis)


@keras.saving.register_keras_serializable("kmerge")
class CausalMask(keras.Layer):
    """Of shape (1, length, length), 1 or True where a place may look back: on and below the diagonal.

    Args:
        axis: that of the input which has so many places.
        mask_dtype: type of the mask.
        rank: number of its axes; those in front are of size one.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(self, axis: int = 1, mask_dtype: str = "bool", rank: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.mask_dtype, self.rank = axis, mask_dtype, rank
        self.supports_masking = True  # it lets masks be, and gives none

    def call(self, inputs):
        places = ops.arange(ops.shape(inputs)[self.axis], dtype="int32")
        mask = ops.cast(ops.expand_dims(places, 1) >= ops.expand_dims(places, 0), self.mask_dtype)
        return ops.expand_dims(mask, list(range(self.rank - 2)))

    def compute_mask(self, inputs, previous_mask):
        return None

    def compute_output_spec(self, inputs):
        length = inputs.shape[self.axis]
        return keras.KerasTensor((*[1] * (self.rank - 2), length, length), self.mask_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis, "mask_dtype": self.mask_dtype, "rank": self.rank}


register_rule(FirstRows, FirstRowsRule())
register_rule(CausalMask, OfSizesRule())


def known_shapes(shapes: Sequence[tuple], taken: Sequence[int], batch: int) -> Iterator[list[tuple]]:
    """Shapes without open sizes: with lengths of which as few as can be are the same.

    A call that needs two lengths to be one cannot be recorded with two, and one that does not must not be recorded with
    one: nothing would tell then whose length it was.

    Args:
        shapes: of the inputs.
        taken: sizes that stand for themselves.
        batch: the size of the batch.
    """
    free = [length for length in _LENGTHS if length not in taken]
    open_inputs = [i for i, shape in enumerate(shapes) if None in shape[1:]]
    if len(open_inputs) > 4 or any(shape[1:].count(None) > 1 for shape in shapes):
        return
    for parts in sorted(_partitions(len(open_inputs)), key=max, reverse=True) if open_inputs else ():
        of = {i: free[part] for i, part in zip(open_inputs, parts, strict=True)}
        yield [
            tuple(size or (of[i] if axis else batch) for axis, size in enumerate(shape))
            for i, shape in enumerate(shapes)
        ]


def _partitions(count: int) -> list[tuple[int, ...]]:
    """All ways to put things into groups: for each thing the number of its group, in the order of their first members."""
    found = [()]
    for _ in range(count):
        found = [(*parts, group) for parts in found for group in range(2 + max(parts, default=-1))]
    return found


def open_lengths(inputs: Sequence[keras.KerasTensor], shapes: Sequence[tuple]) -> dict[int, tuple[keras.KerasTensor, int]]:
    """The numbers with which inputs were made instead of open lengths: for each an input that has it, and its axis."""
    found: dict[int, tuple[keras.KerasTensor, int]] = {}
    for x, shape in zip(inputs, shapes, strict=True):
        for axis, (number, size) in enumerate(zip(x.shape, shape, strict=True)):
            if axis and size is None and number is not None:
                found.setdefault(number, (x, axis))
    return found


def knows_lengths(graph: Graph, shapes: Sequence[tuple]) -> bool:
    """Whether an array among the arguments of a graph has a length that its inputs, of these shapes, leave open.

    A causal mask does not count, which can be made of any length.
    """
    lengths = open_lengths(graph.inputs, shapes)
    arrays = [x for call in graph.calls for x in call.constants if has_length(x, lengths)]
    return any(not any(_is_causal(array_of(x), n) for n in lengths) for x in arrays)


def is_same_when_longer(graph: Graph, longer: Graph, sizes: dict[int, int]) -> bool:
    """Whether two recordings of a call differ in nothing but the sizes with which they were made.

    Args:
        graph, longer: the recordings.
        sizes: for each number that stands for an open size in the first one, that in the second one.
    """
    if len(graph.calls) != len(longer.calls):
        return False
    numbers: dict[int, int] = {}
    made = [(a.outputs, b.outputs) for a, b in zip(graph.calls, longer.calls, strict=True)]
    for pairs in [(graph.inputs, longer.inputs), *made]:
        for pair in zip(*pairs, strict=False):  # where there are more of one, what reads it tells
            numbers |= dict.fromkeys(map(id, pair), len(numbers))

    def same(a, b):
        if isinstance(a, keras.KerasTensor):
            return id(b) in numbers and numbers.get(id(a)) == numbers[id(b)]
        if hasattr(a, "shape") and hasattr(a, "dtype") and hasattr(b, "shape"):
            a, b = array_of(a), array_of(b)
            return np.array_equal(a, b) or any(_is_causal(a, n) and _is_causal(b, m) for n, m in sizes.items())
        if isinstance(a, slice) and isinstance(b, slice):
            return all(map(same, (a.start, a.stop, a.step), (b.start, b.stop, b.step)))
        return b in _moved(a, sizes) if type(a) is int else repr(a) == repr(b)

    def parts(call):
        operation = call.operation
        options = {} if isinstance(operation, keras.Layer) else {k: v for k, v in vars(operation).items() if k != "name"}
        return keras.tree.flatten((call.args, call.kwargs, {k: v for k, v in options.items() if k[0] != "_"}))

    for one, other in zip(graph.calls, longer.calls, strict=True):
        a, b = one.operation, other.operation
        if not (_is_one_numbering(a, b) or (a is b if isinstance(a, keras.Layer) else type(a) is type(b))):
            return False
        if len(parts(one)) != len(parts(other)) or not all(map(same, parts(one), parts(other))):
            return False
    return len(graph.outputs) == len(longer.outputs) and all(map(same, graph.outputs, longer.outputs))


def _is_one_numbering(a: keras.Operation, b: keras.Operation) -> bool:
    both = isinstance(a, Places) and isinstance(b, Places)
    return both and (a.axis, a.places_dtype) == (b.axis, b.places_dtype)


def _moved(number: int, sizes: dict[int, int]) -> set[int]:
    """What a number computed of sizes may be with others: itself, or a multiple of others."""
    found = {number}
    for old, new in sizes.items():
        found |= {n // old * new for n in found if n and n % old == 0}
    return found


def takes_rows(call: Call) -> bool:
    """Whether it is a slice whose size stands in its arguments."""
    return type(call.operation).__name__ == "Slice"


def freed_rows(call: Call, x: keras.KerasTensor, sizes: dict, name: str) -> list | None:
    """The outputs of a slice that takes as many first rows as a length says; None if it does something else.

    Args:
        call: the call, recorded with lengths.
        x: what it reads in the new model.
        sizes: for each number that stands for an open size, a tensor of the new model that has it, and its axis.
        name: for what stands in its place.
    """
    start = call.args[1] if len(call.args) > 1 else call.kwargs["start_indices"]
    length, *rest = call.operation.shape
    if np.any(np.array(start)) or length not in sizes or tuple(rest) != tuple(x.shape[1:]):
        return None
    like, axis = sizes[length]
    return [FirstRows(axis, name=name)(x, like)]


def has_length(value: Any, sizes: dict) -> bool:
    """Whether it is an array, and one of its sizes stands for an open one."""
    return not isinstance(value, keras.KerasTensor) and any(n in sizes for n in getattr(value, "shape", ()) or ())


def freed_masks(call: Call, tensors: list, sizes: dict, name: str) -> tuple[Call, list]:
    """The call with a `CausalMask` instead of each array that is one; and what it reads.

    Args:
        call: the call, recorded with lengths.
        tensors: what it reads in the new model.
        sizes: as for `freed_rows`.
        name: for what replaces arrays.
    """
    call, made = call.on(tensors), []

    def place(value):
        mask = _causal_mask(value, sizes, f"{name}_mask_{len(made)}") if has_length(value, sizes) else None
        if mask is None:
            return value
        made.append(mask)
        return mask

    args, kwargs = keras.tree.map_structure(place, (call.args, call.kwargs))
    inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    return replace(call, args=args, kwargs=kwargs), inputs


def _causal_mask(value, sizes: dict, name: str) -> keras.KerasTensor | None:
    found = array_of(value)
    length = found.shape[-1]
    if length not in sizes or not _is_causal(found, length):
        return None
    like, axis = sizes[length]
    return CausalMask(axis, str(found.dtype), found.ndim, name=name)(like)


def _is_causal(found: np.ndarray, length: int) -> bool:
    """Whether it is a mask of so many places, or several, that is 1 on and below the diagonal."""
    if found.ndim < 2 or found.shape[-2:] != (length, length):
        return False
    mask = np.tri(length, dtype=found.dtype)
    return all(np.array_equal(row, mask) for row in found.reshape(-1, length, length))
