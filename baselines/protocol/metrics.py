"""The metrics of a task by their names, and what tables, claims and losses have to know of each.

This module does not import Keras; what computes them is in `outcomes` and `pixels`.
"""

from dataclasses import dataclass

# The label of pixels that count neither in a loss nor in a metric.
VOID = 255


@dataclass(frozen=True)
class Measure:
    """What is known of a metric.

    Attributes:
        higher_is_better: whether more of it is better.
        is_share: whether it lies from 0 to 1, and is written in percent.
        of_classes: whether targets are labels of classes, and outputs logits.
        of_pixels: whether each pixel has a label, `VOID` among them.
        margin: by how much less two strategies are said to be alike, where a suite does not say; None for no such claim.
    """

    higher_is_better: bool
    is_share: bool
    of_classes: bool
    of_pixels: bool
    margin: float | None


_SHARE = Measure(higher_is_better=True, is_share=True, of_classes=True, of_pixels=False, margin=0.01)
_OF_PIXELS = Measure(higher_is_better=True, is_share=True, of_classes=True, of_pixels=True, margin=0.01)
METRICS = {
    "accuracy": _SHARE,
    "mse": Measure(higher_is_better=False, is_share=False, of_classes=False, of_pixels=False, margin=None),
    "pixel_accuracy": _OF_PIXELS,
    "mean_iou": _OF_PIXELS,
}
