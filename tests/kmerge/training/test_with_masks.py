"""`WithMasks`: augmentation that moves targets with their images, in all ways to train, and what is refused before."""

import keras
import numpy as np
import pytest
from keras import layers

from kmerge.errors import InvalidArgumentError
from kmerge.training import ModelFitWarning, WithMasks, fit, fit_many
from tests.kmerge.training.cases import BACKEND, EveryBatch
from tests.programs import without_programs

pytestmark = pytest.mark.both_backends

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), "uint8")
MASKS = (IMAGES[..., 0] // 64).astype("uint8")


def reading_colours(seed=0):
    """A network without anything to learn, whose loss is near zero where masks are in their images' red, and else large."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 1)(inputs))
    red = np.array([32, 96, 160, 224], "float32")
    model.layers[-1].set_weights([np.stack([red, 0 * red, 0 * red])[None, None], -(red**2) / 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


def flip(seed=1, layer=layers.RandomFlip):
    return WithMasks(layer("horizontal", seed=seed))


@pytest.mark.parametrize("way, channel", [("fit", False), ("fit", True), ("model.fit", False), ("fit_many", True)])
def test_masks_move_with_their_images(way, channel):
    masks = MASKS[..., None] if channel else MASKS
    model, many = reading_colours(), way == "fit_many"
    if many and BACKEND != "jax":
        pytest.skip("fit_many needs the JAX backend")
    weights = np.ones((24, 1, 1), "float32")
    if many:
        history = fit_many([model, reading_colours()], IMAGES, masks, batch_size=8, augments=[flip(1), flip(2)])[1]
    elif way == "fit":
        history = fit(model, IMAGES, masks, batch_size=8, augment=flip(), sample_weight=weights, verbose=0)
    else:
        with pytest.warns(ModelFitWarning), without_programs():
            history = fit(model, IMAGES, masks, batch_size=8, augment=flip(), verbose=0, callbacks=[EveryBatch()])
    assert history.params["program"] == "model.fit" or way != "model.fit"
    assert history.history["loss"][0] < 0.1
    if way == "fit" and not channel:  # and where images move alone, that is seen
        with without_programs():
            alone = fit(model, IMAGES, masks, batch_size=8, augment=layers.RandomFlip("horizontal", seed=1), verbose=0)
        assert alone.history["loss"][0] > 100


def test_weights_of_examples_weigh_all_their_pixels_or_are_refused():
    model, weights, wrong = reading_colours(), np.linspace(0, 2, 24, dtype="float32"), (MASKS + 1) % 4
    each = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)(wrong, model(IMAGES))
    with without_programs():
        history = fit(model, IMAGES, wrong, sample_weight=weights[:, None, None], batch_size=8, verbose=0)
    expected = np.mean(np.asarray(each) * weights[:, None, None])
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)
    # Keras multiplies batches of 8 by the columns of 8 x 8 pixels.
    for given in (weights, weights[:, None]):
        with pytest.raises(InvalidArgumentError, match=r"3 axes.*an array of shape \(24,.*the shape \(24, 1, 1\)"):
            fit(model, IMAGES, wrong, sample_weight=given, batch_size=8, verbose=0)


def test_trying_the_layer_draws_nothing_from_it():
    layer = flip()
    before = [np.asarray(variable) for variable in layer.variables]
    fit(reading_colours(), IMAGES, MASKS, epochs=0, augment=layer, verbose=0)
    assert len(before) == 1
    np.testing.assert_array_equal(before[0], layer.variables[0])
    images, masks = layer(IMAGES, MASKS, training=True)
    again = WithMasks.from_config(flip().get_config())(IMAGES, MASKS, training=True)
    assert keras.backend.standardize_dtype(masks.dtype) == "uint8" and (np.asarray(masks) != MASKS).any()
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(masks, again[1])


class Mixing(layers.Layer):
    """A layer that scales masks bilinearly, as images."""

    def call(self, data, training=False):
        return {name: keras.ops.image.resize(keras.ops.cast(part, "float32"), (12, 12)) for name, part in data.items()}


class Losing(layers.Layer):
    """A layer that crops images alone."""

    def call(self, data, training=False):
        return data | {"images": data["images"][:, :4, :4]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": MASKS[:, :7]}, r"expected y to be 24 masks of 8 x 8 pixels, as the images have, received .*24, 7, 8"),
        ({"y": np.zeros(24)}, r"expected y to be 24 masks of 8 x 8 pixels"),
        ({"y": None}, r"expected y to be 24 masks of 8 x 8 pixels, as the images have, received None"),
        ({"sample_weight": np.ones((24, 8, 8))}, "expected sample_weight to be one weight per example.*Leave pixels out by"),
        ({"y": 0 * MASKS, "augment": WithMasks(Mixing())}, "expected the layer to return whole numbers.*nearest pixel"),
        ({"augment": WithMasks(Losing())}, "expected the layer to return masks of 4 x 4 pixels, as its images have"),
        ({"augment": WithMasks(layers.GaussianNoise(0.1))}, "expected a layer that takes and returns a dict of images"),
        (
            {"y": MASKS.astype("int32") * 100, "augment": WithMasks(layers.RandomFlip(dtype="mixed_bfloat16"))},
            "expected labels of at most 256, received 300. bfloat16 holds no more of them exactly",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_move_is_refused_before_training(change, message):
    model = reading_colours()
    model.loss = None if change.get("y") is not None and change["y"].max() > 3 else model.loss
    arguments = {"x": IMAGES, "y": MASKS, "augment": flip(), "verbose": 0} | change
    with pytest.raises(InvalidArgumentError, match=message):
        fit(model, **arguments)


def test_only_a_layer_is_taken():
    with pytest.raises(InvalidArgumentError, match="WithMasks: expected layer to be a layer for images and their masks"):
        WithMasks(lambda data: data)
