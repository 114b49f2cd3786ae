"""Small recurrent networks, one difficulty each."""

import keras
from keras import layers, ops

from tests.models import Entry

CASES: dict[str, Entry] = {}


def case(*final: str, **flags: bool):
    def register(build):
        CASES[build.__name__] = Entry(build.__name__, build, final or ("linear",), **flags)
        return CASES[build.__name__]

    return register


@case("softmax")
def lstm_stack():
    x = keras.Input((None, 3))
    h = layers.LSTM(4, return_sequences=True)(x)
    h = layers.LSTM(3, use_bias=False, unit_forget_bias=False)(layers.Dense(4, activation="relu")(h))
    return keras.Model(x, layers.Dense(3, activation="softmax")(h))


@case()
def gru_stack():
    """The two ways of resetting, of which the first has a bias of two rows; forward, unrolled, and backwards."""
    x = keras.Input((3, 3))
    h = layers.GRU(4, return_sequences=True, unroll=True)(x)
    h = layers.BatchNormalization()(layers.GRU(3, reset_after=False, return_sequences=True, go_backwards=True)(h))
    h = layers.GRU(3, use_bias=False, recurrent_dropout=0.2, dropout=0.1, return_sequences=True)(h)
    h = layers.SimpleRNN(4, activation="relu", return_sequences=True)(h)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@case()
def encoder_and_decoder():
    """The decoder starts from what the encoder has seen. Keras hands it no mask, as it has two arguments that are tensors."""
    source, target = (keras.Input((n,), dtype="int32") for n in (4, 3))
    _, *states = layers.LSTM(4, return_state=True, name="encoder")(layers.Embedding(4, 3, mask_zero=True)(source))
    words = layers.Embedding(4, 3, mask_zero=True)(target)
    told = layers.LSTM(4, return_sequences=True, name="decoder")(words, initial_state=states)
    last = layers.GRU(4, name="second")(words, initial_state=layers.Dense(4, name="start")(states[1]))
    return keras.Model([source, target], layers.Dense(2)(layers.Concatenate()([layers.GlobalAveragePooling1D()(told), last])))


@case()
def residual():
    x = keras.Input((3, 3))
    h = layers.Dense(4, name="stem")(x)
    h = layers.Add()([h, layers.LSTM(4, return_sequences=True)(h)])
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Add()([h, layers.GRU(4)(h)[:, None]]))))


@case()
def siamese():
    left, right, shared = keras.Input((3, 3)), keras.Input((2, 3)), layers.LSTM(4)
    return keras.Model([left, right], layers.Dense(2)(ops.abs(shared(left) - shared(right))))


@case()
def bidirectional():
    """Every way in which the two directions meet, but for `concat`, which is in `masked`."""
    x = keras.Input((3, 3))
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="sum")(layers.Dense(4)(x))
    h = layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="mul")(h)
    h = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True), merge_mode="ave")(h)
    h = layers.Bidirectional(layers.GRU(3), merge_mode=None)(h)
    return keras.Model(x, layers.Dense(2)(layers.Subtract()(h)))


@case()
def bidirectional_states():
    source, target = keras.Input((3, 3)), keras.Input((2, 2))
    backward = layers.LSTM(3, return_state=True, go_backwards=True, activation="relu")
    forward = layers.LSTM(3, return_state=True)
    h, back, *states = layers.Bidirectional(forward, merge_mode=None, backward_layer=backward)(source)
    told = layers.Bidirectional(layers.LSTM(3))(target, initial_state=states)
    return keras.Model([source, target], layers.Dense(2)(layers.Concatenate()([h, told, back])))


@case()
def masked():
    tokens = keras.Input((4,), dtype="int32")
    h = layers.Embedding(4, 4, mask_zero=True)(tokens)
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(h)
    h = layers.GRU(4, return_sequences=True)(layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True))(h))
    return keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@case()
def masked_by_argument():
    x, mask = keras.Input((3, 3)), keras.Input((3,), dtype="bool")
    h, state = layers.GRU(4, return_sequences=True, return_state=True)(x, mask=mask)
    h = layers.GRU(4)(layers.Dense(3)(h), mask=mask, initial_state=state)
    return keras.Model([x, mask], layers.Dense(2)(h))


@case()
def cells():
    x = keras.Input((3, 3))
    h = layers.RNN(layers.LSTMCell(3), return_sequences=True)(x)
    stack = [layers.LSTMCell(3), layers.GRUCell(2, reset_after=False), layers.SimpleRNNCell(3)]
    h, *states = layers.RNN(stack, return_sequences=True, return_state=True)(h)
    h = layers.RNN(layers.GRUCell(3))(layers.Bidirectional(layers.RNN([layers.GRUCell(2), layers.LSTMCell(3)], True))(h))
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()([h, states[1], states[2]])))


@case()
def images_in_time():
    x = keras.Input((2, 6, 6, 2))
    h = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x)
    h, *states = layers.ConvLSTM2D(4, 3, strides=2, use_bias=False, return_state=True)(layers.BatchNormalization()(h))
    h = layers.Conv2D(3, 1, activation="relu")(layers.Concatenate()([h, states[1]]))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(h)))


@case()
def lines_and_volumes_in_time():
    x, y = keras.Input((3, 5, 2)), keras.Input((2, 3, 3, 3, 2))
    lines = layers.ConvLSTM1D(3, 2, recurrent_dropout=0.1)(x)
    both = layers.Bidirectional(layers.ConvLSTM1D(2, 2))(x)
    volumes = layers.ConvLSTM3D(3, 2)(y)
    h = layers.Concatenate()([layers.Flatten()(h) for h in (lines, both, volumes)])
    return keras.Model([x, y], layers.Dense(2)(h))


@case("linear", "linear", "linear", leaves_others=True)
def outputs():
    """The sequence and the states are the model's outputs, and so is a head."""
    x = keras.Input((3, 3))
    h, state, carry = layers.LSTM(3, return_sequences=True, return_state=True)(layers.Dense(4, activation="relu")(x))
    return keras.Model(x, [h, layers.Dense(2)(layers.GRU(4)(h)), carry])


@case(leaves_others=True)
def starts_from_an_input():
    x, state = keras.Input((3, 3)), keras.Input((4,))
    return keras.Model([x, state], layers.Dense(2)(layers.GRU(4)(layers.Dense(3)(x), initial_state=state)))
