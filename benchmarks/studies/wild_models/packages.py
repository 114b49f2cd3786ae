"""Models of packages, each as small as its constructor allows."""

import keras
from keras import layers

from benchmarks.studies.wild_models.registry import Subclassed, constructor, of_package, subclassed

of_package(
    "kimm",
    {
        name: lambda kimm, name=name: getattr(kimm.models, name)(input_shape=(32, 32, 3), classes=4, weights=None)
        for name in (
            "GhostNetW050", "LCNet035", "MobileNetV3W050Small", "ConvNeXtAtto", "MobileViTV2W050",
            "VisionTransformerTiny16",
        )
    },
)  # fmt: skip

_VIT = {"image_size": 16, "patch_size": 8, "num_classes": 4, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "dim_head": 8}
_SERIES = {"seq_len": 16, "patch_size": 4, "num_classes": 4, "dim": 16, "depth": 1}
of_package(
    "k3im",
    {
        "ViT": constructor("k3im.vit", "ViT", **_VIT),
        "SimpleViT": constructor("k3im.simple_vit", "SimpleViT", **_VIT),
        "DeepViT": constructor("k3im.deepvit", "DeepViT", **_VIT),
        "CaiT": constructor("k3im.cait", "CaiTModel", **_VIT, cls_depth=1),
        "ViT1D": constructor("k3im.vit_1d", "ViT1DModel", **_SERIES, heads=2, mlp_dim=16, dim_head=8),
        "FNet1D": constructor("k3im.fnet_1d", "FNet1DModel", **_SERIES),
        "Mixer1D": constructor("k3im.mlp_mixer_1d", "Mixer1DModel", **_SERIES, hidden_units=16),
        "EANet1D": constructor("k3im.eanet_1d", "EANet1DModel", **_SERIES, heads=2, mlp_dim=16),
        "ConvMixer1D": constructor("k3im.convmixer_1d", "ConvMixer1DModel", 16, 3, filters=8, depth=2, num_classes=4),
        "CCT": constructor("k3im.cct", "CCT", (16, 16, 3), 2, 8, 3, 1, 1, [8, 8], 0.1, 2, 4),
        "FocalNet": constructor(
            "k3im.focalnet", "FocalNetModel", 32, num_classes=4, embed_dim=8, depths=[1, 1], focal_levels=[1, 1],
            focal_windows=[3, 3],
        ),
        "SwinT": constructor("k3im.swint", "SwinTModel", (16, 16), (2, 2), 8, 2, 2, 32, True, 0.03, 1, 4),
    },
)  # fmt: skip


def _collection(name, **options):
    return constructor("keras_unet_collection.models", name, (32, 32, 3), **options)


_UNET = {"filter_num": [4, 6, 8], "n_labels": 2, "batch_norm": True}
_U2NET = {"filter_num_down": [4, 6, 8], "n_labels": 2}
of_package(
    "keras_unet_collection",
    {
        "unet_2d": _collection("unet_2d", **_UNET),
        "unet_plus_2d": _collection("unet_plus_2d", **_UNET, deep_supervision=True),
        "r2_unet_2d": _collection("r2_unet_2d", **_UNET),
        "att_unet_2d": _collection("att_unet_2d", **_UNET),
        "unet_3plus_2d": _collection("unet_3plus_2d", **_U2NET),
        "u2net_2d": _collection("u2net_2d", **_U2NET),
    },
)  # fmt: skip

# A backbone's outputs are its stream of channels, which nobody may cut. So as in the published models, most weights stand in
# several blocks, whose feed-forward layers are four times as wide as the stream, and not in tables and patches.
_TEXT = {"vocabulary_size": 20, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 32}
_IMAGE = {"image_shape": (16, 16, 3), "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}


def _hub_classifier(keras_hub):
    backbone = keras_hub.models.BertBackbone(**_TEXT, max_sequence_length=8)
    return Subclassed(keras_hub.models.BertTextClassifier(backbone, num_classes=3))


def _hub_resnet(keras_hub, **options):
    return keras_hub.models.ResNetBackbone(
        [64], [3], [64, 128], [1, 1], [1, 2], image_shape=(16, 16, 3), **{"block_type": "basic_block", **options}
    )


def _hub_image_classifier(keras_hub):
    return Subclassed(keras_hub.models.ResNetImageClassifier(_hub_resnet(keras_hub), num_classes=3, preprocessor=None))


def _hub_mit(keras_hub, **options):
    return keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1], num_layers=2, layerwise_num_heads=[1, 2], layerwise_sr_ratios=[2, 1], max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3], layerwise_strides=[4, 2], image_shape=(32, 32, 3), hidden_dims=[8, 16], **options,
    )  # fmt: skip


