"""Arrays that meet channels are cut and joined like weights, and each model may have its own."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import assert_close, outputs, selectable
from tests.kmerge.rules import operation_checks
from tests.models import Entry, every, example_inputs

CONSTANTS: dict[str, Entry] = {}


def model(build):
    CONSTANTS[build.__name__] = Entry(build.__name__, build, ("linear",), leaves_others=True)
    return build


def draw(*shape: int) -> np.ndarray:
    """Others in each model: `operation_checks` sets the seed."""
    return np.random.normal(size=shape).astype("float32")


@model
def constant_added():
    x = keras.Input((5, 3))
    h = layers.Dense(4, activation="relu")(layers.Dense(4)(x) + draw(5, 4))
    return keras.Model(x, layers.Dense(2)(h))


@model
def places_by_arange():
    x = keras.Input((5, 3))
    h = layers.Dense(6)(x) + ops.convert_to_tensor(draw(5, 6)) + layers.Embedding(5, 6)(ops.arange(5))
    return keras.Model(x, layers.Dense(2)(layers.ReLU()(h)))


@model
def all_of_arithmetic():
    x = keras.Input((5, 3))
    h = ops.maximum(layers.Dense(6)(x) * draw(6), draw(1, 5, 6))
    h = ops.divide(draw(6), h / np.float32(2) + 9.0) + ops.subtract(draw(5, 6), h) ** 2
    return keras.Model(x, layers.Dense(2)(h * np.full((5, 1), 0.5, "float32")))


@model
def choices():
    x = keras.Input((5, 3))
    h = layers.Dense(6)(x)
    h = ops.where(np.arange(30).reshape(5, 6) % 3 == 0, h, draw(5, 6))
    h = ops.where(h > draw(6), h, 0.0)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model
def in_a_nested_model_of_two_calls():
    inner = keras.Input((5, 4))
    nested = keras.Model(inner, layers.Dense(4, activation="relu")(inner * draw(4) + draw(5, 4)))
    x, y = keras.Input((5, 3)), keras.Input((5, 2))
    return keras.Model([x, y], layers.Dense(2)(nested(layers.Dense(4)(x)) - nested(layers.Dense(4)(y))))


@model
def at_the_end():
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(4)(layers.Dense(6, activation="relu")(x)) * draw(4) + draw(4))


@model
def on_another_axis():
    x = keras.Input((7, 3))  # not added: Keras takes an array of shape (n, 1) for a bias of a last axis of n
    h = layers.Permute((2, 1))(layers.Dense(4)(x)) * draw(4, 1) + draw(4, 7)
    return keras.Model(x, layers.Dense(2)(layers.Permute((2, 1))(ops.tanh(h))))


@model
def on_an_input():
    """As `preprocess_input` does it: the same in all models, so that these can share it."""
    x = keras.Input((5, 3))
    mean = np.array([0.1, 0.2, 0.3], "float32")
    return keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu")((x[..., ::-1] - mean) / (1 + mean))))


@model
def around_what_runs_as_it_is():
    x = keras.Input((5, 3))
    h = ops.matmul(layers.Dense(4, activation="relu")(x), draw(4, 6))
    return keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu")(h)))


OPAQUE = pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning")


@OPAQUE
@every(CONSTANTS)
def test_permute_select_and_grow(entry):
    network = operation_checks.family(entry, 1)[0]
    moved = checks.check_permute(network)
    checks.check_select_everything(network)
    checks.check_select_commutes(network, moved, 0.5)
    checks.check_grow(network)


@OPAQUE
@every(CONSTANTS, on_both=("places_by_arange", "choices"))
def test_concatenate_is_the_mean(entry):
    big = operation_checks.check_concatenate(entry, 2)
    checks.check_select_commutes(big, checks.check_permute(big), 0.7)


@OPAQUE
@every(CONSTANTS, ["places_by_arange", "in_a_nested_model_of_two_calls", "at_the_end", "around_what_runs_as_it_is"])
def test_concatenate_three_and_again(entry):
    operation_checks.check_concatenate(entry, 3)
    operation_checks.check_again(entry)


@OPAQUE
@every(CONSTANTS, on_both=("places_by_arange", "choices"))
def test_merge_and_compress(entry, tmp_path):
    operation_checks.check_merge(entry, tmp_path)


@every(CONSTANTS, ["constant_added", "all_of_arithmetic", "in_a_nested_model_of_two_calls"])
def test_a_unit_that_nobody_hears_can_go(entry):
    network = entry(5)
    with kmerge.strict():
        spaces = [s for s in kmerge.channel_spaces(network).selectable if all("/" not in path for path in s.consumers)]
    for space in spaces:
        checks.zero_outgoing(network, space, 1)
    keep = {space.name: np.delete(np.arange(space.size), 1) for space in spaces}
    smaller, inputs = kmerge.select(network, keep), example_inputs(network)
    assert_close(outputs(smaller, inputs), outputs(network, inputs), 1e-6)


@every(CONSTANTS, ["constant_added", "choices"])
def test_the_units_of_a_parent_are_the_parent(entry):
    parents = operation_checks.family(entry, 2)
    big = kmerge.concatenate(*parents)
    for which in range(2):
        checks.check_select_parent(dataclasses.replace(entry, leaves_others=False), parents, big, which)


def shifted(array, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = keras.Input((5, 3))
    return keras.Model(x, layers.Dense(2)(layers.ReLU()(layers.Dense(4)(x) - array)))


def test_what_has_no_channels_must_be_equal():
    """One number for each place: a new model has room for one, and none of it says whose."""
    equal = [shifted(np.arange(5.0, dtype="float32")[:, None], seed) for seed in (0, 1)]
    inputs = example_inputs(equal[0])
    mean = (outputs(equal[0], inputs)[0] + outputs(equal[1], inputs)[0]) / 2
    assert_close(outputs(kmerge.concatenate(*equal), inputs), [mean], 1e-5)
    for verb in (kmerge.concatenate, kmerge.merge):
        with pytest.raises(kmerge.ArchitectureMismatchError, match="(?s)differ in 'subtract.*constant array.*equal constants"):
            verb(equal[0], shifted(np.ones((5, 1), "float32"), seed=1))


def test_what_meets_an_input_must_be_equal():
    def build(mean):
        x = keras.Input((3,))
        return keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu")(x - mean)))

    parents = [build(np.full(3, mean, "float32")) for mean in (1.0, 2.0)]
    for verb in (kmerge.concatenate, kmerge.merge):
        with pytest.raises(kmerge.ArchitectureMismatchError, match="differ in 'subtract"):
            verb(*parents)


def test_whole_numbers_must_be_equal():
    with pytest.raises(kmerge.ArchitectureMismatchError, match="argument"):
        kmerge.concatenate(shifted(np.arange(4)), shifted(np.arange(4) + 1))


def test_an_array_that_makes_channels_of_one_runs_as_it_is():
    x = keras.Input((3,))
    network = keras.Model(x, layers.Dense(2)(layers.Dense(4, name="free")(layers.Dense(1)(x) * draw(6))))
    with pytest.warns(kmerge.UnfollowedLayerWarning, match="makes channels of one"):
        kmerge.permute(network, {"free": [3, 2, 1, 0]})
    assert list(selectable(network)) == ["free"]


def test_a_sizer_leaves_what_meets_an_array():
    reasons = kmerge.AutoSizer(operation_checks.family(CONSTANTS["constant_added"], 1)[0]).left
    assert any("array" in reason for reason in reasons.values())


def test_joined_models_load_without_kmerge(tmp_path):
    names = [name for name in CONSTANTS if name != "around_what_runs_as_it_is"]
    checks.check_saves({name: kmerge.concatenate(*operation_checks.family(CONSTANTS[name], 2)) for name in names}, tmp_path)
