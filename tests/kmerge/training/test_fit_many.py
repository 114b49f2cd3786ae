"""`fit_many` against `fit`, model by model. It needs JAX; on TensorFlow it says so."""

import keras
import numpy as np
import pytest
from keras import layers

from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.gates.pressure import GatePressure
from kmerge.seeds import seed_of
from kmerge.training.fitting import fit, fit_many
from tests.kmerge.training.cases import (
    CLASSES,
    RAGGED,
    WHOLE,
    EveryBatch,
    assert_same,
    assert_same_history,
    averaging_adam,
    classification,
    compiled,
    convolutional,
    decaying_sgd,
    dense,
    for_gates,
    gated,
    regression,
    sparse,
    state_of,
    two_of_each,
    two_outputs,
    with_nan,
)

pytestmark = pytest.mark.both_backends
needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="fit_many needs the JAX backend")
OPTIONS = dict(loss="mse", optimizer=decaying_sgd, metrics=["mae"])


def pair(build=dense, **options):
    return [compiled(build, seed=seed, **{**OPTIONS, **options}) for seed in (1, 2)]


def noisy():
    """Of two inputs and two outputs, with dropout."""
    model, seed = two_outputs(), seed_of("noise", np.random.random())
    x = layers.Dropout(0.3, seed=seed)(model.layers[-3].output)
    return keras.Model(model.inputs, [layers.Dense(1, name="value")(x), layers.Dense(CLASSES, name="kind")(x)])


def check_as_if_alone(alone, histories, together, many, tolerance=1e-4):
    assert len(histories) == len(many) == 2
    for model, history, other, other_history in zip(alone, histories, together, many, strict=True):
        assert_same_history(other_history, history, tolerance)
        assert_same(state_of(other), state_of(model), tolerance)


@needs_jax
@pytest.mark.parametrize(
    ("build", "data", "options"),
    [
        (convolutional, classification, dict(loss=sparse, metrics=["accuracy"])),
        (noisy, two_of_each, dict(loss=lambda: ["mse", sparse()], metrics=[["mae"], ["accuracy"]])),
    ],
    ids=["convolutional", "dropout, two outputs"],
)
def test_each_model_is_trained_as_if_alone_on_common_data(build, data, options):
    alone, together = pair(build, **options), pair(build, **options)
    for model, other in zip(alone, together, strict=True):  # each model has noise of its own
        for value, other_value in zip(model.non_trainable_variables, other.non_trainable_variables, strict=True):
            other_value.assign(value)
    rows, validation_rows = (WHOLE, 64) if build is noisy else (RAGGED, 41)
    x, y = (tuple(part) if isinstance(part, list) else part for part in data(rows))
    validation = tuple(tuple(part) if isinstance(part, list) else part for part in data(validation_rows, seed=1))
    arguments = dict(epochs=2, validation_data=validation)
    histories = [fit(m, x, y, seed=seed, verbose=0, **arguments) for m, seed in zip(alone, (5, 6), strict=True)]
    many = fit_many(together, x, y, seeds=(5, 6), **arguments)
    check_as_if_alone(alone, histories, together, many)
    assert len({history.history["loss"][-1] for history in many}) == 2


@needs_jax
def test_each_model_may_have_data_and_augmentation_of_its_own():
    alone, together = pair(), pair()
    x = regression()[0]
    ys = [regression(seed=seed)[1] for seed in range(2)]
    validation = [regression(rows=32, seed=seed) for seed in range(2)]
    noises = [[layers.GaussianNoise(1.0, seed=seed) for seed in (4, 5)] for _ in "ab"]
    histories = [
        fit(alone[i], x, ys[i], seed=i, epochs=2, verbose=0, validation_data=validation[i], augment=noises[0][i])
        for i in range(2)
    ]
    many = fit_many(together, x, ys, epochs=2, validation_data=validation, augments=noises[1])
    check_as_if_alone(alone, histories, together, many)


@needs_jax
def test_gates_and_their_callbacks_work_together():
    alone, together = pair(gated, optimizer=for_gates), pair(gated, optimizer=for_gates)
    histories = [
        fit(
            model,
            *regression(),
            seed=i,
            epochs=3,
            verbose=0,
            callbacks=[GatePressure("paper", start=i + 1.0, step=5.0)],
        )
        for i, model in enumerate(alone)
    ]
    callbacks = [[GatePressure("paper", start=i + 1.0, step=5.0)] for i in range(2)]
    many = fit_many(together, *regression(), epochs=3, callbacks=callbacks)
    check_as_if_alone(alone, histories, together, many)


@needs_jax
def test_a_stopped_model_stays_while_the_others_go_on():
    class StopAfter(keras.callbacks.Callback):
        def __init__(self, last):
            super().__init__()
            self.last = last

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == self.last

    alone, together = pair(), pair()
    histories = [
        fit(model, *regression(), seed=i, epochs=6, verbose=0, callbacks=[StopAfter(3 - i)])
        for i, model in enumerate(alone)
    ]
    many = fit_many(together, *regression(), epochs=6, callbacks=[[StopAfter(3 - i)] for i in range(2)])
    assert [len(history.epoch) for history in many] == [4, 3]
    check_as_if_alone(alone, histories, together, many)


