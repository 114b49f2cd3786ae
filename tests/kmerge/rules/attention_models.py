"""Small transformers: a ViT and a text encoder, and the position embeddings that users add as weights.

Nothing here imports kmerge, so that a process without it can load what was saved.
"""

import functools

import keras
from keras import layers


@keras.saving.register_keras_serializable("tests")
class PositionEmbedding(layers.Layer):
    """Adds one trained vector for each place: a weight of shape (length, width)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.positions_initializer = keras.initializers.RandomNormal()

    def build(self, input_shape):
        self.positions = self.add_weight(
            shape=input_shape[1:], initializer=self.positions_initializer, name="positions"
        )

    def call(self, inputs):
        return inputs + self.positions


@keras.saving.register_keras_serializable("tests")
class TokenAndPositionEmbedding(layers.Layer):
    """The sum of two embeddings, as Keras' own example of a text transformer writes it."""

    def __init__(self, length: int, vocabulary: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.length, self.vocabulary, self.width = length, vocabulary, width
        self.token_emb = layers.Embedding(vocabulary, width)
        self.pos_emb = layers.Embedding(length, width)

    def build(self, input_shape):
        self.token_emb.build()
        self.pos_emb.build()

    def call(self, x):
        return self.token_emb(x) + self.pos_emb(keras.ops.arange(self.length))

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.width)

    def get_config(self):
        return super().get_config() | {"length": self.length, "vocabulary": self.vocabulary, "width": self.width}


@keras.saving.register_keras_serializable("tests")
class PatchEncoder(layers.Layer):
    """Projects patches and adds an embedding of their places, as Keras' own example of a ViT writes it."""

    def __init__(self, patches: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.width = patches, width
        self.projection = layers.Dense(width)
        self.position_embedding = layers.Embedding(patches, width)

    def build(self, input_shape):
        self.projection.build(input_shape)
        self.position_embedding.build()

    def call(self, patch):
        places = keras.ops.expand_dims(keras.ops.arange(self.patches), 0)
        return self.projection(patch) + self.position_embedding(places)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)

    def get_config(self):
        return super().get_config() | {"patches": self.patches, "width": self.width}


def normalized(x, norm: str):
    """`x` after BatchNormalization ("batch"), LayerNormalization ("layer") or nothing ("none")."""
    kinds = {"batch": functools.partial(layers.BatchNormalization, momentum=0.9), "layer": layers.LayerNormalization}
    return kinds[norm]()(x) if norm in kinds else x


def block(x, norm: str, heads: int = 2, key_dim: int = 3, hidden: int = 7, before: bool = True, **call):
    """Attention and an MLP, each around a residual; normalized `before` it (ViT) or after the sum (BERT)."""
    width, attend = x.shape[-1], layers.MultiHeadAttention(heads, key_dim)
    if before:
        h = normalized(x, norm)
        x = layers.Add()([x, attend(h, h, **call)])
        h = layers.Dense(hidden, activation="gelu")(normalized(x, norm))
        return layers.Add()([x, layers.Dense(width)(h)])
    x = normalized(layers.Add()([x, attend(x, x, **call)]), norm)
    h = layers.Dense(width)(layers.Dense(hidden, activation="relu")(x))
    return normalized(layers.Add()([x, h]), norm)


def vit(norm: str = "batch", width: int = 6, classes: int = 5, blocks: int = 2, **options) -> keras.Model:
    """Four patches of 4x4 pixels, some blocks, the mean over the patches."""
    image = keras.Input((8, 8, 1))
    h = layers.Reshape((-1, width))(layers.Conv2D(width, 4, 4)(image))  # (batch, patches, width)
    h = PositionEmbedding()(h)
    for _ in range(blocks):
        h = block(h, norm, **options)
    h = layers.GlobalAveragePooling1D()(normalized(h, norm))
    return keras.Model(image, layers.Dense(classes)(h))


def text_encoder(norm: str = "batch", mask_zero: bool = False, before: bool = True, **call) -> keras.Model:
    """Six tokens, zero for none, one block, the mean over the tokens that are there."""
    tokens = keras.Input((6,), dtype="int32")
    h = PositionEmbedding()(layers.Embedding(11, 6, mask_zero=mask_zero)(tokens))
    h = block(h, norm, before=before, **call)
    return keras.Model(tokens, layers.Dense(4)(layers.GlobalAveragePooling1D()(h)))
