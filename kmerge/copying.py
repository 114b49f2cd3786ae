"""Copying a graph: every layer once, wherever it is called, and nested models as such."""

import re
from collections.abc import Callable

import keras

from kmerge.graph import Call, Graph, frozen_alone, has_own_graph, input_layer, input_like


class Copier:
    """Builds the model of a graph anew, nested models included, from a copy of each layer.

    Args:
        copy: makes the copy of a layer or operation, with a name.
    """

    def __init__(self, copy: Callable[[keras.Operation, str], keras.Operation]):
        self._copy = copy
        self.copies: dict[int, tuple[keras.Operation, keras.Operation]] = {}
        self.renamed: dict[int, str] = {}  # by the id of a layer, if another one has its name
        self._nested: dict[int, keras.Model] = {}

    def model(
        self, graph: Graph, name: str, prefix: str, names: set | None = None, shapes: list[tuple] | None = None
    ) -> keras.Model:
        """The model of a graph.

        Args:
            graph: the graph.
            name: of the model.
            prefix: the names of the models that it lies in, and its own, each with a slash behind.
            names: those that are taken where operations get new names; otherwise they keep theirs.
            shapes: of the inputs, where the graph was recorded with numbers instead of sizes that are open there.
        """
        shapes = [tuple(x.shape) for x in graph.inputs] if shapes is None else shapes
        pairs = zip(graph.inputs, shapes, strict=True)
        inputs = [input_like(x, input_layer(x).name, shape) for x, shape in pairs]
        values = {id(x): y for x, y in zip(graph.inputs, inputs, strict=True)}
        sizes = _open_sizes(graph.inputs, inputs)
        for call in graph.calls:
            outputs = self.call(call, [values[id(x)] for x in call.inputs], prefix, names, sizes)
            values.update({id(x): y for x, y in zip(call.outputs, outputs, strict=True)})
        place = lambda structure: keras.tree.map_structure(lambda x: values[id(x)], structure)  # noqa: E731
        model = keras.Model(place(graph.input_structure), place(graph.output_structure), name=name)
        return model if graph.model.trainable else frozen_alone(model)

    def call(self, call: Call, tensors: list, prefix: str, names: set | None, sizes: dict) -> list:
        """One call of the new model on new tensors, with these open sizes; returns its outputs."""
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
            name = name_of(operation, names) if renamed else self.renamed.get(id(operation), operation.name)
            self.copies[id(operation)] = (operation, self._copy(operation, name))
        return self.copies[id(operation)][1]


def _open_sizes(recorded: list, inputs: list) -> dict[int, tuple[keras.KerasTensor, int]]:
    """The numbers that stand for open sizes: for each an input that has it, of the fewest axes, and its axis."""
    found: dict[int, tuple[keras.KerasTensor, int]] = {}
    for x, y in sorted(zip(recorded, inputs, strict=True), key=lambda pair: len(pair[0].shape)):
        for axis, (number, size) in enumerate(zip(x.shape, y.shape, strict=True)):
            if size is None and number is not None:
                found.setdefault(number, (y, axis))
    return found


def name_of(operation: keras.Operation, names: set) -> str:
    """A name for an operation after its class, such as "add_1" where there is an "add"; joins the names.

    The name that Keras gives it counts the operations of the whole process.
    """
    return free_name(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(operation).__name__).lower(), names)


def free_name(name: str, names: set) -> str:
    """A name, or one after it such as "query_1", that is not among others; joins these."""
    free, count = name, 0
    while free in names:
        count += 1
        free = f"{name}_{count}"
    names.add(free)
    return free
