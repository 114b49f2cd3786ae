"""Small transformers: a ViT and a text encoder, and the position embeddings that users add as weights.

Nothing here imports kmerge, so that a process without it can load what was saved.
"""

import keras
import numpy as np
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

    def get_config(self):
        return super().get_config() | {"length": self.length, "vocabulary": self.vocabulary, "width": self.width}


def _normalised(x, norm: str):
    kinds = {"none": layers.Identity, "batch": layers.BatchNormalization, "layer": layers.LayerNormalization}
    return kinds[norm]()(x)


def block(x, norm: str, heads: int = 2, key_dim: int = 3, hidden: int = 7, before: bool = True, **call):
    """Attention and an MLP, each around a residual; `before`: normalised before (ViT) or after (BERT) the sum."""
    width = x.shape[-1]
    attend = layers.MultiHeadAttention(heads, key_dim)
    if before:
        h = _normalised(x, norm)
        x = layers.Add()([x, attend(h, h, **call)])
        h = layers.Dense(hidden, activation="gelu")(_normalised(x, norm))
        return layers.Add()([x, layers.Dense(width)(h)])
    x = _normalised(layers.Add()([x, attend(x, x, **call)]), norm)
    h = layers.Dense(width)(layers.Dense(hidden, activation="relu")(x))
    return _normalised(layers.Add()([x, h]), norm)


def vit(
    norm: str = "batch", width: int = 6, size: int = 8, blocks: int = 2, classes: int = 5, **options
) -> keras.Model:
    image = keras.Input((size, size, 1))
    h = layers.Conv2D(width, 4, 4 if size > 8 else 2)(image)
    h = layers.Reshape((-1, width))(h)  # (batch, patches, width)
    h = PositionEmbedding()(h)
    for _ in range(blocks):
        h = block(h, norm, **options)
    h = layers.GlobalAveragePooling1D()(_normalised(h, norm))
    return keras.Model(image, layers.Dense(classes)(h))


def text_encoder(norm: str = "batch", mask_zero: bool = False, before: bool = True, **call) -> keras.Model:
    tokens = keras.Input((6,), dtype="int32")
    h = PositionEmbedding()(layers.Embedding(11, 6, mask_zero=mask_zero)(tokens))
    for _ in range(2):
        h = block(h, norm, before=before, **call)
    return keras.Model(tokens, layers.Dense(4)(layers.GlobalAveragePooling1D()(h)))


def example_tokens(batch: int = 5, length: int = 6, vocabulary: int = 11, seed: int = 0) -> np.ndarray:
    """Sentences of different lengths, padded with zeros."""
    rng = np.random.default_rng([seed, 24])
    tokens = rng.integers(1, vocabulary, (batch, length))
    lengths = rng.integers(2, length + 1, (batch, 1))
    return np.where(np.arange(length) < lengths, tokens, 0).astype("int32")
