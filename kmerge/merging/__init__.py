"""Merge models behind gates, and compress what comes of training to the size of one."""

from kmerge.merging.compressing import compress
from kmerge.merging.gate_placement import GatePlacement
from kmerge.merging.joining import gate, merge
from kmerge.merging.measuring import metrics_of
from kmerge.merging.outlook import FEWEST_EPOCHS, MergingOutlook, merging_outlook, rise_per_doubling
from kmerge.merging.pairwise import merge_pairwise
from kmerge.merging.records import Merged, holds_merge, read_merge
from kmerge.merging.report import MergeReport, merge_report

__all__ = [
    "FEWEST_EPOCHS",
    "GatePlacement",
    "MergeReport",
    "Merged",
    "MergingOutlook",
    "compress",
    "gate",
    "holds_merge",
    "merge",
    "merge_pairwise",
    "merge_report",
    "merging_outlook",
    "metrics_of",
    "read_merge",
    "rise_per_doubling",
]
