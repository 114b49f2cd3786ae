"""An epoch as one compiled program, under TensorFlow and under JAX.

The data lies on the device, and the program walks over all batches without coming back to Python. Each batch goes
through the model's own `train_step` or `test_step`, so loss, metrics, optimizer, loss scaling and all state are those
of `model.fit`. TensorFlow loops inside a `tf.function`; JAX scans over the stateless steps, and can do so for several
models at once.
"""

import hashlib
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.batching import map_arrays
from kmerge.checks import warn
from kmerge.errors import ArchitectureMismatchError
from kmerge.training.augmentation import augmented
from kmerge.training.backend import (
    BACKEND,
    choose_xla,
    models_over_devices,
    on_all_devices,
    on_cpu,
    only_dense,
    scales_loss,
    split_over_devices,
    take,
)

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax

    from kmerge.training.packing import ModelAxis, stayed_finite

# Up to how many channels convolutions of several models are packed on a GPU: a dense one of so many uses it well.
PACKED_CHANNELS = 64


class _Program:
    """One epoch of one model, or of several together, training or evaluating.

    Args:
        models: compiled models with all their state.
        batch_size: examples per step.
        training: `train_step` if true, else `test_step`.
        augments: for each model a layer that is applied to every batch, see `augmented`, or None.
        own: whether `x`, `y`, ... hold the data of each model along a first axis; else they are common to all.
        packed_channels: see `fit_many`.
    """

    packed = 1  # the most models that share a convolution

    def __init__(
        self,
        models: Sequence,
        batch_size: int,
        training: bool,
        augments: Sequence,
        own: tuple,
        packed_channels: int | str = "auto",
    ):
        self._model = weakref.ref(models[0])  # the table of programs is keyed by models and must not keep them alive
        self._batch_size = batch_size
        self._training = training
        self._augments = augments
        self._own = own
        self._packed_channels = packed_channels
        self.xla = choose_xla(models[0], augments[0])
        # XLA on a CPU computes convolutions inside a loop nine times slower than outside. Then the host loops.
        self.steps_per_call = 1 if BACKEND == "jax" and on_cpu() and not only_dense(models[0]) else None


class TensorFlowProgram(_Program):
    """An epoch as a `tf.function` with a loop."""

    def run(self, pieces: Iterable, keep: Sequence[bool]) -> list[dict]:
        """One epoch over pieces of data, each with its order; orders and `keep` have one entry. Returns the metrics."""
        self._model().reset_metrics()
        # XLA writes the variables when all of a piece is computed; without it every step does.
        before = [(variable, tf.identity(variable.value)) for variable in self._variables]
        try:
            for data, orders in pieces:
                logs = self._epochs[orders.shape[1]](data, tf.constant(orders[0]), tf.constant(orders.shape[1]))
        except BaseException:
            for variable, value in before:
                variable.assign(value)
            raise
        return [{name: value.numpy() for name, value in logs.items()}]

    def compile(self, pieces: Iterable) -> None:
        """Trace and compile for pieces of data and orders of these shapes, without a step."""
        model = self._model()
        self._variables = [*model.variables, *model.optimizer.variables] if self._training else []
        epoch, self._epochs = tf.function(self._trace, jit_compile=self.xla, autograph=False), {}
        for data, orders in pieces:
            nothing = (data, tf.constant(orders[0]), tf.constant(0))
            self._epochs[orders.shape[1]] = epoch.get_concrete_function(*nothing)
            self._epochs[orders.shape[1]](*nothing)  # XLA compiles at the first call: call with nothing to do

    def _trace(self, data, order, end):
        model = self._model()
        examples = order.shape[0]
        # XLA must know the size of each batch: full batches and the rest are two loops. Without it the last batch of a
        # single loop is smaller, and the step is traced once.
        full = examples - examples % self._batch_size if self.xla else examples
        for start, stop in ((0, full), (full, examples)):
            if stop > start:
                self._loop(model, data, order, start, tf.minimum(stop, end), min(self._batch_size, stop - start))
        return model.get_metrics_result()

    def _loop(self, model, data, order, start, stop, batch_size):
        step = model.train_step if self._training else model.test_step
        augment = self._augments[0]

        def body(first):
            size = batch_size if self.xla else tf.minimum(batch_size, stop - first)
            batch = take(data, tf.slice(order, [first], [size]))
            # model.fit traces with an unknown batch size, and the metrics of single losses look at it.
            batch = map_arrays(lambda array: tf.compat.v1.placeholder_with_default(array, [None, *array.shape[1:]]), batch)
            step(augmented(augment, batch))
            return (first + batch_size,)

        tf.while_loop(lambda first: first < stop, body, [tf.constant(start)], parallel_iterations=1)


