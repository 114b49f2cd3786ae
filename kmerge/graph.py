"""A read-only view of a Functional model: its calls in the order in which they run.

Keras keeps the graph behind underscore attributes; this is the only file that knows them. A *call* is one use of
a layer, an operation or a nested model. A layer that is used twice makes two calls.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError, UnsupportedLayerError


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer, operation or nested model in a graph.

    Attributes:
        number: position among the calls of its graph, from 0.
        operation: the layer, operation or nested model that is called.
        inputs: its input tensors, in the order of its arguments.
        outputs: its output tensors.
        args, kwargs: its positional and keyword arguments, with tensors in their places.
        alone: whether nothing else reads its inputs, and they are no outputs of the graph.
        readers, unread: what reads its outputs, None for an output of the graph; the numbers of those that nothing reads.
    """

    number: int
    operation: keras.Operation
    inputs: tuple
    outputs: tuple
    args: tuple
    kwargs: dict
    alone: bool
    readers: tuple = ()
    unread: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def reads(self) -> list[str]:
        """The names of the layers and operations whose outputs it reads."""
        return [x._keras_history.operation.name for x in self.inputs]

    @property
    def is_model(self) -> bool:
        return isinstance(self.operation, keras.Model)

    @functools.cached_property
    def named_inputs(self) -> dict[str, list[int]]:
        """The numbers of the inputs that each argument of the operation's `call` holds."""
        numbers = iter(range(len(self.inputs)))
        given = (self.args, self.kwargs)
        args, kwargs = keras.tree.map_structure(lambda x: next(numbers) if isinstance(x, keras.KerasTensor) else None, given)
        bound = inspect.signature(self.operation.call).bind(*args, **kwargs).arguments
        flat = {name: keras.tree.flatten(value) for name, value in bound.items()}
        return {name: [i for i in value if i is not None] for name, value in flat.items()}

    @property
    def masks(self) -> frozenset[int]:
        """The inputs of a layer that are masks, which tell which places of a sequence count."""
        if len(self.inputs) < 2 or not isinstance(self.operation, keras.Layer):
            return frozenset()
        named = [numbers for name, numbers in self.named_inputs.items() if name == "mask" or name.endswith("_mask")]
        return frozenset(i for numbers in named for i in numbers)

    @property
    def reads_masks(self) -> bool:
        """Whether it is a layer that looks at the masks which its inputs carry."""
        names = inspect.signature(self.operation.call).parameters if isinstance(self.operation, keras.Layer) else ()
        return any(name == "mask" or name.endswith("_mask") for name in names)

    @functools.cached_property
    def constants(self) -> list:
        """The arrays among its arguments, in their order."""
        return [value for value in keras.tree.flatten((self.args, self.kwargs)) if _is_array(value)]

    def with_constants(self, arrays: Mapping[int, np.ndarray]) -> "Call":
        """This call with other arrays instead of `constants`, by their numbers."""
        numbers = iter(range(len(self.constants)))

        def place(value):
            return arrays.get(next(numbers), value) if _is_array(value) else value

        args, kwargs = keras.tree.map_structure(place, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    def on(self, tensors: list) -> "Call":
        """This call with other tensors in its arguments."""
        waiting = list(tensors)

        def place(value):
            return waiting.pop(0) if isinstance(value, keras.KerasTensor) else value

        args, kwargs = keras.tree.map_structure(place, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    def replay(self, operation: keras.Operation, tensors: list) -> list:
        """Calls `operation` as this call does, with `tensors` instead of `inputs`; returns its outputs."""
        call = self.on(tensors)
        return keras.tree.flatten(operation(*call.args, **call.kwargs))


class Graph:
    """The calls of a Functional or Sequential model, and its inputs and outputs.

    Args:
        model: the model.
        as_built: whether to take its graph as it was built even where its class has a `call` of its own.

    Attributes:
        model: the model.
        inputs, outputs: flat lists of its symbolic tensors.
        input_structure, output_structure: the same, nested as the user built them.
        calls: tuple of `Call`, each after those whose outputs it reads.
    """

    def __init__(self, model: keras.Model, as_built: bool = False):
        function = _functional(model, as_built)
        self.model = model
        self.inputs = list(function.inputs)
        self.outputs = list(function.outputs)
        self.input_structure = function._inputs_struct
        self.output_structure = function._outputs_struct
        self.calls = tuple(_calls(function))
        self._read = {id(x) for call in self.calls for x in call.inputs}

    def is_read(self, tensor: keras.KerasTensor) -> bool:
        """Whether a call of this graph reads the tensor."""
        return id(tensor) in self._read


# What runs when a model is called, and what runs around it while it trains.
_CALLS = ("__call__", "call", "symbolic_call", "operation_fn", "_run_through_graph", "_standardize_inputs")
_TRAINING = (
    "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "make_train_function",
    "make_test_function", "make_predict_function", "compile", "fit", "evaluate", "predict",
)  # fmt: skip


def overridden(model: keras.Model, names: Collection[str] = _TRAINING) -> list[str]:
    """Those of the methods of these names that a class of the user's, or the model itself, has instead of Keras' own."""
    own = [kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] != "keras"]
    return [name for name in names if name in vars(model) or any(name in vars(kind) for kind in own)]


def _is_array(value: Any) -> bool:
    is_symbolic = isinstance(value, keras.KerasTensor)
    return not is_symbolic and (isinstance(value, np.ndarray | keras.Variable) or keras.ops.is_tensor(value))


def _functional(model, as_built: bool = False):
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError(sentence("a keras.Model", model))
    if hasattr(model, "_nodes_by_depth") or isinstance(model, keras.Sequential):
        if not as_built and (own := overridden(model, _CALLS)):
            raise UnsupportedLayerError(
                model.name, type(model).__name__, f"it has a {own[0]!r} of its own, which its graph does not show.",
                "Make a plain one of it: kmerge.functional(model), or keras.Model(model.input, model.call(model.input)).",
            )  # fmt: skip
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            do = "Give it a keras.Input first, or call model.build(input_shape)."
            raise InvalidArgumentError(sentence("a Sequential model that is built", model.name, do))
        return model._functional
    if not hasattr(model, "_nodes_by_depth"):
        raise InvalidArgumentError(
            "Expected a Functional or Sequential model, through whose graph kmerge follows channels, received the "
            f"subclassed model {model.name!r} ({type(model).__name__}). Make it one with kmerge.functional(model, "
            "input_shape=...), or build it with keras.Model(inputs, outputs)."
        )
    return model


def _calls(function) -> Iterator[Call]:
    nodes = [
        node
        for depth in sorted(function._nodes_by_depth, reverse=True)
        for node in function._nodes_by_depth[depth]
        if not node.is_input
    ]
    readers: dict[int, list] = {id(x): [None] for x in function.outputs}
    for node in nodes:
        for x in node.arguments.keras_tensors:
            readers.setdefault(id(x), []).append(node.operation)
    for number, node in enumerate(nodes):
        inputs, made, arguments = tuple(node.arguments.keras_tensors), tuple(node.outputs), node.arguments
        alone = all(len(readers[id(x)]) == 1 for x in inputs)
        read_by = tuple(reader for x in made for reader in readers.get(id(x), ()))
        unread = frozenset(i for i, x in enumerate(made) if id(x) not in readers)
        yield Call(number, node.operation, inputs, made, arguments.args, arguments.kwargs, alone, read_by, unread)


def has_own_graph(operation: keras.Operation) -> bool:
    """Whether it is a Functional or built Sequential model that does what its graph says, with no call of its own."""
    is_sequential = isinstance(operation, keras.Sequential)
    known = operation._functional is not None if is_sequential else hasattr(operation, "_nodes_by_depth")
    return known and not overridden(operation, _CALLS)


def operations_of(model: keras.Model) -> list[keras.Operation]:
    """The layers, operations and nested models of a model's graph, each once."""
    return list(_functional(model)._operations)


def parts_of(operation: keras.Operation, deep: bool = True) -> list[keras.Layer]:
    """The layers that a layer or model holds, at any depth or just inside; none of what is no layer."""
    return list(operation._flatten_layers(False, deep)) if isinstance(operation, keras.Layer) else []


def own_inputs(model: keras.Model) -> Any:
    """The symbolic inputs of a model, nested as it takes them; None if it has none, as where it is subclassed."""
    return getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)


