"""Models whose outputs are images or masks, of points in space, and that generate."""

import keras
from keras import layers, ops

from benchmarks.studies.wild_models.registry import wild


def _double(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    return x


@wild("keras.io and Ronneberger et al. 2015, U-Net")
def unet() -> keras.Model:
    image = x = keras.Input((16, 16, 3))
    skips = []
    for filters in (4, 6):
        skips.append(_double(x, filters))
        x = layers.Dropout(0.3)(layers.MaxPool2D(2)(skips[-1]))
    x = _double(x, 8)
    for filters, skip in zip((6, 4), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(filters, 3, 2, padding="same")(x)
        x = _double(layers.Dropout(0.3)(layers.concatenate([x, skip])), filters)
    return keras.Model(image, layers.Conv2D(3, 1, padding="same", activation="softmax")(x))


@wild("keras.io, image segmentation with a U-Net-like Xception")
def unet_xception() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same")(image)
    x = previous = layers.Activation("relu")(layers.BatchNormalization()(x))
    for filters in (8, 10):
        for _ in range(2):
            x = layers.BatchNormalization()(layers.SeparableConv2D(filters, 3, padding="same")(layers.ReLU()(x)))
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = previous = layers.add([x, layers.Conv2D(filters, 1, strides=2, padding="same")(previous)])
    for filters in (10, 8, 6):
        for _ in range(2):
            x = layers.BatchNormalization()(layers.Conv2DTranspose(filters, 3, padding="same")(layers.ReLU()(x)))
        x = layers.UpSampling2D(2)(x)
        x = previous = layers.add([x, layers.Conv2D(filters, 1, padding="same")(layers.UpSampling2D(2)(previous))])
    return keras.Model(image, layers.Conv2D(3, 3, activation="softmax", padding="same")(x))


@wild("keras.io, DeepLabV3+")
def deeplab() -> keras.Model:
    def block(x, filters=8, size=3, rate=1, bias=False):
        x = layers.Conv2D(filters, size, dilation_rate=rate, padding="same", use_bias=bias)(x)
        return ops.nn.relu(layers.BatchNormalization()(x))

    image = keras.Input((16, 16, 3))
    low = block(layers.Conv2D(6, 3, 2, padding="same")(image))
    high = block(layers.Conv2D(10, 3, 2, padding="same")(low), 12)
    pooled = block(layers.AveragePooling2D(pool_size=(4, 4))(high), size=1, bias=True)
    pooled = layers.UpSampling2D(size=(4, 4), interpolation="bilinear")(pooled)
    pyramid = [pooled, block(high, size=1)] + [block(high, rate=rate) for rate in (2, 4)]
    x = layers.UpSampling2D(2, interpolation="bilinear")(block(layers.Concatenate()(pyramid), size=1))
    x = block(layers.Concatenate()([x, block(low, 4, 1)]))
    return keras.Model(image, layers.Conv2D(3, 1)(layers.UpSampling2D(2, interpolation="bilinear")(x)))


@wild("Oktay et al. 2018, attention U-Net")
def attention_unet() -> keras.Model:
    image = keras.Input((16, 16, 1))
    top = _double(image, 4)
    bottom = _double(layers.MaxPool2D()(top), 8)
    gate = layers.Conv2D(4, 1)(bottom)
    theta = layers.Conv2D(4, 2, strides=2)(top)
    weight = layers.Conv2D(1, 1, activation="sigmoid")(layers.ReLU()(layers.add([gate, theta])))
    attended = layers.multiply([layers.UpSampling2D()(weight), top])
    x = _double(layers.concatenate([layers.UpSampling2D()(bottom), attended]), 4)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


@wild("keras.io, super-resolution by an efficient sub-pixel CNN (ESPCN)")
def espcn() -> keras.Model:
    image = keras.Input((None, None, 1))
    x = layers.Conv2D(12, 5, activation="tanh", padding="same", kernel_initializer="orthogonal")(image)
    x = layers.Conv2D(8, 3, activation="tanh", padding="same")(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    _, height, width, _ = ops.shape(x)
    x = ops.transpose(ops.reshape(x, (-1, height or 8, width or 8, 2, 2, 1)), (0, 1, 3, 2, 4, 5))
    return keras.Model(image, ops.reshape(x, (-1, 2 * (height or 8), 2 * (width or 8), 1)))


@wild("keras.io, enhanced deep residual networks (EDSR) with depth-to-space")
def edsr() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = first = layers.Conv2D(8, 3, padding="same")(layers.Rescaling(1 / 255)(image))
    for _ in range(2):
        h = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(h)])
    x = layers.Add()([first, layers.Conv2D(8, 3, padding="same")(x)])
    x = layers.Conv2D(16, 3, padding="same")(x)
    x = ops.reshape(ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 2, 4)), (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 4))
    return keras.Model(image, layers.Rescaling(255.0)(layers.Conv2D(3, 3, padding="same")(x)))


