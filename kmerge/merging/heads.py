"""Models whose heads differ, given heads of one form: all classes in one, or a head for each task.

Of two models with 5 and 3 classes each gets a head of 8, or two heads of 5 and 3. What is not its own is zero, and its own
logits are doubled, so that the mean over both models is each one's own logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.cloning import clone_operation
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Call, Graph, array_of
from kmerge.surgery import select

HEADS = ("same", "join", "both")
_LAYERS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_SET_ASIDE = {keras.activations.linear, keras.activations.softmax, keras.activations.sigmoid}


@dataclass(frozen=True)
class _Head:
    """The end of a model: the layer that makes its logits, and what comes behind.

    Attributes:
        call: of the layer that makes the logits.
        behind: the calls of activations between that and the output.
        outputs: number of logits.
    """

    call: Call
    behind: tuple[Call, ...]

    @property
    def layer(self) -> keras.Layer:
        return self.call.operation

    @property
    def outputs(self) -> int:
        return self.layer.kernel.shape[-1]


def with_common_heads(models: Sequence[keras.Model], heads: str) -> list[keras.Model]:
    """Copies of models with heads of one form, whose outputs' mean is what each had by itself.

    Args:
        models: Functional models of one output each, which a Dense layer or a convolution makes, perhaps with a softmax or
            sigmoid behind it.
        heads: "join": one head with the outputs of all models, in their order; "both": a head for each model.

    Raises:
        InvalidArgumentError: for a model with another end, named.
    """
    copies = [select(model, {}) for model in models]
    found = [_head_of(model) for model in copies]
    return [_with_heads(number, model, found, heads) for number, model in enumerate(copies)]


def _head_of(model: keras.Model) -> _Head:
    graph = Graph(model)
    behind, end = [], graph.outputs[0]
    while True:
        (call,) = [call for call in graph.calls if any(out is end for out in call.outputs)] or [None]
        if len(graph.outputs) != 1 or call is None or len(call.inputs) != 1:
            break
        if type(call.operation) in _LAYERS and getattr(call.operation, "activation", None) in _SET_ASIDE:
            return _Head(call, tuple(reversed(behind)))
        if not _is_set_aside(call.operation):
            break
        behind.append(call)
        end = call.inputs[0]
    raise InvalidArgumentError(
        f"heads: expected {model.name!r} to have one output, made by a Dense layer or a convolution with at most a softmax or "
        "sigmoid behind it, received another end. Merge the models without their heads, and put new ones on the student."
    )


def _is_set_aside(operation: keras.Operation) -> bool:
    if isinstance(operation, keras.layers.Softmax):
        return True
    return type(operation) is keras.layers.Activation and operation.activation in _SET_ASIDE


def _with_heads(number: int, model: keras.Model, found: Sequence[_Head], heads: str) -> keras.Model:
    own, read = found[number], found[number].call.inputs
    sizes = [head.outputs for head in found]
    start = sum(sizes[:number])
    outputs, filled = [], []
    if heads == "join":
        layer = _head_like(found[0], sum(sizes), found[0].layer.name)
        outputs.append(_behind(found[0], own.call.replay(layer, list(read)), ""))
        filled.append((layer, slice(start, start + sizes[number])))
    else:
        names = [head.layer.name for head in found]
        for i, head in enumerate(found):
            end = f"_of_{i + 1}" if names[i] in names[:i] else ""
            layer = _head_like(head, sizes[i], head.layer.name + end)
            outputs.append(_behind(head, own.call.replay(layer, list(read)), end))
            filled.append((layer, slice(None) if i == number else slice(0, 0)))
    for layer, units in filled:
        for weight, given in zip(layer.weights, own.layer.weights, strict=True):
            value = np.zeros(weight.shape, "float32")
            if value[..., units].size:
                value[..., units] = len(found) * array_of(given)
            weight.assign(value)
    return keras.Model(model.inputs, outputs if heads == "both" else outputs[0], name=model.name)


def _head_like(head: _Head, units: int, name: str) -> keras.Layer:
    key = "units" if isinstance(head.layer, keras.layers.Dense) else "filters"
    return type(head.layer).from_config(head.layer.get_config() | {key: units, "name": name})


def _behind(head: _Head, tensors: list, end: str) -> keras.KerasTensor:
    for call in head.behind:
        tensors = call.replay(clone_operation(call.operation, {}, call.operation.name + end), tensors)
    return tensors[0]
