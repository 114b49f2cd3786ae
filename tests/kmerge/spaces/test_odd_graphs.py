"""What a model carries beside its graph is kept: frozen layers, regularizers, losses. What cannot be followed says why."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.models import example_inputs, randomize


@keras.saving.register_keras_serializable("tests")
class SizePenalty(layers.Layer):
    """Passes its input on and adds its mean square to the loss."""

    def __init__(self, factor: float = 0.1, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        self.add_loss(self.factor * ops.mean(ops.square(x)))
        return x

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class PassRule(kmerge.Rule):
    def walk(self, site, x):
        return x


kmerge.register_rule(SizePenalty, PassRule())


def burdened(seed: int) -> keras.Model:
    """A network with a frozen layer, a kernel regularizer, an activity regularizer and a loss of its own."""
    x = keras.Input((5,))
    h = layers.Dense(6, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01), name="decayed")(x)
    h = layers.BatchNormalization(name="frozen", trainable=False)(SizePenalty(0.2, name="penalty")(h))
    h = layers.Dense(4, activation="tanh", activity_regularizer=keras.regularizers.L1(0.03), name="sparse")(h)
    model = keras.Model(x, layers.Dense(3, name="head", kernel_constraint="non_neg")(h))
    randomize(model, seed)
    return model


def total_loss(model: keras.Model) -> float:
    model(example_inputs(model)[0])
    return sum(float(loss) for loss in model.losses)


VERBS = {
    "concatenate": lambda model: kmerge.concatenate(model, burdened(1)),
    "select": lambda model: kmerge.select(model, {"decayed": 3}),
    "permute": lambda model: kmerge.permute(model, {"decayed": [3, 1, 2, 0, 5, 4]}),
    "grow": lambda model: kmerge.grow(model, {"decayed": 2}),
    "compress": lambda model: kmerge.compress(
        kmerge.merge(model, burdened(1)), keep={"decayed": range(6), "sparse": range(4)}
    ),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_frozen_layers_regularizers_constraints_and_losses_are_kept(verb):
    model = burdened(0)
    new = verb(model)
    assert [layer.trainable for layer in new.layers] == [layer.trainable for layer in model.layers]
    assert len(new.trainable_weights) == len(model.trainable_weights)
    assert new.get_layer("decayed").kernel_regularizer.get_config() == pytest.approx({"l2": 0.01})
    assert new.get_layer("sparse").activity_regularizer.get_config() == pytest.approx({"l1": 0.03})
    assert type(new.get_layer("head").kernel_constraint) is keras.constraints.NonNeg
    assert new.get_layer("penalty").factor == 0.2
    for each in (model, new):
        each(example_inputs(each)[0])
    assert len(new.losses) == len(model.losses) == 3


def test_a_permuted_model_has_the_same_loss():
    model = burdened(0)
    assert total_loss(VERBS["permute"](model)) == pytest.approx(total_loss(model), rel=1e-5)


def test_a_model_frozen_as_a_whole_stays_so():
    model = burdened(0)
    model.trainable = False
    for name in ("concatenate", "permute", "select"):
        assert not VERBS[name](model).trainable_weights, name


def test_an_inner_model_frozen_as_a_whole_stays_so():
    def build(seed):
        x = keras.Input((4,))
        inner = keras.Model(x, layers.Dense(5, activation="relu")(x), name="inner")
        inner.trainable = False
        z = keras.Input((4,))
        model = keras.Model(z, layers.Dense(2, name="head")(inner(z)))
        randomize(model, seed)
        return model

    big = kmerge.concatenate(build(0), build(1))
    assert len(big.trainable_weights) == 2 and not big.get_layer("inner").trainable


def test_a_layer_that_nothing_reads_is_left_out():
    x = keras.Input((5,))
    h = layers.Dense(6, activation="relu", name="hidden")(x)
    layers.Dense(7, name="unread")(h)
    model = keras.Model(x, layers.Dense(3)(h))
    assert [space.consumers for space in kmerge.channel_spaces(model).selectable] == [(model.layers[-1].name,)]
    assert checks.check_permute(model) is not None


def test_a_part_of_a_split_that_nothing_reads():
    """Its units are selectable, though no layer mixes them."""

    def build(seed):
        x = keras.Input((5,))
        first, _, third = ops.split(layers.Dense(9, activation="relu", name="hidden")(x), 3, axis=-1)
        model = keras.Model(x, layers.Dense(3)(layers.Concatenate()([first, third])))
        randomize(model, seed)
        return model

    models = [build(0), build(1)]
    inputs = example_inputs(models[0])
    means = [np.mean([checks.outputs(model, inputs)[0] for model in models], axis=0)]
    checks.assert_close(checks.outputs(kmerge.concatenate(*models), inputs), means, 1e-5)
    checks.assert_close(checks.outputs(kmerge.merge(*models, gates="open"), inputs), means, 1e-5)
    checks.check_permute(models[0])
    assert checks.selectable(kmerge.select(models[0], {"hidden:1": 1})) == {"hidden:0": 3, "hidden:1": 1, "hidden:2": 3}


def test_a_space_that_is_input_and_output_at_once():
    def build(seed):
        x = keras.Input((5,))
        h = layers.Dense(5)(layers.Dense(7, activation="relu", name="hidden")(x))
        model = keras.Model(x, layers.Add()([x, h]))
        randomize(model, seed)
        return model

    models = [build(seed) for seed in range(3)]
    space = next(iter(kmerge.channel_spaces(models[0]).values()))
    assert not space.selectable and "input 0" in space.reason and "output 0" in space.reason
    inputs = example_inputs(models[0])
    means = [np.mean([checks.outputs(model, inputs)[0] for model in models], axis=0)]
    checks.assert_close(checks.outputs(kmerge.concatenate(*models), inputs), means, 1e-5)
    checks.check_permute(models[0])
    checks.check_grow(models[0])


def test_models_whose_outputs_a_gather_repeats_have_their_mean():
    def build(seed):
        x = keras.Input((5,))
        h = layers.Dense(2, name="hidden")(x)
        model = keras.Model(x, ops.take(h, [0, 0, 1, 1], axis=-1))
        randomize(model, seed)
        return model

    models = [build(0), build(1)]
    inputs = example_inputs(models[0])
    (a,), (b,) = (checks.outputs(model, inputs) for model in models)
    checks.assert_close(checks.outputs(kmerge.concatenate(*models), inputs), [(a + b) / 2], 1e-5)
    # A gather that stands once for all models cannot read what each has of its own.
    plan = kmerge.Plan(2, {"hidden": [(source, unit) for source in (0, 1) for unit in (0, 1)]})
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match="take.*each source has its own"):
        kmerge.rewrite(models[0], models, plan)


@pytest.mark.parametrize("flatten", [True, False])
def test_a_reshape_of_channels_behind_an_unknown_size_is_refused(flatten):
    x = keras.Input((None, 3))
    h = layers.Dense(4, name="hidden")(x)
    model = keras.Model(x, layers.Flatten(name="culprit")(h) if flatten else ops.reshape(h, (-1, 8)))
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match="reshapes .* with sizes that are not known"):
        kmerge.channel_spaces(model)


def test_a_gather_may_come_to_repeat_nothing():
    x = keras.Input((5,))
    h = ops.take(layers.Dense(4, activation="relu")(x), [0, 3, 3, 0, 2], axis=-1)
    model = keras.Model(x, layers.Dense(3, name="head")(h))
    randomize(model, 0)
    ((name, size),) = checks.selectable(model).items()
    kept = [0, 1, 4]  # channels 0, 3 and 2 of the layer before
    half, inputs = kmerge.select(model, {name: kept}), example_inputs(model)
    assert size == 5 and half.get_layer("head").kernel.shape == (3, 3)
    kernel, bias = model.get_layer("head").get_weights()
    kernel[[2, 3]] = 0.0
    model.get_layer("head").set_weights([kernel, bias])
    checks.assert_close(checks.outputs(half, inputs), checks.outputs(model, inputs), 1e-6)


def _convolved_over_channels(x):
    h = layers.Permute((2, 1), name="turned")(layers.Dense(6, activation="relu", name="hidden")(x))
    return layers.Permute((2, 1))(layers.Conv1D(4, 2, activation="gelu", name="over_tokens")(h))


def _function(x):
    return layers.Lambda(lambda t: t[..., ::-1], name="flip")(layers.Dense(6, name="hidden")(x))


def _normalized_in_groups_of_rows(x):
    return layers.GroupNormalization(2, axis=1, name="rows")(layers.Dense(6, name="hidden")(x))


def _reflected(x):
    return ops.pad(layers.Dense(6, name="hidden")(x), [(0, 0), (0, 0), (1, 1)], mode="reflect")


def _channels_first(x):
    h = layers.Reshape((4, 5, 1))(x)
    return layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(layers.Dense(2, name="hidden")(h))


REFUSED = [
    (_convolved_over_channels, ["over_tokens", "Conv1D", "'turned'", "last axis", "axis 1", "Permute"]),
    (_function, ["flip", "Lambda", "'hidden'", "register_rule"]),
    (_normalized_in_groups_of_rows, ["rows", "GroupNormalization", "'hidden'", "axis 1", "axis 2"]),
    (_reflected, ["Pad", "'hidden'", "reflect", "constant"]),
    (_channels_first, ["channels_first", "channels_last"]),
]


@pytest.mark.parametrize(("block", "words"), REFUSED, ids=[block.__name__[1:] for block, _ in REFUSED])
def test_a_refusal_names_layer_call_reason_and_remedy(block, words):
    x = keras.Input((4, 5))
    h = block(x)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))
    for call in (lambda: kmerge.channel_spaces(model), lambda: kmerge.concatenate(model, model)):
        with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError) as caught:
            call()
        missing = [word for word in words if not re.search(re.escape(word), str(caught.value))]
        assert not missing, f"{missing} not in: {caught.value}"


def test_a_shared_layer_is_refused_at_the_call_that_is_wrong():
    x = keras.Input((4, 4))
    shared = layers.Dense(4, name="shared")
    h = shared(layers.Dense(4, name="good")(x))
    turned = layers.Permute((2, 1), name="bad")(h)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(shared(turned))))
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match="'shared'.*called on 'bad'"):
        kmerge.channel_spaces(model)


def test_padding_by_any_constant_is_exact():
    def build(seed):
        x = keras.Input((5,))
        h = ops.pad(layers.Dense(4, activation="relu", name="hidden")(x), [(0, 0), (2, 1)], constant_values=1.5)
        model = keras.Model(x, layers.Dense(3)(h))
        randomize(model, seed)
        return model

    models = [build(0), build(1)]
    inputs = example_inputs(models[0])
    checks.assert_mean(kmerge.concatenate(*models), models, inputs, 1e-6)
    half = kmerge.select(models[0], dict.fromkeys(checks.selectable(models[0]), 1))
    assert half.layers[-1].kernel.shape[0] == len(checks.selectable(models[0]))


@pytest.mark.parametrize("sizes", [(4, 2, 2, 2), (3, 5, 4), (2, 2, 2)])
def test_places_that_go_into_the_batch_and_come_back_leave_channels_where_they_are(sizes):
    """Sizes that are equal must not be taken for each other: only the last axes of the two shapes correspond."""

    def build(seed):
        x = keras.Input(sizes)
        h = layers.Dense(sizes[-1], activation="relu", name="hidden")(x)
        h = layers.Dense(2, activation="relu", name="inside")(ops.reshape(h, (-1, *sizes[1:])))
        h = layers.Flatten()(ops.reshape(h, (-1, *sizes[:-1], 2)))
        model = keras.Model(x, layers.Dense(3)(h))
        randomize(model, seed)
        return model

    models = [build(0), build(1)]
    inputs = example_inputs(models[0])
    each = [checks.outputs(model, inputs)[0] for model in models]
    checks.assert_close(checks.outputs(kmerge.concatenate(*models), inputs), [np.mean(each, axis=0)], 1e-5)
    assert list(checks.selectable(models[0])) == ["hidden", "inside"]
    checks.assert_close(checks.outputs(kmerge.permute(models[0], checks.random_orders(models[0], 0)), inputs), each[:1], 1e-5)
    with pytest.raises(kmerge.UnsupportedLayerError, match="sampling='batch'"):
        kmerge.merge(*models)  # the gates of each example would meet rows that are none
    big = kmerge.merge(*models, gates="open", sampling="batch")
    checks.assert_close(checks.outputs(big, inputs), [np.mean(each, axis=0)], 1e-5)


def test_a_nested_model_reads_one_number_of_each_source():
    """A number for each example has no channel axis: those of several sources are stacked, also on their way into a model."""

    def build(seed):
        number = keras.Input(())
        inner = keras.Model(number, ops.expand_dims(ops.sqrt(ops.abs(number)), -1), name="inner")
        x = keras.Input((5, 4))
        h = ops.max(layers.Dense(6)(x), axis=(1, 2))
        model = keras.Model(x, layers.Dense(2)(layers.Dense(3, activation="relu")(inner(h))))
        randomize(model, seed)
        return model

    models = [build(0), build(1)]
    inputs = example_inputs(models[0])
    mean = np.mean([checks.outputs(model, inputs)[0] for model in models], axis=0)
    with pytest.warns(kmerge.UnfollowedLayerWarning, match="Max"):
        big = kmerge.concatenate(*models)
    checks.assert_close(checks.outputs(big, inputs), [mean], 1e-5)
