"""The models of `benchmarks.studies.wild` with random weights, what they give, and how far two results are apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np

import kmerge
from benchmarks.studies.wild_models.registry import Entry, Subclassed
from kmerge.graph import parts_of

# No size that models have: where a batch of n meets an axis of n, Keras' TensorFlow backend may add along the wrong one.
BATCH, LARGEST_ERROR = 7, 1e-5


class Broken(Exception):
    """A promise that does not hold, and by how much."""


class InPart(Exception):
    """A promise that is out of reach of a model, but holds as far as its free spaces allow.

    Args:
        value: what came of that.
        says: why it is out of reach.
    """

    def __init__(self, value: float, says: str):
        self.value, self.says = value, says


class NothingFree(Exception):
    """No channel space of the model can be changed."""


@dataclass
class Case:
    """Two random models of one graph, and what they give.

    Attributes:
        build: makes a third one.
        parents: the two models, as the verbs take them.
        inputs: arrays, in the order of `model.inputs`.
        outputs: of each parent.
        tolerance: 1e-5, or ten times the rounding of the model itself where that is more.
        parameters: of the model as it was built.
        custom: by name, the classes of layers that are not Keras'.
        folder: where to save.
    """

    build: Callable[[], keras.Model]
    parents: list[keras.Model]
    inputs: list[np.ndarray]
    outputs: list[list[np.ndarray]]
    tolerance: float
    parameters: int
    custom: dict[str, type]
    folder: Path

    @property
    def model(self) -> keras.Model:
        """The first parent."""
        return self.parents[0]

    def spaces(self) -> dict[str, int]:
        """The size of each space of the first parent that can be changed, by name."""
        free = {space.name: space.size for space in kmerge.channel_spaces(self.model).selectable}
        if not free:
            raise NothingFree("no channel space of the model can be changed")
        return free


# Models with random weights -------------------------------------------------------------------------------------------


def randomize(model: keras.Model, seed: int) -> None:
    """Random weights and statistics, none of them constant: biases, scales and statistics that start so hide errors.

    Args:
        model: which is changed.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng([seed, 40])
    adapted = [part for part in parts_of(model) if isinstance(part, keras.layers.Normalization) and part.input_mean is None]
    for layer in adapted:
        layer.adapt_mean.assign(rng.normal(0, 1, layer.adapt_mean.shape))
        layer.adapt_variance.assign(rng.uniform(0.5, 2, layer.adapt_variance.shape))
        layer.finalize_state()
    done = {id(weight) for layer in adapted for weight in layer.weights}
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if "float" in str(value.dtype) and id(weight) not in done:
            constant = value.size and np.ptp(value) == 0
            weight.assign(value + rng.uniform(-0.3, 0.3, value.shape) if constant else 1.2 * value)


def adapt(model: keras.Model, inputs: Any, seed: int) -> None:
    """Gives every BatchNormalization statistics near those of what it normalizes, or signals of deep networks would die.

    Args:
        model: which is changed.
        inputs: as the model takes them.
        seed: of how far off the statistics are.
    """
    rng, plain = np.random.default_rng([seed, 45]), keras.layers.BatchNormalization.call

    def call(self, x, *others, **options):
        axes = [axis for axis in range(len(x.shape)) if axis != self.axis % len(x.shape)]
        mean, variance = map(keras.ops.convert_to_numpy, keras.ops.moments(x, axes))
        self.moving_mean.assign(mean + 0.2 * np.sqrt(variance) * rng.normal(size=mean.shape))
        self.moving_variance.assign(variance * rng.uniform(0.7, 1.3, variance.shape) + 0.3 * variance.mean() + 1e-3)
        return plain(self, x, *others, **options)

    with mock.patch.object(keras.layers.BatchNormalization, "call", call):
        model(inputs, training=False)


