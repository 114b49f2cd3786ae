"""Comparing a layer with what was recorded of it, on random inputs."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.graph import array_of, inner_layers
from kmerge.opening.reasons import StaysClosed, meaning_of

# Sizes for what a shape leaves open: of the batch, and of each other axis.
_DRAWS = ((2, (8,)), (3, (8,)))
# One of each, which a layer may treat in a way of its own, or may not bear.
_SINGLE = (1, (1,))
# Where it was recorded with a number for the batch; and where with one for a length, of which a layer may take few, or
# where inputs may differ in it, which it may not bear.
_OF_RECORDED_BATCH = ((2, (8,)), (3, (8,)), (1, (8,)))
_OF_RECORDED_LENGTHS = ((2, (8,)), (3, (5,)), (1, (3,)), (2, (2,)), (2, (1,)), (2, (5, 4, 7, 3)), (2, (1, 5)))


def differ(
    layer: keras.Layer,
    tensors: Sequence[keras.KerasTensor],
    expected: Callable[[list], Any],
    received: Callable[[list], Any],
    recorded: Sequence[tuple] | None = None,
) -> str:
    """How two functions of tensors differ on several draws of their inputs; empty if they do not.

    Args:
        layer: the layer that the first function calls; tokens are drawn so that all of its embeddings have them.
        tensors: symbolic tensors of the shapes and types of the inputs.
        expected, received: the functions, of a list of inputs.
        recorded: the shapes with which the second function was recorded. Where these know a size that is open, several are
            drawn, so that nothing rests on one; those on which the layer itself does not run count for nothing.

    Raises:
        StaysClosed: if one of them cannot be run on what is drawn, whatever the reason.
    """
    limit = min((x.input_dim for x in inner_layers(layer) if isinstance(x, keras.layers.Embedding)), default=4)
    draws, may_fail = _draws(tensors, recorded)
    failed, lengths_compared = None, set()
    for seed, (batch, lengths) in enumerate(draws):
        rng = np.random.default_rng([seed, 19])
        shapes = _shapes(tensors, batch, lengths)
        arrays = [keras.ops.convert_to_tensor(_draw(x, s, limit, rng)) for x, s in zip(tensors, shapes, strict=True)]
        found: list = []
        try:
            with keras.StatelessScope():  # in which nothing changes a weight or a state
                found.append(keras.tree.flatten(expected(arrays)))
                found.append(keras.tree.flatten(received(arrays)))
            problems = [_apart(array_of(a), array_of(b)) for a, b in zip(*found, strict=True)]
        except Exception as error:
            failed = error
            if (may_fail or (batch, lengths) == _SINGLE) and not found:
                continue
            raise StaysClosed(meaning_of(error, _DOES_NOT_RUN)) from error
        lengths_compared.add(lengths)
        if any(problems):
            return next(filter(None, problems))
    if may_fail and len(lengths_compared) < 2:
        raise StaysClosed(meaning_of(failed, _DOES_NOT_RUN)) from failed
    return ""


_DOES_NOT_RUN = "it does not run on random inputs, to be compared"


def _draws(tensors: Sequence[keras.KerasTensor], recorded: Sequence[tuple] | None) -> tuple[Sequence, bool]:
    """What to draw for open sizes, and whether the layer itself need not run on all of them."""
    shapes = [tuple(x.shape) for x in tensors]
    if recorded is None or list(recorded) == shapes:
        return (*_DRAWS, _SINGLE), False
    with_lengths = any(known[1:] != shape[1:] for known, shape in zip(recorded, shapes, strict=True))
    return (_OF_RECORDED_LENGTHS, True) if with_lengths else (_OF_RECORDED_BATCH, False)


def _shapes(tensors: Sequence[keras.KerasTensor], batch: int, lengths: tuple) -> list[tuple]:
    """The shapes of the inputs with all sizes known; lengths go round those inputs that have open ones."""
    found, at = [], itertools.cycle(lengths)
    for x in tensors:
        length = next(at) if None in x.shape[1:] else None
        found.append(tuple(size or (length if axis else batch) for axis, size in enumerate(x.shape)))
    return found


def _draw(tensor: keras.KerasTensor, shape: tuple, limit: int, rng: np.random.Generator) -> np.ndarray:
    if "float" in tensor.dtype:
        return rng.normal(size=shape).astype(tensor.dtype if tensor.dtype != "bfloat16" else "float32")
    if tensor.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "int" in tensor.dtype:
        return rng.integers(0, max(1, limit), shape).astype(tensor.dtype)
    if tensor.dtype == "string":
        return rng.choice(["", "a b", "b c d", "what is 7 good for?"], shape)
    raise StaysClosed(f"inputs of type {tensor.dtype} cannot be drawn, so that it cannot be compared")


def _apart(expected: np.ndarray, received: np.ndarray) -> str:
    if expected.shape != received.shape or expected.dtype != received.dtype:
        return f"{expected.shape} {expected.dtype} became {received.shape} {received.dtype}"
    if "float" not in str(expected.dtype):
        return "" if np.array_equal(expected, received) else "values differ"
    tolerance = 1e-5 if expected.dtype in (np.float32, np.float64) else 2e-2
    expected, received = expected.astype("float64"), received.astype("float64")
    scale = np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    error = np.abs(expected - received) / (scale or 1.0)
    same = np.isclose(expected, received, rtol=0.0, atol=tolerance * (scale or 1.0), equal_nan=True)
    return "" if same.all() else f"values differ by up to {np.nanmax(error):.1e} of the largest"
