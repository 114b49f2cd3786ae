"""Augmentation that draws for every example.

`keras.layers.RandomCrop` draws one offset for a whole batch, so that a batch shares its shift.
"""

import keras
from keras import ops


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
