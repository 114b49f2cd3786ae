"""What is opened, what stays closed and why, and that nothing of it is seen on the model that was looked into."""

import re
import time

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.opening.views import opened
from tests.checks import assert_close, outputs
from tests.kmerge.opening import cases
from tests.kmerge.opening.cases import around
from tests.models import ZOO, example_inputs, randomize

CLOSED = {
    "BranchOnValues": "looks at the values",
    "OfTheBackend": "functions of the backend",
    "WithLoss": "adds a loss",
    "Counter": "changes a weight",
    "Noise": "in training it does something else",
    "Functions": "does not show what it does with the weights.*kernel",
    "TiedEmbedding": "embeddings' in (several layers|the middle)",
    "CallOfItsOwn": "overrides __call__",
    "Penalised": "activity_regularizer",
    "Frozen": "fixes `training`",
    "NeverDropped": "fixes `training`",
    "Drawn": "changes the weights .*seed",
    "Hidden": "no weights of its own",
    "Learned": "on weights alone",
    "InAnOption": "reads the weights .*bias' in the middle|functions of the backend",
    "VariableOfTheBackend": "variable of the backend",
}


def state_of(model):
    """All that may not change: weights, what is trained, names, calls, what is built."""
    found = [model, *model._flatten_layers(include_self=False)]
    return [
        (id(x), x.name, x.built, x.trainable, len(x._inbound_nodes), len(x._outbound_nodes), len(x._losses),
         sorted(name for name in vars(x) if not name.startswith("_self_")),  # with those TensorFlow finds checkpoints
         [(id(w), w.trainable, w.path, keras.ops.convert_to_numpy(w).tobytes()) for w in x.weights])
        for x in found
    ]  # fmt: skip


@pytest.mark.parametrize("build", [cases.encoder, cases.text, cases.nested], ids=lambda f: f.__name__)
def test_an_opened_model_gives_what_the_model_gives_on_its_very_weights(build):
    model = build()
    randomize_all(model)
    before = state_of(model)
    view = opened(model)
    assert view.opened and not view.closed
    assert {id(w) for w in view.model.weights} == {id(w) for w in model.weights}
    x = example_inputs(model)
    assert_close(outputs(view.model, x), outputs(model, x), 1e-5)
    assert state_of(model) == before


def randomize_all(model):
    randomize(model, 3)
    for layer in model._flatten_layers(include_self=False):
        for weight in layer.weights:
            if "float" in weight.dtype and not layer._layers:
                low, high = (0.5, 1.5) if any(part in weight.name for part in ("variance", "gamma")) else (-0.5, 0.5)
                weight.assign(np.random.uniform(low, high, weight.shape))


def test_a_tensor_that_carries_a_mask_keeps_a_layer_closed():
    x = keras.Input((6,), dtype="int32")
    h = layers.Embedding(9, 8, mask_zero=True)(x)
    model = keras.Model(x, layers.Dense(2)(cases.LayerScale(name="scale")(h)))
    assert "mask" in opened(model).closed["scale"]


def test_what_does_not_run_on_inputs_of_guessed_sizes_stays_closed():
    class FourPlaces(cases.LayerScale):
        def build(self, shape):
            self.places = self.add_weight(shape=(4, 8))
            super().build(shape)

        def call(self, x):
            return super().call(x + self.places)

    model = around(FourPlaces(name="odd"), (None, 6))
    assert "does not run on random inputs" in opened(model).closed["odd"]
    assert not kmerge.channel_spaces(model)["before"].selectable


