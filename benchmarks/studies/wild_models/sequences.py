"""Models of text, sound and time series, as public examples and papers write them."""

import keras
import numpy as np
from keras import layers, ops

from benchmarks.studies.wild_models.registry import wild

VOCABULARY, LENGTH = 20, 8


def _tokens(length=LENGTH):
    return keras.Input((length,), dtype="int32")


class TransformerBlock(layers.Layer):
    """Attention and a small network, each with dropout, a residual and a normalization."""

    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.config = {"embed_dim": embed_dim, "num_heads": num_heads, "ff_dim": ff_dim, "rate": rate}
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)])
        self.layernorm1, self.layernorm2 = (layers.LayerNormalization(epsilon=1e-6) for _ in range(2))
        self.dropout1, self.dropout2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, inputs):
        x = self.layernorm1(inputs + self.dropout1(self.att(inputs, inputs)))
        return self.layernorm2(x + self.dropout2(self.ffn(x)))

    def get_config(self):
        return {**super().get_config(), **self.config}


class TokenAndPositionEmbedding(layers.Layer):
    """What a token is, and where it stands."""

    def __init__(self, maxlen, vocab_size, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.config = {"maxlen": maxlen, "vocab_size": vocab_size, "embed_dim": embed_dim}
        self.token_emb = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x):
        return self.token_emb(x) + self.pos_emb(ops.arange(0, ops.shape(x)[-1], 1))

    def get_config(self):
        return {**super().get_config(), **self.config}


@wild("keras.io, text classification with transformer")
def text_transformer() -> keras.Model:
    tokens = _tokens()
    x = TransformerBlock(8, 2, 12)(TokenAndPositionEmbedding(LENGTH, VOCABULARY, 8)(tokens))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.1)(layers.Dense(10, activation="relu")(x))
    return keras.Model(tokens, layers.Dense(2, activation="softmax")(x))


@wild("keras.io, text generation with a miniature GPT")
def miniature_gpt() -> keras.Model:
    tokens = _tokens()
    x = TokenAndPositionEmbedding(LENGTH, VOCABULARY, 8)(tokens)
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True)
        x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(attended))
        h = layers.Dense(8)(layers.Dense(12, activation="relu")(x))
        x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(h))
    return keras.Model(tokens, [layers.Dense(VOCABULARY)(x), x])


@wild("keras.io, text classification from scratch: strings in, by TextVectorization")
def text_from_scratch() -> keras.Model:
    words = [f"w{index}" for index in range(15)] + ["a", "b"]
    vectorize = layers.TextVectorization(max_tokens=VOCABULARY, output_sequence_length=LENGTH + 4, vocabulary=words)
    text = keras.Input((1,), dtype="string")
    x = layers.Dropout(0.5)(layers.Embedding(VOCABULARY, 8)(vectorize(text)))
    for _ in range(2):
        x = layers.Conv1D(8, 3, padding="same", activation="relu", strides=2)(x)
    x = layers.Dense(10, activation="relu")(layers.GlobalMaxPooling1D()(x))
    return keras.Model(text, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.5)(x)))


@wild("keras.io, bidirectional LSTM on IMDB")
def bidirectional_lstm() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 8)(tokens)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(6))(x)
    return keras.Model(tokens, layers.Dense(1, activation="sigmoid")(x))


@wild("keras.io, sequence-to-sequence with LSTM")
def seq2seq() -> keras.Model:
    source, target = keras.Input((None, 6)), keras.Input((None, 5))
    _, *state = layers.LSTM(8, return_state=True)(source)
    decoded, _, _ = layers.LSTM(8, return_sequences=True, return_state=True)(target, initial_state=state)
    return keras.Model([source, target], layers.Dense(5, activation="softmax")(decoded))


@wild("Bahdanau et al. 2015, translation with additive attention over a masked GRU")
def seq2seq_attention() -> keras.Model:
    source, target = _tokens(), _tokens()
    words = [layers.Embedding(VOCABULARY, 8, mask_zero=True)(tokens) for tokens in (source, target)]
    encoded = layers.Bidirectional(layers.GRU(6, return_sequences=True))(words[0])
    decoded = layers.GRU(12, return_sequences=True)(words[1])
    context = layers.AdditiveAttention()([decoded, encoded])
    return keras.Model([source, target], layers.Dense(VOCABULARY)(layers.Concatenate()([decoded, context])))


@wild("Hidasi et al. 2016, GRU4Rec")
def gru4rec() -> keras.Model:
    items = _tokens()
    x = layers.GRU(10, return_sequences=True)(layers.Dropout(0.2)(layers.Embedding(VOCABULARY, 8)(items)))
    return keras.Model(items, layers.Dense(VOCABULARY, activation="softmax")(layers.GRU(8)(x)))