def _state_variables(model, training: bool, augment) -> dict[str, list]:
    """All variables that a step reads or writes, by what they are."""
    groups = {
        "trainable": model.trainable_variables,
        "non_trainable": model.non_trainable_variables,
        "metrics": model.metrics_variables,
    }
    if training:
        groups["optimizer"] = model.optimizer.variables
        groups["augment"] = augment.variables if augment is not None else []
    return groups


def _stateless_step(model, training: bool, augment):
    """A function of a state, shaped like `_state_variables`, and a batch; returns the next state."""
    names = ("trainable", "non_trainable", "optimizer", "metrics") if training else _state_variables(model, False, None)
    model_step = model.train_step if training else model.test_step

    def step(state, batch):
        state = dict(state)
        if augment is not None:
            with keras.StatelessScope(list(zip(augment.variables, state["augment"], strict=True))) as scope:
                batch = augmented(augment, batch)
            state["augment"] = [scope.get_current_value(variable) for variable in augment.variables]
        _, new = model_step(tuple(state[name] for name in names), batch)
        return {**state, **{name: list(values) for name, values in zip(names, new, strict=True)}}

    return step


def check_same_program(models: Sequence, augments: Sequence, batches: Iterable) -> None:
    """Raise unless the training steps of all models are one program, letter by letter.

    A configuration doesn't tell all: not what functions close over, what a Normalization was adapted to, or which weight is
    frozen alone.

    Args:
        models: compiled models with all their state.
        augments: the layer of augmentation of each, or None.
        batches: a small batch of each.

    Raises:
        ArchitectureMismatchError: if they differ.
    """
    first = None
    for number, (model, augment, batch) in enumerate(zip(models, augments, batches, strict=True)):
        groups = _state_variables(model, True, augment)
        state = {name: [variable.value for variable in group] for name, group in groups.items()}
        lowered = jax.jit(_stateless_step(model, True, augment), keep_unused=True).lower(state, batch)
        if (digest := _digest(lowered)) is None:
            continue
        program = (lowered.in_tree, digest)
        first = first or (program, model)
        if program != first[0]:
            raise ArchitectureMismatchError(
                f"Expected model {number} ({model.name!r}) and model 0 ({first[1].name!r}) to compute the same but for their "
                "weights, received models that differ in what their configurations do not tell: numbers in a function or "
                "class of your own, what a Normalization was adapted to, or a weight that is frozen alone. Train it in a call "
                "of its own."
            )


def _stateless_steps(model, training: bool, augment, is_alone: bool):
    """A function of state, data, the indices of full batches (steps, batch size) and those of a smaller last one.

    Where there are several devices, the batches of a model that trains alone are split over them.
    """
    step = _stateless_step(model, training, augment)

    def batch_of(data, indices):
        return split_over_devices(take(data, indices)) if is_alone else take(data, indices)

    def steps(state, data, batches, rest):
        if len(batches) > 1:
            state, _ = jax.lax.scan(lambda state, indices: (step(state, batch_of(data, indices)), None), state, batches)
        elif len(batches):
            state = step(state, batch_of(data, batches[0]))
        if rest.size:
            state = step(state, batch_of(data, rest))
        state = on_all_devices(state) if is_alone else state
        with keras.StatelessScope(list(zip(model.metrics_variables, state["metrics"], strict=True))):
            return state, model.get_metrics_result()

    return steps


def _of_all(steps, own: tuple, models: int, axis: "ModelAxis"):
    """The steps of one model as steps of all: on lists of states, with one metric value per model.

    They also return whether all numbers stayed finite, for models that share convolutions.
    """
    if models == 1:

        def steps_of_one(states, data, batches, rest):
            state, logs = steps(states[0], data, batches[0], rest[0])
            return [state], {name: value[None] for name, value in logs.items()}, True

        return steps_of_one

    of_each = jax.vmap(steps, (0, tuple(0 if each else None for each in own), 0, 0), axis_name=axis)
    together = models_over_devices(of_each, own, models)

    def steps_of_several(states, data, batches, rest):
        before = jax.tree.map(lambda *values: jax.numpy.stack(values), *states)
        after, logs = together(before, data, batches, rest)
        states = on_all_devices([jax.tree.map(lambda value, i=i: value[i], after) for i in range(models)])
        return states, logs, axis.packed == 1 or stayed_finite(before, after)

    return steps_of_several


def _digest(lowered) -> bytes | None:
    """The hash of a program's text; None if it calls back functions of Python, of which the text holds but an address."""
    text = lowered.as_text()
    return None if "callback" in text else hashlib.sha256(text.encode()).digest()


# What was compiled last in this process, by what it computes; the latest at the end.
_compiled: dict[tuple, Any] = {}
_MOST_COMPILED = 16


