"""The weights of two networks, side by side, with the spaces whose units lie along their axes.

The weights of the second network are moved, space by space, until its units stand in the places of those of the first.
With four channels, the kernel of a convolution that makes the space `conv` has shape (3, 3, 3, 4), that of the next layer
(3, 3, 4, 8). Moving unit 2 to place 0 takes slice 2 of the last axis of one, and of the third axis of the other.

A Dense layer behind a Flatten reads a unit several times; one behind a Concatenate reads several spaces.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.matching.assignment import assigned
from kmerge.matching.unit_correlation import unit_positions
from kmerge.pairing import paired_layers
from kmerge.rules import Axis
from kmerge.spaces import trace
from kmerge.surgery import check_finite, weight_axes

# Running statistics tell how strong a signal is, not what it means. They move with their units but are not matched.
_STATISTICS = ("moving_mean", "moving_variance", "adapt_mean", "adapt_variance")
# A gain below this share of what is matched is rounding, a tie, or not worth the time: units stay where they are.
_TOLERANCE = 1e-5
# Arrays are worked on in pieces of as many numbers as the widest space squared, or this many if that is less.
_SMALLEST_PIECE = 2**16


@dataclass
class PairedWeight:
    """A weight of both networks.

    Attributes:
        path: of its layer.
        index: in the layer's weights.
        is_matched: whether it counts for the match.
        a: the first network's array.
        b: the second's, with its units moved as far as they are matched.
    """

    path: str
    index: int
    is_matched: bool
    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class Use:
    """An axis of a weight along which units of a space lie.

    Attributes:
        weight: the weight.
        axis: number of the axis.
        positions: shape `(times, units)`: where each unit lies; behind a Flatten, several times.
        others: names of the selectable spaces whose units lie along the other axes.
    """

    weight: PairedWeight
    axis: int
    positions: np.ndarray
    others: frozenset[str]


class Pair:
    """Two networks, weight by weight; the second's units are moved to the places of the first's.

    Args:
        model: the first network.
        other: the second.

    Attributes:
        walked: the walk of the first network.
        weights: all weights whose axes are known.
        uses: by the name of each selectable space, in the order in which the network makes them.
        order: for each of these spaces, which unit of the second network is now in each place.
        piece: of how many numbers arrays are worked on at a time.
    """

    def __init__(self, model: keras.Model, other: keras.Model):
        check_finite(model)
        check_finite(other)
        twins = paired_layers(model, other)
        self.walked = trace(model)
        selectable = self.walked.spaces.selectable
        self.order = {space.name: np.arange(space.size) for space in selectable}
        self.uses: dict[str, list[Use]] = {name: [] for name in self.order}
        self.piece = max([space.size**2 for space in selectable] + [_SMALLEST_PIECE])
        self.weights: list[PairedWeight] = []
        for path, named in self.walked.axes.items():
            for name, axes in named.items():
                layer = self.walked.layers[path]
                ((index, axes),) = weight_axes({name: axes}, layer).items()
                arrays = (keras.ops.convert_to_numpy(each.weights[index]) for each in (layer, twins[path]))
                self._add(PairedWeight(path, index, name not in _STATISTICS, *arrays), axes)

    def _add(self, weight: PairedWeight, axes: Sequence[Axis | None]) -> None:
        self.weights.append(weight)
        found = [unit_positions(self.walked, axis.units) if axis else {} for axis in axes]
        for at, here in enumerate(found):
            others = frozenset(name for i, each in enumerate(found) if i != at for name in each)
            for name, positions in here.items():
                self.uses[name].append(Use(weight, at, positions, others))

    def score(self) -> float:
        """The inner product of all weights that count, as they now stand."""
        return sum(_product(weight.a, weight.b, self.piece) for weight in self.weights if weight.is_matched)

    def cosine(self) -> float:
        """The score over the norms of the weights that count."""
        matched = [weight for weight in self.weights if weight.is_matched]
        a, b = (
            sum(_product(x, x, self.piece) for x in arrays)
            for arrays in zip(*((w.a, w.b) for w in matched), strict=True)
        )
        return self.score() / (float(np.sqrt(a * b)) or 1.0)

    def _counting(self, name: str, settled: set[str] | None) -> list[Use]:
        """The uses of a space that count; only those whose other units are settled, unless `settled` is None."""
        return [u for u in self.uses[name] if u.weight.is_matched and (settled is None or u.others <= settled)]

    def similarity(self, name: str, settled: set[str] | None = None) -> np.ndarray:
        """What the score gains from each unit of the second network in each place of a space.

        Args:
            name: of the space.
            settled: count only weights whose other units belong to these spaces, or to such as never move.

        Returns:
            An array of shape `(places, units)`.
        """
        total = np.zeros((len(self.order[name]),) * 2)
        for use in self._counting(name, settled):
            for x, y in _pieces(use, self.piece):
                total += x @ y.T  # products in the weights' precision, sums of pieces in double
        return total

    def costs(self, name: str, settled: set[str]) -> np.ndarray:
        """The squared distance of each unit of the second network from each place of a space; see `similarity`."""
        squares = self._squares(name, settled)
        return np.maximum(squares[0][:, None] + squares[1] - 2 * self.similarity(name, settled), 0)

    def _squares(self, name: str, settled: set[str] | None) -> np.ndarray:
        """The squared norm of each unit of a space in both networks, shape `(2, units)`."""
        squares = np.zeros((2, len(self.order[name])))
        for use in self._counting(name, settled):
            for both in _pieces(use, self.piece):
                squares += [np.einsum("ij,ij->i", z, z, dtype="float64") for z in both]
        return squares

    def scale(self, name: str) -> float:
        """What a unit's match would be worth on average if it were perfect: the norms of the units, multiplied."""
        squares = self._squares(name, None)
        return float(np.mean(np.sqrt(squares[0]) * np.sqrt(squares[1])))

    def pull(self, name: str, soft: Mapping[str, np.ndarray]) -> np.ndarray:
        """The gradient of the score for the order of a space, where all spaces have soft orders.

        Args:
            name: of the space.
            soft: for each space a matrix `(places, units)`, to which the second network's units are not moved yet.

        Returns:
            An array of shape `(places, units)`.
        """
        total = np.zeros((len(self.order[name]),) * 2)
        for use in self._counting(name, None):
            kept = use.weight.b
            for other in sorted(use.others):
                for far in (u for u in self.uses[other] if u.weight is use.weight and u.axis != use.axis):
                    use.weight.b = _moved(use.weight.b, far, soft[other])
            for x, y in _pieces(use, self.piece):
                total += x @ y.T
            use.weight.b = kept
        return total

    def move(self, name: str, mapping: np.ndarray) -> None:
        """Moves the second network's units of a space.

        Args:
            name: of the space.
            mapping: a permutation, or a matrix `(places, units)` whose rows say what comes to a place.
        """
        for use in self.uses[name]:
            use.weight.b = _moved(use.weight.b, use, mapping)
        if mapping.ndim == 1:
            self.order[name] = self.order[name][mapping]

    def improve(self, name: str, settled: set[str] | None = None) -> bool:
        """Assigns the units of a space anew, all others as they are; returns whether that was a gain."""
        similarity = self.similarity(name, settled)
        best = assigned(similarity)
        matched = similarity[np.arange(len(best)), best]
        if matched.sum() - np.trace(similarity) <= _TOLERANCE * np.abs(matched).sum():
            return False
        # A weight with the same units on two axes, as of x + f(x): the gain is not the sum of what each unit gains.
        coupled = [use.weight for use in self._counting(name, settled) if name in use.others]
        kept = [(use.weight, use.weight.b) for use in self.uses[name]]
        before = self.score() if coupled else 0.0
        self.move(name, best)
        if coupled and self.score() <= before:
            self.move(name, np.argsort(best))
            for weight, array in kept:
                weight.b = array
            return False
        return True

    def settle(self) -> None:
        """One pass over the spaces, on the weights whose other units are already in their places."""
        settled: set[str] = set()
        for name in self.uses:
            self.improve(name, settled)
            settled.add(name)

    def descend(self, rng: np.random.Generator) -> None:
        """Coordinate descent in random order, until no space gains more than rounding. The score never falls."""
        stale = set(self.uses)
        while stale:
            for name in rng.permutation(sorted(stale)).tolist():
                stale.discard(name)
                if self.improve(name):
                    stale |= {other for use in self.uses[name] for other in use.others}


