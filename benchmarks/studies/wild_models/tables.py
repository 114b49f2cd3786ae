"""Models of tables, for recommendation and for decisions, as public examples and papers write them."""

import keras
import numpy as np
from keras import layers, ops

from benchmarks.studies.wild_models.registry import wild

WORDS = ["a", "b", "c", "d"]


def _table():
    """Three numbers and two categories, as the guides have them: inputs of one value each."""
    numbers = [keras.Input((1,), name=name) for name in ("age", "income", "hours")]
    categories = [keras.Input((1,), dtype="string", name=name) for name in ("job", "town")]
    return numbers, categories


def _embedded(category, width):
    index = layers.StringLookup(vocabulary=WORDS, mask_token=None, num_oov_indices=1)(category)
    return layers.Embedding(len(WORDS) + 1, width)(index)


def _encoded(numbers, categories):
    normal = [layers.Normalization(mean=0.3, variance=2.0)(number) for number in numbers]
    lookups = [layers.StringLookup(vocabulary=WORDS, output_mode="one_hot")(category) for category in categories]
    return layers.concatenate([*normal, *lookups])


@wild("keras.io, structured data classification from scratch")
def structured_data() -> keras.Model:
    numbers, categories = _table()
    x = layers.Dense(12, activation="relu")(_encoded(numbers, categories))
    return keras.Model([*numbers, *categories], layers.Dense(1, activation="sigmoid")(layers.Dropout(0.5)(x)))


@wild("keras.io, structured data: wide & deep")
def wide_and_deep() -> keras.Model:
    numbers, categories = _table()
    wide = layers.BatchNormalization()(_encoded(numbers, categories))
    deep = layers.concatenate([*numbers, *(layers.Flatten()(_embedded(category, 4)) for category in categories)])
    for units in (12, 8):
        deep = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(deep))))
    return keras.Model([*numbers, *categories], layers.Dense(3, activation="softmax")(layers.concatenate([wide, deep])))


@wild("keras.io, structured data: deep & cross")
def deep_and_cross() -> keras.Model:
    numbers, categories = _table()
    x0 = layers.concatenate([*numbers, *(layers.Flatten()(_embedded(category, 3)) for category in categories)])
    cross = x0
    for _ in range(2):
        cross = x0 * layers.Dense(x0.shape[-1])(cross) + cross
    cross = layers.BatchNormalization()(cross)
    deep = layers.Dense(8, activation="relu")(layers.Dense(12, activation="relu")(x0))
    return keras.Model([*numbers, *categories], layers.Dense(3, activation="softmax")(layers.concatenate([cross, deep])))


@wild("keras.io, structured data with gated residual and variable selection networks")
def variable_selection() -> keras.Model:
    width, features = 6, keras.Input((4, 3))

    def gated(x):
        h = layers.Dropout(0.1)(layers.Dense(width)(layers.Dense(width, activation="elu")(x)))
        shortcut = x if x.shape[-1] == width else layers.Dense(width)(x)
        h = layers.Dense(width)(h) * layers.Dense(width, activation="sigmoid")(h)
        return layers.LayerNormalization()(shortcut + h)

    each = [gated(features[:, index]) for index in range(4)]
    weights = layers.Dense(4, activation="softmax")(gated(layers.concatenate(each)))
    chosen = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), ops.stack(each, axis=1)), axis=1)
    return keras.Model(features, layers.Dense(1, activation="sigmoid")(chosen))


@wild("keras.io, structured data learning with TabTransformer")
def tab_transformer() -> keras.Model:
    numbers, categories = _table()
    x = ops.concatenate([_embedded(category, 8) for category in categories], axis=1)
    x = x + layers.Embedding(2, 8)(ops.arange(2))
    for _ in range(2):
        h = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([layers.MultiHeadAttention(2, 8, dropout=0.1)(x, x), x]))
        f = layers.Dropout(0.1)(layers.Dense(8, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(h)))
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([f, h]))
    numeric = layers.LayerNormalization(epsilon=1e-6)(layers.concatenate(numbers))
    x = layers.concatenate([layers.Flatten()(x), numeric])
    for units in (16, 8):
        x = layers.Dropout(0.2)(layers.Dense(units, activation="selu")(layers.BatchNormalization()(x)))
    return keras.Model([*numbers, *categories], layers.Dense(1, activation="sigmoid")(x))


