"""Importance: a number for every unit that may go, by which pruning ranks them.

    importance      of a unit
    "magnitude"     L2 norm of its weights: kernels that make, carry or read it, scales
    "magnitude_l1"  L1 norm of the same
    "bn_scale"      mean |gamma| of the BatchNormalizations it passes
    "fpgm"          how far the kernels that make it lie from those of the other units of its space
    "taylor"        how much the loss changes, to first order, if it goes
    "random"        uniform, from a seed
    "gates"         P(g > 0) of its gate in a gated model

A unit that lies at several places, as the channels of a residual stream do, has one importance: its weights are
collected over all of them.
"""

from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import one_of, sentence
from kmerge.errors import InvalidArgumentError
from kmerge.merging import read_merge
from kmerge.rules import occurrences
from kmerge.seeds import rng_of
from kmerge.spaces import Trace, check_selectable, trace
from kmerge.surgery import check_finite, weight_axes
from kmerge.training import PROGRAMS, arrays_of, build_state, check_data, loss_gradients

IMPORTANCES = ("magnitude", "magnitude_l1", "bn_scale", "fpgm", "taylor", "random", "gates")
_TAYLOR = "Importance 'taylor'"  # what its errors start with
_OFFSETS = {"bias", "beta", "moving_mean", "moving_variance", "mean", "variance"}


