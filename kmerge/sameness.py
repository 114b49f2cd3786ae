"""Whether two values of configurations mean the same: functions by their code, arrays by their numbers."""

import functools
import types
from collections.abc import Collection
from typing import Any

import keras
import numpy as np

from kmerge.graph import array_of

# What is a matter of one layer alone, and not of what it does.
OWN_ENTRIES = ("name", "build_config", "module", "registered_name", "seed", "shared_object_id", "trainable")
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def is_same(a: Any, b: Any) -> bool:
    """Whether two values mean the same, as far as it can be seen; what cannot be compared counts as the same."""
    if a is b:
        return True
    if isinstance(a, PLAIN) or isinstance(b, PLAIN):
        return type(a) is type(b) and bool(a == b or (a != a and b != b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, keras.Variable | keras.Layer | keras.KerasTensor):
        return type(a) is type(b)
    if isinstance(a, types.FunctionType) and isinstance(b, types.FunctionType):
        return _same_function(a, b)
    if isinstance(a, np.ndarray) or keras.ops.is_tensor(a):
        return type(a) is type(b) and np.array_equal(array_of(a), array_of(b))
    if isinstance(a, functools.partial):
        return isinstance(b, functools.partial) and is_same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    return type(a) is type(b) and _same_object(a, b)


def _same_function(a: types.FunctionType, b: types.FunctionType) -> bool:
    def read(function):
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        return _code(function.__code__), function.__defaults__, [x for x in cells if x is not function]

    return is_same(read(a), read(b))


def _code(code: types.CodeType) -> tuple:
    inner = [_code(x) if isinstance(x, types.CodeType) else repr(x) for x in code.co_consts]
    return code.co_code, code.co_names, inner


def _same_object(a: Any, b: Any) -> bool:
    if hasattr(a, "get_config"):
        try:
            return is_same(*(without_entries(x.get_config(), OWN_ENTRIES) for x in (a, b)))
        except Exception:
            pass
    plain = [{k: v for k, v in getattr(x, "__dict__", {}).items() if isinstance(v, PLAIN)} for x in (a, b)]
    return plain[0] == plain[1]


def without_entries(config: Any, names: Collection[str]) -> Any:
    """A configuration without the entries of these names, at any depth. Tuples in it become lists, as in a file."""
    if isinstance(config, dict):
        return {key: without_entries(value, names) for key, value in config.items() if key not in names}
    return [without_entries(value, names) for value in config] if isinstance(config, list | tuple) else config
