"""Layers that are started, padded and regularized as PyTorch does it, and the blocks of residual networks.

The papers' code is PyTorch, and some of its results depend on PyTorch's defaults: on the sine net, Keras' own start
(Glorot kernels, zero biases) puts every kink of the ReLUs at x = 0 and training fails. So here:

- Kernels and biases start from U(-b, b) with b = 1 / sqrt(inputs per output); the convolutions of residual networks and
  of MobileNets start from N(0, 2 / outputs per input), their biases from zero.
- BatchNormalization has momentum .9 and epsilon 1e-5; strided convolutions pad all sides alike.
- `weight_decay` w is an L2 penalty of w / 2, whose gradient is w times the weight: PyTorch's SGD adds just that to the
  gradient of every parameter, before the momentum. Keras' decoupled `weight_decay` is another method.
- Each weight draws from a seed of its layer's name: two layers of one shape never start equal.
"""

from collections.abc import Callable, Sequence

import keras
from keras import layers

from kmerge.seeds import seed_of


class TorchLayers:
    """Applies layers that are started and regularized as PyTorch does it.

    Args:
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        momentum: of BatchNormalization, Keras' way round: 1 less PyTorch's.
        epsilon: of BatchNormalization.
    """

    def __init__(self, seed: int, weight_decay: float, momentum: float = 0.9, epsilon: float = 1e-5):
        self.seed = seed
        self.weight_decay = weight_decay
        self.normalization = {"momentum": momentum, "epsilon": epsilon}

    def _penalty(self) -> keras.Regularizer | None:
        return keras.regularizers.L2(self.weight_decay / 2) if self.weight_decay else None

    def _weights(self, name: str, inputs: int, use_bias: bool) -> dict:
        def uniform(weight: str) -> keras.Initializer:
            bound = inputs**-0.5
            return keras.initializers.RandomUniform(-bound, bound, seed=seed_of("init", self.seed, name, weight))

        settings = {
            "kernel_initializer": uniform("kernel"),
            "kernel_regularizer": self._penalty(),
            "use_bias": use_bias,
        }
        if use_bias:
            settings |= {"bias_initializer": uniform("bias"), "bias_regularizer": self._penalty()}
        return settings

    def dense(self, x, units: int, name: str, activation: str):
        weights = self._weights(name, x.shape[-1], use_bias=True)
        return layers.Dense(units, activation=activation, name=name, **weights)(x)

    def output(self, x, units: int, name: str, use_bias: bool = True):
        """Logits, in float32 also where the layers before them compute in less: losses and rankings need its digits."""
        return layers.Dense(units, name=name, dtype="float32", **self._weights(name, x.shape[-1], use_bias))(x)

    def conv(self, x, filters: int, size: int, name: str, padding: str = "same", use_bias: bool = True, **settings):
        weights = self._weights(name, x.shape[-1] * size * size, use_bias)
        return layers.Conv2D(filters, size, padding=padding, name=name, **weights, **settings)(x)

    def norm(self, x, name: str):
        penalties = {"beta_regularizer": self._penalty(), "gamma_regularizer": self._penalty()}
        return layers.BatchNormalization(name=name, **self.normalization, **penalties)(x)

    def conv_norm(self, x, filters: int, size: int, strides: int, name: str, dilation: int = 1):
        """A convolution without bias and its BatchNormalization, as residual networks have them."""
        x, padding = _padded(x, size, strides, name)
        x = self.he_conv(x, filters, size, name, strides=strides, padding=padding, dilation_rate=dilation)
        return self.norm(x, f"{name}_bn")

    def depthwise_norm(self, x, size: int, strides: int, name: str, dilation: int = 1):
        """The same with one filter for each channel. PyTorch counts all of them as the outputs of an input."""
        start = keras.initializers.RandomNormal(
            stddev=(2 / (x.shape[-1] * size * size)) ** 0.5, seed=seed_of("init", self.seed, name, "kernel")
        )
        x, padding = _padded(x, size, strides, name)
        x = layers.DepthwiseConv2D(
            size,
            strides,
            padding=padding,
            dilation_rate=dilation,
            use_bias=False,
            depthwise_initializer=start,
            depthwise_regularizer=self._penalty(),
            name=name,
        )(x)
        return self.norm(x, f"{name}_bn")

    def he_conv(self, x, filters: int, size: int, name: str, use_bias: bool = False, padding: str = "same", **settings):
        """A convolution whose start keeps the size of gradients through ReLUs (He et al., 2015); a bias starts from zero."""
        start = keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=seed_of("init", self.seed, name, "kernel")
        )
        return layers.Conv2D(
            filters,
            size,
            padding=padding,
            use_bias=use_bias,
            kernel_initializer=start,
            kernel_regularizer=self._penalty(),
            bias_regularizer=self._penalty() if use_bias else None,
            name=name,
            **settings,
        )(x)


