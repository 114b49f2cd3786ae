"""Calls that compute with the length of a sequence, which the inputs of a model leave open."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.opening.views import opened
from tests.checks import assert_close
from tests.models import randomize

WIDTH, LONGEST = 6, 9


class Places(layers.Layer):
    """The first rows of a table, as many as there are places, for each example."""

    def build(self, shape):
        self.table = self.add_weight(shape=(LONGEST, shape[-1]), name="table")
        self.built = True

    def call(self, x):
        _, length, width = ops.shape(x)
        return ops.broadcast_to(ops.slice(ops.convert_to_tensor(self.table), (0, 0), (length, width)), ops.shape(x))

    def compute_output_shape(self, shape):
        return shape


class TokensAndPlaces(layers.Layer):
    def __init__(self, longest=LONGEST, **options):
        super().__init__(**options)
        self.tokens, self.places = layers.Embedding(11, WIDTH), layers.Embedding(longest, WIDTH)

    def build(self, shape):
        self.tokens.build(shape)
        self.places.build((None,))
        self.built = True

    def call(self, ids):
        return self.tokens(ids) + self.places(ops.arange(ops.shape(ids)[-1]))


class Attention(layers.MultiHeadAttention):
    """With an argument that its parent does not take, so that Keras cannot tell the shape of what it gives."""

    def call(self, query, value, attention_mask=None, cache=None):
        q, k, v = self._query_dense(query), self._key_dense(value), self._value_dense(value)
        made, _ = self._compute_attention(q, k, v, attention_mask)
        return self._output_dense(made)


class Scores(layers.Layer):
    """Gives None beside a tensor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(WIDTH)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x, scores=False):
        return self.dense(x), None


class Decoder(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention = Attention(2, 3)
        self.up, self.down = layers.Dense(8, activation="gelu"), layers.Dense(WIDTH)
        self.scores = Scores()
        self.norm = layers.LayerNormalization()

    def build(self, x_shape, mask_shape=None):
        self.attention.build(x_shape, x_shape)
        for layer in (self.norm, self.up, self.scores):
            layer.build(x_shape)
        self.down.build((*x_shape[:-1], 8))
        self.built = True

    def call(self, x, mask=None):
        batch, length, _ = ops.shape(x)
        places = ops.arange(length)
        causal = ops.expand_dims(ops.expand_dims(places, 1) >= places, 0)
        causal = ops.cast(ops.broadcast_to(causal, (batch, length, length)), "int32")
        if mask is not None:
            causal = ops.minimum(ops.cast(ops.expand_dims(mask, 1), "int32"), causal)
        x = x + self.attention(x, x, attention_mask=causal, cache=None)
        x, _ = self.scores(self.norm(x))
        return x + self.down(self.up(x))

    def compute_output_spec(self, x, mask=None):
        return keras.KerasTensor(x.shape, x.dtype)


class Rotation(layers.Layer):
    """Turns pairs of channels by an angle that grows with the place; no configuration builds it again."""

    def __init__(self, slowest, **options):
        super().__init__(**options)
        self.slowest = slowest

    def call(self, x, first=0):
        places = ops.arange(ops.shape(x)[1], dtype="float32") + ops.cast(first, "float32")
        speeds = self.slowest ** -(ops.arange(0, WIDTH, 2, dtype="float32") / WIDTH)
        angles = ops.einsum("bi,j->bij", ops.expand_dims(places, 0), speeds)
        angles = ops.reshape(ops.stack((angles, angles), axis=-2), (*ops.shape(angles)[:-1], WIDTH))
        one, other = ops.split(x, 2, axis=-1)
        turned = ops.reshape(ops.stack((-other, one), axis=-2), ops.shape(x))
        return x * ops.cos(angles) + turned * ops.sin(angles)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "of_another_class": 1}


class Ramp(layers.Layer):
    """Adds their numbers to places, in words of the guides of Keras: with a start and an end."""

    def call(self, x):
        places = ops.arange(start=0, stop=ops.shape(x)[1], step=1)
        return x + ops.cast(places, x.dtype)[None, :, None]


