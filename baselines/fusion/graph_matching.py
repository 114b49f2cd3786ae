"""Matching the units of two networks as two graphs: units are nodes, weights are edges; all spaces are solved at once.

A network is a graph whose nodes are its units and whose edges are the weights between them. To match two networks is to
find an order of the second's units in which edges agree: a quadratic assignment problem, in which every channel space has
a permutation X of its own. With the spaces s and t on the two axes of a weight, A in the first network and B in the second,

    score = sum over weights of <A, X_s B X_t'>,    gradient for X_s = sum over weights of A (B X_t')'

Graduated assignment (Gold and Rangarajan, 1996) lets every X be doubly stochastic, takes for each space in turn the
Sinkhorn projection of exp(gradient / temperature), lowers the temperature, and ends with the Hungarian method. Sinkhorn's
and the Hungarian method are those of the library pygmtools, on its NumPy backend.

Reference: Liu et al., Deep Neural Network Fusion via Graph Matching with Applications to Model Ensemble and Federated
Learning (GAMF), ICML 2022.

What differs. The affinity of two edges is their product, so that a space's gradient is a product of weights, in pieces, as
in `paired_weights`: nothing as large as the square of (units x units) is made, nor anything larger than a weight or
the widest space squared. The paper's is exp(-distance), which has no such form. So the score here is that of weight matching
in `alignment`; only the way to its maximum differs. Spaces take turns in the order in which the network makes them, from
the uniform X; the authors' code updates all of them together, from a random start, cools more slowly, and goes on with the
Hungarian method until nothing changes, which ours does not. Biases, BatchNormalization's scales and offsets, and residual
streams count too. What scores less than the units as they stand is not taken. Two networks, not several.
"""

import importlib.util

import keras
import numpy as np

from kmerge import InvalidArgumentError
from kmerge.matching import Pair

# Temperatures, as shares of what a unit's match with itself is worth: the mean norm of both networks' units, multiplied.
_WARMEST, _COLDEST, _COOLING = 0.1, 0.002, 0.7
_SWEEPS, _SINKHORN_STEPS = 2, 50
# As for coordinate descent: a gain below this share is rounding, and units stay.
_TOLERANCE = 1e-5


def check_solver() -> None:
    """Raises `InvalidArgumentError`, with the command that helps, if pygmtools is not installed."""
    if importlib.util.find_spec("pygmtools") is None:
        raise InvalidArgumentError("Graph matching needs the package pygmtools. Run: pip install 'kmerge[benchmarks]'.")


def match_graphs(model: keras.Model, other: keras.Model) -> dict[str, np.ndarray]:
    """Finds the order of another network's units in which the edges of both graphs agree best.

    Args:
        model: a Functional or Sequential model.
        other: a model of the same architecture. Neither is changed.

    Returns:
        For each selectable space of `model` a permutation, as `matching.align` takes it. The score of the match is never
        below that of the units as they stand.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        InvalidArgumentError: for weights that are not finite, or without pygmtools.
    """
    check_solver()
    pair = Pair(model, other)
    soft = {name: np.full((len(order),) * 2, 1 / len(order)) for name, order in pair.order.items()}
    scales = {name: pair.scale(name) for name in soft}
    temperature = _WARMEST
    while temperature >= _COLDEST:
        for _ in range(_SWEEPS):
            for name in soft:
                soft[name] = _projected(pair.pull(name, soft), scales[name] * temperature)
        temperature *= _COOLING
    before = pair.score()
    for name, plan in soft.items():
        pair.move(name, _hardened(plan))
    if pair.score() - before <= _TOLERANCE * abs(before):
        return Pair(model, other).order
    return pair.order


def _projected(gradient: np.ndarray, temperature: float) -> np.ndarray:
    """The doubly stochastic matrix of a gradient at a temperature."""
    import pygmtools

    scores = gradient / temperature if temperature > 0 else np.zeros_like(gradient)
    return pygmtools.sinkhorn(scores, max_iter=_SINKHORN_STEPS, backend="numpy")


def _hardened(plan: np.ndarray) -> np.ndarray:
    """The permutation nearest to a doubly stochastic matrix: which unit comes to each place."""
    import pygmtools

    # Where rows are alike, units stay where they are.
    return pygmtools.hungarian(plan + 1e-9 * np.eye(len(plan)), backend="numpy").argmax(axis=1)
