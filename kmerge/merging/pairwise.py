"""Merging many models in a tree of pairs, so that the width never exceeds twice the target."""

from collections.abc import Callable

import keras

from kmerge.checks import function, in_our_words, sentence
from kmerge.checks import seed as check_seed
from kmerge.errors import InvalidArgumentError
from kmerge.merging.joining import merge
from kmerge.seeds import seed_of
from kmerge.surgery import check_models, listed


def merge_pairwise(
    *models: keras.Model,
    train: Callable[[keras.Model], keras.Model],
    gates: str | float = "paper",
    sampling: str = "example",
    seed: int = 0,
) -> keras.Model:
    """Merges many models two at a time, so that no big student is wider than two of them.

    Neighbours are merged and trained, then what came of them, and so on; an odd one out waits for the next round.

    Args:
        *models: two or more models of one architecture, or one list of them.
        train: `train(big)` trains the big student of a pair and returns what is to be merged next: as a rule
            `compress(big)`, trained on.
        gates: start of the gates: "paper", "open" or the mean of `loc`, see `merge`.
        sampling: "example" for gates drawn for each example (paper), "batch" for one draw per batch.
        seed: seed of the gates' start and noise; every pair has one of its own, made from it.

    Returns:
        What `train` returned for the last pair.

    Raises:
        ArchitectureMismatchError: names the first layer that differs, also where `train` changed the architecture.
        InvalidArgumentError: for fewer than two models, or if `train` returns no model.

    Example:
        >>> def train(big):
        ...     # compile it with gate_optimizer, fit it with GatePressure, then:
        ...     return kmerge.compress(big)
        >>> student = kmerge.merge_pairwise(model, other, model, train=train)
        >>> student.count_params() == model.count_params()
        True
    """
    function("train", train)
    check_seed("seed", seed)
    models = listed(models)
    check_models(models)
    left, number = list(models), 0
    while len(left) > 1:
        merged = []
        for i in range(0, len(left) - 1, 2):
            big = merge(*left[i : i + 2], gates=gates, sampling=sampling, seed=seed_of("pair", seed, number))
            with in_our_words("train to be a function of a big student", train):
                merged.append(train(big))
            number += 1
            if not isinstance(merged[-1], keras.Model):
                expected = "train to return the model to merge next, such as kmerge.compress(big)"
                raise InvalidArgumentError(sentence(expected, merged[-1]))
        left = merged + left[2 * len(merged) :]
    return left[0]
