"""Tasks that train in seconds, for tests of strategies, and what strategies train with there."""

import dataclasses
import importlib.util
import json

import keras

from baselines.protocol.strategy import Stages
from baselines.protocol.task import Task
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from kmerge.seeds import rng_of
from tests.programs import without_programs

# The strategies that can run here: the solver of one is an optional package.
HAS_SOLVER = importlib.util.find_spec("pygmtools") is not None
RUNNABLE = [name for name in STRATEGIES if HAS_SOLVER or name != "fusion_gamf"]


class Shelf(Stages):
    """Keeps stages that strategies share; counts the steps of what it trains, shared stages in full, and hears of epochs."""

    def __init__(self, kept=None):
        self.kept, self.steps, self.rows = {} if kept is None else kept, 0, []

    def run(self, key, build, train):
        name = json.dumps(key, sort_keys=True)
        if name in self.kept:
            self.steps += self.kept[name][2]
        else:
            before, model = self.steps, build()
            record = train(model)
            self.kept[name] = model.get_weights(), record, self.steps - before
        weights, record, _ = self.kept[name]
        model = build()
        model.set_weights(weights)
        return model, record

    def fit(self, model, x, y, **how):
        super().fit(model, x, y, **how)
        self.steps += int(model.optimizer.iterations)  # each phase has an optimizer of its own

    def size(self, sizer, x, y, **how):
        super().size(sizer, x, y, **how)
        self.steps += int(sizer.model.optimizer.iterations)

    def on_epoch(self, row, state):
        self.rows.append(row)


class StepByStep(Stages):
    """Trains without programs: cheaper for a few steps, where a test looks at what a strategy does between trainings."""

    def fit(self, model, x, y, **how):
        with without_programs():
            super().fit(model, x, y, **how)

    def size(self, sizer, x, y, **how):
        with without_programs():
            super().size(sizer, x, y, **how)


class EagerShelf(StepByStep, Shelf):
    """A shelf of what was trained step by step."""


def with_test_data(task: Task, data: object) -> Task:
    """The task with something else as its test data: with None, a strategy that reads it fails."""
    return dataclasses.replace(task, data=dataclasses.replace(task.data, x_test=data, y_test=data))


def tiny_net(seed: int, widen: int = 1) -> keras.Model:
    """Two convolutions with BatchNormalization, of 4 and 6 channels, for 8x8 images of ten classes."""
    zeros = {"kernel_initializer": "zeros"}  # until they are drawn below
    x = inputs = keras.Input((8, 8, 1))
    for number, filters in enumerate((4, 6), 1):
        x = keras.layers.Conv2D(filters * widen, 3, use_bias=False, name=f"conv_{number}", **zeros)(x)
        x = keras.layers.BatchNormalization(momentum=0.9, beta_regularizer=keras.regularizers.L2(1e-4))(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits", **zeros)(x))
    for index, weight in enumerate(model.trainable_weights):
        if weight.name == "kernel":
            weight.assign(rng_of("tiny", seed, index).normal(0, 0.5, weight.shape))
    return model


def tiny_digits(cache, examples: int) -> Task:
    """The suite "digits" with a few of its examples and `tiny_net`, also instead of the net that auto-sizing brings."""
    task = load_suite("digits").task(1, None, cache, examples=examples)
    return dataclasses.replace(task, build=tiny_net, sizing=dataclasses.replace(task.sizing, net=tiny_net))
