"""Images resized to the size of another tensor, also where that size is not known before there are images."""

import keras
from keras import layers, ops

import kmerge
from kmerge.costs import multiplies_nothing


@multiplies_nothing
@keras.saving.register_keras_serializable("benchmarks")
class ResizeLike(keras.Layer):
    """Resizes its first input, bilinearly and without antialiasing, to the height and width of its second one.

    So does PyTorch's `interpolate` with `align_corners=False`. One place is repeated everywhere.

    Shapes:
        (batch, any height, any width, channels), (batch, height, width, any channels) -> (batch, height, width, channels)
    """

    resizes_logits = True  # what it makes of logits are logits

    def call(self, inputs, like):
        return ops.image.resize(inputs, ops.shape(like)[1:3], interpolation="bilinear")

    def compute_output_spec(self, inputs, like):
        shape = (inputs.shape[0], *like.shape[1:3], inputs.shape[3])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


class ResizeLikeRule(kmerge.Rule):
    """Each channel of the first input passes alone. Of the second one no value is read, so its units are free."""

    def walk(self, site, x, like):
        for labels in (x, like):
            site.require_last_axis(labels)
        return site.output(x.units)


kmerge.register_rule(ResizeLike, ResizeLikeRule())


def resize_like(
    x: keras.KerasTensor, like: keras.KerasTensor, name: str, dtype: str | None = None
) -> keras.KerasTensor:
    """Resizes `x` to the height and width of `like`: by Keras' own layer where these are known.

    Args:
        x: tensor to be resized.
        like: tensor whose size it gets.
        name: of the layer.
        dtype: of the layer, where it is not that of others.
    """
    height, width = like.shape[1:3]
    if height is None or width is None:
        return ResizeLike(name=name, dtype=dtype)(x, like)
    # Keras 3.15 takes this layer for training unless it is told otherwise, and, where a model is called without `training`,
    # all that comes after it: BatchNormalization would normalize by the batch, and change.
    return layers.Resizing(height, width, name=name, dtype=dtype)(x, training=False)
