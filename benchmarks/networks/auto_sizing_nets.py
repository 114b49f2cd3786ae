"""The networks of dynamic auto-sizing: five hidden layers with SELU, whose widths are free.

Reference: Cahlik, Kordik and Cepek, "Adapting the size of artificial neural networks using dynamic auto-sizing", section
IV.A, and the authors' public TensorFlow code. Kernels start LeCun-normal, those of the output Glorot-uniform, biases zero.
There is no BatchNormalization, no weight decay and no augmentation; inputs are standardized.

What differs: the output gives logits, its softmax is in the loss. `Flatten` goes over channels last, which only renumbers
the inputs of the layer behind it. Each weight and each dropout draws from a seed of its layer's name.
"""

import keras
from keras import layers

from kmerge.seeds import seed_of

_LAYERS = 5


def _selu(seed: int, name: str) -> dict:
    start = keras.initializers.LecunNormal(seed=seed_of("init", seed, name, "kernel"))
    return {"activation": "selu", "kernel_initializer": start, "name": name}


def _output(x, outputs: int, seed: int, name: str):
    start = keras.initializers.GlorotUniform(seed=seed_of("init", seed, name, "kernel"))
    return layers.Dense(outputs, kernel_initializer=start, dtype="float32", name=name)(x)


def _widths(hidden: tuple[int, ...], widen: int, network: str) -> list[int]:
    if len(hidden) != _LAYERS or not all(isinstance(units, int) and units > 0 for units in hidden):
        raise ValueError(f"{network} expects {_LAYERS} widths of hidden layers, whole and positive; received {hidden}.")
    return [widen * units for units in hidden]


def das_cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    hidden: tuple[int, ...] = (100,) * _LAYERS,
    repeat: int = 1,
    widen: int = 1,
) -> keras.Model:
    """Four 3x3 convolutions, the second and fourth with stride 2 and dropout behind them (.2 and .5), and a Dense layer.

    Args:
        input_shape: `(height, width, channels)`.
        outputs: logits.
        seed: every weight draws from a seed derived from it.
        hidden: widths of conv_1 to conv_4 and dense_1.
        repeat: shows each pixel so many times along both axes; 2 makes the digits 16x16.
        widen: factor on `hidden`.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: if `hidden` has not five widths.
    """
    *filters, units = _widths(hidden, widen, "das_cnn")
    x = inputs = keras.Input(input_shape, name="input")
    if repeat > 1:
        x = layers.UpSampling2D(repeat, name="repeat")(x)
    for number, width in enumerate(filters, 1):
        strides = 2 if number % 2 == 0 else 1
        x = layers.Conv2D(width, 3, strides, padding="same", **_selu(seed, f"conv_{number}"))(x)
        if strides > 1:
            rate = 0.2 if number == 2 else 0.5
            x = layers.Dropout(rate, seed=seed_of("dropout", seed, number), name=f"dropout_{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(units, **_selu(seed, "dense_1"))(x)
    return keras.Model(inputs, _output(x, outputs, seed, "logits"), name="das_cnn")


def das_dense(
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    *,
    hidden: tuple[int, ...] = (50,) * _LAYERS,
    widen: int = 1,
) -> keras.Model:
    """Five Dense layers, as on the 15-puzzle.

    Args:
        input_shape: of one example.
        outputs: units of the last layer, which has no activation.
        seed: every weight draws from a seed derived from it.
        hidden: units of each hidden layer.
        widen: factor on `hidden`.

    Returns:
        An uncompiled network.

    Raises:
        ValueError: if `hidden` has not five widths.
    """
    x = inputs = keras.Input(input_shape, name="input")
    for number, units in enumerate(_widths(hidden, widen, "das_dense"), 1):
        x = layers.Dense(units, **_selu(seed, f"dense_{number}"))(x)
    return keras.Model(inputs, _output(x, outputs, seed, "output"), name="das_dense")
