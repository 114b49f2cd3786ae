"""How alike the units of two networks behave on data: their correlation, where layers read them.

A unit's samples are all examples, all places (pixels, steps) and all layers that read it: those of a residual stream are
read by many. Everything follows from the channel spaces; networks may be nested.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Graph
from kmerge.rules import occurrences
from kmerge.spaces import Trace, walk_calls

_BATCH = 64
# A deviation of less than this share of the mean is rounding: the unit does not change.
_CONSTANT = 1e-6


def correlations(
    walked: Trace, models: tuple[keras.Model, keras.Model], data: Any
) -> dict[str, np.ndarray]:
    """The correlation of every unit of a network with every unit of another, space by space.

    Args:
        walked: the walk of the first network.
        models: two networks of one architecture.
        data: inputs: whatever `model.evaluate` takes, or its `Batches`.

    Returns:
        For each selectable space whose units lie in a tensor, as those inside of attention do not, an array of shape
        `(units of the first, units of the second)`, zero for units that never change.

    Raises:
        InvalidArgumentError: if the data is empty, holds NaN or does not fit the networks' inputs.

    Reference:
        Li et al., Convergent Learning, 2016; Ainsworth et al., Git Re-Basin, ICLR 2023, section 3.1.
    """
    return {name: found.correlation() for name, found in _measured(walked, models, data).items()}


def concordances(
    walked: Trace, models: tuple[keras.Model, keras.Model], data: Any
) -> dict[str, np.ndarray]:
    """How nearly equal each unit of a network is to the unit in its place in another, space by space.

    With values x and y it is `2 cov(x, y) / (var x + var y + (mean x - mean y)^2)`: a correlation that also falls where
    one unit is larger than the other. It is 1 where x = y always, at most 0 where they have nothing in common.

    Args:
        walked: the walk of the first network.
        models: two networks of one architecture, with their units in one order.
        data: inputs: whatever `model.evaluate` takes, or its `Batches`.

    Returns:
        For each selectable space whose units lie in a tensor, an array of shape `(units,)`.

    Raises:
        InvalidArgumentError: if the data is empty, holds NaN or does not fit the networks' inputs.

    Reference:
        Lin, A concordance correlation coefficient to evaluate reproducibility, Biometrics 1989.
    """
    return {name: found.concordance() for name, found in _measured(walked, models, data).items()}


def _measured(walked: Trace, models: tuple, data: Any) -> dict[str, "_Moments"]:
    reads = _reads(walked)
    moments = {name: _Moments(walked.spaces[name].size) for each in reads.values() for name in each}
    for batch in _batches(models[0], data):
        values = [_values(model, batch, reads) for model in models]
        for key, grids in reads.items():
            axis = walked.records[key[0]].inputs[key[1]].axis
            both = [np.moveaxis(each[key], axis, -1) for each in values]
            for name, grid in grids.items():
                for positions in grid:
                    samples = [x[..., positions].reshape(-1, len(positions)).astype("float64") for x in both]
                    moments[name].add(*samples)
    return moments


def unit_positions(walked: Trace, units: np.ndarray) -> dict[str, np.ndarray]:
    """Where the units of each selectable space lie along an axis.

    Args:
        walked: the walk that numbered the units.
        units: one per position of the axis.

    Returns:
        By the name of the space, an array of shape `(times, units)`: with the units u and v, [u v w u v] has u at 0 and
        3, v at 1 and 4, so [[0 1] [3 4]]. Spaces of which the axis holds only a part are left out.
    """
    found, spaces = {}, list(walked.spaces.values())
    numbers, times = walked.space_of[units], occurrences(units)
    for number in np.unique(numbers):
        space, here = spaces[number], np.flatnonzero(numbers == number)
        if not space.selectable or len(here) % space.size:
            continue
        grid = here[np.lexsort((walked.index_of[units[here]], times[here]))].reshape(-1, space.size)
        if (walked.index_of[units[grid]] == np.arange(space.size)).all():
            found[space.name] = grid
    return found


def _reads(walked: Trace) -> dict[tuple, dict[str, np.ndarray]]:
    """The positions of spaces in tensors that a layer mixes, by the key of the call and the number of its input."""
    found = {}
    for key, record in walked.records.items():
        for number, labels in enumerate(record.inputs):
            grids = unit_positions(walked, labels.units)
            mixed = {name: grid for name, grid in grids.items() if record.path in walked.spaces[name].consumers}
            if mixed:
                found[key, number] = mixed
    return found


def _values(model: keras.Model, batch: list, reads: Mapping[tuple, object]) -> dict[tuple, np.ndarray]:
    """The tensors at `reads` in inference. Runs call by call, as those inside nested models are out of reach otherwise."""
    found = {}

    def visit(key, path, call, values, end):
        for number, value in enumerate(values):
            if (key, number) in reads:
                found[key, number] = keras.ops.convert_to_numpy(value)
        return call.replay(call.operation, values)

    walk_calls(Graph(model), batch, visit)
    return found


def _batches(model: keras.Model, data: Any) -> Iterator[list]:
    inputs = Graph(model).inputs
    batches = data if isinstance(data, Batches) else Batches(model, data, "matching", batch_size=_BATCH)
    for x, _, _ in batches:
        arrays = keras.tree.flatten(x)
        if not all(np.isfinite(array).all() for array in arrays):
            raise InvalidArgumentError("Expected finite inputs to measure units on. Received: NaN or infinity.")
        yield [keras.ops.convert_to_tensor(array, tensor.dtype) for array, tensor in zip(arrays, inputs, strict=True)]


class _Moments:
    """Sums over samples of the values of two networks' units, and of their products."""

    def __init__(self, units: int):
        self.count, self.sums, self.squares = 0, np.zeros((2, units)), np.zeros((2, units))
        self.products = np.zeros((units, units))

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Adds samples, shape `(samples, units)` each."""
        self.count += len(a)
        self.sums += [a.sum(axis=0), b.sum(axis=0)]
        self.squares += [np.square(a).sum(axis=0), np.square(b).sum(axis=0)]
        self.products += a.T @ b

    def correlation(self) -> np.ndarray:
        means = self.sums / self.count
        deviations = np.sqrt(np.maximum(self.squares / self.count - np.square(means), 0))
        deviations[deviations <= _CONSTANT * np.abs(means)] = np.inf
        return (self.products / self.count - np.outer(*means)) / np.outer(*deviations)

    def concordance(self) -> np.ndarray:
        means = self.sums / self.count
        variances = np.maximum(self.squares / self.count - np.square(means), 0)
        together = np.diag(self.products) / self.count - means[0] * means[1]
        apart = variances.sum(axis=0) + np.square(means[0] - means[1])
        equal = apart <= (_CONSTANT * np.abs(means).max(axis=0)) ** 2  # two units that are the same constant
        return np.where(equal, 1.0, 2 * together / np.where(equal, 1.0, apart))
