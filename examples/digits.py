"""What the examples share: the 1,797 handwritten digits of scikit-learn, and a small residual network."""

import keras
import numpy as np
from sklearn.datasets import load_digits

TRAIN = 1400


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images of shape (n, 8, 8, 1) from 0 to 1 and their classes: those to train on, and those to test on."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    return (images[:TRAIN], labels[:TRAIN]), (images[TRAIN:], labels[TRAIN:])


def network(classes: int = 10, width: int = 16) -> keras.Model:
    """A residual network whose last layer gives logits."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(width, 3, use_bias=False, name="stem")(image)
    x = keras.layers.BatchNormalization(momentum=0.9, name="stem_norm")(x)
    x = stem = keras.layers.ReLU(name="stem_relu")(x)
    x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name="block")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="block_norm")(x)
    x = keras.layers.Add(name="add")([stem, keras.layers.ReLU(name="block_relu")(x)])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(classes, name="logits")(x))


def compiled(
    model: keras.Model, learning_rate: float = 3e-3, optimizer: keras.optimizers.Optimizer | None = None
) -> keras.Model:
    """The model, compiled to learn classes from logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    return model
