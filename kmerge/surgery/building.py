"""Builds the model of a layout: the template's graph with other widths. Its weights are still to be filled."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.cloning import check_same_weights, clone_operation
from kmerge.errors import KmergeError, UnsupportedLayerError, told
from kmerge.graph import Call, Graph, exportable, frozen_as, has_mask, inner_layers, input_layer, rename_operation
from kmerge.rules import Labels, gather
from kmerge.spaces import copy_name
from kmerge.surgery.layout import Layout, Placed
from kmerge.surgery.masks import reads_carried_mask, with_masks


@dataclass
class Gating:
    """Layers to put at the inputs of the layers that mix channels, while a model is rebuilt.

    Attributes:
        start: called once with the list of the model's inputs.
        apply: `apply(placed, operation, tensors)` gives what is called instead of an operation, and on what; the
            operation is None where several run, each on the channels of a source.
        inside: `inside(entries)` gives the gates of units that a layer mixes inside itself, or None if they have none.
        note: `note(key, path, name)` is told the name of each operation that is called with arrays.
    """

    start: Callable[[list], None]
    apply: Callable[[Placed, keras.Operation | None, list], tuple]
    inside: Callable[[np.ndarray], keras.KerasTensor | None]
    note: Callable[[tuple, str, str], None] = lambda key, path, name: None


def build(
    layout: Layout,
    gating: Gating | None = None,
    name: str | None = None,
    constants: Mapping[tuple, Sequence[Mapping]] | None = None,
) -> tuple[keras.Model, dict[str, keras.Layer]]:
    """Builds the model of a layout; its weights are zeros.

    Args:
        layout: the layout.
        gating: layers to put before consumers. With it, nested models are built flat, so that one gate reaches all
            uses of a space.
        name: of the new model; by default the template's.
        constants: the arrays among the arguments of calls, see `constants_of`; by default the template's.

    Returns:
        The model, and its layers by the path of the layer in the template.
    """
    builder = _Builder(layout, gating, constants or {})
    model = builder.model(name or layout.trace.model.name)
    for path, layer in builder.layers.items():
        check_same_weights(layout.trace.layers[layout.origins.get(path, (path, None))[0]], layer.weights)
    return model, builder.layers


class _Builder:
    def __init__(self, layout: Layout, gating: Gating | None, constants: Mapping[tuple, Sequence[Mapping]]):
        self.layout = layout
        self.constants = constants
        self._keys = {id(placed): key for key, placed in layout.calls.items()}
        self.gating = gating
        self.layers: dict[str, keras.Layer] = {}
        self._clones: dict[tuple, object] = {}
        self._nested: dict[tuple, keras.Model] = {}  # by the id of the template's and the shapes that it reads
        self._values: dict[int, keras.KerasTensor] = {}  # by the ids of the template's tensors, where it builds now
        self._stacked: dict[int, tuple] = {}  # what stands side by side in a stack, to be read without it
        self._first_keys: dict[tuple, tuple] = {}  # of the calls for which these were built
        self._same: dict[int, int] = {}  # tensors that are in inference the very tensor that their layer read
        # Flat names are found as layers come; otherwise those of the template stay and others must differ from them.
        self._names = set() if gating else {name for path in layout.trace.layers for name in path.split("/")}
        # An averaged output keeps its name, by which losses and metrics are keyed; the layer before it gets another.
        maker = {id(x): call for call in Graph(layout.trace.model).calls for x in call.outputs}
        ends = {i: maker.get(id(layout.trace.model.outputs[i])) for i in layout.averages}
        self._renamed = {
            id(call.operation): self._unused(f"{call.name}_of_each") for call in ends.values() if call is not None
        }
        self._output_names: dict[int, str] = {}
        for i, call in ends.items():
            name = f"mean_of_output_{i}" if call is None else call.name
            # A layer that makes several outputs had one name for all; each mean is a layer of its own.
            is_free = call is not None and name not in self._output_names.values()
            self._output_names[i] = name if is_free else self._unused(name)

    def model(self, name: str) -> keras.Model:
        graph = Graph(self.layout.trace.model)
        inputs = [
            _new_input(x, _wider(labels, int(positions.max()) + 1))
            for x, labels, positions in zip(graph.inputs, self.layout.trace.inputs, self.layout.copies, strict=True)
        ]
        self._names.update(x.name for x in inputs)
        if self.gating:
            self.gating.start(inputs)
        tensors = [
            x if labels.is_virtual else gather(x, labels.axis, positions, name=copy_name(x.name))
            for x, labels, positions in zip(inputs, self.layout.trace.inputs, self.layout.copies, strict=True)
        ]
        outputs = self._run(graph, tensors, (), "")
        means: dict[int, keras.KerasTensor] = {}  # one tensor may be several outputs
        for i, parts in self.layout.averages.items():
            if id(graph.outputs[i]) not in means:
                mean = self._mean(outputs[i], self.layout.outputs[i], parts, self._output_names[i])
                means[id(graph.outputs[i])] = mean
            outputs[i] = means[id(graph.outputs[i])]
        self._check_output_masks(graph, outputs)
        return _assemble(graph, inputs, outputs, name, frozen=self.gating is None)

    def _check_output_masks(self, graph: Graph, outputs: list) -> None:
        for i, (old, new) in enumerate(zip(graph.outputs, outputs, strict=True)):
            if has_mask(old) and not has_mask(new):
                why = "it carries a mask, by which losses leave steps out, and would lose it."
                remedy = "Build the model without masks, and give `fit` sample weights for the steps."
                raise UnsupportedLayerError(graph.model.name, f"output {i} of the model", why, remedy)

    def _check_masks(self, call: Call, tensors: list, prefix: str) -> None:
        """Operations, and so gathers, drop the masks that tensors carry; masks that are arguments are kept."""
        for i, (old, new) in enumerate(zip(call.inputs, tensors, strict=True)):
            if has_mask(old) and new is not None and not has_mask(new) and reads_carried_mask(call, i):
                why = "it reads a mask that would be lost on the way, where channels are taken apart or reordered."
                remedy = (
                    "Build what makes the mask without it, as with mask_zero=False, and hand the mask on as an argument, to "
                    "attention as value_mask or attention_mask: Keras disregards a query_mask."
                )
                raise UnsupportedLayerError(prefix + call.name, type(call.operation).__name__, why, remedy)

    def _run(self, graph: Graph, inputs: list, number: tuple, prefix: str) -> list:
        values = {id(x): value for x, value in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            here = [values[id(x)] for x in call.inputs]
            key, self._values = number + (call.number,), values
            if not self.gating:  # whose gates keep masks; and `_take_masks` takes them off
                self._check_masks(*with_masks(call, here, values), prefix)
            if not call.is_model:
                outputs = self._named_call(self.layout.calls[key], here, prefix)
            elif self.gating:
                outputs = self._run(Graph(call.operation), here, key, prefix + call.name + "/")
            else:
                outputs = call.replay(self._nested_model(call, here, key), here)
            values.update({id(x): value for x, value in zip(call.outputs, outputs, strict=True)})
            if self.gating and not call.is_model:
                self._take_masks(self.layout.calls[key].record, values)
        return [values[id(x)] for x in graph.outputs]

    def _take_masks(self, record, values: dict) -> None:
        """After a layer that takes the masks off what it reads: off the tensors themselves, as it now reads gated ones."""
        call, same = record.call, self._same
        if record.rule.hands_on(call.operation):
            same[id(call.outputs[0])] = same.get(id(call.inputs[0]), id(call.inputs[0]))
        if record.rule.takes_masks:
            taken = {same.get(id(x), id(x)) for x in call.inputs}
            for x, value in values.items():
                if same.get(x, x) in taken and has_mask(value):
                    # An operation keeps no mask.
                    values[x] = rename_operation(keras.ops.copy(value), self._unused(f"unmasked_by_{record.call.name}"))

    def _nested_model(self, call, tensors: list, key: tuple) -> keras.Model:
        """One model for all calls; one more, around the same layers, for calls on other widths: none of these has weights."""
        graph = Graph(call.operation)
        read = zip(graph.inputs, call.inputs, tensors, strict=True)
        shapes = tuple(_widened(x.shape, old.shape, new.shape) for x, old, new in read)
        like = id(call.operation), shapes
        if like in self._nested:
            self._check_same_inside(call, self._first_keys[like], key)
        else:
            inputs = [_new_input(x, shape) for x, shape in zip(graph.inputs, shapes, strict=True)]
            outputs = self._run(graph, inputs, key, "")
            name, before = self._renamed.get(id(call.operation), call.name), sum(like[0] == n for n, _ in self._nested)
            name = self._unused(f"{name}_call_{before}") if before else name
            self._first_keys[like], self._nested[like] = key, _assemble(graph, inputs, outputs, name)
        return self._nested[like]

    def _check_same_inside(self, call: Call, first: tuple, key: tuple) -> None:
        """A nested model is built once for all its calls, so channels must lie in one order inside it."""
        for inner, placed in self.layout.calls.items():
            if inner[: len(key)] == key and placed.way() != self.layout.calls[first + inner[len(key) :]].way():
                why = f"its calls would need {placed.record.call.name!r} in it to read channels in two orders."
                remedy = "Call it once, or give each call a model of its own."
                raise UnsupportedLayerError(call.name, type(call.operation).__name__, why, remedy)

    def _named_call(self, placed: Placed, tensors: list, prefix: str) -> list:
        try:
            return self._call(placed, tensors, prefix)
        except KmergeError:
            raise
        except Exception as error:
            call = placed.record.call
            raise UnsupportedLayerError(
                placed.record.path, type(call.operation).__name__,
                f"it cannot be called on the channels of the new model ({told(error)}).",
                "If it has a rule of yours, see whether that tells all that depends on them; otherwise let it run as it is: "
                "kmerge.register_rule(layer_class, kmerge.OpaqueRule()).",
                call.reads,
            ) from None  # fmt: skip

    def _call(self, placed: Placed, tensors: list, prefix: str) -> list:
        if any(len(x.units) == 0 for x in placed.inputs) or all(len(x.units) == 0 for x in placed.outputs):
            return self._call_on_the_rest(placed, tensors, prefix)
        outputs = self._call_on_all(placed, tensors, prefix)
        return [y if len(x.units) else None for x, y in zip(placed.outputs, outputs, strict=True)]

    def _call_on_all(self, placed: Placed, tensors: list, prefix: str) -> list:
        record = placed.record
        if placed.averages:
            tensors = [self._mean(tensors[0], record.inputs[0], placed.averages, f"mean_before_{record.call.name}")]
        for i, (axis, positions) in placed.gathers.items():
            tensors[i] = self._gather(tensors[i], axis, positions, record.call.name)
        if placed.parts:
            return self._run_apart(placed, tensors, prefix)
        gates = self._gates_inside(placed) if self.gating else None
        operation = called = self._operation(placed, prefix, record.path, None if gates is None else record.rule.gated)
        call, tensors = with_masks(self._use(placed, record.path, operation), tensors, self._values)
        if placed.gathers:
            self._check_masks(call, tensors, prefix)
        if self.gating:
            called, tensors = self.gating.apply(placed, operation, tensors)
        if gates is not None and record.normalizes:
            tensors = [[tensors[0], gates]]
        elif gates is not None:
            called = functools.partial(called, head_gates=gates)
        with _no_draws(operation):
            return record.rule.replay(call, called, tensors, placed.picks)

    def _use(self, placed: Placed, path: str, operation, number: int = 0) -> Call:
        """The template's call, for the one that runs in its place or for one of its parts, with the arrays of that."""
        key, call = self._keys[id(placed)], placed.record.call
        if call.constants and self.gating:
            self.gating.note(key, path, operation.name)
        return call.with_constants(self.constants[key][number]) if key in self.constants else call

    def _gates_inside(self, placed: Placed):
        """The gates of units that a layer mixes inside itself; those of a normalization lie as its input's channels do."""
        if not placed.record.normalizes:
            return None if placed.inside is None else self.gating.inside(placed.inside)
        (x,) = placed.inputs
        gates = self.gating.inside(x.units)
        if gates is None or x.axis == 1 == len(x.shape) - 1:
            return gates
        shape = [-1] + [len(x.units) if i == x.axis else 1 for i in range(1, len(x.shape))]
        return rename_operation(keras.ops.reshape(gates, shape), self._unused(f"gates_in_{placed.record.call.name}"))

    def _call_on_the_rest(self, placed: Placed, tensors: list, prefix: str) -> list:
        """A call some of whose channels are all dropped: what reads only such is left out, and a join has fewer parts."""
        rest = [x for x in tensors if x is not None]
        if any(len(x.units) == 0 for x in placed.outputs):
            return [None] * len(placed.outputs)
        if len(rest) == 1:
            return rest
        return [self._operation(placed, prefix, placed.record.path)(rest)]

    def _run_apart(self, placed: Placed, tensors: list, prefix: str) -> list:
        """Runs a layer of its own for each source, on the source's channels, and joins what they give."""
        record, results = placed.record, []
        if self.gating:
            _, tensors = self.gating.apply(placed, None, tensors)
        for number, part in enumerate(placed.parts):
            operation = self._operation(placed, prefix, part.path, changes=part.changes)
            read = list(tensors)
            for i, (axis, positions) in part.reads.items():
                read[i] = self._gather(tensors[i], axis, positions, operation.name)
            call, read = with_masks(self._use(placed, part.path, operation, number), read, self._values)
            self._check_masks(call, read, prefix)
            with _no_draws(operation):
                results.append(record.rule.replay(call, operation, read, {}))
        if len(results) == 1:
            return results[0]
        name = f"{record.call.name}_joined"
        return [
            self._join(labels, list(outputs), self._unused(name))
            for labels, outputs in zip(placed.outputs, zip(*results, strict=True), strict=True)
        ]

    def _join(self, labels: Labels, tensors: list, name: str):
        if labels.is_virtual:
            stacked = rename_operation(keras.ops.stack(tensors, axis=-1), name)
            self._stacked[id(stacked)] = stacked, tensors
            return stacked
        return keras.layers.Concatenate(labels.axis, name=name)(tensors)

    def _operation(self, placed: Placed, prefix: str, path: str, kind: type | None = None, changes: dict | None = None):
        """The layer of the new model; a shared layer has one, unless its uses come to differ in configuration."""
        operation, changes = placed.record.call.operation, placed.changes if changes is None else changes
        key = (path, repr(sorted(changes.items())), isinstance(operation, keras.Layer) or len(self._clones))
        if key not in self._clones:
            name = self._free_name(prefix, operation) + path.removeprefix(placed.record.path)
            clone = clone_operation(operation, changes, name, kind)
            if isinstance(clone, keras.Layer):
                self.layers.setdefault(path, clone)
            self._clones[key] = clone
        return self._clones[key]

    def _gather(self, x, axis: int | None, positions: np.ndarray, reader: str):
        """Reads positions of an axis; of a virtual one, None, the tensor at the only position."""
        if axis is None and id(x) in self._stacked:
            return self._stacked[id(x)][1][int(positions[0])]
        y = gather(x, axis, positions) if axis is not None else x[..., int(positions[0])]
        # Keras' own names count from 0 in each process, so they may be those of a template that was loaded.
        return y if y is x else rename_operation(y, self._unused(f"channels_for_{reader}"))

    def _mean(self, x, labels: Labels, parts: list, name: str):
        axis = None if labels.is_virtual else labels.axis
        return keras.layers.Average(name=name)([self._gather(x, axis, positions, name) for positions in parts])

    def _free_name(self, prefix: str, operation) -> str:
        name = self._renamed.get(id(operation), operation.name)
        return self._unused((prefix + name).replace("/", "_")) if self.gating else name

    def _unused(self, flat: str) -> str:
        free, i = flat, 0
        while free in self._names:
            i += 1
            free = f"{flat}_{i}"
        self._names.add(free)
        return free


