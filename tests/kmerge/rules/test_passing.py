"""Layers and operations that pass channels on, or join them with places: exact in every verb."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.models import example_inputs, randomize

# Between a convolution of eight channels on 4 x 4 places and the next mixing layer.
ON_IMAGES = {
    "resizing": lambda x: layers.Resizing(6, 5)(x),
    "center_crop": lambda x: layers.CenterCrop(3, 2)(x),
    "augmentation": lambda x: layers.RandomFlip()(layers.RandomZoom(0.1)(layers.RandomContrast(0.1)(x))),
    "adaptive_average": lambda x: layers.AdaptiveAveragePooling2D(2)(x),
    "adaptive_maximum": lambda x: layers.AdaptiveMaxPooling2D(2)(x),
    "resize": lambda x: ops.image.resize(x, (6, 5), interpolation="bicubic"),
    "crop_and_pad": lambda x: ops.image.pad_images(ops.image.crop_images(x, 1, 1, 0, 1), 1, 0, 1, 0),
    "pools": lambda x: ops.average_pool(ops.max_pool(x, 2, 1), 2, 1),
    "patches": lambda x: ops.image.extract_patches(x, 2),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2),
    "depth_to_space": lambda x: ops.depth_to_space(x, 2),
    "there_and_back": lambda x: ops.depth_to_space(ops.relu(ops.space_to_depth(x, 2)), 2),
    "moved_axes": lambda x: ops.swapaxes(ops.moveaxis(x, 3, 1), 1, -1),
    "tile_of_channels": lambda x: ops.tile(x, (1, 2, 1, 3)),
    "tile_of_places": lambda x: ops.tile(x, (2, 1)),
    "repeats": lambda x: ops.repeat(ops.repeat(x, 2, axis=1), 3, axis=-1),
    "stack_in_front": lambda x: ops.max(ops.stack([x, ops.tanh(x)], axis=1), axis=1),
    "stack_behind": lambda x: ops.reshape(ops.stack([x, ops.sin(x)], axis=-1), (-1, 4, 4, 16)),
    "unstack": lambda x: ops.concatenate(ops.unstack(x, axis=1), axis=-1),
}
ALONE = (
    "arcsin arccos arctan sinh cosh arcsinh arctanh exp2 log2 log10 cbrt erfc sinc trunc signbit isnan isfinite deg2rad "
    "rad2deg nan_to_num fabs i0 ones_like"
).split()
OF_TWO = "fmax fmin mod fmod floor_divide divide_no_nan arctan2 heaviside hypot logaddexp logaddexp2 nextafter isclose".split()


def of_alone(name):
    return lambda x: ops.cast(getattr(ops, name)(x * 0.1 + 0.2), "float32")


def of_two(name):
    return lambda x: ops.cast(getattr(ops, name)(x, ops.abs(layers.Conv2D(8, 1)(x)) + 0.5), "float32")


CASES = ON_IMAGES | {name: of_alone(name) for name in ALONE} | {name: of_two(name) for name in OF_TWO}
# A network for each of the first, and one for twelve functions.
TOGETHER = [[name] for name in ON_IMAGES] + [kind[i : i + 12] for kind in (ALONE, OF_TWO) for i in range(0, len(kind), 12)]


def build(names, seed):
    x = keras.Input((4, 4, 3))
    h = layers.Conv2D(8, 1, activation="sigmoid")(x)
    found = [CASES[name](h) for name in names]
    pooled = [layers.GlobalAveragePooling2D()(y) if len(y.shape) == 4 else layers.Flatten()(y) for y in found]
    network = keras.Model(x, [layers.Dense(2)(y) for y in pooled])
    randomize(network, seed)
    return network


@pytest.mark.parametrize("names", TOGETHER, ids=[names[0] for names in TOGETHER])
def test_channels_pass(names):
    networks = [build(names, 0), build(names, 1)]
    inputs = example_inputs(networks[0])
    with kmerge.strict():
        sizes = checks.selectable(networks[0])
        assert sizes
        big = kmerge.concatenate(*networks)
        checks.assert_mean(big, networks, inputs)
        rng = np.random.default_rng(0)
        order = {space: rng.permutation(size) for space, size in sizes.items()}
        moved = kmerge.permute(networks[0], order)
        checks.assert_close(checks.outputs(moved, inputs), checks.outputs(networks[0], inputs), 1e-5)
        keep = {space: np.sort(units[: max(1, len(units) // 2)]) for space, units in order.items()}
        wider = kmerge.grow(networks[0], dict.fromkeys(sizes, 1))
        checks.assert_close(checks.outputs(wider, inputs), checks.outputs(networks[0], inputs), 1e-5)
        few = {space: max(1, len(units) // 2) for space, units in order.items()}
        found = [checks.outputs(kmerge.select(*pair), inputs) for pair in ((networks[0], keep), (moved, few))]
        checks.assert_close(*found, 1e-5)


def test_a_loss_of_probabilities_inside_a_model_is_refused():
    x = keras.Input((3,))
    loss = ops.binary_crossentropy(*(layers.Dense(4, activation="sigmoid")(x) for _ in range(2)))
    network = keras.Model(x, layers.Dense(2)(loss))
    with pytest.raises(kmerge.UnsupportedLayerError, match=r"takes its logits instead.*from_logits=True"):
        kmerge.channel_spaces(network)
