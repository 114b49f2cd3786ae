"""Each family in `keras.applications`: its smallest member, with each kind of block but few of them where its constructor
lets choose. The members whole: `python -m benchmarks.studies.zoo --members all`.
"""

import functools
from unittest import mock

import keras
import numpy as np
import pytest
from keras.src.applications import (
    convnext,
    densenet,
    efficientnet,
    efficientnet_v2,
    inception_resnet_v2,
    mobilenet,
    mobilenet_v2,
    mobilenet_v3,
    nasnet,
    resnet,
)

import kmerge
from benchmarks.studies import zoo
from tests import checks


def _resnet(stack, is_v2, **options):
    def stacks(x):
        return stack(stack(x, 32, 2, stride1=1, name="conv2"), 64, 2, name="conv3")

    return resnet.ResNet(stacks, is_v2, True, **options)


def _inception_resnet(**options):
    """One block of each type, and the last of all, which has no activation."""
    block = inception_resnet_v2.inception_resnet_block

    def few(x, block_idx, activation="relu", **how):
        keeps = block_idx == 1 or activation is None
        return block(x, block_idx=block_idx, activation=activation, **how) if keeps else x

    with mock.patch.object(inception_resnet_v2, "inception_resnet_block", few):
        return inception_resnet_v2.InceptionResNetV2(**options)


_SCALES = {"width_coefficient": 0.35, "depth_coefficient": 0.3, "default_size": 32}
FEW_BLOCKS = {
    "ResNet50": functools.partial(_resnet, resnet.stack_residual_blocks_v1, False),
    "ResNet50V2": functools.partial(_resnet, resnet.stack_residual_blocks_v2, True),
    "InceptionResNetV2": _inception_resnet,
    "MobileNet": functools.partial(mobilenet.MobileNet, alpha=0.25),
    "MobileNetV2": functools.partial(mobilenet_v2.MobileNetV2, alpha=0.35),
    "MobileNetV3Small": functools.partial(mobilenet_v3.MobileNetV3Small, alpha=0.75),
    "DenseNet121": functools.partial(densenet.DenseNet, [2, 2, 2, 2]),
    "NASNetMobile": functools.partial(nasnet.NASNet, penultimate_filters=192, num_blocks=1, stem_block_filters=8),
    "EfficientNetB0": functools.partial(efficientnet.EfficientNet, **_SCALES),
    "EfficientNetV2B0": functools.partial(efficientnet_v2.EfficientNetV2, **_SCALES, name="efficientnetv2-b0"),
    "ConvNeXtTiny": functools.partial(convnext.ConvNeXt, depths=[2, 1, 1, 1], projection_dims=[16, 24, 32, 40]),
}
# Large networks take long: every second family shows the one promise, every other the other.
TAKEN_BACK, MOVED = zoo.SMALL[1::2], zoo.SMALL[::2]


@functools.lru_cache(maxsize=1)
def parents_of(name):
    constructor = FEW_BLOCKS.get(name) or getattr(keras.applications, name)
    return [zoo.build(constructor, zoo.MEMBERS[name], seed) for seed in (0, 1)]


@functools.cache
def half_of(name):
    model = parents_of(name)[0]
    return zoo.train_half(model, images(model))


def images(model) -> np.ndarray:
    return zoo.examples(model, np.random.default_rng(2))[:4]


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_family_keeps_the_promises(name):
    parents = parents_of(name)
    inputs = images(parents[0])
    each = [zoo.logits(parent, inputs) for parent in parents]
    assert np.std(each[0], axis=0).max() > 1e-3 * np.abs(each[0]).max()  # else errors could not show
    big = kmerge.concatenate(*parents)
    assert zoo.error_of(zoo.logits(big, inputs), np.mean(each, axis=0)) <= 1e-5
    if name in TAKEN_BACK:
        assert zoo.error_of(zoo.logits(zoo.second_parent(big, parents), inputs), each[1]) <= 1e-6
        half = half_of(name)
        checks.assert_spaces(half, {k: max(1, n // 2) for k, n in checks.selectable(parents[0]).items()})
        assert half.count_params() < 0.3 * parents[0].count_params()
    if name in MOVED:
        moved = kmerge.permute(parents[0], checks.random_orders(parents[0], 0))
        assert zoo.error_of(zoo.logits(moved, inputs), each[0]) <= 1e-5


def test_half_of_every_space_trains_and_loads_without_kmerge(tmp_path):
    checks.check_saves({name: half_of(name) for name in TAKEN_BACK}, tmp_path)