def _product(a: np.ndarray, b: np.ndarray, piece: int) -> float:
    a, b = a.ravel(), b.ravel()
    cuts = (slice(start, start + piece) for start in range(0, len(a), piece))
    return sum(float(a[cut].astype("float64") @ b[cut].astype("float64")) for cut in cuts)


def _pieces(use: Use, piece: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Matrices of both networks whose rows are the units of a use, and which hold all its numbers, part by part."""
    both = [np.moveaxis(array, use.axis, 0) for array in (use.weight.a, use.weight.b)]
    both = [array[:, None] if array.ndim == 1 else array for array in both]
    shape = both[0].shape
    longest = 1 + int(np.argmax(shape[1:]))
    step = max(1, piece * shape[longest] // max(1, both[0].size))
    for start in range(0, shape[longest], step):
        part = (slice(None),) * longest + (slice(start, start + step),)
        for rows in use.positions:
            yield tuple(array[part][rows].reshape(len(rows), -1) for array in both)


def _moved(array: np.ndarray, use: Use, mapping: np.ndarray) -> np.ndarray:
    """An array with the units of a use moved by a permutation or a matrix."""
    if mapping.ndim == 1:
        source = np.arange(array.shape[use.axis])
        source[use.positions] = use.positions[:, mapping]
        return array.take(source, axis=use.axis)
    moved = np.moveaxis(array, use.axis, 0).copy()
    for rows in use.positions:
        moved[rows] = np.tensordot(mapping, moved[rows], axes=1)
    return np.moveaxis(moved, 0, use.axis)
