"""Classifiers and detectors of images, as public examples and papers write them."""

import keras
import numpy as np
from keras import layers, ops

from benchmarks.studies.wild_models.registry import wild

CLASSES = 4


def _classified(inputs, x):
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def _conv(x, filters, size=3, strides=1, activation="relu"):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


@wild("keras.io, simple MNIST convnet")
def mnist_convnet() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(12, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


class Patches(layers.Layer):
    """Cuts an image in squares."""

    def __init__(self, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size

    def call(self, images):
        patches = ops.image.extract_patches(images, size=self.patch_size)
        _, rows, columns, values = patches.shape
        return ops.reshape(patches, (-1, rows * columns, values))

    def get_config(self):
        return {**super().get_config(), "patch_size": self.patch_size}


class PatchEncoder(layers.Layer):
    """Projects patches and adds an embedding of their places."""

    def __init__(self, num_patches, projection_dim, **kwargs):
        super().__init__(**kwargs)
        self.num_patches, self.projection_dim = num_patches, projection_dim
        self.projection = layers.Dense(projection_dim)
        self.position_embedding = layers.Embedding(num_patches, projection_dim)

    def call(self, patch):
        positions = ops.expand_dims(ops.arange(0, self.num_patches, 1), axis=0)
        return self.projection(patch) + self.position_embedding(positions)

    def get_config(self):
        return {**super().get_config(), "num_patches": self.num_patches, "projection_dim": self.projection_dim}


def _mlp(x, units):
    for width in units:
        x = layers.Dropout(0.1)(layers.Dense(width, activation="gelu")(x))
    return x


@wild("keras.io, image classification with vision transformer")
def vision_transformer() -> keras.Model:
    image = keras.Input((16, 16, 3))
    augmented = keras.Sequential([layers.Normalization(), layers.Resizing(12, 12), layers.RandomFlip("horizontal")])(image)
    encoded = PatchEncoder(9, 8)(Patches(4)(augmented))
    for _ in range(2):
        x = layers.LayerNormalization(epsilon=1e-6)(encoded)
        x = layers.Add()([layers.MultiHeadAttention(num_heads=2, key_dim=8, dropout=0.1)(x, x), encoded])
        encoded = layers.Add()([_mlp(layers.LayerNormalization(epsilon=1e-6)(x), (16, 8)), x])
    x = layers.Dropout(0.5)(layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(encoded)))
    return keras.Model(image, layers.Dense(CLASSES)(_mlp(x, (24, 12))))


class MLPMixerLayer(layers.Layer):
    """Mixes places by one network, channels by another."""

    def __init__(self, num_patches, hidden_units, **kwargs):
        super().__init__(**kwargs)
        self.mlp1 = keras.Sequential([layers.Dense(num_patches, activation="gelu"), layers.Dense(num_patches)])
        self.mlp2 = keras.Sequential([layers.Dense(hidden_units, activation="gelu"), layers.Dense(hidden_units)])
        self.normalize = layers.LayerNormalization(epsilon=1e-6)

    def build(self, input_shape):
        batch, places, channels = input_shape
        self.normalize.build(input_shape)
        self.mlp1.build((batch, channels, places))
        self.mlp2.build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        channels = ops.transpose(self.normalize(inputs), axes=(0, 2, 1))
        x = ops.transpose(self.mlp1(channels), axes=(0, 2, 1)) + inputs
        return x + self.mlp2(self.normalize(x))


@wild("keras.io, image classification with modern MLP models")
def mlp_mixer() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.Dense(8)(Patches(4)(image))
    x = keras.Sequential([MLPMixerLayer(9, 8) for _ in range(2)])(x)
    return keras.Model(image, layers.Dense(CLASSES)(layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))))


@wild("keras.io, ConvMixer")
def convmixer() -> keras.Model:
    def block(x):
        return layers.BatchNormalization()(layers.Activation("gelu")(x))

    image = keras.Input((16, 16, 3))
    x = block(layers.Conv2D(12, 2, 2)(layers.Rescaling(1 / 255)(image)))
    for _ in range(3):
        x = layers.Add()([block(layers.DepthwiseConv2D(5, padding="same")(x)), x])
        x = block(layers.Conv2D(12, 1)(x))
    return _classified(image, layers.GlobalAvgPool2D()(x))


