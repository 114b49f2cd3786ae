"""Networks that name the class of each pixel: FCN and DeepLabV3 as torchvision has them, and a small one of each kind.

All take images of any size, `(None, None, 3)` too, and put out one logit for each class and pixel, `(height, width, classes)`:
those of a feature map of an eighth or a sixteenth of the size, resized bilinearly.

With 21 classes they have torchvision's numbers of trainable parameters:

    fcn_resnet        depth 50     32,957,013, with the auxiliary head 35,322,218
                      depth 101    51,949,141                          54,314,346
    deeplab_v3        mobilenet    11,025,477                          11,029,328
                      resnet50     39,638,869                          42,004,074
                      resnet101    58,630,997                          60,996,202

References: Long et al., "Fully convolutional networks for semantic segmentation", CVPR 2015; Chen et al., "Rethinking atrous
convolution for semantic image segmentation", arXiv:1706.05587.
"""

from collections.abc import Sequence

import keras
from keras import layers

from benchmarks.networks.mobilenet_v3 import AUXILIARY_BLOCK, LARGE, InvertedResidual, Scale, mobilenet_stages
from benchmarks.networks.resizing import resize_like
from benchmarks.networks.torch_layers import (
    TorchLayers,
    basic_block,
    bottleneck,
    imagenet_stem,
    residual_stages,
    standardized,
)
from kmerge.seeds import seed_of

# By depth, how many bottlenecks each stage has.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BACKBONES = ("mobilenet_v3_large", "resnet50", "resnet101")
_RATES = (12, 24, 36)
Means = tuple[tuple[float, ...], tuple[float, ...]]


