"""Recording what a layer's `call` does: run once on symbolic tensors, it leaves a graph behind.

Whatever it does with its inputs becomes a call of that graph. What would be lost on the way is trapped: a variable that is
read as a number would be a constant from then on, one that is written would change no more. So the weights that a layer
holds itself are symbolic tensors while it is recorded (see `holding`), and any other variable that is read or written by
something else than a recorded layer makes the layer one that stays closed.
"""

import contextlib
import inspect
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kmerge.graph import (
    Call,
    Graph,
    array_of,
    called_in_mode,
    frozen_alone,
    has_own_graph,
    inner_layers,
    input_like,
    parts_of,
)
from kmerge.opening.batches import BATCH, computes_with_none
from kmerge.opening.holding import HeldWeight
from kmerge.opening.lengths import known_shapes, knows_lengths, open_lengths
from kmerge.opening.numbering import Places, ends_given, symbolic_places
from kmerge.opening.reasons import UNKNOWN_SIZE, StaysClosed, meaning_of
from kmerge.rules import has_rule


class _Trap(keras.StatelessScope):
    """Notes which variables are read or written as numbers, and lets none be changed.

    Keras asks the innermost scope. While a layer works out the shape of what it gives, that is another one.
    """

    def __init__(self):
        super().__init__()
        self.read: dict[int, keras.Variable] = {}
        self.written: dict[int, keras.Variable] = {}

    def get_current_value(self, variable):
        self.read[id(variable)] = variable
        return super().get_current_value(variable)

    def add_update(self, update):
        self.written[id(update[0])] = update[0]
        super().add_update(update)


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a layer, to be recorded.

    Attributes:
        layer: the layer, built. Its own nodes are not touched; those of the layers in it are, see `calls_forgotten`.
        args, kwargs: the arguments of the call; symbolic tensors stand for the inputs of the graph, in their order.
        held: the `HeldWeight` around each weight so far, by the id of the weight; new ones join.
        unread: the numbers of the outputs that nothing reads, which may be something else than tensors.
    """

    layer: keras.Layer
    args: tuple
    kwargs: dict
    held: dict
    unread: frozenset[int] = frozenset()

    @property
    def tensors(self) -> list[keras.KerasTensor]:
        """The symbolic tensors among the arguments."""
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, keras.KerasTensor)]

    @property
    def shapes(self) -> list[tuple]:
        """The shapes of `tensors`."""
        return [tuple(x.shape) for x in self.tensors]

    def read(self, outputs: Any) -> list:
        """Those of the outputs of a call that something reads."""
        return [x for i, x in enumerate(keras.tree.flatten(outputs)) if i not in self.unread]


def record(use: Use, training: bool | None = None) -> Graph:
    """The graph of one call of a layer, on inputs like those of the call.

    Args:
        use: the call.
        training: handed to `call`, where it takes it, and to the layers in it that are not told otherwise.

    Returns:
        The graph. Its layers are those of the layer, and `HeldWeight`s around weights that it holds itself.

    Raises:
        StaysClosed: with the reason.
    """
    layer, shapes = use.layer, use.shapes
    if (unbuilt := unbuilt_part(layer)) is not None:
        raise StaysClosed(
            f"its layer {unbuilt!r} is not built, so that it has no weights yet; call it on a batch first"
        )
    if layer.activity_regularizer is not None:
        raise StaysClosed("it has an activity_regularizer, which would be lost")
    try:
        return record_with(use, training, shapes)
    except StaysClosed as error:
        if str(error) != UNKNOWN_SIZE:
            raise
    try:
        return record_with(use, training, [(x[0] or BATCH, *x[1:]) if x else x for x in shapes])
    except StaysClosed as error:
        why = error
    taken = {size for shape in [*shapes, *(x.shape for x in layer.weights)] for size in shape}
    for known in known_shapes(shapes, taken, BATCH):
        with contextlib.suppress(StaysClosed):
            graph = record_with(use, training, known)
            if knows_lengths(graph, shapes):  # in arrays, which a numbering of the places may have made
                with contextlib.suppress(StaysClosed):
                    return record_with(use, training, known, numbered=True)
            return graph
    raise why


def record_with(use: Use, training: bool | None, shapes: list[tuple], numbered: bool = False) -> Graph:
    """The graph of one call, as `record` makes it, recorded with inputs of these shapes.

    Args:
        use, training: as for `record`.
        shapes: of the inputs.
        numbered: whether the numbers of places are symbolic, see `numbering`.
    """
    layer = use.layer
    try:
        graph, stray = _attempt(use, [], training, shapes, numbered)
        bare = StaysClosed(f"its call reads {_names(stray.values())} in the middle of computing")
    except StaysClosed as error:
        if not error.read:
            raise
        stray, bare = error.read, error
    if stray:  # weights of parts: by what is called on constants, an Embedding of places first of all
        parts = [x for x in parts_of(layer) if any(id(v) in stray for _, found in _own(x) for v in found)]
        try:
            graph, stray = _attempt(use, parts, training, shapes, numbered)
        except StaysClosed as error:
            raise bare from error
        if stray:
            raise bare
    if any(computes_with_none(call) for call in graph.calls):
        raise StaysClosed(UNKNOWN_SIZE)
    _account_for(layer, graph)
    return graph


def _attempt(
    use: Use, parts: list, training: bool | None, shapes: list[tuple], numbered: bool
) -> tuple[Graph, dict[int, keras.Variable]]:
    """One recording, in which the weights of the layer itself and of these parts are symbolic.

    Returns:
        The graph, and the variables that were read as numbers all the same, by their ids.
    """
    layer, inputs = use.layer, []

    def place(value):
        if not isinstance(value, keras.KerasTensor):
            return value
        inputs.append(input_like(value, f"{layer.name}_input_{len(inputs)}", shapes[len(inputs)]))
        casts = layer.autocast and "float" in value.dtype and value.dtype != layer.input_dtype
        return keras.ops.cast(inputs[-1], layer.input_dtype) if casts else inputs[-1]

    args, kwargs = keras.tree.map_structure(place, (use.args, use.kwargs))
    if takes_training(layer):
        kwargs = {**kwargs, "training": training}
    with contextlib.ExitStack() as stack:
        for holder in (layer, *parts):
            stack.enter_context(_symbolic_weights(holder, use.held, inputs[0]))
        if numbered:
            stack.enter_context(symbolic_places(open_lengths(inputs, use.shapes), layer.name))
        elif any(None in shape for shape in shapes):
            stack.enter_context(ends_given())
        stack.enter_context(_spelled_out(layer, training))
        stack.enter_context(called_in_mode(layer, training))
        trap = stack.enter_context(_Trap())
        try:
            outputs = layer.call(*args, **kwargs)
        except Exception as error:
            closed = StaysClosed(meaning_of(error))
            closed.read = trap.read
            raise closed from error
    if trap.written:
        raise StaysClosed(f"its call changes {_names(trap.written.values())}")
    read = use.read(outputs)
    if not read or not all(isinstance(x, keras.KerasTensor) for x in read):
        raise StaysClosed("its call gives something else than tensors that depend on its inputs")
    given = lambda x: x if isinstance(x, keras.KerasTensor) else read[0]  # noqa: E731 - for what nothing reads
    try:
        with _names_apart(layer):
            model = keras.Model(inputs, keras.tree.map_structure(given, outputs), name=layer.name)
    except ValueError as error:
        raise StaysClosed(meaning_of(error)) from error
    graph = Graph(model if layer.trainable else frozen_alone(model))
    in_arguments = {id(x): x for call in graph.calls for x in _variables_in(_arguments(call))}
    return graph, trap.read | in_arguments


def unbuilt_part(layer: keras.Layer) -> str | None:
    """The name of a layer in this one that is not built, as a call on symbolic tensors may leave it; None if all are."""
    plain = keras.Layer.build  # which makes no weights
    return next(
        (x.name for x in inner_layers(layer) if not x.built and (type(x).build is not plain or parts_of(x))), None
    )


def takes_training(layer: keras.Layer) -> bool:
    """Whether the `call` of a layer has an argument `training`."""
    return "training" in inspect.signature(layer.call).parameters


# Weights of its own ---------------------------------------------------------------------------------------------------


def _own(layer: keras.Layer) -> Iterator[tuple[str, list[keras.Variable]]]:
    """The attributes of a layer that are variables, or lists, tuples and dicts of such: names, and the variables."""
    for name, value in vars(layer).items():
        if (not name.startswith("_") or isinstance(value, keras.Variable)) and (found := _variables_in(value)):
            yield name, found


def _variables_in(value: Any) -> list[keras.Variable]:
    if isinstance(value, keras.Variable):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [x for part in values for x in _variables_in(part)]


@contextlib.contextmanager
def _symbolic_weights(layer: keras.Layer, held: dict, anchor: keras.KerasTensor) -> Iterator[None]:
    """Lets the weights that a layer holds itself be symbolic tensors for a while."""
    own = dict(_own(layer))
    weights = {id(x): x for found in own.values() for x in found}
    held.update({key: HeldWeight.of(x, layer) for key, x in weights.items() if key not in held})
    tensors = {key: held[key](anchor) for key in weights}

    def symbolic(value):
        if isinstance(value, keras.Variable):
            return tensors[id(value)]
        if isinstance(value, dict):
            return {key: symbolic(part) for key, part in value.items()}
        return [symbolic(part) for part in value] if isinstance(value, list | tuple) else value

    kept = {name: vars(layer)[name] for name in own}
    vars(layer).update({name: symbolic(value) for name, value in kept.items()})
    if type(layer).call is keras.layers.Embedding.call and tensors:
        table = tensors[id(layer.weights[0])]
        vars(layer)["call"] = lambda indices: _rows(table, indices)
    try:
        yield
    finally:
        vars(layer).update(kept)
        if "call" not in kept:
            vars(layer).pop("call", None)


@contextlib.contextmanager
def _spelled_out(layer: keras.Layer, training: bool | None) -> Iterator[None]:
    """Lets parts that cannot be a call of a graph, as those that give None beside tensors, be what their `call` does."""

    def of(kind):
        def call(self, *args, **kwargs):
            try:
                return kind.__call__(self, *args, **kwargs)
            except Exception:
                if self.activity_regularizer is not None:
                    raise
                mode = {"training": training} if takes_training(self) and kwargs.get("training") is None else {}
                return self.call(*args, **{**kwargs, **mode})

        return type(kind.__name__, (kind,), {"__call__": call})

    parts = [(x, type(x)) for x in parts_of(layer) if not has_own_graph(x) and not has_rule(x)]
    kinds = {kind: of(kind) for _, kind in parts}
    try:
        for part, kind in parts:
            object.__setattr__(part, "__class__", kinds[kind])
        yield
    finally:
        for part, kind in parts:
            object.__setattr__(part, "__class__", kind)


@contextlib.contextmanager
def _names_apart(layer: keras.Layer) -> Iterator[None]:
    """Gives the layers inside a layer names of which no two are the same, as those of one model must be."""
    kept = [(x, x.name) for x in parts_of(layer)]
    twice = {name for name, count in Counter(name for _, name in kept).items() if count > 1}
    for number, (part, name) in enumerate(kept):
        if name in twice:
            vars(part)["name"] = f"{name}_kmerge_{number}"
    try:
        yield
    finally:
        for part, name in kept:
            vars(part)["name"] = name


def _rows(table: keras.KerasTensor, indices: Any) -> keras.KerasTensor:
    """What an `Embedding` gives for constant indices: rows of its table, as a slice where that will do."""
    if isinstance(indices, keras.KerasTensor):
        return keras.ops.take(table, indices, axis=0)
    indices = array_of(indices).astype("int32")
    rows = np.ravel(indices)
    if indices.ndim == 1 and np.array_equal(rows, np.arange(rows.size)):  # perhaps as many as there are places
        return keras.ops.slice(table, (0, 0), (rows.size, table.shape[1]))
    if rows.size and indices.shape[-1] == rows.size and np.array_equal(rows, np.arange(rows[0], rows[0] + rows.size)):
        return table[(*[None] * (indices.ndim - 1), slice(int(rows[0]), int(rows[-1]) + 1))]
    return keras.ops.take(table, indices, axis=0)


def _account_for(layer: keras.Layer, graph: Graph) -> None:
    """Every weight of the layer must be one of the graph, at one place, and the other way round."""
    reached: dict[int, keras.Variable] = {}
    for operation in {id(call.operation): call.operation for call in graph.calls}.values():
        weights = {id(x): x for x in getattr(operation, "weights", ())}
        if twice := [x for key, x in weights.items() if key in reached]:
            raise StaysClosed(f"its call uses {_names(twice)} in several layers, or in a layer and outside of it")
        reached |= weights
    own = {id(x): x for x in layer.weights}
    if lost := [x for key, x in own.items() if key not in reached]:
        raise StaysClosed(f"its call does not show what it does with {_names(lost)}")
    if strange := [x for key, x in reached.items() if key not in own]:
        raise StaysClosed(f"its call uses {_names(strange)}, which are no weights of its own")
    _keep_batches(graph)
    arguments = [x for call in graph.calls for x in keras.tree.flatten(_arguments(call))]
    if any(hasattr(x, "assign") for x in arguments):
        raise StaysClosed("its call uses a variable of the backend, which is no weight of Keras")
    if any(callable(x) for x in arguments):
        raise StaysClosed("its call hands a function to an operation, which may use weights that no one sees")


def _keep_batches(graph: Graph) -> None:
    """Layers take the first axis of what they read for that of a batch, which weights and places alone do not have."""
    without: set[int] = set()
    for call in graph.calls:
        held = isinstance(call.operation, HeldWeight | Places)
        if held or all(id(x) in without for x in call.inputs):
            if isinstance(call.operation, keras.Layer) and not held:
                raise StaysClosed(f"its call uses {call.name!r} on weights alone, without a batch axis")
            without.update(id(x) for x in call.outputs)


def _arguments(call: Call) -> list:
    """What a layer or operation is called on, and what an operation besides is made of."""
    made_of = (
        [] if isinstance(call.operation, keras.Layer) else [v for k, v in vars(call.operation).items() if k[0] != "_"]
    )
    return [*call.args, *call.kwargs.values(), *made_of]


def _names(variables: Collection[keras.Variable]) -> str:
    return "the weights " + ", ".join(repr(x.path) for x in list(variables)[:3])
