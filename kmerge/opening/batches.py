"""The size of the batch where a call computes with it: `ops.broadcast_to(token, (ops.shape(x)[0], 1, 8))`.

On symbolic tensors that size is None, with which little can be computed. So such a call is recorded with a batch of
`BATCH`, and where this number stands in the arguments of an operation, it is taken out again:

    broadcast_to(token, (BATCH, 1, 8))   ->  ForEachOfBatch()(token, x)
    reshape(x, (BATCH, 4, 2))            ->  reshape(x, (-1, 4, 2))

What is left of it elsewhere shows when the result is compared on batches of other sizes.
"""

import keras
from keras import ops

from kmerge.graph import Call, rename_operation
from kmerge.rules import Rule, register_rule

# A prime that is no usual size, and small enough for constants of that many rows.
BATCH = 251
_REPEATS = {"BroadcastTo": "shape", "Tile": "repeats", "Repeat": "repeats"}


@keras.saving.register_keras_serializable("kmerge")
class ForEachOfBatch(keras.Layer):
    """Repeats its first input, which has a first axis of 1, as often as its second one has rows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True  # it lets masks be, and gives none

    def call(self, inputs, like):
        return ops.broadcast_to(inputs, (ops.shape(like)[0], *inputs.shape[1:]))

    def compute_mask(self, inputs, previous_mask):
        return None

    def compute_output_spec(self, inputs, like):
        return keras.KerasTensor((like.shape[0], *inputs.shape[1:]), inputs.dtype)


class ForEachOfBatchRule(Rule):
    """It passes the units of its first input, and does not care for those of the second."""

    takes_any_tensor = True

    def walk(self, site, x, like):
        if x.axis == 0:
            site.refuse("it repeats its channels.", "Give what it repeats an axis for the batch.")
        return site.output(x.units, x.axis)


register_rule(ForEachOfBatch, ForEachOfBatchRule())


def computes_with_none(call: Call) -> bool:
    """Whether an operation was recorded with an unknown size, with which it cannot run."""
    return type(call.operation).__name__ == "BroadcastTo" and None in call.operation.shape


def repeats_batch(call: Call) -> bool:
    """Whether it is an operation that repeats what it reads as often as there are rows in a batch of `BATCH`."""
    found = getattr(call.operation, _REPEATS.get(type(call.operation).__name__, ""), ())
    return BATCH in (found if isinstance(found, list | tuple) else (found,))


def freed(call: Call, x: keras.KerasTensor, inputs: list, name: str) -> list | None:
    """The outputs of an operation that repeats a tensor for each of the batch; None if it does something else.

    Args:
        call: the call, recorded with a batch of `BATCH`.
        x: what it reads in the new model.
        inputs: those of the new model.
        name: for what stands in its place.
    """
    operation, shape = call.operation, tuple(x.shape)
    like = next((y for y in inputs if y.shape and y.shape[0] is None), None)
    kind, row = type(operation).__name__, None
    if like is None:
        return None
    if kind == "BroadcastTo" and operation.shape[0] == BATCH:
        rest = tuple(operation.shape[1:])
        if shape == (None, *rest):
            return [x]
        row = x if shape == (1, *rest) else rename_operation(_one_row(x, rest), f"{name}_row")
    elif kind == "Tile" and shape[:1] == (1,) and tuple(operation.repeats) == (BATCH, *[1] * (len(shape) - 1)):
        row = x
    elif kind == "Repeat" and shape[:1] == (1,) and operation.axis == 0 and operation.repeats in (BATCH, [BATCH]):
        row = x
    return None if row is None else [ForEachOfBatch(name=name)(row, like)]


def _one_row(x: keras.KerasTensor, rest: tuple) -> keras.KerasTensor:
    return ops.expand_dims(x, 0) if tuple(x.shape) == rest else ops.broadcast_to(x, (1, *rest))


def with_open_batch(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """A symbolic tensor, or one like it without a batch of `BATCH`."""
    shape = tuple(tensor.shape)
    return keras.KerasTensor((None, *shape[1:]), tensor.dtype, tensor.sparse) if shape[:1] == (BATCH,) else tensor
