"""Distillation where each pixel has a label: Hinton's term of each pixel that is not void, behind a softmax set aside."""

import keras
import numpy as np
import pytest

import kmerge
from baselines.distillation.imitation import ImitationLoss, imitating, logits_model
from baselines.protocol.pixels import PixelMetric
from tests.models import randomize

CLASSES, VOID = 4, 255


def network(seed, width=5, end=None):
    """Logits of a map of half the size, resized; with an end of that kind behind or before it."""
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(CLASSES, 1, activation="softmax" if end == "before" else None)(x)
    x = keras.layers.Resizing(8, 8)(x)
    x = {"softmax": keras.layers.Softmax(), "over places": keras.layers.Softmax(axis=1)}.get(end, lambda x: x)(x)
    model = keras.Model(inputs, x)
    randomize(model, seed)
    return model


def examples(n=6):
    rng = np.random.default_rng(1)
    y = rng.integers(0, CLASSES, (n, 8, 8)).astype("uint8")
    y[rng.uniform(size=y.shape) < 0.3] = VOID
    return rng.normal(size=(n, 8, 8, 3)).astype("float32"), y


def log_softmax(x):
    x = np.asarray(x, "float64")
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def compiled(model, loss, learning_rate=1e-9):
    model.compile(keras.optimizers.SGD(learning_rate), loss, metrics=[PixelMetric(CLASSES)], run_eagerly=True)
    return model


def labels_loss(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def test_void_pixels_count_neither_for_labels_nor_for_imitation():
    student, teacher, (x, y) = network(1), network(2, 9, "softmax"), examples()
    model = imitating(student, [teacher], label_weight=0.25, temperature=3.0, per_pixel=True)
    compiled(model, ImitationLoss(labels_loss(ignore_class=VOID)))
    counts = y != VOID
    outputs = keras.ops.convert_to_numpy(student(x, training=True))
    theirs, own = (log_softmax(logits / 3) for logits in (keras.ops.convert_to_numpy(logits_model(teacher)(x)), outputs))
    divergence = 9 * np.sum(np.exp(theirs) * (theirs - own), -1)[counts].mean()

    def crossentropy(logits):
        return -np.take_along_axis(log_softmax(logits), np.where(counts, y, 0)[..., None].astype(int), -1)[counts].mean()

    trained = model.train_on_batch(x, y, return_dict=True)
    assert trained["loss"] == pytest.approx(crossentropy(outputs) + 0.75 * divergence, rel=1e-4)
    assert trained["pixel_accuracy"] == pytest.approx(np.mean((outputs.argmax(-1) == y)[counts]), rel=1e-5)
    # On validation data the loss is that of the labels alone, as of any other network.
    found = model.evaluate(x, y, verbose=0)[0]
    assert found == pytest.approx(crossentropy(keras.ops.convert_to_numpy(student(x, training=False))), rel=1e-4)


def test_without_void_pixels_a_step_is_that_of_other_examples():
    x, y = examples()
    y = np.where(y == VOID, 0, y)
    steps = []
    for per_pixel in (True, False):
        student, loss = network(1), labels_loss()
        model = imitating(student, [network(2), network(3)], label_weight=0.3, temperature=2.0, per_pixel=per_pixel)
        compiled(model, ImitationLoss(loss) if per_pixel else loss, 0.1).train_on_batch(x, y)
        steps.append(student.get_weights())
    for a, b, start in zip(*steps, network(1).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(a, start)


def test_a_softmax_of_pixels_is_set_aside_and_no_other():
    x, _ = examples(2)
    teacher = network(2, end="softmax")
    logits = logits_model(teacher)
    error = log_softmax(logits(x)) - np.log(keras.ops.convert_to_numpy(teacher(x)))
    assert np.abs(error).max() < 1e-4 and float(np.max(logits(x))) > 1
    assert logits_model(logits) is logits
    for end in ("over places", "before"):
        with pytest.raises(kmerge.InvalidArgumentError, match="a softmax that can be set aside"):
            logits_model(network(2, end=end))
    with pytest.raises(kmerge.InvalidArgumentError, match="Expected a temperature for pixels"):
        imitating(network(1), [network(2)], per_pixel=True)


def test_merging_averages_the_logits_of_pixels_and_puts_their_softmax_behind():
    x, _ = examples(2)
    one, two = network(1, end="softmax"), network(2, end="softmax")
    mean = np.mean([keras.ops.convert_to_numpy(logits_model(each)(x)) for each in (one, two)], axis=0)
    expected = np.exp(log_softmax(mean))
    np.testing.assert_allclose(kmerge.concatenate(one, two)(x), expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_read_back_from_its_configuration():
    loss = ImitationLoss(labels_loss(ignore_class=VOID))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    _, y = examples(2)
    outputs = np.random.default_rng(3).normal(size=(*y.shape, CLASSES + 1)).astype("float32")
    assert float(again(y, outputs)) == float(loss(y, outputs)) != 0
    # Of one square image, labels with a channel would be held against other pixels without an error.
    assert float(loss(y[:1, ..., None], outputs[:1])) == pytest.approx(float(loss(y[:1], outputs[:1])), rel=1e-6)
