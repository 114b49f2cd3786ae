"""Small nets and tasks for the tests of auto-sizing, and what these tests compare."""

import keras
import numpy as np

import kmerge
from tests.models import randomize


def plain_net(units: int = 8, dropout: float = 0.2) -> keras.Model:
    x = h = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(units, 3, padding="same", activation="relu", name="conv")(h)
    h = keras.layers.Dropout(dropout, seed=3)(h)
    h = keras.layers.Conv2D(units, 3, strides=2, activation="relu", name="down")(h)
    h = keras.layers.Dense(units, activation="relu", name="dense")(keras.layers.Flatten()(h))
    return keras.Model(x, keras.layers.Dense(4, activation="softmax", name="out")(h))


def residual_net(units: int = 6) -> keras.Model:
    """A residual stream of two makers, each behind a BatchNormalization, and a block between."""
    x = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(units, 3, padding="same", use_bias=False, name="stem")(x)
    h = stream = keras.layers.ReLU()(keras.layers.BatchNormalization(name="stem_norm")(h))
    h = keras.layers.Conv2D(units + 1, 3, padding="same", use_bias=False, name="block")(h)
    h = keras.layers.ReLU()(keras.layers.BatchNormalization(name="block_norm")(h))
    h = keras.layers.Conv2D(units, 1, use_bias=False, name="back")(h)
    h = keras.layers.Add()([stream, keras.layers.BatchNormalization(name="back_norm")(h)])
    h = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(h))
    return keras.Model(x, keras.layers.Dense(4, activation="softmax", name="out")(h))


def dense_net(units: int = 12, activation: str = "relu") -> keras.Model:
    x = keras.Input((6,))
    h = keras.layers.Dense(units, activation=activation, name="first")(x)
    h = keras.layers.Dense(units, activation=activation, name="second")(h)
    return keras.Model(x, keras.layers.Dense(3, activation="softmax", name="out")(h))


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """The model with random weights, BatchNormalization statistics included."""
    randomize(model, seed)
    return model


def task(model: keras.Model, examples: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and the classes that a random linear map of them gives."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(examples, *model.input_shape[1:])).astype("float32")
    y = (x.reshape(examples, -1) @ rng.normal(size=(x[0].size, model.output_shape[-1]))).argmax(axis=1)
    return x, y


def sizer_of(model: keras.Model, optimizer="adam", **options) -> kmerge.AutoSizer:
    """A compiled sizer with a growth of 3."""
    sizer = kmerge.AutoSizer(model, **{"alpha": 1e-4, "min_growth": 3, **options})
    sizer.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return sizer


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(w) for w in model.weights]


def assert_same(values, references) -> None:
    assert len(values) == len(references)
    assert all(np.array_equal(a, b) for a, b in zip(values, references, strict=True))
