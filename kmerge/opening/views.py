"""Opening a model: a Functional one on the same weights, in which layers without a rule are what their `call` does.

    Input -> "block" (TransformerBlock) -> "head"         Input -> "block" (Functional) -> "head"
                                                                    attention, add, norm, ...

A layer that is opened becomes a nested model of its name. A layer that cannot be opened stays as it is, with the reason.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras

from kmerge.graph import (
    Call,
    Graph,
    calls_forgotten,
    frozen_alone,
    has_mask,
    has_own_graph,
    input_layer,
    input_like,
    operations_of,
    parts_of,
    twin_of,
)
from kmerge.opening.comparing import differ
from kmerge.opening.recording import StaysClosed, record, takes_training
from kmerge.rules import has_rule


@dataclass
class View:
    """A model whose layers are open, as far as that goes.

    Attributes:
        model: the model; the argument itself if there is nothing to open.
        opened: the class of each layer that was opened, by path.
        closed: why each other layer without a rule stays as it is, by path.
    """

    model: keras.Model
    opened: dict[str, str] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)


def opened(model: keras.Model) -> View:
    """Opens the layers of a Functional or Sequential model that have no rule.

    The names and the order of what is found depend on the model alone, so those of two models of one architecture agree.

    Args:
        model: the model. It is not changed; the new one has the very same weights, so it is no copy.

    Returns:
        A `View`.
    """
    if not has_own_graph(model) or not _has_closed(model):
        return View(model)
    with calls_forgotten(model):
        opener = _Opener()
        result = opener.model(Graph(model), model.name, "")
        return View(result if opener.opened else model, opener.opened, opener.closed)


def opened_call(model: keras.Model, args: tuple, kwargs: dict) -> View:
    """Opens a model or layer whose graph nobody knows, called on symbolic tensors in `args` and `kwargs`.

    Raises:
        StaysClosed: if it cannot be opened.
    """
    with calls_forgotten(model):
        opener = _Opener()
        return View(opener.recorded(model, args, kwargs, ""), opener.opened, opener.closed)


def may_open(operation: keras.Operation) -> bool:
    """Whether it is a layer that no rule knows, and that may show what it does: no plain layer of Keras."""
    if not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.InputLayer):
        return False
    if has_own_graph(operation) or has_rule(operation):
        return False
    return not type(operation).__module__.startswith("keras.src.") or bool(parts_of(operation))


def _has_closed(model: keras.Model) -> bool:
    return any(_has_closed(x) if has_own_graph(x) else may_open(x) for x in operations_of(model))


class Copier:
    """Builds the model of a graph anew, nested models included, from a copy of each layer.

    Args:
        copy: makes the copy of a layer or operation, with a name.
    """

    def __init__(self, copy: Callable[[keras.Operation, str], keras.Operation]):
        self._copy = copy
        self.copies: dict[int, tuple[keras.Operation, keras.Operation]] = {}
        self._nested: dict[int, keras.Model] = {}

    def model(self, graph: Graph, name: str, prefix: str, names: set | None = None) -> keras.Model:
        """The model of a graph.

        Args:
            graph: the graph.
            name: of the model.
            prefix: the names of the models that it lies in, and its own, each with a slash behind.
            names: those that are taken where operations get new names; otherwise they keep theirs.
        """
        inputs = [input_like(x, input_layer(x).name) for x in graph.inputs]
        values = {id(x): y for x, y in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            outputs = self.call(call, [values[id(x)] for x in call.inputs], prefix, names)
            values.update({id(x): y for x, y in zip(call.outputs, outputs, strict=True)})
        place = lambda structure: keras.tree.map_structure(lambda x: values[id(x)], structure)  # noqa: E731
        model = keras.Model(place(graph.input_structure), place(graph.output_structure), name=name)
        return model if graph.model.trainable else frozen_alone(model)

    def call(self, call: Call, tensors: list, prefix: str, names: set | None) -> list:
        """One call of the new model on new tensors; returns its outputs."""
        if not has_own_graph(call.operation):
            return call.replay(self.copy(call.operation, names), tensors)
        key = id(call.operation)
        if key not in self._nested:
            self._nested[key] = self.model(Graph(call.operation), call.name, f"{prefix}{call.name}/")
        return call.replay(self._nested[key], tensors)

    def copy(self, operation: keras.Operation, names: set | None) -> keras.Operation:
        """The copy of a layer or operation."""
        if id(operation) not in self.copies:
            renamed = names is not None and not isinstance(operation, keras.Layer)
            name = _name_of(operation, names) if renamed else operation.name
            self.copies[id(operation)] = (operation, self._copy(operation, name))
        return self.copies[id(operation)][1]


def _name_of(operation: keras.Operation, names: set) -> str:
    """A name for an operation after its class, such as "add_1" where there is an "add"; joins the names.

    The name that Keras gives it counts the operations of the whole process.
    """
    name = free = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(operation).__name__).lower()
    count = 0
    while free in names:
        count += 1
        free = f"{name}_{count}"
    names.add(free)
    return free


class _Opener(Copier):
    """Builds a model anew on the very same weights, and opens what has no rule."""

    def __init__(self):
        super().__init__(twin_of)
        self.opened: dict[str, str] = {}
        self.closed: dict[str, str] = {}
        self._found: dict[tuple, keras.Model | None] = {}

    def call(self, call, tensors, prefix, names):
        if may_open(call.operation):
            model = self._opened(call, prefix + call.name)
            if model is not None:
                training = {name: value for name, value in call.kwargs.items() if name == "training"}
                outputs = keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0], **training))
                if [has_mask(x) for x in outputs] == [has_mask(x) for x in call.outputs]:
                    return outputs
                self._stays(prefix + call.name, "it hands on masks in a way of its own")
        return super().call(call, tensors, prefix, names)

    def _opened(self, call: Call, path: str) -> keras.Model | None:
        """The model that a layer is, or None if it stays closed. Calls of one layer that are alike share it."""
        constants = keras.tree.map_structure(
            lambda x: (tuple(x.shape), x.dtype) if isinstance(x, keras.KerasTensor) else repr(x), (call.args, call.kwargs)
        )
        key = (id(call.operation), repr(constants))
        if key not in self._found:
            try:
                if call.masks or any(has_mask(x) for x in call.inputs):
                    raise StaysClosed("it is called on a mask, or on tensors that carry one")
                self._found[key] = self.recorded(call.operation, call.args, call.kwargs, path)
            except StaysClosed as error:
                self._stays(path, str(error))
                self._found[key] = None
        return self._found[key]

    def _stays(self, path: str, why: str) -> None:
        """Notes that a layer stays closed, instead of what was found inside of it."""
        inside = [name for name in (*self.opened, *self.closed) if f"{name}/".startswith(f"{path}/")]
        for name in inside:
            self.opened.pop(name, None)
            self.closed.pop(name, None)
        self.closed[path] = why

    def recorded(self, layer: keras.Layer, args: tuple, kwargs: dict, path: str) -> keras.Model:
        """The model of one call of a layer, opened in turn and compared with the layer."""
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        graph = _in_both_modes(layer, args, kwargs)
        if path:
            self.opened[path] = type(layer).__name__
        names = {call.name for call in graph.calls if isinstance(call.operation, keras.Layer)}
        model = self.model(graph, layer.name, path and path + "/", names)
        if problem := differ(layer, model, tensors, lambda x, arrays: _call(x, args, kwargs, arrays), _call_model):
            raise StaysClosed(f"what its call leaves behind is not what it does: {problem}")
        return model


def _call(layer: keras.Layer, args: tuple, kwargs: dict, arrays: list):
    """Calls a layer on arrays in the place of symbolic tensors, in inference."""
    waiting = list(arrays)
    args, kwargs = keras.tree.map_structure(
        lambda x: waiting.pop(0) if isinstance(x, keras.KerasTensor) else x, (args, kwargs)
    )
    return layer(*args, **kwargs, **({"training": False} if takes_training(layer) else {}))


def _call_model(model: keras.Model, arrays: list):
    return model(arrays if len(arrays) > 1 else arrays[0], training=False)


# Training and inference -----------------------------------------------------------------------------------------------


def _in_both_modes(layer: keras.Layer, args: tuple, kwargs: dict) -> Graph:
    """The graph of a layer's call, if that is the same in training and in inference.

    A branch on `training` around layers that do nothing in inference, such as Dropout, is taken as in training.
    """
    graph = _without_training(record(layer, args, kwargs))
    if not takes_training(layer):
        return graph
    try:
        other = _without_training(record(layer, args, kwargs, training=True))
    except StaysClosed as error:
        raise StaysClosed(f"in training it does something that cannot be opened: {error}") from error
    return graph if _outline(graph) == _outline(other) else other


def _without_training(graph: Graph) -> Graph:
    """The graph with calls that are not told in which mode they run: their model is."""
    if any(call.kwargs.get("training") is False for call in graph.calls):
        raise StaysClosed("its call fixes `training` of a layer, which a Functional model does not keep")
    graph.calls = tuple(
        replace(call, kwargs={name: value for name, value in call.kwargs.items() if name != "training"})
        for call in graph.calls
    )
    return graph


def _outline(graph: Graph) -> list:
    """What makes two graphs of one layer the same."""
    numbers = {id(x): i for i, x in enumerate(graph.inputs)}
    result = []
    for call in graph.calls:
        arguments = keras.tree.map_structure(
            lambda x: f"tensor {numbers[id(x)]}" if isinstance(x, keras.KerasTensor) else repr(x), (call.args, call.kwargs)
        )
        numbers.update({id(x): len(numbers) + i for i, x in enumerate(call.outputs)})
        operation = call.operation
        is_layer = isinstance(operation, keras.Layer)
        result.append((id(operation) if is_layer else repr(type(operation)), repr(arguments)))
    return [*result, [numbers[id(x)] for x in graph.outputs]]