@wild("Kang & McAuley 2018, SASRec")
def sasrec() -> keras.Model:
    items = _tokens()
    x = layers.Embedding(VOCABULARY, 8)(items) * 8**0.5 + layers.Embedding(LENGTH, 8)(ops.arange(LENGTH))
    for _ in range(2):
        query = layers.LayerNormalization(epsilon=1e-8)(x)
        x = query + layers.MultiHeadAttention(1, 8)(query, x, use_causal_mask=True)
        h = layers.Conv1D(8, 1)(layers.Conv1D(8, 1, activation="relu")(layers.LayerNormalization(epsilon=1e-8)(x)))
        x = layers.Add()([x, layers.Dropout(0.2)(h)])
    return keras.Model(items, layers.Dense(VOCABULARY)(layers.LayerNormalization(epsilon=1e-8)(x)[:, -1]))


@wild("Kim 2014, convolutions of several widths over words")
def text_cnn() -> keras.Model:
    tokens = _tokens()
    x = layers.SpatialDropout1D(0.2)(layers.Embedding(VOCABULARY, 8)(tokens))
    pooled = [layers.GlobalMaxPooling1D()(layers.Conv1D(6, size, activation="relu")(x)) for size in (2, 3, 4)]
    return keras.Model(tokens, layers.Dense(3, activation="softmax")(layers.Dropout(0.5)(layers.concatenate(pooled))))


@wild("Yang et al. 2016, attention over the words of a GRU")
def word_attention() -> keras.Model:
    tokens = _tokens()
    h = layers.Bidirectional(layers.GRU(6, return_sequences=True))(layers.Embedding(VOCABULARY, 8)(tokens))
    weights = layers.Softmax(axis=1)(layers.Dense(1, use_bias=False)(layers.Dense(8, activation="tanh")(h)))
    return keras.Model(tokens, layers.Dense(3, activation="softmax")(ops.sum(weights * h, axis=1)))


@wild("keras.io, OCR for captchas: convolutions, then recurrent layers (CRNN)")
def crnn() -> keras.Model:
    image = x = keras.Input((24, 8, 1))
    for filters in (6, 8):
        x = layers.Conv2D(filters, 3, activation="relu", kernel_initializer="he_normal", padding="same")(x)
        x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Dropout(0.2)(layers.Dense(10, activation="relu")(layers.Reshape((6, 16))(x)))
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True, dropout=0.25))(x)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True, dropout=0.25))(x)
    return keras.Model(image, layers.Dense(11, activation="softmax")(x))


@wild("Hannun et al. 2014, Deep Speech 2")
def deep_speech() -> keras.Model:
    sound = keras.Input((None, 12))
    x = layers.Reshape((-1, 12, 1))(sound)
    x = layers.Conv2D(6, (5, 3), (2, 2), padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for _ in range(2):
        x = layers.Bidirectional(layers.GRU(6, return_sequences=True, reset_after=True))(x)
    x = layers.ReLU()(layers.Dense(12)(x))
    return keras.Model(sound, layers.Dense(10, activation="softmax")(layers.Dropout(0.5)(x)))


@wild("van den Oord et al. 2016, WaveNet")
def wavenet() -> keras.Model:
    wave = keras.Input((32, 1))
    x, skips = layers.Conv1D(8, 2, padding="causal")(wave), []
    for rate in (1, 2, 4):
        tanh = layers.Conv1D(8, 2, dilation_rate=rate, padding="causal", activation="tanh")(x)
        gate = layers.Conv1D(8, 2, dilation_rate=rate, padding="causal", activation="sigmoid")(x)
        h = layers.Conv1D(8, 1)(layers.Multiply()([tanh, gate]))
        skips.append(h)
        x = layers.Add()([x, h])
    x = layers.Conv1D(10, 1, activation="relu")(layers.ReLU()(layers.Add()(skips)))
    return keras.Model(wave, layers.Conv1D(12, 1, activation="softmax")(x))


@wild("Bai et al. 2018, temporal convolutional network by hand")
def temporal_convolution() -> keras.Model:
    series = x = keras.Input((24, 3))
    for rate in (1, 2, 4):
        h = x
        for _ in range(2):
            h = layers.Conv1D(8, 3, dilation_rate=rate, padding="causal", activation="relu")(h)
            h = layers.SpatialDropout1D(0.1)(h)
        x = layers.ReLU()(layers.Add()([h, layers.Conv1D(8, 1)(x) if x.shape[-1] != 8 else x]))
    return keras.Model(series, layers.Dense(1)(x[:, -1, :]))


@wild("keras.io, time series classification from scratch")
def series_convnet() -> keras.Model:
    series = x = keras.Input((24, 1))
    for _ in range(3):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(8, 3, padding="same")(x)))
    return keras.Model(series, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


@wild("keras.io, time series classification with a transformer")
def series_transformer() -> keras.Model:
    series = x = keras.Input((16, 1))
    for _ in range(2):
        h = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(0.2)(layers.MultiHeadAttention(2, 4)(x, x)))
        h = h + x
        x = layers.Conv1D(1, 1)(layers.Dropout(0.2)(layers.Conv1D(4, 1, activation="relu")(h)))
        x = layers.LayerNormalization(epsilon=1e-6)(x) + h
    x = layers.GlobalAveragePooling1D(data_format="channels_first")(x)
    return keras.Model(series, layers.Dense(2, activation="softmax")(layers.Dense(12, activation="relu")(x)))


