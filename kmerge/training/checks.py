"""What `fit` refuses before any work, and what it leaves to `model.fit`."""

import contextlib
import json
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from kmerge.batching import kind_of
from kmerge.checks import flag, function, one_of, refuse, sentence, whole_number
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.gates import batch_hook
from kmerge.training.backend import is_distributed, nested_layers
from kmerge.training.programs import PROGRAMS

_NUMBERS = "fiub"
# Entries of a configuration that may differ between models that train in one program.
_FREE_ENTRIES = {"name", "seed", "shared_object_id", "build_config"}


def is_array(thing: object) -> bool:
    """Whether it is an array or tensor of numbers that one call can move to a device."""
    if not isinstance(thing, np.ndarray) and not keras.ops.is_tensor(thing):
        return False
    return len(thing.shape) > 0 and (keras.ops.is_tensor(thing) or thing.dtype.kind in _NUMBERS)


def arrays_of(*data: object) -> list:
    """All leaves of the structures given, but for None."""
    return [array for array in keras.tree.flatten(data) if array is not None]


def why_model_fit(
    model: keras.Model, callbacks: Sequence, fit_arguments: Sequence[str], data: object = (), validation: object = ()
) -> str | None:
    """All reasons why no epoch program can train this model, with these callbacks on this data; None if one can."""
    return ", and ".join(_reasons(model, callbacks, fit_arguments, data, validation)) or None


def _reasons(model, callbacks: Sequence, fit_arguments: Sequence[str], data, validation) -> Iterator[str]:
    if keras.backend.backend() not in PROGRAMS:
        yield f"there is no epoch program for the {keras.backend.backend()} backend"
    if model.run_eagerly:
        yield "the model is compiled with run_eagerly=True"
    for method in ("train_step", "test_step"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            yield f"{type(model).__name__} has a {method} of its own"
    if is_distributed(model):
        yield "the model is distributed over several devices"
    for callback in callbacks:
        if hook := batch_hook(callback):
            yield f"the callback {type(callback).__name__} has the hook {hook} for single batches"
    if fit_arguments:
        yield f"of the argument {', '.join(sorted(fit_arguments))}"
    for where, part in (("data", data), ("validation data", validation)):
        if others := [kind_of(array) for array in arrays_of(part) if not is_array(array)]:
            yield f"the {where} holds a {others[0]}, which is no array of numbers"


def check_counts(batch_size: int, epochs: int, initial_epoch: int) -> None:
    """Raise unless all are whole numbers, `batch_size` at least 1 and the epochs at least 0."""
    whole_number("batch_size", batch_size)
    whole_number("epochs", epochs, 0)
    whole_number("initial_epoch", initial_epoch, 0)


def check_options(shuffle: bool, verbose: str | int) -> None:
    """Raise unless `shuffle` is a bool and `verbose` one that `model.fit` knows."""
    flag("shuffle", shuffle)
    one_of("verbose", verbose, ("auto", 0, 1, 2))


def check_augment(augment: object) -> None:
    """Raise unless it is a layer, or a function that is called like one, or None."""
    if augment is not None:
        function("augment", augment, "a layer or None")


def listed_callbacks(callbacks: object) -> list[keras.callbacks.Callback]:
    """The callbacks in a list, or a list of lists, or one alone."""
    listed = [callbacks]
    with contextlib.suppress(RecursionError):  # of lists that lie in lists without end
        listed = keras.tree.flatten(callbacks) if isinstance(callbacks, list | tuple) else listed
    if not all(isinstance(callback, keras.callbacks.Callback) for callback in listed):
        refuse("callbacks", "a list of Keras callbacks", callbacks)
    return listed


def check_compiled(model: object) -> None:
    """Raise unless `model` is a compiled Keras model."""
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError(f"fit: expected a keras.Model, received {type(model).__name__}.")
    if not model.compiled or model.optimizer is None:
        raise InvalidArgumentError(
            f"Expected a compiled model, received {model.name!r}, which is not compiled. Call "
            "model.compile(optimizer=..., loss=...) before fit."
        )


def check_data(model: keras.Model, data: tuple, where: str) -> None:
    """Raise if arrays differ in length, hold NaN, or hold labels that no output of `model` stands for.

    Args:
        model: a compiled model.
        data: `(x, y)` or `(x, y, sample_weight)`, each an array or a structure of arrays; `y` may be None.
        where: what the data is, for the messages.
    """
    named = [
        (f"{name}{list(path) if path else ''} of the {where}", array)
        for name, part in zip(("x", "y", "sample_weight"), data, strict=False)
        for path, array in keras.tree.flatten_with_path(part)
        if array is not None
    ]
    lengths = {name: array.shape[0] for name, array in named}
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(sentence("all arrays to have the same number of examples", lengths))
    if 0 in lengths.values():
        raise InvalidArgumentError(sentence("at least one example", lengths))
    for name, array in named:
        _check_finite(name, np.asarray(array))
    _check_labels(model, data[1] if len(data) > 1 else None, where)


def _check_finite(name: str, array: np.ndarray) -> None:
    # A sum is NaN wherever a NaN went in, and it needs no second array of the size of the data.
    if array.dtype.kind != "f" or not np.isnan(np.sum(array, dtype="float64")):
        return
    bad = np.argwhere(np.isnan(array))
    if len(bad):
        raise InvalidArgumentError(
            f"Expected numbers, received NaN: {name} holds {len(bad)} NaN, the first at index {bad[0].tolist()}. Remove or "
            "replace these examples."
        )


def _check_labels(model, y, where: str) -> None:
    outputs = getattr(model, "outputs", None)
    if y is None or model.loss is None or not outputs:
        return
    names = getattr(model, "output_names", None) or [output.name for output in outputs]

    def by_output(value) -> list:
        if isinstance(value, dict):
            return [value.get(name) for name in names]
        return list(value) if isinstance(value, list | tuple) else [value] * len(names)

    parts = (by_output(model.loss), by_output(y), outputs, names)
    if len(set(map(len, parts))) > 1:
        return  # Keras says what is wrong with the structure
    for loss, labels, output, name in zip(*parts, strict=True):
        if labels is not None and _is_sparse(loss):
            _check_range(np.asarray(labels), output.shape[-1], getattr(loss, "ignore_class", None), name, where)


def _is_sparse(loss) -> bool:
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return loss.get_config().get("axis", -1) == -1
    return loss in ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy)


