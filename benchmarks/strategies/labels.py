"""How tables and figures name a strategy, and which paper its method is of.

The file of a strategy says so in a constant, for each name under which `benchmarks.strategies.registry` lists it:

    LABELS = {"magnitude_merge": ("Magnitude merging", "oez2024")}

a readable label, and a key of `benchmarks/reports/methods.bib`, or None for what no paper describes. It is read without an
import of the file, so that tables need no Keras.
"""

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from benchmarks.strategies.registry import STRATEGIES

CONSTANT = "LABELS"


def label_of(strategy: str) -> str:
    """The label of a strategy; its name for one whose file gives none, or that is not registered.

    Example:
        >>> label_of("one_model_equal_compute")
        'One model, equal compute'
    """
    return _entry(strategy)[0]


def citation_of(strategy: str) -> str | None:
    """The key of the paper that a strategy is of; None where there is none.

    Example:
        >>> citation_of("magnitude_merge")
        'oez2024'
    """
    return _entry(strategy)[1]


def _entry(strategy: str) -> tuple[str, str | None]:
    if strategy not in STRATEGIES:
        return strategy, None
    return _labels_in(STRATEGIES.source(strategy)[0]).get(strategy, (strategy, None))


@functools.cache
def _labels_in(module: str) -> Mapping[str, tuple[str, str | None]]:
    """What the constant of a module says, read from its source; nothing where it has none."""
    found = importlib.util.find_spec(module)
    source = Path(found.origin).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == CONSTANT for target in node.targets):
            return ast.literal_eval(node.value)
    return {}
