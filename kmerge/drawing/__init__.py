"""Channel spaces, explained in words and drawn."""

from kmerge.drawing.explanations import Explanation, LayerShare, SpaceExplanation, explain
from kmerge.drawing.plotting import Drawing, plot

__all__ = [
    "Drawing",
    "Explanation",
    "LayerShare",
    "SpaceExplanation",
    "explain",
    "plot",
]
