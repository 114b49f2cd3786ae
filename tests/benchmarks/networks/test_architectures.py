"""The benchmark's networks: sizes of the papers, PyTorch's start, padding, decay and normalization."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as numpy

import kmerge
from benchmarks.data.augmentation import ShiftAndFlip
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.suites.suite import load_suite
from kmerge import costs
from tests.benchmarks.networks.test_segmentation import without_values
from tests.programs import without_programs

CASES = {
    "das_cnn": ((32, 32, 3), 100, {"hidden": (66, 20, 30, 64, 194)}),
    "das_dense": ((81,), 1, {}),
    "mlp": ((1,), 1, {"hidden": (100,)}),
    "lenet": ((28, 28, 1), 10, {"activation": "relu"}),
    "deep_resnet": ((32, 32, 3), 10, {"width": 4}),
    "small_deeplab": ((32, 32, 3), 4, {"channels": 8}),
    "small_fcn": ((32, 32, 3), 4, {"width": 4}),
    "resnet": ((32, 32, 3), 100, {"depth": 20, "width": 16}),
    "vgg11": ((32, 32, 3), 10, {}),
}

# Of the parts of the small networks of their kind; see `test_segmentation`.
LARGE = {"deeplab_v3", "fcn_resnet"}

SIZES = {
    "das_cnn": 850_840,  # the auto-sizing paper's table I: 851K
    "das_dense": 50 * 82 + 4 * 50 * 51 + 51,
    "mlp": 301,
    "lenet": 61_706,
    "resnet": 278_324,
    "vgg11": 9_222_848,
}


def build(name, seed=1, **options):
    shape, outputs, settings = CASES[name]
    return ARCHITECTURES[name](shape, outputs, seed, **settings, **options)


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_every_architecture_is_tested():
    assert CASES.keys() | LARGE == ARCHITECTURES.keys()


@pytest.mark.parametrize("name, expected", [*SIZES.items()])
def test_trainable_parameters(name, expected):
    assert trainable(build(name)) == expected


def test_a_lenet_for_images_of_half_the_side_ends_with_3x3_places():
    model = ARCHITECTURES["lenet"]((14, 14, 1), 10, 1, filters=(3, 8), units=(40, 28))
    assert model.get_layer("pool_2").output.shape == (None, 3, 3, 8)
    assert trainable(model) == 78 + 8 * (3 * 25 + 1) + 40 * (72 + 1) + 28 * 41 + 10 * 29


@pytest.mark.parametrize(
    "depth, stem, shape, classes, expected",
    [
        (18, "imagenet", (224, 224, 3), 1000, 11_689_512),  # torchvision's
        (18, "cifar", (32, 32, 3), 10, 11_173_962),
        (101, "imagenet", (224, 224, 3), 1000, 44_549_160),  # torchvision's
    ],
)
def test_deep_resnets_have_published_sizes(depth, stem, shape, classes, expected):
    model = without_values("deep_resnet", shape, classes, depth=depth, stem=stem)
    assert trainable(model) == expected
    first = model.get_layer("stage_1_block_1_add").output.shape
    assert first[1:3] == ((56, 56) if stem == "imagenet" else (32, 32))
    assert model.get_layer("pool").input.shape[1:3] == ((7, 7) if stem == "imagenet" else (4, 4))


def test_the_pooling_of_the_stem_pads_all_sides_alike():
    model = ARCHITECTURES["deep_resnet"]((16, 16, 1), 3, 1, width=2, stem="imagenet")
    rng = np.random.default_rng(1)
    images = np.abs(rng.normal(size=(1, 8, 8, 2))).astype("float32")
    pooled = numpy(model.get_layer("stem_pool")(model.get_layer("stem_pool_pad")(images)))
    np.testing.assert_array_equal(pooled[0, 0, 0], images[0, :2, :2].max(axis=(0, 1)))
    np.testing.assert_array_equal(pooled[0, 1, 1], images[0, 1:4, 1:4].max(axis=(0, 1)))


def test_the_lenet_of_the_robots_paper_is_lenet_5_and_wider():
    suite = load_suite("robots_lenet")
    options = {key: value for key, value in suite.definition["architecture"].items() if key != "name"}
    model = ARCHITECTURES["lenet"]((32, 32, 3), 10, 1, **options)
    widths = [6, 16, 120, 84]
    assert [*options["filters"], *options["units"]] == [round(2.41 * width) for width in widths]
    assert trainable(model) == 357_427
    assert trainable(ARCHITECTURES["lenet"]((32, 32, 3), 10, 1)) == 62_006
    assert model.get_layer("flatten").input.shape[1:3] == (5, 5)


def test_resnet20_costs_as_published():
    stage_1 = 32 * 32 * 9 * 16 * (3 + 6 * 16)
    stage_2 = 16 * 16 * (9 * 32 * (16 + 5 * 32) + 16 * 32)
    stage_3 = 8 * 8 * (9 * 64 * (32 + 5 * 64) + 32 * 64)
    assert costs.multiply_accumulates(build("resnet")) == stage_1 + stage_2 + stage_3 + 64 * 100


@pytest.mark.parametrize("name", CASES)
def test_a_seed_gives_one_network(name):
    first, again, other = build(name, 1), build(name, 1), build(name, 2)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_no_two_weights_repeat_a_draw(name):
    drawn = [w.ravel()[:4].tobytes() for w in build(name).get_weights() if np.unique(w).size > 1 and w.size >= 4]
    assert len(drawn) > 1
    assert len(set(drawn)) == len(drawn)


def test_sine_net_starts_as_in_pytorch():
    kernel_1, bias_1, kernel_2, bias_2 = build("mlp").get_weights()
    for weight, bound in ((kernel_1, 1), (bias_1, 1), (kernel_2, 0.1), (bias_2, 0.1)):
        assert np.abs(weight).max() <= bound
    assert np.abs(kernel_1).max() > 0.9 and np.abs(bias_1).max() > 0.9 and np.abs(kernel_2).max() > 0.09


def test_resnet_starts_with_he_normal_of_the_outputs():
    kernel = numpy(build("resnet").get_layer("stage_3_block_2_conv_1").kernel)
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()  # Not truncated at two standard deviations, as he_normal is.


def test_batch_normalization_has_pytorch_settings():
    layer = build("resnet").get_layer("stem_bn")
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


def test_strided_convolutions_pad_all_sides_alike():
    model = build("resnet")
    convolution = model.get_layer("stage_2_block_1_conv_1")
    pad = model.get_layer("stage_2_block_1_conv_1_pad")
    image = np.zeros((1, 32, 32, 16), "float32")
    image[0, 1, 1] = 1.0  # Under the center tap of no window when padding is asymmetric.
    kernel = numpy(convolution.kernel)
    output = numpy(convolution(pad(image)))
    np.testing.assert_allclose(output[0, 0, 0], kernel[2, 2].sum(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output[0, 1, 1], kernel[0, 0].sum(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("das_")])
def test_weight_decay_is_a_penalty_on_every_trainable_weight(name):
    model = build(name, weight_decay=0.01)
    expected = 0.005 * sum(float((w.astype("float64") ** 2).sum()) for w in map(numpy, model.trainable_weights))
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)


def test_weight_decay_moves_weights_as_pytorch_sgd_does():
    decay, rate, momentum = 0.1, 0.05, 0.9
    model = build("mlp", weight_decay=decay)
    weight = model.get_layer("output").kernel
    model.compile(keras.optimizers.SGD(rate, momentum), loss=lambda y, p: keras.ops.sum(p, axis=-1) * 0.0)
    value, velocity = numpy(weight).copy(), 0.0
    with without_programs():
        model.fit(np.ones((8, 1)), np.ones((8, 1)), batch_size=4, epochs=2, verbose=0)
    for _ in range(4):  # v = m v + (g + w theta), theta -= lr v, with g = 0
        velocity = momentum * velocity + decay * value
        value = value - rate * velocity
    np.testing.assert_allclose(numpy(weight), value, rtol=1e-5)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"32x32, 28x28 or 14x14.*\(30, 30, 3\)"):
        ARCHITECTURES["lenet"]((30, 30, 3), 10, 1)
    with pytest.raises(ValueError, match=r"two filters and two units; received \(6,\) and \(120, 84\)"):
        ARCHITECTURES["lenet"]((32, 32, 3), 10, 1, filters=(6,))
    for wrong, received in (({"depth": 20}, "20 and 'cifar'"), ({"stem": "large"}, "18 and 'large'")):
        with pytest.raises(ValueError, match=f"18, 34, 50, 101, 152.*cifar, imagenet; received {received}"):
            ARCHITECTURES["deep_resnet"]((32, 32, 3), 10, 1, **wrong)
    with pytest.raises(ValueError, match="8, 14, 20, 26, ...; received 21"):
        ARCHITECTURES["resnet"]((32, 32, 3), 10, 1, depth=21)
    with pytest.raises(ValueError, match=r"32x32 images.*\(28, 28, 1\)"):
        ARCHITECTURES["vgg11"]((28, 28, 1), 10, 1)


def test_vgg11_without_normalization_starts_with_a_signal():
    """PyTorch's default start shrinks it by four orders of magnitude, and the network then learns nothing for long."""
    model = ARCHITECTURES["vgg11"]((32, 32, 3), 10, 1, width=16)
    images = np.random.default_rng(0).normal(size=(32, 32, 32, 3)).astype("float32")
    first, last = keras.Model(model.input, [model.get_layer(name).output for name in ("conv_1", "conv_8")])(images)
    assert 0.2 < numpy(last).std() / numpy(first).std() < 5


