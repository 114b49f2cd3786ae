"""Small models, data and checks for the tests of training."""

import contextlib

import keras
import numpy as np
from keras import layers, regularizers

from kmerge.gates.application import ApplyGates
from kmerge.gates.hard_concrete import HardConcreteGate
from kmerge.gates.optimizer import gate_optimizer
from kmerge.training.fitting import fit
from tests.models import randomize
from tests.programs import without_programs

IMAGES, CLASSES = (8, 8, 3), 5
# Examples for batches of 32: whole ones, or with a smaller last one, for which a program has its step a second time.
WHOLE, RAGGED = 96, 90
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


def classifier():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(CLASSES)(inputs))


def two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Concatenate()([layers.Dense(8, "tanh")(a), layers.Dense(8, "tanh")(b)])
    return keras.Model([a, b], [layers.Dense(1, name="value")(x), layers.Dense(CLASSES, name="kind")(x)])


def regularized():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(16, "tanh", kernel_regularizer=regularizers.L2(1e-2))(layers.Concatenate()([a, b]))
    x = layers.ActivityRegularization(l2=1e-2)(x)
    value = layers.Dense(1, bias_regularizer=regularizers.L1(1e-2), name="value")(x)
    return keras.Model([a, b], [value, layers.Dense(CLASSES, name="kind")(x)])


def with_dropout():
    inputs = keras.Input((4,))
    x = layers.Dropout(0.3, seed=11)(layers.Dense(16, "tanh")(inputs))
    return keras.Model(inputs, layers.Dense(1)(x))


def gated():
    inputs = keras.Input((4,))
    mask = HardConcreteGate(16, seed=3)(inputs)
    x = ApplyGates(list(range(1, 17)))([layers.Dense(16, "tanh")(inputs), mask])
    return keras.Model(inputs, layers.Dense(1)(x))


def scaled(factor):
    def build():
        inputs = keras.Input((4,))
        scale = np.linspace(0.5, factor, 16).astype("float32")  # a number of the program, and no variable of the model
        return keras.Model(inputs, layers.Dense(1)(layers.Dense(16, "tanh")(inputs) * scale))

    return build


def dropped_and_gated():
    inputs = keras.Input((4,))
    mask = HardConcreteGate(16, seed=3)(inputs)
    x = ApplyGates(list(range(1, 17)))([layers.Dropout(0.3, seed=11)(layers.Dense(16, "tanh")(inputs)), mask])
    return keras.Model(inputs, layers.Dense(1)(x))


def numbers(rows, *shape, seed=0):
    return np.random.default_rng([seed, rows, *shape]).normal(size=(rows, *shape)).astype("float32")


def in_a_file(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def labels(rows, seed=0):
    return np.random.default_rng([seed, rows]).integers(0, CLASSES, rows)


def regression(rows=WHOLE, seed=0):
    x = numbers(rows, 4, seed=seed)
    return x, np.sin(x.sum(axis=1, keepdims=True))


def classification(rows=WHOLE, seed=0):
    return numbers(rows, *IMAGES, seed=seed), labels(rows, seed)


def two_of_each(rows=WHOLE, seed=0):
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
    "two outputs, losses in a list": (
        two_outputs,
        two_of_each,
        dict(loss=lambda: ["mse", sparse()], metrics=[["mae"], ["accuracy"]], optimizer=decaying_sgd),
    ),
    "two outputs, losses in a dict, regularized": (
        regularized,
        two_of_each,
        dict(
            loss=lambda: {"value": "mse", "kind": sparse()},
            loss_weights={"value": 0.3, "kind": 2.0},
            optimizer=decaying_sgd,
        ),
    ),
    # Under XLA, TensorFlow's generator draws other numbers than without.
    "dropout and gates": (dropped_and_gated, regression, dict(loss="mse", optimizer=for_gates, jit_compile=True)),
}


# Those of which the last batch is smaller.
RAGGED_CASES = ("dense", "convolutional", "two outputs, losses in a list")
# Those without validation, which needs a program of its own: "dense" shows it under XLA, "convolutional" that it is inference.
NOT_VALIDATED = ("dense in one batch", "dropout and gates")


def compiled(build, *, loss, optimizer, seed=1, metrics=(), **options):
    keras.utils.set_random_seed(seed)
    model = build()
    if model.built:
        randomize(model, seed)
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


def fit_by_keras(model, *data, **arguments):
    """`model.fit`; on TensorFlow step by step, but where it is told to use XLA."""
    with contextlib.nullcontext() if BACKEND == "tensorflow" and model.jit_compile else without_programs():
        return model.fit(*data, **arguments)


def without_xla(model):
    """On TensorFlow, XLA takes most of the time of a test, and adds nothing where XLA is not the point."""
    if BACKEND == "tensorflow":
        model.layers[-1].supports_jit = False
    return model


def train(build=dense, data=regression, *, loss="mse", optimizer=decaying_sgd, seed_of_order=0, **arguments):
    model = without_xla(compiled(build, loss=loss, optimizer=optimizer))
    return model, fit(model, *data(), verbose=0, seed=seed_of_order, **arguments)


def on_cpu():
    if BACKEND == "jax":
        return keras.distribution.list_devices()[0].startswith("cpu")
    return not keras.distribution.list_devices("gpu")


class EveryBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.seen = batch


def with_nan():
    x, y = regression()
    x[7, 2] = np.nan
    return x, y
