"""`fit` against `model.fit`, and what it does that `model.fit` does not. Runs on TensorFlow and on JAX."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers, regularizers

from kmerge.errors import InvalidArgumentError
from kmerge.gate_training import GatePressure, gate_optimizer
from kmerge.gates import ApplyGates, HardConcreteGate, gates_of
from kmerge.seeds import rng_of
from kmerge.training import ModelFitWarning, fit
from kmerge.training_loop import DeviceMemoryError
from tests.models import randomise

IMAGES, CLASSES = (8, 8, 3), 5
BACKEND = keras.backend.backend()


def dense():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(1)(layers.Dense(16, "tanh")(inputs)))


def sequential():
    return keras.Sequential([layers.Dense(8, "relu"), layers.Dense(1)])


def convolutional():
    x = inputs = keras.Input(IMAGES)
    x = layers.Conv2D(6, 3, padding="same")(x)
    x = layers.BatchNormalization(momentum=0.8)(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def regularized():
    inputs = keras.Input((4,))
    x = layers.Dense(16, "tanh", kernel_regularizer=regularizers.L2(1e-2))(inputs)
    x = layers.ActivityRegularization(l2=1e-2)(x)
    return keras.Model(inputs, layers.Dense(1, bias_regularizer=regularizers.L1(1e-2))(x))


def two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Concatenate()([layers.Dense(8, "tanh")(a), layers.Dense(8, "tanh")(b)])
    return keras.Model([a, b], [layers.Dense(1, name="value")(x), layers.Dense(CLASSES, name="kind")(x)])


def with_dropout():
    inputs = keras.Input((4,))
    x = layers.Dropout(0.3, seed=11)(layers.Dense(16, "tanh")(inputs))
    return keras.Model(inputs, layers.Dense(1)(x))


def gated():
    inputs = keras.Input((4,))
    mask = HardConcreteGate(16, seed=3)(inputs)
    x = ApplyGates(list(range(1, 17)))([layers.Dense(16, "tanh")(inputs), mask])
    return keras.Model(inputs, layers.Dense(1)(x))


def numbers(rows, *shape, seed=0):
    return np.random.default_rng([seed, rows, *shape]).normal(size=(rows, *shape)).astype("float32")


def labels(rows, seed=0):
    return np.random.default_rng([seed, rows]).integers(0, CLASSES, rows)


def regression(rows=90, seed=0):
    x = numbers(rows, 4, seed=seed)
    return x, np.sin(x.sum(axis=1, keepdims=True))


def classification(rows=90, seed=0):
    return numbers(rows, *IMAGES, seed=seed), labels(rows, seed)


def two_of_each(rows=90, seed=0):
    return [numbers(rows, 4, seed=seed), numbers(rows, 3, seed=seed)], [numbers(rows, 1, seed=seed), labels(rows, seed)]


def sparse():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def decaying_sgd():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.1, 0.05, 0.01])
    return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)


def averaging_adam():
    return keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5, clipnorm=0.5)


def for_gates():
    return gate_optimizer(decaying_sgd())


CASES = {
    "dense": (dense, regression, dict(loss="mse", metrics=["mae"], optimizer=decaying_sgd)),
    "dense in one batch": (dense, lambda rows=9, seed=0: regression(9, seed), dict(loss="mse", optimizer=decaying_sgd)),
    "sequential, unbuilt": (sequential, regression, dict(loss="mse", optimizer=averaging_adam)),
    "convolutional": (
        convolutional,
        classification,
        dict(loss=sparse, metrics=["accuracy", "sparse_top_k_categorical_accuracy"], optimizer=decaying_sgd),
    ),
    "regularized": (regularized, regression, dict(loss="mse", optimizer=averaging_adam)),
    "two outputs, losses in a list": (
        two_outputs,
        two_of_each,
        dict(loss=lambda: ["mse", sparse()], metrics=[["mae"], ["accuracy"]], optimizer=averaging_adam),
    ),
    "two outputs, losses in a dict": (
        two_outputs,
        two_of_each,
        dict(
            loss=lambda: {"value": "mse", "kind": sparse()},
            loss_weights={"value": 0.3, "kind": 2.0},
            optimizer=averaging_adam,
        ),
    ),
    # Under XLA, TensorFlow's generator draws other numbers than without.
    "dropout": (with_dropout, regression, dict(loss="mse", optimizer=decaying_sgd, jit_compile=True)),
    "gates": (gated, regression, dict(loss="mse", optimizer=for_gates, jit_compile=True)),
}


def compiled(build, *, loss, optimizer, seed=1, metrics=(), **options):
    keras.utils.set_random_seed(seed)
    model = build()
    if model.built:
        randomise(model, seed)
    model.compile(optimizer(), loss() if callable(loss) else loss, metrics=list(metrics), **options)
    return model


def state_of(model):
    optimizer = [np.asarray(variable) for variable in model.optimizer.variables]
    return [np.asarray(variable) for variable in model.variables] + optimizer


def assert_same(first, second, tolerance=2e-5):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_same_history(ours, theirs, tolerance=2e-5):
    assert ours.epoch == theirs.epoch
    assert ours.history.keys() == theirs.history.keys()
    for name, values in theirs.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def train(build=dense, data=regression, *, loss="mse", optimizer=decaying_sgd, seed_of_order=0, **arguments):
    model = compiled(build, loss=loss, optimizer=optimizer)
    return model, fit(model, *data(), verbose=0, seed=seed_of_order, **arguments)


def on_cpu():
    if BACKEND == "jax":
        return keras.distribution.list_devices()[0].startswith("cpu")
    return not keras.distribution.list_devices("gpu")


# Equal to model.fit


@pytest.mark.parametrize("case", CASES)
def test_equals_model_fit_for_the_same_order(case):
    build, data, options = CASES[case]
    arguments = dict(batch_size=32, epochs=3, shuffle=False, verbose=0, validation_data=data(rows=41, seed=1))
    models = [compiled(build, **options) for _ in range(2)]
    histories = [models[0].fit(*data(), **arguments), fit(models[1], *data(), **arguments)]
    looped_by_host = BACKEND == "jax" and on_cpu() and build is convolutional
    assert histories[1].params["program"] == ("step" if looped_by_host else "epoch")
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
    histories = [models[0].fit(*classification(), **arguments), fit(models[1], *classification(), **arguments)]
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
        models[0].fit(*regression(), callbacks=callbacks("theirs"), **arguments),
        fit(models[1], *regression(), callbacks=callbacks("ours"), **arguments),
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
    for pressure in (GatePressure(start=0.0, step=0.0), GatePressure(start=1.0, step=20.0)):
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


def test_sample_weights_of_validation_data_count():
    x, y = regression()
    weights = np.linspace(0, 2, len(x)).astype("float32")
    model, history = train(validation_data=(x, y, weights))
    assert_same([history.history["val_loss"][-1]], [model.evaluate(x, y, sample_weight=weights, verbose=0)])


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

    model = compiled(dense, loss="mse", optimizer=decaying_sgd)
    with pytest.raises(KeyboardInterrupt):
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=interrupt)]
        fit(model, *regression(), epochs=5, verbose=0, callbacks=callbacks)
    assert_same(state_of(model), state_of(train(epochs=2)[0]))


# The program


def test_the_choice_of_xla_is_recorded():
    assert train()[1].params["xla"]
    convolutions = train(convolutional, classification, loss=sparse)[1].params["xla"]
    assert convolutions == (BACKEND == "jax" or not on_cpu())


def test_a_second_call_compiles_nothing():
    model, first = train(validation_data=regression())
    again = fit(model, *regression(seed=2), epochs=2, verbose=0, validation_data=regression())
    model.compile("sgd", "mae")
    other_loss = fit(model, *regression(), epochs=1, verbose=0)
    assert first.params["compile_seconds"] > 0 == again.params["compile_seconds"]
    assert other_loss.params["compile_seconds"] > 0


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


# What is left to model.fit


class EveryBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.seen = batch


class OwnStep(keras.Sequential):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


def test_a_callback_for_batches_gets_them_and_the_result_is_the_same():
    callback = EveryBatch()
    model = compiled(dense, loss="mse", optimizer=decaying_sgd)
    with pytest.warns(ModelFitWarning, match="EveryBatch has the hook on_train_batch_end"):
        history = fit(model, *regression(), epochs=3, verbose=0, seed=4, callbacks=[callback])
    expected, in_program = train(epochs=3, seed_of_order=4)
    assert callback.seen == 2
    assert history.params["program"] == "model.fit"
    assert_same(history.history["loss"], in_program.history["loss"])
    assert_same(model.get_weights(), expected.get_weights())


@pytest.mark.parametrize(
    ("build", "options", "arguments", "why"),
    [
        (dense, dict(run_eagerly=True), {}, "run_eagerly=True"),
        (dense, {}, dict(class_weight={0: 1.0}), "the argument class_weight"),
        (dense, {}, dict(sample_weight=np.ones(90)), "the argument sample_weight"),
        (lambda: OwnStep([layers.Dense(1)]), {}, {}, "OwnStep has a train_step of its own"),
    ],
)
def test_model_fit_does_what_no_program_does(build, options, arguments, why):
    x, y = regression()
    y = np.zeros_like(y) if "class_weight" in arguments else y
    models = [compiled(build, loss="mse", optimizer=decaying_sgd, **options) for _ in "ab"]
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
    with pytest.warns(ModelFitWarning, match="Batches, which is no array"):
        history = fit(model, Batches(), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    with pytest.warns(ModelFitWarning), pytest.raises(InvalidArgumentError, match="augment needs data in arrays"):
        fit(model, Batches(), verbose=0, augment=layers.GaussianNoise(1.0))


def test_augmentation_also_acts_in_model_fit():
    model = compiled(dense, loss="mse", optimizer=lambda: keras.optimizers.SGD(0.0))
    noise = layers.GaussianNoise(1.0, seed=1)
    with pytest.warns(ModelFitWarning):
        history = fit(model, *regression(), verbose=0, callbacks=[EveryBatch()], augment=noise)
    plain = model.evaluate(*regression(), verbose=0)
    assert abs(history.history["loss"][0] - plain) > 1e-3 * plain


# Bad input


def with_nan():
    x, y = regression()
    x[7, 2] = np.nan
    return x, y


def unknown_label():
    x, y = classification()
    y[[3, 5]] = CLASSES
    return x, y


@pytest.mark.parametrize(
    ("build", "data", "arguments", "message"),
    [
        (dense, lambda: (regression()[0], regression(80)[1]), {}, r"same number of examples.*90.*80"),
        (dense, with_nan, {}, r"x of the training data holds 1 NaN, the first at index \[7, 2\]"),
        (dense, regression, dict(validation_data=with_nan()), "x of the validation data holds 1 NaN"),
        (convolutional, unknown_label, {}, "2 labels that output .* does not know, the first is 5: it has 5 classes"),
        (dense, lambda: (np.zeros((0, 4)), np.zeros((0, 1))), {}, "At least one example"),
        (dense, regression, dict(batch_size=0), "batch_size must be .* at least 1, received 0"),
        (dense, regression, dict(epochs=1.5), "epochs must be .* received 1.5"),
        (dense, regression, dict(initial_epoch=-1), "initial_epoch must be .* received -1"),
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
    with pytest.raises(InvalidArgumentError, match="is not compiled: call model.compile"):
        fit(dense(), *regression())


def test_a_full_device_is_a_clear_error_and_keeps_the_weights():
    class Huge(layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_jit = False

        def call(self, x):
            table = x[0, 0] * keras.ops.outer(keras.ops.arange(2.0**21), keras.ops.arange(2.0**20))
            return x + keras.ops.sum(keras.ops.sort(keras.ops.stop_gradient(table)), axis=1)[:1]

    def huge():
        return keras.Sequential([keras.Input((4,)), layers.Dense(1), Huge()])

    model = compiled(huge, loss="mse", optimizer=decaying_sgd)
    weights = model.get_weights()
    with pytest.raises(DeviceMemoryError, match="out of memory training .* with 32 examples per batch"):
        fit(model, *regression(), verbose=0)
    assert_same(model.get_weights(), weights, tolerance=0)