def unit_importance(
    model: keras.Model,
    importance: str = "magnitude",
    data: Any = None,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Tells how important the units of every selectable space are; the higher, the more important.

    Args:
        model: a Functional or Sequential model; compiled for "taylor", made by `merge` or `gate` for "gates".
        importance: "magnitude", "magnitude_l1", "bn_scale", "fpgm", "taylor", "random" or "gates".
        data: for "taylor" alone: whatever `model.evaluate` takes, with targets: `(x, y)` or `(x, y, sample_weight)` of
            arrays, a `tf.data.Dataset`, `PyDataset`, generator, ... It is read once, batch by batch.
        batch_size: for "taylor": examples per gradient, where the data is arrays.
        steps: for "taylor": the most batches to take; None for all.
        seed: for "random".

    Returns:
        An array of shape `(units,)` for each selectable space, by its name. With "bn_scale", spaces that pass no
        BatchNormalization with a scale are missing; with "fpgm", those that no kernel makes.

    Raises:
        InvalidArgumentError: for an unknown importance, a model without selectable spaces, missing or unusable data, a model
            that is not compiled with a loss ("taylor"), or has no BatchNormalization ("bn_scale"), no kernels ("fpgm") or
            no gates ("gates").

    Reference:
        Group norms: Fang et al., DepGraph, CVPR 2023, section 3.3. "bn_scale": Liu et al., Network Slimming, ICCV 2017.
        "fpgm": He et al., Filter Pruning via Geometric Median, CVPR 2019, equation 6: the sum of a filter's distances to
        the others; where several kernels make a unit, its filter is all of them.
        "taylor": Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equation 8 with a gate
        on every unit: the square of d loss / d gate at 1, mean over batches. The gradient is the sum of weight times
        gradient over all weights that read the unit.
    """
    one_of("importance", importance, IMPORTANCES)
    if importance == "taylor" and data is None:
        raise InvalidArgumentError(sentence("data=(x, y)", None, of=_TAYLOR))
    if importance != "taylor" and data is not None:
        do = "Only 'taylor' reads data."
        raise InvalidArgumentError(sentence("no data", type(data).__name__, do, of=f"Importance {importance!r}"))
    if importance == "gates":
        return {name: gate.open_probabilities() for name, gate in read_merge(model).gates.items()}
    walked = trace(model)
    check_selectable(walked)
    check_finite(model)
    if importance == "random":
        return {s.name: rng_of("importance", seed, s.name).uniform(size=s.size) for s in walked.spaces.selectable}
    if importance == "bn_scale":
        return _scales(walked)
    if importance == "fpgm":
        return _distances(walked)
    if importance == "taylor":
        return _by_space(walked, _taylor(walked, data, batch_size, steps))
    if importance == "magnitude":
        return _by_space(walked, np.sqrt(_norms(walked, np.square)))
    return _by_space(walked, _norms(walked, np.abs))


def _by_space(walked: Trace, importance: np.ndarray) -> dict[str, np.ndarray]:
    return {space.name: importance[space.units] for space in walked.spaces.selectable}


def _add(totals: np.ndarray, values: np.ndarray, number: int, units: np.ndarray) -> None:
    """Adds, to the total of each unit, the values at its places along one axis of a weight."""
    others = tuple(i for i in range(values.ndim) if i != number)
    np.add.at(totals, units, values.sum(axis=others))


def _weights(walked: Trace, path: str) -> list[tuple]:
    """The weights of a layer whose axes are known, with these axes."""
    layer, named = walked.layers[path], walked.axes[path]
    return [(layer.weights[index], axes) for index, axes in weight_axes(named, layer).items()] if named else []


def _norms(walked: Trace, power) -> np.ndarray:
    totals = np.zeros(len(walked.space_of))
    for path in walked.axes:
        for weight, axes in _weights(walked, path):
            if weight.name in _OFFSETS:
                continue  # Biases, offsets and statistics say nothing about how much of a signal passes.
            values = power(_array(weight))
            for number, axis in enumerate(axes):
                if axis is not None:
                    _add(totals, values, number, axis.units)
    return totals


def _scales(walked: Trace) -> dict[str, np.ndarray]:
    totals, counts = np.zeros(len(walked.space_of)), np.zeros(len(walked.space_of))
    for path, weights in walked.axes.items():
        if "gamma" in weights and isinstance(walked.layers[path], keras.layers.BatchNormalization):
            (axis,) = weights["gamma"]
            gamma = _array(walked.layers[path].gamma)
            np.add.at(totals, axis.units, np.abs(gamma))
            np.add.at(counts, axis.units, 1)
    scaled = [space for space in walked.spaces.selectable if counts[space.units].all()]
    if not scaled:
        what = "a model with units that pass a BatchNormalization with scale=True"
        do = "It has none. Use 'magnitude'."
        raise InvalidArgumentError(sentence(what, walked.model.name, do, of="Importance 'bn_scale'"))
    return {space.name: totals[space.units] / counts[space.units] for space in scaled}


def _distances(walked: Trace) -> dict[str, np.ndarray]:
    """For each space, every unit's sum of distances to the others; no matrix is larger than units times units."""
    squares: dict[str, np.ndarray] = {}
    for path in walked.axes:
        for weight, axes in _weights(walked, path):
            number = next((i for i, axis in enumerate(axes) if axis is not None and axis.role == "produces"), None)
            if number is None or len(axes) < 2 or weight.name in _OFFSETS:
                continue  # a filter has no bias, not even one of two rows
            filters = np.moveaxis(_array(weight), number, 0).reshape(weight.shape[number], -1)
            units = axes[number].units
            for space in walked.spaces.selectable:
                at = np.flatnonzero(np.isin(units, space.units))
                times, index = occurrences(units[at]), walked.index_of[units[at]]
                for time in range(times.max(initial=-1) + 1):
                    own = at[times == time][np.argsort(index[times == time])]  # one filter for each unit, in order
                    squares[space.name] = squares.get(space.name, 0.0) + _square_distances(filters[own])
    if not squares:
        do = "It has none. Use 'magnitude'."
        raise InvalidArgumentError(
            sentence("a model with units that a kernel makes", walked.model.name, do, of="Importance 'fpgm'")
        )
    return {
        space.name: np.sqrt(squares[space.name]).sum(axis=1)
        for space in walked.spaces.selectable
        if space.name in squares
    }


def _square_distances(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=0)  # distances stay, rounding shrinks
    norms = np.square(rows).sum(axis=1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * rows @ rows.T, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares


def _taylor(walked: Trace, data: Any, batch_size: int, steps: int | None) -> np.ndarray:
    model = walked.model
    _check_taylor(model)
    batches = Batches(model, data, _TAYLOR, batch_size=batch_size, steps=steps, targets=True)
    readers = []  # (weight, number of the axis that reads units, these units)
    for path in walked.axes:
        for weight, axes in _weights(walked, path):
            consumed = [(i, axis.units) for i, axis in enumerate(axes) if axis is not None and axis.role == "consumes"]
            readers += [(weight, i, units) for i, units in consumed]
    gradients = None
    values = [_array(weight) for weight, _, _ in readers]
    importance, examples = np.zeros(len(walked.space_of)), 0
    for batch in batches:
        check_data(model, batch, "data")
        tensors = _tensors(batch)
        if gradients is None:
            build_state(model, _tensors(keras.tree.map_structure(lambda a: None if a is None else a[:1], batch)))
            gradients = loss_gradients(model, [weight for weight, _, _ in readers])
        by_gate, count = np.zeros(len(importance)), len(arrays_of(batch)[0])
        for (_, number, units), value, gradient in zip(readers, values, gradients(tensors), strict=True):
            _add(by_gate, value * _array(gradient), number, units)
        importance += np.square(by_gate) * count
        examples += count
    importance /= examples
    if not np.isfinite(importance).all():
        raise InvalidArgumentError(
            f"{_TAYLOR}: expected the loss of {model.name!r} to have finite gradients on this data, received NaN or infinity. "
            "Look for values that are too large, in the data and in the weights."
        )
    return importance


def _check_taylor(model: keras.Model) -> None:
    if keras.backend.backend() not in PROGRAMS:
        raise InvalidArgumentError(
            sentence(f"one of the backends {list(PROGRAMS)}", keras.backend.backend(), of=_TAYLOR)
        )
    if not model.compiled or model.loss is None:
        do = "Call model.compile(optimizer, loss=...) first."
        raise InvalidArgumentError(sentence("a model that is compiled with a loss", model.name, do, of=_TAYLOR))


def _tensors(batch: tuple) -> tuple:
    """A batch as tensors, without sample weights where there are none."""
    parts = batch if batch[2] is not None else batch[:2]
    return keras.tree.map_structure(lambda array: None if array is None else keras.ops.convert_to_tensor(array), parts)


def _array(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float64")
