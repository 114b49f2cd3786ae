"""Each family in `keras.applications`: its smallest member, with each kind of block but few of them, and narrow.

The members whole: `python -m benchmarks.studies.zoo --members all`.
"""

import functools
import types
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
    inception_v3,
    mobilenet,
    mobilenet_v2,
    mobilenet_v3,
    nasnet,
    resnet,
    vgg16,
    xception,
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


def _narrow(constructor, module, **options):
    """An eighth of the channels, and one block where a loop makes equal ones."""

    def thin(kind):
        return lambda width, *args, **how: kind(width // 8 if width > zoo.CLASSES else width, *args, **how)

    kinds = {name: thin(getattr(keras.layers, name)) for name in ("Conv2D", "SeparableConv2D", "Dense")}
    thinner = types.SimpleNamespace(**vars(module.layers) | kinds)
    once = mock.patch.object(module, "range", lambda count: [0], create=True)
    with mock.patch.object(module, "layers", thinner), once:
        return constructor(**options)


def _inverted_residuals(constructor, module, repeated, **options):
    """All but the blocks of these numbers, which repeat those before them."""
    block = module._inverted_res_block

    def few(x, *args, **how):
        return x if how.get("block_id", (0, *args)[-1]) in repeated else block(x, *args, **how)

    with mock.patch.object(module, "_inverted_res_block", few):
        return constructor(**options)


def _nasnet(**options):
    """The first of three normal cells, and all that reduce."""
    cell = nasnet._normal_a_cell

    def first(x, p, filters, block_id):
        return cell(x, p, filters, block_id=block_id) if block_id == "0" else (x, p)

    with mock.patch.object(nasnet, "_normal_a_cell", first):
        return nasnet.NASNet(penultimate_filters=192, num_blocks=1, stem_block_filters=8, **options)


_SCALES = {"width_coefficient": 0.35, "depth_coefficient": 0.3, "default_size": 32}
SMALLER = {
    "VGG16": functools.partial(_narrow, vgg16.VGG16, vgg16),
    "ResNet50": functools.partial(_resnet, resnet.stack_residual_blocks_v1, False),
    "ResNet50V2": functools.partial(_resnet, resnet.stack_residual_blocks_v2, True),
    "InceptionV3": functools.partial(_narrow, inception_v3.InceptionV3, inception_v3),
    "InceptionResNetV2": _inception_resnet,
    "Xception": functools.partial(_narrow, xception.Xception, xception),
    "MobileNet": functools.partial(mobilenet.MobileNet, alpha=0.25),
    "MobileNetV2": functools.partial(
        _inverted_residuals, mobilenet_v2.MobileNetV2, mobilenet_v2, (4, 5, 7, 8, 9, 11, 12, 14, 15), alpha=0.35
    ),
    "MobileNetV3Small": functools.partial(
        _inverted_residuals, mobilenet_v3.MobileNetV3Small, mobilenet_v3, (5, 7, 9, 10), alpha=0.75
    ),
    "DenseNet121": functools.partial(densenet.DenseNet, [2, 2, 2, 2]),
    "NASNetMobile": _nasnet,
    "EfficientNetB0": functools.partial(efficientnet.EfficientNet, **_SCALES),
    "EfficientNetV2B0": functools.partial(efficientnet_v2.EfficientNetV2, **_SCALES, name="efficientnetv2-b0"),
    "ConvNeXtTiny": functools.partial(convnext.ConvNeXt, depths=[2, 1, 1, 1], projection_dims=[16, 24, 32, 40]),
}
TAKEN_BACK = zoo.SMALL[1::2]


@functools.cache
def half_of(name):
    model = parent_of(name)
    return zoo.train_half(model, images(model))


@functools.lru_cache(maxsize=1)
def parent_of(name):
    return zoo.build(SMALLER[name], zoo.MEMBERS[name], 0)


def images(model) -> np.ndarray:
    return zoo.examples(model, np.random.default_rng(2))[:4]


def shuffle(model) -> None:
    """Another network of the architecture: the weights of each layer are drawn from its own."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        values = np.asarray(weight)
        weight.assign(rng.permutation(values.ravel()).reshape(values.shape))
    zoo.adapt(model, rng)


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_family_keeps_the_promises(name):
    parent = parent_of(name)
    inputs = images(parent)
    expected = zoo.logits(parent, inputs)
    assert np.std(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # else errors could not show
    other = kmerge.permute(parent, checks.random_orders(parent, 0))
    assert zoo.error_of(zoo.logits(other, inputs), expected) <= 1e-5
    shuffle(other)
    each = [expected, zoo.logits(other, inputs)]
    big = kmerge.concatenate(parent, other)
    assert zoo.error_of(zoo.logits(big, inputs), np.mean(each, axis=0)) <= 1e-5
    if name in TAKEN_BACK:
        assert zoo.error_of(zoo.logits(zoo.second_parent(big, [parent, other]), inputs), each[1]) <= 1e-6
        half = half_of(name)
        checks.assert_spaces(half, {k: max(1, n // 2) for k, n in checks.selectable(parent).items()})
        assert half.count_params() < 0.3 * parent.count_params()


def test_half_of_every_space_trains_and_loads_without_kmerge(tmp_path):
    """Those with kinds of layers that tests/models.py has not."""
    checks.check_saves({name: half_of(name) for name in ("Xception", "EfficientNetB0", "ConvNeXtTiny")}, tmp_path)


def test_what_does_not_load_elsewhere_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "_LOAD", "raise SystemExit('no such layer')")
    with pytest.raises(RuntimeError, match="(?s)did not load in a new process.*no such layer"):
        zoo.outputs_elsewhere([tmp_path / "model.keras"])
