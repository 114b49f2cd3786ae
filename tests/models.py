"""A zoo of tiny models: the networks of the field, each a few hundred weights wide.

Every entry is called with a seed and returns a fresh model with random weights, BatchNormalization statistics
included. Layers keep their automatic names, as users' layers do, so two parents never share them.
The graphs with one difficulty each are in `odd_models.py` and join the same `ZOO`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Args:
        name: of the builder.
        build: makes the model, with whatever weights.
        final: the activation that each output ends with, in `keras.tree` order; it stays outside the parents' mean.
        repeats_input: per-parent weights or units stand right behind the input, which `concatenate` must repeat.
        leaves_others: fixed units with a layer of each parent between: choosing one parent's units does not remove the
            others'. Such are outputs behind a tail that is not linear, and a unit that broadcasting repeats.
    """

    name: str
    build: Callable[[], keras.Model]
    final: tuple[str, ...]
    repeats_input: bool = False
    leaves_others: bool = False

    def __call__(self, seed: int) -> keras.Model:
        model = self.build()
        randomize(model, seed)
        return model


ZOO: dict[str, Entry] = {}

# One network for each way in which units are tied, repeated or grouped, for promises that differ in number only.
KINDS = (
    "lenet", "resnet8", "densenet", "mobilenet_se", "siamese", "sequential", "grouped_convolution", "grouped_as_depthwise",
    "depth_multiplier", "group_normalization", "channel_shuffle", "split_operation", "residual_on_the_input",
    "relu_of_an_output", "operators_1d", "nested_three_deep_and_shared", "activations_with_weights",
)  # fmt: skip


def zoo(*final: str, **flags: bool) -> Callable:
    """Register a builder; `final` are the outputs' last activations, one linear output by default."""

    def register(build: Callable[[], keras.Model]) -> Entry:
        ZOO[build.__name__] = Entry(build.__name__, build, final or ("linear",), **flags)
        return ZOO[build.__name__]

    return register


# For `model.compile(jit_compile=JIT)`: under TensorFlow, XLA takes longer to compile a small program than the program to run.
JIT = keras.backend.backend() == "jax"

# The networks whose tests run on both backends.
ON_BOTH = ("mlp", "lenet", "plain", "lstm_on_the_input")


def every(
    entries: Mapping[str, Entry], names: Iterable[str] | None = None, on_both: Collection[str] = ON_BOTH
) -> pytest.MarkDecorator:
    """Runs a test with each `entry`, or with those of these names; on both backends with those of the others."""
    cases = [
        pytest.param(entries[name], id=name, marks=[pytest.mark.both_backends] if name in on_both else [])
        for name in names or entries
    ]
    return pytest.mark.parametrize("entry", cases)


def randomize(model: keras.Model, seed: int) -> None:
    """Draw every weight of `model`, BatchNormalization and Normalization statistics included."""
    rng = np.random.default_rng([seed, 20])
    for layer in every_layer(model):
        if isinstance(layer, layers.Normalization):
            if layer.input_mean is None:
                layer.adapt_mean.assign(rng.normal(0, 1, layer.adapt_mean.shape))
                layer.adapt_variance.assign(rng.uniform(0.5, 2, layer.adapt_variance.shape))
                layer.finalize_state()
            continue
        if getattr(layer, "layers", None):
            continue
        for weight in layer.weights:
            if "float" in str(weight.dtype):
                weight.assign(_draw(weight.name, tuple(weight.shape), rng))


def around(block: Callable, seed: int = 0) -> keras.Model:
    """A model in which something, as a layer, stands between two hidden layers."""
    x = keras.Input((3,))
    h = block(layers.Dense(4, activation="relu", name="hidden")(x))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(6, activation="relu", name="behind")(h)))
    randomize(model, seed)
    return model


