"""Bad input: a clear error before any work, which names the layer and what was received."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge import ArchitectureMismatchError, InvalidArgumentError, UnsupportedLayerError
from kmerge.errors import KmergeError
from tests import checks
from tests.models import ZOO, around

VERBS = [kmerge.concatenate, kmerge.merge]
verbs_of_many = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
verbs_of_one = pytest.mark.parametrize(
    ("verb", "argument"), [(kmerge.select, 2), (kmerge.permute, [1, 0, 2, 3]), (kmerge.grow, 2)],
    ids=["select", "permute", "grow"],
)  # fmt: skip


def mlp(hidden: int = 4, activation: str = "relu", **options) -> keras.Model:
    x = keras.Input((3,))
    h = layers.Dense(hidden, activation=activation, name="hidden", **options)(x)
    return keras.Model(x, layers.Dense(2, name="head", **options)(h), name="network")


def raises_naming(error: type, *words: object):
    """Expects `error` with all `words` in its message, in any order."""
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{re.escape(str(word))})" for word in words))


@verbs_of_many
def test_the_first_layer_that_differs_is_named(verb):
    x = keras.Input((3,))
    h = layers.Dense(4, activation="relu")(layers.Dense(4, activation="tanh")(x))
    longer = keras.Model(x, layers.Dense(2)(h))
    cases = [(mlp(activation="tanh"), "tanh"), (mlp(use_bias=False), "hidden"), (longer, "hidden")]
    for other, word in cases:
        with raises_naming(ArchitectureMismatchError, "hidden", word):
            verb(mlp(), other)


@verbs_of_many
def test_the_third_model_is_compared_too(verb):
    with raises_naming(ArchitectureMismatchError, "hidden", "tanh"):
        verb(mlp(), mlp(), mlp(activation="tanh"))


@verbs_of_many
def test_different_wiring_is_refused(verb):
    def wired(order):
        x = keras.Input((3,))
        a, b = layers.Dense(4, name="a")(x), layers.Dense(4, name="b")(x)
        pair = [a, b] if order else [b, a]
        return keras.Model(x, layers.Dense(2, name="head")(layers.Subtract(name="minus")(pair)))

    same = wired(True)
    with raises_naming(ArchitectureMismatchError, "minus"):
        verb(same, wired_with_shared_operand())
    assert verb(same, wired(True)) is not None


def wired_with_shared_operand() -> keras.Model:
    x = keras.Input((3,))
    a, b = layers.Dense(4, name="a")(x), layers.Dense(4, name="b")(x)
    difference = layers.Subtract(name="minus")([a, a])
    return keras.Model(x, layers.Dense(2, name="head")(difference + 0.0 * b))


@verbs_of_many
def test_different_input_shapes_and_kinds(verb):
    x = keras.Input((4,))
    wider = keras.Model(x, layers.Dense(2, name="head")(layers.Dense(4, activation="relu", name="hidden")(x)))
    with raises_naming(ArchitectureMismatchError, 3, 4):
        verb(mlp(), wider)
    with raises_naming(ArchitectureMismatchError, "input", (None, 3), (None, 12, 12, 1)):
        verb(mlp(), ZOO["lenet"](0))


@verbs_of_many
def test_different_dtype_policies_are_refused(verb):
    with raises_naming(ArchitectureMismatchError, "hidden", "float32", "mixed_bfloat16"):
        verb(mlp(), mlp(dtype="mixed_bfloat16"))


@verbs_of_many
def test_one_model_is_too_few(verb):
    with raises_naming(InvalidArgumentError, "two models", "1"):
        verb(mlp())
    with raises_naming(InvalidArgumentError, "two models", "0"):
        verb()
    with raises_naming(InvalidArgumentError, "two models", "1"):
        verb([mlp()])
    with raises_naming(KmergeError, "keras.Model"):
        verb([mlp()], [mlp()])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def _every_verb(model):
    calls = [
        lambda: kmerge.channel_spaces(model),
        lambda: kmerge.select(model, {}),
        lambda: kmerge.permute(model, {}),
        lambda: kmerge.grow(model, {}),
    ]
    return calls + [lambda verb=verb: verb(model, model) for verb in VERBS]


def test_subclassed_models_are_refused_by_name():
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    for call in _every_verb(model):
        with raises_naming(KmergeError, "mine", "Subclassed", "kmerge.functional(model, input_shape=...)"):
            call()


def test_unbuilt_models_are_refused_by_name():
    model = keras.Sequential([layers.Dense(3), layers.Dense(2)], name="unbuilt")
    for call in _every_verb(model):
        with raises_naming(KmergeError, "unbuilt", "Input"):
            call()


def test_what_is_no_model_is_refused():
    for call in _every_verb("network.keras"):
        with raises_naming(KmergeError, "network.keras"):
            call()


@verbs_of_many
def test_weights_that_are_not_finite_are_named(verb):
    bad = mlp()
    kernel, bias = bad.get_layer("hidden").get_weights()
    kernel[1, 2] = np.nan
    bad.get_layer("hidden").set_weights([kernel, bias])
    with raises_naming(KmergeError, "hidden", "kernel", "NaN"):
        verb(mlp(), bad)
    kernel[1, 2] = np.inf
    bad.get_layer("hidden").set_weights([kernel, bias])
    with raises_naming(KmergeError, "hidden", "kernel"):
        verb(bad, mlp())


@keras.saving.register_keras_serializable("tests")
def doubled(x):
    return 2 * x


def _lambda(x):
    return layers.Lambda(doubled, name="culprit")(x)


def _attention(x):
    h = layers.Reshape((1, 4))(x)
    return layers.Flatten()(layers.Attention(name="culprit")([h, h], return_attention_scores=True)[0])


def _softmax_layer(x):
    return layers.Softmax(name="culprit")(x)


def _softmax_activation(x):
    return layers.Dense(4, activation="softmax", name="culprit")(x)


def _dot(x):
    return layers.Dot(axes=1, name="culprit")([x, layers.Dense(4)(x)])


def _cumulative_sum(x):
    return ops.cumsum(x, axis=-1)


def _channels_first(x):
    h = layers.Reshape((4, 1, 1))(x)
    return layers.Flatten()(layers.Conv2D(3, 1, data_format="channels_first", name="culprit")(h))


UNFOLLOWED = [
    (_lambda, "Lambda"),
    (_attention, "Attention"), (_softmax_layer, "Softmax"), (_softmax_activation, "softmax"),
    (_dot, "Dot"),
    (_cumulative_sum, "Cumsum"),
    (_channels_first, "channels_first"),
]  # fmt: skip
every_unfollowed = pytest.mark.parametrize(
    ("block", "word"), UNFOLLOWED, ids=[block.__name__[1:] for block, _ in UNFOLLOWED]
)


@every_unfollowed
def test_strict_refuses_by_name_what_cannot_be_followed(block, word):
    """Before and without any damage: every verb says the same, and the model still works."""
    model = around(block)
    words = [word] + ["culprit"] * any(layer.name == "culprit" for layer in model.layers)
    calls = [lambda: kmerge.channel_spaces(model), lambda: kmerge.select(model, {"hidden": 2})]
    for call in calls + [lambda: kmerge.concatenate(model, model), lambda: kmerge.merge(model, model)]:
        with kmerge.strict(), raises_naming(UnsupportedLayerError, *words) as caught:
            call()
    assert caught.value.layer


@every_unfollowed
def test_what_cannot_be_followed_runs_as_it_is(block, word):
    """It is named once and stays, the layers around it go on as usual, and a whole one can be chosen in a merge."""
    models = [around(block, seed) for seed in range(2)]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    with pytest.warns(UserWarning, match=f"(?s)^(?=.*{word}).*runs as it is, its channels fixed"):
        checks.assert_close(kmerge.permute(models[0], {"behind": [5, 1, 0, 3, 2, 4]})(x), models[0](x), 1e-5)
    assert kmerge.select(models[0], {"behind": 2}).layers[-1].kernel.shape == (2, 2)  # and without a second warning
    with pytest.raises(InvalidArgumentError, match=f"(?s)^(?=.*{word}).*hidden.*runs as it is"):
        kmerge.select(models[0], {"hidden": 2})
    mean = np.mean([model(x) for model in models], axis=0)
    checks.assert_close(kmerge.concatenate(*models)(x), mean, 1e-5)
    with pytest.warns(UserWarning, match="holds one of each parent"):
        big = kmerge.merge(*models, gates="open")
    checks.assert_close(big(x), mean, 1e-5)
    checks.decide(big)
    student = kmerge.compress(big)
    assert [w.shape for w in student.weights] == [w.shape for w in models[0].weights]
    checks.assert_close(student(x), big(x), 1e-5)


def test_a_layer_in_a_nested_model_is_named_with_its_path():
    x = keras.Input((4,))
    inner = keras.Model(x, layers.Softmax(name="culprit")(layers.Dense(4)(x)), name="encoder")
    z = keras.Input((4,))
    model = keras.Model(z, layers.Dense(2)(inner(z)))
    with kmerge.strict(), raises_naming(UnsupportedLayerError, "encoder", "culprit", "Softmax"):
        kmerge.channel_spaces(model)


@verbs_of_one
def test_unknown_spaces_are_named_beside_the_known(verb, argument):
    with raises_naming(InvalidArgumentError, "hiden", "hidden"):
        verb(mlp(), {"hiden": argument})


@verbs_of_one
def test_fixed_spaces_are_refused_with_the_reason(verb, argument):
    model = mlp()
    for space in kmerge.channel_spaces(model).values():
        if not space.selectable:
            with raises_naming(InvalidArgumentError, space.name, space.reason):
                verb(model, {space.name: argument})


@pytest.mark.parametrize(
    ("keep", "received"),
    [
        ([0, 4], 4), ([-1, 2], -1), ([1, 1, 2], 1), ([], "[]"), (0, 0), (5, 5), (-2, -2), (0.0, 0.0), (1.5, 1.5),
        ([True, False], "[True, False]"), ([False] * 4, "False"), (float("nan"), "nan"), ("all", "all"), ([0.5, 1.0], 0.5),
        ([[0, 1]], "[[0, 1]]"), (None, None), (True, True), (range(0), "range(0, 0)"),
    ],
)  # fmt: skip
def test_select_refuses_what_is_no_choice_of_units(keep, received):
    with raises_naming(InvalidArgumentError, "hidden", received):
        kmerge.select(mlp(), {"hidden": keep})


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4], [0, 1, 2, 3, 3], 4, [0.0, 1.0, 2.0], "abcd"])
def test_permute_refuses_what_is_no_permutation(order):
    with raises_naming(InvalidArgumentError, "hidden", order):
        kmerge.permute(mlp(), {"hidden": order})


@pytest.mark.parametrize("new_units", [-1, 1.5, "two", None, [1]])
def test_grow_refuses_what_is_no_count(new_units):
    with raises_naming(InvalidArgumentError, "hidden", new_units):
        kmerge.grow(mlp(), {"hidden": new_units})


@pytest.mark.parametrize(("option", "value"), [("scale", float("nan")), ("scale", "big"), ("scale", float("inf"))])
def test_grow_refuses_bad_options(option, value):
    with raises_naming(InvalidArgumentError, option, value):
        kmerge.grow(mlp(), {"hidden": 1}, **{option: value})


class AnyRule(kmerge.Rule):
    def walk(self, site, x):
        return x


@pytest.mark.parametrize(
    ("layer_class", "rule", "expected"),
    [
        (layers.Dense(2), AnyRule(), "layer_class to be a subclass of keras.Layer"),
        (int, AnyRule(), "layer_class to be a subclass of keras.Layer"),
        (Subclassed, AnyRule, "rule to be an instance of kmerge.Rule"),
    ],
)
def test_register_rule_refuses_what_is_no_layer_class_or_no_rule(layer_class, rule, expected):
    with raises_naming(InvalidArgumentError, expected, repr(rule if "rule to" in expected else layer_class)):
        kmerge.register_rule(layer_class, rule)


def test_a_rule_without_a_walk_cannot_be_made():
    with raises_naming(TypeError, "walk"):
        type("Idle", (kmerge.Rule,), {})()


def test_two_names_of_one_space_are_refused():
    x = keras.Input((3,))
    h = layers.Add()([layers.Dense(4, name="a")(x), layers.Dense(4, name="b")(x)])
    model = keras.Model(x, layers.Dense(2)(h))
    with raises_naming(InvalidArgumentError, "a", "b"):
        kmerge.select(model, {"a": [0], "b": [1]})


@verbs_of_one
def test_plans_that_are_no_mapping_are_refused(verb, argument):
    with raises_naming(InvalidArgumentError, "hidden"):
        verb(mlp(), ["hidden"])


@pytest.mark.parametrize(("option", "value"), [("gates", "closed"), ("sampling", "pixel"), ("gates", None)])
def test_merge_refuses_unknown_options(option, value):
    with raises_naming(InvalidArgumentError, option, value):
        kmerge.merge(mlp(), mlp(), **{option: value})


def test_compress_wants_a_merged_model():
    with raises_naming(KmergeError, "network", "merge"):
        kmerge.compress(mlp())
