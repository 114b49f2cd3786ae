"""What a suite says of two parents that know different things, and of the few examples that are there after them.

This module imports neither Keras nor data until `divided` is called.
"""

from collections.abc import Mapping
from typing import Any

from baselines.protocol.task import Task
from benchmarks.command_line import refusal
from benchmarks.data import datasets
from benchmarks.data.own_data import is_own
from benchmarks.suites.values import SuiteError


def divided(
    task: Task,
    dataset: datasets.Dataset,
    definition: Mapping[str, Any],
    seed: int,
    examples: int | None,
    folds: int | None,
) -> Task:
    """The task, its training examples shared among two teachers where its suite says so.

    Args:
        task: with all training examples.
        dataset: that of the task.
        definition: of the suite: with a table [parents], or `teacher_data`, or neither.
        seed: of the replicate.
        examples: how many labelled ones there are after the teachers; None for what the table says.
        folds: of cross-validation.

    Raises:
        SuiteError: if there are too few for a parent or of a class.
    """
    from benchmarks.data.parents import with_parents

    table = definition.get("parents")
    if table is None:
        is_whole = definition.get("teacher_data", "all") == "all"
        return task if is_whole else with_parents(task, dataset, {"by": "halves"}, None, seed)
    division = {"by": table["by"]} | ({"overlap": table.get("overlap", 0.0)} if table["by"] == "classes" else {})
    few = table.get("few") if examples is None else _few(definition, examples, folds)
    try:
        return with_parents(task, dataset, division, few, seed)
    except ValueError as error:
        raise SuiteError(f"suite {task.name}, [parents]: {error}") from error


def check_examples(definition: Mapping[str, Any], examples: int | None, folds: int | None) -> None:
    """Refuse, before a run begins, a number of examples that the task of a suite cannot have.

    Args:
        definition: of the suite.
        examples: as for `Suite.task`.
        folds: of cross-validation.

    Raises:
        ValueError: if there are fewer, or with a table [parents], if they are not as many of each class.
    """
    if is_own(definition["dataset"]):
        return  # how many there are shows when they are loaded
    if examples is None or "parents" not in definition:
        datasets.check_examples(definition["dataset"], examples, folds)
    else:
        _few(definition, examples, folds)


def _few(definition: Mapping[str, Any], examples: int, folds: int | None) -> int | None:
    """How many of each class so many examples are; None where they are all."""
    name, asked = definition["dataset"], definition["parents"].get("examples")
    whole, classes = datasets.check_examples(name, asked, folds), datasets.IMAGES[name].classes
    if examples == whole:
        return None
    if examples > whole or examples % classes:
        raise SuiteError(refusal(f"a multiple of the {classes} classes below {whole}, or all {whole}", examples))
    return examples // classes
