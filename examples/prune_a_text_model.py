"""Prune a model of text: embeddings, attention and a feed-forward block.

    python -m examples.prune_a_text_model

The sentences are made up: a word of one kind somewhere before a word of another one makes the class.
"""

import keras
import numpy as np

import kmerge
from examples.digits import compiled

EPOCHS = 6
WORDS, LENGTH = 50, 12

rng = np.random.default_rng(0)
tokens = rng.integers(1, WORDS, (2_000, LENGTH))
first, second = (np.where((tokens % 10) == kind, np.arange(LENGTH), LENGTH).min(1) for kind in (1, 2))
labels = (first < second).astype("int32")


def text_model() -> keras.Model:
    """A transformer block over embeddings, with a mask for padding."""
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    x = keras.layers.Embedding(WORDS, 32, mask_zero=True, name="embedding")(words)
    x = keras.layers.Add(name="attended")([x, keras.layers.MultiHeadAttention(4, 8, name="attention")(x, x)])
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Add(name="fed")([x, keras.layers.Dense(32, name="down")(keras.layers.Dense(64, "relu", name="up")(x))])
    return keras.Model(words, keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling1D(name="pool")(x)))


keras.utils.set_random_seed(0)
model = compiled(text_model())
model.fit(tokens[:1600], labels[:1600], epochs=EPOCHS, verbose=0)
print(kmerge.channel_spaces(model))

small = compiled(kmerge.prune(model, "taylor", budget=0.5, data=(tokens[:512], labels[:512])))
after_cut = small.evaluate(tokens[1600:], labels[1600:], verbose=0, return_dict=True)["accuracy"]
small.fit(tokens[:1600], labels[:1600], epochs=EPOCHS, verbose=0)
accuracies = [net.evaluate(tokens[1600:], labels[1600:], verbose=0, return_dict=True)["accuracy"] for net in (model, small)]
print(f"{model.count_params():,} weights: {accuracies[0]:.3f}")
print(f"{small.count_params():,} weights: {after_cut:.3f} right after the cut, {accuracies[1]:.3f} fine-tuned")
