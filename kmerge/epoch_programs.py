"""An epoch as one compiled program: the only backend-specific code of the library.

The data lies on the device, and the program walks over all batches without coming back to Python. Each batch goes
through the model's own `train_step` or `test_step`, so loss, metrics, optimizer, loss scaling and all state are those
of `model.fit`. TensorFlow loops inside a `tf.function`; JAX scans over the stateless steps, and can do so for several
models at once.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax


def nested_layers(layer: keras.Layer) -> list:
    """The layer and all layers inside it."""
    return [layer, *(inner for child in getattr(layer, "layers", ()) for inner in nested_layers(child))]


def _on_cpu() -> bool:
    if BACKEND == "jax":
        return jax.default_backend() == "cpu"
    return not (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def _only_dense(model) -> bool:
    """Whether no kernel has three axes or more, as those of convolutions have."""
    return all(len(variable.shape) < 3 for variable in model.trainable_variables)


def choose_xla(model: keras.Model, augment: keras.Layer | None = None) -> bool:
    """Whether XLA compiles the program.

    Under TensorFlow on a CPU, XLA makes dense nets many times as fast and convolutions slower. On other devices
    `model.compile(jit_compile=...)` decides.
    """
    if BACKEND == "jax":
        return True
    inner = [*nested_layers(model), *(nested_layers(augment) if augment is not None else ())]
    if not all(getattr(layer, "supports_jit", True) for layer in inner):
        return False
    return bool(model.jit_compile) or (_on_cpu() and _only_dense(model))


def is_data_parallel() -> bool:
    """Whether each batch is to be split over several devices of this process, as the programs for JAX can do."""
    distribution = keras.distribution.distribution()
    is_local = BACKEND == "jax" and jax.process_count() == 1
    return is_local and isinstance(distribution, keras.distribution.DataParallel)


def is_distributed(model: keras.Model) -> bool:
    """Whether the model or the process is set up to train on several devices as no program does."""
    if keras.distribution.distribution() is not None:
        return not is_data_parallel()
    return BACKEND == "tensorflow" and model.distribute_strategy.num_replicas_in_sync > 1


def on_all_devices(arrays: Any) -> Any:
    """The arrays, all of each on every device that batches are split over."""
    if not is_data_parallel():
        return arrays
    mesh, lay = keras.distribution.distribution().device_mesh, keras.distribution.distribute_tensor
    layout = keras.distribution.TensorLayout
    return keras.tree.map_structure(lambda array: lay(array, layout([None] * len(array.shape), mesh)), arrays)


def _split(batch: tuple) -> tuple:
    """A batch, split over the devices; one that cannot be split evenly is computed on every device."""
    if not is_data_parallel():
        return batch
    distribution, lay = keras.distribution.distribution(), keras.distribution.distribute_tensor
    devices = distribution.device_mesh.devices.size

    def split(array):
        return array if array.shape[0] % devices else lay(array, distribution.get_data_layout(array.shape))

    return keras.tree.map_structure(split, batch)


def device_memory() -> int | None:
    """Bytes of memory of the device that holds the data, if it tells."""
    if BACKEND == "jax" and (statistics := jax.local_devices()[0].memory_stats()):
        return statistics.get("bytes_limit")
    if BACKEND == "tensorflow" and tf.config.list_logical_devices("GPU"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that the device's memory is full."""
    return isinstance(error, MemoryError) or any(
        text in f"{type(error).__name__} {error}" for text in ("RESOURCE_EXHAUSTED", "ResourceExhausted")
    )


def _trace(function, model, batch: tuple) -> None:
    """Create the variables that `function` needs, without computing anything."""
    # Inside the scope variables are only declared; leaving it fills them.
    with keras.StatelessScope([(variable, variable.value) for variable in model.variables]):
        if BACKEND == "jax":
            jax.eval_shape(function, *batch)
        else:
            tf.function(function, autograph=False).get_concrete_function(*batch)


def build_state(model: keras.Model, batch: tuple) -> None:
    """Create the variables of model, metrics, loss and optimizer that exist only after a first step.

    Args:
        model: a compiled model.
        batch: a first batch, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
    """

    def predict(x, y=None, sample_weight=None):
        return model(x, training=False)

    def score(x, y=None, sample_weight=None):
        y_pred = model(x, training=False)
        model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if model.loss is not None:  # what layers add with add_loss is not seen inside the scope
            model.compute_loss(x, y, y_pred, sample_weight=sample_weight, training=False)
        return 0

    if not model.built:
        _trace(predict, model, batch)
    _trace(score, model, batch)
    if not model.optimizer.built:  # built anew, a LossScaleOptimizer would have its own variables twice
        model.optimizer.build(model.trainable_variables)


def loss_gradients(model: keras.Model, variables: Sequence) -> Callable[[tuple], list]:
    """A compiled function of a batch: the gradients of the compiled loss, without penalties, in inference.

    Args:
        model: a compiled model with all its state. It is not changed.
        variables: variables of the model, trainable or not.

    Returns:
        A function of `(x, y)` or `(x, y, sample_weight)` that returns one array per variable.
    """

    asked = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in asked]

    def loss_of(values, batch):
        x, y, sample_weight = (*batch, None, None)[:3]
        # What the loss and its metrics assign stays in the scope. Penalties are read from the scope, so all are there.
        known = [*zip(variables, values, strict=True), *((variable, variable.value) for variable in others)]
        with keras.StatelessScope(known):
            loss = model.compute_loss(x, y, model(x, training=False), sample_weight, training=False)
            return loss - sum(model.losses)  # compute_loss adds the penalties of regularizers and layers

    if BACKEND == "jax":
        gradients = jax.jit(jax.grad(loss_of))
        return lambda batch: gradients([variable.value for variable in variables], batch)

    @tf.function(autograph=False, reduce_retracing=True)
    def gradients(batch):
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = loss_of(values, batch)
        return tape.gradient(loss, values, unconnected_gradients="zero")

    return gradients