@wild("Oreshkin et al. 2020, N-BEATS")
def nbeats() -> keras.Model:
    series = backcast = keras.Input((12,))
    forecast = None
    for _ in range(3):
        h = backcast
        for _ in range(2):
            h = layers.Dense(10, activation="relu")(h)
        theta = layers.Dense(16)(h)
        backcast = layers.subtract([backcast, theta[:, :12]])
        forecast = theta[:, 12:] if forecast is None else layers.add([forecast, theta[:, 12:]])
    return keras.Model(series, forecast)


@wild("Chen et al. 2023, TSMixer")
def tsmixer() -> keras.Model:
    series = x = keras.Input((12, 3))
    for _ in range(2):
        h = layers.Permute((2, 1))(layers.BatchNormalization()(x))
        h = layers.Dropout(0.1)(layers.Permute((2, 1))(layers.Dense(12, activation="relu")(h)))
        x = h + x
        h = layers.Dropout(0.1)(layers.Dense(8, activation="relu")(layers.BatchNormalization()(x)))
        x = layers.Dropout(0.1)(layers.Dense(3)(h)) + x
    return keras.Model(series, ops.transpose(layers.Dense(4)(ops.transpose(x, (0, 2, 1))), (0, 2, 1)))


@wild("Zeng et al. 2023, DLinear")
def dlinear() -> keras.Model:
    series = keras.Input((12, 3))
    padded = ops.concatenate([ops.repeat(series[:, :1], 2, axis=1), series, ops.repeat(series[:, -1:], 2, axis=1)], axis=1)
    trend = layers.AveragePooling1D(5, 1)(padded)
    parts = [layers.Dense(4)(layers.Permute((2, 1))(part)) for part in (series - trend, trend)]
    return keras.Model(series, layers.Permute((2, 1))(layers.Add()(parts)))


@wild("Nie et al. 2023, PatchTST with instance normalization of its inputs")
def patchtst() -> keras.Model:
    series = keras.Input((16, 1))
    mean = ops.mean(series, axis=1, keepdims=True)
    deviation = ops.std(series, axis=1, keepdims=True) + 1e-5
    x = layers.Dense(8)(ops.reshape((series - mean) / deviation, (-1, 4, 4)))
    x = x + layers.Embedding(4, 8)(ops.arange(4))
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(8)(layers.Dense(12, activation="gelu")(x)))
    return keras.Model(series, ops.expand_dims(layers.Dense(4)(layers.Flatten()(x)), -1) * deviation + mean)


@wild("Vaswani et al. 2017, encoder with sinusoidal places and attention written out")
def attention_written_out() -> keras.Model:
    places = np.arange(LENGTH)[:, None] / 10000.0 ** (np.arange(0, 8, 2) / 8)
    places = np.concatenate([np.sin(places), np.cos(places)], axis=-1).astype("float32")
    tokens = _tokens()
    x = layers.Embedding(VOCABULARY, 8)(tokens) + places
    q, k, v = (ops.transpose(ops.reshape(layers.Dense(8)(x), (-1, LENGTH, 2, 4)), (0, 2, 1, 3)) for _ in range(3))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0, axis=-1)
    h = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, LENGTH, 8))
    x = layers.LayerNormalization()(x + layers.Dense(8)(h))
    x = layers.LayerNormalization()(x + layers.Dense(8)(layers.Dense(16, activation="relu")(x)))
    return keras.Model(tokens, layers.Dense(2)(ops.mean(x, axis=1)))


@wild("keras.io, speaker recognition by residual 1D convolutions")
def speaker_recognition() -> keras.Model:
    sound = x = keras.Input((64, 1))
    for filters, count in ((4, 2), (6, 2), (8, 3)):
        s = layers.Conv1D(filters, 1, padding="same")(x)
        for _ in range(count - 1):
            x = layers.Activation("relu")(layers.Conv1D(filters, 3, padding="same")(x))
        x = layers.Add()([layers.Conv1D(filters, 3, padding="same")(x), s])
        x = layers.MaxPool1D(pool_size=2, strides=2)(layers.Activation("relu")(x))
    x = layers.Flatten()(layers.AveragePooling1D(pool_size=3, strides=3)(x))
    return keras.Model(sound, layers.Dense(5, activation="softmax")(layers.Dense(12, activation="relu")(x)))


@wild("keras.io, video classification: frames by a CNN, then GRU with a mask")
def video_gru() -> keras.Model:
    frames, mask = keras.Input((6, 10)), keras.Input((6,), dtype="bool", name="frames_mask")
    x = layers.GRU(8, return_sequences=True)(frames, mask=mask)
    x = layers.Dropout(0.4)(layers.GRU(6)(x))
    return keras.Model([frames, mask], layers.Dense(4, activation="softmax")(layers.Dense(8, activation="relu")(x)))


@wild("keras.io, video classification: a CNN on each frame by TimeDistributed")
def video_time_distributed() -> keras.Model:
    video = keras.Input((4, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"))(video)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    return keras.Model(video, layers.Dense(3)(layers.LSTM(6)(x)))
