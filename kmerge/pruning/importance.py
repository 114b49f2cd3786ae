"""Importance: a number for every unit that may go, by which pruning ranks them.

    importance      of a unit
    "magnitude"     L2 norm of its weights: kernels that make, carry or read it, scales
    "magnitude_l1"  L1 norm of the same
    "lamp"          the square of its magnitude over the sum of those of its space that are no smaller
    "bn_scale"      mean |gamma| of the BatchNormalizations it passes
    "fpgm"          how far the kernels that make it lie from those of the other units of its space
    "taylor"        how much the loss changes, to first order, if it goes
    "hessian"       how much it changes, to second order, if its weights go
    "random"        uniform, from a seed
    "gates"         P(g > 0) of its gate in a gated model
    a function      your own, see `register_importance`

A unit that lies at several places, as the channels of a residual stream do, has one importance: its weights are
collected over all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches, check_amount, map_arrays
from kmerge.checks import one_of, sentence
from kmerge.checks import seed as check_seed
from kmerge.errors import InvalidArgumentError
from kmerge.merging import read_merge
from kmerge.pruning.criteria import IMPORTANCES, MEASURED, Importance
from kmerge.pruning.unit_weights import UnitWeights, add_to_units
from kmerge.spaces import ChannelSpaces, Trace, check_selectable, trace
from kmerge.surgery import by_space, check_finite
from kmerge.training import PROGRAMS, arrays_of, build_state, check_data, loss_gradients


def unit_importance(
    model: keras.Model,
    importance: str | Importance = "magnitude",
    data: Any = None,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Tells how important the units of every selectable space are; the higher, the more important.

    Args:
        model: a Functional or Sequential model; compiled for "taylor" and "hessian", made by `merge` or `gate` for "gates".
        importance: "magnitude", "magnitude_l1", "lamp", "bn_scale", "fpgm", "taylor", "hessian", "random" or "gates"; the
            name of one that is registered; or a function, as `register_importance` takes it.
        data: examples, for "taylor" and "hessian" alone: whatever `model.evaluate` takes, with targets: `(x, y)` or
            `(x, y, sample_weight)` of arrays, a `tf.data.Dataset`, `PyDataset`, generator, ... It is read once, by batches.
        batch_size: examples per gradient of "taylor", where the data is arrays. "hessian" takes a gradient of each example.
        steps: the most batches to take; None for all.
        seed: seed of "random".

    Returns:
        An array of shape `(units,)` for each selectable space, by its name. With "bn_scale", spaces that pass no
        BatchNormalization with a scale are missing; with "fpgm", those that no kernel makes.

    Raises:
        InvalidArgumentError: for an unknown importance, a model without selectable spaces, missing or unusable data, a model
            that is not compiled with a loss ("taylor", "hessian"), or has no BatchNormalization ("bn_scale"), no kernels
            ("fpgm") or no gates ("gates").

    Reference:
        Group norms: Fang et al., DepGraph, CVPR 2023, section 3.3. "bn_scale": Liu et al., Network Slimming, ICCV 2017.
        "fpgm": He et al., Filter Pruning via Geometric Median, CVPR 2019, equation 6: the sum of a filter's distances to
        the others; where several kernels make a unit, its filter is all of them.
        "taylor": Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equation 8 with a gate
        on every unit: the square of d loss / d gate at 1, mean over batches. The gradient is the sum of weight times
        gradient over all weights that read the unit.
        "hessian": LeCun et al., Optimal Brain Damage, NeurIPS 1989: half the sum of h w^2 over a unit's weights, those of
        "magnitude"; h is the diagonal of the empirical Fisher matrix, the mean over examples of the squared gradient.
        "lamp": Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, with units for weights.

    Example:
        >>> importance = kmerge.unit_importance(model, "magnitude")
        >>> {name: values.shape for name, values in importance.items()}
        {'first': (6,), 'second': (4,)}
    """
    check_asked(importance, data)
    check_amount(batch_size, steps)
    check_seed("seed", seed)
    if importance == "gates":
        return {name: gate.open_probabilities() for name, gate in read_merge(model).gates.items()}
    walked = trace(model)
    check_selectable(walked)
    return importance_of(walked, check_finite(walked.model), importance, data, batch_size, steps, seed)


def check_asked(importance: str | Importance, data: Any) -> None:
    """Refuses an importance that is not known, data that it does not read, and that it lacks data."""
    if not callable(importance) or isinstance(importance, type | keras.Operation):
        one_of("importance", importance, IMPORTANCES)
    measured = importance in MEASURED
    if measured and data is None:
        raise InvalidArgumentError(sentence("data=(x, y)", None, of=f"Importance {importance!r}"))
    if not measured and data is not None:
        do = "Only 'taylor' and 'hessian' read data."
        raise InvalidArgumentError(sentence("no data", type(data).__name__, do, of=f"Importance {importance!r}"))


