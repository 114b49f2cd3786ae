"""Operations whose arguments are arrays, which Keras keeps in no configuration, and functions of `keras.activations`."""

import keras
import numpy as np
import pytest
from keras import activations, layers, ops

import kmerge
from tests import checks
from tests.checks import family, parent
from tests.models import Entry, every, example_inputs

ENTRIES: dict[str, Entry] = {}


def model(build):
    ENTRIES[build.__name__] = Entry(build.__name__, build, ("linear",))
    return ENTRIES[build.__name__]


def padded(x):
    return layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x))


@model
def split_by_an_array():
    x = keras.Input((4, 4, 3))
    a, b = ops.split(layers.Conv2D(6, 1, activation="relu")(x), np.cumsum([2]), axis=3)
    return keras.Model(x, layers.Dense(2)(ops.concatenate([padded(a), b], -1)))


@model
def split_with_an_empty_rest():
    x = keras.Input((4, 4, 3))
    a, b, _ = ops.split(layers.Conv2D(6, 1, activation="relu")(x), np.cumsum([2, 4]), axis=-1)
    return keras.Model(x, layers.Dense(2)(ops.concatenate([padded(a), b], -1)))


@model
def reshape_by_an_array():
    x = keras.Input((4, 4, 3))
    h = ops.reshape(layers.Conv2D(6, 1, activation="relu")(x), np.array([-1, 16, 6]))
    return keras.Model(x, layers.Dense(2)(h))


@model
def padding_by_an_array():
    x = keras.Input((4, 3))
    h = ops.pad(layers.Dense(5, activation="relu")(x), np.array([[0, 0], [1, 0], [0, 2]]))
    return keras.Model(x, layers.Dense(2)(h))


@model
def activations_of_keras():
    x = keras.Input((6,))
    h = activations.relu(layers.Dense(5)(x))
    h = activations.relu(layers.Dense(5)(h), negative_slope=0.2, max_value=1.0, threshold=0.1)
    return keras.Model(x, layers.Dense(2)(activations.gelu(layers.Dense(4)(h))))


@every(ENTRIES)
def test_every_verb_is_exact(entry):
    networks, inputs = family(entry), example_inputs(parent(entry, 0))
    expected = [checks.outputs(network, inputs)[0] for network in networks]
    with kmerge.strict():
        sizes = checks.selectable(networks[0])
        big = kmerge.concatenate(*networks)
        grown = kmerge.grow(networks[0], dict.fromkeys(sizes, 2))
        orders = checks.random_orders(networks[0], 0)
        moved = kmerge.permute(networks[0], orders)
        few = {name: size - 1 for name, size in sizes.items()}
        cut = kmerge.select(moved, few)
        same = kmerge.select(networks[0], {name: order[: few[name]] for name, order in orders.items()})
    checks.assert_close(checks.outputs(big, inputs), [np.mean(expected, axis=0)], 1e-5)
    checks.assert_close(checks.outputs(grown, inputs) + checks.outputs(moved, inputs), [expected[0]] * 2, 1e-5)
    checks.assert_close(checks.outputs(cut, inputs), checks.outputs(same, inputs), 1e-5)
    assert sizes
    checks.assert_spaces(cut, few)
    again = keras.models.model_from_json(cut.to_json())
    again.set_weights(cut.get_weights())
    checks.assert_close(checks.outputs(again, inputs), checks.outputs(cut, inputs), 0)


@pytest.mark.filterwarnings("ignore:The big student can be trained and compressed in this process")
@every(ENTRIES)
def test_gates_choose_and_compress_is_exact(entry):
    with kmerge.strict():
        checks.check_merge(family(entry), example_inputs(parent(entry, 0)))


@pytest.mark.parametrize("name", [
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_tanh", "leaky_relu", "log_sigmoid", "relu",
    "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus",
    "tanh", "tanh_shrink",
])  # fmt: skip
def test_every_activation_that_can_be_called_on_a_symbolic_tensor_is_followed(name):
    x = keras.Input((3,))
    network = keras.Model(x, layers.Dense(2)(getattr(activations, name)(layers.Dense(4)(x))))
    with kmerge.strict():
        assert len(checks.selectable(network)) == 1


def test_limits_of_each_channel_run_as_they_are():
    x = keras.Input((3,))
    network = keras.Model(x, layers.Dense(2)(ops.clip(layers.Dense(4)(x), np.linspace(-0.5, 0.4, 4), 0.5)))
    assert not checks.selectable(network)
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match="clip.*'x_min' is an array"):
        kmerge.channel_spaces(network)
