"""Fusing two networks by optimal transport: each unit of the second becomes a weighted mean of its units."""

import keras
import numpy as np

import kmerge
from kmerge.checks import number
from kmerge.matching import Pair
from kmerge.pairing import paired_layers


def transport(model: keras.Model, other: keras.Model, regularization: float) -> keras.Model:
    """The other network, each of whose units is a weighted mean of its units: those that fit the place.

    Spaces are taken in the order in which the network makes them. The cost between two units is the squared distance
    of all weights that make or carry them and whose inputs are already transported; the plan between equal masses is
    Sinkhorn's. Without regularization it would be a permutation: `match(..., "transport")`.

    Args:
        model: gives the places.
        other: a model of the same architecture.
        regularization: weight of the plan's entropy, as a share of the largest cost.

    Returns:
        A new model. Unlike `align`'s, it does not compute what `other` computes.

    Reference:
        Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020, algorithm 1.
    """
    number("regularization", regularization, above=0)
    pair = Pair(model, other)
    settled: set[str] = set()
    for name in pair.uses:
        costs = pair.costs(name, settled)
        if costs.any():  # Otherwise nothing tells its units apart, and they stay.
            pair.move(name, sinkhorn(costs, regularization))
        settled.add(name)
    copy = kmerge.permute(other, {})
    layers = paired_layers(model, copy)
    for weight in pair.weights:
        layers[weight.path].weights[weight.index].assign(weight.b)
    for layer in layers.values():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return copy


def sinkhorn(costs: np.ndarray, regularization: float, iterations: int = 1000) -> np.ndarray:
    """The entropic transport plan between equal masses, scaled so that every row sums to one.

    Args:
        costs: shape `(units, units)`, from 0.
        regularization: weight of the plan's entropy, as a share of the largest cost; .002 at least, below which its
            exponentials underflow.
        iterations: at most.

    Returns:
        An array of the shape of `costs`: row i says how much of each unit comes to place i.

    Reference:
        Cuturi, Sinkhorn Distances, NeurIPS 2013.
    """
    number("regularization", regularization, least=0.002)
    kernel = np.exp(-costs / (regularization * (costs.max() or 1.0)))
    columns = np.ones(len(costs))
    for _ in range(iterations):
        rows = 1 / (kernel @ columns)
        before, columns = columns, 1 / (rows @ kernel)
        if np.max(np.abs(columns / before - 1)) < 1e-6:
            break
    plan = rows[:, None] * kernel * columns
    return plan / plan.sum(axis=1, keepdims=True)
