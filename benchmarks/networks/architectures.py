"""The networks of the papers' experiments, started and regularized as PyTorch does it: see `torch_layers`.

The networks of auto-sizing, whose code is TensorFlow, are in `auto_sizing_nets`, those of segmentation in `segmentation`.

All networks put out logits or, for regression, the values themselves. `widen=2` doubles the width of every hidden layer.
"""

from collections.abc import Callable

import keras
from keras import layers

from benchmarks.networks.auto_sizing_nets import das_cnn, das_dense
from benchmarks.networks.segmentation import deeplab_v3, fcn_resnet, small_deeplab, small_fcn
from benchmarks.networks.torch_layers import (
    TorchLayers,
    basic_block,
    bottleneck,
    imagenet_stem,
    residual_stages,
    standardized,
)


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
    torch = TorchLayers(seed, weight_decay)
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
    torch = TorchLayers(seed, weight_decay)
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
    torch, width = TorchLayers(seed, weight_decay), widen * width
    inputs = keras.Input(input_shape, name="input")
    x = torch.conv_norm(inputs, width, 3, 1, "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    x = residual_stages(torch, x, width, basic_block, (blocks, blocks, blocks))[-1]
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, torch.output(x, outputs, "logits"), name=f"resnet{depth}")


# By depth: the block, and how many of it each stage has.
_DEEP = {
    18: (basic_block, (2, 2, 2, 2)),
    34: (basic_block, (3, 4, 6, 3)),
    50: (bottleneck, (3, 4, 6, 3)),
    101: (bottleneck, (3, 4, 23, 3)),
    152: (bottleneck, (3, 8, 36, 3)),
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
    torch, width, (block, blocks) = TorchLayers(seed, weight_decay), widen * width, _DEEP[depth]
    inputs = keras.Input(input_shape, name="input")
    x = standardized(inputs, standardize)
    if stem == "imagenet":
        x = imagenet_stem(torch, x, width)
    else:
        x = layers.Activation("relu", name="stem_relu")(torch.conv_norm(x, width, 3, 1, "stem"))
    x = residual_stages(torch, x, width, block, blocks)[-1]
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
    torch = TorchLayers(seed, weight_decay)
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
    "deeplab_v3": deeplab_v3,
    "fcn_resnet": fcn_resnet,
    "lenet": lenet,
    "mlp": mlp,
    "resnet": resnet,
    "small_deeplab": small_deeplab,
    "small_fcn": small_fcn,
    "vgg11": vgg11,
}
