"""Random graphs with pieces that kmerge may not follow: every verb gives an exact result, or refuses. Never a wrong one."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import layers, ops

import kmerge
from tests import checks
from tests.kmerge.spaces.test_random_graphs import COMMON, MAPS, Builder, few
from tests.models import example_inputs, randomize

pytestmark = [
    pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning"),
    pytest.mark.filterwarnings("ignore::kmerge.OpenedLayerWarning"),
]

WILD = [
    "softmax", "softmax_activation", "mean_of_channels", "centred", "array_constant", "list_constant", "cumulative_sum",
    "reverse", "every_second", "shuffle", "one_channel", "channels_padded", "tiled", "repeated", "stacked", "sorted_channels",
    "dot", "outer", "unknown_layer", "function_layer", "overridden", "norm", "argmax", "where", "attended",
    "folded", "unfolded", "mixed_over_rows", "rows_into_channels", "split_unevenly", "rolled", "scaled_by_maximum",
    "largest", "plain_attention", "recurrent",
]  # fmt: skip


@keras.saving.register_keras_serializable("tests")
class Reversed(layers.Layer):
    def call(self, x):
        return ops.flip(x, axis=-1)


@keras.saving.register_keras_serializable("tests")
class SquaredDense(layers.Dense):
    def call(self, x):
        return ops.cumsum(super().call(x), axis=-1)


@keras.saving.register_keras_serializable("tests")
def halved_reverse(x):
    return 0.5 * ops.flip(x, axis=-1)


class WildBuilder(Builder):
    """Adds what mixes, reorders or repeats channels in ways that a rule has to prove or refuse."""

    def softmax(self, x, y, width):
        return layers.Softmax()(x)

    def softmax_activation(self, x, y, width):
        return layers.Activation("softmax")(x)

    def mean_of_channels(self, x, y, width):
        return ops.mean(x, axis=-1, keepdims=True)

    def centred(self, x, y, width):
        return x - ops.mean(x, axis=-1, keepdims=True)

    def array_constant(self, x, y, width):
        return x * np.linspace(0.5, 1.5, x.shape[-1]).astype("float32")

    def list_constant(self, x, y, width):
        return ops.add(x, [float(i) for i in range(x.shape[-1])])

    def cumulative_sum(self, x, y, width):
        return ops.cumsum(x, axis=-1)

    def reverse(self, x, y, width):
        return ops.flip(x, axis=-1) if width % 2 else x[..., ::-1]

    def every_second(self, x, y, width):
        return x[..., ::2]

    def shuffle(self, x, y, width):
        return ops.take(x, np.random.default_rng(width).integers(0, x.shape[-1], width + 1).tolist(), axis=-1)

    def one_channel(self, x, y, width):
        return ops.expand_dims(x[..., width % x.shape[-1]], axis=-1)

    def channels_padded(self, x, y, width):
        return ops.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(0, width)])

    def tiled(self, x, y, width):
        return ops.tile(x, (1,) * (len(x.shape) - 1) + (2,))

    def repeated(self, x, y, width):
        return ops.repeat(x, 2, axis=-1)

    def stacked(self, x, y, width):
        both = ops.stack([x, self.fitted(y, x.shape[-1])], axis=-1 if width % 2 else 1)
        return ops.reshape(both, (-1, *x.shape[1:-1], 2 * x.shape[-1]))

    def sorted_channels(self, x, y, width):
        return ops.sort(x, axis=-1)

    def dot(self, x, y, width):
        return x + ops.sum(x * self.fitted(y, x.shape[-1]), axis=-1, keepdims=True)

    def outer(self, x, y, width):
        both = ops.expand_dims(x, -1) * ops.expand_dims(self.make(2)(y), -2)
        return ops.reshape(both, (-1, *x.shape[1:-1], 2 * x.shape[-1]))

    def unknown_layer(self, x, y, width):
        return Reversed()(x)

    def function_layer(self, x, y, width):
        return layers.Lambda(halved_reverse)(x)

    def overridden(self, x, y, width):
        return SquaredDense(width + 1)(x)

    def norm(self, x, y, width):
        return layers.UnitNormalization()(x)

    def argmax(self, x, y, width):
        return x + ops.cast(ops.expand_dims(ops.argmax(x, axis=-1), -1), "float32")

    def where(self, x, y, width):
        return ops.where(x > 0.0, x, self.fitted(y, x.shape[-1]))

    def attended(self, x, y, width):
        rows = ops.reshape(x, (-1, int(np.prod(x.shape[1:-1])), x.shape[-1]))
        weights = ops.softmax(ops.matmul(rows, ops.transpose(rows, (0, 2, 1))), axis=-1)
        return ops.reshape(ops.matmul(weights, rows), (-1, *x.shape[1:]))

    def folded(self, x, y, width):
        """Half of the channels each become a row, and then all of them one again."""
        h = self.make(2 * width)(x)
        rows = ops.reshape(h, (-1, *h.shape[1:-1], 2, width))
        return ops.reshape(layers.Dense(width + 1, activation="tanh")(rows), (-1, *h.shape[1:-1], 2 * width + 2))

    def unfolded(self, x, y, width):
        """A channel shuffle in two groups."""
        h = self.make(2 * width)(x)
        rows = ops.swapaxes(ops.reshape(h, (-1, *h.shape[1:-1], 2, width)), -1, -2)
        return ops.reshape(rows, (-1, *h.shape[1:]))

    def mixed_over_rows(self, x, y, width):
        if not self.maps:
            return x
        turned = ops.transpose(x, (0, 1, 3, 2))
        return ops.transpose(layers.Dense(4, activation="relu")(turned), (0, 1, 3, 2))

    def rows_into_channels(self, x, y, width):
        """Space to depth and back: pixels of a row become channels, are mixed, and become pixels again."""
        if not self.maps:
            return x
        wide = ops.reshape(x, (-1, x.shape[1], x.shape[2] // 2, 2 * x.shape[3]))
        return ops.reshape(self.make(2 * width)(wide), (-1, x.shape[1], x.shape[2], width))

    def split_unevenly(self, x, y, width):
        h = self.make(2 + width)(x)
        first, second = ops.split(h, [1 + width // 2], axis=-1)
        return ops.concatenate([second, first, second], axis=-1)

    def rolled(self, x, y, width):
        return ops.roll(x, width, axis=-1)

    def scaled_by_maximum(self, x, y, width):
        return x / (1.0 + ops.max(ops.abs(x)))


    def largest(self, x, y, width):
        """With and without negative numbers among the channels."""
        h = ops.relu(y) if width % 2 else y
        return ops.concatenate([x, ops.max(h * self.make(1, "sigmoid")(x), axis=-1, keepdims=True)], axis=-1)

    def rows(self, x):
        return ops.reshape(x, (-1, int(np.prod(x.shape[1:-1])), x.shape[-1]))

    def plain_attention(self, x, y, width):
        kind = layers.AdditiveAttention() if width % 2 else layers.Attention(use_scale=True)
        query, value = self.rows(x), self.rows(self.fitted(y, x.shape[-1]))
        found = kind([query, value, query] if width > 2 else [query, value])
        return ops.reshape(found, (-1, *x.shape[1:]))

    def recurrent(self, x, y, width):
        kind = (layers.SimpleRNN, layers.GRU, layers.LSTM)[width % 3]
        return ops.reshape(kind(width, return_sequences=True)(self.rows(x)), (-1, *x.shape[1:-1], width))


def wild_recipes(known: list[str]) -> st.SearchStrategy:
    operation = st.one_of(st.sampled_from(known), st.sampled_from(WILD))
    step = st.tuples(operation, st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
    return st.tuples(st.lists(step, min_size=2, max_size=6), st.lists(st.integers(0, 9), max_size=2))


def merged(*models: keras.Model) -> keras.Model:
    """The big student with open gates; where it cannot hold the mean of its parents, `merge` warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", kmerge.UnfollowedLayerWarning)
        warnings.simplefilter("ignore", kmerge.OpenedLayerWarning)
        return kmerge.merge(*models, gates="open")