@wild("Ledig et al. 2017, SRGAN generator")
def srgan_generator() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = first = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(8, 9, padding="same")(image))
    for _ in range(2):
        h = layers.BatchNormalization(momentum=0.5)(layers.Conv2D(8, 3, padding="same")(x))
        h = layers.Conv2D(8, 3, padding="same")(layers.PReLU(shared_axes=[1, 2])(h))
        x = layers.add([x, layers.BatchNormalization(momentum=0.5)(h)])
    x = layers.add([first, layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))])
    x = layers.PReLU(shared_axes=[1, 2])(layers.UpSampling2D(2)(layers.Conv2D(12, 3, padding="same")(x)))
    return keras.Model(image, layers.Conv2D(3, 9, padding="same", activation="tanh")(x))


@wild("keras.io, low-light enhancement with Zero-DCE")
def zero_dce() -> keras.Model:
    image = keras.Input((12, 12, 3))

    def conv(x):
        return layers.Conv2D(8, 3, activation="relu", padding="same")(x)

    c1 = conv(image)
    c2 = conv(c1)
    c3 = conv(c2)
    c4 = conv(layers.Concatenate()([c3, c2]))
    curves = layers.Conv2D(12, 3, activation="tanh", padding="same")(layers.Concatenate()([c4, c1]))
    x = image
    for start in range(0, 12, 3):
        x = x + curves[:, :, :, start : start + 3] * (ops.square(x) - x)
    return keras.Model(image, x)


@wild("keras.io, MIRNet: selective kernels and dual attention")
def mirnet_block() -> keras.Model:
    def selective(xs):
        total = layers.Add()(xs)
        pooled = ops.mean(total, axis=(1, 2), keepdims=True)
        small = layers.Conv2D(2, 1, activation="relu")(pooled)
        return layers.Add()([x * layers.Conv2D(8, 1, activation="softmax")(small) for x in xs])

    def dual_attention(x):
        h = layers.Conv2D(8, 3, padding="same")(layers.Conv2D(8, 3, padding="same", activation="relu")(x))
        places = ops.concatenate([ops.mean(h, -1, keepdims=True), ops.max(h, -1, keepdims=True)], axis=-1)
        spatial = h * layers.Conv2D(1, 1, activation="sigmoid")(places)
        pooled = ops.mean(h, axis=(1, 2), keepdims=True)
        channel = h * layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="relu")(pooled))
        return layers.Add()([x, layers.Conv2D(8, 1)(layers.Concatenate()([spatial, channel]))])

    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(image)
    down = layers.Conv2D(8, 1)(layers.MaxPooling2D()(x))
    x = dual_attention(selective([dual_attention(x), layers.UpSampling2D()(layers.Conv2D(8, 1)(dual_attention(down)))]))
    return keras.Model(image, layers.Add()([image, layers.Conv2D(3, 3, padding="same")(x)]))


@wild("keras.io, convolutional autoencoder for denoising")
def denoising_autoencoder() -> keras.Model:
    image = x = keras.Input((12, 12, 1))
    for _ in range(2):
        x = layers.MaxPooling2D(2, padding="same")(layers.Conv2D(8, 3, activation="relu", padding="same")(x))
    for _ in range(2):
        x = layers.Conv2DTranspose(8, 3, strides=2, activation="relu", padding="same")(x)
    return keras.Model(image, layers.Conv2D(1, 3, activation="sigmoid", padding="same")(x))


@wild("keras.io, DCGAN generator")
def dcgan_generator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4 * 4 * 8),
            layers.Reshape((4, 4, 8)),
            layers.Conv2DTranspose(8, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(12, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(3, 5, padding="same", activation="sigmoid"),
        ]
    )


@wild("keras.io, DCGAN discriminator, with spectral normalization")
def spectral_discriminator() -> keras.Model:
    image = x = keras.Input((12, 12, 3))
    for filters in (6, 8):
        x = layers.LeakyReLU(0.2)(layers.SpectralNormalization(layers.Conv2D(filters, 4, 2, padding="same"))(x))
    return keras.Model(image, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.2)(layers.Flatten()(x))))