class Guide(keras.Layer):
    """As on keras.io: no layer is told whether it trains."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention, self.dropout = layers.MultiHeadAttention(2, 4), layers.Dropout(0.5)
        inner = [layers.Dense(6, activation="relu", name="hidden"), layers.Dropout(0.5), layers.Dense(8)]
        self.feed_forward = keras.Sequential(inner, name="inner")

    def call(self, x):
        return x + self.feed_forward(self.dropout(self.attention(x, x)))


def test_layers_that_are_not_told_whether_they_train_learn_it_from_the_model():
    model = around(Guide(name="block"), (5, 6))
    randomize_all(model)
    view, values = opened(model), example_inputs(model)
    assert view.opened == {"block": "Guide"}
    assert_close(outputs(view.model, values), outputs(model, values), 1e-5)
    assert not np.allclose(*(np.asarray(view.model(values[0], training=True)) for _ in range(2)))
    with pytest.warns(kmerge.OpenedLayerWarning):
        moved = kmerge.permute(model, {"block/inner/hidden": np.arange(6)[::-1]})
    assert_close(outputs(moved, values), outputs(model, values), 1e-5)


@pytest.mark.parametrize("how", ["broadcast", "tile", "repeat"])
def test_what_is_there_for_each_of_the_batch_is_followed_whatever_its_size(how):
    model = around(cases.Token(how, name="token"), (5, 6))
    randomize_all(model)
    spaces, values = kmerge.channel_spaces(model), example_inputs(model)
    assert spaces["before"].selectable and "token/token_token" in spaces["before"].owners
    with pytest.warns(kmerge.OpenedLayerWarning):
        moved = kmerge.permute(model, {"before": np.random.permutation(8)})
        double = kmerge.concatenate(moved, model)
    for batch in (values[0], values[0][:1], np.repeat(values[0], 70, axis=0)):
        assert_close(outputs(moved, [batch]), outputs(model, [batch]), 1e-5)
        assert_close(outputs(double, [batch]), outputs(model, [batch]), 1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_stochastic_depth_is_a_dropout_of_whole_rows(rate):
    model = around(cases.StochasticDepth(rate, name="drop"), (5, 6))
    randomize_all(model)
    before = state_of(model)
    view, values = opened(model), example_inputs(model)
    assert view.opened == {"drop": "StochasticDepth"} and state_of(model) == before
    assert_close(outputs(view.model, values), outputs(model, values), 1e-5)
    inner = view.model.get_layer("drop")
    y = keras.ops.convert_to_numpy(inner(np.ones((400, 5, 8), "float32"), training=True)).reshape(400, -1)
    assert_close(y, np.repeat(y[:, :1], 40, axis=1), 1e-6)
    assert abs(np.mean(y == 0.0) - rate) < 0.11 and abs(np.max(y) - 1 / (1 - rate)) < 1e-4
    assert kmerge.channel_spaces(model)["before"].selectable


@pytest.mark.parametrize("how", ["the same each time", "all or none", "not scaled"])
def test_what_drops_rows_in_another_way_stays_closed(how):
    assert list(opened(around(cases.StochasticDepth(0.25, how, name="odd"))).closed) == ["odd"]


class TakesMask(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 4)

    def call(self, x, padding_mask=None):
        return x + self.attention(x, x, attention_mask=ops.expand_dims(padding_mask, 1))


def test_a_mask_that_is_handed_over_is_an_input_like_others():
    x, mask = keras.Input((5, 6)), keras.Input((5,), dtype="bool")
    h = TakesMask(name="block")(layers.Dense(8, name="before")(x), padding_mask=mask)
    model = keras.Model([x, mask], layers.Dense(3)(h))
    randomize_all(model)
    assert opened(model).opened == {"block": "TakesMask"}
    values = [np.random.normal(size=(4, 5, 6)).astype("float32"), np.arange(20).reshape(4, 5) % 3 > 0]
    assert kmerge.channel_spaces(model)["before"].selectable
    with pytest.warns(kmerge.OpenedLayerWarning):
        moved = kmerge.permute(model, {"before": np.random.permutation(8)})
    assert_close(outputs(moved, values), outputs(model, values), 1e-5)
    other = [values[0], ~values[1]]
    assert not np.allclose(outputs(model, other)[0], outputs(model, values)[0], atol=1e-3)
    assert_close(outputs(moved, other), outputs(model, other), 1e-5)


@pytest.mark.parametrize("how", ["branch", "mean", "ones"])
def test_what_depends_on_the_size_of_the_batch_otherwise_stays_closed(how):
    assert list(opened(around(cases.ByBatch(how, name="odd"))).closed) == ["odd"]


def test_layers_without_a_rule_are_opened_at_any_depth_and_keep_their_names():
    view = opened(cases.encoder())
    assert view.opened == {
        "patches": "PatchEncoder",
        "encoder": "Encoder",
        "encoder/first": "TransformerBlock",
        "encoder/scale": "LayerScale",
    }


def test_two_models_of_one_code_are_opened_alike():
    def names(model):
        return [
            (x.name, names(x)) if hasattr(x, "operations") else x.name
            for x in model.operations
            if not isinstance(x, keras.layers.InputLayer)
        ]

    found = [names(opened(around(cases.ResidualBlock(8, name="block"), (4, 4, 3))).model) for _ in range(2)]
    inside = [dict(x for x in model if isinstance(x, tuple))["block"] for model in found]
    named = [[name for name in names if not name.startswith(("conv2d", "batch_"))] for names in inside]
    assert named[0] == named[1] == ["relu", "relu_1", "add"]


def test_what_has_a_rule_or_nothing_inside_stays_as_it_is():
    x = keras.Input((6, 4))
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.MultiHeadAttention(2, 2)(x, x))
    plain = keras.Model(x, layers.TimeDistributed(layers.Dense(2))(h))
    assert opened(plain).model is plain

    class Ruled(cases.LayerScale):
        pass

    class ScaleRule(kmerge.Rule):
        def walk(self, site, x):
            x = site.hold(x)
            site.weight("gamma", kmerge.channel(x.units))
            return x

    kmerge.register_rule(Ruled, ScaleRule())
    model = around(Ruled())
    assert opened(model).model is model
    assert opened(around(cases.LayerScale())).opened


class CallOfItsOwn(cases.LayerScale):
    def __call__(self, x):
        return super().__call__(x) + 0.0


class Penalised(cases.LayerScale):
    def __init__(self, **options):
        super().__init__(activity_regularizer="l2", **options)


class Frozen(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(x, training=False)


class NeverDropped(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.dropout = layers.Dense(8), layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.dropout(self.dense(x), training=False)


class Drawn(keras.Layer):
    """Random numbers in inference too."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal((8,), seed=self.generator)


