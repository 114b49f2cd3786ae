"""The networks of the papers' experiments, started and regularized as PyTorch does it.

The papers' code is PyTorch, and some of its results depend on PyTorch's defaults: on the sine net, Keras' own start
(Glorot kernels, zero biases) puts every kink of the ReLUs at x = 0 and training fails. So here:

- Kernels and biases start from U(-b, b) with b = 1 / sqrt(inputs per output); the convolutions of residual networks,
  which have no biases, start from N(0, 2 / outputs per input).
- BatchNormalization has momentum .9 and epsilon 1e-5; strided 3x3 convolutions pad one pixel on every side.
- `weight_decay` w is an L2 penalty of w / 2, whose gradient is w times the weight: PyTorch's SGD adds just that to the
  gradient of every parameter, before the momentum. Keras' decoupled `weight_decay` is another method.
- Each weight draws from a seed of its layer's name: two layers of one shape never start equal.

The networks of auto-sizing, whose code is TensorFlow, are in `self_normalizing`.

All networks put out logits or, for regression, the values themselves. `widen=2` doubles the width of every hidden layer.
"""

from collections.abc import Callable

import keras
from keras import layers

from benchmarks.networks.auto_sizing_nets import das_cnn, das_dense
from kmerge.seeds import seed_of


class _TorchLayers:
    """Applies layers that are started and regularized as PyTorch does it."""

    def __init__(self, seed: int, weight_decay: float):
        self.seed = seed
        self.weight_decay = weight_decay

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

    def conv(self, x, filters: int, size: int, name: str, padding: str = "same", use_bias: bool = True):
        weights = self._weights(name, x.shape[-1] * size * size, use_bias)
        return layers.Conv2D(filters, size, padding=padding, name=name, **weights)(x)

    def norm(self, x, name: str):
        penalties = {"beta_regularizer": self._penalty(), "gamma_regularizer": self._penalty()}
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name, **penalties)(x)

    def conv_norm(self, x, filters: int, size: int, strides: int, name: str):
        """A convolution without bias and its BatchNormalization, as residual networks have them."""
        if strides > 1 and size > 1:
            # Keras pads "same" on the far sides only when the stride is 2; PyTorch pads all sides alike.
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        x = self.he_conv(x, filters, size, name, strides, padding="same" if strides == 1 else "valid")
        return self.norm(x, f"{name}_bn")

    def he_conv(self, x, filters: int, size: int, name: str, strides: int = 1, padding: str = "same"):
        """A convolution without bias whose start keeps the size of gradients through ReLUs (He et al., 2015)."""
        start = keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=seed_of("init", self.seed, name, "kernel")
        )
        return layers.Conv2D(
            filters,
            size,
            strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=start,
            kernel_regularizer=self._penalty(),
            name=name,
        )(x)


