"""Opening a model: a Functional one on the same weights, in which layers without a rule are what their `call` does.

    Input -> "block" (TransformerBlock) -> "head"         Input -> "block" (Functional) -> "head"
                                                                    attention, add, norm, ...

A layer that is opened becomes a nested model of its name. A layer that cannot be opened stays as it is, with the reason.
"""

import contextlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras

from kmerge.cloning import clone_operation
from kmerge.copying import Copier, free_name, name_of
from kmerge.graph import (
    Call,
    Graph,
    calls_forgotten,
    has_mask,
    has_own_graph,
    operations_of,
    parts_of,
    twin_of,
)
from kmerge.opening.batches import BATCH, freed, repeats_batch
from kmerge.opening.comparing import differ
from kmerge.opening.kernels import with_dense_layers
from kmerge.opening.lengths import freed_masks, freed_rows, has_length, takes_rows
from kmerge.opening.modes import OnlyInference, content_of, graph_of_both_modes, outline_of
from kmerge.opening.reasons import StaysClosed, meaning_of
from kmerge.opening.recording import Use, takes_training
from kmerge.opening.sums import in_safe_order
from kmerge.rules import has_rule

# What a class of one's own is made from, and what does nothing itself.
_BARE = (keras.layers.Layer, keras.layers.Wrapper)


@dataclass
class View:
    """A model whose layers are open, as far as that goes.

    Attributes:
        model: the model; the argument itself if there is nothing to open.
        opened: the class of each layer that was opened, by path.
        closed: why each other layer without a rule stays as it is, by path.
        untrained: why the model itself is only what it does in inference; empty if it is the same in training.
    """

    model: keras.Model
    opened: dict[str, str] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    untrained: str = ""


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
        opener, result = _open(lambda opener: opener.model(Graph(model), model.name, ""))
        return View(result if opener.opened else model, opener.opened, opener.closed)


def _open(build: Callable[["_Opener"], keras.Model], held: dict | None = None) -> tuple["_Opener", keras.Model]:
    """Opens all calls of a layer or none: starts anew without a layer of which a later call could not be opened."""
    kept: dict[int, str] = {}
    while True:
        opener = _Opener(kept, {} if held is None else held)
        with contextlib.suppress(_Again):
            return opener, build(opener)


def opened_call(model: keras.Model, args: tuple, kwargs: dict) -> View:
    """Opens a model or layer whose graph nobody knows, called on symbolic tensors in `args` and `kwargs`.

    Where it does something else in training that cannot be recorded, the view does what it does in inference. A model's
    own `__call__` is not recorded but compared, as part of what the model does.

    Raises:
        StaysClosed: if it cannot be opened.
    """
    with calls_forgotten(model):
        try:
            use = Use(model, args, kwargs, {})
            graph, why = graph_of_both_modes(use), ""
        except OnlyInference as error:
            graph, why = error.graph, str(error)
        if type(model).__call__ is not keras.Layer.__call__:
            why = why or "it has a __call__ of its own, which was only compared in inference"
        opener, result = _open(lambda opener: opener.compared(graph, use, "", model.name), use.held)
        return View(result, opener.opened, opener.closed, why)


def may_open(operation: keras.Operation) -> bool:
    """Whether it is a layer that no rule knows, and that may show what it does: no plain layer of Keras."""
    if not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.InputLayer):
        return False
    if has_own_graph(operation) or has_rule(operation) or _changes_a_known_layer(type(operation)):
        return False
    return not type(operation).__module__.startswith("keras.src.") or bool(parts_of(operation))


def _changes_a_known_layer(kind: type) -> bool:
    """Whether it is a subclass of a layer of Keras that does something itself: what it adds is in the middle of that."""
    bases = (base for base in kind.__mro__[1:] if base.__module__.startswith("keras.src.layers."))
    return kind.__module__.partition(".")[0] != "keras" and any(b not in _BARE for b in bases)


def _has_closed(model: keras.Model) -> bool:
    return any(_has_closed(x) if has_own_graph(x) else may_open(x) for x in operations_of(model))


