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

from collections.abc import Sequence

import keras
import numpy as np

from kmerge.checks import one_of, sentence, whole_number
from kmerge.errors import InvalidArgumentError
from kmerge.merging import read_merge
from kmerge.rules import occurrences
from kmerge.seeds import rng_of
from kmerge.spaces import Trace, check_selectable, trace
from kmerge.surgery import check_finite, weight_axes
from kmerge.training import PROGRAMS, arrays_of, build_state, check_data, is_array, loss_gradients

IMPORTANCES = ("magnitude", "magnitude_l1", "bn_scale", "fpgm", "taylor", "random", "gates")
_TAYLOR = "Importance 'taylor'"  # what its errors start with
_OFFSETS = {"bias", "beta", "moving_mean", "moving_variance", "mean", "variance"}


def unit_importance(
    model: keras.Model,
    importance: str = "magnitude",
    data: tuple | None = None,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Tells how important the units of every selectable space are; the higher, the more important.

    Args:
        model: a Functional or Sequential model; compiled for "taylor", made by `merge` or `gate` for "gates".
        importance: "magnitude", "magnitude_l1", "bn_scale", "fpgm", "taylor", "random" or "gates".
        data: for "taylor" alone: `(x, y)` or `(x, y, sample_weight)`, arrays as for `kmerge.fit`.
        batch_size: for "taylor": examples per gradient.
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
        return _by_space(walked, _taylor(walked, data, batch_size))
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


def _taylor(walked: Trace, data: tuple, batch_size: int) -> np.ndarray:
    model = walked.model
    _check_taylor(model, data, batch_size)
    readers = []  # (weight, number of the axis that reads units, these units)
    for path in walked.axes:
        for weight, axes in _weights(walked, path):
            consumed = [(i, axis.units) for i, axis in enumerate(axes) if axis is not None and axis.role == "consumes"]
            readers += [(weight, i, units) for i, units in consumed]
    examples = len(arrays_of(data)[0])
    build_state(model, _batch(data, 0, 1))
    gradients = loss_gradients(model, [weight for weight, _, _ in readers])
    values = [_array(weight) for weight, _, _ in readers]
    importance = np.zeros(len(walked.space_of))
    for start in range(0, examples, batch_size):
        by_gate = np.zeros(len(importance))
        found = gradients(_batch(data, start, start + batch_size))
        for (_, number, units), value, gradient in zip(readers, values, found, strict=True):
            _add(by_gate, value * _array(gradient), number, units)
        importance += np.square(by_gate) * (min(start + batch_size, examples) - start) / examples
    if not np.isfinite(importance).all():
        raise InvalidArgumentError(
            f"{_TAYLOR}: expected the loss of {model.name!r} to have finite gradients on this data, received NaN or infinity. "
            "Look for values that are too large, in the data and in the weights."
        )
    return importance


def _check_taylor(model: keras.Model, data: tuple, batch_size: int) -> None:
    if keras.backend.backend() not in PROGRAMS:
        raise InvalidArgumentError(
            sentence(f"one of the backends {list(PROGRAMS)}", keras.backend.backend(), of=_TAYLOR)
        )
    if not model.compiled or model.loss is None:
        do = "Call model.compile(optimizer, loss=...) first."
        raise InvalidArgumentError(sentence("a model that is compiled with a loss", model.name, do, of=_TAYLOR))
    whole_number("batch_size", batch_size)
    if not isinstance(data, tuple) or len(data) not in (2, 3) or not all(map(is_array, arrays_of(data))):
        raise InvalidArgumentError(
            f"{_TAYLOR}: expected data=(x, y) or (x, y, sample_weight) of arrays, received {type(data).__name__}"
            + (f" of {[type(part).__name__ for part in data]}." if isinstance(data, Sequence) else ".")
        )
    check_data(model, data, "data")


def _batch(data: tuple, start: int, stop: int) -> tuple:
    return keras.tree.map_structure(lambda array: keras.ops.convert_to_tensor(array[start:stop]), data)


def _array(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float64")
