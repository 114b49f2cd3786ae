"""What our builders of labelled square images have in common."""

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
