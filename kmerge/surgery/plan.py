"""A plan: of which units of which sources a new model is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kmerge.checks import flag, is_whole_number, mapping, refuse, sentence, whole_number
from kmerge.errors import InvalidArgumentError
from kmerge.spaces import ChannelSpaces

# Instead of a source: none has the unit; all have it together.
NEW, COMMON = None, -1


@dataclass(frozen=True)
class Plan:
    """Which unit of which source each unit of a new model comes from.

    Two constants stand for a source: `NEW`, where none has the unit, and `COMMON`, where all have it
    together. A plan for a space "hidden" of four units: two of the first model, one of the second, and a new one:

        Plan(2, {"hidden": [(0, 0), (0, 3), (1, 2), (NEW, 3)]})

    Attributes:
        sources: number of source models.
        entries: a sequence for each space, by its name, of pairs (source, index of the unit in the space). With source `NEW`
            the unit is new, and lies wherever the unit of that index lies. With source `COMMON` one unit stands for those of
            that index of all sources: what makes it is averaged, what reads it reads all of them there. So are the units
            of spaces that are not listed.
        copied: the places at which what enters the model is copied for each source, see `Trace.entries`.
        averaged_outputs: numbers of the outputs that are averaged behind the layer that makes them.
        apart: whether a layer that normalizes over units does so once for each source, or over all of them together.

    Example:
        >>> plan = kmerge.Plan(2, {"first": [(0, 0), (0, 3), (1, 2), (kmerge.NEW, 3)]})
        >>> len(plan.entries["first"])
        4
    """

    sources: int
    entries: Mapping[str, Sequence[tuple[int | None, int]]]
    copied: frozenset = frozenset()
    averaged_outputs: frozenset = frozenset()
    apart: bool = True

    def __post_init__(self):
        whole_number("sources", self.sources, of="Plan")
        mapping("entries", self.entries, of="Plan")
        for name in ("copied", "averaged_outputs"):
            if not isinstance(getattr(self, name), frozenset):
                refuse(name, "a frozenset", getattr(self, name), of="Plan")
        flag("apart", self.apart, of="Plan")


def check_plan(plan: Plan, spaces: ChannelSpaces) -> None:
    """Raises `InvalidArgumentError` if the entries of a plan are not all of its sources and of these spaces, each once."""
    for name, entries in plan.entries.items():
        if name not in spaces:
            raise InvalidArgumentError(sentence(f"names of spaces, of {list(spaces)}", name, of="Plan"))
        size = spaces[name].size
        if not isinstance(entries, Sequence) or not all(map(_is_pair, entries)):
            refuse("entries", "pairs of a source and the index of a unit", entries, of=f"Plan, space {name!r}")
        wrong = [e for e in entries if not (0 <= e[1] < size and (e[0] is NEW or COMMON <= e[0] < plan.sources))]
        common = {i for source, i in entries if source == COMMON}
        wrong += [e for e in entries if e[1] in common and e[0] not in (NEW, COMMON)]
        if wrong or not len(entries) or len(set(kept := [tuple(e) for e in entries if e[0] is not NEW])) < len(kept):
            what = (
                f"distinct pairs of a source from 0 to {plan.sources - 1}, NEW or COMMON, and a unit from 0 to {size - 1}, "
                "no unit both common and of a source"
            )
            raise InvalidArgumentError(sentence(what, wrong or list(entries), of=f"Plan, space {name!r}"))


def _is_pair(entry: object) -> bool:
    is_pair = isinstance(entry, tuple | list) and len(entry) == 2
    return is_pair and (entry[0] is NEW or is_whole_number(entry[0])) and is_whole_number(entry[1])