of_package(
    "keras_hub",
    {
        "BertBackbone": lambda hub: hub.models.BertBackbone(**_TEXT, max_sequence_length=8),
        "BertTextClassifier": _hub_classifier,
        "AlbertBackbone": lambda hub: hub.models.AlbertBackbone(**_TEXT, embedding_dim=6, max_sequence_length=8),
        "GPT2Backbone": lambda hub: hub.models.GPT2Backbone(**_TEXT, max_sequence_length=8),
        "FNetBackbone": lambda hub: hub.models.FNetBackbone(20, 2, 8, 32, max_sequence_length=8),
        "LlamaBackbone": lambda hub: hub.models.LlamaBackbone(20, 2, 2, 8, 32, 1),
        "T5Backbone": lambda hub: hub.models.T5Backbone(**_TEXT),
        "ViTBackbone": lambda hub: hub.models.ViTBackbone(**{**_IMAGE, "patch_size": (4, 4)}, mlp_dim=32),
        "DeiTBackbone": lambda hub: hub.models.DeiTBackbone(**_IMAGE, intermediate_dim=32),
        "ResNetBackbone": _hub_resnet,
        "ResNetV2Backbone": lambda hub: _hub_resnet(hub, block_type="bottleneck_block", use_pre_activation=True),
        "ResNetImageClassifier": _hub_image_classifier,
        "CSPNetBackbone": lambda hub: hub.models.CSPNetBackbone(
            8, 3, 2, [1, 1], [2, 2], [8, 12], "dark_block", stage_type="csp", output_strides=8, bottle_ratio=[0.5, 0.5],
            block_ratio=[0.5, 0.5], expand_ratio=[1, 1], image_shape=(32, 32, 3),
        ),
        "MiTBackbone": _hub_mit,
        "SegFormerBackbone": lambda hub: hub.models.SegFormerBackbone(_hub_mit(hub), 8),
        "WhisperBackbone": lambda hub: hub.models.WhisperBackbone(
            **_TEXT, num_mels=6, max_encoder_sequence_length=8, max_decoder_sequence_length=8
        ),
    },
)  # fmt: skip


def _feature_cross(keras_rs):
    row = keras.Input((6,))
    x = row
    for _ in range(2):
        x = keras_rs.layers.FeatureCross(projection_dim=4)(row, x)
    return keras.Model(row, layers.Dense(1)(layers.Dense(8, activation="relu")(x)))


def _dot_interaction(keras_rs):
    dense, ids = keras.Input((4,)), keras.Input((), dtype="int32")
    features = [layers.Dense(6, activation="relu")(dense), layers.Embedding(10, 6)(ids)]
    x = layers.concatenate([features[0], keras_rs.layers.DotInteraction()(features)])
    return keras.Model([dense, ids], layers.Dense(1, activation="sigmoid")(x))


class _Ranking(keras.Model):
    """A ranking model of the package's guide."""

    def __init__(self, cross):
        super().__init__()
        self.embeddings = [layers.Embedding(10, 6) for _ in range(3)]
        self.cross, self.dense, self.head = cross, layers.Dense(8, activation="relu"), layers.Dense(1)

    def call(self, ids):
        x = keras.ops.concatenate([embed(ids[:, index]) for index, embed in enumerate(self.embeddings)], axis=-1)
        return self.head(self.dense(self.cross(x)))


of_package(
    "keras_rs",
    {
        "FeatureCross": _feature_cross,
        "DotInteraction": _dot_interaction,
        "ranking": lambda rs: subclassed(_Ranking(rs.layers.FeatureCross()), keras.Input((3,), dtype="int32")),
    },
)


def _tcn(tcn):
    series = keras.Input((16, 2))
    return keras.Model(series, layers.Dense(1)(tcn.TCN(nb_filters=6, kernel_size=2, dilations=(1, 2))(series)))


def _min_gru(package):
    series = keras.Input((8, 3))
    return keras.Model(series, layers.Dense(1)(package.MinGRU(8)(layers.Dense(6)(series))))


of_package("tcn", {"TCN": _tcn})
of_package("mingru_keras", {"MinGRU": _min_gru})
of_package(
    "kyolo",
    {
        name: constructor("kyolo.models", name, "n", nc=3, input_shape=(64, 64, 3), deploy=False)
        for name in ("YOLOv8", "YOLO11")
    },
)
