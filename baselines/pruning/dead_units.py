"""Dead units: neurons and channels that weight pruning cut off, and their removal.

A unit is dead if all weights that make it, or all that read it, are zero; weights from and to dead units count as zero.
So of the hidden units of Dense(3) -> Dense(2) with these kernels

    inputs x hidden   1 0 2        hidden x outputs   1 1       unit 1 has no inputs: it is the constant of its bias
                      3 0 1                           2 0       unit 2 has no outputs: nobody misses it
                                                      0 0

only unit 0 is left. A unit without inputs is a constant, its activation of its bias, which `kmerge.surgery` carries into
what reads it. Where that is not exact the report says so, and how much the outputs changed.

Where all units of a space are dead, the first one stays: a layer without units cannot be built.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

import kmerge
from kmerge.graph import array_of
from kmerge.rules import KERNEL_LAYERS
from kmerge.spaces import Trace, trace
from kmerge.surgery import fold_constants, weight_axes


@dataclass(frozen=True)
class Removal:
    """What came of a removal.

    Attributes:
        model: the smaller model.
        keep: by space, the units that stay.
        removed: number of units that went.
        exact: whether the outputs are the same, by what the removed units fed.
        change: largest difference of an output on the examples given, over the largest output.
        why: for each layer at which the removal is not exact, the reason.
    """

    model: keras.Model
    keep: Mapping[str, np.ndarray]
    removed: int
    exact: bool
    change: float
    why: Mapping[str, str]


def remove_dead_units(model: keras.Model, examples: np.ndarray) -> Removal:
    """Really removes the units that pruning cut off; see the module.

    Args:
        model: a Functional or Sequential model with zeros in its kernels; not changed.
        examples: inputs on which constants are read and the change is measured; two suffice.

    Returns:
        The removal, with an uncompiled model.
    """
    walked = trace(model)
    connections = _connections(walked)
    no_inputs, dead = _dead(walked, connections)
    keep = {space.name: np.flatnonzero(~dead[space.units]) for space in walked.spaces.selectable}
    for name, units in keep.items():
        if not len(units):
            keep[name] = np.array([0])
            dead[walked.spaces[name].units[0]] = False
    removed = sum(walked.spaces[name].size - len(units) for name, units in keep.items())
    whole = kmerge.select(model, {})
    why = fold_constants(trace(whole).layers, walked, dead & no_inputs, dead, examples)
    smaller = kmerge.select(whole, keep)
    before, after = _outputs(model, examples), _outputs(smaller, examples)
    change = max(float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0)) for a, b in zip(before, after, strict=True))
    return Removal(smaller, keep, removed, not why, change, why)


def _outputs(model: keras.Model, examples: np.ndarray) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(x).astype("float64") for x in keras.tree.flatten(model(examples, training=False))
    ]


@dataclass(frozen=True)
class _Connection:
    """One kernel as a matrix: whether any weight leads from the unit at a position it reads to one that it makes."""

    path: str
    reads: np.ndarray  # units
    makes: np.ndarray
    weights: np.ndarray  # (reads, makes), of bools


def _connections(walked: Trace) -> list[_Connection]:
    found = []
    for path, named in walked.axes.items():
        layer = walked.layers[path]
        if not isinstance(layer, KERNEL_LAYERS) or "kernel" not in named:
            continue
        axes = weight_axes({"kernel": named["kernel"]}, layer)
        ((index, roles),) = axes.items()
        at = {axis.role: number for number, axis in enumerate(roles) if axis is not None}
        if set(at) != {"consumes", "produces"}:
            continue  # a grouped convolution passes its units on
        kernel = np.moveaxis(array_of(layer.weights[index]), (at["consumes"], at["produces"]), (-2, -1)) != 0
        kernel = kernel.reshape(-1, *kernel.shape[-2:]).any(axis=0)
        found.append(_Connection(path, roles[at["consumes"]].units, roles[at["produces"]].units, kernel))
    return found


def _dead(walked: Trace, connections: list[_Connection]) -> tuple[np.ndarray, np.ndarray]:
    """For each unit whether its inputs are gone, and whether its inputs or its outputs are."""
    paths = {connection.path for connection in connections}
    may_lose_inputs, may_lose_outputs = np.zeros((2, len(walked.space_of)), bool)
    for space in walked.spaces.selectable:
        may_lose_inputs[space.units] = paths.issuperset(space.owners)
        may_lose_outputs[space.units] = bool(space.consumers) and paths.issuperset(space.consumers)
    no_inputs, no_outputs = np.zeros((2, len(walked.space_of)), bool)
    while True:
        before = (no_inputs | no_outputs).sum()
        fed, missed = ~may_lose_inputs, ~may_lose_outputs
        dead = no_inputs | no_outputs
        for connection in connections:
            alive = connection.weights & ~dead[connection.reads][:, None]
            fed[connection.makes[alive.any(axis=0)]] = True
            alive = connection.weights & ~dead[connection.makes][None, :]
            missed[connection.reads[alive.any(axis=1)]] = True
        no_inputs, no_outputs = no_inputs | ~fed, no_outputs | ~missed
        if (no_inputs | no_outputs).sum() == before:
            return no_inputs, no_inputs | no_outputs
