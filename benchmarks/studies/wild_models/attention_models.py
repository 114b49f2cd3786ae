"""Models of keras-cv-attention-models, each as small as its constructor allows.

The package was written for keras-core, of which Keras 3 is the continuation, and imports PyTorch for its data and losses.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from unittest import mock

import keras

from benchmarks.studies.wild_models.registry import constructor, of_package

_KERAS_CORE = ("backend", "callbacks", "initializers", "layers", "metrics", "models", "ops", "utils")
_TORCH_ONLY = ("imagenet.torch_data", "imagenet.torch_losses", "coco.torch_data", "coco.torch_losses", "clip.torch_data")


@contextlib.contextmanager
def _as_keras_core() -> Iterator[None]:
    """Keras by its former name, and no data nor losses of PyTorch."""
    names = {"keras_core": keras} | {f"keras_core.{name}": getattr(keras, name) for name in _KERAS_CORE}
    names |= {f"keras_cv_attention_models.{name}": mock.MagicMock() for name in _TORCH_ONLY}
    with mock.patch.dict(os.environ, {"KECAM_BACKEND": "keras_core"}):
        sys.modules.update(names)  # they stay, as the package imports some of them later
        yield


def _kecam(folder: str, name: str, **options):
    common = {"input_shape": (32, 32, 3), "num_classes": 4, "pretrained": None}
    return constructor(f"keras_cv_attention_models.{folder}", name, **common | options)


_TWO = {"num_blocks": [1, 1], "out_channels": [8, 16]}
_FOUR = {"num_blocks": [1, 1, 1, 1]}
_MLP = {"num_blocks": 1, "patch_size": 8, "stem_width": 16, "channels_mlp_dim": 32}
_LANGUAGE = {"num_blocks": 1, "embedding_size": 16, "num_heads": 2, "vocab_size": 20, "max_block_size": 8}
_TRANSFORMER = {"num_blocks": [1, 1], "embed_dims": [8, 16], "num_heads": [1, 2], "mlp_ratios": [2, 2]}

MODELS = {
    "GMLP": _kecam("mlp_family", "GMLP", **_MLP),
    "ResMLP": _kecam("mlp_family", "ResMLP", **_MLP),
    "WaveMLP": _kecam("mlp_family", "WaveMLP", **_TWO, mlp_ratios=[2, 2]),
    "ConvNeXtV2": _kecam("convnext", "ConvNeXtV2", **_TWO),
    "BotNet": _kecam("botnet", "BotNet", **_FOUR, out_channels=[8, 16, 16, 32], stem_width=8),
    "ResNest": _kecam("resnest", "ResNest", **_FOUR, stem_width=8, out_channels=[16, 16, 32, 32]),
    "CoaT": _kecam("coat", "CoaT", serial_depths=[1, 1, 1, 1], embed_dims=[16, 16, 16, 16], mlp_ratios=[2, 2, 2, 2]),
    "DaViT": _kecam("davit", "DaViT", **_TWO, num_heads=[1, 2]),
    "EfficientViT_B": _kecam("efficientvit", "EfficientViT_B", **_FOUR, out_channels=[8, 8, 16, 16], head_dimension=8,
                             output_filters=[16, 16]),
    "FasterNet": _kecam("fasternet", "FasterNet", num_blocks=[1, 1], embed_dim=8, output_conv_filter=16),
    "HorNet": _kecam("hornet", "HorNet", num_blocks=[1, 1], embed_dim=16, gn_split=[2, 3]),
    "InceptionTransformer": _kecam("iformer", "InceptionTransformer", **_FOUR, embed_dims=[12, 12, 24, 24],
                                   num_heads=[3, 3, 6, 6], num_attn_low_heads=[1, 1, 2, 3]),
    "MobileViT": _kecam("mobilevit", "MobileViT", num_blocks=[1, 1, 1], out_channels=[8, 8, 8], attn_channels=[0, 0, 8],
                        block_types=["conv", "conv", "transform"], strides=[1, 2, 2], stem_width=8, output_num_features=16),
    "MogaNet": _kecam("moganet", "MogaNet", **_TWO, mlp_ratios=[2, 2]),
    "PVT": _kecam("pvt", "PyramidVisionTransformerV2", **_TRANSFORMER, sr_ratios=[2, 1]),
    "RepViT": _kecam("repvit", "RepViT", **_TWO),
    "Uniformer": _kecam("uniformer", "Uniformer", **_TWO, head_dimension=8, block_types=["conv", "transform"]),
    "ViT": _kecam("beit", "ViT", depth=1, embed_dim=16, num_heads=2, patch_size=8),
    "CAFormer": _kecam("caformer", "CAFormer", **_TWO, block_types=["conv", "transform"], head_dim=8, head_filter=16,
                       layer_scales=[0, 0], residual_scales=[0, 1]),
    "SwinTransformerV2": _kecam("swin_transformer_v2", "SwinTransformerV2", num_blocks=[1, 1], num_heads=[1, 2], embed_dim=8,
                                window_size=4),
    "CSPNeXt": _kecam("cspnext", "CSPNeXt", **_TWO, stem_width=8),
    "InceptionNeXt": _kecam("inceptionnext", "InceptionNeXt", num_blocks=[1, 1], embed_dims=[16, 16], mlp_ratios=[2, 2]),
    "GPT2": lambda package: package.gpt2.GPT2(**_LANGUAGE, pretrained=None),
    "LLaMA2": lambda package: package.llama2.LLaMA2(**_LANGUAGE, pretrained=None),
}  # fmt: skip
of_package("keras_cv_attention_models", MODELS, importing=_as_keras_core)
