"""A plan: of which units of which sources a new model is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# In the place of a source: none has the unit; all have it together.
NEW, COMMON = None, -1


@dataclass(frozen=True)
class Plan:
    """Which unit of which source each unit of a new model comes from.

    Two constants stand in the place of a source: `NEW`, where none has the unit, and `COMMON`, where all have it
    together. A plan for a space "hidden" of four units: two of the first model, one of the second, and a new one:

        Plan(2, {"hidden": [(0, 0), (0, 3), (1, 2), (NEW, 3)]})

    Attributes:
        sources: number of source models.
        entries: for each space, a sequence of pairs (source, index of the unit in the space). With source `NEW` the
            unit is new, and lies wherever the unit of that index lies. With source `COMMON` one unit stands for those of
            that index of all sources: what makes it is averaged, what reads it reads all of them there. So are the units
            of spaces that are not listed.
        copied_inputs: numbers of the inputs that are copied for each source behind the input.
        averaged_outputs: numbers of the outputs that are averaged behind the layer that makes them.
        apart: whether a layer that normalizes over units does so once for each source, or over all of them together.
    """

    sources: int
    entries: Mapping[str, Sequence[tuple[int | None, int]]]
    copied_inputs: frozenset = frozenset()
    averaged_outputs: frozenset = frozenset()
    apart: bool = True