def mlp(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    hidden: tuple[int, ...] = (100,),
    widen: int = 1,
) -> keras.Model:
    """A multi-layer perceptron with ReLUs; with one hidden layer of 100, the papers' sine net.

    Args:
        input_shape: of one example.
        outputs: units of the last layer, which has no activation.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        hidden: units of each hidden layer.
        widen: factor on `hidden`.

    Returns:
        An uncompiled network.
    """
    torch = _TorchLayers(seed, weight_decay)
    x = inputs = keras.Input(input_shape, name="input")
    if len(input_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(hidden, 1):
        x = torch.dense(x, widen * units, f"dense_{number}", "relu")
    return keras.Model(inputs, torch.output(x, outputs, "output"), name="mlp")


# Of both convolutions of LeNet, by the size of images.
_LENET_PADDING = {(32, 32): ("valid", "valid"), (28, 28): ("same", "valid"), (14, 14): ("same", "same")}


def lenet(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    activation: str = "tanh",
    filters: tuple[int, int] = (6, 16),
    units: tuple[int, int] = (120, 84),
    widen: int = 1,
) -> keras.Model:
    """LeNet-5: two 5x5 convolutions (6, 16) with average pooling, Dense 120 and 84. For 32x32 images.

    Images of 28x28 are padded to 32x32 by the first convolution; those of 14x14 are padded by both, to end with 3x3 places.

    Args:
        input_shape: `(32, 32, channels)`, `(28, 28, channels)` or `(14, 14, channels)`.
        outputs: logits.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        activation: "tanh" (the original and the merging papers) or "relu".
        filters: of the two convolutions.
        units: of the two hidden Dense layers.
        widen: factor on the width of every hidden layer.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: if the images are of another size, or there are not two `filters` and two `units`.

    Reference:
        LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998.
    """
    if tuple(input_shape[:2]) not in _LENET_PADDING:
        raise ValueError(f"lenet expects images of 32x32, 28x28 or 14x14; received {input_shape}.")
    if len(filters) != 2 or len(units) != 2:
        raise ValueError(f"lenet expects two filters and two units; received {filters} and {units}.")
    torch = _TorchLayers(seed, weight_decay)
    inputs = keras.Input(input_shape, name="input")
    paddings = _LENET_PADDING[tuple(input_shape[:2])]
    x = torch.conv(inputs, widen * filters[0], 5, "conv_1", padding=paddings[0])
    x = layers.Activation(activation, name="act_1")(x)
    x = layers.AveragePooling2D(2, name="pool_1")(x)
    x = torch.conv(x, widen * filters[1], 5, "conv_2", padding=paddings[1])
    x = layers.Activation(activation, name="act_2")(x)
    x = layers.AveragePooling2D(2, name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = torch.dense(x, widen * units[0], "dense_1", activation)
    x = torch.dense(x, widen * units[1], "dense_2", activation)
    return keras.Model(inputs, torch.output(x, outputs, "logits"), name="lenet")


def _block(torch: _TorchLayers, x, convolutions: list[tuple[int, int, int]], name: str):
    """A residual block of convolutions, each given by its filters, size and strides."""
    shortcut, filters = x, convolutions[-1][0]
    for number, (of_this, size, strides) in enumerate(convolutions, 1):
        x = layers.Activation("relu", name=f"{name}_relu_{number - 1}")(x) if number > 1 else x
        x = torch.conv_norm(x, of_this, size, strides, f"{name}_conv_{number}")
    strides = max(each[2] for each in convolutions)
    if strides > 1 or shortcut.shape[-1] != filters:
        shortcut = torch.conv_norm(shortcut, filters, 1, strides, f"{name}_shortcut")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu_{len(convolutions)}")(x)


def _basic_block(torch: _TorchLayers, x, filters: int, strides: int, name: str):
    return _block(torch, x, [(filters, 3, strides), (filters, 3, 1)], name)


def _bottleneck(torch: _TorchLayers, x, filters: int, strides: int, name: str):
    return _block(torch, x, [(filters, 1, 1), (filters, 3, strides), (4 * filters, 1, 1)], name)


def resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    depth: int = 20,
    width: int = 16,
    widen: int = 1,
) -> keras.Model:
    """A residual network for small images: a 3x3 stem, three stages of basic blocks, global average pooling.

    Stages have `width`, `2 * width` and `4 * width` channels; shortcuts across stages are 1x1 convolutions with
    BatchNormalization. Depth 20, width 16 and 100 classes is the ResNet-20 of the CIFAR-100 experiment.

    Args:
        input_shape: `(height, width, channels)`.
        outputs: logits.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        depth: 6 * blocks per stage + 2.
        width: channels of the first stage.
        widen: factor on the width of every stage.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: if no number of blocks gives the depth.

    Reference:
        He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"resnet expects a depth of 6 * blocks + 2: 8, 14, 20, 26, ...; received {depth}.")
    torch, width = _TorchLayers(seed, weight_decay), widen * width
    inputs = keras.Input(input_shape, name="input")
    x = torch.conv_norm(inputs, width, 3, 1, "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    for stage in (1, 2, 3):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(torch, x, width * 2 ** (stage - 1), strides, f"stage_{stage}_block_{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, torch.output(x, outputs, "logits"), name=f"resnet{depth}")


# By depth: the block, and how many of it each stage has.
_DEEP = {
    18: (_basic_block, (2, 2, 2, 2)),
    34: (_basic_block, (3, 4, 6, 3)),
    50: (_bottleneck, (3, 4, 6, 3)),
    101: (_bottleneck, (3, 4, 23, 3)),
    152: (_bottleneck, (3, 8, 36, 3)),
}
_STEMS = ("cifar", "imagenet")


def deep_resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    depth: int = 18,
    width: int = 64,
    stem: str = "cifar",
    standardize: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    widen: int = 1,
) -> keras.Model:
    """ResNet-18, 34, 50, 101 or 152: four stages of `width`, 2, 4 and 8 times `width` channels, as torchvision has them.

    With 10 classes and the stem for CIFAR, ResNet-18 has 11,173,962 trainable parameters and ResNet-101 42,512,970; with
    torchvision's stem and its 1,000 classes they have 11,689,512 and 44,549,160.

    Args:
        input_shape: `(height, width, channels)`.
        outputs: logits.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        depth: 18, 34, 50, 101 or 152; from 50 on of bottlenecks, which stride in their 3x3 convolution.
        width: channels of the first stage, inside of bottlenecks.
        stem: "imagenet": 7x7 of stride 2, and a pooling of stride 2; "cifar": 3x3 of stride 1, for small images.
        standardize: mean and deviation of each channel of inputs that are not standardized; None for those that are.
        widen: factor on the width of every stage.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: for another depth or stem.

    Reference:
        He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.1.
    """
    if depth not in _DEEP or stem not in _STEMS:
        raise ValueError(
            f"deep_resnet expects a depth of {', '.join(map(str, _DEEP))}, and stem one of {', '.join(_STEMS)}; received "
            f"{depth} and {stem!r}."
        )
    torch, width, (block, stages) = _TorchLayers(seed, weight_decay), widen * width, _DEEP[depth]
    x = inputs = keras.Input(input_shape, name="input")
    if standardize is not None:
        scale = [1 / deviation for deviation in standardize[1]]
        offset = [-mean / deviation for mean, deviation in zip(*standardize, strict=True)]
        x = layers.Rescaling(scale, offset, name="standardize")(x)
    x = torch.conv_norm(x, width, *((3, 1) if stem == "cifar" else (7, 2)), "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    if stem == "imagenet":
        # After a ReLU, zeros around the image are never its maximum.
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, blocks in enumerate(stages, 1):
        for number in range(1, blocks + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            x = block(torch, x, width * 2 ** (stage - 1), strides, f"stage_{stage}_block_{number}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, torch.output(x, outputs, "logits"), name=f"resnet{depth}")


def vgg11(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    batch_norm: bool = False,
    width: int = 64,
    widen: int = 1,
) -> keras.Model:
    """VGG-11 for 32x32 images with one Dense layer; without biases, as OTFusion and the merging paper have it.

    Args:
        input_shape: `(32, 32, channels)`.
        outputs: logits.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        batch_norm: whether each convolution is followed by BatchNormalization.
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        widen: factor on the width of every hidden layer.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: if the images are not 32x32.

    Reference:
        Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015; Singh and Jaggi, "Model fusion via
        optimal transport", NeurIPS 2020.
    """
    if tuple(input_shape[:2]) != (32, 32):
        raise ValueError(f"vgg11 expects 32x32 images, which five poolings bring to 1x1; received {input_shape}.")
    torch = _TorchLayers(seed, weight_decay)
    x = inputs = keras.Input(input_shape, name="input")
    number = 0
    for stage, widths in enumerate(((1,), (2,), (4, 4), (8, 8), (8, 8)), 1):
        for times in widths:
            number += 1
            name, filters = f"conv_{number}", widen * times * width
            if batch_norm:
                x = torch.norm(torch.conv(x, filters, 3, name, use_bias=False), f"{name}_bn")
            else:
                # PyTorch's default start would shrink the signal to a sixth in each layer, with nothing to restore it.
                x = torch.he_conv(x, filters, 3, name)
            x = layers.Activation("relu", name=f"relu_{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, torch.output(x, outputs, "logits", use_bias=False), name="vgg11")


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "das_cnn": das_cnn,
    "das_dense": das_dense,
    "deep_resnet": deep_resnet,
    "lenet": lenet,
    "mlp": mlp,
    "resnet": resnet,
    "vgg11": vgg11,
}
