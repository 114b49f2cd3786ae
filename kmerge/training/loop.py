"""The loop over epochs: what `fit` and `fit_many` do once their arguments are checked.

It runs a compiled program per epoch and, between them, all that `model.fit` does between epochs.
"""

import contextlib
import math
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from kmerge.batching import map_arrays
from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError, KmergeError
from kmerge.seeds import rng_of
from kmerge.training.augmentation import augmented
from kmerge.training.backend import BACKEND, build_state, is_out_of_memory
from kmerge.training.data import Data, InPieces, Piece, Whole
from kmerge.training.programs import PROGRAMS, check_same_program

_programs = weakref.WeakKeyDictionary()


class DeviceMemoryError(KmergeError, MemoryError):
    """The device has no room for the data and the activations of one batch.

    Example:
        >>> issubclass(kmerge.DeviceMemoryError, (kmerge.KmergeError, MemoryError))
        True
    """


class EpochPlan(NamedTuple):
    """What one call trains: steps of `batch_size` examples, through these epochs, with so many on the device at a time.

    For `packed_channels` see `fit_many`.
    """

    batch_size: int
    epochs: range
    shuffle: bool
    verbose: str | int
    at_a_time: int | None = None
    packed_channels: int | str = "auto"

    def source(self, data: Data) -> Whole | InPieces:
        """The data, ready to be trained on."""
        return Whole(data) if self.at_a_time is None else InPieces(data, self.at_a_time)

    def order(self, examples: int, seed: int, epoch: int) -> np.ndarray:
        """The order of the examples in an epoch: int32, shape (examples,)."""
        order = np.arange(examples, dtype="int32")
        if self.shuffle:
            rng_of("order", seed, epoch).shuffle(order)
        return order


def train(
    models: list,
    data: Data,
    validation: Data | None,
    plan: EpochPlan,
    callbacks: Sequence,
    seeds: Sequence,
    augments: Sequence,
) -> list[keras.callbacks.History]:
    """Train all models through all epochs, each with its own callbacks, seed and augmentation."""
    with _memory_errors(models, plan):
        source = plan.source(data)
        program, seconds = _program(models, source, plan, augments)
        if program.packed == 1 < len(models) and plan.packed_channels not in ("auto", 0):
            expected = f"models with convolutions, not in groups, of which two fit into {plan.packed_channels} channels"
            raise InvalidArgumentError(sentence(expected, models[0].name, "Leave packed_channels out.", of="fit_many"))
        evaluate = None
        if validation is not None:
            known = plan.source(validation)
            evaluation, more = _program(models, known, plan, None)
            straight = np.stack([np.arange(validation.examples, dtype="int32")] * len(models))
            seconds += more

            def evaluate(running):
                return evaluation.run(known.pieces(straight), running)

        about = {
            "program": "step" if program.steps_per_call else "epoch",
            "xla": program.xla,
            "compile_seconds": seconds,
            "together": len(models),
            "packed": program.packed,
        }
        steps = math.ceil(data.examples / plan.batch_size)
        hooks = [_hooks(*each, plan, steps, about) for each in zip(models, callbacks, strict=True)]

        def train_epoch(epoch, running):
            orders = np.stack([plan.order(data.examples, seed, epoch) for seed in seeds])
            return program.run(source.pieces(orders), running)

        _epochs(models, hooks, plan.epochs, train_epoch, evaluate)
    return [model.history for model in models]


def _hooks(model, callbacks, plan: EpochPlan, steps: int, about: dict) -> keras.callbacks.CallbackList:
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=plan.verbose != 0,
        model=model,
        verbose=plan.verbose,
        epochs=plan.epochs.stop,
        steps=steps,
        **about,
    )


