"""Masks of weights: which are pruned, and a constraint that keeps them at zero while the others are trained.

A mask is an array of 0 and 1 of a kernel's shape. The masks of a model are a list with an entry for each of
`model.weights`, None for weights that pruning leaves alone: biases, normalization, and the kernels of other layers than
`KERNEL_LAYERS`.
"""

import base64
from collections.abc import Sequence

import keras
import numpy as np

from kmerge.errors import InvalidArgumentError
from kmerge.rules import KERNEL_LAYERS

Masks = list[np.ndarray | None]


@keras.saving.register_keras_serializable("kmerge_baselines")
class KeepMask(keras.constraints.Constraint):
    """Multiplies a weight by a mask after every step, inside the compiled program; saved with the layer.

    Args:
        mask: array of 0 and 1.
    """

    def __init__(self, mask: np.ndarray):
        self.mask = np.asarray(mask, bool)

    def __call__(self, w):
        return w * keras.ops.cast(self.mask, w.dtype)

    def get_config(self) -> dict:
        """The mask's shape and its bits, as text."""
        bits = base64.b64encode(np.packbits(self.mask).tobytes()).decode("ascii")
        return {"shape": list(self.mask.shape), "bits": bits}

    @classmethod
    def from_config(cls, config: dict) -> "KeepMask":
        """The constraint of a configuration."""
        shape = config["shape"]
        bits = np.unpackbits(np.frombuffer(base64.b64decode(config["bits"]), np.uint8), count=int(np.prod(shape)))
        return cls(bits.reshape(shape))


def kernel_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers whose kernels are pruned, nested models included, each once."""
    found: dict[int, keras.Layer] = {}
    for layer in model.layers:
        inner = kernel_layers(layer) if isinstance(layer, keras.Model) else [layer]
        found |= {id(each): each for each in inner if isinstance(each, KERNEL_LAYERS)}
    return list(found.values())


def kernels_of(model: keras.Model) -> list[bool]:
    """For each of `model.weights`, whether it is a kernel that is pruned."""
    kernels = {id(layer.kernel) for layer in kernel_layers(model)}
    return [id(weight) in kernels for weight in model.weights]


def apply_masks(model: keras.Model, masks: Sequence[np.ndarray | None]) -> None:
    """Sets the masked weights of a model to zero, in place."""
    _check(model, masks)
    for weight, mask in zip(model.weights, masks, strict=True):
        if mask is not None:
            weight.assign(keras.ops.convert_to_numpy(weight) * mask)


def hold_masks(model: keras.Model, masks: Sequence[np.ndarray | None]) -> None:
    """Makes training keep the masked weights of a model at zero, in place: a `KeepMask` on every masked kernel.

    The masks are part of the layers' configurations, so that they are saved, and a loaded model keeps to them.
    """
    _check(model, masks)
    of_weight = {id(weight): mask for weight, mask in zip(model.weights, masks, strict=True) if mask is not None}
    for layer in kernel_layers(model):
        if id(layer.kernel) in of_weight:
            if layer.kernel_constraint is not None:
                raise InvalidArgumentError(
                    f"Layer {layer.name!r} has a kernel_constraint of its own, {layer.kernel_constraint!r}; a mask would "
                    "replace it. Build the model without it."
                )
            layer.kernel_constraint = layer.kernel.constraint = KeepMask(of_weight[id(layer.kernel)])


def release_masks(model: keras.Model) -> None:
    """Takes the masks of `hold_masks` off again, in place; zeros stay what they are until the model is trained."""
    for layer in kernel_layers(model):
        if isinstance(layer.kernel_constraint, KeepMask):
            layer.kernel_constraint = layer.kernel.constraint = None


def _check(model: keras.Model, masks: Sequence[np.ndarray | None]) -> None:
    shapes = [None if mask is None else mask.shape for mask in masks]
    expected = [tuple(weight.shape) for weight in model.weights]
    if len(shapes) != len(expected) or any(s not in (None, e) for s, e in zip(shapes, expected, strict=False)):
        raise InvalidArgumentError(
            f"Expected a mask or None for each weight, of shapes {expected}. Received: {shapes}."
        )
