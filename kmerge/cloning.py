"""Layers and operations built again from what they say of themselves, with nothing shared but stateless objects.

Keras builds a layer again from `get_config`, and finds what stands in it by name: `relu`, or a class that was registered.
A lambda, a local function or a class that nobody registered has no such name. So a layer is described by a stand-in of
its own class, which holds functions with names that we give instead of these objects; and while the new layer is
built, these names mean the objects:

    Dense(8, activation=my_lambda)  ->  {"units": 8, "activation": "kmerge_object_0", ...}, {"kmerge_object_0": my_lambda}
"""

import contextlib
import copy
import functools
import inspect
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import keras
import numpy as np

from kmerge.errors import UnsupportedLayerError, told
from kmerge.graph import inner_layers, parts_of, twin_of
from kmerge.sameness import OWN_ENTRIES, PLAIN, is_same, without_entries

_PREFIX = "kmerge_object_"
_WRITE_CONFIG = "Write its get_config, so that type(layer).from_config(layer.get_config()) is the same layer again."
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
# `get_config` gives these by itself, whether or not `__init__` takes them.
_OF_EVERY_CONFIG = {"name", "trainable", "dtype"}


def describe(operation: keras.Operation) -> tuple[dict, dict[str, Any]]:
    """The configuration of a layer or operation, and the objects in it that Keras could not find by name.

    Args:
        operation: the layer or operation; it is not changed.

    Returns:
        The configuration, and by the names that stand in it the objects that these mean.

    Raises:
        UnsupportedLayerError: if it has no configuration.
    """
    handed: dict[str, Any] = {}
    memo: dict[int, Any] = {}
    stand_in = _stand_in(operation, handed, memo) if isinstance(operation, keras.Layer) else operation
    try:
        config = _config_of(stand_in, operation)
    except Exception as error:
        _refuse(operation, "it has no configuration to build it again from", error)
    back = {id(value): handed[value.__name__] for value in memo.values() if isinstance(value, types.FunctionType)}
    originals = {id(value): key for key, value in memo.items() if isinstance(value, keras.Layer)}
    layers = {id(layer): layer for layer in inner_layers(operation)}

    def own(value):
        """Some `get_config` hands out the objects themselves: never the stand-ins, and layers only as copies."""
        if isinstance(value, keras.Layer):
            value = layers.get(originals.get(id(value)), value)
            return clone_operation(value, {}, value.name)
        if id(value) in back:
            _check_stateless(operation, back[id(value)])
        return back.get(id(value), value)

    config = _mapped(config, own)
    used = {name: value for name, value in handed.items() if name in repr(config)}
    for value in used.values():
        _check_stateless(operation, value)
    return config, used


def _config_of(stand_in, operation) -> dict:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        try:
            return stand_in.get_config()
        except Exception:
            if stand_in is operation:
                raise
            return operation.get_config()


def clone_operation(operation: keras.Operation, changes: dict, name: str, kind: type | None = None) -> keras.Operation:
    """A new layer or operation with the configuration of `operation`, some entries changed, and a name.

    Objects that have no name for Keras are handed on; vocabularies and other assets are carried over.

    Args:
        operation: the layer or operation; it is not changed.
        changes: entries of the configuration that differ.
        name: of the new one.
        kind: its class, if another: a subclass with the same configuration.

    Raises:
        UnsupportedLayerError: if its configuration is missing, or does not build the same layer again.
    """
    if not isinstance(operation, keras.Layer):
        return _clone_plain(operation, changes, name)
    if "call" in vars(operation):
        _refuse(operation, "its call was replaced on the layer itself, which no configuration tells",
                do="Write a subclass with that call.")  # fmt: skip
    config, handed = describe(operation)
    known = _custom_classes(operation) | handed
    clone = _build(operation, kind or type(operation), {**config, **changes, "name": name}, known)
    if not is_of_keras(type(operation)):
        _check_twin(operation, _build(operation, type(operation), {**config, "name": operation.name}, known))
    carry_assets(operation, clone)
    return clone


