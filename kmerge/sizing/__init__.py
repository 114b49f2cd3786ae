"""`AutoSizer`: a model whose layers find their own widths while it trains."""

from kmerge.sizing.checks import SizingWarning
from kmerge.sizing.sizer import AutoSizer

__all__ = [
    "AutoSizer",
    "SizingWarning",
]
