"""Activations, and which functions act on each value alone: known by name, or read from the operations that they consist of.

No function is tried on numbers: a few values do not show what it does to others, and a layer that is called is built.
"""

import functools
import types
from collections.abc import Callable

import keras
from keras import activations

from kmerge.graph import Graph
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
_HARMLESS = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, int, float, str, tuple, type(None))


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
    x = keras.Input((7,))
    try:
        model = keras.Model(x, function(x))
    except Exception:  # whatever a stranger's function raises: it is not known to be elementwise
        return False
    return model.outputs[0].shape == x.shape and all(_is_elementwise_call(call) for call in Graph(model).calls)


def _holds_only_harmless(function: types.FunctionType) -> bool:
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__]
    return all(isinstance(value, _HARMLESS) for value in held)


def _is_elementwise_call(call) -> bool:
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
