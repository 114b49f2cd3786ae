"""Masks that tensors carry, handed over as arguments where they would be lost: operations, and so gathers, drop them."""

import inspect
from collections.abc import Mapping
from dataclasses import replace

import keras

from kmerge.graph import Call, has_mask, mask_of


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
