"""What each layer and operation does to the units of its inputs, one small rule each; users register their own."""

from kmerge.rules.attention import einsum_letters
from kmerge.rules.elementwise import is_behind_logits, is_elementwise
from kmerge.rules.kernels import KERNEL_LAYERS
from kmerge.rules.labels import Axis, Labels, channel_axis, match, occurrences, positions_of, stretches
from kmerge.rules.lookup import REGISTER, has_rule, rule_for, rule_or_reason
from kmerge.rules.opaque import OpaqueRule
from kmerge.rules.rule import Rule, channel, consumes, produces, register_rule
from kmerge.rules.shapes import gather, moves_batch
from kmerge.rules.signs import makes_no_negative
from kmerge.rules.site import Site

__all__ = [
    "Axis",
    "KERNEL_LAYERS",
    "Labels",
    "OpaqueRule",
    "REGISTER",
    "Rule",
    "Site",
    "channel",
    "channel_axis",
    "consumes",
    "einsum_letters",
    "gather",
    "has_rule",
    "is_behind_logits",
    "is_elementwise",
    "makes_no_negative",
    "match",
    "moves_batch",
    "occurrences",
    "positions_of",
    "produces",
    "register_rule",
    "rule_for",
    "rule_or_reason",
    "stretches",
]
