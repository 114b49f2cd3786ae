"""The numbers of places, where a call computes with them: `ops.cos(ops.arange(ops.shape(x)[1]) / 8)`.

Of a length that its input leaves open, a call is recorded with a number in its place (see `lengths`), and what it makes of
`arange` of that number is an array that knows no other length. So `keras.ops.arange` makes a symbolic tensor meanwhile, and
all that is computed of it is recorded as it is:

    arange(101)   ->   Places()(x)        [0 1 2 ...], as many as x has places
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import keras
from keras import ops

from kmerge.rules import Rule, register_rule


@keras.saving.register_keras_serializable("kmerge")
class Places(keras.Layer):
    """0, 1, 2 and so on: as many numbers as an axis of its input has places.

    Args:
        axis: that of the input.
        places_dtype: type of the numbers.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(self, axis: int = 1, places_dtype: str = "int32", **kwargs):
        super().__init__(**kwargs)
        self.axis, self.places_dtype = axis, places_dtype
        self.supports_masking = True  # it lets masks be, and gives none

    def call(self, inputs):
        return ops.arange(ops.shape(inputs)[self.axis], dtype=self.places_dtype)

    def compute_mask(self, inputs, previous_mask):
        return None

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((inputs.shape[self.axis],), self.places_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis, "places_dtype": self.places_dtype}


class OfSizesRule(Rule):
    """It does not care for the units that it reads, and makes the same of each model's."""

    takes_any_tensor = reads_sizes = True

    def walk(self, site, x):
        return site.isolate()


register_rule(Places, OfSizesRule())


@contextlib.contextmanager
def symbolic_places(lengths: Mapping[int, tuple[keras.KerasTensor, int]], prefix: str) -> Iterator[None]:
    """Lets `keras.ops.arange` of one of these lengths be a symbolic tensor for a while, in this thread.

    Args:
        lengths: for each number that stands for an open length, an input that has it, and its axis.
        prefix: of the names of what makes these tensors.
    """
    arange, thread, made = ops.arange, threading.get_ident(), {}

    def symbolic(start, stop=None, step=None, dtype=None):
        length = start if stop is None else stop
        from_zero = stop is None or type(start) is int and start == 0
        if threading.get_ident() != thread or type(length) is not int or length not in lengths:
            return arange(start, stop, step=step, dtype=dtype)
        if not from_zero or type(step) not in (int, type(None)) or step not in (None, 1):
            return arange(start, stop, step=step, dtype=dtype)
        dtype = keras.backend.standardize_dtype(dtype or "int32")
        if (length, dtype) not in made:
            like, axis = lengths[length]
            made[length, dtype] = Places(axis, dtype, name=f"{prefix}_places_{len(made)}")(like)
        return made[length, dtype]

    with _arange_for_a_while(symbolic):
        yield


@contextlib.contextmanager
def ends_given() -> Iterator[None]:
    """Lets `keras.ops.arange(0, None)` of an open length fail for a while, in this thread: it would be `arange(0)`."""
    arange, thread = ops.arange, threading.get_ident()

    def strict(start, *stop, **options):
        if threading.get_ident() == thread and None in (*stop[:1], options.get("stop", 0)):
            raise ValueError("arange has no end: value (None)")
        return arange(start, *stop, **options)

    with _arange_for_a_while(strict):
        yield


@contextlib.contextmanager
def _arange_for_a_while(function: Callable) -> Iterator[None]:
    kept, ops.arange = ops.arange, function
    try:
        yield
    finally:
        ops.arange = kept
