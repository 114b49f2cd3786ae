"""Subclassed models, as guides, examples and papers' own code write them."""

import keras
from keras import layers, ops

from benchmarks.studies.wild_models.registry import Subclassed, subclassed, wild

Image = keras.Input


class Linear(layers.Layer):
    """A layer with weights of its own."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="random_normal", trainable=True)
        self.b = self.add_weight(shape=(self.units,), initializer="random_normal", trainable=True)

    def call(self, inputs):
        return ops.matmul(inputs, self.w) + self.b

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class MLPBlock(keras.Model):
    def __init__(self):
        super().__init__()
        self.linear_1, self.linear_2, self.linear_3 = Linear(12), Linear(8), Linear(1)

    def call(self, inputs):
        x = ops.relu(self.linear_1(inputs))
        x = ops.relu(self.linear_2(x))
        return self.linear_3(x)


@wild("keras.io, guide to making new layers and models: a block of layers with weights of their own")
def linear_block() -> Subclassed:
    return subclassed(MLPBlock(), keras.Input((6,)))


class TwoDense(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense1 = layers.Dense(12, activation="relu")
        self.dropout = layers.Dropout(0.5)
        self.dense2 = layers.Dense(5, activation="softmax")

    def call(self, inputs, training=False):
        x = self.dense1(inputs)
        if training:
            x = self.dropout(x, training=training)
        return self.dense2(x)


@wild("keras.io, the example in the documentation of keras.Model")
def two_dense() -> Subclassed:
    return subclassed(TwoDense(), keras.Input((6,)))


class ResNetBlock(layers.Layer):
    def __init__(self, filters, strides=1):
        super().__init__()
        self.conv1 = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)
        self.bn1 = layers.BatchNormalization()
        self.conv2 = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.bn2 = layers.BatchNormalization()
        self.shortcut = None
        if strides != 1:
            self.shortcut = keras.Sequential([layers.Conv2D(filters, 1, strides), layers.BatchNormalization()])

    def call(self, x, training=None):
        h = keras.activations.relu(self.bn1(self.conv1(x), training=training))
        h = self.bn2(self.conv2(h), training=training)
        return keras.activations.relu(h + (x if self.shortcut is None else self.shortcut(x, training=training)))


class ResNet(keras.Model):
    def __init__(self, widths=(6, 8), blocks=2, classes=4):
        super().__init__()
        self.stem = keras.Sequential([layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()])
        self.blocks = []
        for stage, width in enumerate(widths):
            self.blocks += [ResNetBlock(width, 2 if stage and not block else 1) for block in range(blocks)]
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(classes)

    def call(self, x, training=None):
        x = self.stem(x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.pool(x))


@wild("Residual networks as subclasses, as in most repositories")
def subclassed_resnet() -> Subclassed:
    return subclassed(ResNet(), Image((12, 12, 3)))


class VAE(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(8, activation="relu")])
        self.mean, self.log_variance = layers.Dense(3), layers.Dense(3)
        self.decoder = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(10, activation="sigmoid")])

    def call(self, x, training=False):
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean)) if training else mean
        return self.decoder(z), mean, log_variance


@wild("Kingma & Welling 2014, variational autoencoder as one subclassed model")
def subclassed_vae() -> Subclassed:
    return subclassed(VAE(), keras.Input((10,)))


class Down(layers.Layer):
    def __init__(self, filters):
        super().__init__()
        self.convs = [layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(2)]
        self.pool = layers.MaxPooling2D()

    def call(self, x):
        for conv in self.convs:
            x = conv(x)
        return x, self.pool(x)


class Up(layers.Layer):
    def __init__(self, filters):
        super().__init__()
        self.up = layers.Conv2DTranspose(filters, 2, strides=2)
        self.conv = layers.Conv2D(filters, 3, padding="same", activation="relu")

    def call(self, inputs):
        x, skip = inputs
        return self.conv(ops.concatenate([self.up(x), skip], axis=-1))


class UNet(keras.Model):
    def __init__(self):
        super().__init__()
        self.downs, self.ups = [Down(4), Down(6)], [Up(6), Up(4)]
        self.middle, self.head = layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(2, 1)

    def call(self, x):
        skips = []
        for down in self.downs:
            skip, x = down(x)
            skips.append(skip)
        x = self.middle(x)
        for up in self.ups:
            x = up([x, skips.pop()])
        return self.head(x)


@wild("U-Net as a subclass with layers of several outputs")
def subclassed_unet() -> Subclassed:
    return subclassed(UNet(), Image((16, 16, 3)))


class EncoderLayer(layers.Layer):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=0.1)
        self.feed = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width), layers.Dropout(0.1)])
        self.add, self.norms = layers.Add(), [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        x = self.norms[0](self.add([x, self.attention(query=x, value=x, key=x)]))
        return self.norms[1](self.add([x, self.feed(x)]))


class DecoderLayer(layers.Layer):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.causal, self.cross = (layers.MultiHeadAttention(heads, width // heads) for _ in range(2))
        self.feed = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width)])
        self.add, self.norms = layers.Add(), [layers.LayerNormalization() for _ in range(3)]

    def call(self, x, context):
        x = self.norms[0](self.add([x, self.causal(query=x, value=x, key=x, use_causal_mask=True)]))
        x = self.norms[1](self.add([x, self.cross(query=x, key=context, value=context)]))
        return self.norms[2](self.add([x, self.feed(x)]))


class Translator(keras.Model):
    def __init__(self, vocabulary=20, width=8, length=8):
        super().__init__()
        self.words = [layers.Embedding(vocabulary, width) for _ in range(2)]
        self.places = layers.Embedding(length, width)
        self.encoder = [EncoderLayer(width, 2, 12) for _ in range(2)]
        self.decoder = [DecoderLayer(width, 2, 12) for _ in range(2)]
        self.head = layers.Dense(vocabulary)

    def call(self, inputs):
        source, target = inputs
        x, y = (word(t) + self.places(ops.arange(t.shape[1])) for word, t in zip(self.words, (source, target), strict=True))
        for layer in self.encoder:
            x = layer(x)
        for layer in self.decoder:
            y = layer(y, context=x)
        return self.head(y)


@wild("TensorFlow tutorial, translation with a transformer")
def translator() -> Subclassed:
    return subclassed(Translator(), keras.Input((8,), dtype="int32"), keras.Input((6,), dtype="int32"))


class GraphLayer(layers.Layer):
    """Sums what the neighbours say, and updates the nodes."""

    def __init__(self, units):
        super().__init__()
        self.message, self.update = layers.Dense(units, activation="relu"), layers.Dense(units, activation="relu")

    def call(self, nodes, adjacency):
        received = ops.matmul(adjacency, self.message(nodes))
        return self.update(ops.concatenate([nodes, received], axis=-1))


class GraphNetwork(keras.Model):
    def __init__(self):
        super().__init__()
        self.graph_layers, self.head = [GraphLayer(8) for _ in range(2)], layers.Dense(3)

    def call(self, inputs):
        nodes, adjacency = inputs
        for layer in self.graph_layers:
            nodes = layer(nodes, adjacency)
        return self.head(ops.mean(nodes, axis=1))


@wild("Message passing on a graph as a subclass")
def graph_network() -> Subclassed:
    return subclassed(GraphNetwork(), keras.Input((5, 4)), keras.Input((5, 5)))


class Recommender(keras.Model):
    def __init__(self):
        super().__init__()
        self.user_embedding, self.movie_embedding = layers.Embedding(10, 6), layers.Embedding(10, 6)
        self.user_bias, self.movie_bias = layers.Embedding(10, 1), layers.Embedding(10, 1)

    def call(self, inputs):
        users, movies = self.user_embedding(inputs[:, 0]), self.movie_embedding(inputs[:, 1])
        match = ops.sum(users * movies, axis=1, keepdims=True)
        return ops.sigmoid(match + self.user_bias(inputs[:, 0]) + self.movie_bias(inputs[:, 1]))


@wild("keras.io, collaborative filtering for movie recommendations")
def recommender() -> Subclassed:
    return subclassed(Recommender(), keras.Input((2,), dtype="int32"))


class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([layers.Dense(10, activation="relu"), layers.Dense(6, activation="relu")])
        self.decoder = keras.Sequential([layers.Dense(10, activation="relu"), layers.Dense(14, activation="sigmoid")])

    def call(self, x):
        return self.decoder(self.encoder(x))


@wild("TensorFlow tutorial, anomaly detection by an autoencoder")
def anomaly_detector() -> Subclassed:
    return subclassed(Autoencoder(), keras.Input((14,)))


class FeedBack(keras.Model):
    """Forecasts one step after the other, each from the last."""

    def __init__(self, units=8, steps=3, features=2):
        super().__init__()
        self.steps, self.lstm = steps, layers.LSTM(units, return_state=True)
        self.cell, self.head = layers.Dense(units, activation="tanh"), layers.Dense(features)

    def call(self, inputs):
        x, *_ = self.lstm(inputs)
        found = [self.head(x)]
        for _ in range(self.steps - 1):
            x = self.cell(ops.concatenate([x, found[-1]], axis=-1))
            found.append(self.head(x))
        return ops.stack(found, axis=1)


@wild("TensorFlow tutorial, time series forecasting with feedback")
def feedback_forecast() -> Subclassed:
    return subclassed(FeedBack(), keras.Input((6, 2)))


class CustomTrainStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@wild("keras.io, guide to a train_step of one's own: a Functional subclass")
def custom_train_step() -> keras.Model:
    row = keras.Input((6,))
    return CustomTrainStep(row, layers.Dense(2)(layers.Dense(10, activation="relu")(row)))
