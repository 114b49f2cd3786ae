"""Shapes: what is drawn, that it is drawn alike everywhere, and that its masks say what lies where."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.data import datasets, shapes


@pytest.fixture(scope="module")
def drawn():
    return shapes.draw_shapes(200, 200)


def test_shapes_are_drawn_alike_on_every_machine(drawn):
    assert hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()[:16] == "4e937d65c05dc9a3"


def test_fewer_shapes_are_the_first_and_the_splits_share_none(drawn):
    few = shapes.draw_shapes(3, 2)
    for part, whole in zip(few, drawn, strict=True):
        np.testing.assert_array_equal(part, whole[: len(part)])
    assert len({image.tobytes() for images in drawn[::2] for image in images}) == 400


def test_every_class_is_there_and_void_is_a_thin_border(drawn):
    images, masks = drawn[:2]
    assert images.shape == (200, 64, 64, 3) and masks.shape == (200, 64, 64) and images.dtype == masks.dtype == np.uint8
    found, counts = np.unique(masks, return_counts=True)
    assert found.tolist() == [0, 1, 2, 3, shapes.VOID]
    shares = counts / masks.size
    assert 0.55 < shares[0] < 0.7 and (shares[1:4] > 0.07).all() and shares[4] < 0.1
    # Two classes never touch: one pixel of the border stands between them, to the right and below.
    for first, second in ((masks[:, :-1], masks[:, 1:]), (masks[:, :, :-1], masks[:, :, 1:])):
        known = (first != shapes.VOID) & (second != shapes.VOID)
        np.testing.assert_array_equal(first[known], second[known])


def test_no_colour_tells_a_class(drawn):
    images, masks = drawn[:2]
    means = np.array([images[masks == label].mean(axis=0) for label in range(4)])
    assert np.ptp(means, axis=0).max() < 15 < images.reshape(-1, 3).std(axis=0).min() / 3


def test_shapes_are_loaded_with_masks_and_their_void(tmp_path, monkeypatch):
    assert len(shapes.CLASSES) == datasets.IMAGES["shapes"].classes == 4
    assert datasets.check_examples("shapes", None) == 2_000
    monkeypatch.setitem(datasets.IMAGES, "shapes", replace(datasets.IMAGES["shapes"], train=600, test=50))
    dataset = datasets.load("shapes", None, tmp_path, seed=0, examples=100)
    data = dataset.data
    for x, y, count in ((data.x_train, data.y_train, 100), (data.x_val, data.y_val, 100), (data.x_test, data.y_test, 50)):
        assert x.shape == (count, 64, 64, 3) and x.dtype == np.float32
        assert y.shape == (count, 64, 64) and y.dtype == np.uint8 and not y.flags.writeable
    assert (dataset.outputs, dataset.void) == (4, 255)
    # A mask stays with its image: where regions end the image changes more than elsewhere.
    change = np.abs(np.diff(data.x_train, axis=2)).mean(axis=-1)
    ends = data.y_train[:, :, :-1] == 255
    assert change[ends].mean() > 1.5 * change[~ends].mean()
