"""Models with attention, one difficulty each, and the rules of the layers in them that are not Keras' own.

The models of `NORMS` are transformers; the others stand for one way each of using attention, EinsumDense or Embedding.
"""

import functools

import keras
from keras import layers, ops

import kmerge
from kmerge.rules.rule import channel, consumes, produces
from tests.kmerge.rules.attention_models import (
    PatchEncoder,
    PositionEmbedding,
    TokenAndPositionEmbedding,
    block,
    text_encoder,
    vit,
)
from tests.models import Entry

NORMS = ("none", "batch", "layer")


# Rules as users write them.


class PositionRule(kmerge.Rule):
    def walk(self, site, x):
        x = site.hold(x)
        site.weight("positions", None, channel(x.units))
        return x


class TokenAndPositionRule(kmerge.Rule):
    def walk(self, site, x):
        site.fix(x, "reads them as places of a sequence")
        units = site.own(site.layer.width)
        site.weight("token_emb/embeddings", None, produces(units))
        site.weight("pos_emb/embeddings", None, produces(units))
        return site.output(units)

    def changes(self, site, inputs, outputs):
        return {"width": len(outputs[0].units)}


class PatchRule(TokenAndPositionRule):
    def walk(self, site, x):
        units = site.own(site.layer.width)
        site.weight("projection/kernel", consumes(site.consume(x)), produces(units))
        site.weight("projection/bias", produces(units))
        site.weight("position_embedding/embeddings", None, produces(units))
        return site.output(units)


kmerge.register_rule(PositionEmbedding, PositionRule())
kmerge.register_rule(TokenAndPositionEmbedding, TokenAndPositionRule())
kmerge.register_rule(PatchEncoder, PatchRule())


# The models.

CASES: dict[str, Entry] = {}


def case(build, name: str | None = None):
    name = name or build.__name__
    CASES[name] = Entry(name, build, ("linear",))
    return build


for norm in NORMS:
    case(functools.partial(vit, norm), f"vit-{norm}")
    masked = norm != "layer"  # normalizing per source takes the channels apart, and a mask would be lost
    case(functools.partial(text_encoder, norm, mask_zero=masked), f"text-{norm}-before")
    case(functools.partial(text_encoder, norm, mask_zero=masked, before=False), f"text-{norm}-after")
case(text_encoder, "text-without-a-mask")
case(functools.partial(text_encoder, mask_zero=True, use_causal_mask=True), "text-causal")


def _sequence(h):
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(h))


@case
def cross_attention():
    """Query, value and key of three widths, named out of order, and an output of another width than the query."""
    a, b, c = keras.Input((5, 3)), keras.Input((4, 3)), keras.Input((4, 2))
    query, value, key = layers.Dense(6)(a), layers.Dense(5)(b), layers.Dense(4)(c)
    attend = layers.MultiHeadAttention(3, 2, value_dim=3, output_shape=7, use_bias=False, dropout=0.1)
    return keras.Model([a, b, c], _sequence(attend(value=value, query=query, key=key)))


@case
def attention_on_the_inputs():
    x, mask = keras.Input((4, 3)), keras.Input((4, 4), dtype="int32")
    return keras.Model([x, mask], layers.MultiHeadAttention(2, 3)(x, x, attention_mask=ops.greater(mask, 0)))


@case
def shared_attention():
    attend = layers.MultiHeadAttention(2, 3)
    x = h = keras.Input((4, 3))
    for _ in range(2):
        h = layers.Dense(6, activation="relu")(attend(layers.Dense(6)(h), h if h is not x else layers.Dense(6)(h)))
    return keras.Model(x, _sequence(h))


@case
def attention_over_rows():
    """Four axes; every column attends for itself, and the heads make an output of two axes."""
    x = keras.Input((4, 3, 2))
    h = layers.Dense(6)(x)
    h = layers.MultiHeadAttention(2, 3, attention_axes=1, use_gate=True)(h, h)
    h = layers.MultiHeadAttention(2, 3, output_shape=(2, 5))(h, h)  # (batch, 4, 3, 2, 5)
    return keras.Model(x, layers.Dense(3)(ops.mean(layers.Activation("relu")(h), axis=(1, 2, 3))))


def scores_as_an_output():
    x = keras.Input((4, 3))
    h = layers.Dense(6)(x)
    h, scores = layers.MultiHeadAttention(2, 3)(h, h, return_attention_scores=True)
    return keras.Model(x, [_sequence(h), layers.Conv2D(2, 1)(layers.Permute((2, 3, 1))(scores))])


CASES["scores_as_an_output"] = Entry("scores_as_an_output", scores_as_an_output, ("linear", "linear"))


@case
def grouped_queries():
    x = keras.Input((4, 3))
    h = layers.Dense(6)(x)
    for gate in (False, True):
        h = layers.Add()([h, layers.GroupQueryAttention(3, 6, 2, use_gate=gate)(h, h, use_causal_mask=gate)])
    return keras.Model(x, _sequence(h))


@case
def einsum_dense():
    x = keras.Input((4, 3))
    h = layers.EinsumDense("...x,xy->...y", 6, bias_axes="y", activation="relu")(x)
    h = layers.EinsumDense("btd,dhk->bthk", (None, 2, 5), bias_axes="hk")(h)  # (batch, 4, 2, 5)
    h = layers.EinsumDense("bthk,hkd->btd", (None, 7), bias_axes="d", activation="gelu")(h)
    h = layers.EinsumDense("btd,d->btd", (None, 7), bias_axes="d")(h)  # a scale for each channel
    h = layers.EinsumDense("ab...,bc->ac...", 5)(layers.Permute((2, 1))(h))  # (batch, 5, 4)
    return keras.Model(x, _sequence(layers.Permute((2, 1))(h)))


@case
def positions_as_an_input():
    tokens, places = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
    h = layers.Add()([layers.Embedding(11, 6, mask_zero=True)(tokens), layers.Embedding(6, 6)(places)])
    return keras.Model([tokens, places], _sequence(block(h, "batch")))


@case
def token_and_position():
    tokens = keras.Input((6,), dtype="int32")
    return keras.Model(tokens, _sequence(block(TokenAndPositionEmbedding(6, 11, 5)(tokens), "batch")))


@case
def patch_encoder():
    patches = keras.Input((4, 3))
    return keras.Model(patches, _sequence(block(PatchEncoder(4, 5)(patches), "batch")))
