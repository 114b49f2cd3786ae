"""Where the mean of several models stands: in front of a final softmax or sigmoid, behind any other end."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.models import example_inputs, randomize


def network(end, seed: int) -> keras.Model:
    x = keras.Input((4,))
    model = keras.Model(x, end(layers.Dense(6, activation="relu")(x)))
    randomize(model, seed)
    return model


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


INSIDE = {
    "fused": lambda h: layers.Dense(3, activation="relu")(h),
    "layer": lambda h: layers.ReLU()(layers.Dense(3)(h)),
    "activation_layer": lambda h: layers.Activation("tanh")(layers.Dense(3)(h)),
    "operation": lambda h: ops.log_sigmoid(layers.Dense(3)(h)),
    "nested": lambda h: keras.Sequential([keras.Input((6,)), layers.Dense(3, activation="elu")])(h),
    "twice": lambda h: [y := layers.Dense(3, activation="relu")(h), y],
}
OUTSIDE = {
    "softmax": (lambda h: layers.Dense(3, activation="softmax")(h), np.log, softmax),
    "softmax_of_ops": (lambda h: layers.Dense(3, activation=ops.softmax)(h), np.log, softmax),
    "sigmoid": (lambda h: ops.sigmoid(layers.Dense(3)(h)), lambda p: np.log(p / (1 - p)), lambda z: 1 / (1 + np.exp(-z))),
    "log_softmax": (lambda h: ops.log_softmax(layers.Dense(3)(h)), lambda z: z, lambda z: np.log(softmax(z))),
}


@pytest.mark.parametrize("name", INSIDE)
def test_any_other_end_gives_the_mean_of_the_outputs(name):
    models = [network(INSIDE[name], seed) for seed in (0, 1, 2)]
    values = example_inputs(models[0])
    each = zip(*(checks.outputs(model, values) for model in models), strict=True)
    big = kmerge.concatenate(*models)
    checks.assert_close(checks.outputs(big, values), [np.mean(y, axis=0) for y in each], 1e-5)
    assert big.output_names[0] == models[0].output_names[0]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_softmax_or_sigmoid_stands_behind_the_mean(name):
    end, inverse, function = OUTSIDE[name]
    models = [network(end, seed) for seed in (0, 1)]
    values = example_inputs(models[0])
    logits = np.mean([inverse(checks.outputs(model, values)[0]) for model in models], axis=0)
    checks.assert_close(checks.outputs(kmerge.concatenate(*models), values), [function(logits)], 1e-5)


def test_merge_says_where_it_averages_in_front_of_a_curve():
    models = [network(lambda h: layers.Dense(3, activation="relu", name="end")(h), seed) for seed in (0, 1)]
    with pytest.warns(UserWarning, match="one place.*'end'.*averaged there"):
        kmerge.merge(*models)


def test_calls_of_one_nested_model_on_several_sizes():
    inside = [keras.Input((None, None, 4)), layers.Conv2D(6, 3, padding="same", activation="relu"), layers.Conv2D(2, 1)]

    def detector(seed):
        head = keras.Sequential([type(x).from_config(x.get_config()) if isinstance(x, layers.Layer) else x for x in inside])
        x = keras.Input((8, None, 3))
        fine = layers.Conv2D(4, 1)(x)
        model = keras.Model(x, [head(fine), head(layers.MaxPool2D()(fine))])
        randomize(model, seed)
        return model

    models = [detector(seed) for seed in (0, 1)]
    values = [np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype("float32")]
    each = zip(*(checks.outputs(model, values) for model in models), strict=True)
    big = kmerge.concatenate(*models)
    checks.assert_close(checks.outputs(big, values), [np.mean(y, axis=0) for y in each], 1e-5)
    assert next(x for x in big.layers if isinstance(x, keras.Sequential)).input_shape == (None, None, None, 8)