def importance_of(
    walked: Trace,
    arrays: Mapping[int, np.ndarray],
    importance: str | Importance,
    data: Any,
    batch_size: int,
    steps: int | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """`unit_importance` of a model that is walked, whose weights `check_finite` has read, and `check_asked` the rest."""
    weights = UnitWeights(walked, arrays, seed)
    if importance == "taylor":
        return weights.of_spaces(_taylor(weights, data, batch_size, steps))
    if importance == "hessian":
        return weights.of_spaces(_hessian(weights, data, batch_size, steps))
    found = importance if callable(importance) else IMPORTANCES[importance]
    return checked_importance(found(weights), walked.spaces)


def checked_importance(importance: Mapping, spaces: ChannelSpaces) -> dict[str, np.ndarray]:
    """Importance by name of the space, of the right shapes and finite; raises `InvalidArgumentError` if it is not."""
    importance = by_space(spaces, importance)
    if not importance:
        raise InvalidArgumentError(sentence("importance for at least one space", importance))
    checked = {}
    for name, values in importance.items():
        checked[name] = np.asarray(values, "float64")
        if checked[name].shape != (spaces[name].size,) or not np.isfinite(checked[name]).all():
            what = f"importance to be finite numbers of shape ({spaces[name].size},)"
            raise InvalidArgumentError(sentence(what, values, of=f"Space {name!r}"))
    return checked


def _taylor(weights: UnitWeights, data: Any, batch_size: int, steps: int | None) -> np.ndarray:
    readers = []  # (weight, number of the axis that reads units, these units)
    for weight in weights:
        consumed = [(i, axis.units) for i, axis in enumerate(weight.axes) if axis is not None and axis.role == "consumes"]
        readers += [(weight, i, units) for i, units in consumed]
    importance, whole = np.zeros(len(weights.walked.space_of)), 0
    batches = Batches(weights.model, data, "Importance 'taylor'", batch_size=batch_size, steps=steps, targets=True)
    for size, found in _gradients(weights.model, batches, [weight.variable for weight, _, _ in readers], "taylor"):
        by_gate = np.zeros(len(importance))
        for (weight, number, units), gradient in zip(readers, found, strict=True):
            add_to_units(by_gate, weight.array * gradient, number, units)
        importance, whole = importance + size * np.square(by_gate), whole + size
    return importance / whole


def _hessian(weights: UnitWeights, data: Any, batch_size: int, steps: int | None) -> np.ndarray:
    counted = [weight for weight in weights if not weight.is_offset]
    squares, whole = [0.0] * len(counted), 0
    batches = Batches(weights.model, data, "Importance 'hessian'", batch_size=batch_size, steps=steps, targets=True)
    examples = (_rows(batch, i, i + 1) for batch in batches for i in range(len(arrays_of(batch)[0])))
    for size, found in _gradients(weights.model, examples, [weight.variable for weight in counted], "hessian"):
        squares, whole = [s + size * np.square(g) for s, g in zip(squares, found, strict=True)], whole + size
    importance = np.zeros(len(weights.walked.space_of))
    for weight, square in zip(counted, squares, strict=True):
        for number, axis in enumerate(weight.axes):
            if axis is not None:
                add_to_units(importance, np.square(weight.array) * square / (2 * whole), number, axis.units)
    return importance


def _gradients(
    model: keras.Model, batches: Iterable[tuple], variables: Sequence, importance: str
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """For each batch the number of its examples and the gradients of their loss."""
    of, gradients = f"Importance {importance!r}", None
    _check_measured(model, of)
    for batch in batches:
        check_data(model, batch, "data")
        if gradients is None:
            build_state(model, _tensors(_rows(batch, 0, 1)))
            gradients = loss_gradients(model, variables)
        found = [_array(gradient) for gradient in gradients(_tensors(batch))]
        if not all(np.isfinite(gradient).all() for gradient in found):
            raise InvalidArgumentError(
                f"{of}: expected the loss of {model.name!r} to have finite gradients on this data, received NaN or infinity. "
                "Look for values that are too large, in the data and in the weights."
            )
        yield len(arrays_of(batch)[0]), found


def _check_measured(model: keras.Model, of: str) -> None:
    if keras.backend.backend() not in PROGRAMS:
        raise InvalidArgumentError(sentence(f"one of the backends {list(PROGRAMS)}", keras.backend.backend(), of=of))
    if not model.compiled or model.loss is None:
        do = "Call model.compile(optimizer, loss=...) first."
        raise InvalidArgumentError(sentence("a model that is compiled with a loss", model.name, do, of=of))


def _rows(batch: tuple, start: int, stop: int) -> tuple:
    """Some examples of a batch."""
    return map_arrays(lambda array: array[start:stop], batch)


def _tensors(batch: tuple) -> tuple:
    """A batch as tensors, without sample weights where there are none."""
    parts = batch if batch[2] is not None else batch[:2]
    return map_arrays(keras.ops.convert_to_tensor, parts)


def _array(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float64")