def built_shapes(model: keras.Model) -> Any:
    """The shape with which a model was built, without the batch axis, nested as its input is; None if it is not known."""
    shapes = [shape for shape in (model._build_shapes_dict or {}).values() if shape]
    return keras.tree.map_shape_structure(lambda shape: tuple(shape[1:]), shapes[0]) if len(shapes) == 1 else None


def is_buffer(layer: keras.Layer, variable: keras.Variable) -> bool:
    """Whether a layer holds a variable that is not trained even where the layer is."""
    return any(variable is other for other in layer._non_trainable_variables)


@contextlib.contextmanager
def called_in_mode(layer: keras.Layer, training: bool | None) -> Iterator[None]:
    """Lets the layers that are called meanwhile find this value of `training` around them, as in a call of the layer."""
    context = layer._get_call_context()
    before, context.training = getattr(context, "training", None), training
    try:
        yield
    finally:
        context.training = before
        layer._maybe_reset_call_context()


_one_at_a_time = threading.RLock()  # a thread would forget what another one is still calling


@contextlib.contextmanager
def calls_forgotten(model: keras.Layer) -> Iterator[None]:
    """On leaving, a model and all layers in it are as if nothing had been called meanwhile: calls, losses, attributes."""
    with _one_at_a_time:
        layers = [model, *parts_of(model), *getattr(getattr(model, "_functional", None) or model, "_operations", ())]
        kept = [(nodes, len(nodes)) for x in layers for nodes in (x._inbound_nodes, x._outbound_nodes)]
        kept += [(x._losses, len(x._losses)) for x in layers if isinstance(x, keras.Layer)]
        attributes = [(vars(x), dict(vars(x))) for x in layers]
        try:
            yield
        finally:
            for found, count in kept:
                del found[count:]
            for found, before in attributes:
                for name in found.keys() - before.keys():
                    del found[name]
                found.update(before)


