"""A channel space: units that are kept, dropped, added or reordered together, and what the walk noted about them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kmerge.spaces.facts import Fact, Kind


@dataclass(frozen=True, eq=False)
class ChannelSpace:
    """An ordered set of units that are kept, dropped, added or reordered together.

    Attributes:
        name: name of the first layer that makes the units; with `:0`, `:1`, ... if it makes several spaces.
        owners: paths of the layers that make the units.
        facts: what the walk noted about them, in its order; the properties say what follows.
        units: the numbers of the units in the walk, shape `(size,)`.

    Example:
        >>> space = kmerge.channel_spaces(model)["second"]
        >>> space.size, space.owners, space.selectable
        (4, ('second',), True)
    """

    name: str
    owners: tuple[str, ...]
    facts: tuple[Fact, ...]
    units: np.ndarray

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why units may not be dropped, added or reordered, those of inputs and outputs first; none if they may."""
        ends = (Kind.INPUT, Kind.OUTPUT)
        return tuple(fact.reason for fact in sorted(self.facts, key=lambda f: f.kind not in ends) if fact.reason)

    @property
    def reason(self) -> str:
        """The same in one line; empty if they may."""
        return "; ".join(self.reasons)

    @property
    def selectable(self) -> bool:
        """Whether units may be dropped, added or reordered."""
        return not self.reasons

    @property
    def ends(self) -> tuple[str, ...]:
        """The inputs and outputs of the model whose channels it holds: "input 0", "output 1"."""
        return tuple(fact.detail for fact in self.facts if fact.kind in (Kind.INPUT, Kind.OUTPUT))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Paths of the layers that mix the units."""
        return self._paths(Kind.CONSUMED)

    @property
    def ties(self) -> tuple[str, ...]:
        """Paths of the layers that tie units of several owners."""
        return self._paths(Kind.TIED)

    def _paths(self, kind: Kind) -> tuple[str, ...]:
        return tuple(fact.path for fact in self.facts if fact.kind is kind)

    @cached_property
    def _kinds(self) -> frozenset[Kind]:
        return frozenset(fact.kind for fact in self.facts)

    @property
    def is_input(self) -> bool:
        """Whether it holds channels of an input of the model."""
        return Kind.INPUT in self._kinds

    @property
    def is_output(self) -> bool:
        """Whether it holds channels of an output of the model."""
        return Kind.OUTPUT in self._kinds

    @property
    def is_interior(self) -> bool:
        """Whether it holds none of either."""
        return not (self.is_input or self.is_output)

    @property
    def is_made(self) -> bool:
        """Whether a layer makes units of it, unlike those of an input that nothing ties to a layer's."""
        return Kind.MADE in self._kinds

    @property
    def is_held(self) -> bool:
        """Whether a layer that units pass holds weights for each of them."""
        return Kind.HELD in self._kinds

    @property
    def is_curved(self) -> bool:
        """Whether a function that is not linear is applied to units."""
        return Kind.CURVED in self._kinds

    @property
    def is_isolated(self) -> bool:
        """Whether its units stay for no other reason than that layers run as they are on all of them."""
        return Kind.ISOLATED in self._kinds and not self._kinds & {Kind.INPUT, Kind.OUTPUT, Kind.FIXED}

    @property
    def is_normalized(self) -> bool:
        """Whether a layer normalizes over units together, so that each changes all others."""
        return Kind.NORMALIZED in self._kinds

    @property
    def adders(self) -> tuple[str, ...]:
        """Paths of the layers that add the units up without a weight."""
        return self._paths(Kind.SUMMED)
