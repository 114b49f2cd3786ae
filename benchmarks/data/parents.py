"""Which training examples each of two parents has, and the few that are there for whatever comes after them.

    by = "classes", ten of them, overlap .2       by = "domains"           by = "halves"
    parent 0   0 3 4 8 | 1 6                      upright images           half of the examples
    parent 1           | 1 6 | 2 5 7 9            rotated images           the others

The seed draws the classes, the halves and the few. The few are the same number of each class, and the fewer are among the
more: of two and five a class, the two are among the five. They are repeated to the number of all training examples, so an
epoch has the same steps for any number of them, and nothing is compiled anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from baselines.protocol.task import Parents, Task
from benchmarks.data.datasets import Dataset
from kmerge.seeds import rng_of

PARENTS = 2


def with_parents(task: Task, dataset: Dataset, division: Mapping[str, Any], few: int | None, seed: int) -> Task:
    """A task whose teachers have a part of the training examples each, and whatever comes after them a few of each class.

    Args:
        task: with all training examples.
        dataset: that of the task.
        division: `by`, a key of `DIVISIONS`, and what else the division depends on.
        few: how many examples of each class; None for all that there are.
        seed: of the replicate.

    Raises:
        ValueError: if a class has fewer examples, or a parent would have none.
    """
    rows = DIVISIONS[division["by"]](dataset, division, seed)
    if not all(len(part) for part in rows):
        raise ValueError("A parent has no training examples. Use more of them.")
    parents = Parents(task.data, rows, task.identity, division, len(task.data.x_train))
    if few is None:
        return replace(task, parents=parents)
    chosen = few_of(task.data.y_train, dataset.outputs, few, seed)
    repeated = np.resize(chosen, len(task.data.x_train))
    data = replace(task.data, x_train=task.data.x_train[repeated], y_train=task.data.y_train[repeated])
    return replace(
        task,
        data=data,
        identity={**task.identity, "few": few, "seed of the few": seed},
        parents=replace(parents, labelled=len(chosen)),
    )


def few_of(labels: np.ndarray, classes: int, few: int, seed: int) -> np.ndarray:
    """Indices of so many examples of each class: first one of each class, then another of each, and so on."""
    order = rng_of("few examples", seed).permutation(len(labels))
    found = [order[labels[order] == label] for label in range(classes)]
    least = min(range(classes), key=lambda label: len(found[label]))
    if len(found[least]) < few:
        raise ValueError(
            f"Class {least} has {len(found[least])} training examples; asked for {few} of each class. Ask for fewer."
        )
    return np.stack([rows[:few] for rows in found], axis=1).ravel()


def classes_of(classes: int, overlap: float, seed: int) -> list[np.ndarray]:
    """The classes that each of two parents knows: that share of all classes both, half of the others each."""
    order, shared = rng_of("classes of parents", seed).permutation(classes), round(overlap * classes)
    both, others = order[:shared], order[shared:]
    return [np.concatenate([both, others[number::PARENTS]]) for number in range(PARENTS)]


def _by_classes(dataset: Dataset, division: Mapping[str, Any], seed: int) -> list[np.ndarray]:
    known = classes_of(dataset.outputs, division["overlap"], seed)
    return [np.flatnonzero(np.isin(dataset.data.y_train, classes)) for classes in known]


def _by_domains(dataset: Dataset, division: Mapping[str, Any], seed: int) -> list[np.ndarray]:
    return [np.flatnonzero(dataset.domains == number) for number in range(PARENTS)]


def _by_halves(dataset: Dataset, division: Mapping[str, Any], seed: int) -> list[np.ndarray]:
    order = rng_of("teacher data", seed).permutation(len(dataset.data.x_train))
    return [order[number::PARENTS] for number in range(PARENTS)]


DIVISIONS: dict[str, Callable[[Dataset, Mapping[str, Any], int], list[np.ndarray]]] = {
    "classes": _by_classes,
    "domains": _by_domains,
    "halves": _by_halves,
}