class Hidden(keras.Layer):
    """A layer that Keras does not find."""

    def __init__(self, **options):
        super().__init__(**options)
        dense = layers.Dense(8)
        dense.build((None, 8))
        self.box = lambda x: dense(x)

    def call(self, x):
        return self.box(x)


class Learned(cases.LayerScale):
    """A layer that reads nothing but a weight."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8)

    def call(self, x):
        return x + self.dense(self.gamma[None, :])


class SameNames(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.parts = [layers.Dense(8, name="part") for _ in range(2)]

    def call(self, x):
        return self.parts[1](self.parts[0](x))


class InAnOption(keras.Layer):
    """A weight of a layer that is an option of an operation, too."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8)

    def call(self, x):
        return ops.clip(self.dense(x), self.dense.bias, self.dense.bias + 1.0)


class VariableOfTheBackend(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        import tensorflow

        self.factor = tensorflow.Variable(2.0)

    def call(self, x):
        return ops.multiply(x, self.factor)


class Remembers(cases.LayerScale):
    """Keeps what it has computed, and how often."""

    calls = 0

    def call(self, x):
        self.calls, self.last = self.calls + 1, x
        return super().call(x)


def test_what_a_call_writes_down_on_the_layer_is_as_it_was():
    model = around(Remembers(name="odd"))
    layer = model.get_layer("odd")
    before, calls, last = state_of(model), layer.calls, layer.last
    assert opened(model).opened
    kmerge.functional(model)
    assert state_of(model) == before and layer.calls == calls and layer.last is last


@pytest.mark.parametrize("name", CLOSED)
def test_what_cannot_be_opened_stays_closed_with_the_reason(name):
    kind = globals().get(name) or getattr(cases, name)
    if name == "TiedEmbedding":
        x = keras.Input((4,), dtype="int32")
        model = keras.Model(x, layers.Dense(3)(kind(name="odd")(x)))
    else:
        model = around(kind(name="odd"))
    before = state_of(model)
    view = opened(model)
    assert view.model is model
    assert list(view.closed) == ["odd"] and re.search(CLOSED[name], view.closed["odd"]), view.closed
    assert state_of(model) == before


def test_parts_of_one_name_get_names_of_their_own():
    model = around(SameNames(name="odd"))
    randomize(model, 2)
    before = state_of(model)
    view = opened(model)
    assert list(view.opened) == ["odd"]
    assert [layer.name for layer in view.model.get_layer("odd").layers[1:]] == ["part", "part_1"]
    x = example_inputs(model)
    assert_close(outputs(view.model, x), outputs(model, x), 1e-5)
    assert state_of(model) == before


def test_a_layer_of_which_one_call_cannot_be_opened_stays_closed_in_all():
    class OnlyWide(keras.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = layers.Dense(8)

        def call(self, x):
            return self.dense(x) if x.shape[1] == 6 else ops.cond(ops.sum(x) > 0, lambda: self.dense(x), lambda: x)

    odd, scale = OnlyWide(name="odd"), cases.LayerScale(name="scale")
    x, y = keras.Input((6, 8)), keras.Input((5, 8))
    model = keras.Model([x, y], [scale(odd(x)), scale(odd(y))])
    view = opened(model)
    assert list(view.opened) == ["scale"] and list(view.closed) == ["odd"]
    values = example_inputs(model)
    assert_close(outputs(view.model, values), outputs(model, values), 1e-5)


def test_calls_of_one_layer_on_several_shapes_share_its_weights():
    gate = cases.Gate(name="gate")
    x, y, z = keras.Input((6, 8)), keras.Input((5, 8)), keras.Input((8,))
    model = keras.Model([x, y, z], [gate(x, gate=z[:, None]), gate(y, z[:, None], power=2), gate(x, gate=x)])
    randomize_all(model)
    result, values = kmerge.functional(model), example_inputs(model)
    assert not result.closed and result.count_params() == model.count_params()
    assert_close(outputs(result, values), outputs(model, values), 1e-5)


def test_a_plain_model_is_found_to_have_nothing_to_open_in_no_time():
    model = ZOO["resnet8"].build()
    start = time.perf_counter()
    assert opened(model).model is model
    assert time.perf_counter() - start < 0.05
