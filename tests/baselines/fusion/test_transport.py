"""Optimal transport between the units of two networks."""

import numpy as np
import pytest

import kmerge
from baselines.fusion.transport import sinkhorn, transport
from kmerge.matching import average
from tests import checks
from tests.models import ZOO


def test_sinkhorn_moves_equal_masses():
    rng = np.random.default_rng(1)
    costs = np.square(rng.normal(size=(40, 1)) - rng.normal(size=40))
    plan = sinkhorn(costs, 0.05)
    np.testing.assert_allclose(plan.sum(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(plan.sum(axis=1), 1, atol=1e-12)
    softer, harder = (np.sum(sinkhorn(costs, weight) * costs) for weight in (0.5, 0.005))
    assert harder < np.sum(plan * costs) < softer


def test_sinkhorn_is_that_of_the_pot_library():
    ot = pytest.importorskip("ot")
    costs = np.random.default_rng(2).uniform(size=(30, 30))
    masses = np.full(30, 1 / 30)
    expected = ot.sinkhorn(masses, masses, costs, 0.05 * costs.max(), numItermax=5000, stopThr=1e-12)
    np.testing.assert_allclose(sinkhorn(costs, 0.05) / 30, expected, atol=1e-6)
    exact = ot.emd(masses, masses, costs)  # between equal masses, a permutation
    assert np.count_nonzero(exact > 1e-9) == 30 and exact.max() == pytest.approx(1 / 30)


@pytest.mark.parametrize("name", ["resnet8", "shared_dense", "nested_two_deep"])
def test_transport_with_little_entropy_recovers_a_planted_permutation(name):
    model, moved = checks.parent(ZOO[name], 0), checks.permuted(ZOO[name])
    checks.assert_close(transport(model, moved, 0.002).get_weights(), model.get_weights(), 0.05)


@pytest.mark.parametrize("name", ["lenet", "inception", "normalization_on_the_input"])
def test_transport_averages_units(name):
    model, other = checks.parent(ZOO[name], 0), checks.parent(ZOO[name], 1)
    soft = checks.check_arguments_unchanged([model, other], transport, 0.2)
    checks.assert_same_interface(soft, model)
    for a, b in zip(soft.weights, other.weights, strict=True):
        assert np.abs(a).max() <= np.abs(b).max() * (1 + 1e-5), a.path  # means lie between the least and the largest


def test_a_fused_model_loads_without_kmerge(tmp_path):
    model, other = (checks.parent(ZOO["nested_two_deep"], seed) for seed in range(2))
    checks.check_saves({"soft": average(model, transport(model, other, 0.05))}, tmp_path)


@pytest.mark.parametrize("regularization", [0, -1, 0.001, float("nan")])
def test_an_impossible_regularization_is_refused(regularization):
    with pytest.raises(kmerge.InvalidArgumentError, match=f"received {regularization}"):
        transport(*(checks.parent(ZOO["mlp"], seed) for seed in range(2)), regularization)
