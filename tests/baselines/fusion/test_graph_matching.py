"""Graph matching: what was only reordered is found, a network fits itself, and no match is worse than none."""

import sys
import tracemalloc

import keras
import numpy as np
import pytest

import kmerge
from baselines.fusion.graph_matching import match_graphs
from baselines.fusion.model_fusion import Fusion
from kmerge.matching import Pair, align, match_score
from tests import checks
from tests.models import ZOO
from tests.tiny_tasks import HAS_SOLVER, Shelf, tiny_digits

needs_solver = pytest.mark.skipif(not HAS_SOLVER, reason="pygmtools is not installed")
NAMES = ["mlp", "lenet", "resnet8", "siamese", "nested_two_deep"]


def network(name: str, seed: int = 0) -> keras.Model:
    return checks.parent(ZOO[name], seed)


@needs_solver
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_permutation_is_recovered(name):
    model = network(name)
    orders = checks.random_orders(model, 5)
    moved = kmerge.permute(model, orders)
    found = match_graphs(model, moved)
    assert {space: order.tolist() for space, order in found.items()} == {
        space: np.argsort(order).tolist() for space, order in orders.items()
    }
    checks.assert_same_weights(align(model, moved, found), model)


@needs_solver
@pytest.mark.parametrize("name", ["mlp", "siamese", "sequential"])
def test_a_network_fits_itself_and_others_no_worse_than_they_stand(name):
    model, other = network(name), network(name, 1)
    assert all((order == np.arange(len(order))).all() for order in match_graphs(model, model).values())
    assert match_score(model, align(model, other, match_graphs(model, other))) > match_score(model, other)


@needs_solver
@pytest.mark.parametrize("seed", range(1, 7))
def test_a_match_never_scores_less_than_none(seed):
    """Also of networks that are nearly aligned as they come, where another local optimum would be a loss."""
    model, other = network("mlp"), kmerge.permute(network("mlp"), {})
    rng = np.random.default_rng(seed)
    other.set_weights([w + rng.normal(0, 0.15 * seed * np.std(w), w.shape) for w in other.get_weights()])
    aligned = align(model, other, match_graphs(model, other))
    assert match_score(model, aligned) >= match_score(model, other) - 1e-6


def test_the_gradient_is_that_of_the_score():
    """Of orders that are permutations, of which one space has another."""
    model, other = network("resnet8"), network("resnet8", 1)
    pair = Pair(model, other)
    rng = np.random.default_rng(0)
    hard = {name: np.eye(len(order))[rng.permutation(len(order))] for name, order in pair.order.items()}
    for name in hard:
        moved = Pair(model, other)
        for each, plan in hard.items():
            if each != name:
                moved.move(each, plan.argmax(axis=1))
        # A space that lies on both axes of no weight: what it pulls is what each unit would gain in each place.
        if any(name in use.others for use in moved.uses[name]):
            continue
        np.testing.assert_allclose(pair.pull(name, hard), moved.similarity(name), rtol=1e-4, atol=1e-4)


def test_no_large_array_is_made():
    """The graph has 64 + 300 nodes; a matrix of their pairs, squared, would have ten billion numbers."""
    x = keras.Input((6, 6, 4))
    h = keras.layers.Conv2D(64, 1, name="conv")(x)
    h = keras.layers.Dense(300, name="hidden")(keras.layers.Flatten()(h))  # 2,304 x 300
    model = keras.Model(x, keras.layers.Dense(2)(h))
    pair = Pair(model, model)
    soft = {name: np.full((len(order),) * 2, 1 / len(order), "float32") for name, order in pair.order.items()}
    tracemalloc.start()
    try:
        for name in soft:
            pair.pull(name, soft)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A copy of the largest weight in double precision, its moved twin, and matrices of 300 x 300.
    assert peak < 8 * (3 * 2_304 * 300 + 8 * 300**2)


def test_without_the_solver_it_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pygmtools", None)
    stages = Shelf()
    with pytest.raises(kmerge.InvalidArgumentError, match=r"pygmtools. Run: pip install 'kmerge\[benchmarks\]'"):
        Fusion("graphs")(tiny_digits(tmp_path, 96), None, 1, stages)
    assert not stages.steps
