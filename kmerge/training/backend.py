"""What differs between backends: devices, memory, XLA, gradients, and the state that a first step creates.

Nothing outside of this folder asks which backend is in use.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.batching import map_arrays
from kmerge.gates import HardConcreteGate

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax


def nested_layers(layer: keras.Layer) -> list:
    """The layer and all layers inside it."""
    return [layer, *(inner for child in getattr(layer, "layers", ()) for inner in nested_layers(child))]


def on_cpu() -> bool:
    if BACKEND == "jax":
        return jax.default_backend() == "cpu"
    return not (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def only_dense(model: keras.Model) -> bool:
    """Whether no kernel has three axes or more, as those of convolutions have."""
    return all(len(variable.shape) < 3 for variable in model.trainable_variables)


def scales_loss(model: keras.Model) -> bool:
    """Whether the optimizer scales the loss, and leaves out steps where gradients overflow, as in half precision."""
    return isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def choose_xla(model: keras.Model, augment: keras.Layer | None = None) -> bool:
    """Whether XLA compiles the program.

    Under TensorFlow on a CPU, XLA makes dense nets many times as fast, and convolutions and random numbers slower. On other
    devices `model.compile(jit_compile=...)` decides.
    """
    if BACKEND == "jax":
        return True
    inner = [*nested_layers(model), *(nested_layers(augment) if augment is not None else ())]
    if not all(getattr(layer, "supports_jit", True) for layer in inner):
        return False
    return bool(model.jit_compile) or (on_cpu() and only_dense(model) and not any(map(_draws, inner)))


def _draws(layer: keras.Layer) -> bool:
    """Whether the layer itself has a generator of random numbers, as dropout has; gates have a fast one of their own."""
    generators = (part for part in vars(layer).values() if isinstance(part, keras.random.SeedGenerator))
    return not isinstance(layer, HardConcreteGate) and any(generators)


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
    return map_arrays(lambda array: lay(array, layout([None] * len(array.shape), mesh)), arrays)


def split_over_devices(batch: tuple) -> tuple:
    """A batch, split over the devices; one that cannot be split evenly is computed on every device."""
    if not is_data_parallel():
        return batch
    distribution, lay = keras.distribution.distribution(), keras.distribution.distribute_tensor
    devices = distribution.device_mesh.devices.size

    def split(array):
        return array if array.shape[0] % devices else lay(array, distribution.get_data_layout(array.shape))

    return map_arrays(split, batch)


def models_over_devices(steps: Callable, own: Sequence[bool], models: int) -> Callable:
    """Vectorized steps of several models as steps in which each device has its part of them, and no device waits for another.

    Args:
        steps: a function of states, data, batches and a rest that have the models on a first axis, the data only where it is
            each model's own; of any number of models.
        own: of each part of the data, whether it is each model's own.
        models: their number. Where it leaves devices over, these repeat the last model, and what they find is let go.
    """
    if not is_data_parallel():
        return steps
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    each = jax.sharding.PartitionSpec(mesh.axis_names)
    parts = tuple(each if is_own else jax.sharding.PartitionSpec() for is_own in own)
    split = jax.shard_map(steps, mesh=mesh, in_specs=(each, parts, each, each), out_specs=each, check_vma=False)
    rows = np.minimum(np.arange(-(-models // mesh.size) * mesh.size), models - 1)

    def padded(states, data, batches, rest):
        data = tuple(take(part, rows) if is_own else part for part, is_own in zip(data, own, strict=True))
        states, logs = split(take(states, rows), data, batches[rows], rest[rows])
        return keras.tree.map_structure(lambda array: array[:models], (states, logs))

    return padded


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


def take(data: tuple, indices: Any) -> tuple:
    """The examples of these indices, of each array of the data."""
    return map_arrays(lambda array: keras.ops.take(array, indices, axis=0), data)
