"""Aligning two networks of one architecture: which unit of the second corresponds to which unit of the first.

Two trained networks may compute much the same with their units in another order. Their plain mean then mixes units that
have nothing to do with each other. With four channels,

    order = match(model, other)             {"conv": [2 0 3 1]}: unit 2 of the other's `conv` belongs in place 0, ...
    aligned = align(model, other, order)    computes what `other` computes
    fused = average(model, aligned)         a plain model of the same architecture

Everything is derived from the channel spaces: a space knows all axes of all weights along which its units lie, so biases,
BatchNormalization, shared layers, nested models and residual streams need no code of their own.
"""

from typing import Any

import keras
import numpy as np

from kmerge.checks import one_of
from kmerge.errors import InvalidArgumentError
from kmerge.matching.assignment import assigned
from kmerge.matching.paired_weights import Pair
from kmerge.matching.unit_correlation import correlations
from kmerge.seeds import rng_of
from kmerge.spaces import channel_spaces
from kmerge.surgery import Plan, permute, rewrite

METHODS = ("weights", "activations", "transport")


def match(
    model: keras.Model,
    other: keras.Model,
    method: str = "weights",
    data: Any = None,
    *,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Finds the order of another network's units that fits a network best.

    Args:
        model: a Functional or Sequential model.
        other: a model of the same architecture. Neither is changed.
        method: "weights": coordinate descent on the inner product of all weights. "activations": the correlation of
            units where layers read them, on data. "transport": one pass over the spaces in the order in which the
            network makes them, on the weights that are already aligned.
        data: for "activations" alone: inputs, whatever `model.evaluate` takes.
        seed: for "weights": of the order in which spaces take turns.

    Returns:
        For each selectable space of `model` a permutation, as `kmerge.permute(other, ...)` takes it if spaces are
        named alike, and `align` in any case: unit `order[i]` of `other` corresponds to unit i.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        InvalidArgumentError: for an unknown method, weights that are not finite, missing or unusable data.

    Reference:
        Ainsworth et al., Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR 2023, sections 3.1 and 3.2.
        Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020.
    """
    one_of("method", method, METHODS)
    if (data is not None) != (method == "activations"):
        what = "needs data" if data is None else "takes no data; only 'activations' does"
        raise InvalidArgumentError(f"Matching by {method!r} {what}.")
    pair = Pair(model, other)
    if method == "activations":
        match_activations(pair, correlations(pair.walked, (model, other), data))
        return pair.order
    before = pair.score()
    pair.settle()
    if method == "transport":
        return pair.order
    if pair.score() < before:
        pair = Pair(model, other)  # The networks were better aligned as they came.
    pair.descend(rng_of("match", seed))
    return pair.order


def align(model: keras.Model, other: keras.Model, order: dict[str, np.ndarray]) -> keras.Model:
    """The other network with its units in a new order; its outputs stay the same.

    Args:
        model: names the spaces.
        other: a model of the same architecture, whose layers may have other names.
        order: a permutation for each space, as `match` gives it.

    Returns:
        A new model.
    """
    names = dict(zip(channel_spaces(model), channel_spaces(other), strict=True))
    return permute(other, {names[space]: permutation for space, permutation in order.items()})


def average(model: keras.Model, other: keras.Model) -> keras.Model:
    """The mean of two networks, weight by weight.

    Args:
        model: gives structure and names.
        other: a model of the same architecture.

    Returns:
        A new, uncompiled model.

    Raises:
        ArchitectureMismatchError: names the first layer that differs, also if it holds constants, one for each unit, that
            were reordered with the units: constants cannot be averaged.
        InvalidArgumentError: names a weight that no rule describes and in which the networks differ.
    """
    return rewrite(model, [model, other], Plan(2, {}))


def match_score(model: keras.Model, other: keras.Model) -> float:
    """How alike the weights of two networks are as they stand: the cosine between them, running statistics left out.

    Args:
        model: a network.
        other: another one of the same architecture.

    Returns:
        A number from -1 to 1. Of all orders of `other`, the one of the highest score is nearest to `model`.
    """
    return Pair(model, other).cosine()


def match_activations(pair: Pair, found: dict[str, np.ndarray]) -> None:
    """Moves the units of a pair's second network to those of the first with which they correlate most."""
    for name, correlation in found.items():
        # Units that never change are alike to all; the bonus leaves them where they are.
        bonus = 1e-9 * np.eye(len(correlation))
        pair.move(name, assigned(correlation + bonus))
    for name in [name for name in pair.uses if name not in found]:
        pair.improve(name)  # Heads, which no tensor shows: by their weights, once all others are in their places.
