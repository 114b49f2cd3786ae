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
# Of a head's configuration, what its weights do not tell.
_KIND = ("kernel_size", "strides", "padding", "dilation_rate", "data_format")


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

    def kind(self) -> dict[str, object]:
        """What heads must have in common that are to become one: all but their outputs, weights and use of a bias."""
        config = {key: value for key, value in self.layer.get_config().items() if key in _KIND}
        ends = [self.layer.activation, *(getattr(call.operation, "activation", None) for call in self.behind)]
        names = ["softmax" if end is None else end.__name__ for end in ends]
        axes = [axis for axis in (getattr(call.operation, "axis", -1) for call in self.behind) if axis != -1]
        own = {"class": type(self.layer).__name__, "axes of its input": len(self.call.inputs[0].shape)}
        end = {"final activation": [name for name in names if name != "linear"], "axis of its softmax": axes}
        return {**own, **config, **end}


def with_common_heads(models: Sequence[keras.Model], heads: str) -> list[keras.Model]:
    """Copies of models with heads of one form, whose outputs' mean is what each had by itself.

    Args:
        models: Functional models of one output each, which a Dense layer or a convolution makes, perhaps with a softmax or
            sigmoid behind it.
        heads: "join": one head with the outputs of all models, in their order; "both": a head for each model.

    Raises:
        InvalidArgumentError: for a model with another end, named; for heads that cannot be joined, or do not fit all models.
    """
    copies = [select(model, {}) for model in models]
    found = [_head_of(model) for model in copies]
    for head, model in zip(found[1:], models[1:], strict=True):
        _check_alike(found[0], head, model.name, heads)
    return [_with_heads(number, model, found, heads) for number, model in enumerate(copies)]


def _check_alike(first: _Head, head: _Head, name: str, heads: str) -> None:
    wanted, came = first.kind(), head.kind()
    do = "Merge the models without their heads, and put new ones on the student."
    if heads == "both":
        wanted, came = ({"axes of its input": each["axes of its input"]} for each in (wanted, came))
    else:
        do = "Give both models the same end, or merge with heads='both'."
    if wrong := [key for key in {**wanted, **came} if wanted.get(key) != came.get(key)]:
        key = wrong[0]
        raise InvalidArgumentError(
            f"heads={heads!r}: expected the head of {name!r} to have {key} {wanted.get(key)!r} as the first model's, received "
            f"{came.get(key)!r}. {do}"
        )


def _head_of(model: keras.Model) -> _Head:
    graph = Graph(model)
    behind, end = [], graph.outputs[0]
    while True:
        (call,) = [call for call in graph.calls if any(out is end for out in call.outputs)] or [None]
        if len(graph.outputs) != 1 or call is None or len(call.inputs) != 1:
            break
        layer = call.operation
        if type(layer) in _LAYERS and layer.activation in _SET_ASIDE and getattr(layer, "groups", 1) == 1:
            return _Head(call, tuple(reversed(behind)))
        if not _is_set_aside(layer):
            break
        behind.append(call)
        end = call.inputs[0]
    came = f"{len(graph.outputs)} outputs" if len(graph.outputs) != 1 or call is None else _told(call.operation)
    raise InvalidArgumentError(
        f"heads: expected {model.name!r} to have one output, made by a Dense layer or a convolution with at most a softmax or "
        f"sigmoid behind it, received {came}. Merge the models without their heads, and put new ones on the student."
    )


def _told(operation: keras.Operation) -> str:
    nested = ", a nested model in which no head is looked for" if isinstance(operation, keras.Model) else ""
    return f"{type(operation).__name__} {operation.name!r} at its end{nested}"


def _is_set_aside(operation: keras.Operation) -> bool:
    if isinstance(operation, keras.layers.Softmax):
        return True
    return type(operation) is keras.layers.Activation and operation.activation in _SET_ASIDE


def _with_heads(number: int, model: keras.Model, found: Sequence[_Head], heads: str) -> keras.Model:
    own, read = found[number], found[number].call.inputs
    sizes = [head.outputs for head in found]
    start = sum(sizes[:number])
    ends = {id(tensor) for call in (own.call, *own.behind) for tensor in call.outputs}
    graph = Graph(model)
    names = _Names(call.operation.name for call in graph.calls if id(call.outputs[0]) not in ends)
    if heads == "join":
        use_bias = any(head.layer.use_bias for head in found)
        layer = _head_like(found[0], names.free(found[0].layer.name), sum(sizes), use_bias)
        output = _behind(found[0], own.call.replay(layer, list(read)), names)
        outputs = keras.tree.pack_sequence_as(graph.output_structure, [output])
        _fill(layer, own.layer, slice(start, start + sizes[number]), len(found))
        return keras.Model(graph.input_structure, outputs, name=model.name)
    outputs = []
    for i, head in enumerate(found):
        layer = _head_like(head, names.free(head.layer.name, f"_of_{i + 1}"), sizes[i], head.layer.use_bias)
        outputs.append(_behind(head, own.call.replay(layer, list(read)), names, f"_of_{i + 1}"))
        _fill(layer, own.layer, slice(None) if i == number else slice(0, 0), len(found))
    return keras.Model(graph.input_structure, outputs, name=model.name)


class _Names(set):
    """The names of a model's layers, which no two may share."""

    def free(self, name: str, end: str = "_of_student") -> str:
        """The name, with an end as often as it takes to be free; it is taken then."""
        while name in self:
            name += end
        self.add(name)
        return name


def _head_like(head: _Head, name: str, units: int, use_bias: bool) -> keras.Layer:
    key = "units" if isinstance(head.layer, keras.layers.Dense) else "filters"
    return type(head.layer).from_config(head.layer.get_config() | {key: units, "name": name, "use_bias": use_bias})


def _fill(layer: keras.Layer, own: keras.Layer, units: slice, times: int) -> None:
    """Sets a head's weights: those of these units are a model's own, so many times, and all others zero."""
    for variable, given in ((layer.kernel, own.kernel), (layer.bias, own.bias)):
        if variable is not None:
            value = np.zeros(variable.shape, "float32")
            if given is not None and value[..., units].size:
                value[..., units] = times * array_of(given)
            variable.assign(value)


def _behind(head: _Head, tensors: list, names: _Names, end: str = "_of_student") -> keras.KerasTensor:
    for call in head.behind:
        name = names.free(call.operation.name, end)
        tensors = call.replay(clone_operation(call.operation, {}, name), tensors)
    return tensors[0]
