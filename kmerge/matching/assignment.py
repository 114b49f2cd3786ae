"""The assignment of units to places, which is SciPy's."""

import numpy as np


def assigned(similarity: np.ndarray) -> np.ndarray:
    """The order of units that makes the sum of similarities largest.

    Args:
        similarity: shape `(places, units)`, square.

    Returns:
        An array of shape `(places,)`: the number of the unit in each place.
    """
    from scipy.optimize import linear_sum_assignment  # only matching needs SciPy

    return linear_sum_assignment(similarity, maximize=True)[1]
