"""`functional`: a subclassed model, or one with layers that nobody has looked into, as a plain Functional one."""

import weakref
from collections.abc import Sequence
from typing import Any

import keras

from kmerge.checks import in_our_words, is_whole_number, refuse, sentence, text, warn
from kmerge.cloning import clone_operation
from kmerge.copying import Copier
from kmerge.errors import InvalidArgumentError, KmergeError, OpenedLayerWarning, UnsupportedLayerError
from kmerge.graph import (
    Graph,
    built_shapes,
    calls_forgotten,
    has_own_graph,
    inner_layers,
    own_inputs,
    rename_operation,
)
from kmerge.opening.comparing import differ
from kmerge.opening.reasons import StaysClosed
from kmerge.opening.recording import unbuilt_part
from kmerge.opening.views import View, opened, opened_call

_told: weakref.WeakSet = weakref.WeakSet()


def open_models(models: Sequence[keras.Model]) -> list[keras.Model]:
    """The models, on the same weights, with those layers open that no rule knows and that can be opened; says so once."""
    views = {id(model): opened(model) for model in models}
    for model in models:
        view = views[id(model)]
        if view.opened and model not in _told:
            kinds = ", ".join(f"{path!r} ({kind})" for path, kind in list(view.opened.items())[:3])
            more = f" and {len(view.opened) - 3} more" if len(view.opened) > 3 else ""
            warn(
                f"The layers {kinds}{more} of model {model.name!r} were opened: what comes back has, instead of them, nested "
                "models of the layers and operations that they use. Register a rule for a layer that shall stay whole.",
                OpenedLayerWarning,
            )
            break
    _told.update(model for model in models if isinstance(model, keras.Model))  # what is none is refused when it is walked
    return [views[id(model)].model for model in models]


def functional(model: keras.Model, input_shape: Any = None) -> keras.Model:
    """A subclassed or mixed model as a plain Functional one, whose channels kmerge can follow.

    The model's `call` is run once on symbolic tensors, which records the layers and operations that it uses. A layer in it
    for which kmerge has no rule is opened in the same way, and becomes a nested model of its name; a weight that it holds
    itself becomes a small layer of kmerge. What cannot be opened stays as it is, and a warning names it with the reason:
    a branch on the values of a tensor, functions of the backend, a sum of losses that it adds. The outputs of the new
    model are compared with those of the old one on random inputs before it is returned.

    Args:
        model: a built `keras.Model`. It is not changed.
        input_shape: the shape of an input without the batch axis, as of `keras.Input`, or a list or dict of such where the
            model takes several; or `keras.Input` tensors, where an input is not of type float32. By default the shapes
            with which the model was built. A Functional or Sequential model has its own.

    Returns:
        A new, uncompiled Functional model with the same weights. Its attribute `closed` is a dict from the paths of the
        layers that stay as they are to the reasons.

    Raises:
        InvalidArgumentError: if the model is not built, or its input shape is not known.
        UnsupportedLayerError: if the model itself cannot be opened, with the reason.

    Example:
        >>> class Net(keras.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem = keras.layers.Dense(6, name="stem")
        ...         self.block = keras.layers.Dense(6, activation="relu", name="block")
        ...         self.head = keras.layers.Dense(2, name="head")
        ...     def call(self, x):
        ...         x = self.stem(x)
        ...         return self.head(x + self.block(x))
        >>> net = Net()
        >>> outputs = net(x)
        >>> opened = kmerge.functional(net, input_shape=(3,))
        >>> kmerge.select(opened, {"stem": 0.5}).get_layer("block").units
        3
    """
    if not isinstance(model, keras.Model):
        refuse("model", "a keras.Model", model)
    if (unbuilt := unbuilt_part(model)) is not None:
        do = "Call the model on a batch first: before that it has no weights to carry over."
        raise InvalidArgumentError(sentence("a model that is built", unbuilt, do))
    inputs = own_inputs(model)
    if inputs is None:
        inputs = _inputs(model, input_shape)
    elif input_shape is not None:
        refuse("input_shape", "None for a model that has inputs", input_shape)
    if has_own_graph(model):
        view = opened(model)
    else:
        try:
            view = opened_call(model, (inputs,), {})
        except StaysClosed as error:
            do = "Build it with keras.Model(inputs, outputs), or write its call with keras layers and keras.ops alone."
            raise UnsupportedLayerError(model.name, type(model).__name__, f"{error}.", do) from None
    return _finished(model, inputs, view)


