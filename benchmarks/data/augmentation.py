"""Augmentation that draws for every example, of images alone or of images with their masks.

`keras.layers.RandomCrop` draws one offset for a whole batch, so that a batch shares its shift.
"""

import math

import keras
from keras import ops

# Of red, green and blue in the brightness of a pixel (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)


class ShiftAndFlip(keras.layers.Layer):
    """Pads an image, crops it back to its size at a random place and flips it left to right half of the time.

    Every example of a batch has its own draw. Only in training: otherwise images pass unchanged.

    Args:
        padding: pixels added on each side, so that shifts go from -padding to padding.
        fill: value of the padding, one per channel.
        seed: of the draws.

    Input shape: `(batch, height, width, channels)`. Output shape: the same.
    """

    def __init__(self, padding: int, fill: tuple[float, ...], seed: int, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding
        self.fill = tuple(fill)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training: bool = False):
        if not training:
            return images
        batch, channels = ops.shape(images)[0], images.shape[3]
        height, width = images.shape[1:3]
        padded_height, padded_width = height + 2 * self.padding, width + 2 * self.padding
        rows, columns = self._places(batch, height, width)  # (batch, height, 1), (batch, 1, width)
        first = ops.reshape(ops.arange(batch, dtype="int32") * (padded_height * padded_width), (-1, 1, 1))
        fill = ops.cast(ops.array(self.fill), images.dtype)
        sides = ((0, 0), (self.padding, self.padding), (self.padding, self.padding), (0, 0))
        padded = ops.pad(images - fill, sides) + fill
        # Crop and flip are one gather: pixel (i, j) comes from row rows[i], column columns[j] of the padded image.
        pixels = ops.reshape(padded, (-1, channels))
        return ops.take(pixels, first + rows * padded_width + columns, axis=0)

    def _places(self, batch, height: int, width: int):
        def draw(bound):
            return keras.random.randint((batch, 1, 1), 0, bound, dtype="int32", seed=self.seed_generator)

        rows = ops.reshape(ops.arange(height, dtype="int32"), (1, -1, 1)) + draw(2 * self.padding + 1)
        columns = ops.reshape(ops.arange(width, dtype="int32"), (1, 1, -1))
        columns = ops.where(ops.equal(draw(2), 1), width - 1 - columns, columns) + draw(2 * self.padding + 1)
        return rows, columns

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"padding": self.padding, "fill": self.fill, "seed": self.seed}


def _bilinear(places, spacing, pixels: int):
    """How much of each pixel of a row is seen at places (batch, places, 1) that lie so far apart: (batch, places, pixels).

    The centre of the first pixel is 0.5. Where places lie further apart than pixels, the filter is wider.
    """
    centres = ops.reshape(ops.arange(pixels, dtype="float32") + 0.5, (1, 1, -1))
    weights = ops.relu(1.0 - ops.abs(places - centres) / ops.maximum(spacing, 1.0))
    return weights / ops.sum(weights, axis=-1, keepdims=True)


