"""Metrics of pixels: what NumPy counts, whatever feeds them; void pixels count nowhere, and wrong labels show."""

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.pixels import PixelMetric, examples_at_a_time, iou_of_classes, results_of_pixels
from tests.programs import without_programs

CLASSES, VOID = 5, 255


def labelled(n=6, side=8):
    """Labels, some of them void, and logits. No label is 3, and no logit is for 4."""
    rng = np.random.default_rng(1)
    y = rng.choice([0, 1, 2, 4, VOID], (n, side, side), p=[0.4, 0.2, 0.1, 0.1, 0.2]).astype("uint8")
    logits = rng.normal(size=(n, side, side, CLASSES)).astype("float32")
    logits[..., 4] = -9
    return y, logits


def expected(y, logits):
    found, counts = logits.argmax(-1), y != VOID
    iou = [np.sum((y == c) & (found == c)) / np.sum(((y == c) | (found == c)) & counts) for c in range(CLASSES)]
    return {"pixel_accuracy": np.mean((found == y)[counts]), "mean_iou": np.mean(iou)}, iou


@pytest.mark.parametrize("name", ["pixel_accuracy", "mean_iou"])
def test_batches_add_up_to_what_numpy_counts(name):
    y, logits = labelled()
    metric, (values, iou) = PixelMetric(CLASSES, name), expected(y, logits)
    assert float(metric.result()) == 0
    for part in (slice(0, 4), slice(4, 5), slice(5, 6)):
        metric.update_state(y[part, ..., None] if part.start == 4 else y[part], logits[part])
    assert float(metric.result()) == pytest.approx(values[name], rel=1e-6)
    assert results_of_pixels(metric) == pytest.approx(values, rel=1e-6)
    np.testing.assert_allclose(iou_of_classes(metric.confusion), iou)
    again = PixelMetric.from_config(metric.get_config())
    assert (again.name, again.classes, again.result_of) == (name, CLASSES, name) and not again.confusion.any()
    metric.reset_state()
    assert not metric.confusion.any()


def test_a_class_that_is_nowhere_is_no_part_of_the_mean():
    metric = PixelMetric(3, "mean_iou")
    metric.update_state(np.array([[[0, 0, 1, VOID]]]), np.eye(3, dtype="float32")[[[[0, 1, 1, 2]]]])
    np.testing.assert_array_equal(iou_of_classes(metric.confusion), [0.5, 0.5, np.nan])
    assert float(metric.result()) == 0.5


def test_counts_beyond_what_a_float_holds_are_exact():
    metric, many = PixelMetric(2), 3 * 2**24 + 2**20 - 1
    metric.counts.assign([[[many // 2**20, 0], [0, 0]], [[many % 2**20, 0], [0, 0]]])
    assert metric.confusion[0, 0] == many
    for _ in range(3):
        metric.update_state(np.zeros((1, 1, 1)), np.array([[[[1.0, 0.0]]]]))
    assert metric.confusion.tolist() == [[many + 3, 0], [0, 0]]


def test_many_pixels_of_one_batch_are_counted_exactly():
    metric, many = PixelMetric(1), 2**24 + 5
    metric.update_state(np.zeros((1, many), "uint8"), np.zeros((1, many, 1), "float16"))
    assert metric.confusion.tolist() == [[many]]


@pytest.mark.parametrize("label", [CLASSES, 254, -1, 0.5])
def test_a_label_that_is_none_makes_every_result_nan(label):
    y, logits = labelled()
    metric = PixelMetric(CLASSES, "mean_iou")
    metric.update_state(np.where(np.arange(8) == 0, label, y.astype("int64")), logits)
    metric.update_state(y, logits)
    assert np.isnan(float(metric.result()))


def test_masks_of_another_size_weights_and_missing_channels_are_refused():
    y, logits = labelled()
    for wrong in (y.reshape(6, 4, 16), y[:, 0], y[:3]):
        with pytest.raises(ValueError, match="Masks must be as large"):
            PixelMetric(CLASSES).update_state(wrong, logits)
    for classes in (CLASSES + 1, 2):
        with pytest.raises(ValueError, match="a channel for each of"):  # a sigmoid's one channel would always be class 0
            PixelMetric(classes).update_state(y, logits if classes > 2 else logits[..., :1])
    with pytest.raises(ValueError, match="Use the void label"):
        PixelMetric(CLASSES).update_state(y, logits, sample_weight=np.ones(6))
    with pytest.raises(ValueError, match="pixel_accuracy, mean_iou"):
        PixelMetric(CLASSES, "accuracy")


def test_one_metric_and_one_loss_serve_fit_and_model_fit():
    y, _ = labelled()
    x = np.random.default_rng(2).normal(size=(*y.shape, 3)).astype("float32")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(CLASSES, 1, use_bias=False)])
    logits = keras.ops.convert_to_numpy(model(x))
    values, _ = expected(y, logits)
    places = y != VOID
    chosen = np.take_along_axis(logits, np.where(places, y, 0)[..., None].astype(int), -1)[..., 0]
    values["loss"] = np.mean((np.log(np.exp(logits).sum(-1)) - chosen)[places])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=[PixelMetric(CLASSES), PixelMetric(CLASSES, "mean_iou")])
    history = kmerge.fit(model, x, y, batch_size=6, validation_data=(x, y), verbose=0).history
    both = values | {f"val_{name}": value for name, value in values.items()}
    assert {name: found for name, (found,) in history.items()} == pytest.approx(both, rel=1e-5)
    with without_programs():
        assert model.evaluate(x, y, batch_size=6, verbose=0, return_dict=True) == pytest.approx(values, rel=1e-5)


def test_large_images_go_through_a_network_one_at_a_time():
    sizes = [examples_at_a_time(np.empty((2, side, side, 3), "uint8")) for side in (8, 64, 512, 4096)]
    assert sizes == [500, 256, 4, 1]
