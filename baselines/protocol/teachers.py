"""Teachers that strategies share, and how a budget is split among several networks."""

from dataclasses import asdict, replace

import keras

import kmerge
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Stages, TrainingRecord
from baselines.protocol.task import Budget, Task
from kmerge.seeds import seed_of


def train_teacher(
    task: Task, budget: Budget, seed: int, number: int, stages: Stages, widen: int = 1
) -> tuple[keras.Model, TrainingRecord]:
    """One of the networks of a seed that strategies share, trained for `budget.teacher` epochs or taken from the cache.

    Where teachers have parts of the data, each has as many more epochs, so that it sees as many examples.

    Args:
        task: what to learn.
        budget: gives the epochs.
        seed: of the replicate.
        number: which teacher, from 0.
        stages: what to train with.
        widen: factor on its width; wider ones are called `wide_teacher_0`, ...

    Returns:
        The network, with the weights of the last epoch, and the record of its training.
    """
    label = f"teacher_{number}" if widen == 1 else f"wide_teacher_{number}"
    epochs = budget.teacher
    if task.parents is not None:
        task, epochs = _of_part(task, number, epochs)
    key = {
        **task.identity,
        "stage": "teacher",
        "number": number,
        "widen": widen,
        "seed": seed,
        "epochs": epochs,
        "phase": asdict(task.phases["teacher"]),
    }
    return stages.run(
        key,
        lambda: task.build(seed_of(label, seed), widen=widen),
        lambda model: train_phase(model, task, "teacher", epochs, seed, stages, label=label),
    )


def _of_part(task: Task, number: int, epochs: int) -> tuple[Task, int]:
    """The task with the training examples of that teacher alone, and its epochs, in which it sees as many as in all."""
    parents = task.parents
    rows = parents.part(number)
    part = replace(parents.data, x_train=parents.data.x_train[rows], y_train=parents.data.y_train[rows])
    identity = {**parents.identity, "part": parents.division}
    return replace(task, data=part, identity=identity), round(epochs * len(parents.data.x_train) / len(rows))


def shared_among(name: str, budget: Budget, networks: int, cuts: int) -> tuple[Budget, list[int], list[int]]:
    """The epochs of merging two networks, shared among more of them.

    Args:
        name: of the method, for errors.
        budget: for two networks.
        networks: how many there are.
        cuts: how often some of them become one.

    Returns:
        The budget in which each network has an equal part of two teachers' epochs; and for each cut, its epochs of gates
        and of fine-tuning. The last cut gets what does not divide evenly, and what the teachers leave.

    Raises:
        InvalidArgumentError: if a network or a cut would be left without an epoch.
    """
    each, over = divmod(2 * budget.teacher, networks)
    need = f"an epoch at least for each of {networks} networks, and of gates and fine-tuning for each of {cuts} cuts"
    enough = each > 0 and budget.gates >= cuts and budget.finetune + over >= cuts
    check_budget(name, enough, need, budget)
    return replace(budget, teacher=each), parted(budget.gates, cuts), parted(budget.finetune + over, cuts)


def parted(epochs: int, parts: int) -> list[int]:
    """Epochs in equal parts; the last gets what is left over."""
    part = epochs // parts
    return [part] * (parts - 1) + [epochs - part * (parts - 1)]


def check_budget(name: str, needed: bool, what: str, budget: Budget) -> None:
    """Refuses, before anything is trained, a budget that a method cannot be spent on.

    Args:
        name: of the method.
        needed: what must hold.
        what: what it needs, in words.
        budget: what there is.

    Raises:
        InvalidArgumentError: if it does not hold.
    """
    if not needed:
        raise kmerge.InvalidArgumentError(
            f"{name} needs {what}; received {budget}. Raise the epochs of the suite, or --scale."
        )