def check_exact_or_refused(recipe, shape: tuple[int, ...]) -> None:
    models = [WildBuilder(shape).build(recipe) for _ in range(2)]
    for seed, model in enumerate(models):
        randomize(model, seed)
    try:
        sizes = checks.selectable(models[0])
    except kmerge.UnsupportedLayerError as error:
        assert error.layer
        return
    assume(sizes)
    inputs = example_inputs(models[0])
    each = [checks.outputs(model, inputs) for model in models]
    means = [np.mean(pair, axis=0) for pair in zip(*each, strict=True)]
    for verb in (kmerge.concatenate, merged):
        try:
            big = verb(*models)
        except (kmerge.UnsupportedLayerError, UserWarning):
            continue
        except kmerge.InvalidArgumentError as error:  # gates have less to choose from: attention without projections
            assert verb is merged and "selectable channel space" in str(error)
            continue
        checks.assert_close(checks.outputs(big, inputs), means, 1e-4)
    orders = checks.random_orders(models[0], 0)
    moved = kmerge.permute(models[0], orders)
    checks.assert_close(checks.outputs(moved, inputs), each[0], 1e-4)
    counts = {name: max(1, size // 2) for name, size in sizes.items()}
    first, direct = (
        kmerge.select(model, keep)
        for model, keep in ((moved, counts), (models[0], {name: orders[name][:n] for name, n in counts.items()}))
    )
    checks.assert_close(checks.outputs(first, inputs), checks.outputs(direct, inputs), 1e-4)


@few
@given(wild_recipes(COMMON))
def test_wild_dense_graphs(recipe):
    check_exact_or_refused(recipe, (3,))


@few
@given(wild_recipes(MAPS))
def test_wild_convolutional_graphs(recipe):
    check_exact_or_refused(recipe, (4, 4, 2))
