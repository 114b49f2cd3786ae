"""From a plan to a new model: the only writer of weights, and the verbs that write plans."""

from kmerge.surgery.building import Gating, build
from kmerge.surgery.constant_units import fold_constants
from kmerge.surgery.filling import Source, constants_of, fill
from kmerge.surgery.layout import Layout, Placed, weight_axes
from kmerge.surgery.new_units import QuickFresh
from kmerge.surgery.plan import COMMON, NEW, Plan
from kmerge.surgery.rewriting import check_all_finite, check_finite, for_surgery, model_source, rewrite, verify
from kmerge.surgery.verbs import (
    CommonWidths,
    at_common_widths,
    by_space,
    check_models,
    concatenate,
    grow,
    listed,
    needs_copies,
    needs_mean,
    permute,
    select,
    select_walked,
)

__all__ = [
    "COMMON",
    "CommonWidths",
    "Gating",
    "Layout",
    "NEW",
    "Placed",
    "Plan",
    "QuickFresh",
    "Source",
    "at_common_widths",
    "build",
    "by_space",
    "check_all_finite",
    "check_finite",
    "check_models",
    "concatenate",
    "constants_of",
    "fill",
    "fold_constants",
    "for_surgery",
    "grow",
    "listed",
    "model_source",
    "needs_copies",
    "needs_mean",
    "permute",
    "rewrite",
    "select",
    "select_walked",
    "verify",
    "weight_axes",
]
