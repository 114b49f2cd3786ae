"""The calls of a model with the sizes of their tensors, for inputs of a given size.

A nested model may be built for any size and called with several: each of its calls has the sizes of that call.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import keras

from kmerge.checks import is_whole_number, refuse, sentence
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Call, Graph, input_layer

# The sizes of one example, for models with several inputs as a list or by name.
InputShape = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def sized_calls(model: keras.Model, input_shape: InputShape | None = None) -> Iterator[tuple[tuple, Call]]:
    """All calls of a model, those of nested models instead of the model. The model is not changed.

    Args:
        model: Functional or Sequential. A nested model without a graph is one call.
        input_shape: sizes of the inputs without the batch axis: a tuple; for several inputs a list of them in the
            order of `model.inputs`, or a dict by name. None leaves unknown sizes unknown.

    Yields:
        The numbers of the calls that lead to it, as `Trace.records` has them, and the `Call`, whose inputs and outputs
        have the sizes.

    Raises:
        InvalidArgumentError: for shapes that do not fit the inputs, or that a layer cannot take.
    """
    graph = Graph(model)
    given = {} if input_shape is None else _shapes_of(graph, input_shape)
    inputs = [_resized(x, given.get(i)) for i, x in enumerate(graph.inputs)]
    yield from calls_on(graph, inputs)


def calls_on(graph: Graph, inputs: Sequence[keras.KerasTensor], key: tuple = ()) -> Iterator[tuple[tuple, Call]]:
    """The calls of a graph on inputs of these shapes; returns, as a generator does, the graph's outputs."""
    values = {id(x): value for x, value in zip(graph.inputs, inputs, strict=True)}
    for call in graph.calls:
        here = tuple(values[id(x)] for x in call.inputs)
        inner = graph_in(call)
        if inner is None:
            outputs = _outputs(call, here)
            yield (*key, call.number), replace(call, inputs=here, outputs=outputs)
        else:
            read = [x for i, x in enumerate(here) if i not in call.masks]
            outputs = yield from calls_on(inner, read, (*key, call.number))
        values.update({id(x): value for x, value in zip(call.outputs, outputs, strict=True)})
    return [values[id(x)] for x in graph.outputs]


def graph_in(call: Call) -> Graph | None:
    """The graph of a nested model, also of one whose `call` is its own, as most hand on to their graph; None for all else."""
    try:
        return Graph(call.operation, as_built=True) if call.is_model else None
    except InvalidArgumentError:
        return None  # a subclassed model: it has no graph


def _outputs(call: Call, inputs: tuple) -> tuple:
    """The outputs of a call on inputs of other sizes than those that it was made with."""
    if all(x.shape == y.shape for x, y in zip(inputs, call.inputs, strict=True)):
        return call.outputs
    shapes = [tuple(x.shape) for x in inputs]
    try:
        found = call.replay(call.operation.compute_output_spec, list(inputs))
    except Exception as error:  # whatever Keras, its backend or a custom layer says to a size
        raise _misfit(call, shapes, str(error).strip().partition("\n")[0]) from None
    for new, old in zip(found, call.outputs, strict=True):
        if len(new.shape) != len(old.shape) or any(
            b not in (None, a) for a, b in zip(new.shape, old.shape, strict=True)
        ):
            raise _misfit(call, shapes, f"its output would have the shape {tuple(new.shape)}, not {tuple(old.shape)}")
    return tuple(found)


def _misfit(call: Call, shapes: list, why: str) -> InvalidArgumentError:
    expected = f"an input_shape with which layer {call.name!r} ({type(call.operation).__name__}) can be called"
    return InvalidArgumentError(sentence(expected, shapes, f"It would read these shapes, but: {why}"))


def _shapes_of(graph: Graph, input_shape: InputShape) -> dict[int, tuple]:
    """The shape given for each input, by its number."""
    names = [input_layer(x).name for x in graph.inputs]
    numbers = {name: i for i, name in enumerate(names)}
    if isinstance(input_shape, Mapping) and all(name in numbers for name in input_shape):
        return {numbers[name]: shape for name, shape in input_shape.items()}
    shapes = [input_shape] if _is_shape(input_shape) else input_shape
    if isinstance(shapes, list | tuple) and len(shapes) == len(names):
        return dict(enumerate(shapes))
    expected = f"a shape for each of the inputs {names}, in a list or a dict" if len(names) > 1 else "a shape"
    do = "Leave out the batch axis, as in (224, 224, 3)."
    refuse("input_shape", expected, input_shape, do, of=f"Model {graph.model.name!r}")


def _is_shape(value: object) -> bool:
    return isinstance(value, list | tuple) and all(n is None or is_whole_number(n) for n in value)


def _resized(tensor: keras.KerasTensor, shape: Sequence[int] | None) -> keras.KerasTensor:
    known = tuple(tensor.shape)
    if shape is None:
        return tensor
    fits = _is_shape(shape) and len(shape) == len(known) - 1
    if not fits or any((old is not None and old != n) or (n or 0) < 1 for n, old in zip(shape, known[1:], strict=True)):
        do = "It gives the sizes that are None; for others, build the model with another keras.Input."
        refuse("input_shape", f"whole numbers that fit the input {tensor.name!r} of shape {known[1:]}", shape, do)
    return keras.KerasTensor((known[0], *map(int, shape)), tensor.dtype, sparse=tensor.sparse, name=tensor.name)
