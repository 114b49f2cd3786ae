"""Facts: what a walk notes about units, and what a channel space is asked about them."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a fact says of the units that it is noted about."""

    INPUT = "they are channels of an input of the model, or computed from inputs alone without a weight"
    OUTPUT = "they are channels of an output of the model"
    MADE = "the layer makes them"
    HELD = "the layer holds weights for each of them, or what acts like weights"
    CURVED = "the layer applies a function to them that is not linear"
    CONSUMED = "the layer mixes them"
    TIED = "the layer ties them to others"
    ALIKE = "the layer has the same weights for all of them, which pass"
    NORMALIZED = "the layer normalizes over all of them together"
    SUMMED = "the layer adds them up without a weight"
    WEIGHED = "the layer mixes their places by sums over channels"
    SLICED = "the layer reads them by a slice"
    GATHERED = "the layer reads them by a gather"
    FIXED = "they must stay as they are"
    ISOLATED = "the layer runs as it is on all of them"


# Units under one of these facts cannot lie in one space with units that are not.
APART = {Kind.INPUT, Kind.OUTPUT, Kind.SLICED, Kind.GATHERED, Kind.FIXED, Kind.ISOLATED}


@dataclass(frozen=True)
class Fact:
    """One thing that is so of some units: what a layer does to them, or where they stand in the model.

    Two facts are one if they are equal, so `path` and `detail` say how far units under facts of one kind belong together:
    those of two slices that one `Split` makes are kept apart by `detail`, the number of the output.

    Attributes:
        kind: what it says.
        path: of the layer; empty if it is the model.
        detail: which input or output; or, of what is fixed or computed from inputs, why, to be read behind `path`.
    """

    kind: Kind
    path: str = ""
    detail: str = ""

    @property
    def reason(self) -> str:
        """Why the units may not be selected; empty if they may."""
        if self.kind not in (Kind.INPUT, Kind.OUTPUT, Kind.FIXED, Kind.ISOLATED):
            return ""
        return f"{self.path} {self.detail}" if self.path else f"{self.detail} of the model"
