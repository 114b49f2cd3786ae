"""The rule of any layer or operation."""

from collections.abc import Callable

from keras import Operation

from kmerge.errors import UnsupportedLayerError
from kmerge.graph import is_quantized, replaced_methods
from kmerge.rules import (  # noqa: F401  (they register rules)
    as_it_is,
    attention,
    kernels,
    normalization,
    opaque,
    passing,
    places,
    products,
    recurrent,
    reductions,
    shapes,
    wrappers,
)
from kmerge.rules.operations import APPLICATION_RULES
from kmerge.rules.rule import RULES, Rule, class_of, operation_rule

REGISTER = "Register a rule, see kmerge.Rule; or, to leave it so, kmerge.OpaqueRule(): kmerge.register_rule(kind, rule)."
WRITE_OPENLY = (
    "Write it with operators and keras.ops on the tensors, or as a layer class with a rule: kmerge.register_rule."
)


def rule_for(operation: Operation, path: str) -> Rule:
    """The rule of a layer or operation.

    Raises:
        UnsupportedLayerError: if there is none, or a subclass overrides methods of the class that the rule describes.
            One whose `may_run_as_it_is` is false is refused for good.
    """
    kind = type(operation)
    if is_quantized(operation):
        raise UnsupportedLayerError(
            path, kind.__name__, "its weights are quantized or have LoRA factors, which no rule cuts.",
            "Work on the plain model, and quantize or adapt the result.", may_run_as_it_is=False,
        )  # fmt: skip
    rule = operation_rule(kind)
    if rule is not None:
        return rule
    if kind.__name__ in APPLICATION_RULES and kind.__module__.startswith("keras.src.applications"):
        return APPLICATION_RULES[kind.__name__]
    for ancestor in kind.__mro__:
        if ancestor in RULES:
            replaced = replaced_methods(operation, ancestor)
            if replaced:
                why = f"it replaces {', '.join(replaced)} of {ancestor.__name__}, so its rule may not hold."
                raise UnsupportedLayerError(path, kind.__name__, why, REGISTER)
            return RULES[ancestor]
    if kind.__name__ == "Lambda":
        why = "kmerge cannot see what its function does to channels."
        raise UnsupportedLayerError(path, "Lambda", why, WRITE_OPENLY)
    why = as_it_is.reason_of(operation) or "kmerge has no rule for what it does to channels."
    raise UnsupportedLayerError(path, kind.__name__, why[0].lower() + why[1:], REGISTER)


def rule_or_reason(thing: type | Callable) -> Rule | str | None:
    """What kmerge knows of something that Keras offers.

    Args:
        thing: a class of layers, or a function of `keras.ops`.

    Returns:
        Its rule; or why it runs as it is on purpose; or None if nobody has said either.
    """
    kind = thing if isinstance(thing, type) else class_of(thing)
    known = isinstance(kind, type) and issubclass(kind, Operation)
    classes = kind.__mro__ if known else ()
    rule = (operation_rule(kind) if known else None) or next((RULES[c] for c in classes if c in RULES), None)
    if rule is not None and not rule.is_opaque:
        return rule
    return (as_it_is.LAYERS if isinstance(thing, type) else as_it_is.OPERATIONS).get(thing.__name__)


def has_rule(operation: Operation) -> bool:
    """Whether a rule says what a layer or operation does, or it is refused for good: it is not looked into."""
    try:
        rule_for(operation, operation.name)
    except UnsupportedLayerError as error:
        return not error.may_run_as_it_is
    return True
