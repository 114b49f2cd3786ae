"""Weights of units that no source has: drawn from the initializers of their layers, with a seed of their own."""

import math

import keras
import numpy as np

from kmerge.graph import holders_of
from kmerge.rules import einsum_letters
from kmerge.seeds import rng_of, seed_of
from kmerge.spaces import Trace

# Of a standard normal variable that is cut off at two deviations.
_TRUNCATED_DEVIATION = 0.87962566103423978


class Fresh:
    """Draws the weights of new units. Where a layer keeps no initializer of a weight, they get the mean of the weight.

    Args:
        walked: the walk of the template.
        scale: factor on the weights with which layers read new units.
        seed: of the draws.
    """

    def __init__(self, walked: Trace, scale: float, seed: int):
        self.walked = walked
        self.scale = scale
        self.seed = seed

    def draw(self, path: str, index: int, shape: tuple) -> np.ndarray:
        """A whole new array for a weight of a layer."""
        layer = self.walked.layers[path]
        inner, last = holders_of(layer, index)[1:], layer.weights[index].name
        part, name = (inner or [layer])[-1], "/".join([*(x.name for x in inner), last])
        if isinstance(part, keras.layers.Normalization):  # as before it is adapted
            return np.full(shape, last == "variance", layer.weights[index].dtype)
        initializer = _initializer(layer, part, last)
        if initializer is None:
            # RMSNormalization and LayerScale keep theirs to themselves: the mean of what is there.
            return np.full(shape, np.mean(keras.ops.convert_to_numpy(layer.weights[index])), layer.weights[index].dtype)
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = seed_of("new units", self.seed, path, name)
        if isinstance(part, keras.layers.EinsumDense) and "input_axes" in config and config["input_axes"] is None:
            # As EinsumDense does when it is built: the fans are read from the equation.
            _, letters, out = einsum_letters(part, part.input_spec.ndim)
            config["input_axes"] = [i for i, c in enumerate(letters) if c not in out]
            config["output_axes"] = [i for i, c in enumerate(letters) if c in out]
        values = self.sample(initializer, config, shape)
        if last == "bias" and getattr(part, "unit_forget_bias", False):
            # An LSTM adds 1 at its forget gate, the second of four blocks.
            values = np.array(values)
            values[shape[0] // 4 : shape[0] // 2] = 1.0
        return values

    def sample(self, initializer: keras.initializers.Initializer, config: dict, shape: tuple) -> np.ndarray:
        """What an initializer with this configuration draws."""
        return keras.ops.convert_to_numpy(type(initializer).from_config(config)(shape))


class QuickFresh(Fresh):
    """Draws on the host what the usual initializers would draw: backends compile a program for every new shape."""

    def sample(self, initializer, config, shape):
        for kind, value in ((keras.initializers.Zeros, 0.0), (keras.initializers.Ones, 1.0)):
            if isinstance(initializer, kind):
                return np.full(shape, value, "float32")
        if not isinstance(initializer, keras.initializers.VarianceScaling) or config.get("input_axes") is not None:
            return super().sample(initializer, config, shape)
        rng = rng_of("host draw", config["seed"])
        if initializer.distribution == "uniform":
            limit = np.sqrt(3.0 * _variance(initializer, shape))
            return rng.uniform(-limit, limit, shape).astype("float32")
        values = rng.normal(size=shape)
        if initializer.distribution == "truncated_normal":
            while (far := np.abs(values) > 2.0).any():
                values[far] = rng.normal(size=far.sum())
            values /= _TRUNCATED_DEVIATION
        return (values * np.sqrt(_variance(initializer, shape))).astype("float32")


def _variance(initializer: keras.initializers.VarianceScaling, shape: tuple) -> float:
    places = math.prod(shape[:-2])
    fan_in, fan_out = (shape[0], shape[0]) if len(shape) == 1 else (shape[-2] * places, shape[-1] * places)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2.0}[initializer.mode]
    return initializer.scale / max(1.0, fan)


def _initializer(layer: keras.Layer, part: keras.Layer, name: str) -> keras.initializers.Initializer | None:
    """The initializer of a weight: an attribute or an entry of the layer's configuration, or an attribute of its part."""
    names = [f"{base}_initializer" for base in (name, name.removesuffix("_kernel"), "depthwise")]
    for candidate in names:
        found = getattr(layer, candidate, None)
        if found is None and part is not layer:
            found = keras.initializers.get(layer.get_config().get(candidate)) or getattr(part, candidate, None)
        if found is not None:
            return found
    return None