# The outlines of what each layer left behind that was found to be what it does, and which outputs nothing read: a verb opens
# a model several times.
_COMPARED: weakref.WeakKeyDictionary[keras.Layer, set[tuple]] = weakref.WeakKeyDictionary()


class _Again(Exception):
    """A layer stays closed of which another call was opened before."""


class _Opener(Copier):
    """Builds a model anew on the very same weights, and opens what has no rule.

    Args:
        kept: why layers stay closed, by their ids; those found to do so join.
        held: the `HeldWeight` around each weight, by the id of the weight; new ones join.
    """

    def __init__(self, kept: dict[int, str], held: dict[int, keras.Layer]):
        super().__init__(twin_of)
        self.opened: dict[str, str] = {}
        self.closed: dict[str, str] = {}
        self._kept = kept
        self._held = held
        self._models: dict[tuple, keras.Model] = {}
        self._kernels: dict[int, keras.layers.Dense | None] = {}  # see `with_dense_layers`

    def call(self, call, tensors, prefix, names, sizes):
        if any(has_length(x, sizes) for x in keras.tree.flatten((call.args, call.kwargs))):
            call, tensors = freed_masks(call, tensors, sizes, name_of(call.operation, names))
        # A function in a layer that is opened may use that layer, which no copy of the function may share.
        if may_open(call.operation) or names is not None and isinstance(call.operation, keras.layers.Lambda):
            path = prefix + self.renamed.get(id(call.operation), call.name)
            try:
                return self._opened(call, tensors, path)
            except StaysClosed as error:
                self._stays(call.operation, path, str(error))
        if _is_same_tensor(call):
            return tensors
        if sizes and (find := freed if repeats_batch(call) else freed_rows if takes_rows(call) else None):
            outputs = find(call, tensors[0], sizes, name_of(call.operation, names))
            if outputs is not None:
                return outputs
        if "newshape" in vars(call.operation):
            operation = _reshaped(call.operation, tensors[0], sizes, lambda: name_of(call.operation, names))
            call = replace(call, operation=operation)
        call, tensors = in_safe_order(call, tensors)
        return super().call(call, tensors, prefix, names, sizes)

    def _opened(self, call: Call, tensors: list, path: str) -> list:
        """The outputs of the model that a layer is. Calls of a layer that are alike share one."""
        layer = call.operation
        if id(layer) in self._kept:
            raise StaysClosed(self._kept[id(layer)])
        if type(layer).__call__ is not keras.Layer.__call__:
            raise StaysClosed("it overrides __call__")
        if any(has_mask(x) for x in call.inputs):
            raise StaysClosed("it is called on tensors that carry a mask")
        call = call.on(tensors)
        training = {name: value for name, value in call.kwargs.items() if name == "training"}
        kwargs = {name: value for name, value in call.kwargs.items() if name != "training"}
        use = Use(layer, call.args, kwargs, self._held, call.unread)
        key = (id(layer), repr(keras.tree.map_structure(_what_is_alike, (call.args, kwargs))), call.unread)
        if key not in self._models:
            graph = graph_of_both_modes(use)
            self.opened[path] = type(layer).__name__
            before = sum(number == id(layer) for number, *_ in self._models)
            name = self.renamed.get(id(layer), layer.name)
            name = f"{name}_call_{before}" if before else name
            self._models[key] = self.compared(graph, use, path + "/", name)
        outputs = keras.tree.flatten(self._models[key](tensors if len(tensors) > 1 else tensors[0], **training))
        if [has_mask(x) for x in outputs] != [has_mask(x) for x in call.outputs]:
            raise StaysClosed("it hands on masks in a way of its own")
        return outputs

    def _stays(self, layer: keras.Layer, path: str, why: str) -> None:
        """Notes that a layer stays closed, instead of what was found inside of it."""
        self._kept[id(layer)] = why
        if any(number == id(layer) for number, *_ in self._models):
            raise _Again
        for found in (self.opened, self.closed):
            for name in [name for name in found if f"{name}/".startswith(f"{path}/")]:
                del found[name]
        self.closed[path] = why

    def compared(self, graph: Graph, use: Use, prefix: str, name: str) -> keras.Model:
        """The model of what a call of a layer left behind, opened in turn and compared with the layer."""
        outline, compared = (outline_of(graph), use.unread), _COMPARED.setdefault(use.layer, set())
        graph = with_dense_layers(graph, self._kernels)
        names: set[str] = set()
        for part in {id(call.operation): call.operation for call in graph.calls}.values():
            if isinstance(part, keras.Layer):
                self.renamed[id(part)] = free_name(part.name, names)
        try:
            model = self.model(graph, name, prefix, names, use.shapes)
            if outline not in compared:
                of_layer = lambda arrays: use.read(_call(use, arrays))  # noqa: E731
                of_model = lambda arrays: use.read(  # noqa: E731
                    model(arrays if len(arrays) > 1 else arrays[0], training=False)
                )
                known = [tuple(x.shape) for x in graph.inputs]
                if problem := differ(use.layer, use.tensors, of_layer, of_model, known):
                    raise StaysClosed(f"what its call leaves behind is not what it does: {problem}")
        except (StaysClosed, _Again):
            raise
        except Exception as error:
            raise StaysClosed(meaning_of(error)) from error
        compared.add(outline)
        return model


