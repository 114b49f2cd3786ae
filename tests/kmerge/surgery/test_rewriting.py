"""rewrite, the primitive under every verb, called with plans written by hand."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests import checks
from tests.models import randomize


def network(seed: int) -> keras.Model:
    x = keras.Input((3,))
    h = layers.BatchNormalization(name="norm")(layers.Dense(4, name="hidden")(x))
    model = keras.Model(x, layers.Dense(2, name="head")(layers.ReLU()(h)))
    randomize(model, seed)
    return model


def test_a_plan_of_all_units_is_concatenate():
    models = [network(0), network(1)]
    plan = kmerge.Plan(2, {"hidden": [(source, unit) for source in (0, 1) for unit in range(4)]})
    checks.assert_same_weights(kmerge.rewrite(models[0], models, plan), kmerge.concatenate(*models))


def test_units_of_several_sources_in_any_order():
    models, chosen = [network(0), network(1)], [(1, 3), (0, 0), (1, 1)]
    small = kmerge.rewrite(models[0], models, kmerge.Plan(2, {"hidden": chosen}))
    kernels = [model.get_layer("hidden").kernel for model in models]
    expected = np.stack([keras.ops.convert_to_numpy(kernels[source])[:, unit] for source, unit in chosen], axis=1)
    np.testing.assert_array_equal(small.get_layer("hidden").get_weights()[0], expected)
    heads = [model.get_layer("head").get_weights() for model in models]
    expected = np.stack([heads[source][0][unit] / 2 for source, unit in chosen])
    np.testing.assert_allclose(small.get_layer("head").get_weights()[0], expected, rtol=1e-6)
    np.testing.assert_allclose(small.get_layer("head").get_weights()[1], (heads[0][1] + heads[1][1]) / 2, rtol=1e-6)


def test_a_new_unit_lies_where_its_unit_lies_and_is_drawn_from_the_seed():
    model = network(0)
    plan = kmerge.Plan(1, {"hidden": [(0, 0), (None, 2), (0, 3)]})
    wide, same, other = (kmerge.rewrite(model, [model], plan, scale=0.5, seed=seed) for seed in (1, 1, 2))
    checks.assert_same_weights(wide, same)
    kernel, others = (m.get_layer("hidden").get_weights()[0] for m in (wide, other))
    assert np.abs(kernel[:, 1] - others[:, 1]).max() > 1e-3
    np.testing.assert_array_equal(kernel[:, [0, 2]], model.get_layer("hidden").get_weights()[0][:, [0, 3]])
    assert np.abs(wide.get_layer("head").get_weights()[0][1]).max() > 1e-3


@pytest.mark.parametrize(
    "entries, word",
    [
        ({"nowhere": [(0, 0)]}, "nowhere"),
        ({"hidden": []}, "[]"),
        ({"hidden": [(0, 4)]}, "(0, 4)"),
        ({"hidden": [(1, 0)]}, "(1, 0)"),
        ({"hidden": [(0, 1), (0, 1)]}, "(0, 1)"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(entries, word):
    model = network(0)
    with pytest.raises(kmerge.InvalidArgumentError, match=re.escape(word)):
        kmerge.rewrite(model, [model], kmerge.Plan(1, entries))
    with pytest.raises(kmerge.InvalidArgumentError, match="sources to be the 2 models of the plan, received 1"):
        kmerge.rewrite(model, [model], kmerge.Plan(2, {}))


@pytest.mark.parametrize("kind", ["squeeze the channels", "expand behind", "expand behind channels that lie before"])
def test_axes_that_come_and_go_behind_the_channels(kind):
    def build(seed):
        x = keras.Input((6, 3))
        h = layers.Conv1D(1 if kind == "squeeze the channels" else 4, 1, activation="relu")(x)
        if kind == "squeeze the channels":
            h = keras.ops.squeeze(h, axis=-1)
        else:
            h = keras.ops.transpose(h, (0, 2, 1)) if kind.endswith("before") else h
            h = keras.ops.expand_dims(h, axis=-1)
        model = keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))
        randomize(model, seed)
        return model

    models, inputs = [build(0), build(1)], np.random.default_rng(0).normal(size=(5, 6, 3)).astype("float32")
    mean = np.mean([model(inputs) for model in models], axis=0)
    np.testing.assert_allclose(kmerge.concatenate(*models)(inputs), mean, rtol=1e-4, atol=1e-5)
