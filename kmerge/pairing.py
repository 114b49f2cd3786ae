"""Two models of one architecture: their layers, paired by their places in the graph, and the first thing that differs."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmerge.cloning import describe
from kmerge.errors import ArchitectureMismatchError, KmergeError, told
from kmerge.graph import Call, Graph, inner_layers, input_layer
from kmerge.sameness import OWN_ENTRIES, is_same, without_entries

# A longer value is told by its kind: nobody finds a difference in it by eye.
_SHOWN = 80


def paired_layers(model: keras.Model, other: keras.Model) -> dict:
    """Pairs the layers of two models by their position in the graph.

    Arrays of real numbers among the arguments of a call may differ, as weights may.

    Args:
        model: gives the paths ("encoder/dense"; a layer reached in several ways has the path of its first use).
        other: a model of the same architecture; its layers may have other names.

    Returns:
        A dict from the path of each layer of `model` to the layer of `other` in the same position.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
    """
    pairs: dict = {}
    _pair(Graph(model), Graph(other), "", {}, pairs)
    return pairs


def _pair(a: Graph, b: Graph, path: str, paths: dict, pairs: dict) -> None:
    numbers, others = _tensor_numbers(a), _tensor_numbers(b)
    for x, y in zip(a.inputs, b.inputs, strict=False):
        _check(path + input_layer(x).name, "input shape", tuple(x.shape), tuple(y.shape))
    for call, twin in zip(a.calls, b.calls, strict=False):
        name = paths.setdefault(id(call.operation), path + call.name)
        _check_same(name, call, twin)
        _check(name, "inputs from", [numbers[id(x)] for x in call.inputs], [others[id(x)] for x in twin.inputs])
        if pairs.setdefault(name, twin.operation) is not twin.operation:
            raise ArchitectureMismatchError(
                f"Layer {name!r} is shared in the first model, but its uses are different layers in the other: "
                f"{pairs[name].name!r} and {twin.operation.name!r}. Build both models with the same code."
            )
        if call.is_model:
            _pair(Graph(call.operation), Graph(twin.operation), name + "/", paths, pairs)
    _check(path + "the model", "number of calls", len(a.calls), len(b.calls))
    for side, x, y in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        _check(path + "the model", f"{side} from", [numbers[id(t)] for t in x], [others[id(t)] for t in y])


def _tensor_numbers(graph: Graph) -> dict:
    numbers = {id(x): ("input", i) for i, x in enumerate(graph.inputs)}
    for call in graph.calls:
        numbers.update({id(x): (call.number, i) for i, x in enumerate(call.outputs)})
    return numbers


def _check(name: str, what: str, expected: Any, received: Any) -> None:
    if not is_same(expected, received):
        expected, received = _shown(expected), _shown(received)
        values = f"{expected} as in the first model, received {received}"
        if expected == received:
            values = f"of the same values as in the first model, received other ones ({received})"
        raise ArchitectureMismatchError(
            f"The models differ, first in {name!r}: expected {what} {values}. Models to combine must have the same "
            "architecture; build both with the same code."
        )


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
        return f"an array of shape {tuple(value.shape)} and type {keras.backend.standardize_dtype(value.dtype)}"
    text = getattr(value, "__qualname__", "") or " ".join(repr(value).split())
    if len(text) <= _SHOWN:
        return text
    size = f" of length {len(value)}" if hasattr(value, "__len__") else ""
    return f"a {type(value).__name__}{size}"


def _check_same(name: str, call: Call, twin: Call) -> None:
    operation, other = call.operation, twin.operation
    _check(name, "class", type(operation).__name__, type(other).__name__)
    if isinstance(operation, keras.Layer):
        _check(name, "dtype policy", operation.dtype_policy.name, other.dtype_policy.name)
    _check(name, "output shapes", [tuple(x.shape) for x in call.outputs], [tuple(x.shape) for x in twin.outputs])
    if not call.is_model and operation is not other:
        _check_configurations(name, operation, other)
        weights, others = (getattr(x, "weights", ()) for x in (operation, other))
        _check(name, "weight shapes", [tuple(w.shape) for w in weights], [tuple(w.shape) for w in others])
    values, twins = _constants(call), _constants(twin)
    _check(name, "arguments", [where for where, _ in values], [where for where, _ in twins])
    for (where, value), (_, same) in zip(values, twins, strict=True):
        if _may_differ(value) and _may_differ(same):
            _check(name, f"argument {where} of shape", tuple(value.shape), tuple(same.shape))
        else:
            _check(name, f"argument {where}", value, same)


def _constants(call: Call) -> list[tuple[str, Any]]:
    """What a call is given besides symbolic tensors, with its places."""
    found = []

    def walk(value, where):
        if isinstance(value, list | tuple):
            for i, item in enumerate(value):
                walk(item, f"{where}[{i}]")
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{where}[{key!r}]")
        else:
            value = value.item() if isinstance(value, np.generic) else value  # as it comes out of a file
            found.append((where, "tensor" if isinstance(value, keras.KerasTensor) else value))

    for i, value in enumerate(call.args):
        walk(value, str(i))
    for key, value in call.kwargs.items():
        walk(value, repr(key))
    return found


def _may_differ(value: Any) -> bool:
    """Whether a constant is an array of real numbers, such as places that were computed from random weights."""
    is_array = isinstance(value, np.ndarray | keras.Variable) or keras.ops.is_tensor(value)
    return is_array and "float" in keras.backend.standardize_dtype(value.dtype) and len(value.shape) > 0


def _check_configurations(name: str, operation: keras.Operation, other: keras.Operation) -> None:
    (config, handed), (twin, others) = _described(operation), _described(other)
    config, twin = (without_entries(x, OWN_ENTRIES) for x in (config, twin))
    # The difference that lies deepest says most.
    _check_entries(name, config, twin, "")
    for key in sorted(handed.keys() | others.keys()):
        _check(name, "an object in its configuration", handed.get(key), others.get(key))
    if isinstance(operation, keras.Layer):
        for layer, same in zip(inner_layers(operation), inner_layers(other), strict=False):
            _check(name, f"assets of {type(layer).__name__}", _assets(layer), _assets(same))


def _described(operation: keras.Operation) -> tuple[dict, dict]:
    if isinstance(operation, keras.Layer):
        return describe(operation)
    try:
        return operation.get_config(), {}
    except NotImplementedError:
        return {key: value for key, value in vars(operation).items() if not key.startswith("_")}, {}


def _check_entries(name: str, config: Any, twin: Any, where: str) -> None:
    if isinstance(config, dict) and isinstance(twin, dict) and config.keys() == twin.keys():
        for key in sorted(config, key=str):
            inner = where if key == "config" else f"{where}[{key!r}]"
            _check_entries(name, config[key], twin[key], inner)
        return
    _check(name, f"configuration{where and ' ' + where}", config, twin)


def _assets(layer: keras.Layer) -> dict[str, bytes]:
    if not hasattr(layer, "save_assets"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            layer.save_assets(folder)
        except Exception as error:
            raise KmergeError(f"The assets of layer {layer.name!r} cannot be saved: {told(error)}.") from None
        return {path.name: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}