def examples(model: keras.Model, tensors: Sequence[keras.KerasTensor]) -> list[np.ndarray]:
    """One batch for each input: images, normal numbers, small whole numbers, ones for masks, or words.

    Args:
        model: whose images go up to 255 where it scales these itself, else to 1. A size that it does not know is 8.
        tensors: its inputs.
    """
    rng = np.random.default_rng(41)
    scales = [part.scale for part in parts_of(model) if isinstance(part, keras.layers.Rescaling)]
    brightest = 255 if any(np.ndim(scale) == 0 and scale < 0.1 for scale in scales) else 1

    def of(tensor: keras.KerasTensor) -> np.ndarray:
        shape, dtype = (BATCH, *(size or 8 for size in tensor.shape[1:])), str(tensor.dtype)
        if dtype == "string":
            sentences = [" ".join(rng.choice(["a", "b", "w3", "w5"], 1 + 3 * (index % 2))) for index in range(BATCH)]
            return np.array(sentences, object).reshape(shape)
        if dtype == "bool" or "mask" in tensor.name:
            return np.ones(shape, dtype)
        if "int" in dtype:
            return rng.integers(0, 2 if "segment" in tensor.name else 4, shape).astype(dtype)
        if len(shape) == 4 and shape[-1] <= 4:
            return (rng.uniform(0.2, brightest, (BATCH, 1, 1, 1)) * rng.uniform(size=shape)).astype(dtype)
        return rng.normal(size=shape).astype(dtype)

    return [of(tensor) for tensor in tensors]


