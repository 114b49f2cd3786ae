"""How the calls of a template run in a new model: what a layout says of each of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kmerge.rules import Labels
from kmerge.spaces import Record


@dataclass(frozen=True)
class Part:
    """One of the layers that replace one, each on the channels of a source.

    Attributes:
        path: by which the new model's layers and `Layout.axes` know it; the first has that of the template's layer.
        reads: by the number of the input, its axis, None for a virtual one, and the positions that the layer reads.
        changes: entries of the configuration that change.
    """

    path: str
    reads: dict[int, tuple[int | None, np.ndarray]]
    changes: dict = field(default_factory=dict)


@dataclass
class Placed:
    """How one call of the template runs in the new model.

    Attributes:
        record: the call in the template.
        inputs, outputs: the entries along its tensors.
        gathers: for some inputs, the positions to read first: `{input: (axis, positions)}`.
        averages: positions of each source, if the input is averaged first.
        picks: for each output that is a slice or gather, `(axis, positions)`.
        parts: the layers that run instead of this one, each for a source; empty if it runs as one.
        changes: entries of the configuration that change.
        consumed: inputs that the layer mixes.
        inside: the entries of units of its own that it mixes, if it has such.
        constants: the axes of the arrays among its arguments that are cut like weights, by their numbers.
    """

    record: Record
    inputs: list[Labels]
    outputs: list[Labels] = field(default_factory=list)
    gathers: dict[int, tuple] = field(default_factory=dict)
    averages: list | None = None
    picks: dict[int, tuple] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    changes: dict = field(default_factory=dict)
    consumed: list[int] = field(default_factory=list)
    inside: np.ndarray | None = None
    constants: dict[int, tuple] = field(default_factory=dict)

    def way(self) -> tuple:
        """How it runs, apart from the sizes of what it reads: equal for calls that one layer can serve alike."""
        read = [{i: (axis, p.tolist()) for i, (axis, p) in x.items()} for x in (self.gathers, self.picks)]
        parts = [(part.path, {i: p.tolist() for i, (_, p) in part.reads.items()}) for part in self.parts]
        return read, parts, self.averages is None, sorted(map(repr, self.changes.items()))

    def cut_to_parts(self) -> Iterator[tuple[Part, tuple[list[Labels], list[Labels]]]]:
        """For each layer of a source through which channels pass, what it reads and gives."""
        start = 0
        for part in self.parts:
            ((i, (_, positions)),) = part.reads.items()
            stop = start + len(positions)
            outputs = [x.with_units(x.units[start:stop]) for x in self.outputs]
            yield part, ([self.inputs[i].with_units(self.inputs[i].units[positions])], outputs)
            start = stop