def _epochs(models: list, hooks: list, epochs: range, train_epoch, evaluate) -> None:
    """The order of events of `model.fit`. A model that a callback stopped takes no part any more."""
    logs: list[dict | None] = [None for _ in models]
    for model, hook in zip(models, hooks, strict=True):
        model.stop_training = False
        hook.on_train_begin()
    for epoch in epochs:
        running = [not model.stop_training for model in models]
        runs = [i for i, still in enumerate(running) if still]
        if not runs:
            break
        for i in runs:
            hooks[i].on_epoch_begin(epoch)
        metrics = train_epoch(epoch, running)
        for i in runs:
            logs[i] = dict(metrics[i])
        if evaluate:
            for i in runs:
                hooks[i].on_test_begin()
            metrics = evaluate(running)
            for i in runs:
                hooks[i].on_test_end(metrics[i])
                logs[i].update({f"val_{name}": value for name, value in metrics[i].items()})
        for i in runs:
            hooks[i].on_epoch_end(epoch, logs[i])
    for model, hook, last in zip(models, hooks, logs, strict=True):
        if last is not None:  # averages of weights are zero before a first step
            model.optimizer.finalize_variable_values(model.trainable_variables)
        hook.on_train_end(last or {})


def _program(models: list, source: Whole | InPieces, plan: EpochPlan, augments: Sequence | None) -> tuple:
    """The compiled epoch for these models and this shape of data, and the seconds it took to compile.

    With `augments` it trains, else it evaluates. An earlier call's program serves again if nothing changed.
    """
    training, layers = augments is not None, augments or [None] * len(models)
    slots = _programs.setdefault(models[0], {})
    slots = slots.setdefault(training, [])
    key, _ = _made_for(models, source, plan, layers)
    for known, program, _ in slots:
        if known == key:
            return program, 0.0
    start = time.perf_counter()
    if training:  # a program that evaluates follows one that trains, for which all is built
        _build_states(models, source.data, layers)
    key, owners = _made_for(models, source, plan, layers)
    program = PROGRAMS[BACKEND](models, plan.batch_size, training, layers, source.data.own, plan.packed_channels)
    program.compile(_of_each_size(source, len(models)))
    # The owners live on, so their ids stay theirs. Two programs: an epoch in parts has a smaller last one.
    slots[:] = [*slots[-1:], (key, program, owners)]
    return program, time.perf_counter() - start


def _build_states(models: list, data: Data, augments: Sequence) -> None:
    """Create what the models, their metrics, losses and optimizers have only after a first step."""
    firsts = [data._replace(parts=data.first_example(i)).on_device() for i in range(len(models))]
    for model, augment, first in zip(models, augments, firsts, strict=True):
        build_state(model, augmented(augment, first, training=False))
    if len(models) > 1:
        check_same_program(models, augments, firsts)


def _of_each_size(source: Whole | InPieces, models: int) -> list[Piece]:
    """Pieces as an epoch has them, one of each size."""
    examples, size = source.data.examples, source.size or source.data.examples
    sizes = {min(size, examples), examples % size or size}
    return [next(source.pieces(np.zeros((models, number), "int32"))) for number in sorted(sizes)]


def _made_for(models: list, source: Whole | InPieces, plan: EpochPlan, augments: Sequence) -> tuple[tuple, list]:
    """What a program is compiled for: a key to compare, and the objects whose ids are in it."""
    owners = [
        thing
        for model, augment in zip(models, augments, strict=True)
        for thing in (model.optimizer, augment, *model.metrics, *model.trainable_variables)
    ]
    shapes = map_arrays(lambda array: (tuple(array.shape), str(array.dtype)), source.data.parts)
    owners.append(keras.distribution.distribution())
    settings = (plan.batch_size, plan.packed_channels, source.size, source.data.own)
    return (*settings, shapes, [id(thing) for thing in owners]), owners


@contextlib.contextmanager
def _memory_errors(models: list, plan: EpochPlan) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"The device ran out of memory training {models[0].name!r}"
            + (f" and {len(models) - 1} more" if len(models) > 1 else "")
            + f" with {plan.batch_size} examples per batch. The weights of the last finished epoch are kept. Take a "
            f"smaller batch_size or fewer models at once. The device says: {str(error)[:300]}"
        ) from error