def twin_of(operation: keras.Operation, name: str) -> keras.Operation:
    """A layer or operation that shares all that another holds, weights and parts, but for a name and calls of its own."""
    twin = object.__new__(type(operation))
    vars(twin).update(vars(operation), name=name, _inbound_nodes=[], _outbound_nodes=[])
    return twin


def dense_around(kernel: keras.Variable, **options: Any) -> keras.layers.Dense:
    """A Dense layer without a bias around a weight that is there; the options are those of the layer."""
    rules = {"kernel_regularizer": kernel.regularizer, "kernel_constraint": kernel.constraint}
    layer = keras.layers.Dense(kernel.shape[-1], use_bias=False, **rules, **options)
    layer._kernel, layer.bias, layer.built = kernel, None, True
    return layer


def input_like(tensor: keras.KerasTensor, name: str | None = None, shape: tuple | None = None) -> keras.KerasTensor:
    """A new input of the type of a symbolic tensor, and of its shape or another one."""
    batch, *shape = tensor.shape if shape is None else shape
    return keras.Input(shape=tuple(shape), batch_size=batch, dtype=tensor.dtype, sparse=tensor.sparse, name=name)


def frozen_alone(model: keras.Model) -> keras.Model:
    """Marks a model as frozen without reaching the layers inside; returns it."""
    model._trainable = False
    return model


def input_layer(tensor: keras.KerasTensor) -> keras.layers.InputLayer:
    """The `keras.layers.InputLayer` behind a model's input tensor."""
    return tensor._keras_history.operation