def positions(images):
    """Row and column of the brightest pixel of each image."""
    flat = numpy(images)[..., 0].reshape(len(images), -1).argmax(axis=1)
    return np.stack(np.divmod(flat, images.shape[2]), axis=1)


def one_pixel(count):
    images = np.zeros((count, 12, 12, 1), "float32")
    images[:, 5, 4] = 1.0
    return images


def test_augmentation_draws_for_every_example():
    images = one_pixel(4000)
    found = positions(ShiftAndFlip(4, (0.0,), seed=3)(images, training=True))
    rows, columns = np.unique(found[:, 0], return_counts=True), np.unique(found[:, 1], return_counts=True)
    assert rows[0].tolist() == list(range(1, 10))  # 5 - 4 to 5 + 4
    assert rows[1].min() > 300  # about 444 of each
    assert columns[0].tolist() == list(range(0, 12))  # 4 - 4 to 4 + 4, flipped 11 - 4 - 4 to 11 - 4 + 4
    flipped_only = found[:, 1] > 8  # reached by 3 of 9 shifts of a flipped image
    assert flipped_only.mean() == pytest.approx(0.5 * 3 / 9, abs=0.03)


def test_keras_random_crop_shares_one_offset():
    images = np.pad(one_pixel(64), ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = positions(numpy(keras.layers.RandomCrop(12, 12, seed=3)(images, training=True)))
    assert len(np.unique(found, axis=0)) == 1  # The reason for a layer of our own.


def test_augmentation_fills_with_black_and_is_off_in_inference():
    images = np.ones((50, 8, 8, 2), "float32")
    layer = ShiftAndFlip(4, (-1.5, -0.5), seed=5)
    np.testing.assert_array_equal(numpy(layer(images)), images)
    augmented = numpy(layer(images, training=True))
    assert set(np.unique(augmented[..., 0])) == {-1.5, 1.0} and set(np.unique(augmented[..., 1])) == {-0.5, 1.0}


def test_augmentation_repeats_by_seed_and_moves_on():
    images = one_pixel(100)
    first, again, other = (ShiftAndFlip(4, (0.0,), seed=s) for s in (1, 1, 2))
    draws = [numpy(layer(images, training=True)) for layer in (first, again, other, first)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2]) and not np.array_equal(draws[0], draws[3])


