"""`AutoSizer` takes what a `keras.Model` takes."""

import keras
import numpy as np
import pytest
import scipy.sparse

import kmerge
from kmerge.graph import compile_arguments
from tests.checks import assert_close, outputs
from tests.kmerge.sizing.cases import dense_net, plain_net, randomized, sizer_of, task, weights_of
from tests.programs import without_programs

MODEL = randomized(dense_net())
X, Y = task(MODEL)
COMPILED = ("adam", "sparse_categorical_crossentropy")
# Arguments of model.fit, and those with which it does the same.
SAME = {
    "class_weight": dict(class_weight={0: 3.0, 2: 0.5}),
    "class_weight of one-hot rows": dict(class_weight={0: 3.0, 2: 0.5}, y=np.eye(3, dtype="float32")[Y]),
    "sample_weight and validation_split": dict(sample_weight=np.linspace(0, 2, len(X)), validation_split=0.3),
    "validation_freq": dict(validation_data=(X, Y), validation_freq=2),
    "validation_freq of a list": dict(validation_data=(X, Y), validation_freq=[1, 3]),
    "validation_split": dict(validation_split=0.25, validation_freq=3),
}


@pytest.mark.parametrize("name", SAME)
def test_arguments_of_fit_mean_what_they_mean_in_model_fit(name):
    arguments = {"y": Y, **SAME[name], "shuffle": False, "verbose": 0, "batch_size": 16}
    loss = "categorical_crossentropy" if arguments["y"].ndim > 1 else COMPILED[1]
    model = keras.models.clone_model(MODEL)
    model.set_weights(MODEL.get_weights())
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    sizer = kmerge.AutoSizer(MODEL, grow=False)
    sizer.compile("sgd", loss, metrics=["accuracy"])
    with without_programs():
        found = sizer.fit(X, **arguments, epochs=0, static_epochs=3).history
    expected = model.fit(X, **arguments, epochs=3).history
    assert_close(weights_of(sizer.model), weights_of(model), 1e-5)
    found.pop("units")
    assert sorted(found) == sorted(expected) and (name.startswith("class") or "val_loss" in found)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4)


@pytest.mark.both_backends
def test_evaluate_predict_and_summary_are_of_the_sizes_of_now(capsys):
    model = randomized(plain_net())
    x, y = task(model)
    before = kmerge.AutoSizer(model, min_growth=3)
    assert_close([before.predict(x, 32, 0)], outputs(model, [x]), 1e-5)  # verbose by its place, as in Keras
    with pytest.raises(kmerge.InvalidArgumentError, match="was not compiled"):
        before.evaluate(x, y)
    sizer = sizer_of(model, keras.optimizers.Adam(0.05), alpha=1e-2, threshold=0.5)
    held_out = x[:24], y[:24]
    with without_programs():
        for epoch in range(2):
            how = dict(epochs=epoch + 1, static_epochs=0, initial_epoch=epoch, verbose=0)
            history = sizer.fit(x, y, validation_data=held_out, **how).history
            found = sizer.evaluate(*held_out, 32, 0, return_dict=True)
            assert found == pytest.approx({k: history[f"val_{k}"][-1] for k in ("loss", "accuracy")}, rel=1e-4)
            assert_close([sizer.predict(x, verbose=0)], outputs(sizer.model, [x]), 1e-5)
    assert sizer.sizes != before.sizes
    sizer.summary(line_length=100)
    shown = capsys.readouterr().out
    assert all(f", {sizer.sizes[name]})" in shown for name in ("conv", "down", "dense"))


def test_what_keras_takes_is_not_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    sizer = kmerge.AutoSizer(model)
    sizer.compile(*COMPILED, run_eagerly=None, jit_compile=np.False_, auto_scale_loss=None)
    x = np.eye(3, dtype="float32")
    assert_close([sizer.predict(scipy.sparse.csr_matrix(x), verbose=0)], outputs(model, [x]), 1e-5)


def test_compile_takes_arguments_in_the_order_of_keras():
    sizer = kmerge.AutoSizer(MODEL)
    sizer.compile(*COMPILED, [2.0], ["accuracy"], ["accuracy"], True)
    found = compile_arguments(sizer.model)
    assert found["loss_weights"] == [2.0] and found["metrics"] == ["accuracy"] == found["weighted_metrics"]
    assert found["run_eagerly"] is True
    with pytest.raises(kmerge.InvalidArgumentError, match="loss_weights to be numbers, received 'accuracy'.*metrics="):
        sizer.compile(*COMPILED, ["accuracy"])


def batches():
    while True:
        yield X[:8], Y[:8]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(x=batches(), y=None, steps_per_epoch=1, validation_split=0.5), "validation_split to be 0 where x is not arr"),
        (dict(validation_split=1.0), "validation_split to be a number of at least 0 and below 1, received 1.0"),
        (dict(validation_split=1e-20), "leaves some of 64 examples on both sides, received 1e-20"),
        (dict(class_weight={0: 2.0}, sample_weight=np.ones(64)), "class_weight to be None beside sample_weight"),
        (dict(class_weight=[1.0, 2.0]), r"class_weight to be a dict of weights by class, received \[1.0, 2.0\]"),
        (dict(class_weight={0: 2.0}, y=np.zeros((64, 3, 3))), "one array of labels or of one-hot rows"),
        (dict(validation_freq=0), "validation_freq to be a whole number of at least 1, received 0"),
    ],
)
def test_arguments_of_fit_that_cannot_be_met_are_refused(arguments, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        sizer_of(MODEL).fit(**{"x": X, "y": Y, **arguments}, epochs=1, static_epochs=0, verbose=0)
