"""Where the mean of several models stands at their ends: in front of a softmax or sigmoid, behind everything else."""

import keras

from kmerge.errors import UnsupportedLayerError
from kmerge.rules import is_behind_logits, is_elementwise
from kmerge.spaces import Record


def check_end(record: Record) -> None:
    """Refuses a layer at the end of a model whose outputs can be averaged neither in front of its activation nor behind.

    Args:
        record: what the walk of the template found at its call.

    Raises:
        UnsupportedLayerError: names the layer.
    """
    operation = record.call.operation
    activation = getattr(operation, "activation", None)
    if record.is_apart or activation in (None, keras.activations.linear):
        return  # it runs once for each model, with its activation
    name = getattr(activation, "__name__", repr(activation))
    if is_behind_logits(operation) and not record.rule.is_activation:
        raise UnsupportedLayerError(
            record.path, type(operation).__name__,
            f"its activation {name!r} ends the model, but its outputs cannot be averaged in its kernel.",
            "Put the activation into a layer of its own, so that the mean can stand before it.",
        )  # fmt: skip
    if not is_behind_logits(operation) and not is_elementwise(activation):
        raise UnsupportedLayerError(
            record.path, type(operation).__name__,
            f"its activation {name!r} ends the model and mixes channels, so that those of several models cannot stand "
            "side by side under it.",
            "Leave it off, join what is left, which gives the mean of that, and apply it to the result.",
        )  # fmt: skip