def _take(data: tuple, indices) -> tuple:
    return keras.tree.map_structure(lambda array: keras.ops.take(array, indices, axis=0), data)


class _Program:
    """One epoch of one model, or of several together, training or evaluating.

    Args:
        models: compiled models with all their state.
        batch_size: examples per step.
        training: `train_step` if true, else `test_step`.
        augments: for each model a layer that is applied to `x` of every batch, or None.
        own: whether `x`, `y`, ... hold the data of each model along a first axis; else they are common to all.
    """

    def __init__(self, models: Sequence, batch_size: int, training: bool, augments: Sequence, own: tuple):
        self._model = weakref.ref(models[0])  # the table of programs is keyed by models and must not keep them alive
        self._batch_size = batch_size
        self._training = training
        self._augments = augments
        self._own = own
        self.xla = choose_xla(models[0], augments[0])
        # XLA on a CPU computes convolutions inside a loop nine times slower than outside. Then the host loops.
        self.steps_per_call = 1 if BACKEND == "jax" and _on_cpu() and not _only_dense(models[0]) else None


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
            batch = _take(data, tf.slice(order, [first], [size]))
            # model.fit traces with an unknown batch size, and the metrics of single losses look at it.
            batch = keras.tree.map_structure(
                lambda array: tf.compat.v1.placeholder_with_default(array, [None, *array.shape[1:]]), batch
            )
            if augment is not None:
                batch = (augment(batch[0], training=True), *batch[1:])
            step(batch)
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
                batch = (augment(batch[0], training=True), *batch[1:])
            state["augment"] = [scope.get_current_value(variable) for variable in augment.variables]
        _, new = model_step(tuple(state[name] for name in names), batch)
        return {**state, **{name: list(values) for name, values in zip(names, new, strict=True)}}

    return step


def _stateless_steps(model, training: bool, augment):
    """A function of state, data, the indices of full batches (steps, batch size) and those of a smaller last one."""
    step = _stateless_step(model, training, augment)

    def batch_of(data, indices):
        return _split(_take(data, indices))

    def steps(state, data, batches, rest):
        if len(batches) > 1:
            state, _ = jax.lax.scan(lambda state, indices: (step(state, batch_of(data, indices)), None), state, batches)
        elif len(batches):
            state = step(state, batch_of(data, batches[0]))
        if rest.size:
            state = step(state, batch_of(data, rest))
        state = on_all_devices(state)
        with keras.StatelessScope(list(zip(model.metrics_variables, state["metrics"], strict=True))):
            return state, model.get_metrics_result()

    return steps


def _of_all(steps, own: tuple, models: int):
    """The steps of one model as steps of all: on lists of states, with one metric value per model."""
    if models == 1:

        def steps_of_one(states, data, batches, rest):
            state, logs = steps(states[0], data, batches[0], rest[0])
            return [state], {name: value[None] for name, value in logs.items()}

        return steps_of_one

    together = jax.vmap(steps, in_axes=(0, tuple(0 if each else None for each in own), 0, 0))

    def steps_of_several(states, data, batches, rest):
        stacked = jax.tree.map(lambda *values: jax.numpy.stack(values), *states)
        stacked, logs = together(stacked, data, batches, rest)
        return [jax.tree.map(lambda value, i=i: value[i], stacked) for i in range(models)], logs

    return steps_of_several


class JaxProgram(_Program):
    """An epoch as a `jax.lax.scan` over stateless steps; several models through `jax.vmap`."""

    def __init__(self, models: Sequence, batch_size: int, training: bool, augments: Sequence, own: tuple):
        super().__init__(models, batch_size, training, augments, own)
        self._variables = [_state_variables(m, training, a) for m, a in zip(models, augments, strict=True)]
        models[0].reset_metrics()
        self._fresh_metrics = [jax.numpy.copy(variable.value) for variable in models[0].metrics_variables]

    def run(self, pieces: Iterable, keep: Sequence[bool]) -> list[dict]:
        """One epoch over pieces of data, each with its orders, one row per model; returns the metrics of each.

        A model that is not to be kept stays as it is.
        """
        states = self._states()
        for data, orders in pieces:
            jax.block_until_ready(states)  # so that no third piece comes while two are there
            for batches, rest in self._calls(orders):
                states, logs = self._compiled[orders.shape, batches.shape, rest.shape](states, data, batches, rest)
        jax.block_until_ready((states, logs))  # a full device is only seen here: before the old values are let go
        try:
            self._write(states, keep)
        except KeyboardInterrupt:
            self._write(states, keep)  # never leave the variables of one epoch mixed with those of another
            raise
        logs = {name: np.asarray(values) for name, values in logs.items()}
        return [{name: values[i] for name, values in logs.items()} for i in range(len(keep))]

    def compile(self, pieces: Iterable) -> None:
        """Trace and compile for pieces of data and orders of these shapes, without a step."""
        steps = _stateless_steps(self._model(), self._training, self._augments[0])
        steps, self._compiled = jax.jit(_of_all(steps, self._own, len(self._variables))), {}
        # Of a single step, what LLVM optimises further takes as long to compile again and makes nothing faster.
        options = {"xla_backend_optimization_level": 2} if self.steps_per_call else None
        for data, orders in pieces:
            shapes = {(orders.shape, b.shape, r.shape): (b, r) for b, r in self._calls(orders)}
            for key, call in shapes.items():
                self._compiled[key] = steps.lower(self._states(), data, *call).compile(options)

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