def _check_range(labels: np.ndarray, width: int | None, ignored: int | None, output: str, where: str) -> None:
    if width is None:
        return
    bad = (labels < 0) | (labels >= width)
    if ignored is not None:
        bad &= labels != ignored
    if bad.any():
        raise InvalidArgumentError(
            f"Expected labels from 0 to {width - 1}, received others: y of the {where} holds {int(bad.sum())} labels that "
            f"output {output!r} does not know, the first is {labels[bad][0]}: it has {width} classes."
        )


def check_same_architecture(models: Sequence) -> None:
    """Raise unless one program can train all models: the same layers, variables and settings of `compile`.

    Names, seeds, initializers and plain learning rates may differ.
    """
    optimizers = {id(model.optimizer) for model in models}
    if len(optimizers) < len(models):
        raise InvalidArgumentError(
            f"Expected an optimizer for each model, received models that share some: {len(models)} models share "
            f"{len(optimizers)} optimizers. Compile each with an optimizer of its own."
        )
    expected = [_description(models[0], what) for what in ("get_config", "get_compile_config")]
    for number, model in enumerate(models[1:], 1):
        for reference, what in zip(expected, ("get_config", "get_compile_config"), strict=True):
            if difference := first_difference(reference, _description(model, what)):
                subject = "architecture" if what == "get_config" else "arguments of compile"
                raise ArchitectureMismatchError(
                    f"Expected model {number} ({model.name!r}) and model 0 ({models[0].name!r}) to have the same {subject}, "
                    f"but {difference}. Train it in a call of its own."
                )


def _description(model, method: str):
    parts = [op for layer in nested_layers(model) for op in (layer, *getattr(layer, "operations", ()))]
    names = {part.name: f"layer {i}" for i, part in enumerate(parts)}
    return _comparable(getattr(model, method)(), names)


def _comparable(config, names: dict):
    if isinstance(config, dict):
        return {
            key: _comparable(value, names)
            for key, value in config.items()
            if key not in _FREE_ENTRIES
            and not key.endswith("_initializer")
            and not (key == "learning_rate" and isinstance(value, float | int))
        }
    if isinstance(config, list | tuple):
        return [_comparable(value, names) for value in config]
    if not isinstance(config, str):
        return config
    if config.startswith("{"):  # a configuration as JSON, as a big student keeps its parents'
        with contextlib.suppress(ValueError):
            return _comparable(json.loads(config), names)
    return "/".join(names.get(part, part) for part in config.split("/"))


def first_difference(expected: object, received: object, path: str = "") -> str | None:
    """The first place where two nested configurations differ, in words; None if there is none."""
    if isinstance(expected, dict) and isinstance(received, dict) and expected.keys() == received.keys():
        pairs = [(f"{path}.{key}" if path else key, expected[key], received[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(received, list) and len(expected) == len(received):
        pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(expected, received, strict=True))]
    else:
        shown = [text if len(text := repr(value)) < 80 else f"{text[:77]}..." for value in (expected, received)]
        return None if expected == received else f"{path} is {shown[1]} instead of {shown[0]}"
    return next((text for place, a, b in pairs if (text := first_difference(a, b, place))), None)
