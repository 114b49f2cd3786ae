"""Fusion as a strategy: what its rows report, on networks with and without BatchNormalization."""

import dataclasses
import functools

import numpy as np
import pytest

from baselines.fusion.model_fusion import Fusion
from baselines.protocol.outcomes import validation_metric
from baselines.protocol.task import Budget
from baselines.protocol.teachers import train_teacher
from benchmarks.data import cache as data_cache
from benchmarks.data import datasets
from benchmarks.networks.architectures import vgg11
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from kmerge.matching import average, match_score
from tests.tiny_tasks import StepByStep, with_test_data

# Ways of fusing whose match scores can be compared; test_contract.py trains them all.
NAMES = ["fusion_average", "fusion_weight_matching", "fusion_activation_matching", "fusion_ot"]
BUDGET = Budget(teacher=1, gates=1, finetune=0, single=3)


class Shelf(StepByStep):
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
    task = load_suite("digits").task(1, None, tmp_path_factory.mktemp("cache"), examples=64)
    return with_test_data(task, None)


@pytest.fixture(scope="module")
def small_cifar10(tmp_path_factory):
    """The suite's own task, narrower, on a cache of few random images instead of CIFAR-10."""
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
        task = load_suite("cifar10_vgg11").task(100, None, folder, scale=0.01)
        build = functools.partial(vgg11, (32, 32, 3), 10, **papers_options() | {"width": 4})
        yield dataclasses.replace(task, build=build)


def papers_options():
    return {k: v for k, v in load_suite("cifar10_vgg11").definition["architecture"].items() if k != "name"}


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
    assert extras["match_score"] == pytest.approx(match_score(model, other))
    fused = average(model, other)
    assert extras["validation_fused"] == pytest.approx(validation_metric(digits, fused))


def test_matched_networks_are_more_alike(outcomes):
    scores = {name: outcome.extras["match_score"] for name, outcome in outcomes.items()}
    assert scores["fusion_weight_matching"] >= scores["fusion_ot"] > scores["fusion_average"]
    assert scores["fusion_activation_matching"] > scores["fusion_average"]


def test_fusion_leaves_teachers_alone(digits, shelf, outcomes):
    for number in (0, 1):
        teacher, record = train_teacher(digits, BUDGET, 1, number, shelf)
        # Of one epoch, the best weights are those of its end, before anything was fused.
        for a, b in zip(teacher.get_weights(), record.best_weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_cifar10_vgg11_has_the_papers_network():
    model = vgg11((32, 32, 3), 10, 1, **papers_options())
    assert {weight.name for weight in model.weights} == {"kernel"}  # no biases, no BatchNormalization
    assert model.count_params() == 9_222_848
    normalized = vgg11((32, 32, 3), 10, 1, batch_norm=True)
    assert {weight.name for weight in normalized.weights} > {"gamma", "beta", "moving_mean"}
