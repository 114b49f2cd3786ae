"""Checks of arguments, and the one sentence in which all of them refuse: expected ..., received ..., do ...

    whole_number("batch_size", 0)
    InvalidArgumentError: Expected batch_size to be a whole number of at least 1, received 0.

    number("alpha", -1, above=0, of="AutoSizer", do="Use fit for no penalty.")
    InvalidArgumentError: AutoSizer: expected alpha to be a number above 0, received -1. Use fit for no penalty.
"""

import contextlib
import itertools
import math
import operator
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kmerge.errors import InvalidArgumentError, KmergeError, told

# The most that a whole number can be: Keras and its backends count in 32 bits.
MOST = 2**31 - 1
_LARGEST = float(np.finfo("float32").max)
# Characters of a value that a message shows.
_LONGEST = 300


def sentence(what: str, received: object, do: str = "", of: str = "") -> str:
    """The sentence of a refusal.

    Args:
        what: what was expected, as in "batch_size to be a whole number of at least 1".
        received: the value that came instead; of an array, only its shape and type are shown.
        do: a sentence with what to do, where it is not plain from what was expected.
        of: the class, function or space that refuses, where the name of the argument does not tell.
    """
    start = f"{of}: expected" if of else "Expected"
    return f"{start} {what}, received {shown(received)}." + (f" {do}" if do else "")


def refuse(name: str, expected: str, received: object, do: str = "", of: str = "") -> NoReturn:
    """Raises: expected the argument of this name to be so, received another value; see `sentence`."""
    raise InvalidArgumentError(sentence(f"{name} to be {expected}", received, do, of))


def is_whole_number(value: object) -> bool:
    """Whether it is an integer, Python's or NumPy's, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite real number of float32, Python's or NumPy's, and not a bool."""
    is_real = is_whole_number(value) or isinstance(value, (float, np.floating)) and math.isfinite(value)
    return is_real and -_LARGEST <= value <= _LARGEST


def whole_number(
    name: str, value: Any, least: int = 1, most: int = MOST, *, optional: bool = False, do: str = "", of: str = ""
) -> Any:
    """The value, if it is a whole number of at least `least` and at most `most`, or where that is allowed None."""
    if (optional and value is None) or (is_whole_number(value) and least <= value <= most):
        return value
    limit = f" and at most {most}" if most != MOST or is_whole_number(value) and value > most else ""
    refuse(name, f"a whole number of at least {least}{limit}" + (" or None" if optional else ""), value, do, of)


def seed(name: str, value: Any, *, optional: bool = False, of: str = "") -> Any:
    """The value, if it is a whole number of at most 64 bits, or where that is allowed None."""
    if (optional and value is None) or (is_whole_number(value) and -(2**63) <= value < 2**64):
        return value
    refuse(name, "a whole number of at most 64 bits" + (" or None" if optional else ""), value, of=of)


def flag(name: str, value: Any, of: str = "") -> bool:
    """The value, if it is True or False."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    refuse(name, "True or False", value, of=of)


def text(name: str, value: Any, of: str = "") -> str:
    """The value, if it is a string, of characters that a file can hold."""
    with contextlib.suppress(UnicodeEncodeError):
        if isinstance(value, str) and value.encode() is not None:
            return value
    refuse(name, "a string", value, of=of)


def file_path(name: str, value: Any, of: str = "") -> Path:
    """The value as a path, if a file can have it."""
    with contextlib.suppress(TypeError, ValueError):
        if os.fspath(value) and b"\0" not in os.fsencode(value):
            return Path(os.fsdecode(value))
    refuse(name, "the path of a file", value, of=of)


def mapping(name: str, value: Any, *, do: str = "", of: str = "") -> Mapping:
    """The value, if it is a mapping from names."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    refuse(name, "a mapping from names", value, do, of)


def sequence(name: str, value: Any, expected: str, of: str = "") -> Sequence:
    """The value, if it is a list, a tuple or the like and no string."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value
    refuse(name, expected, value, of=of)


def function(name: str, value: Any, expected: str = "a function", of: str = "") -> Callable:
    """The value, if it can be called and is no class."""
    if callable(value) and not isinstance(value, type):
        return value
    refuse(name, expected, value, of=of)


def whole_numbers(name: str, value: Any, of: str = "") -> np.ndarray:
    """The value as an array of integers of shape `(n,)`, if it is a list or an array of such."""
    with contextlib.suppress(Exception):  # whatever a stranger's object raises when it is made an array
        array = np.asarray(value)
        if array.ndim == 1 and array.dtype.kind in "iu":
            return array
    refuse(name, "whole numbers in a row", value, of=of)


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
    """The value, if it is one of those allowed, as NumPy writes it, too."""
    if isinstance(value, str | int | float | bool | np.number | np.bool_ | None) and value in allowed:
        return value
    refuse(name, f"one of {', '.join(map(repr, allowed))}", value, do, of)


def shown(value: object) -> str:
    """A value in a line: of an array its shape and type, of what is long or cannot be shown its class."""
    try:
        line = _line(value)
    except Exception:  # a stranger's repr may raise anything, and lists may lie in lists without end
        return f"a {type(value).__name__} that cannot be shown"
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _line(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape and dtype:
        return f"an array of shape {tuple(shape)} and type {dtype}"
    if type(value) is dict:
        return f"{{{', '.join(f'{key!r}: {_line(part)}' for key, part in itertools.islice(value.items(), _LONGEST))}}}"
    if type(value) not in (list, tuple):
        return repr(value)
    parts = ", ".join(map(_line, value[:_LONGEST]))
    return f"[{parts}]" if type(value) is list else f"({parts}{',' * (len(value) == 1)})"


# What Keras and NumPy raise for arguments that they cannot use; TensorFlow has a class of its own for it.
_OF_ARGUMENTS = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError, NameError
)  # fmt: skip
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} | {str(Path(__file__).parent)})


@contextlib.contextmanager
def in_our_words(expected: str, received: object, of: str = "") -> Iterator[None]:
    """Says in our words what Keras and its backend say of arguments that are handed to them.

    What a user's own code raises, a loss or a callback, comes out as it is; so does what no argument can be blamed for.
    """
    try:
        yield
    except KmergeError:
        raise
    except Exception as error:
        is_of_arguments = isinstance(error, _OF_ARGUMENTS) or type(error).__name__ == "InvalidArgumentError"
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__.tb_next)]
        if not is_of_arguments or not all(file.startswith((*_LIBRARIES, "<")) for file in files):
            raise
        raise InvalidArgumentError(sentence(expected, received, f"Keras says: {told(error)}.", of)) from error


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns as if by the line outside of kmerge that called it; where Keras did, as it does callbacks, outside of Keras."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("kmerge", "keras"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
