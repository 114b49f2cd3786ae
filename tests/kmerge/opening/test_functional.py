"""`functional`: what it returns is what the model does, in plain layers, and the verbs keep their promises on it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.opening.views import opened
from tests.checks import assert_close, outputs
from tests.kmerge.opening import cases
from tests.kmerge.opening.cases import around
from tests.kmerge.opening.test_opening import randomize_all, state_of
from tests.models import example_inputs, randomize
from tests.programs import without_programs

FAMILY = [cases.patches, cases.encoder, cases.nested, cases.negated]
MARKS = {cases.patches: [pytest.mark.both_backends], cases.negated: [pytest.mark.both_backends]}


def made(build):
    """A model with random weights, the same as a Functional one, and inputs for both."""
    model = build()
    randomize_all(model)
    result = kmerge.functional(model)
    return model, result, example_inputs(result)


@pytest.mark.parametrize("build", [pytest.param(f, id=f.__name__, marks=MARKS.get(f, ())) for f in FAMILY])
def test_the_new_model_has_equal_weights_of_its_own_and_the_verbs_keep_their_promises(build):
    model, result, values = made(build)
    expected = outputs(model, values)
    assert not result.closed and result.count_params() == model.count_params()
    assert not {id(w) for w in model.weights} & {id(w) for w in result.weights}
    assert_close(outputs(result, values), expected, 1e-5)
    spaces = kmerge.channel_spaces(result).selectable
    assert spaces
    order = {space.name: np.random.permutation(space.size) for space in spaces}
    assert_close(outputs(kmerge.permute(result, order), values), expected, 1e-5)
    assert_close(outputs(kmerge.select(result, {s.name: range(s.size) for s in spaces}), values), expected, 1e-5)
    halved = kmerge.select(result, {space.name: max(1, space.size // 2) for space in spaces})
    assert halved.count_params() < result.count_params()
    other, second, _ = made(build)
    mean = [(a + b) / 2 for a, b in zip(expected, outputs(other, values), strict=True)]
    assert_close(outputs(kmerge.concatenate(result, second), values), mean, 1e-5)


def test_the_argument_is_as_it_was_and_so_is_what_is_frozen():
    model = cases.network()
    model.blocks[0].trainable = False
    before = state_of(model)
    result = kmerge.functional(model)
    assert state_of(model) == before
    frozen = [len(m.non_trainable_weights) for m in (model, result)]
    assert frozen[0] == frozen[1] and len(result.trainable_weights) == len(model.trainable_weights)


def test_inputs_and_outputs_are_named_and_nested_as_those_of_the_model():
    model = cases.two_heads()
    randomize_all(model)
    result = kmerge.functional(model)
    values = {name: np.random.normal(size=(3, 4)).astype("float32") for name in ("left", "right")}
    expected, received = model(values), result(values)
    assert set(received) == {"classes", "value"}
    assert_close([received[name] for name in expected], list(expected.values()), 1e-5)
    assert len(result.layers) == 6, "the layer used twice is one layer"


def test_a_model_of_tokens_is_told_its_inputs():
    class Words(keras.Model):
        def __init__(self):
            super().__init__(name="words")
            self.tokens = cases.TokensAndPlaces(6, 20, 8)

        def call(self, x):
            return ops.mean(self.tokens(x), axis=1)

    model = Words()
    model(np.zeros((1, 6), "int32"))
    result = kmerge.functional(model, keras.Input((6,), dtype="int32", name="tokens"))
    assert result.inputs[0].dtype == "int32" and result.inputs[0].name == "tokens"
    values = example_inputs(result)
    assert_close(outputs(result, values), outputs(model, values), 1e-5)


def test_weights_of_a_layer_itself_are_trained_penalised_saved_and_loaded(tmp_path):
    model = around(cases.LayerScale(name="scale"))
    result = kmerge.functional(model)
    held = result.get_layer("scale").get_layer("scale_gamma")
    assert len(result.trainable_weights) == len(model.trainable_weights) and len(result.losses) == 1
    result.compile("sgd", "mse")
    before = keras.ops.convert_to_numpy(held.weight)
    with without_programs():
        result.fit(np.ones((8, 8), "float32"), np.ones((8, 3), "float32"), verbose=0)
    assert not np.array_equal(before, held.weight)
    result.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = example_inputs(result)
    assert_close(outputs(loaded, values), outputs(result, values), 1e-6)


def test_a_table_read_at_constant_places_is_a_weight_that_is_trained():
    result = kmerge.functional(around(cases.PatchEncoder(5, 8, name="patches"), (5, 6)))
    table = next(w for w in result.get_layer("patches").trainable_weights if tuple(w.shape) == (5, 8))
    result.compile("sgd", "mse")
    before = keras.ops.convert_to_numpy(table)
    with without_programs():
        result.fit(np.ones((4, 5, 6), "float32"), np.ones((4, 5, 3), "float32"), verbose=0)
    assert not np.array_equal(before, table)


def test_dropout_behind_a_branch_on_training_still_drops():
    model = around(cases.DropoutInTraining(name="odd"))
    randomize_all(model)
    result, values = kmerge.functional(model), example_inputs(model)
    assert not result.closed
    assert_close(outputs(result, values), outputs(model, values), 1e-5)
    x = np.ones((1, 8), "float32")
    drawn = [np.asarray(result(x, training=True)) for _ in range(4)]
    assert any(not np.allclose(drawn[0], other) for other in drawn[1:])


def test_reshapes_by_the_size_of_the_batch_are_followed():
    class Heads(keras.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.query, self.out = layers.Dense(8), layers.Dense(8)

        def call(self, x):
            batch = ops.shape(x)[0]
            h = ops.transpose(ops.reshape(self.query(x), (batch, -1, 2, 4)), (0, 2, 1, 3))
            h = ops.softmax(ops.matmul(h, ops.transpose(h, (0, 1, 3, 2))), axis=-1) @ h
            return self.out(ops.reshape(ops.transpose(h, (0, 2, 1, 3)), (batch, -1, 8)))

    model = around(Heads(name="heads"), (5, 8))
    randomize_all(model)
    result, values = kmerge.functional(model), example_inputs(model)
    assert not result.closed and [x.shape for x in result.outputs] == [(None, 5, 3)]
    assert_close(outputs(result, values), outputs(model, values), 1e-5)


@pytest.mark.parametrize(
    "reshaped",
    [lambda w: w[None, :], lambda w: ops.expand_dims(w, 0), lambda w: ops.reshape(w, (1, 8, 8)), lambda w: w],
    ids=["index", "expand_dims", "reshape", "plain"],
)
def test_a_table_of_as_many_places_as_channels_is_followed_by_its_axes(reshaped):
    class Places(keras.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=shape[1:], name="table")

        def call(self, x):
            return x + reshaped(self.table)

    model = around(Places(name="places"), (8, 8))
    randomize_all(model)
    result, values = kmerge.functional(model), example_inputs(model)
    space = kmerge.channel_spaces(result)["before"]
    assert space.selectable and "places/places_table" in space.owners
    moved = kmerge.permute(result, {"before": np.random.permutation(8)})
    assert_close(outputs(moved, values), outputs(model, values), 1e-5)


class Converts(keras.Model):
    """A Functional model that takes other inputs as well, as the tasks of KerasHub do."""

    factor = 1.0

    def __call__(self, inputs, *args, **kwargs):
        return self.factor * super().__call__(ops.convert_to_tensor(inputs), *args, **kwargs)


class Doubles(Converts):
    factor = 2.0


def test_a_model_with_a_way_of_its_own_to_be_called_is_what_it_does_if_that_changes_nothing():
    x = keras.Input((4,))
    y = layers.Dense(2, name="logits")(cases.LayerScale(name="scale")(ops.relu(layers.Dense(6, name="h")(x))))
    model, other = Converts(x, y), Doubles(x, y, name="doubles")
    randomize_all(model)
    before, operations = state_of(model), [len(x._inbound_nodes) for x in model.operations]
    with pytest.raises(UnsupportedLayerError, match="it has a '__call__' of its own.*kmerge.functional.model"):
        kmerge.channel_spaces(model)
    with pytest.warns(UserWarning, match="__call__ of its own, which was only compared in inference"):
        result = kmerge.functional(model)
    assert state_of(model) == before and [len(x._inbound_nodes) for x in model.operations] == operations
    values = example_inputs(result)
    assert_close(outputs(result, values), outputs(model, values), 1e-5)
    assert kmerge.channel_spaces(result)["h"].selectable
    with pytest.raises(UnsupportedLayerError, match="'doubles'.*is not what it does"):
        kmerge.functional(other)


def test_what_stays_closed_is_named_with_the_reason():
    with pytest.warns(UserWarning, match="odd: its call looks at the values of a tensor"):
        result = kmerge.functional(around(cases.BranchOnValues(name="odd")))
    assert list(result.closed) == ["odd"] and type(result.get_layer("odd")) is cases.BranchOnValues


def test_a_model_that_does_something_else_in_training_is_what_it_does_in_inference_and_that_is_said():
    class Noisy(keras.Model):
        def __init__(self):
            super().__init__(name="noisy")
            self.dense, self.seed = layers.Dense(2), keras.random.SeedGenerator(1)

        def call(self, x, training=None):
            return self.dense(x + keras.random.normal(x.shape, seed=self.seed) if training else x)

    model = Noisy()
    model(np.zeros((1, 4), "float32"))
    with pytest.warns(UserWarning, match="is what it does in inference: in training it does something else"):
        result = kmerge.functional(model)
    assert_close(outputs(result, [np.ones((2, 4), "float32")]), outputs(model, [np.ones((2, 4), "float32")]), 1e-5)


class Odd(keras.Model):
    def __init__(self, layer, **options):
        super().__init__(name="mine", **options)
        self.layer = layer

    def call(self, x):
        return self.layer(x) if ops.sum(x) > 0 else x


def test_refusals_name_the_model_and_what_to_do():
    unbuilt = Odd(layers.Dense(4))
    with pytest.raises(InvalidArgumentError, match="built, received 'mine'. Call the model on a batch first"):
        kmerge.functional(unbuilt)
    unbuilt(np.ones((1, 4), "float32"))
    with pytest.raises(UnsupportedLayerError, match="'mine' .Odd.: its call looks at the values of a tensor. Build it"):
        kmerge.functional(unbuilt, input_shape=(4,))
    with pytest.raises(InvalidArgumentError, match="shape of the model's input to be known"):
        kmerge.functional(unbuilt)
    with pytest.raises(InvalidArgumentError, match="input_shape to be None for a model that has inputs"):
        kmerge.functional(around(cases.LayerScale()), input_shape=(5, 6))
    with pytest.raises(InvalidArgumentError, match="model to be a keras.Model"):
        kmerge.functional(layers.Dense(2))
    with pytest.raises(InvalidArgumentError, match="input_shape to be a shape, a keras.Input"):
        kmerge.functional(cases.network(), input_shape="wide")

    class Anonymous(cases.OfTheBackend):
        def __init__(self, why, **options):
            super().__init__(**options)

    with pytest.raises(UnsupportedLayerError, match="Layer 'odd' .Anonymous.: it cannot be built again"):
        kmerge.functional(around(Anonymous(object(), name="odd")))


class Stack(keras.Layer):
    """Blocks of one name that give None beside a tensor; itself it gives an array that is none of its inputs', too."""

    class Block(keras.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.part = ResidualPart(name="part")

        def call(self, x, scores=False):
            return self.part(x), None

    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [self.Block(name=f"block_{i}") for i in range(2)]

    def call(self, x):
        for block in self.blocks:
            x, _ = block(x)
        return x, ops.zeros((0, 8))


class ResidualPart(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(8, name="dense")

    def call(self, x):
        return x + self.dense(x)


def test_an_output_that_is_no_tensor_keeps_a_layer_closed_only_where_something_reads_it():
    x = keras.Input((6,))
    first, constant = Stack(name="stack")(layers.Dense(8)(x))
    model = keras.Model(x, layers.Dense(3)(first))
    randomize(model, 3)
    view = opened(model)
    assert sorted(view.opened) == ["stack", "stack/part", "stack/part_1"] and not view.closed
    values = example_inputs(model)
    assert_close(outputs(view.model, values), outputs(model, values), 1e-5)
    reason = opened(keras.Model(x, [layers.Dense(3)(first), constant])).closed["stack"]
    assert "something else than tensors" in reason
