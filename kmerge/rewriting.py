"""The one primitive: `rewrite` builds a new model from a template's structure and other models' units.

The template gives structure, names and configuration. The plan says which unit of which source each unit of the new
model is. Every weight is filled by looking up, for each of its axes, where the entries of the new axis lie in a source.
An element whose entries come from different sources is zero.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.channels import Trace, trace
from kmerge.errors import InvalidArgumentError, KmergeError
from kmerge.graph import Graph, clone_operation, frozen_as, input_layer, paired_layers
from kmerge.labels import Axis, positions_of
from kmerge.layout import Layout, Placed, Plan, weight_axes
from kmerge.seeds import seed_of
from kmerge.shape_rules import gather
from kmerge.walks import copy_name


@dataclass(frozen=True)
class Source:
    """Where values come from: arrays, and the entries along their axes.

    Attributes:
        read: `read(path, index)` gives the array of a layer's weight.
        axes: for each layer path, the axes of its weights by index.
    """

    read: Callable[[str, int], np.ndarray]
    axes: Mapping[str, Mapping[int, tuple]]


@dataclass
class Gating:
    """Layers to put at the inputs of the layers that mix channels, while a model is rebuilt.

    Attributes:
        start: called once with the list of the model's inputs.
        apply: `apply(placed, operation, tensors)` gives what is called in the place of an operation, and on what.
    """

    start: Callable[[list], None]
    apply: Callable[[Placed, keras.Operation, list], tuple]


def check_finite(model: keras.Model) -> None:
    """Raises `InvalidArgumentError` with the name of the first weight that holds NaN or infinity."""
    for weight in model.weights:
        if "float" in str(weight.dtype) and not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise InvalidArgumentError(
                f"Weight {weight.path!r} of model {model.name!r} holds NaN or infinity. Expected finite weights: "
                "the training of this model has failed; train it again."
            )


def rewrite(
    template: keras.Model, sources: Sequence[keras.Model], plan: Plan, *, scale: float = 0.0, seed: int = 0
) -> keras.Model:
    """Builds a model with the template's structure from units of the sources.

    Args:
        template: gives structure, names and configuration.
        sources: models of the template's architecture.
        plan: which unit of which source each unit of the new model is.
        scale: factor on the weights with which layers read new units; 0 leaves the outputs unchanged.
        seed: seed of the new units' own weights, drawn from their layers' initializers.

    Returns:
        A new, uncompiled model. The arguments are not changed.

    Raises:
        ArchitectureMismatchError, UnsupportedLayerError, InvalidArgumentError: before anything is built.
    """
    if len(sources) != plan.sources:
        raise InvalidArgumentError(f"Expected the {plan.sources} sources of the plan. Received: {len(sources)} models.")
    for model in {id(m): m for m in sources}.values():
        check_finite(model)
    walked = trace(template, plan.copied_inputs, plan.averaged_outputs)
    layout = Layout(walked, plan)
    found = [model_source(walked, plan, number, model) for number, model in enumerate(sources)]
    model, layers = build(layout)
    fill(layers, layout, found, Fresh(walked, scale, seed))
    verify(model, layout, layers)
    return model


def model_source(walked: Trace, plan: Plan, number: int, model: keras.Model) -> Source:
    """A model of the template's architecture as source `number` of a plan: its units in their own places."""
    layers = paired_layers(walked.model, model)
    names = [space.name for space in walked.spaces.values()]
    separate = np.array([name in plan.entries for name in names], dtype=int)
    entries = np.arange(len(walked.space_of)) + (1 + number) * len(walked.space_of) * separate[walked.space_of]

    def coded(roles):
        return tuple(a and Axis(a.role, entries[a.units]) for a in roles)

    axes = {
        path: {i: coded(roles) for i, roles in weight_axes(named, walked.layers[path]).items()}
        for path, named in walked.axes.items()
        if named
    }
    return Source(lambda path, i: keras.ops.convert_to_numpy(layers[path].weights[i]), axes)


# Building -------------------------------------------------------------------------------------------------------------