class RandomResizedCrop(keras.layers.Layer):
    """Cuts a part of random place, size and shape out of a photograph, scales it, and flips it left to right half of the time.

    With `jitter`, then changes brightness, contrast and saturation, in this order. Every example has its own draws. Only in
    training: otherwise it cuts out the middle.

    The part is scaled bilinearly, with a wider filter where it becomes smaller, as a product with two matrices: that is
    fast on every device.

    Args:
        size: side of the result, in pixels.
        area: of the part, least and most, as shares of the image.
        ratio: of the part's width to its height, least and most; its logarithm is uniform. A side that would be longer
            than the image is as long as it.
        jitter: the most by which brightness, contrast and saturation change, as a share.
        seed: of the draws.

    Input shape: `(batch, height, width, 3)`, from 0 to 255. Output shape: `(batch, size, size, 3)`, floats.

    Reference:
        Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6; torchvision has it under this name.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        jitter: float = 0.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if not (0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1] and 0 <= jitter <= 1 and size >= 1):
            raise ValueError(
                "RandomResizedCrop expects a positive size, two rising shares as area, two rising ratios, and a jitter from "
                f"0 to 1; received size={size}, area={area}, ratio={ratio}, jitter={jitter}."
            )
        self.size, self.area, self.ratio, self.jitter, self.seed = size, tuple(area), tuple(ratio), jitter, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training: bool = False):
        height, width = images.shape[1:3]
        if not training:
            top, left = (height - self.size) // 2, (width - self.size) // 2
            return ops.cast(images[:, top : top + self.size, left : left + self.size], self.compute_dtype)
        batch = ops.shape(images)[0]
        shape = ops.exp(self._draw(batch, math.log(self.ratio[0]), math.log(self.ratio[1])))
        pixels = self._draw(batch, *self.area) * (height * width)
        rows = self._weights(batch, ops.minimum(ops.sqrt(pixels / shape), height), height, may_flip=False)
        columns = self._weights(batch, ops.minimum(ops.sqrt(pixels * shape), width), width, may_flip=True)
        images = ops.einsum("bih,bhwc->biwc", rows, ops.cast(images, "float32"))
        images = ops.einsum("bjw,biwc->bijc", columns, images)
        return ops.cast(self._jittered(batch, images) if self.jitter else images, self.compute_dtype)

    def _draw(self, batch, least: float, most: float):
        return keras.random.uniform((batch, 1, 1), least, most, dtype="float32", seed=self.seed_generator)

    def _weights(self, batch, length, pixels: int, may_flip: bool):
        """How much of each pixel goes into each pixel of the result: (batch, size, pixels), for parts of such lengths."""
        start = self._draw(batch, 0.0, 1.0) * (pixels - length)
        places = ops.reshape((ops.arange(self.size, dtype="float32") + 0.5) / self.size, (1, -1, 1))
        if may_flip:
            places = ops.where(self._draw(batch, 0.0, 1.0) < 0.5, 1.0 - places, places)
        return _bilinear(start + places * length, length / self.size, pixels)

    def _jittered(self, batch, images):
        def factor():
            return self._draw(batch, 1 - self.jitter, 1 + self.jitter)[..., None]

        def grey(images):
            return ops.sum(images * ops.array(_LUMINANCE), axis=-1, keepdims=True)

        images = ops.clip(images * factor(), 0, 255)
        for other in (lambda x: ops.mean(grey(x), axis=(1, 2), keepdims=True), grey):
            share = factor()
            images = ops.clip(images * share + other(images) * (1 - share), 0, 255)
        return images

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, *input_shape[3:])

    def get_config(self):
        own = {name: getattr(self, name) for name in ("size", "seed", "area", "ratio", "jitter")}
        return super().get_config() | own


class ScaleCropFlip(keras.layers.Layer):
    """Scales images and their masks, cuts out a window of the original size, and flips it left to right half of the time.

    Every example has its own draws; its image and its mask move alike. The window lies at a random place of what was scaled
    up, and around a random place of what was scaled down. What is new in it is filled, in the mask by void. Images are scaled
    bilinearly, with a wider filter where they become smaller, masks by the nearest pixel. Only in training: otherwise both
    pass unchanged. For `kmerge.WithMasks`.

    It differs from torchvision's reference, from which the scales are, in that an image that became smaller lies anywhere in
    the window and not in its corner.

    Args:
        fill: of new pixels of an image, one value per channel.
        void: of new pixels of a mask.
        seed: of the draws.
        scales: least and most factor on both sides of an image; uniform between.

    Call arguments:
        data: dict of `images`, `(batch, height, width, channels)`, and `segmentation_masks`, `(batch, height, width, 1)`.
        training: whether to augment.

    Output shape:
        A dict like `data`; images are floats.
    """

    def __init__(
        self, fill: tuple[float, ...], void: int, seed: int, scales: tuple[float, float] = (0.5, 2.0), **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.fill, self.void, self.seed, self.scales = tuple(fill), void, seed, tuple(scales)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, data, training: bool = False):
        images, masks = ops.cast(data["images"], "float32"), data["segmentation_masks"]
        if training:
            batch, (height, width) = ops.shape(images)[0], images.shape[1:3]
            scale = self._draw(batch, *self.scales)
            rows, columns = (self._places(batch, scale, pixels) for pixels in (height, width))
            columns = ops.where(self._draw(batch, 0.0, 1.0) < 0.5, width - columns, columns)
            # Images are seen from their fill: zero, where a place lies outside.
            fill = ops.array(self.fill, dtype="float32")
            images = ops.einsum("bih,bhwc->biwc", _seen(rows, scale, height), images - fill)
            images = ops.einsum("bjw,biwc->bijc", _seen(columns, scale, width), images) + fill
            masks = self._nearest(masks, rows, ops.transpose(columns, (0, 2, 1)))
        return {"images": ops.cast(images, self.compute_dtype), "segmentation_masks": masks}

    def _draw(self, batch, least: float, most: float):
        return keras.random.uniform((batch, 1, 1), least, most, dtype="float32", seed=self.seed_generator)

    def _places(self, batch, scale, pixels: int):
        """Where the pixels of the window lie in the original, in its pixels: (batch, pixels, 1)."""
        start = self._draw(batch, 0.0, 1.0) * (scale - 1.0) * pixels
        return (start + ops.reshape(ops.arange(pixels, dtype="float32") + 0.5, (1, -1, 1))) / scale

    def _nearest(self, masks, rows, columns):
        """The masks at rows (batch, height, 1) and columns (batch, 1, width)."""
        batch, (height, width) = ops.shape(masks)[0], masks.shape[1:3]
        first = ops.reshape(ops.arange(batch, dtype="int32") * (height * width), (-1, 1, 1))
        row, column = (
            ops.clip(ops.cast(ops.floor(places), "int32"), 0, pixels - 1)
            for places, pixels in ((rows, height), (columns, width))
        )
        labels = ops.take(ops.reshape(masks, (-1,)), first + row * width + column, axis=0)
        void = ops.cast(self.void, masks.dtype)
        return ops.where(ops.logical_and(_inside(rows, height), _inside(columns, width)), labels, void)[..., None]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in ("fill", "void", "seed", "scales")}


def _inside(places, pixels: int):
    return ops.logical_and(places >= 0, places < pixels)


def _seen(places, scale, pixels: int):
    """As `_bilinear`, at places of an image that was scaled so; nothing where they lie outside of it."""
    weights = _bilinear(ops.clip(places, 0.0, float(pixels)), 1.0 / scale, pixels)
    return weights * ops.cast(_inside(places, pixels), "float32")
