"""Functional models of custom layers, as guides, examples and papers' own code write them."""

import keras
from keras import layers, ops

from benchmarks.studies.wild_models.registry import wild


class Sampling(layers.Layer):
    """Draws from the distribution that an encoder gives."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_variance = inputs
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)


@wild("keras.io, variational autoencoder: the encoder and its sampling layer, here without effect")
def vae_encoder() -> keras.Model:
    image = keras.Input((12, 12, 1))
    x = layers.Conv2D(6, 3, activation="relu", strides=2, padding="same")(image)
    x = layers.Conv2D(8, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Dense(8, activation="relu")(layers.Flatten()(x))
    mean, log_variance = layers.Dense(2, name="z_mean")(x), layers.Dense(2, name="z_log_var")(x)
    sampled = Sampling()([mean, log_variance])
    decoded = layers.Dense(6, activation="relu")(0.0 * sampled + mean)
    return keras.Model(image, [mean, log_variance, layers.Dense(9, activation="sigmoid")(decoded)])


class LayerScale(layers.Layer):
    def __init__(self, start, width, **kwargs):
        super().__init__(**kwargs)
        self.start, self.width = start, width

    def build(self, _):
        self.gamma = self.add_weight(shape=(self.width,), initializer=keras.initializers.Constant(self.start))

    def call(self, x):
        return x * self.gamma

    def get_config(self):
        return {**super().get_config(), "start": self.start, "width": self.width}


class StochasticDepth(layers.Layer):
    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed_generator = rate, keras.random.SeedGenerator(7)

    def call(self, x, training=False):
        if not training:
            return x
        keep = 1 - self.rate
        kept = keras.random.uniform((ops.shape(x)[0],) + (1,) * (len(x.shape) - 1), seed=self.seed_generator)
        return (x / keep) * ops.floor(keep + kept)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


class ClassToken(layers.Layer):
    def build(self, input_shape):
        self.token = self.add_weight(shape=(1, 1, input_shape[-1]), initializer="random_normal")

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1])), x], axis=1)


@wild("Liu et al. 2022, ConvNeXt of custom layers")
def convnext_of_custom_layers() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 4, 4)(image))
    for _ in range(2):
        h = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 7, padding="same", groups=8)(x))
        h = LayerScale(1e-6, 8)(layers.Dense(8)(layers.Activation("gelu")(layers.Dense(24)(h))))
        x = x + StochasticDepth(0.1)(h)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(4)(x))


@wild("Touvron et al. 2021, CaiT and ViT with a class token of custom layers")
def class_token_transformer() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = ClassToken()(layers.Reshape((9, 8))(layers.Conv2D(8, 4, 4)(image)))
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = x + LayerScale(0.1, 8)(layers.MultiHeadAttention(2, 4)(h, h))
        h = layers.Dense(8)(layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x)))
        x = x + LayerScale(0.1, 8)(h)
    return keras.Model(image, layers.Dense(4)(layers.LayerNormalization()(x)[:, 0]))


class Gated(layers.Layer):
    """A gated linear unit."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.linear = units, layers.Dense(2 * units)

    def call(self, x):
        value, gate = ops.split(self.linear(x), 2, axis=-1)
        return value * ops.sigmoid(gate)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@wild("Lim et al. 2021, gated residual blocks of custom layers (Temporal Fusion Transformer)")
def gated_residual() -> keras.Model:
    row = keras.Input((6,))
    x = layers.Dense(8)(row)
    for _ in range(2):
        h = layers.Dropout(0.1)(layers.Dense(8)(layers.Dense(8, activation="elu")(x)))
        x = layers.LayerNormalization()(x + Gated(8)(h))
    return keras.Model(row, layers.Dense(2)(x))
