"""The weights of a model, and what an optimizer keeps for each, while channel spaces change their sizes.

Everything is addressed by units. An axis of a weight carries the *ids* of its units: the number of the space and the
*rank* in it, counted from 0. With two spaces of 2 and 3 units, the kernel that reads the first and makes the second has

    ids along its axes   [a0 a1] x [b0 b1 b2]

Dropping b1 renumbers b2 to b1; adding units appends ids; a model that is wider than needed has more ids. So each change
is the same operation: look up, for each id of the new axis, where it lies in the old one.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kmerge.rules import Axis, positions_of
from kmerge.spaces import Trace
from kmerge.surgery import NEW, Layout, Plan, weight_axes

# The layer's path, and the index of the weight in the layer.
Key = tuple[str, int]
_STRIDE = 1 << 32  # ids of a space follow those of the one before it; units outside the spaces come first
_KEPT_LAYOUTS = 8


class Geometry:
    """The labels of a model's weights at any sizes of some of its spaces.

    Args:
        walked: the walk of the model.
        names: the spaces whose sizes change.
    """

    def __init__(self, walked: Trace, names: Sequence[str]):
        self.walked = walked
        self.names = list(names)
        self._layouts: dict[tuple, tuple] = {}

    def layout(self, sizes: Mapping[str, int]) -> Layout:
        """The layout of the model with these sizes."""
        return self._at(sizes)[0]

    def axes(self, sizes: Mapping[str, int]) -> dict[Key, tuple[Axis | None, ...]]:
        """For each weight with units, its axes with ids."""
        return self._at(sizes)[1]

    def _at(self, sizes: Mapping[str, int]) -> tuple:
        key = tuple(int(sizes[name]) for name in self.names)
        if key not in self._layouts:
            layout = Layout(self.walked, self._plan(sizes))
            while len(self._layouts) >= _KEPT_LAYOUTS:
                self._layouts.pop(next(iter(self._layouts)))
            self._layouts[key] = (layout, self._ids(layout))
        return self._layouts[key]

    def _plan(self, sizes: Mapping[str, int]) -> Plan:
        entries = {}
        for space in self.walked.spaces.selectable:
            size = int(sizes.get(space.name, space.size))
            entries[space.name] = [(0, i) for i in range(min(size, space.size))]
            entries[space.name] += [(NEW, space.size - 1)] * (size - space.size)
        return Plan(1, entries)

    def _ids(self, layout: Layout) -> dict[Key, tuple]:
        entries = [layout.entries_of(name) for name in self.names]
        ids = [np.arange(len(listed)) + (1 + k) * _STRIDE for k, listed in enumerate(entries)]
        entries, ids = np.concatenate(entries), np.concatenate(ids)
        order = np.argsort(entries)
        entries, ids = entries[order], ids[order]

        def identified(axis: Axis | None) -> Axis | None:
            if axis is None:
                return None
            at = np.minimum(np.searchsorted(entries, axis.units), len(entries) - 1)
            return Axis(axis.role, np.where(entries[at] == axis.units, ids[at], axis.units % layout.units))

        return {
            (path, index): tuple(map(identified, axes))
            for path, named in layout.axes.items()
            if named
            for index, axes in weight_axes(named, self.walked.layers[path]).items()
        }

    def places(self, ids: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """Where units stand if the spaces of these sizes are put one behind the other; -1 for units of no space."""
        starts = np.cumsum([0] + [int(sizes[name]) for name in self.names])[:-1]
        space = ids // _STRIDE - 1
        return np.where(space < 0, -1, starts[np.maximum(space, 0)] + ids % _STRIDE)

    def by_space(self, values: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Cuts what stands one behind the other into spaces."""
        ends = np.cumsum([int(sizes[name]) for name in self.names])
        return dict(zip(self.names, np.split(values, ends)[:-1], strict=True))

    def renumber(self, ids: np.ndarray, keep: Mapping[str, np.ndarray]) -> np.ndarray:
        """The ids once only the units `keep` of each space are left, in that order; -1 for those that go."""
        result = ids.copy()
        for k, name in enumerate(self.names):
            if name in keep:
                own = ids // _STRIDE == 1 + k
                new = np.full(1 + int(np.max(ids[own] % _STRIDE, initial=0)), -1)
                listed = np.asarray(keep[name])
                listed = listed[listed < len(new)]
                new[listed] = np.arange(len(listed)) + (1 + k) * _STRIDE
                result[own] = new[ids[own] % _STRIDE]
        return result

    def beyond(self, ids: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """For each unit whether its space has fewer units than its rank asks for."""
        limits = np.array([np.iinfo(int).max] + [int(sizes[name]) for name in self.names])
        return ids % _STRIDE >= limits[ids // _STRIDE]

    def ranks(self, ids: np.ndarray, name: str) -> np.ndarray:
        """The rank of each unit if it is of this space, else -1."""
        return np.where(ids // _STRIDE == 1 + self.names.index(name), ids % _STRIDE, -1)


def moved(array: np.ndarray, to: Sequence, source: Sequence, start: float = 0.0) -> np.ndarray:
    """An array on axes with other ids: elements of units that both have are kept, the others are `start`.

    Args:
        array: the array.
        to: for each new axis its ids, or None where nothing changes.
        source: likewise for the array as it is.
        start: the value of elements of new units.
    """
    for at, (wanted, ids) in enumerate(zip(to, source, strict=True)):
        if wanted is None or wanted is ids or np.array_equal(wanted, ids):
            continue
        positions = positions_of(wanted, ids)
        array = array.take(np.maximum(positions, 0), axis=at)
        array[(slice(None),) * at + (positions < 0,)] = start
    return array


class SizedWeights:
    """All weights of a model at some sizes, with the slots of an optimizer.

    Args:
        geometry: the labels.
        sizes: by space, its units.
        arrays: for each weight, its value and then the arrays of its slots.
        starts: for each weight, the start values of its value (0) and its slots; None for one that starts as the value.
    """

    def __init__(self, geometry: Geometry, sizes: Mapping[str, int], arrays: dict[Key, list], starts: dict[Key, list]):
        self.geometry = geometry
        self.sizes = dict(sizes)
        self.arrays = arrays
        self.starts = starts

    @property
    def axes(self) -> dict[Key, tuple]:
        """For each weight with units, its axes with ids."""
        return self.geometry.axes(self.sizes)

    def value(self, key: Key) -> np.ndarray:
        """The value of a weight."""
        return self.arrays[key][0]

    def averages(self, key: Key) -> list[int]:
        """Which of the arrays of a weight are moving averages of it."""
        return [i for i, start in enumerate(self.starts[key]) if start is None]

    def resized(self, sizes: Mapping[str, int], keep: Mapping[str, np.ndarray] | None = None) -> "SizedWeights":
        """The same at other sizes: units beyond a size go, and the elements of new ones start as slots do, or at 0.

        Args:
            sizes: the new sizes.
            keep: by space, the ranks of the units that stay, in their new order, before `sizes` is looked at.
        """
        old, new = self.axes, self.geometry.axes(sizes)
        arrays = {}
        for key, values in self.arrays.items():
            if key not in old:
                arrays[key] = list(values)
                continue
            source = [a and self._renumbered(a.units, keep) for a in old[key]]
            to = [a and a.units for a in new[key]]
            arrays[key] = [
                moved(value, to, source, start or 0.0) for value, start in zip(values, self.starts[key], strict=True)
            ]
        return SizedWeights(self.geometry, sizes, arrays, self.starts)

    def with_own_lists(self) -> "SizedWeights":
        """The same arrays, in lists of its own."""
        arrays = {key: list(values) for key, values in self.arrays.items()}
        return SizedWeights(self.geometry, self.sizes, arrays, {key: list(s) for key, s in self.starts.items()})

    def copy(self) -> "SizedWeights":
        """The same, in arrays of its own."""
        copied = self.with_own_lists()
        copied.arrays = {key: [value.copy() for value in values] for key, values in copied.arrays.items()}
        return copied

    def _renumbered(self, ids: np.ndarray, keep: Mapping | None) -> np.ndarray:
        return ids if keep is None else self.geometry.renumber(ids, keep)

    def drawn(self, before: Mapping[str, int], draw: Callable[[Key, tuple], np.ndarray], scale: Callable) -> None:
        """Fills, in place, the elements of the units that are beyond the sizes `before`.

        Args:
            before: the sizes before these units came.
            draw: `draw(key, shape)` gives a whole new array for a weight.
            scale: `scale(key, role)` is the factor on elements that new units have along an axis of this role.
        """
        for key, axes in self.axes.items():
            values = None
            # What reads a new unit is small whatever it makes, so these axes come last.
            for at, axis in sorted(enumerate(axes), key=lambda pair: bool(pair[1]) and pair[1].role == "consumes"):
                new = np.zeros(1, bool) if axis is None else self.geometry.beyond(axis.units, before)
                if not new.any():
                    continue
                if values is None:
                    values = draw(key, self.value(key).shape)
                    filled = [0, *self.averages(key)]
                    for i in filled:
                        self.arrays[key][i] = self.arrays[key][i].copy()
                place = (slice(None),) * at + (new,)
                for i in filled:
                    self.arrays[key][i][place] = values[place] * scale(key, axis.role)

    def restart_slots(self) -> None:
        """Sets the slots of every weight with units that come and go to what they start with, in place."""
        for key, axes in self.axes.items():
            if any(axis is not None and np.any(axis.units >= _STRIDE) for axis in axes):
                value, *slots = self.arrays[key]
                self.arrays[key] = [value] + [
                    value.astype(slot.dtype) if start is None else np.full_like(slot, start)
                    for slot, start in zip(slots, self.starts[key][1:], strict=True)
                ]