def check_same_weights(layer: keras.Operation, made: Sequence[keras.Variable]) -> None:
    """Refuses a layer by name if one of its configuration makes other weights: they would be lost, or filled with others."""
    held = getattr(layer, "weights", ())
    if [len(w.shape) for w in held] != [len(w.shape) for w in made]:
        names, others = ([w.name for w in weights] for weights in (held, made))
        _refuse(layer, f"it holds the weights {names}, and one of its configuration {others}",
                do="Write a subclass whose build makes what was added, or hold it in a layer of its own.")  # fmt: skip


def carry_assets(layer: keras.Operation, clone: keras.Operation) -> None:
    """Hands vocabularies and other assets of a layer or model, and of all layers in it, on to one that is built alike."""
    for old, new in zip(inner_layers(layer), inner_layers(clone), strict=False):
        if hasattr(old, "save_assets") and not isinstance(old, keras.Model):
            _carry(layer, old, new)


def _carry(operation: keras.Layer, old: keras.Layer, new: keras.Layer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            old.save_assets(folder)
            new.load_assets(folder)
        except Exception as error:  # as Keras' own do that were adapted to weights of words
            _refuse(operation, f"the assets of its {old.name!r} cannot be loaded again", error,
                    do="Build it with its vocabulary, and with weights of words, as arguments.")  # fmt: skip


def _clone_plain(operation: keras.Operation, changes: dict, name: str) -> keras.Operation:
    """An operation holds nothing but its arguments, so that what has no configuration can be copied as it is."""
    try:
        config = operation.get_config()
    except NotImplementedError:
        clone = _from_attributes(operation, changes, name)
        if clone is not None:
            return clone
        if changes:
            _refuse(operation, f"its {sorted(changes)} would change, and it has no configuration to change them in")
        for value in vars(operation).values():
            _check_stateless(operation, value)
        return twin_of(operation, name)
    return _build(operation, type(operation), {**config, **changes, "name": name}, {})


def _from_attributes(operation: keras.Operation, changes: dict, name: str) -> keras.Operation | None:
    """Builds one of Keras' operations whose arguments are arrays or NumPy's numbers: it has no configuration then.

    Its attributes hold the arguments, or what these become: where they are changed once more by being handed on, None.
    """
    taken = [x for x in inspect.signature(type(operation).__init__).parameters if x not in ("self", "name")]
    held = {x: _mapped(vars(operation)[x], _plain) for x in taken if x in vars(operation)}
    if len(held) < len(taken) or not is_of_keras(type(operation)):
        return None
    twin = _build(operation, type(operation), {**held, "name": name}, {})
    if not all(is_same(vars(twin)[x], value) for x, value in held.items()):
        return None
    return _build(operation, type(operation), {**held, **_mapped(changes, _plain), "name": name}, {}) if changes else twin


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def is_of_keras(kind: type) -> bool:
    """Whether a class is one of Keras' or of kmerge's own."""
    return kind.__module__.partition(".")[0] in ("keras", "kmerge")


def _custom_classes(layer: keras.Layer) -> dict[str, type]:
    kinds = {type(inner) for inner in inner_layers(layer)}
    return {keras.saving.get_registered_name(kind): kind for kind in kinds if not is_of_keras(kind)}


def custom_objects(model: keras.Layer) -> dict[str, Any]:
    """The classes and functions in a model that are not Keras' own, by the names under which Keras looks for them."""
    found = _custom_classes(model)
    for _, value in _nameless(model):
        is_function = isinstance(value, _FUNCTIONS) and hasattr(value, "__name__")
        found |= {value.__name__: value} if is_function else {keras.saving.get_registered_name(type(value)): type(value)}
    return found


def unsavable_objects(model: keras.Layer) -> list[str]:
    """The objects in a model that cannot be saved, with their layers: "<lambda> of Dense 'hidden'"."""
    return [
        f"{getattr(value, '__name__', repr(value))} of {type(layer).__name__} {layer.name!r}"
        for layer, value in _nameless(model)
        if getattr(value, "__name__", "<lambda>") == "<lambda>" and not hasattr(value, "get_config")
    ]


def _nameless(model: keras.Layer) -> Iterator[tuple[keras.Layer, Any]]:
    for layer in inner_layers(model):
        if not isinstance(layer, keras.Model):
            handed: dict[str, Any] = {}
            _stand_in(layer, handed, {})
            yield from ((layer, value) for value in handed.values())


# Standing in ----------------------------------------------------------------------------------------------------------


def _stand_in(value: Any, handed: dict, memo: dict) -> Any:
    """A value without objects that have no name for Keras, or itself if there are none in it."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, list | tuple | dict):
        return _mapped(value, lambda leaf: _stand_in(leaf, handed, memo))
    if isinstance(value, keras.Layer) and not isinstance(value, keras.Model):
        memo[id(value)] = value  # what it holds may lead back to it
        found = {key: _stand_in(x, handed, memo) for key, x in vars(value).items() if key not in _bookkeeping()}
        changed = {key: x for key, x in found.items() if x is not vars(value)[key]}
        if changed:
            memo[id(value)] = object.__new__(type(value))
            vars(memo[id(value)]).update(vars(value) | changed)
        return memo[id(value)]
    if not _is_nameless(value):
        return value

    def named(*args):
        raise NotImplementedError

    named.__name__ = f"{_PREFIX}{len(handed)}_"
    handed[named.__name__] = value
    memo[id(value)] = named
    return named


def _mapped(value: Any, change: Callable) -> Any:
    """A nest of lists, tuples and dicts with its leaves changed; itself where nothing is."""
    if isinstance(value, dict):
        new = {key: _mapped(x, change) for key, x in value.items()}
        return new if any(new[key] is not value[key] for key in value) else value
    if isinstance(value, list | tuple):
        items = [_mapped(x, change) for x in value]
        same = all(x is y for x, y in zip(items, value, strict=True))
        return value if same else tuple(items) if isinstance(value, tuple) else items
    return change(value)


@functools.cache
def _bookkeeping() -> frozenset[str]:
    """The attributes that every layer has, but for the one that a user gives it."""
    return frozenset(vars(keras.Layer())) - {"activity_regularizer"}


def _is_nameless(value: Any) -> bool:
    """Whether it is an object of a configuration that Keras cannot find again by its name."""
    if isinstance(value, (*PLAIN, type, keras.Operation, keras.Variable)):
        return False
    is_function = isinstance(value, _FUNCTIONS)
    if not (is_function or callable(value) or hasattr(value, "get_config")):
        return False
    home = getattr(value, "__module__", None) if is_function else type(value).__module__
    if str(home).startswith("keras.src.activations") or not is_function and str(home).startswith("keras."):
        return False
    if isinstance(getattr(value, "__self__", None), keras.Operation):
        return False  # a method of a layer, which the new layer has itself
    if getattr(value, "__name__", "") == "<lambda>":
        return True
    try:
        found = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(value))
    except Exception:
        return True
    return found is not value if is_function else type(found) is not type(value)


def _check_stateless(operation: keras.Operation, value: Any) -> None:
    """An object that is handed on is shared, so it may hold nothing that training changes."""
    for held in _held_by(value):
        if isinstance(held, keras.Layer | keras.Variable):
            why = f"{getattr(value, '__name__', type(value).__name__)!r} in it uses {type(held).__name__} {held.name!r}"
            _refuse(operation, f"{why}, which would be shared with the new model",
                    do="Write it as a layer that makes what it uses.")  # fmt: skip


def _held_by(value: Any) -> Iterator:
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values(), *_held_by(value.func))
    elif isinstance(value, types.FunctionType):
        variables = inspect.getclosurevars(value)
        yield from (*variables.nonlocals.values(), *variables.globals.values())
    elif not isinstance(value, keras.Layer | keras.Variable):
        yield from getattr(value, "__dict__", {}).values()
    yield value


# Building -------------------------------------------------------------------------------------------------------------


def _build(operation: keras.Operation, kind: type, config: dict, known: dict) -> keras.Operation:
    config = copy.deepcopy(config)  # some `from_config` changes what it is given
    with keras.saving.custom_object_scope(known):
        try:
            return kind.from_config(dict(config))
        except Exception as error:
            clone = _without_kwargs(operation, kind, config)
            return (
                clone if clone is not None else _refuse(operation, "its configuration does not build it again", error)
            )


def _without_kwargs(operation: keras.Operation, kind: type, config: dict) -> keras.Operation | None:
    """Builds a layer whose `__init__` does not take what the configuration of every layer holds, such as its name."""
    taken = inspect.signature(kind.__init__).parameters
    left = config.keys() - taken.keys()
    if not left or left - _OF_EVERY_CONFIG:
        return None
    try:
        clone = kind.from_config({key: value for key, value in config.items() if key in taken})
        clone.name = config["name"]
        if "dtype" in left:
            clone.dtype_policy = operation.dtype_policy
        if "trainable" in left and not operation.trainable:
            clone.trainable = False
    except Exception:
        return None
    return clone


def _refuse(operation: keras.Operation, why: str, error: Exception | None = None, do: str = _WRITE_CONFIG) -> NoReturn:
    said = f" ({told(error)})" if error else ""
    raise UnsupportedLayerError(operation.name, type(operation).__name__, f"{why}{said}.", do) from None


# Checking -------------------------------------------------------------------------------------------------------------


def _check_twin(operation: keras.Layer, twin: keras.Layer) -> None:
    """Compares a layer with one that was built from its configuration, and refuses it by name if that is another."""
    waiting, seen = [(operation, twin)], set()
    while waiting:
        old, new = waiting.pop()
        if id(old) in seen:
            continue
        seen.add(id(old))
        if type(old) is not type(new):
            _refuse(operation, "its configuration builds a layer with other layers in it")
        if is_of_keras(type(old)):
            if not same_configuration(old, new) and not same_configuration(old, _built_as(old, new)):
                _refuse(operation, f"its configuration builds a layer whose {old.name!r} is another")
        else:
            _check_own(operation, old, new)
        inside = parts_of(old, False), parts_of(new, False)
        if is_of_keras(type(old)) and old.built and not new.built and not inside[1]:
            continue  # it makes them when it is built, from the configuration that has just been compared
        if len(inside[0]) != len(inside[1]):
            _refuse(operation, "its configuration builds a layer with other layers in it")
        waiting += zip(*inside, strict=True)


def _built_as(old: keras.Layer, new: keras.Layer) -> keras.Layer:
    """The new layer, built as the old one: to be built turns the `axis` -1 of a `LayerNormalization` into [-1]."""
    if old.built and not new.built:
        with contextlib.suppress(Exception):
            new.build_from_config(old.get_build_config())
    return new


def _check_own(operation: keras.Layer, old: keras.Layer, new: keras.Layer) -> None:
    """Compares what a layer of a class that is not Keras' has as attributes; it builds the new one for that."""
    if old.built and not new.built and type(new).build is not keras.Layer.build:
        try:
            new.build_from_config(old.get_build_config())
        except Exception as error:
            _refuse(operation, "a layer of its configuration cannot be built for the shapes that it reads", error)
    common = vars(old).keys() & vars(new).keys() - _bookkeeping()
    for name in sorted(name for name in common if not name.startswith("_self_")):  # as TensorFlow notes its own
        if not is_same(vars(old)[name], vars(new)[name]):
            _refuse(operation, f"its configuration does not tell its attribute {name!r}")


def same_configuration(operation: keras.Operation, other: keras.Operation) -> bool:
    """Whether two layers or operations of one class are configured alike, whatever their names."""
    (config, handed), (twin, others) = describe(operation), describe(other)
    same = is_same(without_entries(config, OWN_ENTRIES), without_entries(twin, OWN_ENTRIES))
    return same and handed.keys() == others.keys() and all(is_same(handed[name], others[name]) for name in handed)
