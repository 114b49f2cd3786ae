"""ScaleCropFlip: an image that is coded from its mask stays so, and each example has its own draw."""

import keras
import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

import kmerge
from benchmarks.data.augmentation import ScaleCropFlip
from benchmarks.suites.suite import SuiteError, load_suite

pytestmark = pytest.mark.both_backends

FILL = (-30.0, -20.0, -10.0)
# The colours of classes, corners of a tetrahedron, and of void.
COLOURS = np.zeros((256, 3), "float32")
COLOURS[:4], COLOURS[255] = [[50, 50, 50], [150, 150, 50], [150, 50, 150], [50, 150, 150]], FILL


def coded(count=300):
    """Images that are coded from their masks, and those: squares of 8 pixels without void."""
    classes = np.random.default_rng(0).integers(0, 4, (count, 8, 8), "uint8")
    masks = classes.repeat(8, axis=1).repeat(8, axis=2)
    return COLOURS[masks], masks


def moved(layer, images, masks):
    return [keras.ops.convert_to_numpy(part) for part in kmerge.WithMasks(layer)(images, masks, training=True)]


def uniform(masks, reach):
    """Where all pixels around have one label, and are in the window."""
    about = {"size": (1, 2 * reach + 1, 2 * reach + 1), "mode": "constant", "cval": 254}
    return minimum_filter(masks, **about) == maximum_filter(masks, **about)


def test_an_image_that_is_coded_from_its_mask_stays_so():
    images, masks = coded()
    new_images, new_masks = moved(ScaleCropFlip(FILL, 255, seed=3), images, masks)
    assert new_images.shape == images.shape and new_masks.shape == masks.shape and new_masks.dtype == np.uint8
    inside = uniform(new_masks, 2)  # bilinear mixes up to two pixels on each side of a border
    assert 0.2 < inside.mean() < 0.9
    np.testing.assert_allclose(new_images[inside], COLOURS[new_masks[inside]], atol=2e-2)
    # Void is filled to the very border, and no pixel of an image mixes with it.
    np.testing.assert_allclose(new_images[new_masks == 255], np.tile(FILL, ((new_masks == 255).sum(), 1)), atol=2e-2)
    assert new_images[new_masks != 255].min() >= 50 - 2e-2
    assert (new_masks != masks).any(axis=(1, 2)).mean() > 0.95


def test_scales_are_between_a_half_and_two_and_half_of_the_images_are_flipped():
    ramp = np.tile(np.arange(64, dtype="float32")[None, None, :, None], (300, 64, 1, 3)) + 0.5
    images, masks = moved(ScaleCropFlip((-1.0,) * 3, 255, seed=5), ramp, np.zeros((300, 64, 64), "uint8"))
    middles = [image[32, mask[32] == 0, 0] for image, mask in zip(images, masks, strict=True)]
    steps = np.array([np.median(np.diff(middle)[2:-2]) for middle in middles])
    scales = 1 / np.abs(steps)
    assert 0.5 - 1e-3 < scales.min() < 0.53 and 1.95 < scales.max() < 2 + 1e-3 and abs(scales.mean() - 1.25) < 0.1
    assert 0.4 < (steps < 0).mean() < 0.6 and len(np.unique(steps.round(6))) > 290
    shares = (masks == 0).mean(axis=(1, 2))
    np.testing.assert_allclose(shares, np.minimum(scales, 1) ** 2, atol=0.06)  # whole pixels
    # What became smaller lies anywhere: of its first and its last row both are void somewhere.
    assert all((masks[scales < 0.9, row] == 255).all(axis=-1).mean() > 0.2 for row in (0, -1))


def test_it_passes_both_in_inference_draws_by_its_seed_and_is_saved_with_its_settings():
    images, masks = coded()
    layer = ScaleCropFlip(FILL, 255, seed=3, scales=(0.7, 1.1))
    same = kmerge.WithMasks(layer)(images, masks)
    np.testing.assert_array_equal(same[0], images)
    np.testing.assert_array_equal(same[1], masks)
    again = ScaleCropFlip.from_config(layer.get_config())
    for first, second in zip(moved(layer, images, masks), moved(again, images, masks), strict=True):
        np.testing.assert_array_equal(first, second)


def test_fit_trains_on_masks_that_moved_with_their_images():
    images, masks = coded(16)
    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1)(inputs))
    known = COLOURS[:4] / 1_000  # logits are 10 higher for the nearest of these than for the others
    model.layers[-1].set_weights([known.T[None, None], -500 * (known**2).sum(axis=1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(keras.optimizers.SGD(0.0), loss)
    augment = kmerge.WithMasks(ScaleCropFlip(FILL, 255, seed=3, scales=(1.0, 2.0)))
    history = kmerge.fit(model, images, masks, batch_size=8, augment=augment, verbose=0)
    assert history.params["program"] != "model.fit"
    assert history.history["loss"][0] < 0.5  # from borders; 7.5 if masks had nothing to do with their images


def test_a_suite_moves_masks_with_their_images_and_refuses_what_moves_images_alone(tmp_path):
    path = tmp_path / "mine.toml"
    for augmentation, dataset, expected in (
        ("shift_and_flip", "shapes", "one of none, scale_crop_flip"),
        ("scale_crop_flip", "digits", "one of none, shift_and_flip"),
    ):
        path.write_text(f'based_on = "digits"\ndataset = "{dataset}"\naugmentation = "{augmentation}"\n')
        with pytest.raises(SuiteError, match=f"augmentation: expected {expected}, received '{augmentation}'"):
            load_suite(path)
