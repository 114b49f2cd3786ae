"""Masks that tensors carry, handed over as arguments where they would be lost: operations, and so gathers, drop them."""

import inspect
from collections.abc import Mapping
from dataclasses import replace

import keras

from kmerge.graph import Call, has_mask, mask_of


def reads_carried_mask(call: Call, index: int) -> bool:
    """Whether it is a layer that looks at the mask which one of its inputs carries, in spite of masks that it is given.

    Keras hands a carried mask over as `mask` to a layer with one argument of tensors, and for `query` as `query_mask` to
    others, unless that is given. Its attention disregards the `query_mask` that it is given.
    """
    if not call.reads_masks:
        return False
    given = {name: numbers for name, numbers in call.named_inputs.items() if numbers}
    holder = next(name for name, numbers in given.items() if index in numbers)
    if holder == "query" and isinstance(call.operation, keras.layers.MultiHeadAttention):
        return True
    mask = "mask" if len(given) == 1 else f"{holder}_mask"
    return mask in inspect.signature(call.operation.call).parameters and mask not in given


def takes_one_mask(call: Call) -> bool:
    """Whether it is a layer that looks at masks which its first argument carries, and can be handed these instead."""
    if not call.reads_masks or call.masks or not call.args:
        return False
    return "mask" in inspect.signature(call.operation.call).parameters and "mask" not in call.kwargs


def with_masks(call: Call, tensors: list, values: Mapping[int, keras.KerasTensor]) -> tuple[Call, list]:
    """A call with masks as an argument, if tensors that it reads have lost theirs; and what it then reads.

    Args:
        call: the call of the template.
        tensors: what it reads in the new model.
        values: by the ids of tensors of the template, those of the new model. Only a mask that is among them, of the same
            shape, is the same for all that the tensor holds.
    """
    pairs = zip(call.inputs, tensors, strict=True)
    lost = any(has_mask(old) and new is not None and not has_mask(new) for old, new in pairs)
    if not lost or not takes_one_mask(call):
        return call, tensors
    old = [mask_of(x) for x in keras.tree.flatten(call.args[0])]
    new = [x if x is None else values.get(id(x)) for x in old]
    if any(x is not None and (y is None or x.shape != y.shape) for x, y in zip(old, new, strict=True)):
        return call, tensors
    kwargs = {**call.kwargs, "mask": keras.tree.pack_sequence_as(call.args[0], new)}
    handed = [(x, y) for x, y in zip(old, new, strict=True) if x is not None]
    call = replace(call, kwargs=kwargs, inputs=(*call.inputs, *(x for x, _ in handed)))
    return call, [*tensors, *(y for _, y in handed)]
