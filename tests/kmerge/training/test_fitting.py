"""`fit` against `model.fit`, and what it does that `model.fit` does not. Runs on TensorFlow and on JAX."""

import functools
import gc
import math
import weakref

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from kmerge.gates.hard_concrete import gates_of
from kmerge.gates.pressure import GatePressure
from kmerge.seeds import rng_of
from kmerge.training.backend import choose_xla
from kmerge.training.data import InPieces
from kmerge.training.fitting import fit
from tests.kmerge.training.cases import (
    BACKEND,
    CASES,
    CLASSES,
    IMAGES,
    NOT_VALIDATED,
    RAGGED,
    RAGGED_CASES,
    WHOLE,
    assert_same,
    assert_same_history,
    averaging_adam,
    classification,
    classifier,
    compiled,
    convolutional,
    decaying_sgd,
    dense,
    fit_by_keras,
    for_gates,
    gated,
    in_a_file,
    labels,
    numbers,
    on_cpu,
    regression,
    scaled,
    sparse,
    state_of,
    train,
    two_of_each,
    two_outputs,
    with_dropout,
    without_xla,
)
from tests.programs import without_programs

pytestmark = pytest.mark.both_backends


# Equal to model.fit


@pytest.mark.parametrize("case", CASES)
def test_equals_model_fit_for_the_same_order(case):
    build, data, options = CASES[case]
    rows, validation_rows = (RAGGED, 41) if case in RAGGED_CASES else (WHOLE, 64)
    arguments = dict(batch_size=32, epochs=3, shuffle=False, verbose=0)
    if case not in NOT_VALIDATED:
        arguments["validation_data"] = data(rows=validation_rows, seed=1)
    models = [compiled(build, **options) for _ in range(2)]
    if case.startswith("two outputs"):
        without_xla(models[1])
    # Step by step, Keras weighs the losses of several outputs in a smaller last batch otherwise than in its program.
    by_keras = models[0].fit if build is two_outputs else functools.partial(fit_by_keras, models[0])
    histories = [by_keras(*data(rows), **arguments), fit(models[1], *data(rows), **arguments)]
    looped_by_host = BACKEND == "jax" and on_cpu() and build is convolutional
    assert histories[1].params["program"] == ("step" if looped_by_host else "epoch")
    if not case.startswith("two outputs"):
        assert histories[1].params["xla"] == (BACKEND == "jax" or build is not convolutional or not on_cpu())
    assert_same_history(*histories)
    assert_same(state_of(models[1]), state_of(models[0]))
    assert int(np.asarray(models[1].optimizer.iterations)) == len(histories[1].epoch) * histories[1].params["steps"]


def test_equals_model_fit_under_mixed_precision():
    arguments = dict(batch_size=32, epochs=2, shuffle=False, verbose=0)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = [compiled(convolutional, loss=sparse, optimizer=averaging_adam, metrics=["accuracy"]) for _ in "ab"]
    finally:
        keras.config.set_dtype_policy("float32")
    histories = [fit_by_keras(models[0], *classification(), **arguments), fit(models[1], *classification(), **arguments)]
    assert type(models[1].optimizer).__name__ == "LossScaleOptimizer"
    assert_same_history(*histories, tolerance=1e-2)
    assert_same(models[1].get_weights(), models[0].get_weights(), tolerance=1e-2)


def test_callbacks_act_and_see_what_they_do_in_model_fit(tmp_path):
    def callbacks(name):
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch < 2 else rate * 3),
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, min_delta=0.1, factor=0.3),
            keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=0.02, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(str(tmp_path / f"{name}.keras"), save_best_only=True),
            keras.callbacks.CSVLogger(str(tmp_path / f"{name}.csv")),
        ]

    arguments = dict(epochs=30, shuffle=False, verbose=0, validation_data=regression(seed=1))
    models = [compiled(dense, loss="mse", optimizer=lambda: keras.optimizers.SGD(0.05, momentum=0.9)) for _ in "ab"]
    histories = [
        fit_by_keras(models[0], *regression(), callbacks=callbacks("theirs"), **arguments),
        fit(without_xla(models[1]), *regression(), callbacks=callbacks("ours"), **arguments),
    ]
    assert histories[1].params["program"] == "epoch"
    assert 3 < len(histories[1].epoch) < 30
    assert_same_history(*histories, tolerance=1e-4)
    assert_same(models[1].get_weights(), models[0].get_weights(), tolerance=1e-4)
    saved = [keras.models.load_model(tmp_path / f"{name}.keras").get_weights() for name in ("ours", "theirs")]
    assert_same(*saved, tolerance=1e-4)
    rows = [np.genfromtxt(tmp_path / f"{name}.csv", delimiter=",", skip_header=1) for name in ("ours", "theirs")]
    np.testing.assert_allclose(*rows, rtol=1e-4)


