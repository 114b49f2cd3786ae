"""Re-estimates the moving statistics of BatchNormalization on data.

Surgery on channels changes what a BatchNormalization sees, and its moving mean and variance lag behind: after a cut they
may be so far off that the network's outputs are useless until they are measured again.

The statistics that fit a network are a fixed point: each layer's moving mean and variance are the mean and variance
of its input, over all data and all calls of the layer, when every layer normalizes with its own moving statistics. The
input of the second layer depends on the statistics of the first, so one pass is not enough. A pass that measures all
layers at once makes at least one more layer along each path exact, and changes nothing more when all are.

Reference: Jordan et al., REPAIR: REnormalizing Permuted Activations for Interpolation Repair, 2023 (one pass with batch
statistics, which is our first pass only).
"""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kmerge.batching import Batches
from kmerge.checks import sentence, warn
from kmerge.cloning import check_same_weights, clone_operation
from kmerge.copying import Copier
from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.graph import Graph, inner_layers

# The largest change of a pass, in standard deviations and as a share of the variance, that counts as none.
_TOLERANCE = 1e-5
_PREFIX = "measured_"


class _Measuring(keras.layers.BatchNormalization):
    """A BatchNormalization that measures the mean and variance of all it is called on, and never learns."""

    def build(self, input_shape):
        super().build(input_shape)
        units = (input_shape[self.axis],)

        def state(name, shape=()):
            return self.add_weight(
                shape=shape, initializer="zeros", dtype="float32", trainable=False, autocast=False, name=_PREFIX + name
            )

        self.count, self.mean, self.squares = state("count"), state("mean", units), state("squares", units)
        # 1 while each batch is normalized with its own statistics, 0 while with the moving ones.
        self.by_batch = state("by_batch")

    def call(self, inputs, training=None, mask=None):
        x = ops.cast(inputs, "float32")
        mean, variance = self._measure(x, mask)
        shape = [1] * len(x.shape)
        shape[self.axis] = -1
        mean = self.by_batch * mean + (1 - self.by_batch) * self.moving_mean
        variance = self.by_batch * variance + (1 - self.by_batch) * self.moving_variance
        x = (x - ops.reshape(mean, shape)) / ops.sqrt(ops.reshape(variance, shape) + self.epsilon)
        x = x * ops.reshape(self.gamma, shape) if self.scale else x
        x = x + ops.reshape(self.beta, shape) if self.center else x
        return ops.cast(x, self.compute_dtype)

    def _measure(self, x, mask):
        axes = [axis for axis in range(len(x.shape)) if axis != self.axis % len(x.shape)]
        weight = ops.ones_like(x[..., :1]) if mask is None else ops.cast(mask, "float32")[..., None]
        weight = weight * ops.ones_like(x)
        per_unit = ops.sum(weight, axes, keepdims=True)
        mean = ops.sum(weight * x, axes, keepdims=True) / per_unit
        squares = ops.sum(weight * ops.square(x - mean), axes)
        mean, count = ops.reshape(mean, (-1,)), ops.max(per_unit)
        # Chan's update: sums of squares about the running mean do not cancel as E[x^2] - E[x]^2 does.
        total = self.count + count
        shift = mean - self.mean
        self.squares.assign_add(squares + ops.square(shift) * self.count * count / total)
        self.mean.assign_add(shift * count / total)
        self.count.assign(total)
        return mean, squares / count

    def adopt(self) -> float:
        """Takes what was measured as moving statistics, forgets it, and returns the largest change."""
        mean, variance = np.asarray(self.mean), np.asarray(self.squares) / np.asarray(self.count)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise InvalidArgumentError(
                f"Expected finite statistics, received others: the input of layer {self.name!r} has a mean or variance that "
                "is not finite. Check the data and the model's weights for NaN, infinite and very large values."
            )
        scale = variance + self.epsilon
        change = np.abs(mean - np.asarray(self.moving_mean)) / np.sqrt(scale)
        change = max(change.max(), (np.abs(variance - np.asarray(self.moving_variance)) / scale).max())
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        for state in (self.count, self.mean, self.squares, self.by_batch):
            state.assign(np.zeros(state.shape, "float32"))
        return float(change)


