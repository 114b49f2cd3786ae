"""Small models as people bring them: each stands for one kind of graph, and says what may be expected of it.

    WORKS    every verb keeps its promise
    AROUND   a part is fixed, and every verb keeps its promise with what is left
    FIXED    the same where nothing is left: concatenate and permute keep theirs, the others say that nothing can be cut
    ALONE    the same where units can be cut in one model, but in a merge only whole ones of a parent: merge says so
    REFUSES  a KmergeError before any work
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from tests.models import randomize

WORKS, AROUND, FIXED, ALONE, REFUSES = "works", "around", "fixed", "alone", "refuses"


@dataclass(frozen=True)
class Case:
    """One kind of model.

    Args:
        build: makes it.
        outcome: what every verb does with it.
        later: whether that is not yet so.
        random: whether its weights may be drawn anew.
    """

    build: Callable[[], keras.Model]
    outcome: str
    later: bool = False
    random: bool = True

    def __call__(self, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = self.build()
        if self.random:
            randomize(model, seed)
        return model


CASES: dict[str, Case] = {}


def case(outcome: str, **options: bool) -> Callable:
    """Registers a builder."""

    def register(build):
        CASES[build.__name__] = Case(build, outcome, **options)
        return build

    return register


def inputs(*shapes: tuple, dtype: str = "float32") -> list:
    return [keras.Input(shape, dtype=dtype) for shape in shapes]


def image_head(x, classes: int = 2):
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


# What looks like something else


class StandardizedConv2D(layers.Conv2D):
    """Kernels of mean 0 and variance 1, through the method that Keras leaves to subclasses."""

    def convolution_op(self, inputs, kernel):
        mean, variance = ops.moments(kernel, axes=[0, 1, 2], keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) / ops.sqrt(variance + 1e-10))


@case(FIXED)
def overridden_hook():
    (x,) = inputs((6, 6, 3))
    return keras.Model(x, image_head(StandardizedConv2D(8, 3)(layers.Conv2D(8, 1)(x))))


@case(REFUSES, random=False)
def quantized_int8():
    (x,) = inputs((8,))
    model = keras.Model(x, layers.Dense(4)(layers.Dense(16, activation="relu", name="wide")(x)))
    kernel = np.random.default_rng(0).normal(size=(8, 16)) * np.linspace(0.1, 3, 16)
    model.get_layer("wide").set_weights([kernel, np.zeros(16)])
    model.quantize("int8")
    return model


@case(FIXED)
def activation_with_weights():
    (x,) = inputs((6,))
    return keras.Model(x, layers.Dense(3)(layers.Dense(8, activation=layers.PReLU())(x)))


@case(FIXED)
def sparsemax_inside():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(2)(layers.Dense(6, activation="sparsemax")(x)))


class Negated(keras.Model):
    """A Functional model whose call is more than its graph."""

    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs, training=training, mask=mask)


@case(REFUSES)
def model_with_a_call_of_its_own():
    (x,) = inputs((4,))
    return Negated(x, layers.Dense(2)(layers.Dense(6)(x)))


@case(WORKS)
def nested_model_with_a_call_of_its_own():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(2)(layers.Dense(5)(model_with_a_call_of_its_own()(x))))


@case(REFUSES)
def call_replaced_on_the_model():
    (x,) = inputs((4,))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(6)(x)))
    model.call = model.call
    return model


@case(WORKS)
def final_relu():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(3, activation="relu")(layers.Dense(6)(x)))


@case(WORKS)
def final_tanh_of_a_layer_of_its_own():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Activation("tanh")(layers.Dense(3)(layers.Dense(6)(x))))


# What a big student must bring back


class Net(keras.Model):
    """A subclass without arguments, whose configuration says nothing of its graph."""

    def __init__(self):
        (x,) = inputs((6,))
        super().__init__(x, layers.Dense(2)(layers.Dense(8, activation="relu")(x)))


@case(WORKS)
def functional_subclass():
    return Net()


@case(WORKS)
def nested_functional_subclass():
    (x,) = inputs((6,))
    return keras.Model(x, layers.Dense(3)(layers.Dense(5, activation="relu")(Net()(x))))


@case(WORKS)
def unread_units():
    (x,) = inputs((4,))
    return keras.Model(x, layers.Dense(2)(layers.Dense(6, activation="relu")(x)[:, :3]))


@case(WORKS)
def shared_head_of_many_sizes():
    convolution = layers.Conv2D(6, 3, padding="same", activation="relu")
    head = keras.Sequential([keras.Input((None, None, 4)), convolution, layers.Conv2D(2, 1)])
    (x,) = inputs((8, 8, 3))
    fine = layers.Conv2D(4, 1)(x)
    return keras.Model(x, [head(fine), head(layers.MaxPool2D()(fine))])


@case(WORKS)
def shared_layer_in_a_nested_model():
    (x,), (y,) = inputs((6,)), inputs((6,))
    shared = layers.Dense(6, activation="relu")
    inner = keras.Model(y, shared(layers.Dense(6)(y)))
    return keras.Model(x, layers.Dense(2)(inner(shared(layers.Dense(6)(x)))))


# Objects without a name, and names that come twice


def squared_relu(x):
    return ops.relu(x) ** 2


@case(WORKS)
def unregistered_activation():
    (x,) = inputs((4,))
    ones = lambda shape, dtype=None: ops.ones(shape)  # noqa: E731
    h = layers.Dense(6, activation=squared_relu, kernel_initializer=ones)(x)
    return keras.Model(x, layers.Dense(2)(layers.Activation(ops.square)(h)))


@case(WORKS)
def lambdas_everywhere():
    (x,) = inputs((4,))
    options = {"activation": lambda x: x * 0.5, "kernel_regularizer": lambda w: ops.sum(w * w)}
    return keras.Model(x, layers.Dense(2)(layers.Dense(6, kernel_constraint=lambda w: w, **options)(x)))


@case(WORKS)
def shared_normalization_at_the_end():
    x, y = inputs((4,), (4,))
    shared, normalization = layers.Dense(5), layers.BatchNormalization()
    return keras.Model([x, y], [normalization(shared(layers.Dense(4)(z))) for z in (x, y)])


# In front of the first weight


@case(WORKS)
def transfer_learning():
    augmentation = keras.Sequential(
        [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]
    )
    (small,) = inputs((16, 16, 3))
    base = keras.Model(small, layers.BatchNormalization()(layers.Conv2D(6, 3)(small)))
    base.trainable = False
    (x,) = inputs((20, 20, 3))
    h = layers.Rescaling(1 / 127.5, offset=-1)(layers.Resizing(16, 16)(augmentation(x)))
    h = layers.GlobalAveragePooling2D()(base(h, training=False))
    return keras.Model(x, layers.Dense(2)(layers.Dropout(0.2)(h)))


@case(WORKS)
def preprocess_input_caffe():
    (x,) = inputs((8, 8, 3))
    return keras.Model(x, image_head(layers.Conv2D(6, 3)(keras.applications.resnet50.preprocess_input(x))))


@case(WORKS)
def preprocess_input_torch():
    (x,) = inputs((8, 8, 3))
    return keras.Model(x, image_head(layers.Conv2D(6, 3)(keras.applications.densenet.preprocess_input(x))))


@case(WORKS)
def text_vectorization():
    words = layers.TextVectorization(max_tokens=20, output_sequence_length=5, vocabulary=["a", "b", "c"])
    (x,) = inputs((), dtype="string")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(words(x)))
    return keras.Model(x, layers.Dense(2)(layers.Dense(6)(h)))


@case(WORKS)
def scalar_input():
    (x,) = inputs((), dtype="int32")
    return keras.Model(x, layers.Dense(2)(layers.Dense(8)(layers.Embedding(5, 4)(x))))


@case(WORKS)
def channels_first_input():
    (x,) = inputs((4, 8, 8))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.Conv2D(6, 3)(layers.Permute((2, 3, 1))(x)))))


@case(WORKS)
def category_encoding():
    (x,) = inputs((1,), dtype="int32")
    return keras.Model(x, layers.Dense(2)(layers.Dense(6)(layers.CategoryEncoding(num_tokens=5)(x))))