def build(
    layout: Layout, gating: Gating | None = None, name: str | None = None
) -> tuple[keras.Model, dict[str, keras.Layer]]:
    """Builds the model of a layout; its weights are zeros.

    Args:
        layout: the layout.
        gating: layers to put before consumers. With it, nested models are built flat, so that one gate reaches all
            uses of a space.
        name: of the new model; by default the template's.

    Returns:
        The model, and its layers by the path of the layer in the template.
    """
    builder = _Builder(layout, gating)
    return builder.model(name or layout.trace.model.name), builder.layers


class _Builder:
    def __init__(self, layout: Layout, gating: Gating | None):
        self.layout = layout
        self.gating = gating
        self.layers: dict[str, keras.Layer] = {}
        self._clones: dict[tuple, object] = {}
        self._nested: dict[int, keras.Model] = {}
        self._names: set[str] = set()
        # An averaged output keeps its name, by which losses and metrics are keyed; the layer before it gets another.
        averaged = {id(layout.trace.model.outputs[i]): i for i in layout.averages}
        calls = Graph(layout.trace.model).calls
        ends = [(call, averaged[id(x)]) for call in calls for x in call.outputs if id(x) in averaged]
        self._output_names = {i: call.name for call, i in ends}
        self._renamed = {id(call.operation): f"{call.name}_of_each" for call, _ in ends}

    def model(self, name: str) -> keras.Model:
        graph = Graph(self.layout.trace.model)
        inputs = [_new_input(x) for x in graph.inputs]
        self._names.update(x.name for x in inputs)
        if self.gating:
            self.gating.start(inputs)
        tensors = [
            gather(x, labels.axis, positions, name=copy_name(x.name))
            for x, labels, positions in zip(inputs, self.layout.trace.inputs, self.layout.copies, strict=True)
        ]
        outputs = self._run(graph, tensors, (), "")
        for i, parts in self.layout.averages.items():
            outputs[i] = _mean(outputs[i], self.layout.outputs[i].axis, parts, self._output_names[i])
        return _assemble(graph, inputs, outputs, name)

    def _run(self, graph: Graph, inputs: list, number: tuple, prefix: str) -> list:
        values = {id(x): value for x, value in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            here = [values[id(x)] for x in call.inputs]
            key = number + (call.number,)
            if not call.is_model:
                outputs = self._call(self.layout.calls[key], here, prefix)
            elif self.gating:
                outputs = self._run(Graph(call.operation), here, key, prefix + call.name + "/")
            else:
                outputs = call.replay(self._nested_model(call, here, key), here)
            values.update({id(x): value for x, value in zip(call.outputs, outputs, strict=True)})
        return [values[id(x)] for x in graph.outputs]

    def _nested_model(self, call, tensors: list, key: tuple) -> keras.Model:
        if id(call.operation) not in self._nested:
            graph = Graph(call.operation)
            inputs = [_new_input(x, tensor.shape) for x, tensor in zip(graph.inputs, tensors, strict=True)]
            outputs = self._run(graph, inputs, key, "")
            name = self._renamed.get(id(call.operation), call.name)
            self._nested[id(call.operation)] = _assemble(graph, inputs, outputs, name)
        return self._nested[id(call.operation)]

    def _call(self, placed: Placed, tensors: list, prefix: str) -> list:
        record = placed.record
        if placed.averages:
            tensors = [_mean(tensors[0], record.inputs[0].axis, placed.averages, f"mean_before_{record.call.name}")]
        for i, (axis, positions) in placed.gathers.items():
            tensors[i] = gather(tensors[i], axis, positions)
        operation = called = self._operation(placed, prefix)
        if self.gating:
            called, tensors = self.gating.apply(placed, operation, tensors)
        with _no_draws(operation):
            return record.rule.replay(record.call, called, tensors, placed.picks)

    def _operation(self, placed: Placed, prefix: str):
        """The layer of the new model; a shared layer has one, unless its uses come to differ in configuration."""
        operation, path = placed.record.call.operation, placed.record.path
        key = (path, repr(sorted(placed.changes.items())), isinstance(operation, keras.Layer) or len(self._clones))
        if key not in self._clones:
            clone = clone_operation(operation, placed.changes, self._free_name(prefix, operation))
            if isinstance(clone, keras.Layer):
                self.layers.setdefault(path, clone)
            self._clones[key] = clone
        return self._clones[key]

    def _free_name(self, prefix: str, operation) -> str:
        name = self._renamed.get(id(operation), operation.name)
        if not self.gating:
            return name
        flat = free = (prefix + name).replace("/", "_")
        i = 0
        while free in self._names:
            i += 1
            free = f"{flat}_{i}"
        self._names.add(free)
        return free


def _new_input(tensor, shape=None):
    layer = input_layer(tensor)
    shape = tuple(shape or tensor.shape)
    return keras.Input(shape=shape[1:], batch_size=shape[0], dtype=tensor.dtype, name=layer.name, sparse=layer.sparse)


def _assemble(graph: Graph, inputs: list, outputs: list, name: str) -> keras.Model:
    """A model with the graph's class and structure of inputs and outputs, on new tensors."""
    if isinstance(graph.model, keras.Sequential):
        chain = _chain(inputs, outputs, len(graph.calls))
        if chain is not None:
            return frozen_as(graph.model, keras.Sequential([input_layer(inputs[0]), *chain], name=name))
    new = {id(x): y for x, y in zip(graph.inputs + graph.outputs, inputs + outputs, strict=True)}
    place = lambda structure: keras.tree.map_structure(lambda x: new[id(x)], structure)  # noqa: E731
    return frozen_as(graph.model, keras.Model(place(graph.input_structure), place(graph.output_structure), name=name))


def _chain(inputs: list, outputs: list, count: int) -> list | None:
    """The layers between input and output if these are a plain chain of `count` layers; otherwise None."""
    calls = Graph(keras.Model(inputs, outputs)).calls
    layers = [call.operation for call in calls]
    return layers if len(calls) == count and all(isinstance(x, keras.Layer) for x in layers) else None


def _mean(x, axis: int, parts: list, name: str):
    return keras.layers.Average(name=name)([gather(x, axis, positions) for positions in parts])


@contextlib.contextmanager
def _no_draws(layer):
    """Lets a layer that is about to be filled build its weights from zeros: drawing them costs time and memory."""
    kept = {name: value for name, value in vars(layer).items() if name.endswith("_initializer") and value is not None}
    try:
        for name in kept:
            setattr(layer, name, keras.initializers.Zeros())
        yield
    finally:
        for name, value in kept.items():
            setattr(layer, name, value)


# Filling --------------------------------------------------------------------------------------------------------------


class Fresh:
    """Weights of new units: drawn from the initializers of their layers, with a seed of their own."""

    def __init__(self, walked: Trace, scale: float, seed: int):
        self.walked = walked
        self.scale = scale
        self.seed = seed

    def draw(self, path: str, index: int, shape: tuple) -> np.ndarray:
        layer = self.walked.layers[path]
        name = layer.weights[index].name
        for candidate in (name, name.removesuffix("_kernel"), "depthwise"):
            initializer = getattr(layer, f"{candidate}_initializer", None)
            if initializer is not None:
                break
        else:
            raise KmergeError(f"Layer {path!r}: weight {name!r} has no initializer to draw new units from.")
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = seed_of("new units", self.seed, path, name)
        return keras.ops.convert_to_numpy(type(initializer).from_config(config)(shape))


def fill(
    layers: Mapping[str, keras.Layer], layout: Layout, sources: Sequence[Source], fresh: Fresh | None = None
) -> None:
    """Assigns the weights of a newly built model.

    Args:
        layers: its layers by path.
        layout: its layout.
        sources: where the values come from; where several have an element, it is their mean.
        fresh: draws the weights of new units, where the plan has any.
    """
    for path, layer in layers.items():
        axes = weight_axes(layout.axes.get(path, {}), layer)
        for index, variable in enumerate(layer.weights):
            if index in axes:
                variable.assign(_value(path, index, variable, axes[index], layout, sources, fresh))
            else:
                variable.assign(_unlabelled(path, index, sources))
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _unlabelled(path: str, index: int, sources: Sequence[Source]) -> np.ndarray:
    values = [source.read(path, index) for source in sources]
    if any(not np.array_equal(values[0], value) for value in values[1:]):
        raise InvalidArgumentError(
            f"Layer {path!r}: its weight {index} has no channel axis and differs between the models, so that one model "
            "cannot hold both. Register a rule that names its axes, or give the models equal values."
        )
    return values[0]


def _value(path, index, variable, axes, layout: Layout, sources, fresh: Fresh | None) -> np.ndarray:
    result = None
    for source in sources:
        array = source.read(path, index)
        result = np.zeros(variable.shape, array.dtype) if result is None else result
        _add_block(result, array, axes, source.axes[path][index])
    if len(sources) > 1:
        # A unit that all sources make together is the mean of what each makes of it.
        at, axis = next(((i, a) for i, a in enumerate(axes) if a and a.role != "consumes"), (None, None))
        if axis is not None:
            common = layout.source_of(axis.units) == 0
            result[(slice(None),) * at + (common,)] /= len(sources)
    if fresh is not None:
        _add_new(result, path, index, axes, layout, len(sources), fresh)
    return result


def _add_block(result: np.ndarray, array: np.ndarray, axes: tuple, source_axes: tuple) -> None:
    """Adds the elements of a source's array, all of whose entries the new array has too."""
    target = []
    for at, (axis, source_axis) in enumerate(zip(axes, source_axes, strict=True)):
        if axis is None:
            target.append(np.arange(array.shape[at]))
            continue
        positions = positions_of(axis.units, source_axis.units)
        target.append(np.flatnonzero(positions >= 0))
        positions = positions[positions >= 0]
        if len(positions) != array.shape[at] or np.any(np.diff(positions) != 1):
            array = array.take(positions, axis=at)
    if all(len(t) and t[-1] - t[0] + 1 == len(t) for t in target):
        result[tuple(slice(t[0], t[-1] + 1) for t in target)] += array
    else:
        result[np.ix_(*target)] += array


def _add_new(result, path, index, axes, layout: Layout, sources: int, fresh: Fresh) -> None:
    draws = None
    for at, axis in sorted(enumerate(axes), key=lambda pair: bool(pair[1]) and pair[1].role == "consumes"):
        new = layout.source_of(axis.units) > sources if axis else np.zeros(1, bool)
        if new.any():
            draws = fresh.draw(path, index, result.shape) if draws is None else draws
            place = (slice(None),) * at + (new,)
            result[place] = draws[place] * (fresh.scale if axis.role == "consumes" else 1.0)


# Checking -------------------------------------------------------------------------------------------------------------


def verify(model: keras.Model, layout: Layout, layers: Mapping[str, keras.Layer]) -> None:
    """Walks the new model and compares what belongs together there with the plan.

    Args:
        model: the new model.
        layout: its layout.
        layers: its layers by the path in the template.

    Raises:
        KmergeError: if the entries of the plan and the units of the new model are not one to one.
    """
    walked = trace(model)
    found = {id(walked.layers[path]): axes for path, axes in walked.axes.items()}
    selectable = np.array([space.selectable for space in walked.spaces.values()], bool)
    # A group or a broadcast factor of one unit is no longer told from a channel, nor a gather that repeats none from a slice.
    gathers = {path for path, layer in layout.trace.layers.items() if type(layer).__name__ == "Take"}
    loose = [e for n, s in layout.trace.spaces.items() if len(e := layout.entries_of(n)) == 1 or gathers & {*s.owners}]
    pairs = [np.empty((2, 0), int)]
    for path, named in layout.axes.items():
        for name, axes in named.items():
            twins = zip(axes, found[id(layers[path])][name], strict=True)
            pairs += [np.stack([a.units, b.units]) for a, b in twins if a is not None]
    unique = np.unique(np.concatenate(pairs, axis=1), axis=1)
    unique = unique[:, selectable[walked.space_of[unique[1]]] & ~np.isin(unique[0], np.concatenate([[], *loose]))]
    if any(len(np.unique(side)) != unique.shape[1] for side in unique):
        raise KmergeError(
            f"The channel spaces of the rewritten model {model.name!r} do not agree with the plan. The result would be "
            "wrong, so it is withheld. This is a fault of kmerge: please report it with the model."
        )