def _draw(name: str, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    if "variance" in name or "gamma" in name:
        return rng.uniform(0.5, 1.5, shape)
    if "kernel" in name or "embeddings" in name:
        fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
        return rng.normal(0, 1.2 / np.sqrt(fan_in), shape)
    return rng.normal(0, 0.3, shape)


def every_layer(model: keras.Model) -> list[keras.Layer]:
    """The model's layers, those of nested models included, each once."""
    found = []
    for layer in model.layers:
        found.append(layer)
        if getattr(layer, "layers", None):
            found.extend(every_layer(layer))
    return list({id(layer): layer for layer in found}.values())


def example_inputs(model: keras.Model, seed: int = 0, batch: int = 4) -> list[np.ndarray]:
    """One batch for each input of `model`, float32 or small numbers of tokens; an unknown size becomes 8."""
    rng = np.random.default_rng([seed, 21])
    shapes = [(batch, *(size or 8 for size in tensor.shape[1:])) for tensor in model.inputs]
    return [
        rng.integers(0, 4, shape).astype("int32") if "int" in tensor.dtype else rng.normal(0, 1, shape).astype("float32")
        for shape, tensor in zip(shapes, model.inputs, strict=True)
    ]


def conv(x, filters: int, size: int = 3, strides: int = 1, activation: str = "relu", **options):
    """Convolution without bias, BatchNormalization, activation: the block of most networks below."""
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, **options)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def residual(x, filters: int, strides: int = 1):
    shortcut = x if strides == 1 and x.shape[-1] == filters else conv(x, filters, 1, strides, None)
    h = conv(conv(x, filters, 3, strides), filters, activation=None)
    return layers.ReLU()(layers.Add()([h, shortcut]))


@zoo("softmax")
def mlp():
    x = keras.Input((6,))
    h = layers.Dense(8, activation="relu")(x)
    h = layers.Dense(7, activation="tanh")(h)
    return keras.Model(x, layers.Dense(3, activation="softmax")(h))


@zoo("softmax")
def lenet():
    x = keras.Input((12, 12, 1))
    h = layers.MaxPooling2D()(layers.Conv2D(4, 5, padding="same", activation="relu")(x))
    h = layers.AveragePooling2D(2)(layers.Conv2D(6, 5, padding="same", activation="relu")(h))
    h = layers.Dense(10, activation="relu")(layers.Flatten()(h))
    h = layers.Dense(8, activation="relu")(layers.Dropout(0.5)(h))
    return keras.Model(x, layers.Softmax()(layers.Dense(5)(h)))


@zoo()
def resnet8(width: int = 4):
    x = keras.Input((8, 8, 3))
    h = conv(x, width)
    for stage in range(3):
        h = residual(h, width * (stage + 2) // 2, 2 if stage else 1)
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(h)))


@zoo()
def resnet10():
    x = keras.Input((16, 16, 3))
    h = layers.ZeroPadding2D(1)(conv(x, 4, 7, 2))
    h = layers.MaxPooling2D(3, 2)(h)
    for stage, width in enumerate((4, 5)):
        h = residual(h, width, 2 if stage else 1)
        h = residual(h, width)
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(h)))


def _vgg(batch_normalization: bool) -> keras.Model:
    x = h = keras.Input((32, 32, 3))
    for width in (4, 0, 5, 0, 6, 6, 0, 7, 7, 0, 8, 8, 0):
        if not width:
            h = layers.MaxPooling2D()(h)
        elif batch_normalization:
            h = layers.Conv2D(width, 3, padding="same")(h)
            h = layers.ReLU()(layers.BatchNormalization()(h))
        else:
            h = layers.Conv2D(width, 3, padding="same", activation="relu")(h)
    h = layers.Dense(9, activation="relu")(layers.Flatten()(h))
    return keras.Model(x, layers.Dense(5)(layers.Dropout(0.5)(h)))


@zoo()
def vgg11():
    return _vgg(batch_normalization=False)


@zoo()
def vgg11_bn():
    return _vgg(batch_normalization=True)


@zoo()
def densenet():
    def grow(h):
        bottleneck = layers.ReLU()(layers.BatchNormalization()(h))
        bottleneck = layers.Conv2D(6, 1, use_bias=False)(bottleneck)
        new = layers.ReLU()(layers.BatchNormalization()(bottleneck))
        return layers.Concatenate()([h, layers.Conv2D(3, 3, padding="same", use_bias=False)(new)])

    x = keras.Input((8, 8, 3))
    h = grow(grow(layers.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    h = layers.Conv2D(5, 1)(layers.ReLU()(layers.BatchNormalization()(h)))
    h = grow(layers.AveragePooling2D(2)(h))
    h = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(h)))
    return keras.Model(x, layers.Dense(4)(h))


