"""Regions: the channels that layers hold fixed which run as they are, and that can only go or stay together.

No gate can choose among the channels of such a layer. But a whole one may be kept or dropped: a big student holds one of
each parent, on that parent's own channels, with one gate for each parent, and `compress` keeps the one that is more open.
Of a layer `mystery` between two Dense layers of four channels, two parents have

    region "before" of the spaces before and mystery      gates [gA gB]
    before    [A0 A1 A2 A3 B0 B1 B2 B3]                   gates [gA gA gA gA gB gB gB gB], where mystery reads them
    mystery   [A4 A5 A6 A7 B4 B5 B6 B7]                   the same, where the second Dense layer reads them
"""

from dataclasses import dataclass

import numpy as np

from kmerge.spaces import ChannelSpace, Record, Trace


@dataclass(frozen=True)
class Region:
    """Spaces that are kept whole, of one parent.

    Attributes:
        name: that of its first space.
        spaces: the names of its spaces.
        layers: the paths of the layers that run as they are on them.
    """

    name: str
    spaces: tuple[str, ...]
    layers: tuple[str, ...]


def regions(walked: Trace) -> list[Region]:
    """The regions of a model, in the order of its spaces.

    What such a layer reads may also be common to all parents, as an input is. Where that is so of what it makes, as of an
    output of the model, there is one layer for all parents, and what it reads is common, too.
    """
    spaces, records = list(walked.spaces.values()), [r for r in walked.records.values() if r.is_whole]
    groups = {i: {i} for i, space in enumerate(spaces) if space.is_isolated}
    for record in records:
        numbers = _numbers(walked, record.inputs + record.outputs)
        joined = set().union(*(groups.get(i, ()) for i in numbers))
        groups |= dict.fromkeys(joined, joined)
    common: set[str] = set()  # layers of which there is one for all parents
    while more := {r.path for r in records if not set(_numbers(walked, r.outputs)) <= groups.keys()} - common:
        common |= more
        for record in (r for r in records if r.path in more):
            for i in _numbers(walked, record.inputs + record.outputs):
                for member in groups.get(i, set()) & groups.keys():
                    del groups[member]
    found = {id(group): sorted(group) for _, group in sorted(groups.items())}
    return [_region(walked, spaces, records, members) for members in found.values()]


def _numbers(walked: Trace, labels: list) -> list[int]:
    return sorted({int(i) for x in labels for i in np.unique(walked.space_of[x.units])})


def _region(walked: Trace, spaces: list[ChannelSpace], records: list[Record], members: list[int]) -> Region:
    met = [r.path for r in records if set(_numbers(walked, r.outputs)) & set(members)]
    names = tuple(spaces[i].name for i in members)
    return Region(names[0], names, tuple(dict.fromkeys(met)))
