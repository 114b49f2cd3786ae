"""Packed convolutions: of three models, against those of each by itself. They need JAX."""

import keras
import numpy as np
import pytest
from keras import layers, regularizers

import kmerge
from kmerge.errors import InvalidArgumentError
from tests.kmerge.training.cases import (
    assert_same,
    assert_same_history,
    compiled,
    decaying_sgd,
    dense,
    numbers,
    sparse,
    state_of,
)

pytestmark = [
    pytest.mark.both_backends,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="fit_many needs the JAX backend"),
]
IMAGES, STEPS, BATCH = (5, 5, 2), 20, 4
# Of three models, convolutions of three, of two and then one, and of one each.
KINDS = {
    "strides": dict(kernel=(3, 3, 2, 4), strides=(2, 1), packed=3),
    "channels first, dilated, blocks of two": dict(kernel=(2, 2, 2, 6), rhs_dilation=(2, 2), first=True, packed=2),
    "one axis, too wide": dict(kernel=(3, 2, 7), padding="VALID", packed=1),
    "transposed": dict(kernel=(3, 3, 2, 3), lhs_dilation=(2, 2), padding=[(2, 1), (1, 1)], packed=3),
    "groups": dict(kernel=(3, 3, 1, 4), feature_group_count=2, packed=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_and_their_gradients_are_those_of_each_model(kind):
    import jax

    from kmerge.training.packing import ModelAxis

    how = {"padding": "SAME", "window_strides": (1,) * (len(KINDS[kind]["kernel"]) - 2), "first": False, **KINDS[kind]}
    how["window_strides"] = how.pop("strides", how["window_strides"])
    shape, first, packed = how.pop("kernel"), how.pop("first"), how.pop("packed")
    axes = "HW"[: len(shape) - 2]
    layout = f"NC{axes}" if first else f"N{axes}C"
    images = numbers(3, *((4, 2, *(7 for _ in axes)) if first else (4, *(7 for _ in axes), 2)))
    axis = ModelAxis(channels=12)

    def score(image, kernel):
        numbering = (layout, f"{axes}IO", layout)
        return (jax.lax.conv_general_dilated(image, kernel, dimension_numbers=numbering, **how) ** 2).sum()

    both = jax.value_and_grad(score, (0, 1))
    kernels = numbers(3, *shape)
    together = jax.jit(jax.vmap(both, axis_name=axis))(images, kernels)
    alone = jax.jit(lambda images, kernels: [both(*each) for each in zip(images, kernels, strict=True)])
    for i, expected in enumerate(alone(images, kernels)):
        assert_same([np.asarray(a)[i] for a in jax.tree.leaves(together)], [np.asarray(a) for a in jax.tree.leaves(expected)])
    assert axis.packed == packed


def narrow():
    x = inputs = keras.Input(IMAGES)
    x = layers.Conv2D(4, 3, padding="same", kernel_regularizer=regularizers.L2(1e-2), use_bias=False, name="stem")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.8, name="bn")(x))
    x = layers.Dropout(0.2, name="dropout")(layers.Conv2D(6, 3, 2, activation="tanh", name="down")(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D(name="mean")(x)))


def merged():
    return kmerge.merge(narrow(), narrow())


def gated_sgd():
    return kmerge.gate_optimizer(decaying_sgd())


def images_and_labels():
    x = numbers(STEPS * BATCH, *IMAGES)
    return x, np.arange(len(x)) % 3


@pytest.mark.parametrize(("build", "optimizer", "count"), [(narrow, decaying_sgd, 3), (merged, gated_sgd, 2)])
def test_twenty_steps_of_a_packed_model_are_those_of_it_by_itself(build, optimizer, count):
    options = dict(loss=sparse, optimizer=optimizer, metrics=["accuracy"])
    packed = [compiled(build, seed=seed, **options) for seed in range(count)]
    alone = compiled(build, seed=1, **options)
    for variable, other in zip(alone.variables, packed[1].variables, strict=True):  # seeds are not alike
        other.assign(variable)
    x, y = images_and_labels()
    noises = [layers.GaussianNoise(0.3, seed=i) for i in range(count)]
    many = kmerge.fit_many(packed, x, y, batch_size=BATCH, augments=noises, packed_channels=16)
    history = kmerge.fit(alone, x, y, batch_size=BATCH, seed=1, augment=layers.GaussianNoise(0.3, seed=1), verbose=0)
    assert many[0].params["packed"] == count
    assert_same_history(many[1], history, 1e-4)
    assert_same(state_of(packed[1]), state_of(alone), 1e-4)


def test_a_model_that_overflows_does_not_spoil_those_beside_it():
    def one_convolution():
        return keras.Sequential([keras.Input(IMAGES), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)])

    alone, good, bad = (compiled(one_convolution, seed=seed, loss=sparse, optimizer=decaying_sgd) for seed in (1, 1, 2))
    bad.layers[-1].kernel.assign(np.full((2, 3), 3e38) * [1, -1, 1])
    x, y = images_and_labels()
    kmerge.fit(alone, x, y, batch_size=BATCH, epochs=2, verbose=0)
    with pytest.warns(UserWarning, match="A model overflowed.* computed apart"):
        kmerge.fit_many([good, bad], x, y, batch_size=BATCH, epochs=2, packed_channels=64)
    assert not np.isfinite(bad.get_weights()[0]).all()
    assert_same(state_of(good), state_of(alone))


@pytest.mark.parametrize(
    ("channels", "build", "message"),
    [
        (64, dense, "expected models with convolutions, .* two fit into 64 channels, received .* Leave packed_channels out"),
        ("all", dense, "packed_channels to be one of"),
        (-1, dense, "packed_channels to be .*-1"),
    ],
)
def test_what_cannot_be_packed_is_refused(channels, build, message):
    models = [compiled(build, seed=seed, loss="mse", optimizer=decaying_sgd) for seed in (1, 2)]
    before = [model.get_weights() for model in models]
    with pytest.raises(InvalidArgumentError, match=message):
        kmerge.fit_many(models, numbers(4, 4), numbers(4, 1), packed_channels=channels)
    assert_same(sum((model.get_weights() for model in models), []), sum(before, []), 0)


def test_models_that_scale_their_loss_are_not_packed():
    def scaled():
        return keras.optimizers.LossScaleOptimizer(decaying_sgd())

    models = [compiled(narrow, seed=seed, loss=sparse, optimizer=scaled) for seed in (1, 2)]
    with pytest.raises(InvalidArgumentError, match="whose optimizer scales the loss, received 64. Leave packed_channels out"):
        kmerge.fit_many(models, *images_and_labels(), packed_channels=64)
