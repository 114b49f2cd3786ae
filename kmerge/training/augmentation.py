"""Augmentation of batches: of the examples alone, or of images together with the masks that are their targets."""

from typing import Any

import keras
from keras import ops

from kmerge.checks import refuse


class WithMasks(keras.layers.Layer):
    """Tells `fit` that a layer of augmentation moves the targets too: they are segmentation masks of the images.

    The layer is called as Keras' own layers for images are, with a dict, and returns such a dict:
    `layer({"images": x, "segmentation_masks": y}, training=True)`. Masks have a last axis of one channel there, whether
    those of the data have it or not, and keep their type. Without this, `fit` augments the images and leaves the targets.

    Args:
        layer: a `keras.layers.RandomFlip` or the like, a `keras.layers.Pipeline` of such, or a layer of your own.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Call arguments:
        images: `(batch, height, width, channels)`.
        masks: `(batch, height, width)` or `(batch, height, width, 1)`.
        training: whether to augment.

    Raises:
        InvalidArgumentError: if `layer` is no layer.

    Example:
        >>> flip = kmerge.WithMasks(keras.layers.RandomFlip("horizontal", seed=1))
        >>> images, masks = flip(np.ones((2, 8, 8, 3)), np.ones((2, 8, 8), "uint8"), training=True)
        >>> tuple(masks.shape)
        (2, 8, 8)
    """

    def __init__(self, layer: keras.Layer, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if not isinstance(layer, keras.Layer):
            refuse("layer", "a layer for images and their masks", layer, of="WithMasks")
        self.layer = layer

    @property
    def layers(self) -> list[keras.Layer]:
        """The layer, in a list, as models list theirs."""
        return [self.layer]

    def call(self, images, masks, training=False):
        images, moved = self.moved(images, masks, training)
        return images, ops.cast(moved, masks.dtype)

    def moved(self, images: Any, masks: Any, training: bool) -> tuple:
        """Images and masks as the layer returns them, with masks of the type that it gives them."""
        images, masks = ops.convert_to_tensor(images), ops.convert_to_tensor(masks)
        has_channel = len(masks.shape) == 4
        given = {"images": images, "segmentation_masks": masks if has_channel else ops.expand_dims(masks, -1)}
        found = self.layer(given, training=training)
        moved = found["segmentation_masks"]
        return found["images"], moved if has_channel else ops.squeeze(moved, -1)

    def get_config(self) -> dict:
        return super().get_config() | {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict) -> "WithMasks":
        return cls(**config | {"layer": keras.saving.deserialize_keras_object(config["layer"])})


def augmented(augment: Any, batch: tuple, training: bool = True) -> tuple:
    """A batch `(x, ...)` as `augment` makes it, which may be None. Of the rest, `WithMasks` changes y and no other y."""
    if augment is None:
        return batch
    if isinstance(augment, WithMasks):
        x, y, *rest = batch
        return (*augment(x, y, training=training), *rest)
    x, *rest = batch
    return (augment(x, training=training), *rest)