# State, order and randomness


def test_gates_feel_the_pressure_that_a_callback_sets_between_epochs():
    shares = []
    for pressure in (GatePressure("paper", start=0.0, step=0.0), GatePressure("paper", start=1.0, step=20.0)):
        model, history = train(gated, optimizer=for_gates, epochs=4, callbacks=[pressure])
        shares.append(gates_of(model)[0].open_probabilities().mean())
    pressures = history.history["gate_pressure"]
    assert pressures[-1] > pressures[0] >= 1
    assert shares[1] < shares[0] - 0.05


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole, expected = train(with_dropout, epochs=4, seed_of_order=5)
    halves, first = train(with_dropout, epochs=2, seed_of_order=5)
    second = fit(halves, *regression(), epochs=4, initial_epoch=2, seed=5, verbose=0)
    assert first.epoch + second.epoch == expected.epoch
    assert_same(first.history["loss"] + second.history["loss"], expected.history["loss"])
    assert_same(halves.trainable_variables, whole.trainable_variables)


def test_the_order_follows_from_seed_and_epoch():
    x, y = regression()
    shuffled, _ = train(epochs=2, seed_of_order=5)
    by_hand, _ = train(epochs=0)
    for epoch in range(2):
        order = np.arange(len(x), dtype="int32")
        rng_of("order", 5, epoch).shuffle(order)
        fit(by_hand, x[order], y[order], epochs=epoch + 1, initial_epoch=epoch, shuffle=False, verbose=0)
    other, _ = train(epochs=2, seed_of_order=6)
    assert_same(by_hand.get_weights(), shuffled.get_weights())
    assert not np.allclose(other.get_weights()[0], shuffled.get_weights()[0], atol=1e-5)


def test_augmentation_acts_on_training_batches_only():
    class Double(layers.Layer):
        def call(self, x, training=False):
            return x * 2 if training else x

    x, y = regression()
    augmented, history = train(epochs=2, shuffle=False, augment=Double(), validation_data=(x, y))
    expected, _ = train(data=lambda: (2 * x, y), epochs=2, shuffle=False)
    assert history.params["program"] == "epoch"
    assert_same(augmented.get_weights(), expected.get_weights())
    with without_programs():
        assert_same([history.history["val_loss"][-1]], [expected.evaluate(x, y, verbose=0)])


def test_random_augmentation_draws_anew_in_every_epoch():
    model, history = train(
        optimizer=lambda: keras.optimizers.SGD(0.0), epochs=3, augment=layers.GaussianNoise(1.0, seed=1), shuffle=False
    )
    assert len({round(loss, 5) for loss in history.history["loss"]}) == 3
    assert_same(model.get_weights(), train(epochs=0)[0].get_weights(), tolerance=0)


@pytest.mark.parametrize("augment", [layers.RandomFlip, layers.RandomTranslation], ids=lambda layer: layer.__name__)
def test_image_augmentation_runs_inside_the_program(augment):
    layer = augment("horizontal", seed=1) if augment is layers.RandomFlip else augment(0.2, 0.2, seed=1)
    _, history = train(convolutional, classification, loss=sparse, epochs=2, augment=layer)
    assert history.params["program"] != "model.fit"
    assert np.isfinite(history.history["loss"]).all()


def test_integer_images_stay_integers_on_the_device():
    seen = []

    class Scale(layers.Layer):
        def call(self, x, training=False):
            seen.append(keras.backend.standardize_dtype(x.dtype))
            return keras.ops.cast(x, "float32") / 255

    x = np.random.default_rng(0).integers(0, 256, (40, *IMAGES)).astype("uint8")
    train(convolutional, lambda: (x, labels(40)), loss=sparse, augment=Scale())
    assert set(seen) == {"uint8"}


# Data in pieces


# 90 examples in batches of 16: pieces of one batch, of two, and one that holds all but the last batch. On TensorFlow, "dense"
# has XLA. On JAX, convolutions have a program of one step.
IN_PIECES = {"two outputs, losses in a list": 5, "dropout and gates": 1, "dense": 2}
IN_PIECES |= {"convolutional": 2} if BACKEND == "jax" else {}