class OverLength(layers.Layer):
    """Its factor is a number that nothing shows in the graph."""

    def call(self, x):
        return ops.broadcast_to(ops.mean(x, axis=1, keepdims=True), ops.shape(x)) / ops.shape(x)[1]

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def ends(x):
    return layers.Dense(3)(layers.Dense(7, activation="relu")(x))


def of_places():
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(11, WIDTH)(ids)
    return keras.Model(ids, ends(x + Places(name="opened")(x)))


def of_tokens_and_places():
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, ends(TokensAndPlaces(name="opened")(ids)))


def of_decoder():
    ids, mask = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    return keras.Model([ids, mask], ends(Decoder(name="opened")(layers.Embedding(11, WIDTH)(ids), mask)))


def of_decoder_without_mask():
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, ends(Decoder(name="opened")(layers.Embedding(11, WIDTH)(ids))))


def of_rotation():
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(11, WIDTH)(ids)
    x = x + Rotation(100.0, name="opened")(layers.Dense(WIDTH)(layers.Dense(5, activation="relu")(x)))
    return keras.Model(ids, ends(x))


def of_ramp():
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, ends(Ramp(name="opened")(layers.Embedding(11, WIDTH)(ids))))


def inputs_of(model, length, seed=0):
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 11, (3, length))]
    return [*found, rng.integers(0, 2, (3, length))][: len(model.inputs)]


def values(model, length):
    arrays = inputs_of(model, length)
    return [keras.ops.convert_to_numpy(model(arrays if len(arrays) > 1 else arrays[0], training=False))]


pytestmark = [pytest.mark.filterwarnings(f"ignore::kmerge.errors.{x}LayerWarning") for x in ("Opened", "Unfollowed")]
BUILDERS = [of_places, of_tokens_and_places, of_decoder, of_decoder_without_mask, of_rotation, of_ramp]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_what_depends_on_a_length_is_opened_and_exact_for_every_length(build, tmp_path):
    model = build()
    randomize(model, 3)
    view = opened(model)
    assert "opened" in view.opened and not view.closed
    assert {id(w) for w in view.model.weights} == {id(w) for w in model.weights}
    orders = {s.name: np.random.default_rng(5).permutation(s.size) for s in kmerge.channel_spaces(model).selectable}
    assert orders
    moved = kmerge.permute(model, orders)
    moved.save(tmp_path / "moved.keras")
    loaded = keras.saving.load_model(tmp_path / "moved.keras")
    for length in (1, 2, 5, WIDTH, LONGEST):
        for found in (view.model, moved, loaded):
            assert_close(values(found, length), values(model, length), 1e-5)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_two_models_that_depend_on_lengths_are_concatenated_exactly(build):
    parents = [build(), build()]
    for seed, parent in enumerate(parents):
        randomize(parent, seed)
    both = kmerge.concatenate(*parents)
    for length in (2, 7):
        mean = np.mean([values(parent, length) for parent in parents], axis=0)
        assert_close(values(both, length), list(mean), 1e-5)


def test_two_lengths_are_never_taken_for_one():
    class Cross(layers.Layer):
        """A mask of the places of its second input, added to those of the first."""

        def call(self, x, other):
            length = ops.shape(other)[1]
            return x + ops.cast(length, x.dtype) * 0 + ops.sum(ops.broadcast_to(ops.ones((1, 1)), (1, length)))

        def compute_output_spec(self, x, other):
            return keras.KerasTensor(x.shape, x.dtype)

    x, other = keras.Input((None, 4)), keras.Input((None, 4))
    model = keras.Model([x, other], layers.Dense(2)(Cross(name="cross")(x, other)))
    assert "cross" in opened(model).closed


