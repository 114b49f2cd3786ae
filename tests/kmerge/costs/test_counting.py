"""Multiply-accumulates against counts by hand: of each layer and operation, of unknown sizes, and at other widths."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge import costs
from kmerge.costs.budgets import WidthCosts
from kmerge.errors import InvalidArgumentError
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


def test_unknown_sizes_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"known sizes to work on, received \(None, None\).*fixed size"):
        costs.multiply_accumulates(one_layer(layers.Conv2D(4, 3, name="conv"), None, None, 3))


IMAGES = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])


@pytest.mark.parametrize(
    "layer, shape, expected",
    [
        (layers.SimpleRNN(4), (5, 3), 5 * (3 * 4 + 4 * 4)),
        (layers.LSTM(4), (5, 3), 5 * (3 * 16 + 4 * 16)),
        (layers.GRU(4, return_sequences=True), (5, 3), 5 * (3 * 12 + 4 * 12)),
        (layers.Bidirectional(layers.LSTM(4)), (5, 3), 2 * 5 * (3 * 16 + 4 * 16)),
        (layers.Bidirectional(layers.GRU(4), merge_mode=None), (5, 3), 2 * 5 * (3 * 12 + 4 * 12)),
        (layers.RNN([layers.LSTMCell(4), layers.GRUCell(2)]), (5, 3), 5 * (3 * 16 + 4 * 16 + 4 * 6 + 2 * 6)),
        (layers.ConvLSTM1D(4, 3), (5, 6, 2), 5 * 4 * 3 * (2 * 16 + 4 * 16)),
        (
            layers.ConvLSTM2D(4, 3, padding="same", strides=2, return_sequences=True),
            (5, 6, 6, 2),
            5 * 3 * 3 * 9 * (2 * 16 + 4 * 16),
        ),
        (layers.TimeDistributed(layers.Dense(4)), (5, 6, 3), 5 * 6 * 3 * 4),
        (layers.TimeDistributed(layers.Conv2DTranspose(4, 2)), (5, 6, 7, 3), 5 * 6 * 7 * 2 * 2 * 3 * 4),
        (layers.TimeDistributed(IMAGES), (5, 7, 6, 3), 5 * (5 * 4 * 9 * 3 * 4)),
        (layers.TimeDistributed(layers.ReLU()), (5, 6, 3), 0),
        (layers.SpectralNormalization(layers.Conv2D(4, 3)), (7, 7, 3), 5 * 5 * 9 * 3 * 4),
        (layers.LayerNormalization(axis=(1, 2)), (5, 3), 0),
        (layers.RMSNormalization(axis=(1, 2)), (5, 3), 0),
    ],
    ids=lambda value: value.name if isinstance(value, layers.Layer) else None,
)
def test_macs_of_layers_that_run_several_times(layer, shape, expected):
    assert costs.multiply_accumulates(one_layer(layer, *shape)) == expected


def test_macs_of_one_step_of_cells():
    x, h, c, k = keras.Input((3,)), keras.Input((4,)), keras.Input((4,)), keras.Input((2,))
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.SimpleRNNCell(2)])
    y, _ = cells(x, [[h, c], [k]])
    assert costs.multiply_accumulates(keras.Model([x, h, c, k], y)) == 3 * 16 + 4 * 16 + 4 * 2 + 2 * 2


def test_macs_of_reversible_embedding():
    layer, tokens = layers.ReversibleEmbedding(11, 3), keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, layer(layers.Dense(3)(layer(tokens)), reverse=True))
    assert costs.multiply_accumulates(model) == 5 * 3 * 3 + 5 * 3 * 11


def weights(*shape):
    return np.ones(shape, "float32")


# On a of shape (5, 3) and b of shape (7, 3).
OPERATIONS = {
    "attention": (lambda a, b: layers.Attention()([a, b]), 5 * 7 * (3 + 3)),
    "attention_with_keys": (
        lambda a, b: layers.AdditiveAttention()([a, layers.Concatenate()([b, b]), b]),
        5 * 7 * (3 + 6),
    ),
    "dot": (lambda a, b: layers.Dot(axes=2)([a, b]), 5 * 7 * 3),
    "dot_of_negative_axes": (lambda a, b: layers.Dot(axes=(-1, -1), normalize=True)([a, b]), 5 * 7 * 3),
    "matmul": (lambda a, b: a @ ops.transpose(b, (0, 2, 1)), 5 * 7 * 3),
    "matmul_by_a_constant": (lambda a, b: ops.matmul(a, weights(3, 4)), 5 * 3 * 4),
    "matmul_of_a_constant": (lambda a, b: ops.matmul(weights(4, 5), a), 4 * 5 * 3),
    "matmul_by_a_vector": (lambda a, b: ops.matmul(a, weights(3)), 5 * 3),
    "dot_operation": (lambda a, b: ops.dot(a, weights(3, 4)), 5 * 3 * 4),
    "dot_by_a_scalar": (lambda a, b: ops.dot(a, 2.0), 0),
    "inner": (lambda a, b: ops.inner(a, weights(4, 3)), 5 * 3 * 4),
    "einsum": (lambda a, b: ops.einsum("bic,bjc->bij", a, b), 5 * 7 * 3),
    "einsum_with_dots": (lambda a, b: ops.einsum("...c,cd->...d", a, weights(3, 4)), 5 * 3 * 4),
    "einsum_that_moves_the_batch": (lambda a, b: ops.einsum("cd,bic->dib", weights(3, 4), a)[:, :, :1], 5 * 3 * 4),
    "einsum_of_three": (
        lambda a, b: ops.einsum("bic,cd,bjd->bij", a, weights(3, 4), b[..., :1] * weights(4)),
        60 + 5 * 7 * 4,
    ),
    "einsum_of_one": (lambda a, b: ops.einsum("bic->bci", a), 0),
    "tensordot": (lambda a, b: ops.tensordot(a, weights(3, 4), 1), 5 * 3 * 4),
    "tensordot_of_a_constant": (lambda a, b: ops.tensordot(weights(3, 4), a, [[0], [2]])[:, :1], 5 * 3 * 4),
    "conv": (lambda a, b: ops.conv(b, weights(3, 3, 4)), 5 * 3 * 3 * 4),
    "depthwise_conv": (lambda a, b: ops.depthwise_conv(b, weights(3, 3, 2)), 5 * 3 * 3 * 2),
    "separable_conv": (lambda a, b: ops.separable_conv(b, weights(3, 3, 2), weights(1, 6, 4)), 5 * (3 * 3 * 2 + 6 * 4)),
    "conv_transpose": (lambda a, b: ops.conv_transpose(b, weights(2, 4, 3), 2), 7 * 2 * 4 * 3),
    "softmax": (lambda a, b: ops.softmax(a * 2.0) + ops.mean(b, axis=1, keepdims=True), 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_macs_of_operations(name):
    a, b = keras.Input((5, 3)), keras.Input((7, 3))
    build, expected = OPERATIONS[name]
    assert costs.multiply_accumulates(keras.Model([a, b], build(a, b))) == expected


def test_macs_of_attention_of_heads():
    a, b = keras.Input((5, 2, 8)), keras.Input((7, 2, 8))
    model = keras.Model([a, b], ops.dot_product_attention(a, b, b))
    assert costs.multiply_accumulates(model) == 2 * 5 * 7 * 2 * 8


class Twice(layers.Layer):
    """What somebody wrote: nobody knows what it multiplies."""

    def call(self, x):
        return ops.matmul(x, x)


class Cell(layers.Layer):
    state_size = output_size = 3

    def call(self, inputs, states):
        return inputs, states


def test_what_is_not_known_is_named_in_one_warning_and_counts_as_0():
    x = keras.Input((4, 4))
    h = layers.Dense(4)(Twice(name="own")(x))
    h = layers.Lambda(ops.square, name="any")(h)
    h = ops.reshape(ops.linalg.inv(h), (-1, 4, 4))
    h = layers.RNN(Cell(name="cell"), name="cells")(h)
    model = keras.Model(x, layers.Dense(2)(h[:, :3]))
    with pytest.warns(UserWarning) as caught:
        assert costs.multiply_accumulates(model) == 4 * 4 * 4 + 3 * 2
    (warning,) = [each for each in caught if each.category is UserWarning]
    message = str(warning.message)
    assert "'own' (Twice), 'any' (Lambda), 'inv" in message and "'cell' (Cell) are not known" in message
    assert warning.filename == __file__


def test_products_over_the_batch_are_named():
    x = keras.Input((4,))
    model = keras.Model(x, ops.matmul(x, ops.transpose(x)))
    with pytest.warns(UserWarning, match=r"\(Matmul\) are not known"):
        assert costs.multiply_accumulates(model) == 0


def test_a_subclass_without_a_call_of_its_own_is_known():
    class Activation(layers.ReLU):
        pass

    class Head(layers.Dense):
        def get_config(self):
            return super().get_config()

    x = keras.Input((3,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert costs.multiply_accumulates(keras.Model(x, Head(2)(Activation()(x)))) == 6


# Inputs of unknown size ------------------------------------------------------------------------------------------------


def of_any_size():
    image = keras.Input((None, None, 3), name="image")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv")(image)
    x = layers.UpSampling2D()(layers.Conv2D(4, 1, name="mix")(layers.BatchNormalization()(x)))
    y = layers.LSTM(2, name="memory")(layers.Embedding(5, 3)(tokens))
    return keras.Model([image, tokens], layers.Concatenate()([layers.GlobalAveragePooling2D()(x), y]))


EXPECTED = 4 * 3 * 9 * 3 * 4 + 4 * 3 * 4 * 4 + 9 * (3 * 8 + 2 * 8)


def test_an_input_shape_gives_the_sizes_and_leaves_the_model_as_it_is():
    model = of_any_size()
    before = model.to_json()
    shapes = [tuple(call.output.shape) for call in model.layers]
    assert costs.multiply_accumulates(model, [(7, 6, 3), (9,)]) == EXPECTED
    assert costs.multiply_accumulates(model, {"tokens": (9,), "image": [7, 6, 3]}) == EXPECTED
    assert model.to_json() == before
    # `layer.output` raises for a layer that was called anew.
    assert [tuple(layer.output.shape) for layer in model.layers] == shapes


def test_an_input_shape_of_a_dict_of_inputs():
    x, y = keras.Input((None, 3), name="x"), keras.Input((2,), name="y")
    model = keras.Model({"y": y, "x": x}, [layers.Dense(4)(x), layers.Dense(4)(y)])
    assert costs.multiply_accumulates(model, {"x": (5, 3)}) == 5 * 12 + 8
    assert costs.multiply_accumulates(model, {"x": (5, 3), "y": (2,)}) == 5 * 12 + 8


def test_a_nested_model_counts_at_the_sizes_of_each_of_its_calls():
    head = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3, padding="same"), layers.Conv2D(2, 1)])
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, [head(x), head(layers.MaxPooling2D()(x))])
    expected = (8 * 8 + 4 * 4) * (9 * 3 * 4 + 4 * 2)
    assert costs.multiply_accumulates(model) == expected
    assert WidthCosts(trace(model)).multiply_accumulates({}) == expected


class Shifted(layers.Layer):
    def call(self, x):
        return x[:, 1:]


def test_a_layer_without_a_shape_of_its_own_is_followed():
    x = keras.Input((None, 3))
    with pytest.warns(UserWarning, match="Shifted"):
        assert costs.multiply_accumulates(keras.Model(x, layers.Dense(4)(Shifted()(x))), (6, 3)) == 5 * 12


@pytest.mark.parametrize(
    "shape",
    [(7, 7), (7, 7, 4), (2, 7, 7, 3), (None, 7, 3), (0, 7, 3), (7.0, 7, 3), [(7, 7, 3), (2,)], {"a": (7, 7, 3)}, 7],
)
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(InvalidArgumentError, match="[Ee]xpected input_shape to be .*, received"):
        costs.multiply_accumulates(one_layer(layers.Conv2D(4, 3), None, None, 3), shape)


def test_a_size_that_a_layer_cannot_take_is_refused_with_its_name():
    x = keras.Input((None, 3))
    model = keras.Model(x, layers.Dense(4)(layers.Reshape((12,), name="cut")(x)))
    assert costs.multiply_accumulates(model, (4, 3)) == 12 * 4
    with pytest.raises(InvalidArgumentError, match=r"with which layer 'cut' \(Reshape\) can be called.*\(None, 5, 3\)"):
        costs.multiply_accumulates(model, (5, 3))


# At other widths -------------------------------------------------------------------------------------------------------


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


def test_a_budget_counts_models_with_recurrent_and_unknown_layers():
    x = keras.Input((5, 6))
    h = layers.LSTM(4, name="memory")(layers.Dense(8, name="before")(x))
    kmerge.register_rule(Twice, kmerge.OpaqueRule())
    h = Twice(name="own")(layers.Reshape((2, 2))(layers.Dense(4)(h)))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(6, name="after")(layers.Flatten()(h))))
    counted = WidthCosts(trace(model))
    budget = kmerge.Budget(multiply_accumulates=0.98)
    with pytest.warns(UserWarning, match=r"'own' \(Twice\) are not known") as caught:
        smaller = kmerge.prune(model, budget=budget)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    with pytest.warns(UserWarning, match="Twice"):
        whole = costs.multiply_accumulates(model)
        assert costs.multiply_accumulates(smaller) <= 0.98 * whole
    assert counted.multiply_accumulates({}) == whole
    widths = {name: space.size for name, space in kmerge.channel_spaces(smaller).items()}
    with pytest.warns(UserWarning, match="Twice"):
        assert counted.multiply_accumulates(widths) == costs.multiply_accumulates(smaller)
