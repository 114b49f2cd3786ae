"""Pruning of a model that cannot be trained on: what goes is made up for in the layers that read it."""

import warnings
from collections.abc import Mapping

import keras
import numpy as np

from kmerge.merging import compress, gate, read_merge


def compensated(
    model: keras.Model, keep: Mapping[str, np.ndarray], examples: object, batch_size: int, steps: int | None
) -> keras.Model:
    """`select(model, keep)`, with each layer that loses inputs corrected by least squares, as `compress` does it.

    Args:
        model: the model, with open layers.
        keep: the units to keep, ascending indices by name of the space.
        examples: whatever `compress` takes.
        batch_size, steps: of these, likewise.
    """
    gated = gate(model, {name: len(units) for name, units in keep.items()}, sampling="batch")
    gates = read_merge(gated).gates  # spaces that nobody reads have none
    with warnings.catch_warnings():
        # Of gates that are all open there is nothing to be told: `select` changes what is normalized as well.
        warnings.filterwarnings("ignore", "The layers .* normalize or add up channels")
        kept = {name: units for name, units in keep.items() if name in gates}
        return compress(gated, examples, keep=kept, batch_size=batch_size, steps=steps)
