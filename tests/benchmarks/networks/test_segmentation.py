"""Networks of segmentation: torchvision's sizes, logits as large as the images, and every verb of kmerge on both kinds."""


import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as numpy

import kmerge
from baselines.distillation.imitation import ImitationLoss, imitating, logits_model
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.networks.mobilenet_v3 import in_eights
from benchmarks.networks.resizing import ResizeLike, resize_like
from tests import checks
from tests.models import Entry, randomize

# With 21 classes: trainable parameters of the network alone, and as torchvision documents it, with the auxiliary head; then of
# that also the operations for 520 x 520 pixels that it documents, in 10^9 multiply-accumulates.
SIZES = [
    ("fcn_resnet", {"depth": 50}, 32_957_013, 35_322_218, 152.717),
    ("fcn_resnet", {"depth": 101}, 51_949_141, 54_314_346, 232.738),
    ("deeplab_v3", {"backbone": "mobilenet_v3_large"}, 11_025_477, 11_029_328, 10.452),
    ("deeplab_v3", {"backbone": "resnet50"}, 39_638_869, 42_004_074, 178.722),
    ("deeplab_v3", {"backbone": "resnet101"}, 58_630_997, 60_996_202, 258.743),
]
NARROW = {"small_fcn": {"width": 4}, "small_deeplab": {"channels": 8}}
kinds = pytest.mark.parametrize("name", NARROW)
OPEN, ODD, EVEN = (None, None, 3), (33, 26, 3), (16, 24, 3)  # no stride divides 33 and 26


def without_values(name, shape, classes=21, **options):
    """A network whose weights have shapes, but no values."""
    with keras.StatelessScope(initialize_variables=False):
        model = ARCHITECTURES[name](shape, classes, 1, **options)
    keras.utils.clear_session(free_memory=False)  # or Keras makes the values of all these weights later
    return model


def trainable(layers):
    return sum(int(np.prod(weight.shape)) for layer in layers for weight in layer.trainable_weights)


@checks.once
def narrow(name, seed, shape=OPEN):
    model = ARCHITECTURES[name](shape, 4, seed, **NARROW[name])
    randomize(model, seed)
    return model


@checks.once
def joined(name):
    return kmerge.concatenate(narrow(name, 1), narrow(name, 2))


def images(shape):
    return [np.random.default_rng(3).normal(size=(2, *shape)).astype("float32")]


def check_same(model, other, shapes=(ODD, EVEN)):
    for shape in shapes:
        checks.assert_close(checks.outputs(model, images(shape)), checks.outputs(other, images(shape)), 1e-5)


@pytest.mark.parametrize("name, options, alone, documented, operations", SIZES)
def test_sizes_and_costs_are_those_of_torchvision(name, options, alone, documented, operations):
    model = without_values(name, OPEN, auxiliary=True, **options)
    assert trainable(model.layers) == documented
    assert trainable(layer for layer in model.layers if not layer.name.startswith("auxiliary_")) == alone
    assert model.output_shape == [(None, None, None, 21)] * 2
    assert round(kmerge.multiply_accumulates(model, (520, 520, 3)) / 1e9, 3) == operations


def test_the_small_networks_are_as_large_as_they_say():
    for name, size in (("small_fcn", 194_224), ("small_deeplab", 64_404)):
        model = ARCHITECTURES[name]((64, 64, 3), 4, 1)
        assert trainable(model.layers) == size and f"{size:,} trainable" in ARCHITECTURES[name].__doc__
        assert model.output_shape == (None, 64, 64, 4)
        assert model.get_layer("head_logits").output.shape[1:3] == (16, 16)
        wide = checks.selectable(ARCHITECTURES[name]((64, 64, 3), 4, 1, widen=2))
        assert wide == {space: 2 * size for space, size in checks.selectable(model).items()}


def test_stages_are_dilated_as_in_torchvision():
    """There each `dilate` replaces a stride, and its first block still has the dilation before it."""
    fcn = without_values("fcn_resnet", (65, 65, 3))
    rates = [[fcn.get_layer(f"stage_{s}_block_{b}_conv_2").dilation_rate[0] for b in (1, 2, 3)] for s in (1, 2, 3, 4)]
    assert rates == [[1, 1, 1], [1, 1, 1], [1, 2, 2], [2, 4, 4]]
    assert [fcn.get_layer(f"stage_{stage}_block_1_add").output.shape[1] for stage in (1, 2, 3, 4)] == [17, 9, 9, 9]
    deeplab = without_values("deeplab_v3", (65, 65, 3), auxiliary=True)
    assert [deeplab.get_layer(f"block_{block}_depthwise").dilation_rate[0] for block in (12, 13, 15)] == [1, 2, 2]
    assert deeplab.get_layer("last_act").output.shape == (None, 5, 5, 960)
    assert deeplab.get_layer("auxiliary_conv").input.shape == (None, 9, 9, 40)
    pyramid = [deeplab.get_layer(f"pyramid_rate_{rate}") for rate in (12, 24, 36)]
    assert [layer.dilation_rate[0] for layer in pyramid] == [12, 24, 36]
    assert deeplab.output_shape == [(None, 65, 65, 21)] * 2


