"""Layers around a layer with a kernel."""

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests import checks
from tests.kmerge.rules import operation_checks
from tests.models import Entry, every
from tests.programs import without_programs

MODELS: dict[str, Entry] = {}


def model(build):
    MODELS[build.__name__] = Entry(build.__name__, build, ("linear",), leaves_others=True)
    return build


@model
def discriminator():
    x = keras.Input((7, 7, 3))
    h = layers.SpectralNormalization(layers.Conv2D(5, 3, activation="relu"))(x)
    h = layers.SpectralNormalization(layers.Conv2D(4, 3, use_bias=False), power_iterations=2)(layers.BatchNormalization()(h))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model
def shared():
    x, y = keras.Input((4,)), keras.Input((4,))
    dense = layers.SpectralNormalization(layers.Dense(6, activation="relu"))
    return keras.Model([x, y], layers.SpectralNormalization(layers.Dense(2))(dense(x) * dense(y)))


@model
def activation_of_ones_own():
    x = keras.Input((4,))
    h = layers.SpectralNormalization(layers.Dense(6, activation=lambda v: v * keras.ops.tanh(v)))(x)
    return keras.Model(x, layers.Dense(2)(h))


@every(MODELS)
def test_it_is_followed_permutes_selects_and_grows(entry):
    network = operation_checks.family(entry, 1)[0]
    with kmerge.strict():
        assert checks.selectable(network)
    moved = checks.check_permute(network)
    checks.check_select_everything(network)
    checks.check_select_commutes(network, moved, 0.5)
    checks.check_grow(network)


@every(MODELS)
def test_concatenate_is_the_mean(entry):
    operation_checks.check_concatenate(entry, 2)


@every({name: entry for name, entry in MODELS.items() if name != "activation_of_ones_own"})  # which Keras does not save
def test_merge_and_compress(entry, tmp_path):
    operation_checks.check_merge(entry, tmp_path)


def test_a_cut_layer_trains_with_what_is_left_of_its_vector():
    network = operation_checks.family(MODELS["discriminator"], 1)[0]
    small = kmerge.prune(network, budget=0.5)
    layer = next(x for x in small.layers if isinstance(x, layers.SpectralNormalization))
    assert layer.vector_u.shape == (1, layer.layer.filters)
    small.compile("sgd", "mse")
    with without_programs():
        small.fit(np.ones((4, 7, 7, 3), "float32"), np.zeros((4, 2), "float32"), verbose=0)
    kernel = keras.ops.convert_to_numpy(layer.layer.kernel).reshape(-1, layer.layer.filters)
    assert np.isfinite(kernel).all()


@pytest.mark.filterwarnings("ignore::kmerge.UnfollowedLayerWarning")
def test_another_layer_inside_runs_as_it_is():
    x = keras.Input((7, 7, 3))
    h = layers.SpectralNormalization(layers.Conv2DTranspose(4, 3))(layers.Conv2D(5, 1, name="before")(x))
    network = keras.Model(x, layers.Dense(2)(layers.Dense(6, name="free")(layers.Flatten()(h))))
    assert list(checks.selectable(network)) == ["free"]
