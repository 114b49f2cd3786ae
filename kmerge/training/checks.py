"""What `fit` refuses before any work, and what it leaves to `model.fit`."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import NoReturn

import keras
import numpy as np

from kmerge.batching import kind_of
from kmerge.checks import flag, function, in_our_words, one_of, refuse, sentence, whole_number
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.gates import batch_hook
from kmerge.training.augmentation import WithMasks
from kmerge.training.backend import is_distributed, nested_layers, scales_loss
from kmerge.training.programs import PROGRAMS

_NUMBERS = "fiub"
# Entries of a configuration that may differ between models that train in one program.
# The largest whole number up to which a type of floats holds all of them.
_EXACT_TO = {"bfloat16": 2**8, "float16": 2**11}
# Examples that a layer is tried on.
_TRIED = 8
# Examples whose labels are looked at together.
_AT_A_TIME = 1_000
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


def check_masks(augment: object, data: tuple) -> None:
    """Raise unless `augment`, where it is `WithMasks`, can move the targets of this data with their images.

    It is tried on a few examples; its seeds are as before then.

    Args:
        augment: a layer or None.
        data: `(x, y)` or `(x, y, sample_weight)`, each an array or a structure of arrays; what is missing may be None.
    """
    if not isinstance(augment, WithMasks):
        return
    x, y, weight = (*data, None, None)[:3]
    if not is_array(x) or len(x.shape) != 4:
        _refuse_masks("x to be images in one array of shape (examples, height, width, channels)", x)
    if not is_array(y) or tuple(y.shape) not in (tuple(x.shape[:3]), (*x.shape[:3], 1)):
        _refuse_masks(f"y to be {x.shape[0]} masks of {x.shape[1]} x {x.shape[2]} pixels, as the images have", y)
    if weight is not None and (not is_array(weight) or np.prod(weight.shape[1:]) > 1):
        do = "Leave pixels out by a label that the loss ignores: weights of pixels would stay where they are."
        _refuse_masks("sample_weight to be one weight per example", weight, do)
    dtype = augment.layer.compute_dtype
    if dtype in _EXACT_TO and (largest := int(np.max(np.asarray(y)))) > _EXACT_TO[dtype]:
        do = f"{dtype} holds no more of them exactly. Give the layer dtype='float32'."
        _refuse_masks(f"labels of at most {_EXACT_TO[dtype]}", largest, do)
    # Not on masks of the data, of which the first may be of one label: mixed, they would be as before.
    some = np.asarray(y[:_TRIED])
    _try_masks(augment, np.asarray(x[:_TRIED]), np.random.default_rng(0).integers(0, 2, some.shape).astype(some.dtype))


def _try_masks(augment: WithMasks, x: np.ndarray, y: np.ndarray) -> None:
    before = [(variable, keras.ops.convert_to_numpy(variable.value)) for variable in augment.variables]
    with in_our_words("a layer that takes and returns a dict of images and segmentation_masks", augment.layer, of="augment"):
        images, masks = augment.moved(x, y, training=True)
    for variable, value in before:
        variable.assign(value)
    size, masks = tuple(images.shape[1:3]), keras.ops.convert_to_numpy(masks)
    if masks.shape[:3] != (len(x), *size):
        _refuse_masks(f"the layer to return masks of {size[0]} x {size[1]} pixels, as its images have", masks)
    if not np.array_equal(masks, np.round(masks)):
        do = "Masks are moved by the nearest pixel; this layer mixes labels."
        _refuse_masks("the layer to return whole numbers as masks", masks, do)


def _refuse_masks(expected: str, received: object, do: str = "") -> NoReturn:
    raise InvalidArgumentError(sentence(expected, received, do, of=WithMasks.__name__))


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
    """Raise if arrays differ in length, hold NaN, labels that no output of `model` stands for, or weights of no example.

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
    parts = _by_output(model, *(*data, None, None)[1:3])
    for loss, labels, weights, output, name in parts:
        if labels is not None and _is_sparse(loss):
            _check_range(np.asarray(labels), output.shape[-1], getattr(loss, "ignore_class", None), name, where)
        if weights is not None and labels is not None:
            _check_weights(loss, labels, weights, output, where)


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


