"""The identities of surgery on random graphs: residual, concatenated, sliced, gated, shared, grouped, normalized."""

import os

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import kmerge
from tests import checks
from tests.models import Entry, randomize

# An example takes a second, so that shrinking a failure would take minutes; recipes are short enough to read. With
# KMERGE_TESTS_EXAMPLES=40 five times as many are tried, for a run at night.
EXAMPLES = int(os.environ.get("KMERGE_TESTS_EXAMPLES", "8"))
few = settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.too_slow])

COMMON = ["mix", "relu", "normalize", "add", "concatenate", "half", "scale", "gate", "linear_unit", "shared"]
MAPS = [*COMMON, "depthwise", "separable", "grouped", "pool", "turn", "squeeze"]


def recipes(operations: list[str]) -> st.SearchStrategy:
    """Steps (operation, index of the first tensor, index of the second, width), then the tensors that heads read."""
    step = st.tuples(st.sampled_from(operations), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
    return st.tuples(st.lists(step, min_size=3, max_size=8), st.lists(st.integers(0, 9), max_size=2))


class Builder:
    """Interprets a recipe; every call makes new layers. `make` is the mixing layer: Dense or a convolution."""

    def __init__(self, shape: tuple[int, ...]):
        self.input = keras.Input(shape)
        self.maps = len(shape) == 3

    def make(self, width: int, activation: str | None = None):
        if self.maps:
            return layers.Conv2D(width, 3, padding="same", activation=activation)
        return layers.Dense(width, activation=activation)

    def fitted(self, x, width: int):
        return x if x.shape[-1] == width else self.make(width)(x)

    def step(self, operation: str, x, y, width: int):
        return getattr(self, operation)(x, y, width)

    def mix(self, x, y, width):
        return self.make(width + 1, "relu")(x)

    def relu(self, x, y, width):
        return ops.relu(x)

    def normalize(self, x, y, width):
        return layers.BatchNormalization()(x)

    def add(self, x, y, width):
        return layers.Add()([x, self.fitted(y, x.shape[-1])])

    def concatenate(self, x, y, width):
        return layers.Concatenate()([x, y])

    def half(self, x, y, width):
        middle = (x.shape[-1] + 1) // 2
        return x[..., :middle]

    def scale(self, x, y, width):
        return x * 0.5 + self.fitted(y, x.shape[-1])

    def gate(self, x, y, width):
        return layers.Multiply()([x, self.make(1, "sigmoid")(y)])

    def linear_unit(self, x, y, width):
        h = self.make(2 * width)(x)
        return h[..., :width] * ops.sigmoid(h[..., width:])

    def shared(self, x, y, width):
        layer = self.make(width + 1, "tanh")
        return layer(x) - layer(self.fitted(y, x.shape[-1]))

    def depthwise(self, x, y, width):
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + width % 2, activation="relu")(x)

    def separable(self, x, y, width):
        return layers.SeparableConv2D(width + 1, 3, padding="same")(x)

    def grouped(self, x, y, width):
        return layers.Conv2D(2 * width, 3, padding="same", groups=2)(self.make(4, "relu")(x))

    def pool(self, x, y, width):
        return layers.MaxPooling2D(2, 1, padding="same")(x)

    def turn(self, x, y, width):
        return ops.transpose(x, (0, 2, 1, 3))

    def squeeze(self, x, y, width):
        pooled = self.make(width + 1, "relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        return layers.Multiply()([x, self.make(x.shape[-1], "sigmoid")(pooled)])

    def head(self, x, flatten: bool):
        if self.maps:
            x = layers.Flatten()(x) if flatten else layers.GlobalAveragePooling2D()(x)
        return layers.Dense(3)(x)

    def build(self, recipe) -> keras.Model:
        steps, extra = recipe
        pool = [self.input, self.make(4)(self.input)]
        for operation, first, second, width in steps:
            # Later tensors are drawn more often than the input, so that graphs grow deep as well as wide.
            pool.append(self.step(operation, pool[-1 - first % len(pool)], pool[-1 - second % len(pool)], width))
        read = [pool[-1]] + [pool[1 + index % (len(pool) - 1)] for index in extra]
        return keras.Model(self.input, [self.head(x, bool(index % 2)) for index, x in enumerate(read)])


def parents(recipe, shape: tuple[int, ...]) -> list[keras.Model]:
    models = [Builder(shape).build(recipe) for _ in range(2)]
    for seed, model in enumerate(models):
        randomize(model, seed)
    return models


def check_everything(recipe, shape: tuple[int, ...]) -> None:
    models = parents(recipe, shape)
    operations = {operation for operation, *_ in recipe[0]}
    entry = Entry("random", None, ("linear",) * (1 + len(recipe[1])), leaves_others="gate" in operations)
    try:
        big = checks.check_arguments_unchanged(models, kmerge.concatenate)
    except kmerge.UnsupportedLayerError:
        # A grouped convolution may need its input in an order that nothing but a gather could give.
        assume("grouped" not in operations)
        raise
    checks.check_concatenate(entry, models, big)
    checks.check_select_parent(entry, models, big, 1)
    checks.check_permute(models[0])
    checks.check_select_everything(models[0])
    checks.check_grow(models[0])
    check_select_twice(models[0])


def check_select_twice(model: keras.Model) -> None:
    """Keeping some units and then some of those is keeping the latter at once."""
    rng = np.random.default_rng(5)
    # Not down to one: a convolution with one group left is an ordinary one, whose spaces are others.
    half = lambda size: np.sort(rng.permutation(size)[: max(2, (size + 1) // 2)])  # noqa: E731
    first = {name: half(size) for name, size in checks.selectable(model).items()}
    second = {name: half(len(units)) for name, units in first.items()}
    twice = kmerge.select(kmerge.select(model, first), second)
    checks.assert_same_weights(twice, kmerge.select(model, {name: first[name][second[name]] for name in first}))


@few
@given(recipes(COMMON))
def test_random_dense_graphs(recipe):
    check_everything(recipe, (3,))


@few
@given(recipes(MAPS))
def test_random_convolutional_graphs(recipe):
    check_everything(recipe, (4, 4, 2))