def _what_is_alike(value) -> object:
    """What an argument has in common with those of calls of a layer that may share one model."""
    if isinstance(value, keras.KerasTensor):
        return tuple(value.shape), value.dtype
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return content_of(value)
    return repr(value)


def _is_same_tensor(call: Call) -> bool:
    """Whether it is a `keras.ops.convert_to_tensor` of a tensor to its own type, as a Functional model does to its inputs."""
    return type(call.operation).__name__ == "ConvertToTensor" and call.inputs[0].dtype == call.outputs[0].dtype


def _reshaped(reshape: keras.Operation, x: keras.KerasTensor, sizes: dict, name: Callable[[], str]) -> keras.Operation:
    """A `keras.ops.reshape` that was recorded with numbers instead of open sizes, for a tensor in which they are open.

    Args:
        reshape: the operation.
        x: the tensor.
        sizes: the numbers that stand for open sizes.
        name: makes one for a layer in its place.
    """
    first, *rest = reshape.newshape or [1]
    opens = [size in (None, -1) or size in sizes for size in rest]
    if sum(opens) == 1 and (None in x.shape[1:] or x.shape[:1] != (None,)):
        rest = tuple(-1 if is_open else size for size, is_open in zip(rest, opens, strict=True))
        if first in (None, -1, BATCH) and x.shape[:1] == (None,):
            options = {"dtype": x.dtype} if "float" in x.dtype else {}
            return keras.layers.Reshape(rest, name=name(), **options)
        if first not in (None, -1) and first not in sizes and first % BATCH:
            return clone_operation(reshape, {"newshape": (first, *rest)}, reshape.name)
    if first is None or first and first % BATCH == 0:
        return _with_known_sizes(reshape, x.shape)
    return reshape


def _with_known_sizes(reshape: keras.Operation, shape: tuple) -> keras.Operation:
    """A `keras.ops.reshape` to `(ops.shape(x)[0], ...)`, or a multiple of that, with all sizes but the first one.

    Where something else than the size of the batch was unknown, a comparison on batches of two sizes shows it.
    """
    rest = list(reshape.newshape[1:])
    known = [size for size in rest if size != -1]
    if None in rest or BATCH in rest or None in shape[1:] or len(known) < len(rest) - 1:
        raise StaysClosed("its call computes with a size that is not known")
    rest = [math.prod(shape[1:]) // math.prod(known) if size == -1 else size for size in rest]
    return clone_operation(reshape, {"newshape": (-1, *rest)}, reshape.name)


def _call(use: Use, arrays: list):
    """Calls a layer on arrays instead of symbolic tensors, in inference."""
    waiting = list(arrays)
    args, kwargs = keras.tree.map_structure(
        lambda x: waiting.pop(0) if isinstance(x, keras.KerasTensor) else x, (use.args, use.kwargs)
    )
    return use.layer(*args, **kwargs, **({"training": False} if takes_training(use.layer) else {}))