def _wider(labels: Labels, width: int) -> tuple:
    """The shape of an input with at least `width` channels."""
    return labels.shape if width <= len(labels.units) else labels.with_units(np.arange(width)).shape


def _new_input(tensor, shape):
    layer = input_layer(tensor)
    return keras.Input(shape=shape[1:], batch_size=shape[0], dtype=tensor.dtype, name=layer.name, sparse=layer.sparse)


def _widened(shape: tuple, old: tuple, new: tuple) -> tuple:
    """The shape of an input of a nested model: its own, which may leave sizes open, but for axes that became wider."""
    if not len(shape) == len(old) == len(new):  # Keras adds and drops axes of size one; sources are stacked along a new one
        return tuple(new)
    return tuple(size if a == b else b for size, a, b in zip(shape, old, new, strict=True))


def _assemble(graph: Graph, inputs: list, outputs: list, name: str, frozen: bool = True) -> keras.Model:
    """A model with the graph's class and structure of inputs and outputs, on new tensors."""
    if isinstance(graph.model, keras.Sequential):
        chain = _chain(inputs, outputs, len(graph.calls))
        if chain is not None:
            model = keras.Sequential([input_layer(inputs[0]), *chain], name=name)
            return frozen_as(graph.model, exportable(model))
    new = {id(x): y for x, y in zip(graph.inputs + graph.outputs, inputs + outputs, strict=True)}
    place = lambda structure: keras.tree.map_structure(lambda x: new[id(x)], structure)  # noqa: E731
    model = exportable(keras.Model(place(graph.input_structure), place(graph.output_structure), name=name))
    return frozen_as(graph.model, model) if frozen else model


def _chain(inputs: list, outputs: list, count: int) -> list | None:
    """The layers between input and output if these are a plain chain of `count` layers; otherwise None."""
    calls = Graph(keras.Model(inputs, outputs)).calls
    layers = [call.operation for call in calls]
    return layers if len(calls) == count and all(isinstance(x, keras.Layer) for x in layers) else None


@contextlib.contextmanager
def _no_draws(operation):
    """Lets a layer that is about to be filled build its weights from zeros: drawing them costs time and memory."""
    kept = [
        (part, name, value)
        for part in inner_layers(operation)
        for name, value in vars(part).items()
        if name.endswith("_initializer") and value is not None
    ]
    try:
        for part, name, _ in kept:
            setattr(part, name, keras.initializers.Zeros())
        yield
    finally:
        for part, name, value in kept:
            setattr(part, name, value)