class Last(layers.Layer):
    """A function that uses the layer in which it stands."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(WIDTH)
        self.take = layers.Lambda(lambda x: x[:, self.place, :], name="take")
        self.place = -1

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return self.take(self.dense(x))


def test_a_function_that_uses_its_layer_is_opened_with_it():
    x = keras.Input((5, 4))
    model = keras.Model(x, ends(Last(name="last")(x)))
    randomize(model, 1)
    assert {"last", "last/take"} <= opened(model).opened.keys()
    small = kmerge.select(model, {space.name: space.size for space in kmerge.channel_spaces(model).selectable})
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    assert_close([np.array(small(values))], [np.array(model(values))], 1e-5)


def test_a_number_that_depends_on_a_length_keeps_a_layer_closed():
    x = keras.Input((None, 4))
    model = keras.Model(x, layers.Dense(2)(OverLength(name="over")(x)))
    assert "over" in opened(model).closed


def test_a_long_table_of_places_is_opened_too():
    ids = keras.Input((None,), dtype="int32")
    model = keras.Model(ids, ends(TokensAndPlaces(512, name="opened")(ids)))
    view = opened(model)
    assert "opened" in view.opened
    for length in (1, 130):
        assert_close(values(view.model, length), values(model, length), 1e-6)


class Looks(layers.Layer):
    """Does something else with some sequences, or some batches."""

    def __init__(self, look, **options):
        super().__init__(**options)
        self.look, self.dense = look, layers.Dense(WIDTH)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return self.dense(x) + x if self.look(x) else self.dense(x) - x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.parametrize(
    "look",
    [lambda x: x.shape[1] == 1, lambda x: ops.shape(x)[1] < 2, lambda x: x.shape[0] == 1, lambda x: ops.shape(x)[1] > 512],
    ids=["static_single", "single", "batch_of_one", "long"],
)
def test_a_layer_that_looks_at_the_size_of_its_input_stays_closed(look):
    x = keras.Input((None, WIDTH))
    assert "looks" in opened(keras.Model(x, ends(Looks(look, name="looks")(x)))).closed


class Window(layers.Layer):
    """Attention to the last places alone, which is causal attention in short sequences."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.built = True

    def call(self, x):
        back = ops.expand_dims(ops.arange(ops.shape(x)[1]), 1) - ops.arange(ops.shape(x)[1])
        mask = ops.cast(ops.logical_and(back >= 0, back < 1024), "float32")
        return self.scale * ops.matmul(ops.expand_dims(mask, 0), x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_a_window_beyond_the_recorded_length_is_no_causal_mask():
    x = keras.Input((None, WIDTH))
    assert "long sequences" in opened(keras.Model(x, ends(Window(name="window")(x)))).closed["window"]


class RegularizedScores(Scores):
    def __init__(self, **options):
        super().__init__(activity_regularizer="l2", **options)


class WithScores(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.scores = RegularizedScores()

    def build(self, shape):
        self.scores.build(shape)
        self.built = True

    def call(self, x):
        return self.scores(x)[0]

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], WIDTH), x.dtype)


def test_a_part_that_no_graph_can_call_keeps_its_activity_regularizer():
    x = keras.Input((5, WIDTH))
    assert "with" in opened(keras.Model(x, ends(WithScores(name="with")(x)))).closed


class Shift(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.built = True

    def call(self, x, by=None):
        return x * self.scale + by

    def compute_output_spec(self, x, by=None):
        return keras.KerasTensor(x.shape, x.dtype)


def test_calls_with_large_arrays_that_differ_in_the_middle_share_nothing():
    one = np.ones((40, 30), "float32")
    other = one.copy()
    other[20, 15] = 5
    x, shift = keras.Input((40, 30)), Shift(name="shift")
    model = keras.Model(x, shift(ops.tanh(shift(x, by=one)), by=other))
    randomize(model, 2)
    values = np.random.default_rng(0).normal(size=(2, 40, 30)).astype("float32")
    view = opened(model)
    assert view.opened
    assert_close([np.array(view.model(values))], [np.array(model(values))], 1e-6)