class ReflectionPadding2D(layers.Layer):
    """Pads an image by its mirror image."""

    def __init__(self, padding=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.padding = tuple(padding)

    def call(self, x):
        height, width = self.padding
        return ops.pad(x, [[0, 0], [height, height], [width, width], [0, 0]], mode="reflect")

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


@wild("keras.io, CycleGAN generator")
def cyclegan_generator() -> keras.Model:
    def normal(x):
        return layers.GroupNormalization(groups=-1, epsilon=1e-3)(x)

    image = keras.Input((8, 8, 3))
    x = layers.Activation("relu")(normal(layers.Conv2D(6, 7, use_bias=False)(ReflectionPadding2D((3, 3))(image))))
    x = layers.Activation("relu")(normal(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)))
    for _ in range(2):
        h = layers.Activation("relu")(normal(layers.Conv2D(8, 3, use_bias=False)(ReflectionPadding2D()(x))))
        x = layers.add([x, normal(layers.Conv2D(8, 3, use_bias=False)(ReflectionPadding2D()(h)))])
    x = layers.Activation("relu")(normal(layers.Conv2DTranspose(6, 3, strides=2, padding="same", use_bias=False)(x)))
    return keras.Model(image, layers.Conv2D(3, 7, activation="tanh")(ReflectionPadding2D((3, 3))(x)))


@wild("keras.io, denoising diffusion: a U-Net that is told the time")
def diffusion_unet() -> keras.Model:
    image, time = keras.Input((8, 8, 3)), keras.Input((1,))
    angles = time * (2.0 * 3.14159 * ops.exp(ops.linspace(0.0, 2.0, 4)))
    t = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    t = layers.Dense(12)(layers.Dense(12, activation="swish")(t))

    def residual(x, width):
        shortcut = layers.Conv2D(width, 1)(x) if x.shape[-1] != width else x
        shift = layers.Dense(width)(layers.Activation("swish")(t))[:, None, None, :]
        h = layers.Conv2D(width, 3, padding="same")(ops.silu(layers.GroupNormalization(groups=2)(x))) + shift
        h = layers.Conv2D(width, 3, padding="same")(ops.silu(layers.GroupNormalization(groups=2)(h)))
        return layers.Add()([shortcut, h])

    x = first = residual(layers.Conv2D(6, 3, padding="same")(image), 6)
    x = residual(layers.AveragePooling2D(2)(x), 8)
    x = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(x), first])
    return keras.Model([image, time], layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros")(residual(x, 6)))


@wild("keras.io, PointNet with an orthogonal transformation")
def pointnet() -> keras.Model:
    def conv(x, filters):
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layers.Conv1D(filters, 1)(x)))

    def dense(x, units):
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layers.Dense(units)(x)))

    def transform(x, features):
        h = layers.GlobalMaxPooling1D()(conv(conv(x, 8), 12))
        matrix = layers.Dense(features**2, kernel_initializer="zeros")(dense(h, 8))
        return layers.Dot(axes=(2, 1))([x, layers.Reshape((features, features))(matrix)])

    points = keras.Input((20, 3))
    x = conv(conv(transform(points, 3), 8), 8)
    x = layers.GlobalMaxPooling1D()(conv(conv(transform(x, 8), 8), 16))
    x = layers.Dropout(0.3)(dense(layers.Dropout(0.3)(dense(x, 16)), 8))
    return keras.Model(points, layers.Dense(4, activation="softmax")(x))


@wild("keras.io, NeRF: an MLP with a skip connection")
def nerf() -> keras.Model:
    rays = x = keras.Input((16, 12))
    for index in range(6):
        x = layers.Dense(12, activation="relu")(x)
        if index % 3 == 0 and index:
            x = layers.concatenate([x, rays], axis=-1)
    return keras.Model(rays, layers.Dense(4)(x))


@wild("keras.io, next-frame video prediction with ConvLSTM")
def conv_lstm() -> keras.Model:
    video = keras.Input((4, 8, 8, 1))
    x = layers.ConvLSTM2D(6, 5, padding="same", return_sequences=True, activation="relu")(video)
    x = layers.ConvLSTM2D(6, 3, padding="same", return_sequences=True, activation="relu")(layers.BatchNormalization()(x))
    return keras.Model(video, layers.Conv3D(1, 3, activation="sigmoid", padding="same")(layers.BatchNormalization()(x)))
