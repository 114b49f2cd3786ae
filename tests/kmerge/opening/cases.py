"""Layers and models as people write them, each small: with layers inside, weights of their own, branches and loops."""

import keras
import numpy as np
from keras import layers, ops


class TransformerBlock(keras.Layer):
    def __init__(self, width, heads, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed_forward = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.dropouts = [layers.Dropout(0.1), layers.Dropout(0.1)]

    def call(self, x, training=None):
        h = self.norms[0](x + self.dropouts[0](self.attention(x, x), training=training))
        return self.norms[1](h + self.dropouts[1](self.feed_forward(h), training=training))


class TokensAndPlaces(keras.Layer):
    def __init__(self, places, words, width, **options):
        super().__init__(**options)
        self.words, self.places = layers.Embedding(words, width), layers.Embedding(places, width)

    def call(self, x):
        return self.words(x) + self.places(ops.arange(x.shape[-1]))


class PatchEncoder(keras.Layer):
    """A projection of patches, and a table of places under an axis of its own."""

    def __init__(self, patches, width, **options):
        super().__init__(**options)
        self.patches, self.projection, self.places = patches, layers.Dense(width), layers.Embedding(patches, width)

    def call(self, x):
        return self.projection(x) + self.places(ops.expand_dims(ops.arange(self.patches), 0))


class ResidualBlock(keras.Layer):
    def __init__(self, filters, **options):
        super().__init__(**options)
        self.convolutions = [layers.Conv2D(filters, 3, padding="same", use_bias=False) for _ in range(2)]
        self.norms = [layers.BatchNormalization() for _ in range(2)]

    def call(self, x):
        h = x
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = norm(convolution(ops.relu(h)))
        return x + h


class LayerScale(keras.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones", regularizer="l2", name="gamma")

    def call(self, x):
        return self.gamma * x


class Encoder(keras.Layer):
    """Layers with layers inside, and a table of places that is a weight."""

    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = {"first": TransformerBlock(8, 2, name="first")}
        self.scale = LayerScale(name="scale")

    def build(self, shape):
        self.places = self.add_weight(shape=(1, *shape[1:]), name="places")
        super().build(shape)

    def call(self, x):
        x = x + self.places[:, : x.shape[1]]
        for block in self.blocks.values():
            x = block(x)
        return self.scale(x)


class Token(keras.Layer):
    """A token before the places of a sequence, and a table of these, each as often as there are rows in the batch."""

    def __init__(self, how="broadcast", **options):
        super().__init__(**options)
        self.how = how

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.places = self.add_weight(shape=(shape[1] + 1, shape[-1]), name="places")

    def call(self, x):
        batch, width = ops.shape(x)[0], x.shape[-1]
        token = {
            "broadcast": lambda: ops.broadcast_to(self.token, (batch, 1, width)),
            "tile": lambda: ops.tile(self.token, (batch, 1, 1)),
            "repeat": lambda: ops.repeat(self.token, batch, axis=0),
        }[self.how]()
        x = ops.concatenate([token, x], axis=1)
        return x + ops.broadcast_to(self.places, ops.shape(x))


class StochasticDepth(keras.Layer):
    """Rows are dropped in training, in ways that are those of a Dropout and in others."""

    def __init__(self, rate, how="scaled", **options):
        super().__init__(**options)
        self.rate, self.how = rate, how
        self.generator = keras.random.SeedGenerator(5)

    def call(self, x, training=None):
        if not training:
            return x
        seed = 5 if self.how == "the same each time" else self.generator
        shape = (1 if self.how == "all or none" else ops.shape(x)[0], *[1] * (len(x.shape) - 1))
        kept = ops.floor(1 - self.rate + keras.random.uniform(shape, seed=seed))
        return x * kept / (1.0 if self.how == "not scaled" else 1 - self.rate)


class ByBatch(keras.Layer):
    """What it computes depends on the size of the batch, and on whether that is 1."""

    def __init__(self, how, **options):
        super().__init__(**options)
        self.how, self.dense = how, layers.Dense(8)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        batch = ops.shape(x)[0]
        x = ops.reshape(self.dense(x), (batch, 8))
        if self.how == "branch":
            return x * (2 if batch < 2 else 3)
        return x / ops.cast(batch, x.dtype) if self.how == "mean" else x + ops.ones((batch, 1))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape)


class BranchOnValues(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) if ops.sum(x) > 0 else x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape)


