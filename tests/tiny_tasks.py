"""Tasks that train in seconds, for tests of strategies."""

import dataclasses

import keras

from baselines.strategy import Task
from benchmarks.suites import load_suite
from kmerge.seeds import rng_of


def tiny_net(seed: int, widen: int = 1) -> keras.Model:
    """Two convolutions with BatchNormalization, of 4 and 6 channels, for 8x8 images of ten classes."""
    x = inputs = keras.Input((8, 8, 1))
    for number, filters in enumerate((4, 6), 1):
        x = keras.layers.Conv2D(filters * widen, 3, use_bias=False, name=f"conv_{number}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, beta_regularizer=keras.regularizers.L2(1e-4))(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    for index, weight in enumerate(model.trainable_weights):
        if weight.name == "kernel":
            weight.assign(rng_of("tiny", seed, index).normal(0, 0.5, weight.shape))
    return model


def tiny_digits(cache, examples: int) -> Task:
    """The suite "digits" with a few of its examples and `tiny_net`."""
    return dataclasses.replace(load_suite("digits").task(1, None, cache, examples=examples), build=tiny_net)