@needs_jax
def test_learning_rates_may_differ():
    alone, together = pair(), pair()
    for models in (alone, together):
        for model, rate in zip(models, (0.1, 0.01), strict=True):
            model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"])
    histories = [fit(model, *regression(), seed=i, epochs=2, verbose=0) for i, model in enumerate(alone)]
    check_as_if_alone(alone, histories, together, fit_many(together, *regression(), epochs=2))


def wider():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(1)(layers.Dense(17, "tanh")(inputs)))


def other_activation():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(1)(layers.Dense(16, "relu")(inputs)))


def scaled_error(factor):
    def error(y_true, y_pred):
        return factor * keras.ops.mean(keras.ops.square(y_true - y_pred), -1)

    return error


def adapted():  # by `compiled`, for each seed otherwise
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(1)(layers.Normalization()(inputs)))


def one_frozen_weight(name):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(layers.BatchNormalization()(inputs)))
    getattr(model.layers[1], name).trainable = False
    return model


@needs_jax
@pytest.mark.parametrize(
    ("builds", "losses"),
    [
        ([dense, dense], [lambda: scaled_error(1.0), lambda: scaled_error(2.0)]),
        ([adapted, adapted], ["mse", "mse"]),
        ([lambda: one_frozen_weight("gamma"), lambda: one_frozen_weight("beta")], ["mse", "mse"]),
    ],
)
def test_models_whose_configurations_hide_a_difference_are_refused(builds, losses):
    models = [
        compiled(build, seed=seed, **{**OPTIONS, "loss": loss})
        for seed, (build, loss) in enumerate(zip(builds, losses, strict=True))
    ]
    with pytest.raises(ArchitectureMismatchError, match="model 1 .* differ in what their configurations do not tell"):
        fit_many(models, *regression())


@needs_jax
@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (wider, {}, r"model 2 .* same architecture, but layers\[1\].config.units is 17 instead of 16"),
        (other_activation, {}, "activation is 'relu' instead of 'tanh'"),
        (dense, dict(loss="mae"), "same arguments of compile, but loss is 'mae' instead of 'mse'"),
        (dense, dict(optimizer=averaging_adam), "same arguments of compile, but optimizer"),
    ],
)
def test_models_that_differ_are_refused(build, options, message):
    models = [*pair(), compiled(build, **{**OPTIONS, **options})]
    with pytest.raises(ArchitectureMismatchError, match=message):
        fit_many(models, *regression())
    assert all(not model.optimizer.built for model in models)


@needs_jax
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(models=[]), "at least one model"),
        (dict(seeds=[1, 2, 3]), "seeds to have one entry for each of the 2 models, received 3"),
        (dict(ys=[regression()[1]]), "training data to have one entry for each of the 2 models, received 1"),
        (dict(ys=[regression()[1], regression(91)[1]]), "same number of examples"),
        (dict(xs=with_nan()[0]), "x of the training data of model 0 holds 1 NaN"),
        (dict(callbacks=[[EveryBatch()], []]), "program can train, received .* EveryBatch has the hook on_train_batch_end"),
        (dict(validation_data=[regression()]), "validation_data to have one entry for each of the 2 models"),
        (dict(validation_data=[regression(), regression(80)]), "model 0 has .*96, 4.* model 1 .*80, 4"),
        (dict(batch_size=0), "batch_size to be"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, message):
    x, y = regression()
    models = pair()
    with pytest.raises(InvalidArgumentError, match=message):
        fit_many(**{"models": models, "xs": x, "ys": y, **arguments})
    assert all(not model.optimizer.built for model in models)


@needs_jax
def test_models_with_one_optimizer_are_refused():
    models = pair()
    for model in models:
        model.compile(models[0].optimizer, "mse")
    with pytest.raises(InvalidArgumentError, match="2 models share 1 optimizers"):
        fit_many(models, *regression())


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX is what it asks for")
def test_other_backends_are_told_that_jax_is_needed():
    with pytest.raises(InvalidArgumentError, match="expected the JAX backend .KERAS_BACKEND=jax."):
        fit_many(pair(), *regression())


@needs_jax
@pytest.mark.parametrize(
    ("augments", "message"),
    [
        ([layers.GaussianNoise(1.0, seed=1), layers.GaussianNoise(0.5, seed=1)], "number 1, where .*stddev is 0.5 instead"),
        ([layers.GaussianNoise(1.0, seed=1), None], "expected augments that differ only in names and seeds"),
    ],
)
def test_augmentation_of_another_kind_is_refused(augments, message):
    with pytest.raises(InvalidArgumentError, match=f"(?i){message}"):
        fit_many(pair(), *regression(), augments=augments)