class TiedEmbedding(keras.Layer):
    """A table that is read as a layer and as a weight."""

    def __init__(self, **options):
        super().__init__(**options)
        self.table = layers.Embedding(5, 8)

    def call(self, x):
        return ops.matmul(self.table(x), ops.transpose(self.table.embeddings))


class OfTheBackend(keras.Layer):
    def call(self, x):
        if keras.backend.backend() == "jax":
            import jax.numpy as backend
        else:
            import tensorflow as backend
        return backend.tanh(x)


class WithLoss(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8)

    def call(self, x):
        self.add_loss(ops.mean(x))
        return self.dense(x)


class Counter(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8)

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.dense.build(shape)

    def call(self, x):
        self.count.assign_add(1.0)
        return self.dense(x)


class Noise(keras.Layer):
    """What it does in training cannot be recorded."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x, training=None):
        return x + keras.random.normal(ops.shape(x), seed=self.generator) if training else x


class DropoutInTraining(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.dropout = layers.Dense(8), layers.Dropout(0.5)

    def call(self, x, training=False):
        x = self.dense(x)
        return self.dropout(x, training=True) if training else x


class Functions(keras.Layer):
    """A function that uses a weight, where no one sees it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8)

    def call(self, x):
        return ops.map(lambda row: self.dense(row[None])[0], x)


class Gate(keras.Layer):
    """Several inputs, by name and with an argument that is no tensor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.left, self.right = layers.Dense(8), layers.Dense(8)

    def call(self, x, gate, power=1):
        return self.left(x) * ops.sigmoid(self.right(gate)) ** power


class TwoHeads(keras.Model):
    """Several inputs and outputs by name, and one layer used twice."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shared, self.joined = layers.Dense(8, activation="relu"), layers.Dense(6, activation="tanh")
        self.classes, self.value = layers.Dense(3, activation="softmax"), layers.Dense(1)

    def call(self, inputs):
        both = ops.concatenate([self.shared(inputs["left"]), self.shared(inputs["right"])], axis=-1)
        h = self.joined(both)
        return {"classes": self.classes(h), "value": self.value(h)}


class Network(keras.Model):
    """A stem, a list of blocks in a loop, a head."""

    def __init__(self, **options):
        super().__init__(**options)
        self.stem, self.head = layers.Conv2D(4, 3, padding="same"), layers.Dense(3)
        self.blocks = [ResidualBlock(4, name=f"block_{i}") for i in range(2)]
        self.pool, self.dropout = layers.GlobalAveragePooling2D(), layers.Dropout(0.5)

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(self.pool(x), training=training))


class Negated(keras.Model):
    """A Functional model with a call of its own."""

    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs, training=training, mask=mask)


def around(layer, shape=(8,)):
    """A model with a layer in its middle that reads and makes 8 channels."""
    x = keras.Input(shape)
    h = layers.Dense(8, activation="relu", name="before")(x)
    return keras.Model(x, layers.Dense(3, name="logits")(layers.Dense(6, name="after")(layer(h))))


def encoder():
    """Patches of pictures through an encoder, with a head."""
    x = keras.Input((5, 6))
    h = Encoder(name="encoder")(PatchEncoder(5, 8, name="patches")(x))
    return keras.Model(x, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(h)))


def patches():
    """Patches with places and a scale, small enough for two backends."""
    x = keras.Input((5, 6))
    h = LayerScale(name="scale")(PatchEncoder(5, 8, name="patches")(x))
    return keras.Model(x, layers.Dense(3, name="logits")(layers.Dense(4, activation="relu", name="hidden")(h)))


def text():
    """Tokens through a block that is used twice."""
    x = keras.Input((6,), dtype="int32")
    block = TransformerBlock(8, 2, name="block")
    h = block(block(TokensAndPlaces(6, 20, 8, name="tokens")(x)))
    return keras.Model(x, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(h)))


def network():
    model = Network(name="network")
    model(np.zeros((1, 6, 6, 3), "float32"))
    return model


def negated():
    x = keras.Input((4,))
    return Negated(x, layers.Dense(2)(layers.Dense(6, name="h")(x)))


def nested():
    """A subclassed model inside a Functional one."""
    x = keras.Input((6, 6, 3))
    return keras.Model(x, layers.Dense(2, name="last")(Network(name="network")(x)))


def two_heads():
    model = TwoHeads(name="heads")
    model({"left": np.zeros((1, 4), "float32"), "right": np.zeros((1, 4), "float32")})
    return model
