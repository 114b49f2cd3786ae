"""Activations, and which functions act on each value alone: known by name, or read from the operations that they consist of.

No function is tried on numbers: a few values do not show what it does to others, and a layer that is called is built.
"""

import functools
import types
from collections.abc import Callable

import keras
from keras import activations

from kmerge.graph import Call, Graph
from kmerge.rules.labels import Labels
from kmerge.rules.rule import operation_rule
from kmerge.rules.site import Site

_KNOWN = frozenset(
    getattr(activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid mish relu "
        "relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink "
        "threshold"
    ).split()
)

# Those that work along the last axis.
_ALONG_LAST = frozenset({activations.softmax, activations.log_softmax, activations.sparsemax})

# What a function may hold and still be run on a symbolic tensor: nothing that this could build or change.
_HARMLESS = (types.BuiltinFunctionType, bool, int, float, str, type(None))
# Whose modules, classes and functions are known to hold nothing of the user's.
_KNOWN_HOMES = frozenset({"keras", "math", "numpy", "builtins"})
# By these names a function reaches what cannot be seen that it holds.
_REACHES_FURTHER = frozenset({"globals", "locals", "vars", "getattr", "eval", "exec", "__import__"})


@functools.cache
def is_elementwise(function: Callable) -> bool:
    """Whether a function is known to act on each value alone.

    Args:
        function: an activation of Keras; or a plain function of one tensor that only uses `keras.ops` and operators.

    Returns:
        False for all of which it is not known: layers, objects with state, functions of a backend.
    """
    if function in _KNOWN:
        return True
    if not isinstance(function, types.FunctionType) or not _holds_only_harmless(function):
        return False
    recorded = [_record(function, width) for width in (7, 5)]  # of which one width alone shows no use of it
    return recorded[0] is not None and recorded[0] == recorded[1]


def _holds_only_harmless(function: types.FunctionType, seen: frozenset = frozenset()) -> bool:
    codes = [function.__code__]
    for code in codes:
        codes += [x for x in code.co_consts if isinstance(x, types.CodeType)]
    names = {name for code in codes for name in code.co_names}
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    held += [function.__globals__[name] for name in names if name in function.__globals__]
    seen |= {function}
    return not names & _REACHES_FURTHER and all(_is_harmless(value, seen) for value in held)


def _is_harmless(value: object, seen: frozenset) -> bool:
    if isinstance(value, types.ModuleType | type | types.FunctionType):
        home = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        if str(home).partition(".")[0] in _KNOWN_HOMES:
            return True
        return isinstance(value, types.FunctionType) and (value in seen or _holds_only_harmless(value, seen))
    if isinstance(value, tuple):
        return all(_is_harmless(x, seen) for x in value)
    return isinstance(value, _HARMLESS)


def _record(function: Callable, width: int) -> list | None:
    """The operations of a function of one tensor, with all they are told; None unless each is known to be elementwise."""
    x = keras.Input((width,))
    try:
        model = keras.Model(x, function(x))
    except Exception:  # whatever a stranger's function raises: it is not known to be elementwise
        return None
    calls = Graph(model).calls
    if model.outputs[0].shape != x.shape or not all(_is_elementwise_call(call) for call in calls):
        return None
    return [_told(call) for call in calls]


def _told(call: Call) -> tuple:
    arguments = [v for v in keras.tree.flatten((call.args, call.kwargs)) if not isinstance(v, keras.KerasTensor)]
    own = {name: v for name, v in vars(call.operation).items() if name[0] != "_" and name != "name"}
    return type(call.operation), arguments, own


def _is_elementwise_call(call: Call) -> bool:
    rule = operation_rule(type(call.operation))
    arguments = keras.tree.flatten((call.args, call.kwargs))
    arrays = [v for v in arguments if hasattr(v, "shape") and not isinstance(v, keras.KerasTensor)]
    return rule is not None and rule.is_elementwise and not arrays


# In front of these stand logits, whose mean is a better guess than that of probabilities.
_BEHIND_LOGITS = frozenset(
    getattr(home, name) for home in (activations, keras.ops) for name in ("softmax", "sigmoid", "log_softmax")
)


def is_behind_logits(operation: keras.Operation) -> bool:
    """Whether the last thing that a layer or operation does is a softmax or sigmoid."""
    function = getattr(operation, "activation", None)
    if callable(function):
        return any(function is known for known in _BEHIND_LOGITS)
    kind = type(operation)
    return kind.__name__ in ("Softmax", "Sigmoid", "LogSoftmax") and kind.__module__.startswith("keras.")


def apply_activation(site: Site, function: Callable | None, x: Labels) -> None:
    """Declares an activation on `x`. A softmax or sigmoid that ends the model stands outside the mean of logits."""
    if function is None or function is activations.linear:
        return
    if site.final and any(function is known for known in _BEHIND_LOGITS):
        return
    passes = any(function is known for known in _ALONG_LAST) and x.axis < len(x.shape) - 1
    if not site.final and not passes and not is_elementwise(function):
        name = getattr(function, "__name__", repr(function))
        site.refuse(f"its activation {name!r} is not known to act on each channel alone.", "Use one that does.")
    site.curve(x)
