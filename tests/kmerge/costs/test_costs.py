"""Costs against counts by hand."""

import keras
import pytest
from keras import layers

from kmerge import costs
from kmerge.errors import InvalidArgumentError


def one_layer(layer, *shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def test_a_shared_layer_counts_at_each_call_and_its_weights_once():
    shared = layers.Dense(4)
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], layers.Add()([shared(a), shared(b)]))
    assert costs.multiply_accumulates(model) == 2 * 12
    assert costs.parameters(model) == 16


def test_nested_models_count():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(5)])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    assert costs.multiply_accumulates(model) == 12 + 20 + 10


def test_parameters_include_moving_statistics():
    assert costs.parameters(one_layer(layers.BatchNormalization(), 7)) == 28


def lenet():
    inputs = keras.Input((12, 12, 1))
    x = layers.MaxPooling2D()(layers.Conv2D(6, 5, padding="same", activation="relu")(inputs))
    x = layers.Flatten()(layers.AveragePooling2D(2)(layers.Conv2D(16, 3, activation="relu")(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(20)(x)))


def test_a_whole_network_by_hand():
    model = lenet()
    macs = 12 * 12 * 5 * 5 * 6 + 4 * 4 * 3 * 3 * 6 * 16 + 2 * 2 * 16 * 20 + 20 * 10
    weights = (5 * 5 * 6 + 6) + (3 * 3 * 6 * 16 + 16) + (64 * 20 + 20) + (20 * 10 + 10)
    assert costs.multiply_accumulates(model) == macs
    assert costs.parameters(model) == weights


def test_latency_is_a_time_that_grows_with_the_work():
    inputs = keras.Input((64, 64, 8))
    small, large = one_layer(layers.Conv2D(2, 1), 8, 8, 3), keras.Model(inputs, layers.Conv2D(128, 5)(inputs))
    times = [costs.latency(model, batch_size=8, repetitions=5) for model in (small, large)]
    assert 0 < times[0] < times[1]


def test_latency_takes_every_structure_and_type_of_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((5,), dtype="int32", name="b")
    x = layers.Concatenate()([a, layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(b))])
    assert costs.latency(keras.Model({"a": a, "b": b}, layers.Dense(2)(x)), repetitions=1) > 0


@pytest.mark.parametrize("counts", [{"batch_size": 0}, {"repetitions": 0}, {"batch_size": True}])
def test_latency_refuses_wrong_counts(counts):
    (name,) = counts
    with pytest.raises(InvalidArgumentError, match=f"Expected {name} to be a whole number of at least 1, received"):
        costs.latency(one_layer(layers.Dense(1), 2), **counts)


def test_latency_of_unknown_sizes_is_refused():
    with pytest.raises(InvalidArgumentError, match="no one latency"):
        costs.latency(one_layer(layers.Conv2D(4, 3), None, None, 3))


def test_saved_bytes_are_those_of_the_file(tmp_path):
    model = one_layer(layers.Dense(1000), 100)
    model.save(tmp_path / "model.keras")
    size = (tmp_path / "model.keras").stat().st_size
    assert abs(costs.saved_bytes(model) - size) <= 200  # the file holds a date
    assert 4 * costs.parameters(model) < size < 4 * costs.parameters(model) + 50_000