def values_of(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model in inference, flat."""
    outputs = model(_packed(_structure(model), inputs), training=False)
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(outputs)]


def _structure(model: keras.Model) -> Any:
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _packed(structure: Any, inputs: Sequence[np.ndarray]) -> Any:
    return keras.tree.pack_sequence_as(structure, [keras.ops.convert_to_tensor(value) for value in inputs])


def error_of(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest max|difference| / max|expected| of all outputs; raises `Broken` where shapes differ."""
    shapes = [value.shape for value in found], [value.shape for value in expected]
    if shapes[0] != shapes[1]:
        raise Broken(f"outputs of shapes {shapes[0]}, not {shapes[1]}")
    errors = [
        np.max(np.abs(a.astype("float64") - b)) / (np.max(np.abs(b)) + 1e-30)
        for a, b in zip(found, expected, strict=True)
        if a.size
    ]
    return max((float(e) if np.isfinite(e) else float("inf") for e in errors), default=0.0)


# Means of outputs, and of logits ------------------------------------------------------------------------------------


def mean_of(parents: Sequence[keras.Model], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The mean of models' outputs; where an output is a softmax or a sigmoid, the same function of the mean of logits.

    Args:
        parents: the models.
        inputs: arrays, in the order of `model.inputs`.
    """
    each = [_logits(parent, inputs) for parent in parents]
    means = [np.mean(values, axis=0) for values in zip(*each, strict=True)]
    for index, layer in final_layers(parents[0]).items():
        function = layer if isinstance(layer, keras.layers.Softmax) else layer.activation
        means[index] = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(means[index])))
    return means


def mean_by_inverse(found: np.ndarray, each: Sequence[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """What is nearest to a result: the mean, or that of the logits which outputs would have as sigmoids or a softmax.

    This is for outputs whose last layer stands in a nested model, or is an operation.

    Args:
        found: the result.
        each: the outputs of the models.
        mean: of them.
    """
    candidates, values = [mean], np.asarray(each, "float64")
    if 0 < values.min() and values.max() < 1:
        candidates.append(1 / (1 + np.exp(-np.mean(np.log(values) - np.log1p(-values), axis=0))))
    if 0 < values.min() and np.allclose(values.sum(axis=-1), 1, atol=1e-4):
        powers = np.exp(np.mean(np.log(values), axis=0))
        candidates.append(powers / powers.sum(axis=-1, keepdims=True))
    return min(candidates, key=lambda candidate: np.max(np.abs(candidate - found)))


def _logits(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model before a final softmax or sigmoid."""
    tensors, finals = keras.tree.flatten(model.outputs), final_layers(model)
    kept = {layer: layer.activation for layer in finals.values() if not isinstance(layer, keras.layers.Softmax)}
    for index, layer in finals.items():
        if layer not in kept:
            tensors[index] = layer.input
    try:
        for layer in kept:
            layer.activation = keras.activations.linear
        return values_of(keras.Model(model.inputs, tensors), inputs)
    finally:
        for layer, activation in kept.items():
            layer.activation = activation


def final_layers(model: keras.Model) -> dict[int, keras.Layer]:
    """For outputs whose last layer is a softmax, or has it or a sigmoid as its activation, by position: that layer."""
    functions, found = (keras.activations.softmax, keras.activations.sigmoid), {}
    for index, output in enumerate(keras.tree.flatten(model.outputs)):
        for layer in model.layers:
            if any(tensor is output for tensor in _outputs_of(layer)):
                if getattr(layer, "activation", None) in functions or isinstance(layer, keras.layers.Softmax):
                    found[index] = layer
    return found


def _outputs_of(layer: keras.Layer) -> list:
    try:
        return keras.tree.flatten(layer.output)
    except (AttributeError, ValueError):  # never called, or called more than once
        return []


# One model ------------------------------------------------------------------------------------------------------------


def prepared(entry: Entry, folder: Path) -> tuple[Case, dict]:
    """Builds two models of an entry; returns them as a case, and what its row says of them."""

    def build(seed: int = 2) -> tuple[keras.Model, keras.Model]:
        keras.utils.set_random_seed(1000 + seed)
        made = entry.build()
        opened = isinstance(made, Subclassed)
        model, given = (made.model, made.inputs) if opened else (made, None)
        structure = _structure(model) if given is None else given
        randomize(model, seed)
        inputs = _packed(structure, examples(model, keras.tree.flatten(structure)))
        adapt(model, inputs, seed)
        return model, _opened(model, given, inputs) if opened else model

    (given, first), (_, second) = build(0), build(1)
    parts = [given, *parts_of(given)]
    custom = {type(part).__name__: type(part) for part in parts if not type(part).__module__.startswith("keras.")}
    own_layers = any(not issubclass(kind, keras.Model) for kind in custom.values())
    kind = "subclassed" if given is not first else "custom layers" if own_layers else "Functional"
    parents = [first, second]
    inputs = examples(given, first.inputs)
    outputs = [values_of(parent, inputs) for parent in parents]
    rounding = _rounding(parents[0], inputs, outputs[0])
    tolerance, parameters = max(LARGEST_ERROR, 10 * rounding), given.count_params()
    case = Case(lambda: build()[1], parents, inputs, outputs, tolerance, parameters, custom, folder)
    spread = max(float(np.std(v, axis=0).max() / (np.abs(v).max() + 1e-30)) for v in outputs[0] if v.dtype.kind == "f")
    if not all(np.all(np.isfinite(value)) for each in outputs for value in each) or spread < 20 * tolerance:
        raise ValueError(f"the model itself shows no error: spread of its outputs {spread:.1e}, rounding {rounding:.1e}")
    return case, {"kind": kind, "parameters": parameters, "rounding": rounding, "spread": spread}


def _opened(model: keras.Model, structure: Any, inputs: Any) -> keras.Model:
    found = kmerge.functional(model, structure)
    both = [keras.tree.flatten(each(inputs, training=False)) for each in (found, model)]
    error = error_of(*([keras.ops.convert_to_numpy(value) for value in values] for values in both))
    if error > LARGEST_ERROR:
        raise Broken(f"the model that kmerge.functional makes: error {error:.1e}")
    return found


def _rounding(model: keras.Model, inputs: list, outputs: list) -> float:
    """The error of a model itself when its weights change in their last bit."""
    kept, rng = [keras.ops.convert_to_numpy(weight) for weight in model.weights], np.random.default_rng(44)
    for weight, value in zip(model.weights, kept, strict=True):
        if "float" in str(value.dtype):
            weight.assign(value * rng.uniform(1 - 1e-7, 1 + 1e-7, value.shape).astype(value.dtype))
    error = error_of(values_of(model, inputs), outputs)
    for weight, value in zip(model.weights, kept, strict=True):
        weight.assign(value)
    return error
