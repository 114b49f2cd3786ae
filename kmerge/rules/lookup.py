"""The rule of any layer or operation."""

from keras import Operation

from kmerge.errors import UnsupportedLayerError
from kmerge.rules import attention, kernels, normalization, opaque, passing, shapes  # noqa: F401  (they register rules)
from kmerge.rules.operations import APPLICATION_RULES, OPERATION_RULES
from kmerge.rules.rule import RULES, Rule


def rule_for(operation: Operation, path: str) -> Rule:
    """The rule of a layer or operation.

    Raises:
        UnsupportedLayerError: if there is none, or a subclass overrides the `call` that the rule describes.
    """
    kind = type(operation)
    if kind.__name__ in OPERATION_RULES and kind.__module__.startswith("keras.src.ops"):
        return OPERATION_RULES[kind.__name__]
    if kind.__name__ in APPLICATION_RULES and kind.__module__.startswith("keras.src.applications"):
        return APPLICATION_RULES[kind.__name__]
    for ancestor in kind.__mro__:
        if ancestor in RULES:
            if ancestor is not kind and kind.call is not ancestor.call:
                raise UnsupportedLayerError(
                    path,
                    kind.__name__,
                    f"it overrides the call of {ancestor.__name__}, so its rule may not hold.",
                    REGISTER,
                )
            return RULES[ancestor]
    if kind.__name__ == "Lambda":
        raise UnsupportedLayerError(
            path, "Lambda", "kmerge cannot see what its function does to channels.", WRITE_OPENLY
        )
    raise UnsupportedLayerError(path, kind.__name__, "kmerge has no rule for what it does to channels.", REGISTER)


REGISTER = (
    "Register one: kmerge.register_rule(layer_class, rule); see kmerge.Rule. Or let it run as it is, once for each "
    "model, with its channels fixed: kmerge.register_rule(layer_class, kmerge.OpaqueRule())."
)


WRITE_OPENLY = (
    "Write it with operators and keras.ops on the tensors, or as a layer class with a rule: kmerge.register_rule."
)
