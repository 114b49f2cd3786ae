"""What our builders of labelled square images have in common, and how photographs are brought to one size."""

import tensorflow as tf
import tensorflow_datasets as tfds


def info(
    builder: tfds.core.GeneratorBasedBuilder, side: int, encoding: str, description: str, homepage: str, citation: str
) -> tfds.core.DatasetInfo:
    """The features `image`, of shape `(side, side, 3)`, and `label`, below the builder's `CLASSES`.

    Args:
        builder: the builder.
        side: of the images, in pixels.
        encoding: "jpeg" or "png".
        description: one line.
        homepage: of the data set.
        citation: of the data set.

    Returns:
        What `_info` of the builder returns.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format=encoding),
            "label": tfds.features.ClassLabel(num_classes=builder.CLASSES),
        }
    )
    about = {"description": description, "homepage": homepage, "citation": citation}
    return tfds.core.DatasetInfo(builder=builder, features=features, supervised_keys=("image", "label"), **about)


def square(image: tf.Tensor, side: int) -> tf.Tensor:
    """The middle square of an image, scaled to `(side, side, channels)` by the mean of the pixels that become one; uint8."""
    shape = tf.shape(image)
    least = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - least) // 2, (shape[1] - least) // 2
    image = image[top : top + least, left : left + least]
    return tf.cast(tf.round(tf.image.resize(image, (side, side), method="area")), "uint8")


def in_a_square(image: tf.Tensor, mask: tf.Tensor, side: int, void: int) -> tuple[tf.Tensor, tf.Tensor]:
    """An image and its mask, scaled so that the longer side has so many pixels, in the upper left corner of a square.

    Images are scaled by the mean of the pixels that become one, or bilinearly where they become larger, masks by the nearest
    pixel. The rest of the square is black, in the mask void.

    Args:
        image: uint8 `(height, width, 3)`.
        mask: uint8 `(height, width, 1)`.
        side: of the square.
        void: the label of pixels beside the image.

    Returns:
        The image, uint8 `(side, side, 3)`, and the mask, uint8 `(side, side)`.
    """
    shape = tf.shape(image)[:2]
    longer = tf.reduce_max(shape)
    size = tf.maximum(tf.cast(tf.round(shape * side / longer), "int32"), 1)
    image = tf.cond(longer > side, lambda: tf.image.resize(image, size, "area"), lambda: tf.image.resize(image, size))
    mask = tf.image.resize(mask, size, "nearest")
    rest = [[0, side - size[0]], [0, side - size[1]]]
    image = tf.pad(tf.cast(tf.round(image), "uint8"), [*rest, [0, 0]])
    mask = tf.pad(mask[..., 0], rest, constant_values=void)
    return tf.ensure_shape(image, (side, side, 3)), tf.ensure_shape(mask, (side, side))
