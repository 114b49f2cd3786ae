"""Comparing a layer with what was recorded of it, on random inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.graph import array_of, inner_layers
from kmerge.opening.recording import StaysClosed, meaning_of

# Sizes that a shape leaves open.
_OPEN = 8


def differ(
    layer: keras.Layer,
    tensors: Sequence[keras.KerasTensor],
    expected: Callable[[list], Any],
    received: Callable[[list], Any],
    batches: Sequence[int] = (2, 3),
) -> str:
    """How two functions of tensors differ on several draws of their inputs; empty if they do not.

    Args:
        layer: the layer that the first function calls; tokens are drawn so that all of its embeddings have them.
        tensors: symbolic tensors of the shapes and types of the inputs.
        expected, received: the functions, of a list of inputs.
        batches: the sizes of the batches, which differ so that nothing rests on one.

    Raises:
        StaysClosed: if one of them cannot be run on what is drawn, whatever the reason.
    """
    limit = min((x.input_dim for x in inner_layers(layer) if isinstance(x, keras.layers.Embedding)), default=4)
    for seed, batch in enumerate(batches):
        rng = np.random.default_rng([seed, 19])
        arrays = [keras.ops.convert_to_tensor(_draw(x, batch, limit, rng)) for x in tensors]
        try:
            with keras.StatelessScope():  # in which nothing changes a weight or a state
                found = [keras.tree.flatten(function(arrays)) for function in (expected, received)]
            problems = [_apart(array_of(a), array_of(b)) for a, b in zip(*found, strict=True)]
        except Exception as error:
            raise StaysClosed(meaning_of(error, "it does not run on random inputs, to be compared")) from error
        if any(problems):
            return next(filter(None, problems))
    return ""


def _draw(tensor: keras.KerasTensor, batch: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(size or (_OPEN if i else batch) for i, size in enumerate(tensor.shape))
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