@pytest.mark.parametrize(("case", "batches"), IN_PIECES.items(), ids=IN_PIECES)
def test_data_in_pieces_trains_to_the_same_bits(case, batches, tmp_path):
    build, data, options = CASES[case]
    (x, y), results = data(WHOLE if case == "dense" else RAGGED), []
    arrays = keras.tree.flatten((x, y))
    size = sum(array.nbytes for array in arrays) / len(arrays[0])
    for in_pieces in (False, True):
        model, how = compiled(build, **{**options, "jit_compile": "auto"}), {}
        if case != "dense":
            without_xla(model)
        noise = None if case == "dense" or build is two_outputs else layers.GaussianNoise(0.1, seed=3)
        if in_pieces:
            x, y = (
                keras.tree.map_structure_up_to(part, lambda a, name=name: in_a_file(tmp_path, f"{name}{a.shape}", a), part)
                for name, part in (("x", x), ("y", y))
            )
            how = {"data_bytes": math.ceil(2 * 16 * batches * size)}
        if case in ("dense", "convolutional"):
            how["validation_data"] = data(96)
        history = fit(model, x, y, epochs=3, batch_size=16, seed=4, augment=noise, verbose=0, **how)
        results.append((state_of(model), history))
        assert history.params["program"] != "model.fit"
    assert_same(*(state for state, _ in results), tolerance=0)
    assert_same_history(*(history for _, history in results), tolerance=1e-6)  # XLA sums metrics as it likes


def test_a_reader_that_fails_leaves_the_weights_of_the_last_finished_epoch(monkeypatch):
    read, reads = InPieces._read, []

    def failing(self, rows):
        reads.append(rows)
        if len(reads) == 12:  # one to compile, six pieces of the first epoch, and then in the second
            raise OSError("the disk is gone")
        return read(self, rows)

    monkeypatch.setattr(InPieces, "_read", failing)
    model = without_xla(compiled(dense, loss="mse", optimizer=decaying_sgd))
    with pytest.raises(OSError, match="the disk is gone"):
        fit(model, *regression(), epochs=5, batch_size=16, verbose=0, data_bytes=1)
    monkeypatch.undo()
    expected, _ = train(epochs=1, batch_size=16)
    assert_same(state_of(model), state_of(expected), tolerance=0)


def test_sample_weights_count():
    x, y = regression()
    weights = np.random.default_rng(3).uniform(0, 2, len(y)).astype("float32")
    models = [compiled(dense, loss="mse", optimizer=decaying_sgd) for _ in "ab"]
    history = fit(without_xla(models[0]), x, y, sample_weight=weights, epochs=2, shuffle=False, verbose=0)
    assert history.params["program"] != "model.fit"
    assert_same_history(history, fit_by_keras(models[1], x, y, sample_weight=weights, epochs=2, shuffle=False, verbose=0))
    assert_same(models[0].get_weights(), models[1].get_weights())


def test_sample_weights_of_validation_data_count():
    x, y = regression()
    weights = np.linspace(0, 2, len(x)).astype("float32")
    model, history = train(validation_data=(x, y, weights))
    with without_programs():
        assert_same([history.history["val_loss"][-1]], [model.evaluate(x, y, sample_weight=weights, verbose=0)])


X, Y = two_of_each(RAGGED)
WEIGHTS = np.linspace(0, 2, RAGGED)
ARGUMENTS = {
    "a dict of inputs, weights": (two_outputs, dict(zip("ab", X, strict=True)), Y, dict(sample_weight=[WEIGHTS] * 2)),
    "a list of inputs": (two_outputs, X, Y, {}),
    "weights of one output": (two_outputs, X, Y, dict(sample_weight=[None, WEIGHTS])),
    "tensors, weights": (dense, keras.ops.array(X[0]), Y[0], dict(sample_weight=WEIGHTS)),
    "labels": (classifier, X[0], Y[1], dict(class_weight={0: 3.0, 2: 0.5})),
    "one-hot rows": (classifier, X[0], np.eye(CLASSES)[Y[1]], dict(class_weight={0: 3.0, 2: 0.5})),
}


# Splits and weights are made by NumPy: once in each form shows that the arrays of the other backend are taken, too.
ONCE = [kind for kind in ARGUMENTS if kind not in ("a list of inputs", "labels")]


