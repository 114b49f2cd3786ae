"""MobileNetV3-Large without its classifier, its last stage dilated, as torchvision has it in front of DeepLabV3.

Reference: Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import layers

from benchmarks.networks.torch_layers import TorchLayers


class InvertedResidual(NamedTuple):
    """One block.

    Attributes:
        size: of the depthwise kernel.
        expanded: channels inside.
        filters: channels that it makes.
        squeezes: whether its channels are weighed by squeeze-and-excite.
        activation: "relu" or "hard_silu", which the paper calls h-swish.
        strides: of the depthwise convolution.
        dilation: of the depthwise convolution.
    """

    size: int
    expanded: int
    filters: int
    squeezes: bool
    activation: str
    strides: int = 1
    dilation: int = 1


_H_SWISH = "hard_silu"
# That of stride 2 in the last stage is dilated instead.
LARGE = (
    InvertedResidual(3, 16, 16, False, "relu"),
    InvertedResidual(3, 64, 24, False, "relu", strides=2),
    InvertedResidual(3, 72, 24, False, "relu"),
    InvertedResidual(5, 72, 40, True, "relu", strides=2),
    InvertedResidual(5, 120, 40, True, "relu"),
    InvertedResidual(5, 120, 40, True, "relu"),
    InvertedResidual(3, 240, 80, False, _H_SWISH, strides=2),
    InvertedResidual(3, 200, 80, False, _H_SWISH),
    InvertedResidual(3, 184, 80, False, _H_SWISH),
    InvertedResidual(3, 184, 80, False, _H_SWISH),
    InvertedResidual(3, 480, 112, True, _H_SWISH),
    InvertedResidual(3, 672, 112, True, _H_SWISH),
    InvertedResidual(5, 672, 160, True, _H_SWISH, dilation=2),
    InvertedResidual(5, 960, 160, True, _H_SWISH, dilation=2),
    InvertedResidual(5, 960, 160, True, _H_SWISH, dilation=2),
)
# Its block, counted from 1, behind which torchvision puts the auxiliary head.
AUXILIARY_BLOCK = 4


def in_eights(channels: float) -> int:
    """The multiple of 8 next to a number of channels: at least 8, and not less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Scale(NamedTuple):
    """How wide a network is, beside the one of the paper: `multiplier` before widths are rounded, `widen` after that."""

    multiplier: float = 1.0
    widen: int = 1

    def rounded(self, channels: int) -> int:
        return in_eights(self.multiplier * channels)


def mobilenet_stages(
    torch: TorchLayers, x: keras.KerasTensor, blocks: Sequence[InvertedResidual], filters: int, scale: Scale
) -> list[keras.KerasTensor]:
    """The outputs of the stem, of each block, and of the convolution behind them.

    Args:
        torch: makes the layers.
        x: images.
        blocks: what stands between the stem and the last convolution. The stem has as many channels as the first one makes.
        filters: of the last convolution.
        scale: how wide every layer is.
    """
    stem = scale.widen * scale.rounded(blocks[0].filters)
    found = [layers.Activation(_H_SWISH, name="stem_act")(torch.conv_norm(x, stem, 3, 2, "stem"))]
    for number, block in enumerate(blocks, 1):
        found.append(_inverted_residual(torch, found[-1], block, scale, f"block_{number}"))
    x = torch.conv_norm(found[-1], scale.widen * scale.rounded(filters), 1, 1, "last")
    return [*found, layers.Activation(_H_SWISH, name="last_act")(x)]


def _inverted_residual(torch: TorchLayers, x, block: InvertedResidual, scale: Scale, name: str):
    shortcut, expanded, filters = x, *(scale.widen * scale.rounded(width) for width in (block.expanded, block.filters))
    if expanded != x.shape[-1]:
        x = torch.conv_norm(x, expanded, 1, 1, f"{name}_expand")
        x = layers.Activation(block.activation, name=f"{name}_expand_act")(x)
    x = torch.depthwise_norm(x, block.size, block.strides, f"{name}_depthwise", block.dilation)
    x = layers.Activation(block.activation, name=f"{name}_depthwise_act")(x)
    if block.squeezes:
        x = _squeeze_and_excite(torch, x, scale.widen * in_eights(scale.rounded(block.expanded) // 4), name)
    x = torch.conv_norm(x, filters, 1, 1, f"{name}_project")
    if block.strides > 1 or shortcut.shape[-1] != filters:
        return x
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _squeeze_and_excite(torch: TorchLayers, x, squeezed: int, name: str):
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)  # (B, 1, 1, channels)
    weights = torch.he_conv(weights, squeezed, 1, f"{name}_reduce", use_bias=True, activation="relu")
    weights = torch.he_conv(weights, x.shape[-1], 1, f"{name}_excite", use_bias=True, activation="hard_sigmoid")
    return layers.Multiply(name=f"{name}_weigh")([x, weights])
