"""One small member of each family in `keras.applications`. All members: `python -m benchmarks.studies.zoo --members all`."""

import numpy as np
import pytest

import kmerge
from benchmarks.studies import zoo
from tests import checks

# kmerge has no rule for LayerNormalization yet.
WAITING = set()
FAMILIES = [name for name in zoo.SMALL if name not in WAITING]
# Large networks take long: every second family shows the one promise, every other the other.
TAKEN_BACK, MOVED = FAMILIES[1::2], FAMILIES[::2]


def images(model) -> np.ndarray:
    return np.random.default_rng(2).uniform(0, 255, (4, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_the_promises(name):
    parents = [zoo.build(name, seed, **zoo.SMALL[name]) for seed in (0, 1)]
    inputs = images(parents[0])
    each = [zoo.logits(parent, inputs) for parent in parents]
    assert np.std(each[0], axis=0).max() > 1e-3 * np.abs(each[0]).max()  # else errors could not show
    big = kmerge.concatenate(*parents)
    assert zoo.error_of(zoo.logits(big, inputs), np.mean(each, axis=0)) <= 1e-5
    if name in TAKEN_BACK:
        assert zoo.error_of(zoo.logits(zoo.second_parent(big, parents), inputs), each[1]) <= 1e-6
    if name in MOVED:
        moved = kmerge.permute(parents[0], checks.random_orders(parents[0], 0))
        assert zoo.error_of(zoo.logits(moved, inputs), each[0]) <= 1e-5


def test_half_of_every_space_trains_and_loads_without_kmerge(tmp_path):
    halves = {}
    for name in TAKEN_BACK:
        model = zoo.build(name, 0, **zoo.SMALL[name])
        half = halves[name] = zoo.train_half(model, images(model))
        checks.assert_spaces(half, {k: max(1, n // 2) for k, n in checks.selectable(model).items()})
        assert half.count_params() < 0.3 * model.count_params()
    checks.check_saves(halves, tmp_path)
