"""One small member of each family in `keras.applications`. All members: `python -m benchmarks.zoo --members all`."""

import functools

import keras
import numpy as np
import pytest

import kmerge
from benchmarks import zoo
from tests import checks

# kmerge has no rule for LayerNormalization yet.
WAITING = {"ConvNeXtTiny"}
# Each goes through the first test, and through one of the two others: the time of all tests is short.
FAMILIES = [name for name in zoo.SMALL if name not in WAITING]
every_family = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def parents(name: str) -> list[keras.Model]:
    return [zoo.build(name, seed, **zoo.SMALL[name]) for seed in (0, 1)]


@functools.cache
def concatenated(name: str) -> keras.Model:
    return kmerge.concatenate(*parents(name))


@functools.cache
def images(name: str) -> np.ndarray:
    return np.random.default_rng(2).uniform(0, 255, (4, *parents(name)[0].input_shape[1:])).astype("float32")


@functools.cache
def expected(name: str, which: int) -> np.ndarray:
    values = zoo.logits(parents(name)[which], images(name))
    assert np.std(values, axis=0).max() > 1e-3 * np.abs(values).max()  # else errors could not show
    return values


@every_family
def test_concatenate_is_the_mean_and_gives_each_parent_back(name):
    mean = (expected(name, 0) + expected(name, 1)) / 2
    assert zoo.error_of(zoo.logits(concatenated(name), images(name)), mean) <= 1e-5
    checks.assert_spaces(concatenated(name), {k: 2 * n for k, n in checks.selectable(parents(name)[0]).items()})
    part = zoo.second_parent(concatenated(name), parents(name))
    assert zoo.error_of(zoo.logits(part, images(name)), expected(name, 1)) <= 1e-6


@pytest.mark.parametrize("name", FAMILIES[::2])
def test_permute_changes_nothing(name):
    model = parents(name)[0]
    moved = kmerge.permute(model, checks.random_orders(model, 0))
    assert zoo.error_of(zoo.logits(moved, images(name)), expected(name, 0)) <= 1e-5


def test_half_of_every_space_trains_and_loads_without_kmerge(tmp_path):
    halves = {}
    for name in FAMILIES[1::2]:
        model = parents(name)[0]
        half = halves[name] = zoo.train_half(model, images(name))
        checks.assert_spaces(half, {k: max(1, n // 2) for k, n in checks.selectable(model).items()})
        assert half.count_params() < 0.3 * model.count_params()
    checks.check_saves(halves, tmp_path)
