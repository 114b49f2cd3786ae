"""What a suite says of two parents that know different things, and of the few examples that are there after them.

This module imports neither Keras nor data until `divided` is called.
"""

from typing import TYPE_CHECKING

from baselines.protocol.task import Task
from benchmarks.command_line import refusal
from benchmarks.data import datasets
from benchmarks.suites.checks import SuiteError

if TYPE_CHECKING:
    from benchmarks.suites.suite import Suite


def divided(suite: "Suite", task: Task, dataset: datasets.Dataset, seed: int, examples: int | None) -> Task:
    """The task, its training examples shared among two teachers where the suite says so.

    Args:
        suite: with a table [parents], or `teacher_data`, or neither.
        task: with all training examples.
        dataset: that of the task.
        seed: of the replicate.
        examples: how many labelled ones there are after the teachers; None for what the table says.

    Raises:
        SuiteError: if there are too few for a parent or of a class.
    """
    from benchmarks.data.parents import with_parents

    table = suite.definition.get("parents")
    if table is None:
        is_whole = suite.definition.get("teacher_data", "all") == "all"
        return task if is_whole else with_parents(task, dataset, {"by": "halves"}, None, seed)
    division = {"by": table["by"]} | ({"overlap": table.get("overlap", 0.0)} if table["by"] == "classes" else {})
    few = table.get("few") if examples is None else _few(suite, examples)
    try:
        return with_parents(task, dataset, division, few, seed)
    except ValueError as error:
        raise SuiteError(f"suite {suite.name}, [parents]: {error}") from error


def check_examples(suite: "Suite", examples: int | None) -> None:
    """Refuse, before a run begins, a number of examples that the suite's task cannot have.

    Args:
        suite: any.
        examples: as for `Suite.task`.

    Raises:
        ValueError: if there are fewer, or with a table [parents], if they are not as many of each class.
    """
    if examples is None or "parents" not in suite.definition:
        datasets.check_examples(suite.dataset, examples, suite.folds)
    else:
        _few(suite, examples)


def _few(suite: "Suite", examples: int) -> int | None:
    """How many of each class so many examples are; None where they are all."""
    asked, classes = suite.definition["parents"].get("examples"), datasets.IMAGES[suite.dataset].classes
    whole = datasets.check_examples(suite.dataset, asked, suite.folds)
    if examples == whole:
        return None
    if examples > whole or examples % classes:
        expected = f"a multiple of the {classes} classes below {whole}, or all {whole}"
        raise SuiteError(f"examples of suite {suite.name}: {refusal(expected, examples)}")
    return examples // classes