@wild("Gorishniy et al. 2021, FT-Transformer")
def ft_transformer() -> keras.Model:
    row = keras.Input((5,))
    x = ops.expand_dims(row, -1) * layers.Embedding(5, 8)(ops.arange(5)) + layers.Embedding(5, 8)(ops.arange(5))
    start = ops.zeros_like(x[:, :1]) + layers.Embedding(1, 8)(ops.arange(1))
    x = ops.concatenate([start, x], axis=1)
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 4)(h, h)
        h = layers.Dense(24)(layers.LayerNormalization()(x))
        x = x + layers.Dense(8)(h[..., :12] * ops.relu(h[..., 12:]))
    return keras.Model(row, layers.Dense(1)(ops.relu(layers.LayerNormalization()(x[:, 0]))))


@wild("Gorishniy et al. 2021, ResNet for tables")
def table_resnet() -> keras.Model:
    row = keras.Input((6,))
    x = layers.Dense(10)(row)
    for _ in range(2):
        h = layers.Dense(16, activation="relu")(layers.BatchNormalization()(x))
        x = layers.add([x, layers.Dropout(0.1)(layers.Dense(10)(layers.Dropout(0.1)(h)))])
    return keras.Model(row, layers.Dense(3)(layers.ReLU()(layers.BatchNormalization()(x))))


@wild("Klambauer et al. 2017, self-normalizing network")
def self_normalizing() -> keras.Model:
    row = x = keras.Input((6,))
    for _ in range(3):
        x = layers.Dense(12, activation="selu", kernel_initializer="lecun_normal")(x)
        x = layers.AlphaDropout(0.1)(x)
    return keras.Model(row, layers.Dense(2, activation="softmax")(x))


@wild("Guo et al. 2017, DeepFM")
def deep_fm() -> keras.Model:
    ids = keras.Input((4,), dtype="int32")
    embedded = layers.Embedding(10, 6)(ids)
    linear = ops.sum(layers.Embedding(10, 1)(ids), axis=1)
    squared = ops.square(ops.sum(embedded, axis=1)) - ops.sum(ops.square(embedded), axis=1)
    deep = layers.Dense(12, activation="relu")(layers.Flatten()(embedded))
    deep = layers.Dense(1)(layers.Dense(8, activation="relu")(deep))
    return keras.Model(ids, ops.sigmoid(linear + 0.5 * ops.sum(squared, axis=1, keepdims=True) + deep))


@wild("Naumov et al. 2019, DLRM")
def dlrm() -> keras.Model:
    dense, ids = keras.Input((5,)), keras.Input((3,), dtype="int32")
    bottom = layers.Dense(6, activation="relu")(layers.Dense(10, activation="relu")(dense))
    embedded = layers.Embedding(10, 6)(ids)
    features = ops.concatenate([ops.expand_dims(bottom, 1), embedded], axis=1)
    products = layers.Flatten()(ops.matmul(features, ops.transpose(features, (0, 2, 1))))
    x = layers.Dense(10, activation="relu")(layers.concatenate([bottom, products]))
    return keras.Model([dense, ids], layers.Dense(1, activation="sigmoid")(x))


@wild("He et al. 2017, neural collaborative filtering (NeuMF)")
def neural_matrix_factorization() -> keras.Model:
    user, item = keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")
    flat = [[layers.Flatten()(layers.Embedding(10, width)(ids)) for ids in (user, item)] for width in (6, 8)]
    product = layers.Multiply()(flat[0])
    deep = layers.Concatenate()(flat[1])
    for units in (12, 8):
        deep = layers.Dense(units, activation="relu")(deep)
    both = layers.Concatenate()([product, deep])
    return keras.Model([user, item], layers.Dense(1, activation="sigmoid")(both))


@wild("keras.io, collaborative filtering: two towers and their dot product")
def two_towers() -> keras.Model:
    user, movie = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    towers = [layers.Dense(8)(layers.Dense(12, activation="relu")(layers.Embedding(10, 6)(ids))) for ids in (user, movie)]
    match = layers.Dot(axes=1, normalize=True)(towers)
    biases = [layers.Embedding(10, 1)(ids) for ids in (user, movie)]
    return keras.Model([user, movie], ops.sigmoid(layers.add([match, *biases])))


