"""`AutoSizer`: a model whose layers find their own widths while it trains."""

from kmerge.sizing.sizer import AutoSizer, SizingWarning

__all__ = [
    "AutoSizer",
    "SizingWarning",
]
