"""Sums that Keras would take for channels and their bias under TensorFlow, where `call` itself adds tensors.

`x + y` of a layer's `call` is recorded as `keras.ops.add(x, y)`. Under TensorFlow this adds a second argument that squeezes to
one axis to the last axis of the first, if that has as many values: with as many places as channels the numbers of places
(1, 6, 1) are added to the channels of (2, 6, 6). The other way around it does not.
"""

from dataclasses import replace

from kmerge.graph import Call


def in_safe_order(call: Call, tensors: list) -> tuple[Call, list]:
    """A sum of tensors, with channels last if the other one has none but places; and what it reads then.

    Args:
        call: the call.
        tensors: what it reads in the new model.
    """
    args = call.on(tensors).args
    if type(call.operation).__name__ != "Add" or len(args) != 2:
        return call, tensors
    first, second = (tuple(getattr(x, "shape", ())) or (1,) for x in args)
    has_places = second[-1] == 1 and any(size != 1 for size in second)
    if first[-1] == 1 or not has_places or sum(size not in (1, None) for size in second) > 1:
        return call, tensors
    call = replace(call, args=call.args[::-1], inputs=call.inputs[::-1])
    return call, tensors[::-1]
