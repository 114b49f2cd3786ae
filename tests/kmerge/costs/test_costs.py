"""Costs against counts by hand."""

import keras
import pytest
from keras import layers

import kmerge
from kmerge import costs
from kmerge.costs.budgets import WidthCosts
from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.spaces.channels import trace


def one_layer(layer, *shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    "layer, shape, expected",
    [
        (layers.Dense(4), (3,), 3 * 4),
        (layers.Dense(4), (5, 3), 5 * 3 * 4),
        (layers.Conv1D(4, 3, padding="same"), (8, 2), 8 * 3 * 2 * 4),
        (layers.Conv2D(4, 3), (7, 7, 3), 5 * 5 * 3 * 3 * 3 * 4),
        (layers.Conv2D(4, 3, strides=2, padding="same"), (8, 8, 3), 4 * 4 * 3 * 3 * 3 * 4),
        (layers.Conv2D(4, 3, groups=2, padding="same"), (8, 8, 6), 8 * 8 * 3 * 3 * 3 * 4),
        (layers.Conv3D(2, 2), (3, 3, 3, 1), 2**3 * 2**3 * 2),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (8, 8, 3), 8 * 8 * 3 * 3 * 3 * 2),
        (layers.SeparableConv2D(4, 3, padding="same"), (8, 8, 3), 8 * 8 * (3 * 3 * 3 + 3 * 4)),
        (layers.Conv2DTranspose(4, 2, strides=2), (5, 5, 3), 5 * 5 * 2 * 2 * 3 * 4),
        (layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4)), (5, 3), 5 * 3 * 2 * 4),
        (layers.EinsumDense("...x,xy->...y", output_shape=4), (5, 3), 5 * 3 * 4),
        (layers.Embedding(10, 4), (6,), 0),
        (layers.BatchNormalization(), (8, 8, 3), 0),
        (layers.PReLU(), (8, 8, 3), 0),
        (layers.MaxPooling2D(), (8, 8, 3), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else None,
)
def test_macs_of_one_layer(layer, shape, expected):
    assert costs.multiply_accumulates(one_layer(layer, *shape)) == expected


@pytest.mark.parametrize("gate", [False, True])
def test_macs_of_attention(gate):
    """Three queries of width 5 look at four values of width 6, through two heads of 7 keys and 8 values each."""
    layer = layers.MultiHeadAttention(2, key_dim=7, value_dim=8, use_gate=gate)
    query, value = keras.Input((3, 5)), keras.Input((4, 6))
    model = keras.Model([query, value], layer(value=value, query=query))
    projections = 3 * 5 * 2 * 7 + 4 * 6 * 2 * 7 + 4 * 6 * 2 * 8 + 3 * 2 * 8 * 5 + gate * 3 * 5 * 2 * 8
    assert costs.multiply_accumulates(model) == projections + 2 * 3 * 4 * (7 + 8)


def test_macs_of_grouped_attention():
    layer = layers.GroupQueryAttention(7, 4, 2)
    x = keras.Input((3, 5))
    projections = 3 * 5 * 7 * (4 + 2 + 2 + 4)
    assert costs.multiply_accumulates(keras.Model(x, layer(x, x))) == projections + 4 * 3 * 3 * (7 + 7)


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


def test_lstm_is_refused_by_name():
    with pytest.raises(UnsupportedLayerError, match=r"'memory' \(LSTM\): it has weights of shapes"):
        costs.multiply_accumulates(one_layer(layers.LSTM(4, name="memory"), 5, 3))


def test_products_of_tensors_are_refused():
    inputs = keras.Input((4, 4))
    with pytest.raises(UnsupportedLayerError, match="multiplies tensors with each other"):
        costs.multiply_accumulates(keras.Model(inputs, keras.ops.matmul(inputs, inputs)))


def test_unknown_sizes_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"known sizes to work on, received \(None, None\).*fixed size"):
        costs.multiply_accumulates(one_layer(layers.Conv2D(4, 3, name="conv"), None, None, 3))


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


@pytest.mark.parametrize(
    "layer", [layers.MultiHeadAttention(4, 3), layers.GroupQueryAttention(3, 4, 2)], ids=lambda layer: layer.name
)
def test_a_budget_counts_attention_at_other_widths(layer):
    x = keras.Input((5, 6))
    h = layers.Dense(6, name="before")(x)
    model = keras.Model(x, layers.Dense(2)(layers.Add()([h, layer(h, h)])))
    heads = next(name for name in kmerge.channel_spaces(model) if layer.name in name)
    widths = {heads: 1, "before": 4}
    smaller = kmerge.select(model, widths)
    counted = WidthCosts(trace(model))
    assert counted.multiply_accumulates({}) == costs.multiply_accumulates(model)
    assert counted.multiply_accumulates(widths) == costs.multiply_accumulates(smaller)
    assert counted.parameters(widths) == costs.parameters(smaller)
