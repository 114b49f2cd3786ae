"""kmerge: merge, prune and resize the channels of Keras models."""

from kmerge import regularizers
from kmerge.costs import Budget, latency, multiply_accumulates, parameters, saved_bytes
from kmerge.drawing import Drawing, Explanation, LayerShare, SpaceExplanation, explain, plot
from kmerge.errors import (
    ArchitectureMismatchError,
    InvalidArgumentError,
    KmergeError,
    OpenedLayerWarning,
    UnfollowedLayerWarning,
    UnsupportedLayerError,
)
from kmerge.gates import (
    ApplyGates,
    FadeControl,
    FoldGates,
    GateControl,
    GateOptimizer,
    GatePressure,
    HardConcreteGate,
    LagrangianControl,
    PaperControl,
    gate_optimizer,
    gates_of,
)
from kmerge.merging import MergeReport, compress, gate, merge, merge_pairwise, merge_report
from kmerge.opening import functional
from kmerge.pruning import UnitChoice, choose_units, prune, unit_importance
from kmerge.rules import OpaqueRule, Rule, Site, channel, consumes, produces, register_rule
from kmerge.sizing import AutoSizer, SizingWarning
from kmerge.spaces import ChannelSpace, ChannelSpaces, channel_spaces, strict
from kmerge.surgery import COMMON, NEW, Plan, concatenate, grow, permute, rewrite, select
from kmerge.training import DeviceMemoryError, ModelFitWarning, fit, fit_many, recalibrate
from kmerge.version import __version__

__all__ = [
    "ApplyGates",
    "ArchitectureMismatchError",
    "AutoSizer",
    "Budget",
    "COMMON",
    "ChannelSpace",
    "ChannelSpaces",
    "DeviceMemoryError",
    "Drawing",
    "Explanation",
    "FadeControl",
    "FoldGates",
    "GateControl",
    "GateOptimizer",
    "GatePressure",
    "HardConcreteGate",
    "InvalidArgumentError",
    "KmergeError",
    "LagrangianControl",
    "LayerShare",
    "MergeReport",
    "ModelFitWarning",
    "NEW",
    "OpaqueRule",
    "OpenedLayerWarning",
    "PaperControl",
    "Plan",
    "Rule",
    "Site",
    "SizingWarning",
    "SpaceExplanation",
    "UnfollowedLayerWarning",
    "UnitChoice",
    "UnsupportedLayerError",
    "__version__",
    "channel",
    "channel_spaces",
    "choose_units",
    "compress",
    "concatenate",
    "consumes",
    "explain",
    "fit",
    "fit_many",
    "functional",
    "gate",
    "gate_optimizer",
    "gates_of",
    "grow",
    "latency",
    "merge",
    "merge_pairwise",
    "merge_report",
    "multiply_accumulates",
    "parameters",
    "permute",
    "plot",
    "produces",
    "prune",
    "recalibrate",
    "register_rule",
    "regularizers",
    "rewrite",
    "saved_bytes",
    "select",
    "strict",
    "unit_importance",
]
