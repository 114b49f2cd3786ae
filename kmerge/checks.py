"""Checks of arguments, and the one sentence in which all of them refuse: expected ..., received ..., do ...

    whole_number("batch_size", 0)
    InvalidArgumentError: Expected batch_size to be a whole number of at least 1, received 0.

    number("alpha", -1, above=0, of="AutoSizer", do="Use fit for no penalty.")
    InvalidArgumentError: AutoSizer: expected alpha to be a number above 0, received -1. Use fit for no penalty.
"""

import math
import operator
import sys
import warnings
from collections.abc import Collection
from typing import Any, NoReturn

import numpy as np

from kmerge.errors import InvalidArgumentError


def sentence(what: str, received: object, do: str = "", of: str = "") -> str:
    """The sentence of a refusal.

    Args:
        what: what was expected, as in "batch_size to be a whole number of at least 1".
        received: the value that came instead; of an array, only its shape and type are shown.
        do: a sentence with what to do, where it is not plain from what was expected.
        of: the class, function or space that refuses, where the name of the argument does not tell.
    """
    start = f"{of}: expected" if of else "Expected"
    return f"{start} {what}, received {_shown(received)}." + (f" {do}" if do else "")


def refuse(name: str, expected: str, received: object, do: str = "", of: str = "") -> NoReturn:
    """Raises: expected the argument of this name to be so, received another value; see `sentence`."""
    raise InvalidArgumentError(sentence(f"{name} to be {expected}", received, do, of))


def is_whole_number(value: object) -> bool:
    """Whether it is an integer, Python's or NumPy's, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite real number, Python's or NumPy's, and not a bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and math.isfinite(value)


def whole_number(name: str, value: Any, least: int = 1, *, optional: bool = False, do: str = "", of: str = "") -> Any:
    """The value, if it is a whole number of at least `least`, or where that is allowed None."""
    if (optional and value is None) or (is_whole_number(value) and value >= least):
        return value
    refuse(name, f"a whole number of at least {least}" + (" or None" if optional else ""), value, do, of)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    optional: bool = False,
    do: str = "",
    of: str = "",
) -> Any:
    """The value, if it is a finite number within these bounds, of which `above` and `below` are themselves excluded."""
    bounds = (
        ("above", above, operator.gt),
        ("of at least", least, operator.ge),
        ("below", below, operator.lt),
        ("of at most", most, operator.le),
    )
    given = [bound for bound in bounds if bound[1] is not None]
    if optional and value is None or is_number(value) and all(holds(value, limit) for _, limit, holds in given):
        return value
    limits = " and ".join(f"{words} {limit:g}" for words, limit, _ in given) or "that is finite"
    refuse(name, f"a number {limits}" + (" or None" if optional else ""), value, do, of)


def one_of(name: str, value: Any, allowed: Collection, *, do: str = "", of: str = "") -> Any:
    """The value, if it is one of those allowed."""
    if isinstance(value, str | int | float | bool | None) and value in allowed:
        return value
    refuse(name, f"one of {', '.join(map(repr, allowed))}", value, do, of)


def _shown(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return f"an array of shape {tuple(shape)} and type {dtype}" if shape and dtype else repr(value)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns as if by the line outside of kmerge that called it; where Keras did, as it does callbacks, outside of Keras."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("kmerge", "keras"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