def array_of(tensor: Any) -> np.ndarray:
    """A weight or another variable or tensor as a NumPy array."""
    return keras.ops.convert_to_numpy(tensor)


def inner_layers(operation: keras.Operation) -> list[keras.Operation]:
    """A layer or operation and all layers in it, at any depth, each once and in one order for those that are built alike."""
    return [operation, *parts_of(operation)]


def find_weight(layer: keras.Layer, name: str) -> keras.Variable | None:
    """The weight `name` of a layer, or None where the layer has none.

    "query/kernel" is the weight `kernel` of the part `query`: an attribute that is a layer, or a part of that name.
    """
    *parts, last = name.split("/")
    for part in parts:
        inner = getattr(layer, part, None)
        if not isinstance(inner, keras.Layer):
            inner = next((x for x in layer._layers if x.name == part), None)
        if inner is None:
            return None
        layer = inner
    return getattr(layer, last, None)


def holders_of(layer: keras.Layer, index: int) -> list[keras.Layer]:
    """The layer and the parts of it, from the outside in, that hold its weight of this index; the last one made it."""
    weight = layer.weights[index]
    for part in layer._layers:
        for i, other in enumerate(part.weights):
            if other is weight:
                return [layer, *holders_of(part, i)]
    return [layer]


def mask_of(tensor: keras.KerasTensor) -> keras.KerasTensor | None:
    """The mask that Keras has attached to a symbolic tensor, which the next layer reads unless it is given one."""
    return getattr(tensor, "_keras_mask", None)


def has_mask(tensor: keras.KerasTensor) -> bool:
    """Whether a symbolic tensor carries a mask."""
    return mask_of(tensor) is not None


def rename_operation(tensor: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Names the operation that has just made a tensor: `keras.ops` functions take no name. Returns the tensor."""
    tensor._keras_history.operation.name = name
    return tensor


def frozen_as(old: keras.Model, new: keras.Model) -> keras.Model:
    """Freezes a model as a whole if another one is; returns it. Unfreezing would reach the layers inside."""
    if not old.trainable:
        new.trainable = False
    return new


def exportable(model: keras.Model) -> keras.Model:
    """The model, which then counts as called: Keras writes no ONNX file of another, whatever it knows of its inputs."""
    model._called = True
    return model


# What a class may define anew without changing what its layers compute.
_HARMLESS = {"__init__", "get_config", "from_config", "compute_output_shape", "compute_output_spec"}
# What Keras itself wraps in every layer that it makes.
_WRAPPED = {"build", "quantize"}
_names_in = functools.cache(dir)


def replaced_methods(operation: keras.Operation, ancestor: type) -> list[str]:
    """The names of what a layer, or its class, defines anew of an ancestor and what may change its outputs."""
    kind = type(operation)
    names = {name for c in kind.__mro__[: kind.__mro__.index(ancestor)] for name in vars(c)}
    if ancestor is not kind:
        names -= _HARMLESS
    names = {name for name in names if not name.startswith("__") or name in ("__call__", "__getattribute__")}
    own = {name for name in vars(operation).keys() & _names_in(ancestor) if callable(getattr(kind, name))} - _WRAPPED
    return sorted(name for name in names | own if hasattr(ancestor, name))


def is_quantized(operation: keras.Operation) -> bool:
    """Whether a layer, or one inside it, has quantized weights or LoRA factors."""
    layers = operation._flatten_layers() if isinstance(operation, keras.Layer) else ()
    return any(getattr(each, "quantization_mode", None) or getattr(each, "lora_enabled", False) for each in layers)


def compile_arguments(model: keras.Model) -> dict:
    """The arguments with which a model was compiled, as they were given; none for a model that is not."""
    return dict(model._compile_config.config) if model.compiled else {}


def profiles_batches(callback: keras.callbacks.TensorBoard) -> bool:
    """Whether a callback profiles some batches."""
    return callback._should_trace