def test_widths_are_rounded_to_eights_as_in_torchvision():
    assert [in_eights(n) for n in (3, 18, 30, 72 // 4, 672 // 4, 11)] == [8, 24, 32, 24, 168, 16]


@pytest.mark.parametrize("size", [(7, 9), (2, 3), (4, 5)], ids=str)
def test_images_are_resized_as_by_pytorch(size):
    """`interpolate(mode="bilinear", align_corners=False)`: half a pixel lies before the first, and the border goes on."""
    (x,), like = images((4, 5, 2)), np.zeros((1, *size, 1), "float32")

    def weights(new, old):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))

    expected = np.einsum("ih,jw,bhwc->bijc", weights(size[0], 4), weights(size[1], 5), x)
    known = resize_like(x, keras.Input(like.shape[1:]), "known")
    for found in (ResizeLike()(x, like), known):
        np.testing.assert_allclose(numpy(found), expected, rtol=1e-5, atol=1e-6)


@kinds
def test_a_network_is_the_same_for_any_size(name):
    known, twin = (narrow(name, seed, ODD) for seed in (1, 2))
    check_same(known, narrow(name, 1), [ODD])
    assert kmerge.multiply_accumulates(known) == kmerge.multiply_accumulates(narrow(name, 1), ODD)
    both = kmerge.concatenate(known, twin)
    checks.assert_mean(both, (known, twin), images(ODD))
    assert not any(isinstance(layer, ResizeLike) for layer in known.layers)  # what knows its size is plain Keras
    (x,), weights = images(ODD), known.get_weights()
    for model in (known, both):  # and what comes after it does not train
        np.testing.assert_array_equal(numpy(model(x)), numpy(model(x, training=False)))
    for weight, before in zip(known.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    training = numpy(known(x, training=True))
    assert np.abs(training - numpy(known(x))).max() > 1e-3
    known.set_weights(weights)


@kinds
def test_verbs_keep_their_promises_at_two_sizes(name, tmp_path):
    a, b = (narrow(name, seed) for seed in (1, 2))
    assert not [s for s in kmerge.channel_spaces(a).values() if not s.selectable and s.name not in ("input", "head_logits")]
    orders = checks.random_orders(a, 1)
    moved = kmerge.permute(a, orders)
    check_same(moved, a)
    half = kmerge.select(a, {space: order[: len(order) // 2] for space, order in orders.items()})
    check_same(kmerge.select(moved, {space: len(order) // 2 for space, order in orders.items()}), half)
    check_same(kmerge.grow(half, dict.fromkeys(orders, 2)), half)
    assert kmerge.multiply_accumulates(half, ODD) < 0.4 * kmerge.multiply_accumulates(a, ODD)
    both = joined(name)
    for shape in (ODD, EVEN):
        checks.assert_mean(both, (a, b), images(shape))
    checks.assert_spaces(both, {space: 2 * len(order) for space, order in orders.items()})
    half.save(tmp_path / "half.keras")
    check_same(keras.models.load_model(tmp_path / "half.keras"), half)


def test_a_network_for_any_size_is_taught_as_one_for_a_known_size():
    (x,), losses = images(ODD), []
    for shape in (OPEN, ODD):
        student = keras.models.clone_model(narrow("small_deeplab", 1, shape))
        student.set_weights(narrow("small_deeplab", 1, shape).get_weights())
        model = imitating(student, [narrow("small_fcn", 2, shape)], label_weight=0.1, temperature=3.0, per_pixel=True)
        loss = ImitationLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses.append(float(loss(np.arange(2 * 33 * 26).reshape(2, 33, 26) % 4, model(x, training=True))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with_softmax = keras.Model(student.input, keras.layers.Softmax()(student.output))
    assert logits_model(with_softmax).output is student.output


@kinds
def test_gates_are_folded_and_one_parent_comes_back(name):
    a, b = (narrow(name, seed) for seed in (1, 2))
    big = kmerge.merge(a, b, gates="open")
    checks.assert_mean(big, (a, b), images(ODD))
    checks.decide(big)
    student = kmerge.compress(big)
    check_same(student, big)
    assert [layer.name for layer in student.layers] == [layer.name for layer in a.layers]
    assert kmerge.parameters(student) == kmerge.parameters(a)
    checks.check_select_parent(Entry(name, None, ("linear",)), (a, b), joined(name), 1)


@pytest.mark.parametrize("name, options", [("fcn_resnet", {"depth": 18}), ("deeplab_v3", {"backbone": "vgg16"})])
def test_wrong_options_are_refused(name, options):
    with pytest.raises(ValueError, match=f"{name} expects a .*received"):
        ARCHITECTURES[name](OPEN, 21, 1, **options)
