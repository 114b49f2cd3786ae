"""Training and inference: the graph of a call that holds in both modes."""

import hashlib
import weakref
from dataclasses import replace
from typing import Any

import keras

from kmerge.graph import Graph, array_of
from kmerge.opening.batches import BATCH
from kmerge.opening.dropping import as_dropout
from kmerge.opening.holding import HeldWeight
from kmerge.opening.lengths import is_same_when_longer, open_lengths
from kmerge.opening.numbering import Places
from kmerge.opening.reasons import StaysClosed
from kmerge.opening.recording import Use, record, record_with, takes_training

# How much longer a sequence is when a call is recorded once more: beyond most windows, if the layer takes so many places.
_LONGER = (4400, 1200, 500, 200)
# Outlines of the graphs of each layer that were found to hold for longer sequences.
_HOLD: weakref.WeakKeyDictionary[keras.Layer, set[str]] = weakref.WeakKeyDictionary()


class OnlyInference(StaysClosed):
    """A layer whose call in training cannot be recorded; `graph` is that of its call in inference."""

    def __init__(self, why: str, graph: Graph):
        super().__init__(why)
        self.graph = graph


def graph_of_both_modes(use: Use) -> Graph:
    """The graph of a layer's call that holds in training and in inference.

    A branch on `training` around layers that do nothing in inference, such as Dropout, is taken as in training: whoever
    compares the graph with the layer in inference finds out whether it may be.
    """
    if not takes_training(use.layer):
        return _for_longer_ones_too(_without_training(record(use, training=True)), use, True)
    graph = _for_longer_ones_too(_without_training(record(use), fixed=()), use, None)
    try:
        other = record(use, training=True)
    except StaysClosed as error:
        if (dropout := as_dropout(use.layer, graph)) is not None:
            return dropout
        raise OnlyInference(f"in training it does something else that cannot be recorded: {error}", graph) from error
    other = _without_training(other)
    if outline_of(graph) == outline_of(other):
        return graph
    return _for_longer_ones_too(other, use, True)


def _for_longer_ones_too(graph: Graph, use: Use, training: bool | None) -> Graph:
    """The graph, if the call does the same with sequences that are much longer than those with which it was recorded."""
    lengths, hold = open_lengths(graph.inputs, use.shapes), _HOLD.setdefault(use.layer, set())
    if not lengths or (outline := outline_of(graph)) in hold:
        return graph
    numbered = any(isinstance(call.operation, Places) for call in graph.calls)
    for more in _LONGER:
        sizes = {length: length + more for length in lengths} | {BATCH: 2}
        longer = [tuple(sizes.get(n, n) for n in x.shape) for x in graph.inputs]
        try:
            other = record_with(use, training, longer, numbered)
        except StaysClosed:  # it does not take so many
            continue
        if not is_same_when_longer(graph, _without_training(other, fixed=()), sizes):
            raise StaysClosed("its call does something else with long sequences, such as to look at a part of them only")
        break
    hold.add(outline)
    return graph


def _without_training(graph: Graph, fixed: tuple = (False, None)) -> Graph:
    """The graph with calls that are not told in which mode they run: their model is.

    Args:
        graph: the graph of a call in training.
        fixed: values of `training` that were not taken from there. In inference it is the default of many layers.
    """
    if any(call.kwargs.get("training", True) in fixed for call in graph.calls):
        raise StaysClosed("its call fixes `training` of a layer, which a Functional model does not keep")
    graph.calls = tuple(
        replace(call, kwargs={name: value for name, value in call.kwargs.items() if name != "training"})
        for call in graph.calls
    )
    return graph


def content_of(array: Any) -> tuple:
    """What two arrays have in common that are the same; a text of a large one would leave its middle out."""
    array = array_of(array)
    return array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()


def outline_of(graph: Graph) -> str:
    """What makes two graphs of one layer the same, as text."""
    numbers = {id(x): i for i, x in enumerate(graph.inputs)}

    def shown(value):
        if isinstance(value, keras.KerasTensor):
            return f"tensor {numbers[id(value)]}" if id(value) in numbers else ""
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return content_of(value)
        return repr(value)

    result = [[(tuple(x.shape), x.dtype) for x in graph.inputs]]
    for call in graph.calls:
        operation = call.operation
        is_layer = isinstance(operation, keras.Layer)
        options = {} if is_layer else {k: v for k, v in vars(operation).items() if k != "name" and k[0] != "_"}
        weight = operation.weight if isinstance(operation, HeldWeight) else operation
        kind = id(weight) if is_layer else type(operation)
        if isinstance(operation, Places):
            kind = operation.axis, operation.places_dtype
        result.append((kind, keras.tree.map_structure(shown, (call.args, call.kwargs, options))))
        numbers.update({id(x): len(numbers) + i for i, x in enumerate(call.outputs)})
    return repr((result, [numbers[id(x)] for x in graph.outputs]))