@wild("keras.io, compact convolutional transformer")
def compact_convolutional_transformer() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(image)
    for filters in (6, 8):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, activation="relu")(x)
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = layers.Reshape((16, 8))(x)
    x = x + layers.Embedding(16, 8)(ops.arange(16))
    for _ in range(2):
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        h = layers.Add()([layers.MultiHeadAttention(2, 8, dropout=0.1)(h, h), x])
        x = layers.Add()([_mlp(layers.LayerNormalization(epsilon=1e-5)(h), (8, 8)), h])
    weights = ops.softmax(layers.Dense(1)(layers.LayerNormalization(epsilon=1e-5)(x)), axis=1)
    pooled = ops.squeeze(ops.matmul(ops.transpose(weights, (0, 2, 1)), x), -2)
    return keras.Model(image, layers.Dense(CLASSES)(pooled))


@wild("He et al. 2016, ResNet for CIFAR-10")
def resnet_cifar() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = _conv(image, 6)
    for stage, filters in enumerate((6, 8, 12)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            h = _conv(_conv(x, filters, 3, strides), filters, activation=None)
            x = layers.ReLU()(layers.add([h, _conv(x, filters, 1, strides, None) if strides == 2 else x]))
    return _classified(image, layers.Flatten()(layers.AveragePooling2D(4)(x)))


@wild("Huang et al. 2017, DenseNet by hand")
def densenet_by_hand() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same")(image)
    for block in range(2):
        for _ in range(3):
            h = layers.Conv2D(8, 1)(layers.ReLU()(layers.BatchNormalization()(x)))
            h = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(h)))
            x = ops.concatenate([x, layers.Dropout(0.2)(h)], axis=-1)
        if not block:
            x = layers.AveragePooling2D(2)(layers.Conv2D(x.shape[-1] // 2, 1)(x))
    return _classified(image, layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x)))


@wild("Hu et al. 2018, squeeze-and-excitation ResNet")
def se_resnet() -> keras.Model:
    def se(x):
        gate = layers.Reshape((1, 1, x.shape[-1]))(layers.GlobalAveragePooling2D()(x))
        gate = layers.Dense(max(1, x.shape[-1] // 4), activation="relu", use_bias=False)(gate)
        return layers.multiply([x, layers.Dense(x.shape[-1], activation="sigmoid", use_bias=False)(gate)])

    image = keras.Input((12, 12, 3))
    x = _conv(image, 8)
    for filters in (8, 12):
        h = se(_conv(_conv(x, filters), filters, activation=None))
        x = layers.ReLU()(h + layers.Conv2D(filters, 1)(x))
    return _classified(image, layers.GlobalAveragePooling2D()(x))


@wild("Woo et al. 2018, CBAM")
def cbam() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = _conv(image, 8)
    for filters in (8, 12):
        h = _conv(x, filters)
        hidden, out = layers.Dense(4, activation="relu"), layers.Dense(filters)
        pooled = [layers.GlobalAveragePooling2D()(h), layers.GlobalMaxPooling2D()(h)]
        channel = layers.Activation("sigmoid")(layers.Add()([out(hidden(p)) for p in pooled]))
        h = layers.Multiply()([h, layers.Reshape((1, 1, filters))(channel)])
        places = layers.Concatenate()([ops.mean(h, -1, keepdims=True), ops.max(h, -1, keepdims=True)])
        x = layers.Multiply()([h, layers.Conv2D(1, 7, padding="same", activation="sigmoid", use_bias=False)(places)])
    return _classified(image, layers.GlobalAveragePooling2D()(x))


@wild("Zhang et al. 2018, ShuffleNet")
def shufflenet() -> keras.Model:
    def shuffle(x):
        _, height, width, channels = x.shape
        x = ops.transpose(ops.reshape(x, (-1, height, width, 2, channels // 2)), (0, 1, 2, 4, 3))
        return ops.reshape(x, (-1, height, width, channels))

    image = keras.Input((12, 12, 3))
    x = _conv(image, 8)
    for _ in range(2):
        h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 1, groups=2, use_bias=False)(x)))
        h = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(shuffle(h)))
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(8, 1, groups=2)(h)]))
    return _classified(image, layers.GlobalAveragePooling2D()(x))