def _compiled_once(lowered, arguments: tuple, options: dict | None):
    """What `lowered.compile` returns, or returned for a model whose training is the same program, letter by letter.

    Another network of an architecture, and a phase that differs in nothing but its data, need no compilation of their own.
    Numbers that a program holds are part of its text. Functions of Python that it calls back are not: then it is not shared.
    """
    if (digest := _digest(lowered)) is None:
        return lowered.compile(options)
    places = tuple(getattr(array, "sharding", None) for array in jax.tree.leaves(arguments))
    key = (digest, lowered.in_tree, lowered.out_tree, places, str(options))
    _compiled[key] = _compiled.pop(key, None) or lowered.compile(options)
    for oldest in list(_compiled)[:-_MOST_COMPILED]:
        del _compiled[oldest]
    return _compiled[key]


class JaxProgram(_Program):
    """An epoch as a `jax.lax.scan` over stateless steps; several models through `jax.vmap`, see `packing.py`."""

    def __init__(self, models: Sequence, batch_size: int, training: bool, augments: Sequence, *how):
        super().__init__(models, batch_size, training, augments, *how)
        if self._packed_channels == "auto":
            self._packed_channels = 0 if on_cpu() or any(map(scales_loss, models)) else PACKED_CHANNELS
        self._variables = [_state_variables(m, training, a) for m, a in zip(models, augments, strict=True)]
        models[0].reset_metrics()
        self._fresh_metrics = [jax.numpy.copy(variable.value) for variable in models[0].metrics_variables]

    def run(self, pieces: Iterable, keep: Sequence[bool]) -> list[dict]:
        """One epoch over pieces of data, each with its orders, one row per model; returns the metrics of each.

        A model that is not to be kept stays as it is.
        """
        if self.packed > 1:
            pieces = list(pieces)  # one: only the data of a single model goes to the device piece by piece
        states, logs, finite = self._computed(pieces)
        if not finite:
            warn(
                "A model overflowed, and with it those whose convolutions are packed with its own. The epoch is done again, "
                "and from here on the convolutions of each model are computed apart."
            )
            self._packed_channels = 0
            self.compile(pieces)
            states, logs, _ = self._computed(pieces)
        try:
            self._write(states, keep)
        except KeyboardInterrupt:
            self._write(states, keep)  # never leave the variables of one epoch mixed with those of another
            raise
        logs = {name: np.asarray(values) for name, values in logs.items()}
        return [{name: values[i] for name, values in logs.items()} for i in range(len(keep))]

    def _computed(self, pieces: Iterable) -> tuple:
        """States and metrics after an epoch, and whether all numbers stayed finite."""
        states, finite = self._states(), []
        for data, orders in pieces:
            jax.block_until_ready(states)  # so that no third piece comes while two are there
            for batches, rest in self._calls(orders):
                call = self._compiled[orders.shape, batches.shape, rest.shape]
                states, logs, still = call(states, data, batches, rest)
                finite.append(still)
        jax.block_until_ready((states, logs))  # a full device is only seen here: before the old values are let go
        return states, logs, all(finite)

    def compile(self, pieces: Iterable) -> None:
        """Trace and compile for pieces of data and orders of these shapes, without a step."""
        axis = ModelAxis(self._packed_channels)
        steps = _stateless_steps(self._model(), self._training, self._augments[0], len(self._variables) == 1)
        # All arguments are kept: which of them a program reads is no part of its text; see `_compiled_once`.
        steps, self._compiled = jax.jit(_of_all(steps, self._own, len(self._variables), axis), keep_unused=True), {}
        for data, orders in pieces:
            shapes = {(orders.shape, b.shape, r.shape): (b, r) for b, r in self._calls(orders)}
            for key, call in shapes.items():
                self._compiled[key] = self.compiled(steps, self._states(), data, *call)
        self.packed = axis.packed

    def compiled(self, steps, *arguments):
        """The function of `jax.jit`, compiled for arguments of these shapes. Who counts for another device overrides it."""
        # Of a single step, what LLVM optimizes further takes as long to compile again and makes nothing faster.
        options = {"xla_backend_optimization_level": 2} if self.steps_per_call else None
        return _compiled_once(steps.lower(*arguments), arguments, options)

    def _calls(self, orders):
        """The indices of the full batches (models, steps, batch size) and the rest (models, n), call by call."""
        full = orders.shape[1] - orders.shape[1] % self._batch_size
        batches, rest = orders[:, :full].reshape(len(orders), -1, self._batch_size), orders[:, full:]
        if self.steps_per_call is None:
            return [(batches, rest)]
        single = [(batches[:, i : i + 1], rest[:, :0]) for i in range(batches.shape[1])]
        return [*single, (batches[:, :0], rest)] if rest.size else single

    def _states(self):
        states = [{name: [v.value for v in group] for name, group in groups.items()} for groups in self._variables]
        return on_all_devices([{**state, "metrics": self._fresh_metrics} for state in states])

    def _write(self, states, keep):
        for groups, state, wanted in zip(self._variables, states, keep, strict=True):
            for name, group in groups.items() if wanted else ():
                for variable, value in zip(group, state[name], strict=True):
                    variable.assign(value)


PROGRAMS = {"tensorflow": TensorFlowProgram, "jax": JaxProgram}