@zoo("softmax")
def inception():
    x = keras.Input((8, 8, 3))
    h = conv(x, 4)
    for _ in range(2):
        pooled = layers.AveragePooling2D(3, 1, padding="same")(h)
        branches = [conv(h, 2, 1), conv(conv(h, 3, 1), 4), conv(conv(conv(h, 2, 1), 3, (1, 3)), 3, (3, 1))]
        h = layers.Concatenate()([*branches, conv(pooled, 2, 1)])
    h = layers.GlobalMaxPooling2D()(h)
    return keras.Model(x, layers.Dense(4, activation="softmax")(h))


@zoo("softmax")
def mobilenet_se():
    def inverted_residual(x, width):
        h = conv(x, 8, 1, activation="relu6")
        h = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(h)
        h = layers.Activation("hard_swish")(layers.BatchNormalization()(h))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(h)
        gate = layers.Conv2D(3, 1, activation="relu")(gate)
        gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)  # (B, 1, 1, 8)
        h = conv(layers.Multiply()([h, gate]), width, 1, activation=None)
        return layers.Add()([h, x]) if x.shape[-1] == width else h

    x = keras.Input((8, 8, 3))
    h = inverted_residual(inverted_residual(conv(x, 4, 3, 2), 4), 5)
    h = layers.GlobalAveragePooling2D()(conv(h, 9, 1, activation="hard_swish"))
    return keras.Model(x, layers.Dense(4, activation="softmax")(h))


@zoo("softmax")
def unet():
    x = keras.Input((16, 16, 3))
    top = layers.Conv2D(4, 3, activation="relu")(layers.Conv2D(3, 3, activation="relu")(x))  # 12
    middle = layers.Conv2D(5, 3, activation="relu", padding="same")(layers.MaxPooling2D()(top))  # 6
    bottom = layers.Conv2D(6, 3, activation="relu")(layers.ZeroPadding2D(1)(layers.MaxPooling2D()(middle)))  # 3
    up = layers.Conv2D(5, 3, activation="relu", padding="same")(layers.UpSampling2D()(bottom))  # 6
    up = layers.Conv2D(5, 3, activation="relu")(layers.Concatenate()([middle, up]))  # 4
    up = layers.Conv2DTranspose(4, 2, 2, activation="relu")(up)  # 8
    h = layers.Concatenate()([layers.Cropping2D(2)(top), up])
    h = layers.Conv2D(4, 3, activation="relu", padding="same")(h)
    return keras.Model(x, layers.Conv2D(3, 1, activation="softmax")(h))  # (B, 8, 8, 3)


@zoo("linear", "softmax")
def two_inputs_two_outputs():
    image, table = keras.Input((8, 8, 2)), keras.Input((5,))
    h = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, activation="relu")(image))
    t = layers.Dense(4, activation="relu")(table)
    both = layers.Dense(6, activation="relu")(layers.Concatenate()([h, t]))
    return keras.Model([image, table], [layers.Dense(1)(both), layers.Dense(3, activation="softmax")(both)])


@zoo("sigmoid")
def siamese():
    x = keras.Input((8, 8, 1))
    h = layers.Flatten()(layers.MaxPooling2D()(conv(x, 3)))
    encoder = keras.Model(x, layers.Dense(6, activation="relu")(h))
    left, right = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    distance = keras.ops.abs(layers.Subtract()([encoder(left), encoder(right)]))
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(distance))


@zoo("softmax")
def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(6, activation="relu"),
            layers.Dense(3),
            layers.Activation("softmax"),
        ]
    )


@zoo("softmax")
def nested_two_deep():
    x = keras.Input((4,))
    innermost = keras.Sequential([keras.Input((5,)), layers.Dense(6, activation="relu"), layers.Dense(5)])
    h = layers.Dense(5, activation="relu")(x)
    inner = keras.Model(x, layers.Add()([h, innermost(h)]))
    z = keras.Input((4,))
    h = layers.BatchNormalization()(inner(layers.Dense(4, activation="relu")(z)))
    head = keras.Sequential([keras.Input((5,)), layers.Dense(6, activation="gelu"), layers.Dense(3)])
    return keras.Model(z, layers.Softmax()(head(h)))
