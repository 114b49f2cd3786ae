"""kmerge: merge, prune and resize the channels of Keras models."""

from kmerge.channels import ChannelSpace, ChannelSpaces, channel_spaces
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError, KmergeError, UnsupportedLayerError
from kmerge.gate_application import ApplyGates, FoldGates
from kmerge.gate_training import GateControl, GatePressure, gate_optimizer
from kmerge.gates import HardConcreteGate, gates_of
from kmerge.layer_rules import Rule, register_rule
from kmerge.layout import Plan
from kmerge.merging import MergeReport, compress, merge, merge_report
from kmerge.normalization import recalibrate
from kmerge.rewriting import rewrite
from kmerge.surgery import concatenate, grow, permute, select
from kmerge.training import fit, fit_many

__all__ = [
    "ApplyGates",
    "ArchitectureMismatchError",
    "ChannelSpace",
    "ChannelSpaces",
    "FoldGates",
    "GateControl",
    "GatePressure",
    "HardConcreteGate",
    "InvalidArgumentError",
    "KmergeError",
    "MergeReport",
    "Plan",
    "Rule",
    "UnsupportedLayerError",
    "channel_spaces",
    "compress",
    "concatenate",
    "fit",
    "fit_many",
    "gate_optimizer",
    "gates_of",
    "grow",
    "merge",
    "merge_report",
    "permute",
    "recalibrate",
    "register_rule",
    "rewrite",
    "select",
]
