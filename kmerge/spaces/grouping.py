"""From what a walk notes about units to groups of them, in arrays: a large model has a hundred thousand units.

Everything here works on classes of units, numbered from 0 after all ties are resolved. Nothing loops over single units
but the stretches of an axis on which several groups stand.
"""

from collections.abc import Iterator

import numpy as np

from kmerge.rules import stretches
from kmerge.spaces.facts import APART, Kind

# What a layer does to channels of each source by itself.
_PER_SOURCE = (Kind.NORMALIZED, Kind.ALIKE, Kind.SUMMED, Kind.WEIGHED)


def distinct(units: np.ndarray) -> np.ndarray:
    """The units, each once and ascending, as `np.unique` gives them; most axes are so, which is seen without sorting."""
    units = np.ravel(units)
    return units if (units[1:] > units[:-1]).all() else np.unique(units)


class Incidence:
    """Which units have what noted about them.

    A table of pairs (unit, thing), sorted by unit, as a sparse matrix is stored by rows. With four units, and

        noted = [(made by stem, [0 1 2 3]), (mixed by down, [1 0])]

        units    [0 0 1 1 2 3]      of each pair
        numbers  [0 1 0 1 0 0]      the place in `things` of what is noted about it
        starts   [0 2 4 5 6]        pairs `starts[u]` up to `starts[u + 1]` are those of unit u

    Pairs of one unit stay in the order of the notes, as the sort is stable: names of spaces and the lists of layers in a
    table depend on it. A unit may be missing, one that stands several times in one note counts once, and a thing that
    is noted twice about a unit has two pairs.

    Args:
        noted: pairs of a thing and the units that it is noted about; a thing may be noted several times.
        count: number of units.
    """

    def __init__(self, noted: list[tuple], count: int):
        numbers: dict = {}
        things = [numbers.setdefault(thing, len(numbers)) for thing, _ in noted]  # a number for each note
        axes = [distinct(units) for _, units in noted]
        units = np.concatenate([np.empty(0, int), *axes])  # (pairs,), in the order of the notes
        order = np.argsort(units, kind="stable")
        self._things = list(numbers)
        self._units = units[order]
        self._numbers = np.repeat(np.array(things, int), list(map(len, axes)))[order]
        self._starts = np.searchsorted(self._units, np.arange(count + 1))  # (count + 1,)

    def about(self, units: np.ndarray) -> list:
        """What is noted about any of the units, by the order of the units and of the notes."""
        cuts = np.flatnonzero(np.diff(units) != 1) + 1  # pairs of units that follow each other lie in a row
        rows = ((u[0], u[-1] + 1) for u in np.split(units, cuts))
        numbers = np.concatenate([self._numbers[self._starts[low] : self._starts[high]] for low, high in rows])
        found, first = np.unique(numbers, return_index=True)  # sorted by number; `first` restores the order
        return [self._things[i] for i in found[np.argsort(first)]]

    def items(self) -> Iterator[tuple]:
        """Each thing and the units that it is noted about, ascending; one that is noted about a unit twice has it twice."""
        order, counts = np.argsort(self._numbers, kind="stable"), np.bincount(self._numbers)
        # Every thing has a number and at least one pair, or else the pieces would be matched with the wrong things.
        return zip(self._things, np.split(self._units[order], np.cumsum(counts)[:-1]), strict=True)


def groups_of_units(owned: dict, facts: Incidence, count: int) -> list[np.ndarray]:
    """The units of each channel space, ascending; groups come in the order of their first units.

    Args:
        owned: by layer and name the units that it makes, in the order of its axis.
        facts: what is noted about units.
        count: number of units.
    """
    _, firsts, labels = np.unique(_grouped(owned, facts, count), return_index=True, return_inverse=True)  # (count,)
    order = np.argsort(np.argsort(firsts))[labels]  # for each unit the rank of its group: [5 5 2 2] -> [0 0 1 1]
    return np.split(np.argsort(order, kind="stable"), np.cumsum(np.bincount(order))[:-1])


def _grouped(owned: dict, facts: Incidence, count: int) -> np.ndarray:
    """A label for each unit, equal for those that the same layers make, equally often, under the same marks.

    Labels, of shape (count,), start equal and are split by every layer and mark in turn, as partitions are refined; which
    comes first does not matter. With `stem` of four units, the first two of which a slice reads:

        all            [0 0 0 0]
        made by stem   [1 1 1 1]
        the slice      [2 2 1 1]      two spaces, stem:0 and stem:1

    Then groups are split until, on every axis that several share, their units stand in the same stretches. Otherwise a
    space would have no one order: with u and v of one group and w of another, a layer whose axis is [u v] could put v
    first, but not one whose axis is [u w v], which `Layout.expand` makes stretch by stretch. A split may cut the stretches
    of other axes in turn, so this goes on until nothing changes.
    """
    labels = np.zeros(count, int)
    for axis in owned.values():
        _split(labels, *np.unique(axis, return_counts=True))  # units, and how often the layer makes each
    noted = [(fact, distinct(units)) for fact, units in facts.items()]
    # A gather of what each source has a layer of its own for, or sums by itself, keeps these apart. It may lose all that it
    # reads, so it sets none apart.
    apart = {u.tobytes() for fact, u in noted if fact.kind in _PER_SOURCE}
    for fact, units in noted:
        whole = fact.kind is Kind.GATHERED and units.tobytes() in apart
        if fact.kind in APART and not whole:
            _split(labels, units)
    while True:
        before = labels.copy()
        for axis in owned.values():
            if len(axis) and np.any(before[axis] != before[axis[0]]):
                for _, _, members in stretches(axis, before):
                    _split(labels, np.array(members))
        if len(np.unique(labels)) == len(np.unique(before)):
            return labels


def _split(labels: np.ndarray, units: np.ndarray, marks: np.ndarray | int = 0) -> None:
    """Gives units labels of their own, in place: the same to those that had the same and bear the same mark.

    Labels [0 0 0 0], units [1 2 3] and marks [1 1 2] give [0 1 1 2]. A label and a mark become one key, the label in the
    place of the tens; `units` must be distinct, as of one that stands twice only the last key would count.

    Args:
        labels: of shape (count,).
        units: of shape (n,).
        marks: of shape (n,), none negative, or one for all.
    """
    keys = labels[units] * (1 + np.max(marks, initial=0)) + marks  # (n,)
    labels[units] = 1 + labels.max() + np.unique(keys, return_inverse=True)[1]  # above all labels that are in use