def test_augmentation_trains_in_a_compiled_program():
    inputs = keras.Input((12, 12, 1))
    x = ShiftAndFlip(4, (0.0,), seed=3)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(x)))
    model.compile("sgd", "mse")
    history = model.fit(one_pixel(20), np.ones((20, 1)), batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"][0])


def test_auto_sizing_nets_have_the_papers_start_and_widths():
    model = ARCHITECTURES["das_cnn"]((28, 28, 1), 10, 1, hidden=(19, 14, 18, 34, 93))
    assert trainable(model) == 166_397  # table I: 166K
    kernel = numpy(model.get_layer("dense_1").kernel)
    assert kernel.std() == pytest.approx((49 * 34) ** -0.5, rel=0.02)  # LeCun's, of 7 x 7 x 34 inputs
    assert np.abs(numpy(model.get_layer("logits").kernel)).max() <= (6 / (93 + 10)) ** 0.5  # Glorot's bound
    assert all(not np.any(layer.bias) for layer in model.layers if getattr(layer, "bias", None) is not None)
    spaces = kmerge.channel_spaces(model)
    assert {s.name: s.size for s in spaces.selectable} == {
        "conv_1": 19,
        "conv_2": 14,
        "conv_3": 18,
        "conv_4": 34,
        "dense_1": 93,
    }
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.2, 0.5]


def test_pixels_shown_twice_make_the_digits_16x16():
    model = ARCHITECTURES["das_cnn"]((8, 8, 1), 10, 1, hidden=(4, 4, 4, 4, 4), repeat=2)
    assert model.get_layer("conv_1").output.shape[1:3] == (16, 16)
    assert trainable(model) == sum(9 * a * 4 + 4 for a in (1, 4, 4, 4)) + 4 * (16 * 4 + 1) + 10 * 5


@pytest.mark.parametrize("hidden", [(3, 3), (3, 3, 3, 3, 0), (3, 3, 3, 3, 2.5)])
@pytest.mark.parametrize("name", ["das_cnn", "das_dense"])
def test_auto_sizing_nets_take_five_widths(name, hidden):
    with pytest.raises(ValueError, match=f"{name} expects 5 widths"):
        ARCHITECTURES[name](CASES[name][0], 2, 1, hidden=hidden)
