"""Whether two trained networks are worth merging."""

from collections.abc import Sequence

import numpy as np

# A curve of fewer epochs has no two halves of its first half.
FEWEST_EPOCHS = 4


def rise_per_doubling(curve: Sequence[float]) -> float:
    """What doubling the epochs still gave a network in the first half of its training, before its learning rate fell.

    Args:
        curve: validation metric after each epoch, at least `FEWEST_EPOCHS` of them.

    Returns:
        The mean over the second quarter of the epochs, less that over the second eighth, in the metric's unit.
    """
    marks = [round(len(curve) * share) for share in (1 / 8, 1 / 4, 1 / 2)]
    first, middle, last = marks[0], max(marks[1], marks[0] + 1), max(marks[2], marks[0] + 2)
    return float(np.mean(curve[middle:last]) - np.mean(curve[first:middle]))