def _padded(x, size: int, strides: int, name: str) -> tuple:
    """What a convolution reads, and how it still pads it."""
    if strides == 1 or size == 1:
        return x, "same" if strides == 1 else "valid"
    # Keras pads "same" on the far sides only when the stride is 2; PyTorch pads all sides alike.
    return layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x), "valid"


def standardized(x: keras.KerasTensor, by: tuple[Sequence[float], Sequence[float]] | None) -> keras.KerasTensor:
    """Inputs less the mean and over the deviation of their channel; as they are where `by` is None."""
    if by is None:
        return x
    scale = [1 / deviation for deviation in by[1]]
    offset = [-mean / deviation for mean, deviation in zip(*by, strict=True)]
    return layers.Rescaling(scale, offset, name="standardize")(x)


# Residual networks ----------------------------------------------------------------------------------------------------


def _block(torch: TorchLayers, x, convolutions: list[tuple[int, int, int]], name: str, dilation: int):
    """A residual block of convolutions, each given by its filters, size and strides."""
    shortcut, filters = x, convolutions[-1][0]
    for number, (of_this, size, strides) in enumerate(convolutions, 1):
        x = layers.Activation("relu", name=f"{name}_relu_{number - 1}")(x) if number > 1 else x
        x = torch.conv_norm(x, of_this, size, strides, f"{name}_conv_{number}", dilation if size > 1 else 1)
    strides = max(each[2] for each in convolutions)
    if strides > 1 or shortcut.shape[-1] != filters:
        shortcut = torch.conv_norm(shortcut, filters, 1, strides, f"{name}_shortcut")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu_{len(convolutions)}")(x)


def basic_block(
    torch: TorchLayers, x: keras.KerasTensor, filters: int, strides: int, name: str, dilation: int = 1
) -> keras.KerasTensor:
    """Two 3x3 convolutions around a shortcut."""
    return _block(torch, x, [(filters, 3, strides), (filters, 3, 1)], name, dilation)


def bottleneck(
    torch: TorchLayers, x: keras.KerasTensor, filters: int, strides: int, name: str, dilation: int = 1
) -> keras.KerasTensor:
    """A 3x3 convolution between two of 1x1, the second of which makes four times the `filters`, around a shortcut."""
    return _block(torch, x, [(filters, 1, 1), (filters, 3, strides), (4 * filters, 1, 1)], name, dilation)


def imagenet_stem(torch: TorchLayers, x: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """A 7x7 convolution of stride 2 and a pooling of stride 2."""
    x = layers.Activation("relu", name="stem_relu")(torch.conv_norm(x, width, 7, 2, "stem"))
    # After a ReLU, zeros around the image are never its maximum.
    return layers.MaxPooling2D(3, 2, name="stem_pool")(layers.ZeroPadding2D(1, name="stem_pool_pad")(x))


def residual_stages(
    torch: TorchLayers,
    x: keras.KerasTensor,
    width: int,
    block: Callable,
    blocks: Sequence[int],
    dilated: Sequence[int] = (),
) -> list[keras.KerasTensor]:
    """The outputs of stages of 1, 2, 4, ... times `width` channels; each but the first begins with a stride of 2.

    Args:
        torch: makes the layers.
        x: what the stem gave.
        width: channels of the first stage, inside of bottlenecks.
        block: `basic_block` or `bottleneck`.
        blocks: how many each stage has.
        dilated: numbers of the stages, from 1, whose convolutions are dilated instead of strided. As in torchvision, the
            first block of such a stage still has the dilation of the stage before.
    """
    found, dilation = [], 1
    for stage, count in enumerate(blocks, 1):
        strides, first = 2 if stage > 1 else 1, dilation
        if stage in dilated:
            strides, dilation = 1, 2 * dilation
        for number in range(1, count + 1):
            name = f"stage_{stage}_block_{number}"
            of_this = (strides, first) if number == 1 else (1, dilation)
            x = block(torch, x, width * 2 ** (stage - 1), of_this[0], name, of_this[1])
        found.append(x)
    return found
