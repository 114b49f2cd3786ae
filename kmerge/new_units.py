"""Weights of units that no source has: drawn from the initializers of their layers, with a seed of their own."""

import keras
import numpy as np

from kmerge.attention_rules import einsum_letters
from kmerge.channels import Trace
from kmerge.errors import KmergeError
from kmerge.graph import holder_of
from kmerge.seeds import seed_of


class Fresh:
    """Draws the weights of new units.

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
        part = holder_of(layer, index)
        name = layer.weights[index].name if part is layer else f"{part.name}/{layer.weights[index].name}"
        initializer = _initializer(layer, part, layer.weights[index].name)
        if initializer is None:
            raise KmergeError(
                f"Layer {path!r}: weight {name!r} has no initializer to draw new units from. Give the layer an attribute "
                f"{layer.weights[index].name}_initializer."
            )
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = seed_of("new units", self.seed, path, name)
        if isinstance(part, keras.layers.EinsumDense) and "input_axes" in config and config["input_axes"] is None:
            # As EinsumDense does when it is built: the fans are read from the equation.
            _, letters, out = einsum_letters(part, part.input_spec.ndim)
            config["input_axes"] = [i for i, c in enumerate(letters) if c not in out]
            config["output_axes"] = [i for i, c in enumerate(letters) if c in out]
        return keras.ops.convert_to_numpy(type(initializer).from_config(config)(shape))


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