def recalibrate(
    model: keras.Model, data: Any, *, batch_size: int = 128, steps: int | None = None
) -> keras.Model:
    """A copy of a model whose BatchNormalization statistics are measured on data.

    In the copy, every BatchNormalization's moving mean and variance are the mean and the (biased) variance of its
    input over all of `data` when the copy itself runs in inference, up to 1e-5 standard deviations. Calls of a shared
    layer are pooled, and masked steps do not count. It takes several passes over the data: about as many as there are
    BatchNormalizations on the longest path at most, two at least.

    Args:
        model: a Functional or Sequential model, gated or not. It is not changed.
        data: whatever `model.evaluate` takes, of which the inputs are read: arrays, `(x, y)`, `tf.data.Dataset`, `PyDataset`,
            ...; or a list of batches. The batches of a generator are kept in memory, as data is walked several times.
        batch_size: examples per batch where `data` is arrays.
        steps: the most batches to take; None for all.

    Returns:
        A new, uncompiled model; without any BatchNormalization, an equal copy.

    Raises:
        InvalidArgumentError: if the model is subclassed or unbuilt, or if `data` is empty, endless, does not fit the
            model's inputs, or leads to statistics that are not finite.
        UnsupportedLayerError: if a BatchNormalization is hidden in another layer or is a subclass of Keras' own.

    Reference:
        Jordan et al., REPAIR: REnormalizing Permuted Activations for Interpolation Repair, 2023, section 4.

    Example:
        >>> layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization(name="norm")]
        >>> measured = kmerge.recalibrate(keras.Sequential(layers), x)
        >>> tuple(measured.get_layer("norm").moving_variance.shape)
        (4,)
    """
    _check_model(model)
    batches = Batches(model, data, "recalibrate", batch_size=batch_size, steps=steps, again=True)
    probe, pairs = _copied(model, _measuring_layer)
    if layers := _layers_to_measure(probe):
        _settle(probe, layers, batches)
    copy, copies = _copied(model, lambda operation, name: clone_operation(operation, {}, name))
    measured = {id(old): new for old, new in pairs}
    for old, new in copies:
        _assign(new.weights, _own_weights(measured[id(old)]))
        for weight, same in zip(old.weights, new.weights, strict=True):
            same.trainable = weight.trainable  # one alone may be frozen
    return _of_class(model, copy)


def _assign(targets: list[keras.Variable], sources: list[keras.Variable]) -> None:
    for target, source in zip(targets, sources, strict=True):
        # A copy: JAX frees the buffers that the probe's compiled steps were given, and a model may not share them.
        target.assign(np.copy(np.asarray(source)))


def _settle(probe: keras.Model, layers: list[_Measuring], batches: Batches) -> None:
    for layer in layers:
        layer.by_batch.assign(1.0)
    _walk(probe, batches)
    change = max([layer.adopt() for layer in layers])
    # One pass per layer makes a chain exact; a layer that is called several times may need a few more.
    for _ in range(2 * len(layers) + 2):
        _walk(probe, batches)
        change = max([layer.adopt() for layer in layers])
        if change < _TOLERANCE:
            return
    warnings.warn(f"The statistics of {probe.name!r} still change by {change:.1e} standard deviations.", stacklevel=3)


def _walk(probe: keras.Model, batches: Batches) -> None:
    for x, *_ in batches:
        # Unlike a direct call, this is compiled, and unlike predict it needs no memory for the outputs of all batches.
        probe.predict_on_batch(x)


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Sequential) and "Functional" not in {base.__name__ for base in type(model).__mro__}:
        raise InvalidArgumentError(
            sentence("a Functional or Sequential model", model, of="recalibrate")
        )
    if not model.built:
        raise InvalidArgumentError(
            f"recalibrate: expected a built model, received {model.name!r}, which is not built. Build it or call it on data "
            "first."
        )


def _copied(model: keras.Model, clone: Callable) -> tuple[keras.Model, list[tuple[keras.Layer, keras.Layer]]]:
    """A model of copies with equal weights, each layer once wherever it is called, and all layers with their copies."""
    copier = Copier(clone)
    copy = copier.model(Graph(model, as_built=True), model.name, "")
    pairs = [pair for pair in copier.copies.values() if isinstance(pair[0], keras.Layer)]
    for old, new in pairs:
        check_same_weights(old, _own_weights(new))
        _assign(_own_weights(new), old.weights)
        for part, other in zip(inner_layers(old), inner_layers(new), strict=True):
            other.trainable = part.trainable
    return copy, pairs


def _of_class(model: keras.Model, copy: keras.Model) -> keras.Model:
    """The copy as a model of the class of another one, where that takes inputs and outputs."""
    if isinstance(model, keras.Sequential):
        return keras.Sequential(copy.layers, name=copy.name)
    if type(model).__module__.startswith("keras."):
        return copy
    try:
        return type(model)(copy.input, copy.output, name=copy.name)
    except Exception:
        warn(f"The copy of {model.name!r} is a plain keras.Model: {type(model).__name__} is not built of inputs and outputs.")
        return copy


def _measuring_layer(operation: keras.Operation, name: str) -> keras.Operation:
    measured = type(operation) is keras.layers.BatchNormalization
    return clone_operation(operation, {}, name, _Measuring if measured else None)


def _layers_to_measure(probe: keras.Model) -> list[_Measuring]:
    layers = [layer for layer in _leaves(probe) if isinstance(layer, _Measuring)]
    known = {id(layer.moving_mean) for layer in layers}
    for weight in probe.weights:
        if weight.name == "moving_mean" and id(weight) not in known:
            raise UnsupportedLayerError(
                weight.path,
                "moving statistics",
                "they do not belong to a keras.layers.BatchNormalization that is a layer of the model.",
                "Write the layer that holds it as a nested Functional model.",
            )
    return layers


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers that are not models, those of nested models included, each once."""
    found: dict[int, keras.layers.Layer] = {}
    for layer in model.layers:
        found |= {id(leaf): leaf for leaf in (_leaves(layer) if isinstance(layer, keras.Model) else [layer])}
    return list(found.values())


def _own_weights(probe: keras.Layer) -> list[keras.Variable]:
    """The probe's weights that the model has too, in the same order."""
    return [weight for weight in probe.weights if not weight.name.startswith(_PREFIX)]
