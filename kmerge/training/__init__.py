"""`fit`: an epoch as one compiled program, and BatchNormalization's statistics. The only backend-specific folder."""

from kmerge.training.arguments import held_out, weighted_by_class
from kmerge.training.augmentation import WithMasks
from kmerge.training.backend import build_state, choose_xla, loss_gradients
from kmerge.training.checks import (
    arrays_of,
    check_augment,
    check_data,
    check_options,
    is_array,
    listed_callbacks,
)
from kmerge.training.fitting import Arrays, ModelFitWarning, fit, fit_many
from kmerge.training.loop import DeviceMemoryError, EpochPlan
from kmerge.training.programs import PACKED_CHANNELS, PROGRAMS
from kmerge.training.recalibration import recalibrate

__all__ = [
    "Arrays",
    "DeviceMemoryError",
    "EpochPlan",
    "ModelFitWarning",
    "PACKED_CHANNELS",
    "PROGRAMS",
    "WithMasks",
    "arrays_of",
    "build_state",
    "check_augment",
    "check_data",
    "check_options",
    "choose_xla",
    "fit",
    "fit_many",
    "held_out",
    "is_array",
    "listed_callbacks",
    "loss_gradients",
    "recalibrate",
    "weighted_by_class",
]
