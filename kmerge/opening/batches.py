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
    """Repeats its first input as often as its second one has rows.

    Args:
        new_axis: whether the first input has no axis for the batch; otherwise its first axis is of size 1.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(self, new_axis: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.new_axis = new_axis
        self.supports_masking = True  # it lets masks be, and gives none

    def call(self, inputs, like):
        rest = ops.shape(inputs)[0 if self.new_axis else 1 :]
        return ops.broadcast_to(inputs, (ops.shape(like)[0], *rest))

    def compute_mask(self, inputs, previous_mask):
        return None

    def compute_output_spec(self, inputs, like):
        return keras.KerasTensor((like.shape[0], *inputs.shape[0 if self.new_axis else 1 :]), inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "new_axis": self.new_axis}


class ForEachOfBatchRule(Rule):
    """It passes the units of its first input, and does not care for those of the second."""

    takes_any_tensor = True

    def walk(self, site, x, like):
        if x.axis == 0 and not site.layer.new_axis:
            site.refuse("it repeats its channels.", "Give what it repeats an axis for the batch.")
        return site.output(x.units, x.axis + site.layer.new_axis)


register_rule(ForEachOfBatch, ForEachOfBatchRule())


def computes_with_none(call: Call) -> bool:
    """Whether an operation was recorded with an unknown size, with which it cannot run."""
    return type(call.operation).__name__ == "BroadcastTo" and None in call.operation.shape


def repeats_batch(call: Call) -> bool:
    """Whether it is an operation that repeats what it reads as often as there are rows in a batch of `BATCH`."""
    found = getattr(call.operation, _REPEATS.get(type(call.operation).__name__, ""), ())
    return BATCH in (found if isinstance(found, list | tuple) else (found,))


def freed(call: Call, x: keras.KerasTensor, sizes: dict, name: str) -> list | None:
    """The outputs of an operation that repeats a tensor for each of the batch; None if it does something else.

    Args:
        call: the call, recorded with a batch of `BATCH`.
        x: what it reads in the new model.
        sizes: for each number that stands for an open size, a tensor of the new model that has it, and its axis.
        name: for what stands in its place.
    """
    operation, shape = call.operation, tuple(x.shape)
    like, _ = sizes.get(BATCH, (None, 0))
    kind, row = type(operation).__name__, None
    if like is None:
        return None
    if kind == "BroadcastTo" and operation.shape[0] == BATCH:
        rest = tuple(None if size in sizes else size for size in operation.shape[1:])
        if shape == (None, *rest):
            return [x]
        if shape == rest:
            return [ForEachOfBatch(new_axis=True, name=name)(x, like)]
        if shape != (1, *rest) and None in rest:
            return None
        row = x if shape == (1, *rest) else rename_operation(ops.broadcast_to(x, (1, *rest)), f"{name}_row")
    elif kind == "Tile" and shape[:1] == (1,) and tuple(operation.repeats) == (BATCH, *[1] * (len(shape) - 1)):
        row = x
    elif kind == "Repeat" and shape[:1] == (1,) and operation.axis == 0 and operation.repeats in (BATCH, [BATCH]):
        row = x
    return None if row is None else [ForEachOfBatch(name=name)(row, like)]