@wild("Iandola et al. 2016, SqueezeNet")
def squeezenet() -> keras.Model:
    image = keras.Input((20, 20, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", padding="valid")(image)
    for squeeze, expand in ((3, 6), (4, 8)):
        s = layers.Conv2D(squeeze, 1, activation="relu")(x)
        sides = [layers.Conv2D(expand, size, activation="relu", padding="same")(s) for size in (1, 3)]
        x = layers.MaxPooling2D(2)(layers.concatenate(sides, axis=3))
    x = layers.Conv2D(CLASSES, 1)(layers.Dropout(0.5)(x))
    return keras.Model(image, layers.Activation("softmax")(layers.GlobalAveragePooling2D()(x)))


@wild("keras.io, transfer learning and fine-tuning")
def transfer_learning() -> keras.Model:
    base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, include_top=False, weights=None)
    base.trainable = False
    augment = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])
    image = keras.Input((32, 32, 3))
    x = base(layers.Rescaling(scale=1 / 127.5, offset=-1)(augment(image)), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(1)(x))


@wild("keras.io, RetinaNet: a pyramid with heads that all levels share")
def retinanet() -> keras.Model:
    def head(filters, bias):
        parts = [layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(2)]
        last = layers.Conv2D(filters, 3, padding="same", bias_initializer=bias)
        return keras.Sequential([keras.Input((None, None, 8)), *parts, last])

    image = keras.Input((32, 32, 3))
    c3 = _conv(_conv(image, 6, strides=2), 8, strides=2)
    c4 = _conv(c3, 10, strides=2)
    c5 = _conv(c4, 12, strides=2)
    p3, p4, p5 = (layers.Conv2D(8, 1)(c) for c in (c3, c4, c5))
    p4 = p4 + layers.UpSampling2D(2)(p5)
    p3 = p3 + layers.UpSampling2D(2)(p4)
    levels = [layers.Conv2D(8, 3, padding="same")(p) for p in (p3, p4, p5)]
    levels.append(layers.Conv2D(8, 3, 2, padding="same")(layers.ReLU()(levels[-1])))
    classes = head(2 * CLASSES, keras.initializers.Constant(-np.log(99)))
    boxes = head(2 * 4, "zeros")
    found = [layers.Reshape((-1, CLASSES))(classes(level)) for level in levels]
    places = [layers.Reshape((-1, 4))(boxes(level)) for level in levels]
    outputs = layers.Concatenate(axis=-1)([layers.Concatenate(axis=1)(places), layers.Concatenate(axis=1)(found)])
    return keras.Model(image, outputs)


@wild("keras.io, 3D image classification from CT scans")
def ct_scans() -> keras.Model:
    image = keras.Input((16, 16, 8, 1))
    x = image
    for filters in (4, 6, 8):
        x = layers.Conv3D(filters, 3, activation="relu", padding="same")(x)
        x = layers.BatchNormalization()(layers.MaxPool3D(2)(x))
    x = layers.Dense(12, activation="relu")(layers.GlobalAveragePooling3D()(x))
    return keras.Model(image, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.3)(x)))


@wild("keras.io, supervised contrastive learning: an encoder of unit length")
def contrastive_encoder() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.GlobalAveragePooling2D()(_conv(_conv(image, 8, strides=2), 12))
    return keras.Model(image, layers.UnitNormalization()(layers.Dense(8, activation="relu")(x)))


@wild("keras.io, metric learning by siamese networks with a triplet")
def triplet_siamese() -> keras.Model:
    size = (12, 12, 3)
    image = keras.Input(size)
    x = layers.Flatten()(_conv(image, 6, strides=2))
    x = layers.BatchNormalization()(layers.Dense(12, activation="relu")(x))
    embed = keras.Model(image, layers.Dense(8)(layers.Dense(10, activation="relu")(x)))
    anchor, positive, negative = (keras.Input(size) for _ in range(3))
    a, p, n = embed(anchor), embed(positive), embed(negative)
    distances = [ops.sum(ops.square(a - other), -1, keepdims=True) for other in (p, n)]
    return keras.Model([anchor, positive, negative], layers.Concatenate()(distances))