def _inputs(model: keras.Model, input_shape: Any) -> Any:
    """Symbolic inputs in the structure that the model's call takes."""
    if input_shape is None:
        input_shape = built_shapes(model)
        if input_shape is None:
            do = "Pass it: functional(model, input_shape=(28, 28, 1))."
            raise InvalidArgumentError(sentence("the shape of the model's input to be known", model.name, do))

    def tensor(value, name):
        if isinstance(value, keras.KerasTensor):
            return value
        if isinstance(value, dict) and value:
            return {key: tensor(part, text("the name of an input", key)) for key, part in value.items()}
        if isinstance(value, list | tuple) and all(n is None or is_whole_number(n) and n > 0 for n in value):
            return keras.Input(tuple(value), name=name)
        if isinstance(value, list | tuple):
            return type(value)(tensor(part, f"{name}_{i}") for i, part in enumerate(value))
        refuse("input_shape", "a shape, a keras.Input, or a list or dict of such", value)

    with in_our_words("input_shape to be a shape, a keras.Input, or a list or dict of such", input_shape):
        return tensor(input_shape, "input")


def _finished(model: keras.Model, inputs: Any, view: View) -> keras.Model:
    """A copy of what was opened, with weights of its own and inputs named and nested like those of the model."""
    graph, copier = Graph(view.model), Copier(_clone)
    for x, given in zip(graph.inputs, keras.tree.flatten(inputs), strict=True):
        if view.model is not model:
            rename_operation(x, given.name)
    graph.input_structure = keras.tree.pack_sequence_as(inputs, graph.inputs)
    result = copier.model(graph, model.name, "")
    for old, new in copier.copies.values():
        if isinstance(old, keras.Layer):
            _carry_over(old, new)
    if len(result.weights) != len(view.model.weights):
        why = "layers of it share a weight, which would become several."
        raise UnsupportedLayerError(model.name, type(model).__name__, why, "Share the layer that holds it instead.")
    old, new = (lambda x, m=m: m(keras.tree.pack_sequence_as(inputs, x), training=False) for m in (model, result))
    with calls_forgotten(model):
        try:
            problem = differ(model, graph.inputs, old, new)
        except StaysClosed as error:
            do = "Give the model inputs of fixed sizes, of numbers, integers, booleans or strings."
            raise UnsupportedLayerError(model.name, type(model).__name__, f"{error}.", do) from None
    if problem:
        raise KmergeError(
            f"The Functional model of {model.name!r} does not give what {model.name!r} gives: {problem}. It is withheld. "
            "This is a fault of kmerge: please report it with the model."
        )
    result.closed = dict(view.closed)
    if view.closed:
        reasons = "".join(f"\n    {path}: {why}." for path, why in view.closed.items())
        warn(f"Layers of {model.name!r} that stay as they are, their channels fixed:{reasons}")
    if view.untrained:
        warn(f"The Functional model of {model.name!r} is what it does in inference: {view.untrained}.")
    return result


def _clone(operation: keras.Operation, name: str) -> keras.Operation:
    try:
        return clone_operation(operation, {}, name)
    except Exception as error:
        raise _not_rebuilt(operation, f" ({type(error).__name__}: {error})") from error


def _carry_over(old: keras.Layer, new: keras.Layer) -> None:
    """The weights of a layer, and what is frozen in it."""
    parts, copies = inner_layers(old), inner_layers(new)
    shapes, received = ([tuple(x.shape) for x in layer.weights] for layer in (old, new))
    if shapes != received or len(parts) != len(copies):
        raise _not_rebuilt(old)
    for part, copy in zip(parts, copies, strict=True):
        if part.trainable != copy.trainable:
            copy.trainable = part.trainable
    for weight, copy in zip(old.weights, new.weights, strict=True):
        copy.assign(weight)
        copy.trainable = weight.trainable


def _not_rebuilt(operation: keras.Operation, detail: str = "") -> UnsupportedLayerError:
    why = f"it cannot be built again from its configuration{detail}."
    remedy = "Give its class a get_config with all arguments of its constructor."
    return UnsupportedLayerError(operation.name, type(operation).__name__, why, remedy)
