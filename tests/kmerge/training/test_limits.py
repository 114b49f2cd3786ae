"""What `fit` leaves to `model.fit`, and what it refuses. Runs on TensorFlow and on JAX."""

import keras
import numpy as np
import pytest
from keras import layers

from kmerge.errors import InvalidArgumentError
from kmerge.training.fitting import ModelFitWarning, fit
from kmerge.training.loop import DeviceMemoryError
from tests.kmerge.training.cases import (
    CLASSES,
    EveryBatch,
    assert_same,
    assert_same_history,
    classification,
    compiled,
    convolutional,
    decaying_sgd,
    dense,
    regression,
    sparse,
    train,
    two_of_each,
    two_outputs,
    with_nan,
)
from tests.programs import without_programs

# What is left to model.fit


class OwnStep(keras.Sequential):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


def test_a_callback_for_batches_gets_them_and_the_result_is_the_same():
    callback = EveryBatch()
    model = compiled(dense, loss="mse", optimizer=decaying_sgd)
    with pytest.warns(ModelFitWarning, match="EveryBatch has the hook on_train_batch_end"), without_programs():
        history = fit(model, *regression(), epochs=3, verbose=0, seed=4, callbacks=[callback])
    expected, in_program = train(epochs=3, seed_of_order=4)
    assert callback.seen == 2
    assert history.params["program"] == "model.fit"
    assert_same(history.history["loss"], in_program.history["loss"])
    assert_same(model.get_weights(), expected.get_weights())


@pytest.mark.parametrize(
    ("build", "options", "arguments", "why"),
    [
        (dense, dict(run_eagerly=True), dict(validation_split=0.25), "run_eagerly=True"),
        (dense, {}, dict(validation_freq=2), "the argument validation_freq"),
        (dense, dict(run_eagerly=True), dict(validation_freq=2), "run_eagerly=True, and of the argument validation_freq"),
        (lambda: OwnStep([layers.Dense(1)]), {}, {}, "OwnStep has a train_step of its own"),
    ],
)
def test_model_fit_does_what_no_program_does(build, options, arguments, why):
    x, y = regression()
    models = [compiled(build, loss="mse", optimizer=decaying_sgd, **options) for _ in "ab"]
    with without_programs():
        with pytest.warns(ModelFitWarning, match=why):
            history = fit(models[0], x, y, epochs=2, shuffle=False, verbose=0, **arguments)
        expected = models[1].fit(x, y, epochs=2, shuffle=False, verbose=0, **arguments)
    assert_same_history(history, expected)


def test_a_data_set_goes_to_model_fit():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, step):
            return regression(rows=10, seed=step)

    model = compiled(dense, loss="mse", optimizer=decaying_sgd)
    with pytest.warns(ModelFitWarning, match="Batches, which is no array"), without_programs():
        history = fit(model, Batches(), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    with pytest.warns(ModelFitWarning), pytest.raises(InvalidArgumentError, match="data in arrays for augment"):
        fit(model, Batches(), verbose=0, augment=layers.GaussianNoise(1.0))


def test_augmentation_also_acts_in_model_fit():
    model = compiled(dense, loss="mse", optimizer=lambda: keras.optimizers.SGD(0.0))
    noise = layers.GaussianNoise(1.0, seed=1)
    with without_programs():
        with pytest.warns(ModelFitWarning):
            history = fit(model, *regression(), verbose=0, callbacks=[EveryBatch()], augment=noise)
        plain = model.evaluate(*regression(), verbose=0)
    assert abs(history.history["loss"][0] - plain) > 1e-3 * plain


# Bad input


def unknown_label():
    x, y = classification()
    y[[3, 5]] = CLASSES
    return x, y


@pytest.mark.parametrize(
    ("build", "data", "arguments", "message"),
    [
        (dense, lambda: (regression()[0], regression(80)[1]), {}, r"same number of examples.*96.*80"),
        (dense, with_nan, {}, r"x of the training data holds 1 NaN, the first at index \[7, 2\]"),
        (dense, regression, dict(validation_data=with_nan()), "x of the validation data holds 1 NaN"),
        (convolutional, unknown_label, {}, "2 labels that output .* does not know, the first is 5: it has 5 classes"),
        (dense, lambda: (np.zeros((0, 4)), np.zeros((0, 1))), {}, "at least one example, received .*0"),
        (dense, regression, dict(batch_size=0), "batch_size to be .* at least 1, received 0"),
        (dense, regression, dict(epochs=1.5), "epochs to be .* at least 0, received 1.5"),
        (dense, regression, dict(initial_epoch=-1), "initial_epoch to be .* at least 0, received -1"),
    ],
)
def test_bad_input_is_refused_before_any_work(build, data, arguments, message):
    model = compiled(build, loss=sparse if build is convolutional else "mse", optimizer=decaying_sgd)
    weights = model.get_weights()
    with pytest.raises(InvalidArgumentError, match=message):
        fit(model, *data(), verbose=0, **arguments)
    assert_same(model.get_weights(), weights, tolerance=0)
    assert not model.optimizer.built or int(np.asarray(model.optimizer.iterations)) == 0


def test_labels_are_checked_for_the_output_they_belong_to():
    model = compiled(two_outputs, loss=lambda: {"value": "mse", "kind": sparse()}, optimizer=decaying_sgd)
    x, (value, kind) = two_of_each()
    with pytest.raises(InvalidArgumentError, match="labels that output 'kind' does not know, the first is -1"):
        fit(model, x, [value, np.where(kind == 2, -1, kind)], verbose=0)


def test_a_model_that_is_not_compiled_is_refused():
    with pytest.raises(InvalidArgumentError, match="is not compiled. Call model.compile"):
        fit(dense(), *regression())


def test_a_full_device_is_a_clear_error_and_keeps_the_weights():
    tf = pytest.importorskip("tensorflow")

    class Huge(layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_jit = False

        def call(self, x):
            # An operation of TensorFlow's own waits ten seconds for memory to become free.
            total = tf.numpy_function(lambda: np.ones(2**60, "float32").sum(), [], "float32")
            return x + tf.ensure_shape(total, ())

    def huge():
        return keras.Sequential([keras.Input((4,)), layers.Dense(1), Huge()])

    model = compiled(huge, loss="mse", optimizer=decaying_sgd)
    weights = model.get_weights()
    with pytest.raises(DeviceMemoryError, match="out of memory training .* with 32 examples per batch"):
        fit(model, *regression(), verbose=0)
    assert_same(model.get_weights(), weights, tolerance=0)
