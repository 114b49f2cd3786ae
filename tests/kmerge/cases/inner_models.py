"""The cases whose difficulty lies behind the first weight: layers and operations that no rule knows in detail."""

import keras
import numpy as np
from keras import layers, ops

from tests.kmerge.cases.models import ALONE, AROUND, WORKS, case, inputs


@case(WORKS)
def softmax_over_time():
    (x,) = inputs((10, 4))
    h = layers.Conv1D(8, 3)(x)
    return keras.Model(x, layers.Dense(2)(ops.sum(h * ops.softmax(layers.Dense(1)(h), axis=1), axis=1)))


@case(AROUND)
def softmax_inside():
    (x,) = inputs((4,))
    h = layers.Dense(6)(x) * layers.Dense(6, activation="softmax")(x)
    return keras.Model(x, layers.Dense(2)(layers.Dense(6)(h)))


@case(WORKS)
def resizing_inside():
    (x,) = inputs((8, 8, 3))
    return keras.Model(x, layers.Conv2D(2, 1)(layers.Resizing(16, 16)(layers.Conv2D(6, 3)(x))))


@case(WORKS)
def stack():
    x, y = inputs((4,), (4,))
    return keras.Model(
        [x, y], layers.Dense(2)(layers.Flatten()(ops.stack([layers.Dense(6)(z) for z in (x, y)], axis=1)))
    )


@case(WORKS)
def sum_over_channels():
    x, y = inputs((4,), (4,))
    embed = layers.Dense(8)
    distance = ops.sum(ops.square(embed(x) - embed(y)), axis=-1, keepdims=True)
    return keras.Model([x, y], layers.Dense(1)(distance))


@case(WORKS)
def mean_over_channels():
    (x,) = inputs((8, 8, 3))
    h = layers.Conv2D(8, 3)(x)
    scale = layers.Conv2D(1, 3, padding="same")(ops.mean(h, axis=-1, keepdims=True))
    return keras.Model(x, layers.Conv2D(2, 1)(h * scale))


@case(WORKS)
def dueling_head():
    (x,) = inputs((4,))
    h = layers.Dense(8)(x)
    advantage = layers.Dense(3)(h)
    return keras.Model(x, layers.Dense(1)(h) + advantage - ops.mean(advantage, axis=1, keepdims=True))


@case(WORKS)
def constant_added():
    (x,) = inputs((5, 3))
    places = np.linspace(0, 1, 20).reshape(5, 4).astype("float32")
    return keras.Model(x, layers.Dense(2)(layers.Dense(4)(x) + places))


@case(WORKS)
def places_by_arange():
    (x,) = inputs((5, 3))
    return keras.Model(x, layers.Dense(2)(layers.Dense(8)(x) + layers.Embedding(5, 8)(ops.arange(5))))


@case(ALONE)
def dense_over_places():
    (x,) = inputs((5, 3))
    h = layers.Dense(5)(layers.Permute((2, 1))(layers.Dense(8)(x)))
    return keras.Model(x, layers.Dense(2)(layers.Permute((2, 1))(h)))


@case(WORKS)
def patches_of_an_input():
    (x,) = inputs((8, 8, 3))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.Dense(6)(ops.image.extract_patches(x, 4)))))


@case(WORKS)
def depth_to_space():
    (x,) = inputs((4, 4, 3))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    h = ops.transpose(ops.reshape(h, (-1, 4, 4, 2, 2, 2)), (0, 1, 3, 2, 4, 5))
    return keras.Model(x, layers.Conv2D(2, 1)(ops.reshape(h, (-1, 8, 8, 2))))


@case(AROUND)
def attention_written_out():
    (x,) = inputs((5, 6))
    query, key, value = (layers.Dense(6)(x) for _ in range(3))
    scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))), axis=-1)
    return keras.Model(x, layers.Dense(2)(layers.Dense(8)(ops.matmul(scores, value))))


@case(AROUND)
def dot():
    tokens = inputs((1,), (1,), dtype="int32")
    towers = [layers.Dense(8)(layers.Flatten()(layers.Embedding(5, 6)(x))) for x in tokens]
    return keras.Model(tokens, layers.Dot(axes=1)(towers))


@case(ALONE)
def prelu_of_one_slope():
    (x,) = inputs((8, 8, 3))
    return keras.Model(x, layers.Conv2D(2, 1)(layers.PReLU(shared_axes=[1, 2, 3])(layers.Conv2D(6, 3)(x))))


@case(AROUND)
def spectral_normalization():
    (x,) = inputs((8, 8, 3))
    h = layers.Flatten()(layers.SpectralNormalization(layers.Conv2D(6, 3))(x))
    return keras.Model(x, layers.Dense(2)(layers.Dense(6)(h)))


class Scale(layers.Layer):
    """A layer of somebody's package, which nobody registered: one weight for each channel."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


@case(AROUND)
def layer_of_a_package():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(2)(layers.Dense(8)(Scale()(layers.Dense(6)(x)))))


class Forgetful(layers.Layer):
    """A layer whose configuration does not hold its argument."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return super().get_config()


@case(WORKS)
def layer_with_half_a_configuration():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(2)(layers.Dense(8)(Forgetful(3.0)(layers.Dense(6)(x)))))


@case(WORKS)
def recurrent():
    (x,) = inputs((5, 6))
    both = layers.Bidirectional(layers.GRU(4, return_sequences=True))
    return keras.Model(x, layers.Dense(2)(layers.LSTM(8)(both(layers.Dense(6)(x)))))


@case(WORKS)
def one_more_class():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(3, name="classes")(layers.Dense(6)(x)))
