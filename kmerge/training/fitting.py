"""`fit`: `model.fit` for data in memory, with a whole epoch as one compiled program.

A small net spends nearly all of its time between the steps. Here nothing happens between the steps of an epoch: see
`programs.py`. `fit_many` trains several models in one such program.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.batching import as_tuples, check_kind, comes_in_batches, map_arrays, numpy_array
from kmerge.checks import in_our_words, sentence, sequence, warn
from kmerge.checks import number as check_number
from kmerge.checks import seed as check_seed
from kmerge.errors import InvalidArgumentError
from kmerge.graph import array_of
from kmerge.training.arguments import held_out, weighted_by_class, without_end
from kmerge.training.augmentation import augmented
from kmerge.training.backend import BACKEND
from kmerge.training.checks import (
    arrays_of,
    check_augment,
    check_compiled,
    check_counts,
    check_data,
    check_masks,
    check_options,
    check_packed_channels,
    check_same_architecture,
    check_same_augments,
    is_array,
    listed_callbacks,
    why_model_fit,
)
from kmerge.training.data import Data, examples_at_a_time
from kmerge.training.loop import EpochPlan, train

# An array or tensor, or a list, tuple or dict of them.
Arrays = Any


class ModelFitWarning(UserWarning):
    """`fit` leaves the work to `model.fit`; the message says why.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", kmerge.ModelFitWarning)
    """


def fit(
    model: keras.Model,
    x: Arrays,
    y: Arrays | None = None,
    *,
    batch_size: int = 32,
    epochs: int = 1,
    initial_epoch: int = 0,
    sample_weight: Arrays | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    class_weight: Mapping[int, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    shuffle: bool = True,
    seed: int = 0,
    augment: keras.Layer | None = None,
    data_bytes: int | None = None,
    verbose: str | int = "auto",
    **fit_arguments,
) -> keras.callbacks.History:
    """Train a model on data in memory, a whole epoch at a time in one compiled program.

    For the same order of the data the result equals that of `model.fit` up to rounding: the loss (with all that
    `add_loss` and regularizers add), metrics, optimizer with its schedule, mixed precision and all state are the
    model's own. The last batch may be smaller than the others. A second call with the same model and shapes
    compiles nothing. What the program cannot do is left to `model.fit`, with a `ModelFitWarning` that says why: callbacks
    with hooks for single batches, data that comes in batches (a `tf.data.Dataset`, `PyDataset`, generator, ...),
    `run_eagerly`, a `train_step` of the model's own, several devices but by `keras.distribution.DataParallel` under JAX,
    another backend than TensorFlow and JAX, or any of `fit_arguments`.

    Data that does not fit on the device stays where it is, say in a file that `numpy.load(..., mmap_mode="r")` maps, and goes
    there piece by piece, in the order of each epoch. The result is the same.

    A keyboard interrupt keeps the weights of the last finished epoch.

    Args:
        model: a model compiled with `model.compile`. It is trained in place.
        x: an array with the examples along the first axis, or a list or dict of arrays for a model with several inputs; or
            whatever else `model.fit` takes.
        y: the targets, likewise; None if the model has its own loss, or x holds them.
        batch_size: examples per step, where x is arrays.
        epochs: number of the epoch to stop before, as in `model.fit`.
        initial_epoch: number of the first epoch, counted from 0.
        sample_weight: weights of the examples, an array or a structure of them like that of y. Where an example has a loss
            for each pixel or step they have as many axes as these: `(examples, 1, 1)` for masks.
        validation_split: share of the examples, the last ones, that validate, where x is arrays; of no effect beside
            `validation_data`.
        validation_data: `(x, y)` or `(x, y, sample_weight)`, evaluated after every epoch in one program too; or whatever else
            `model.fit` takes.
        class_weight: dict of the weights of classes, as in `model.fit`.
        callbacks: Keras callbacks. They run between epochs and may assign to any variable of the model.
        shuffle: whether each epoch goes through the data in a random order of its own.
        seed: seed of that order, with the number of the epoch, so a resumed run sees the same orders.
        augment: a layer that is called as `augment(x, training=True)` on every training batch, inside the program. It may
            change the shape of the examples, as a crop does. Targets stay as they are, unless they are segmentation masks
            and it is a `kmerge.WithMasks(layer)`, which moves them with the images.
        data_bytes: bytes of the device's memory training and validation data may fill; by default half of it.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line per epoch, "auto" for 1, as in `model.fit`.
        **fit_arguments: other arguments of `model.fit`, like `steps_per_epoch`.

    Returns:
        The history, as `model.fit` returns it. Its `params` also say what ran (`"program"`): a compiled `"epoch"`; a
        compiled `"step"` after the other, where loops are slow (convolutions under JAX on a CPU); or `"model.fit"`.
        And whether XLA compiled it (`"xla"`), how long tracing and compiling took (`"compile_seconds"`), and how many
        models train in it (`"together"`) and share a convolution (`"packed"`).

    Raises:
        InvalidArgumentError: if the model is not compiled; data is of an unknown kind; arrays differ in length or hold NaN;
            labels of a sparse crossentropy lie outside the classes; weights would not count for the examples; an argument is
            out of its range.
        DeviceMemoryError: if the device runs out of memory. The weights of the last finished epoch are kept.

    Example:
        >>> model.compile("adam", loss, metrics=["accuracy"])
        >>> history = kmerge.fit(model, x, y, epochs=2, verbose=0)
        >>> len(history.history["accuracy"])
        2
    """
    check_compiled(model)
    check_counts(batch_size, epochs, initial_epoch)
    check_options(shuffle, verbose)
    check_seed("seed", seed)
    check_augment(augment)
    check_number("validation_split", validation_split, least=0, below=1, of="fit")
    callbacks = listed_callbacks(callbacks)
    plan = EpochPlan(batch_size, range(initial_epoch, epochs), shuffle, verbose)
    with in_our_words(f"data that model {model.name!r} can be trained on", x, of="fit"):
        data, validation = _parts(x, y, sample_weight, validation_data)
        if validation_split and validation is None:
            data, validation = held_out(data, validation_split, "fit")
            validation_data = validation
        if class_weight is not None and not comes_in_batches(x):
            data = weighted_by_class(data, class_weight, "fit")
        elif class_weight is not None:
            fit_arguments["class_weight"] = class_weight
        return _fit(model, data, validation, validation_data, callbacks, plan, seed, augment, data_bytes, fit_arguments)


def _fit(model, data, validation, validation_data, callbacks, plan, seed, augment, data_bytes, fit_arguments):
    for part, where in ((data, "training data"), (validation, "validation data")):
        if part is not None and all(map(is_array, arrays_of(part))):
            check_data(model, part, where)
    if all(map(is_array, arrays_of(data))):
        check_masks(augment, data)
    if reason := why_model_fit(model, callbacks, list(fit_arguments), data, validation):
        warn(f"{model.name}: model.fit does the training, because {reason}.", ModelFitWarning)
        fit_arguments.update(validation_data=validation_data, callbacks=callbacks)
        return _model_fit(model, data, plan, seed, augment, reason, fit_arguments)
    plan = plan._replace(at_a_time=examples_at_a_time(plan.batch_size, data_bytes, data, validation))
    data, validation = (None if part is None else Data(part, (False,) * len(part)) for part in (data, validation))
    return train([model], data, validation, plan, [callbacks], [seed], [augment])[0]


def _parts(x: Any, y: Any, sample_weight: Any, validation_data: Any) -> tuple[tuple, tuple | None]:
    """The training data without what is missing at its end, and the validation data likewise; checked for their kinds."""
    for name, part in (("y", y), ("sample_weight", sample_weight)):
        if part is not None and comes_in_batches(x):
            do = "Let x give (x, y) or (x, y, sample_weight) in each batch."
            raise InvalidArgumentError(sentence(f"no {name} beside x in batches", type(part).__name__, do, of="fit"))
    if sample_weight is not None and y is None:
        raise InvalidArgumentError(sentence("y beside sample_weight", None, of="fit"))
    data = without_end((x, y, sample_weight))
    for name, part in zip(("x", "y", "sample_weight"), data, strict=False):
        check_kind(part, name, "fit")
    if validation_data is None:
        return data, None
    check_kind(validation_data, "validation_data", "fit")
    return data, tuple(validation_data) if isinstance(validation_data, list | tuple) else (validation_data,)


class _Batches(keras.utils.PyDataset):
    """The batches of an epoch for `model.fit`, in the order that the epoch program would take."""

    def __init__(self, data: tuple, batch_size: int, augment):
        super().__init__()
        self._data = map_arrays(np.asarray, data)
        self._batch_size, self._augment = batch_size, augment
        self.order = np.arange(len(arrays_of(data)[0]))

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self._batch_size)

    def __getitem__(self, step: int) -> tuple:
        indices = self.order[step * self._batch_size : (step + 1) * self._batch_size]
        batch = map_arrays(lambda array: numpy_array(array[indices]), self._data)
        return as_tuples(map_arrays(array_of, augmented(self._augment, batch)))


def _model_fit(model, data: tuple, plan: EpochPlan, seed: int, augment, reason: str, arguments: dict):
    """Train with `model.fit`: arrays in the same order as else, other data as they are."""
    if all(map(is_array, arrays_of(data))):
        batches = _Batches(data, plan.batch_size, augment)

        def set_order(epoch, logs=None):
            batches.order = plan.order(len(batches.order), seed, epoch)

        arguments["callbacks"] = [keras.callbacks.LambdaCallback(on_epoch_begin=set_order), *arguments["callbacks"]]
        arguments.update(x=batches, shuffle=False)
    elif augment is not None:
        raise InvalidArgumentError(
            f"Expected data in arrays for augment, received {type(data[0]).__name__}. Apply the layer in the data set instead."
        )
    else:
        # Keras shuffles the batches of a PyDataset, and warns where it is to shuffle what else comes in batches.
        shuffles = isinstance(data[0], keras.utils.PyDataset) or not comes_in_batches(data[0])
        arguments.update(zip(("x", "y", "sample_weight"), data, strict=False), shuffle=plan.shuffle and shuffles)
        if not comes_in_batches(data[0]):
            arguments.update(batch_size=plan.batch_size)
    arguments.update(epochs=plan.epochs.stop, initial_epoch=plan.epochs.start, verbose=plan.verbose)
    history = model.fit(**arguments)
    history.params = {**history.params, "program": "model.fit", "why": reason, "xla": bool(model.jit_compile)}
    return history


def fit_many(
    models: Sequence[keras.Model],
    xs: Arrays,
    ys: Arrays | None = None,
    *,
    batch_size: int = 32,
    epochs: int = 1,
    initial_epoch: int = 0,
    validation_data: tuple | list[tuple] | None = None,
    callbacks: Sequence[Sequence[keras.callbacks.Callback]] | None = None,
    shuffle: bool = True,
    seeds: Sequence[int] | None = None,
    augments: Sequence[keras.Layer] | None = None,
    packed_channels: int | str = "auto",
) -> list[keras.callbacks.History]:
    """Train models of one architecture together in one vectorized program: each as `fit` would alone, up to rounding.

    Ten small nets keep a GPU about as busy as one does, so they take about as long. Needs the JAX backend. Under a
    `keras.distribution.DataParallel` each of its devices trains its part of the models, and no batch is split: eight models on
    the eight cores of a TPU train as one does on one.

    Narrow convolutions of several models are *packed*: computed as one dense convolution, with the models' channels beside
    each other, under a block-diagonal kernel. Each model keeps its own weights, random draws, penalties, schedule and metrics.

    Args:
        models: compiled models that differ only in names, weights, seeds and learning rates. Trained in place.
        xs: the examples: one array (or dict of arrays) for all models, or a list with the examples of each.
        ys: the targets, likewise.
        batch_size: examples per step and model.
        epochs: number of the epoch to stop before, as in `model.fit`.
        initial_epoch: number of the first epoch, counted from 0.
        validation_data: a tuple `(x, y)` for all models, or a list with one tuple for each.
        callbacks: a list with the callbacks of each model. When one stops a model, the others go on.
        shuffle: whether each epoch goes through the data in a random order of its own.
        seeds: a list with the seed of the data order of each model, see `fit`; 0, 1, 2, ... by default.
        augments: a list with the augmentation layer of each model, see `fit`; they differ only in names and seeds.
        packed_channels: up to how many channels the convolutions of several models are packed into one. 0 for none. "auto"
            is 64 on a GPU or TPU, and 0 on a CPU, which gains nothing, or where an optimizer scales the loss: it could not
            tell whose gradients overflow. Convolutions in groups are never packed.

    Returns:
        The history of each model, see `fit`. `params["packed"]` is the most models that share a convolution.

    Raises:
        ArchitectureMismatchError: if the models, or their arguments of `compile`, differ.
        InvalidArgumentError: as `fit`; if the backend is not JAX; if a list has not one entry per model; for what
            `fit` leaves to `model.fit`; if `packed_channels` asks for what cannot be packed.
        DeviceMemoryError: if the device runs out of memory. The weights of the last finished epoch are kept.

    Example:
        >>> for each in (model, other):
        ...     each.compile("adam", loss)
        >>> histories = kmerge.fit_many([model, other], x, y, epochs=2) if keras.backend.backend() == "jax" else []
    """
    if BACKEND != "jax":
        raise InvalidArgumentError(
            f"fit_many: expected the JAX backend (KERAS_BACKEND=jax), received {BACKEND!r}. Call fit for each model."
        )
    check_counts(batch_size, epochs, initial_epoch)
    check_options(shuffle, 0)
    models = list(sequence("models", models, "a list of models", of="fit_many"))
    seeds = _for_each(models, "seeds", seeds, list(range(len(models))))
    augments = _for_each(models, "augments", augments, [None] * len(models))
    for seed, augment in zip(seeds, augments, strict=True):
        check_seed("seeds", seed, of="fit_many")
        check_augment(augment)
    check_same_augments(augments)
    callbacks = [listed_callbacks(each) for each in _for_each(models, "callbacks", callbacks, [[]] * len(models))]
    _check_many(models, callbacks)
    check_packed_channels(models, packed_channels)
    data = _data_for_all(models, (xs,) if ys is None else (xs, ys), "training data")
    for number, augment in enumerate(augments):
        check_masks(augment, tuple(part[number] if isinstance(part, list) else part for part in (xs, ys)))
    if isinstance(validation_data, list):
        validation_data = tuple(map(list, zip(*_for_each(models, "validation_data", validation_data), strict=True)))
    validation = _data_for_all(models, validation_data, "validation data")
    plan = EpochPlan(batch_size, range(initial_epoch, epochs), shuffle, 0, packed_channels=packed_channels)
    return train(models, data, validation, plan, callbacks, seeds, augments)


def _for_each(models: list, name: str, given: Sequence | None, default: list | None = None) -> list:
    if given is None:
        return default
    if len(sequence(name, given, "a list with one entry for each model", of="fit_many")) != len(models):
        raise InvalidArgumentError(sentence(f"{name} to have one entry for each of the {len(models)} models", len(given)))
    return list(given)


def _check_many(models: list, callbacks: list) -> None:
    if not models:
        raise InvalidArgumentError("fit_many: expected at least one model, received none.")
    for model, own_callbacks in zip(models, callbacks, strict=True):
        check_compiled(model)
        if reason := why_model_fit(model, own_callbacks, ()):
            raise InvalidArgumentError(
                f"fit_many: expected models that an epoch program can train, received {model.name!r}: {reason}. Call fit for "
                "it."
            )
    check_same_architecture(models)


def _data_for_all(models: list, data: tuple | None, where: str) -> Data | None:
    """The data, with the parts that are lists (an entry per model) stacked along a first axis."""
    if data is None:
        return None
    own = tuple(isinstance(part, list) for part in data)
    parts = [_for_each(models, where, part) if isinstance(part, list) else [part] * len(models) for part in data]
    for i, (model, *of_model) in enumerate(zip(models, *parts, strict=True)):
        if i == 0 or any(own):
            reason = why_model_fit(model, (), (), of_model)
            if reason is None and examples_at_a_time(1, None, of_model):
                reason = "it does not fit on the device. Call fit, which brings it there in pieces"
            if reason:
                raise InvalidArgumentError(
                    f"fit_many: expected data in memory that an epoch program can use, received {where} of model {i} that it "
                    f"cannot use, because {reason}."
                )
            check_data(model, tuple(of_model), f"{where} of model {i}")
    for part in parts:
        shapes = [[getattr(array, "shape", None) for array in keras.tree.flatten(each)] for each in part]
        if different := next((i for i, each in enumerate(shapes) if each != shapes[0]), None):
            raise InvalidArgumentError(
                f"Expected the {where} of all models to have the same shapes, received others: model 0 has {shapes[0]}, model "
                f"{different} {shapes[different]}."
            )
    stacked = (
        map_arrays(lambda *arrays: np.stack(arrays), *part) if is_own else part[0]
        for part, is_own in zip(parts, own, strict=True)
    )
    return Data(tuple(stacked), own)