@pytest.mark.parametrize("kind", ARGUMENTS if BACKEND == "tensorflow" else ONCE)
def test_validation_split_and_class_weight_are_those_of_model_fit(kind):
    build, x, y, arguments = ARGUMENTS[kind]
    loss = ["mse", sparse()] if build is two_outputs else "mse" if build is dense or y.ndim == 2 else sparse
    models = [compiled(build, loss=loss, optimizer=decaying_sgd) for _ in "ab"]
    arguments = dict(validation_split=1 / 3, shuffle=False, verbose=0, batch_size=30, **arguments)  # whole batches
    with without_programs():
        histories = fit(models[0], x, y, **arguments), models[1].fit(x, y, **arguments)
    assert histories[0].params["program"] == "epoch" and "val_loss" in histories[0].history
    assert_same_history(*histories)
    assert_same(models[0].get_weights(), models[1].get_weights())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(validation_split=1.5), "fit: expected validation_split to be a number of at least 0 and below 1, received 1.5"),
        (dict(validation_split=1e-20), "fit: .*validation_split to be a share that leaves some of 90 examples on both sides"),
        (dict(x=((X[0], Y[0]) for _ in "a"), y=None, validation_split=0.5), "0 where x is not arrays.*as generator"),
        (dict(class_weight={0: 1.0}, sample_weight=WEIGHTS), "fit: expected class_weight to be None beside sample_weight"),
        (dict(class_weight={0: 1.0}, y=None), "one array of labels or of one-hot rows"),
        (dict(class_weight={0: "heavy"}), r"class_weight\[0\] to be a number that is finite, received 'heavy'"),
        (dict(class_weight={0: 1.0}, y=np.full(len(X[0]), np.nan)), "expected y to be labels of classes .* received nan"),
    ],
)
def test_a_split_or_class_weights_that_cannot_be_are_refused(arguments, message):
    model = compiled(dense, loss="mse", optimizer=decaying_sgd)
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        fit(model, **{"x": X[0], "y": Y[0], **arguments}, verbose=0)


def test_trains_a_model_whose_loss_is_its_own():
    class Distance(layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x**2))
            return x

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Distance()(layers.Dense(2)(inputs)))
    model.compile("sgd")
    history = fit(model, numbers(64, 4), epochs=5, verbose=0)
    assert history.params["program"] == "epoch"
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_a_model_stopped_between_epochs_keeps_the_last_finished_one():
    def interrupt(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    model = without_xla(compiled(dense, loss="mse", optimizer=decaying_sgd))
    with pytest.raises(KeyboardInterrupt):
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=interrupt)]
        fit(model, *regression(), epochs=5, verbose=0, callbacks=callbacks)
    assert_same(state_of(model), state_of(train(epochs=2)[0]))


# The program


@pytest.mark.parametrize(("build", "augment"), [(with_dropout, None), (dense, layers.GaussianNoise(1.0)), (gated, None)])
def test_random_numbers_are_left_to_tensorflow_on_a_cpu(build, augment):
    """But for those of gates, which are made otherwise: in a program of XLA a number takes half a microsecond there."""
    model = compiled(build, loss="mse", optimizer=decaying_sgd)
    assert choose_xla(model, augment) == (build is gated or BACKEND == "jax" or not on_cpu())


def test_a_second_call_compiles_nothing():
    model, first = train(validation_data=regression())
    again = fit(model, *regression(seed=2), epochs=2, verbose=0, validation_data=regression())
    model.compile("sgd", "mae")
    other_loss = fit(model, *regression(), epochs=1, verbose=0)
    assert first.params["compile_seconds"] > 0 == again.params["compile_seconds"]
    assert other_loss.params["compile_seconds"] > 0


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow compiles the functions of one model")
def test_another_network_trains_by_the_same_program_if_it_is_the_same_to_the_letter(caplog):
    import jax

    data, compilations = regression(WHOLE), []
    for seed, factor in ((1, 2.0), (2, 2.0), (3, 2.000001)):
        ours, theirs = (compiled(scaled(factor), loss="mse", optimizer=decaying_sgd, seed=seed) for _ in range(2))
        caplog.clear()
        with jax.log_compiles():
            fit(ours, *data, shuffle=False, epochs=2, verbose=0)
        compilations.append(sum("Finished XLA compilation" in record.message for record in caplog.records))
        theirs.fit(*data, shuffle=False, epochs=2, verbose=0)
        assert_same(state_of(ours), state_of(theirs))
    assert compilations[0] > 0 == compilations[1] < compilations[2], compilations


def test_a_frozen_layer_stays_as_it_is_after_compiling_again():
    model, _ = train()
    frozen, free = (model.layers[i].get_weights() for i in (1, 2))
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    fit(model, *regression(), verbose=0)
    assert_same(model.layers[1].get_weights(), frozen, tolerance=0)
    assert not np.allclose(model.layers[2].get_weights()[0], free[0], atol=1e-6)


def test_programs_do_not_keep_models_alive():
    model, history = train()
    alive = weakref.ref(model)
    del model, history
    gc.collect()
    assert alive() is None
