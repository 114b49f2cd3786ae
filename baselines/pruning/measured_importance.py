"""The importance of units for the strategies that cut without gates."""

import keras
import numpy as np

import kmerge
from baselines.protocol.outcomes import training_flops
from baselines.protocol.task import Task
from kmerge.checks import one_of, sentence
from kmerge.pruning import IMPORTANCES, MEASURED
from kmerge.seeds import rng_of

# Training examples on which importance by gradients is measured.
_EXAMPLES = 2_000


def check_importance(model: keras.Model, importance: str) -> None:
    """Refuses, before anything is trained, an importance that does not rank every unit that may go.

    Args:
        model: a network of the architecture that is to be cut.
        importance: as for `measure_importance`.

    Raises:
        InvalidArgumentError: if there is no such importance, or units of some spaces have none.
    """
    one_of("importance", importance, [name for name in IMPORTANCES if name != "gates"])
    if importance in MEASURED:
        return  # ranks the units of every space, but only of a compiled network
    spaces = {space.name for space in kmerge.channel_spaces(model).selectable}
    missing = spaces - set(kmerge.unit_importance(model, importance))
    if missing:
        what = f"importance to rank the units of all spaces of {model.name!r}"
        do = f"It does not rank those of {sorted(missing)}, which cannot be cut by it: take another importance."
        raise kmerge.InvalidArgumentError(sentence(what, importance, do))


def measure_importance(model: keras.Model, task: Task, importance: str, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """The importance of a network's units; where it needs data, from a part of the training data.

    Args:
        model: the network; for "taylor" and "hessian" it is compiled with the task's loss.
        task: gives data and loss.
        importance: one of those of `kmerge.unit_importance` other than "gates".
        seed: of the part of the data, and of "random".

    Returns:
        The importance of units by space, and the operations of training that it costs.
    """
    if importance not in MEASURED:
        return kmerge.unit_importance(model, importance, seed=seed), 0.0
    x, y = task.data.inputs, task.data.y_train
    chosen = np.sort(rng_of("scored", seed).permutation(len(x))[:_EXAMPLES])
    model.compile(loss=task.loss())
    found = kmerge.unit_importance(model, importance, (x[chosen], y[chosen]), batch_size=task.phases["gates"].batch_size)
    return found, training_flops(model, task, epochs=1) * len(chosen) / len(x)
