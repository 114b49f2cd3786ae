"""Scores of units for the strategies that cut without gates."""

import keras
import numpy as np

import kmerge
from baselines.protocol.outcomes import training_flops
from baselines.protocol.task import Task
from kmerge.checks import one_of
from kmerge.pruning import METHODS
from kmerge.seeds import rng_of

# Training examples on which importance by gradients is measured.
_SCORED_EXAMPLES = 2_000


def check_importance(model: keras.Model, importance: str) -> None:
    """Refuses, before anything is trained, an importance that does not score every unit that may go.

    Args:
        model: a network of the architecture that is to be cut.
        importance: as for `score_units`.

    Raises:
        InvalidArgumentError: if there is no such importance, or it has no scores for some of the spaces.
    """
    one_of("importance", importance, [method for method in METHODS if method != "gates"])
    if importance == "taylor":
        return  # scores every space, but only of a compiled network
    spaces = {space.name for space in kmerge.channel_spaces(model).selectable}
    missing = spaces - set(kmerge.unit_importance(model, importance))
    if missing:
        raise kmerge.InvalidArgumentError(
            f"Importance {importance!r} has no scores for the spaces {sorted(missing)} of {model.name!r}, so they cannot "
            "be cut. Take another importance."
        )


def score_units(model: keras.Model, task: Task, importance: str, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Scores of a network's units, where they need data from a part of the training data.

    Args:
        model: the network; for "taylor" it is compiled with the task's loss.
        task: gives data and loss.
        importance: a method of `kmerge.unit_importance` other than "gates".
        seed: of the part of the data, and of "random".

    Returns:
        The scores by space, and the operations of training that they cost.
    """
    if importance != "taylor":
        return kmerge.unit_importance(model, importance, seed=seed), 0.0
    x, y = task.data.inputs, task.data.y_train
    chosen = np.sort(rng_of("scored", seed).permutation(len(x))[:_SCORED_EXAMPLES])
    model.compile(loss=task.loss())
    scores = kmerge.unit_importance(model, "taylor", (x[chosen], y[chosen]), batch_size=task.phases["gates"].batch_size)
    return scores, training_flops(model, task, epochs=1) * len(chosen) / len(x)