def _by_output(model, y, weights) -> list[tuple]:
    """Loss, labels, weights, tensor and name of each output; none where Keras says what is wrong with the structure."""
    outputs = getattr(model, "outputs", None)
    if y is None or model.loss is None or not outputs:
        return []
    names = getattr(model, "output_names", None) or [output.name for output in outputs]

    def by_output(value) -> list:
        if isinstance(value, dict):
            return [value.get(name) for name in names]
        return list(value) if isinstance(value, list | tuple) else [value] * len(names)

    parts = (by_output(model.loss), by_output(y), by_output(weights), outputs, names)
    return list(zip(*parts, strict=True)) if len(set(map(len, parts))) == 1 else []


def _check_weights(loss, labels, weights, output, where: str) -> None:
    """Raise where Keras would weigh places instead of examples: it multiplies weights by the last axes of more losses."""
    losses, given = _shape_of_losses(loss, labels, output), tuple(weights.shape)
    if losses is None or len(losses) <= len(given) or (len(losses) == len(given) + 1 and losses[-1] == 1):
        return
    expected = f"sample_weight of the {where} to have {len(losses)} axes, as the losses of examples and their places have"
    do = f"For one weight per example, give it the shape {(given[0], *[1] * (len(losses) - 1))}."
    raise InvalidArgumentError(sentence(expected, weights, do))


def _shape_of_losses(loss, labels, output) -> tuple[int, ...] | None:
    """The shape of what a loss gives before it is reduced, of one example; None where that cannot be told."""
    if len(output.shape) < 3:
        return None  # a number for each example
    with contextlib.suppress(Exception):  # of any loss; Keras says what is wrong with it
        first = np.asarray(labels[:1])
        sizes = [first.shape[axis] if size is None else size for axis, size in enumerate(output.shape)]
        function = keras.losses.get(loss)
        function = function.call if isinstance(function, keras.losses.Loss) else function
        return tuple(function(first, np.zeros((1, *sizes[1:]), "float32")).shape)
    return None


def _is_sparse(loss) -> bool:
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return loss.get_config().get("axis", -1) == -1
    return loss in ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy)


def _check_range(labels: np.ndarray, width: int | None, ignored: int | None, output: str, where: str) -> None:
    if width is None:
        return
    count, first = 0, None
    for start in range(0, len(labels), _AT_A_TIME):  # masks in a file may not fit into memory
        some = np.asarray(labels[start : start + _AT_A_TIME])
        bad = (some < 0) | (some >= width)
        if ignored is not None:
            bad &= some != ignored
        if bad.any():
            first = some[bad][0] if first is None else first
            count += int(bad.sum())
    if count:
        raise InvalidArgumentError(
            f"Expected labels from 0 to {width - 1}, received others: y of the {where} holds {count} labels that "
            f"output {output!r} does not know, the first is {first}: it has {width} classes."
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


def check_same_augments(augments: Sequence) -> None:
    """Raise unless the layers of augmentation are alike but for names and seeds, as one program augments for all models."""
    expected = _settings(augments[0]) if augments else None
    for number, augment in enumerate(augments):
        if difference := first_difference(expected, _settings(augment)):
            do = "Train the models in calls of their own."
            raise InvalidArgumentError(
                sentence("augments that differ only in names and seeds", f"number {number}, where {difference}", do)
            )


def _settings(augment: object):
    """What a layer of augmentation does, as far as it tells: the class of one that has no configuration."""
    try:
        return [type(augment).__name__, _comparable(augment.get_config(), {})]
    except (AttributeError, NotImplementedError):
        return [type(augment).__name__]


def check_packed_channels(models: Sequence, packed_channels: int | str) -> None:
    """Raise unless it is "auto", or a whole number, of which a positive one can be had with the models' optimizers."""
    if isinstance(packed_channels, str):
        one_of("packed_channels", packed_channels, ("auto",))
    elif whole_number("packed_channels", packed_channels, 0) and (scaled := [*filter(scales_loss, models)]):
        expected = f"0 or 'auto' for {scaled[0].name!r}, whose optimizer scales the loss"
        refuse("packed_channels", expected, packed_channels, "Leave packed_channels out.", of="fit_many")


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
