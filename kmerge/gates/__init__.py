"""What a gate is, where it acts on the layers that mix its units, and what drives it while it trains."""

from kmerge.gates.application import ApplyGates, FoldGates, LookUpGates, gated_layer
from kmerge.gates.attention import GatedGroupedQueryAttention, GatedMultiHeadAttention
from kmerge.gates.hard_concrete import BETA, DECIDED, GAMMA, GATE_WEIGHT, SAMPLINGS, ZETA, HardConcreteGate, gates_of
from kmerge.gates.monitoring import AfterFade, batch_hook
from kmerge.gates.normalization import GatedLayerNormalization, GatedRMSNormalization, GatedUnitNormalization
from kmerge.gates.optimizer import GateOptimizer, gate_optimizer, optimizer_of, plain_optimizer
from kmerge.gates.pressure import FadeControl, GateControl, GatePressure, LagrangianControl, PaperControl
from kmerge.gates.recurrent import GATED_RECURRENT, cells_of, runs_of, width_of

__all__ = [
    "AfterFade",
    "ApplyGates",
    "BETA",
    "DECIDED",
    "FadeControl",
    "FoldGates",
    "GAMMA",
    "GATED_RECURRENT",
    "GATE_WEIGHT",
    "GateControl",
    "GateOptimizer",
    "GatePressure",
    "GatedGroupedQueryAttention",
    "GatedLayerNormalization",
    "GatedMultiHeadAttention",
    "GatedRMSNormalization",
    "GatedUnitNormalization",
    "HardConcreteGate",
    "LagrangianControl",
    "LookUpGates",
    "PaperControl",
    "SAMPLINGS",
    "ZETA",
    "batch_hook",
    "cells_of",
    "gate_optimizer",
    "gated_layer",
    "gates_of",
    "optimizer_of",
    "plain_optimizer",
    "runs_of",
    "width_of",
]
