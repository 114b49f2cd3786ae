"""Which unit of one network corresponds to which unit of another of the same architecture."""

from kmerge.matching.alignment import METHODS, align, average, match, match_score
from kmerge.matching.comparison import Comparison, compare
from kmerge.matching.paired_weights import Pair
from kmerge.matching.unit_correlation import concordances

__all__ = [
    "Comparison",
    "METHODS",
    "Pair",
    "align",
    "average",
    "compare",
    "concordances",
    "match",
    "match_score",
]
