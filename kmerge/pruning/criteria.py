"""Importances that weights alone tell, and the register to which a user's own are added."""

from collections.abc import Callable, Mapping

import keras
import numpy as np

from kmerge.checks import function, refuse, sentence, text
from kmerge.errors import InvalidArgumentError
from kmerge.pruning.unit_weights import UnitWeight, UnitWeights
from kmerge.rules import occurrences
from kmerge.seeds import rng_of

# Of a model's weights, the importance of units by name of their space. None stands for what needs more than weights.
Importance = Callable[[UnitWeights], Mapping[str, np.ndarray]]
IMPORTANCES: dict[str, Importance | None] = {}
# Those that are measured on data.
MEASURED = ("taylor", "hessian")


def register_importance(name: str, importance: Importance) -> Importance:
    """Gives an importance of your own a name, by which `prune`, `choose_units` and `unit_importance` know it.

    It is enough to hand the function itself to them; a name is for configurations.

    Args:
        name: name of the importance.
        importance: a function of a `UnitWeights` that returns, by name of a space, an array of shape `(units,)`: the
            higher, the more important. Spaces that it leaves out stay whole.

    Returns:
        The function.

    Raises:
        InvalidArgumentError: if the name is taken, or this is no function.

    Example:
        >>> def largest(weights):
        ...     return weights.sums(lambda weight: np.abs(weight.array) ** 4)
        >>> importance = kmerge.register_importance("l4", largest)
        >>> small = kmerge.prune(model, "l4", budget=0.5)
    """
    text("name", name)
    if IMPORTANCES.get(name, importance) is not importance or name in (*MEASURED, "gates"):
        refuse("name", "a text that names no other importance", name, f"Taken: {', '.join(IMPORTANCES)}.")
    function("importance", importance, "a function of a kmerge.UnitWeights")
    IMPORTANCES[name] = importance
    return importance


def _squares(weight: UnitWeight) -> np.ndarray | None:
    return None if weight.is_offset else np.square(weight.array)


def _magnitude(weights: UnitWeights) -> dict[str, np.ndarray]:
    return {name: np.sqrt(values) for name, values in weights.sums(_squares).items()}


def _magnitude_l1(weights: UnitWeights) -> dict[str, np.ndarray]:
    return weights.sums(lambda weight: None if weight.is_offset else np.abs(weight.array))


def _lamp(weights: UnitWeights) -> dict[str, np.ndarray]:
    return {name: _shares_of_survivors(values) for name, values in weights.sums(_squares).items()}


def _shares_of_survivors(squares: np.ndarray) -> np.ndarray:
    """Each number over the sum of all that are no smaller; of equal ones, the first counts as the larger."""
    order = np.argsort(-squares, kind="stable")
    left = np.cumsum(squares[order])
    result = np.empty_like(squares)
    result[order] = np.divide(squares[order], left, out=np.zeros_like(left), where=left > 0)
    return result


def _random(weights: UnitWeights) -> dict[str, np.ndarray]:
    spaces = weights.spaces.selectable
    return {space.name: rng_of("importance", weights.seed, space.name).uniform(size=space.size) for space in spaces}


def _scales(weights: UnitWeights) -> dict[str, np.ndarray]:
    walked = weights.walked
    totals, counts = np.zeros(len(walked.space_of)), np.zeros(len(walked.space_of))
    for weight in weights:
        if weight.name == "gamma" and isinstance(walked.layers[weight.path], keras.layers.BatchNormalization):
            (axis,) = weight.axes
            np.add.at(totals, axis.units, np.abs(weight.array))
            np.add.at(counts, axis.units, 1)
    scaled = [space for space in weights.spaces.selectable if counts[space.units].all()]
    if not scaled:
        what = "a model with units that pass a BatchNormalization with scale=True"
        do = "It has none. Use 'magnitude'."
        raise InvalidArgumentError(sentence(what, weights.model.name, do, of="Importance 'bn_scale'"))
    return {space.name: totals[space.units] / counts[space.units] for space in scaled}


def _distances(weights: UnitWeights) -> dict[str, np.ndarray]:
    """For each space, every unit's sum of distances to the others; no matrix is larger than units times units."""
    squares: dict[str, np.ndarray] = {}
    index_of, spaces = weights.walked.index_of, weights.spaces.selectable
    for weight in weights:
        number = next((i for i, axis in enumerate(weight.axes) if axis is not None and axis.role == "produces"), None)
        if number is None or len(weight.axes) < 2 or weight.is_offset:
            continue  # a filter has no bias, not even one of two rows
        filters = np.moveaxis(weight.array, number, 0).reshape(weight.array.shape[number], -1)
        units = weight.axes[number].units
        for space in spaces:
            at = np.flatnonzero(np.isin(units, space.units))
            times, index = occurrences(units[at]), index_of[units[at]]
            for time in range(times.max(initial=-1) + 1):
                own = at[times == time][np.argsort(index[times == time])]  # one filter for each unit, in order
                squares[space.name] = squares.get(space.name, 0.0) + _square_distances(filters[own])
    if not squares:
        what, do = "a model with units that a kernel makes", "It has none. Use 'magnitude'."
        raise InvalidArgumentError(sentence(what, weights.model.name, do, of="Importance 'fpgm'"))
    return {space.name: np.sqrt(squares[space.name]).sum(axis=1) for space in spaces if space.name in squares}


def _square_distances(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=0)  # distances stay, rounding shrinks
    norms = np.square(rows).sum(axis=1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * rows @ rows.T, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares


IMPORTANCES |= {
    "magnitude": _magnitude,
    "magnitude_l1": _magnitude_l1,
    "lamp": _lamp,
    "bn_scale": _scales,
    "fpgm": _distances,
    "random": _random,
    "taylor": None,
    "hessian": None,
    "gates": None,
}