def fcn_resnet(
    input_shape: tuple[int | None, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    depth: int = 50,
    width: int = 64,
    auxiliary: bool = False,
    standardize: Means | None = None,
    widen: int = 1,
) -> keras.Model:
    """FCN on ResNet-50 or 101, whose last two stages are dilated instead of strided; torchvision's fcn_resnet50 and 101.

    Args:
        input_shape: `(height, width, channels)`, of any size or None.
        outputs: classes.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        depth: 50 or 101.
        width: channels of the first stage, inside of bottlenecks. The head has 8 times as many.
        auxiliary: whether there is a second output with the logits of a head behind the third stage.
        standardize: mean and deviation of each channel of inputs that are not standardized; None for those that are.
        widen: factor on the width of every hidden layer.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: for another depth.
    """
    if depth not in DEPTHS:
        raise ValueError(f"fcn_resnet expects a depth of 50 or 101; received {depth}.")
    torch = TorchLayers(seed, weight_decay)
    images = keras.Input(input_shape, name="input")
    *_, third, last = _dilated_resnet(torch, standardized(images, standardize), widen * width, depth)
    heads = {"head": _fcn_head(torch, last, outputs, "head")}
    if auxiliary:
        heads["auxiliary"] = _fcn_head(torch, third, outputs, "auxiliary")
    return _resized(images, heads, f"fcn_resnet{depth}")


def deeplab_v3(
    input_shape: tuple[int | None, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    backbone: str = "mobilenet_v3_large",
    multiplier: float = 1.0,
    channels: int = 256,
    auxiliary: bool = False,
    standardize: Means | None = None,
    widen: int = 1,
) -> keras.Model:
    """DeepLabV3: an atrous pyramid behind a dilated backbone; torchvision's deeplabv3_mobilenet_v3_large, resnet50 and 101.

    Args:
        input_shape: `(height, width, channels)`, of any size or None.
        outputs: classes.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        backbone: "mobilenet_v3_large", "resnet50" or "resnet101".
        multiplier: factor on the width of every layer of the backbone.
        channels: of each branch of the pyramid and of what stands behind it.
        auxiliary: whether there is a second output with the logits of a head in the middle of the backbone.
        standardize: mean and deviation of each channel of inputs that are not standardized; None for those that are.
        widen: factor on the width of every hidden layer.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: for another backbone.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"deeplab_v3 expects a backbone of {', '.join(BACKBONES)}; received {backbone!r}.")
    torch = TorchLayers(seed, weight_decay)
    images = keras.Input(input_shape, name="input")
    x = standardized(images, standardize)
    if backbone == "mobilenet_v3_large":
        found = mobilenet_stages(_mobile(seed, weight_decay), x, LARGE, 6 * LARGE[-1].filters, Scale(multiplier, widen))
        middle, last = found[AUXILIARY_BLOCK], found[-1]
    else:
        *_, middle, last = _dilated_resnet(torch, x, widen * round(64 * multiplier), int(backbone.removeprefix("resnet")))
    heads = {"head": _deeplab_head(torch, last, outputs, widen * channels, _RATES)}
    if auxiliary:
        heads["auxiliary"] = _fcn_head(torch, middle, outputs, "auxiliary")
    return _resized(images, heads, f"deeplab_v3_{backbone}")


def small_fcn(
    input_shape: tuple[int | None, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    width: int = 12,
    standardize: Means | None = None,
    widen: int = 1,
) -> keras.Model:
    """FCN on a ResNet-10 for small images: feature maps of a quarter of the size, one basic block in each stage.

    With 3 channels and 4 classes, the default has 194,224 trainable parameters.

    Args:
        input_shape: `(height, width, channels)`, of any size or None.
        outputs: classes.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        width: channels of the first of four stages, the last two of which are dilated. The head has twice as many.
        standardize: mean and deviation of each channel of inputs that are not standardized; None for those that are.
        widen: factor on the width of every hidden layer.

    Returns:
        An uncompiled network.
    """
    torch, width = TorchLayers(seed, weight_decay), widen * width
    images = keras.Input(input_shape, name="input")
    x = torch.conv_norm(standardized(images, standardize), width, 3, 2, "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    last = residual_stages(torch, x, width, basic_block, (1, 1, 1, 1), dilated=(3, 4))[-1]
    return _resized(images, {"head": _fcn_head(torch, last, outputs, "head")}, "small_fcn")


# A MobileNetV3 for feature maps of a quarter of the size.
_SMALL = (
    InvertedResidual(3, 16, 8, False, "relu"),
    InvertedResidual(3, 32, 16, False, "relu", strides=2),
    InvertedResidual(5, 48, 16, True, "hard_silu"),
    InvertedResidual(5, 64, 24, True, "hard_silu", dilation=2),
    InvertedResidual(5, 96, 24, True, "hard_silu", dilation=2),
)
_SMALL_RATES = (3, 6, 9)


def small_deeplab(
    input_shape: tuple[int | None, ...],
    outputs: int,
    seed: int,
    *,
    weight_decay: float = 0.0,
    channels: int = 16,
    standardize: Means | None = None,
    widen: int = 1,
) -> keras.Model:
    """DeepLabV3 on five blocks of a MobileNetV3 for small images: feature maps of a quarter of the size, rates 3, 6 and 9.

    With 3 channels and 4 classes, the default has 64,404 trainable parameters.

    Args:
        input_shape: `(height, width, channels)`, of any size or None.
        outputs: classes.
        seed: every weight draws from a seed derived from it.
        weight_decay: coupled, as in PyTorch's SGD.
        channels: of each branch of the pyramid and of what stands behind it.
        standardize: mean and deviation of each channel of inputs that are not standardized; None for those that are.
        widen: factor on the width of every hidden layer.

    Returns:
        An uncompiled network.
    """
    images = keras.Input(input_shape, name="input")
    x = standardized(images, standardize)
    last = mobilenet_stages(_mobile(seed, weight_decay), x, _SMALL, 3 * _SMALL[-1].filters, Scale(widen=widen))[-1]
    head = _deeplab_head(TorchLayers(seed, weight_decay), last, outputs, widen * channels, _SMALL_RATES)
    return _resized(images, {"head": head}, "small_deeplab")


# Parts ----------------------------------------------------------------------------------------------------------------


def _dilated_resnet(torch: TorchLayers, x, width: int, depth: int) -> list:
    return residual_stages(torch, imagenet_stem(torch, x, width), width, bottleneck, DEPTHS[depth], dilated=(3, 4))


def _mobile(seed: int, weight_decay: float) -> TorchLayers:
    """The layers of a MobileNetV3, whose BatchNormalization has settings of its own."""
    return TorchLayers(seed, weight_decay, momentum=0.99, epsilon=1e-3)


def _conv_norm_relu(torch: TorchLayers, x, filters: int, size: int, name: str, dilation: int = 1):
    x = torch.conv(x, filters, size, name, use_bias=False, dilation_rate=dilation)
    return layers.Activation("relu", name=f"{name}_relu")(torch.norm(x, f"{name}_bn"))


def _logits(torch: TorchLayers, x, outputs: int, name: str):
    """In float32, as `TorchLayers.output`."""
    return torch.conv(x, outputs, 1, name, dtype="float32")


def _fcn_head(torch: TorchLayers, x, outputs: int, name: str):
    x = _conv_norm_relu(torch, x, x.shape[-1] // 4, 3, f"{name}_conv")
    x = layers.Dropout(0.1, seed=seed_of("dropout", torch.seed, name), name=f"{name}_dropout")(x)
    return _logits(torch, x, outputs, f"{name}_logits")


def _deeplab_head(torch: TorchLayers, x, outputs: int, channels: int, rates: Sequence[int]):
    branches = [_conv_norm_relu(torch, x, channels, 1, "pyramid_1x1")]
    branches += [_conv_norm_relu(torch, x, channels, 3, f"pyramid_rate_{rate}", rate) for rate in rates]
    image = layers.GlobalAveragePooling2D(keepdims=True, name="image_pool")(x)  # (B, 1, 1, C)
    image = _conv_norm_relu(torch, image, channels, 1, "image_conv")
    branches.append(resize_like(image, x, "image_resize"))
    x = layers.Concatenate(name="pyramid")(branches)
    x = _conv_norm_relu(torch, x, channels, 1, "project")
    x = layers.Dropout(0.5, seed=seed_of("dropout", torch.seed, "project"), name="project_dropout")(x)
    return _logits(torch, _conv_norm_relu(torch, x, channels, 3, "head_conv"), outputs, "head_logits")


def _resized(images, heads: dict, name: str) -> keras.Model:
    """The network whose logits, one set or two, have the size of the images."""
    found = [resize_like(x, images, f"{head}_resize", dtype="float32") for head, x in heads.items()]
    return keras.Model(images, found[0] if len(found) == 1 else found, name=name)