@wild("Koch et al. 2015, siamese network by the distance of its embeddings")
def siamese_distance() -> keras.Model:
    image = keras.Input((10, 10, 1))
    x = layers.AveragePooling2D(2)(layers.Conv2D(4, 3, activation="tanh")(layers.BatchNormalization()(image)))
    embed = keras.Model(image, layers.Dense(8, activation="tanh")(layers.BatchNormalization()(layers.Flatten()(x))))
    left, right = keras.Input((10, 10, 1)), keras.Input((10, 10, 1))
    square = ops.sum(ops.square(embed(left) - embed(right)), axis=1, keepdims=True)
    distance = ops.sqrt(ops.maximum(square, keras.config.epsilon()))
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(layers.BatchNormalization()(distance)))


@wild("Wang et al. 2016, dueling DQN")
def dueling_dqn() -> keras.Model:
    frames = keras.Input((16, 16, 4))
    x = layers.Rescaling(1 / 255)(frames)
    for filters, size, strides in ((6, 4, 2), (8, 3, 1)):
        x = layers.Conv2D(filters, size, strides, activation="relu")(x)
    x = layers.Flatten()(x)
    value = layers.Dense(1)(layers.Dense(8, activation="relu")(x))
    advantage = layers.Dense(4)(layers.Dense(8, activation="relu")(x))
    return keras.Model(frames, value + advantage - ops.mean(advantage, axis=1, keepdims=True))


@wild("keras.io, actor-critic")
def actor_critic() -> keras.Model:
    state = keras.Input((4,))
    common = layers.Dense(12, activation="relu")(state)
    return keras.Model(state, [layers.Dense(2, activation="softmax")(common), layers.Dense(1)(common)])


@wild("keras.io, deep deterministic policy gradient: a critic of state and action")
def ddpg_critic() -> keras.Model:
    state, action = keras.Input((3,)), keras.Input((2,))
    s = layers.Dense(10, activation="relu")(layers.Dense(8, activation="relu")(state))
    a = layers.Dense(10, activation="relu")(action)
    x = layers.Dense(12, activation="relu")(layers.Concatenate()([s, a]))
    return keras.Model([state, action], layers.Dense(1)(layers.Dense(12, activation="relu")(x)))


@wild("Ma et al. 2018, multi-gate mixture of experts")
def mixture_of_experts() -> keras.Model:
    row = keras.Input((6,))
    experts = ops.stack([layers.Dense(8, activation="relu")(row) for _ in range(3)], axis=1)
    outputs = []
    for _ in range(2):
        gate = layers.Dense(3, activation="softmax")(row)
        mixed = ops.sum(experts * ops.expand_dims(gate, -1), axis=1)
        outputs.append(layers.Dense(1, activation="sigmoid")(layers.Dense(6, activation="relu")(mixed)))
    return keras.Model(row, outputs)


@wild("Jacobs et al., highway network with maxout")
def highway_maxout() -> keras.Model:
    row = keras.Input((6,))
    x = layers.Dense(8)(row)
    for _ in range(2):
        gate = layers.Dense(8, activation="sigmoid", bias_initializer=keras.initializers.Constant(-1.0))(x)
        h = ops.max(ops.reshape(layers.Dense(16)(x), (-1, 8, 2)), axis=-1)
        x = gate * h + (1 - gate) * x
    return keras.Model(row, layers.Dense(3, activation="softmax")(x))


@wild("Kipf & Welling 2017, graph convolution over a dense adjacency matrix")
def graph_convolution() -> keras.Model:
    nodes, adjacency = keras.Input((6, 5)), keras.Input((6, 6))
    x = nodes
    for units in (8, 6):
        x = ops.relu(ops.matmul(adjacency, layers.Dense(units, use_bias=False)(x)))
    return keras.Model([nodes, adjacency], layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@wild("Tancik et al. 2020, Fourier features before an MLP")
def fourier_features() -> keras.Model:
    matrix = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    place = keras.Input((2,))
    projected = ops.matmul(place, matrix)
    x = ops.concatenate([ops.sin(projected), ops.cos(projected)], axis=-1)
    for _ in range(2):
        x = layers.Dense(12, activation="relu")(x)
    return keras.Model(place, layers.Dense(3, activation="sigmoid")(x))
