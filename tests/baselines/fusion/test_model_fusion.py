"""Fusion as a strategy: what its rows report, on networks with and without BatchNormalization."""

import dataclasses

import numpy as np
import pytest

from baselines.fusion import alignment
from baselines.fusion.model_fusion import Fusion
from baselines.protocol.outcomes import validation_metric
from baselines.protocol.strategy import Stages
from baselines.protocol.task import Budget
from baselines.protocol.teachers import train_teacher
from benchmarks.data import cache as data_cache
from benchmarks.data import datasets
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.tiny_tasks import RUNNABLE, with_test_data

NAMES = [name for name in RUNNABLE if name.startswith("fusion_")]
BUDGET = Budget(teacher=1, gates=1, finetune=1, single=4)


class Shelf(Stages):
    """Keeps the teachers that were trained."""

    def __init__(self):
        self.kept = {}

    def run(self, key, build, train):
        if str(key) not in self.kept:
            model = build()
            self.kept[str(key)] = (model, train(model))
        return self.kept[str(key)]


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Digits without test data: a strategy that reads it fails."""
    task = load_suite("digits").task(1, None, tmp_path_factory.mktemp("cache"), examples=120)
    return with_test_data(task, None)


@pytest.fixture(scope="module")
def small_cifar10(tmp_path_factory):
    """The suite's own task, on a cache of few random images in the place of CIFAR-10."""
    source = dataclasses.replace(datasets.IMAGES["cifar10"], train=96, test=8, validation=32)
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        count = getattr(source, part)
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *source.shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 10, count, dtype=np.int32)
    folder = tmp_path_factory.mktemp("cache")
    data_cache.write_cache(folder / "cifar10", arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.IMAGES, "cifar10", source)
        yield load_suite("cifar10_vgg11").task(100, None, folder, scale=0.01)


def assert_fused(task, outcome, budget):
    target = task.build(1)
    assert [w.shape for w in outcome.model.weights] == [w.shape for w in target.weights]
    assert {type(layer).__module__.split(".")[0] for layer in outcome.model.layers} == {"keras"}
    assert [row["phase"] for row in outcome.history] == [
        *["teacher_0"] * budget.teacher,
        *["teacher_1"] * budget.teacher,
        *["finetune"] * (budget.gates + budget.finetune),
    ]
    assert all(np.isfinite(outcome.extras[key]) for key in ("validation_fused", "validation_recalibrated"))
    assert len(outcome.extras["validation_teachers"]) == 2 and -1 <= outcome.extras["match_score"] <= 1


@pytest.fixture(scope="module")
def outcomes(digits, shelf):
    """What each way of fusing makes of one pair of teachers."""
    return {name: STRATEGIES[name](digits, BUDGET, 1, shelf) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_fusion_on_a_residual_network(digits, outcomes, name):
    assert_fused(digits, outcomes[name], BUDGET)


def test_the_suite_of_vgg11_runs(small_cifar10, shelf):
    budget = load_suite("cifar10_vgg11").budget(0.001)
    outcome = Fusion("weights")(small_cifar10, budget, 100, shelf)
    assert_fused(small_cifar10, outcome, budget)
    # Without BatchNormalization there is nothing to measure anew.
    assert outcome.extras["validation_recalibrated"] == pytest.approx(outcome.extras["validation_fused"])


def test_extras_are_those_of_the_fused_network(digits, shelf, outcomes):
    (model, _), (other, _) = (train_teacher(digits, BUDGET, 1, number, shelf) for number in (0, 1))
    extras = outcomes["fusion_average"].extras
    assert extras["match_score"] == pytest.approx(alignment.match_score(model, other))
    fused = alignment.average(model, other)
    assert extras["validation_fused"] == pytest.approx(validation_metric(digits, fused))


def test_matched_networks_are_more_alike(outcomes):
    scores = {name: outcome.extras["match_score"] for name, outcome in outcomes.items()}
    assert scores["fusion_weight_matching"] >= scores["fusion_ot"] > scores["fusion_average"]
    assert scores["fusion_activation_matching"] > scores["fusion_average"]


def test_fusion_repeats_by_seed_and_leaves_teachers_alone(digits, shelf, outcomes):
    teachers = [train_teacher(digits, BUDGET, 1, number, shelf)[0] for number in (0, 1)]
    before = [teacher.get_weights() for teacher in teachers]
    again = Fusion("weights")(digits, BUDGET, 1, shelf).model.get_weights()
    for a, b in zip(outcomes["fusion_weight_matching"].model.get_weights(), again, strict=True):
        np.testing.assert_array_equal(a, b)
    for teacher, weights in zip(teachers, before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(teacher.get_weights(), weights, strict=True))


def test_cifar10_vgg11_has_the_papers_network():
    from benchmarks.networks.architectures import vgg11

    definition = load_suite("cifar10_vgg11").definition
    model = vgg11((32, 32, 3), 10, 1, **{k: v for k, v in definition["architecture"].items() if k != "name"})
    assert {weight.name for weight in model.weights} == {"kernel"}  # no biases, no BatchNormalization
    assert model.count_params() == 9_222_848
    normalized = vgg11((32, 32, 3), 10, 1, batch_norm=True)
    assert {weight.name for weight in normalized.weights} > {"gamma", "beta", "moving_mean"}
