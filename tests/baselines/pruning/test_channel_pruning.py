"""Channel pruning little by little, transplantation of many networks, wide networks: on images with BatchNormalization."""

import keras
import numpy as np
import pytest

import kmerge
from baselines.merging.neuron_transplantation import MagnitudeMerge
from baselines.protocol.task import Budget
from baselines.pruning.channel_pruning import MOST_CUTS, ChannelPruning
from baselines.single.single_model import ensemble
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.suites.suite import FOLDER, SuiteError, load_suite
from tests import checks
from tests.tiny_tasks import StepByStep, tiny_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return tiny_digits(tmp_path_factory.mktemp("cache"), 64)


class Watching(StepByStep):
    """Notes what is trained: for each phase the widths, the learning rate and the epochs."""

    def __init__(self):
        self.seen = []

    def fit(self, model, x, y, **how):
        widths = tuple(space.size for space in kmerge.channel_spaces(model).selectable)
        self.seen.append((widths, how["epochs"], kmerge.parameters(model)))
        super().fit(model, x, y, **how)


def test_it_cuts_little_by_little_down_to_the_target(digits):
    stages = Watching()
    outcome = ChannelPruning()(digits, Budget(1, 4, 1, 7), 1, stages)
    assert [seen[:2] for seen in stages.seen] == [
        ((8, 12), 2),
        *(((8 - cut, 12 - round(1.5 * cut)), 1) for cut in (1, 2, 3, 4)),
        ((4, 6), 1),
    ]
    phases = [row["phase"] for row in outcome.history]
    assert phases == ["wide", "wide", "prune_1", "prune_2", "prune_3", "prune_4", "finetune"]
    rates = [row["learning_rate"] for row in outcome.history if row["phase"].startswith("prune")]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001]), "the schedule of the phase goes on over its cuts"
    assert outcome.extras["cuts"] == 4
    assert outcome.flops > sum(6 * 64 * epochs * _macs(digits, widths) for widths, epochs, _ in stages.seen)


def _macs(task, widths):
    model = task.build(1, widen=2)
    keep = dict(zip(("conv_1", "conv_2"), widths, strict=True))
    return kmerge.multiply_accumulates(kmerge.select(model, keep))


def test_cuts_are_not_many_however_long_the_phase():
    ends = [round(37 * cut / MOST_CUTS) for cut in range(MOST_CUTS + 1)]
    assert ends[0] == 0 and ends[-1] == 37 and min(np.diff(ends)) > 0


def test_global_pruning_ends_at_the_targets_parameters_in_another_shape(digits):
    stages = Watching()
    outcome = ChannelPruning(to="global")(digits, Budget(2, 2, 1, 7), 1, stages)
    target = kmerge.parameters(digits.build(1))
    assert 0.8 * target < kmerge.parameters(outcome.model) <= target
    sizes = [parameters for _, _, parameters in stages.seen]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3]


@pytest.mark.parametrize("importance", ["magnitude_l1", "bn_scale", "fpgm"])
def test_the_best_units_by_the_importance_stay(digits, importance):
    class UntilTheCut(StepByStep):
        models = ()

        def fit(self, model, x, y, **how):
            self.models = *self.models, model
            if len(self.models) == 2:
                raise InterruptedError
            super().fit(model, x, y, **how)

    stages = UntilTheCut()
    with pytest.raises(InterruptedError):
        ChannelPruning(importance)(digits, Budget(1, 2, 1, 5), 1, stages)
    wide, cut = stages.models
    best = np.sort(np.argsort(-kmerge.unit_importance(wide, importance)["conv_1"])[:6])
    before, after = (keras.ops.convert_to_numpy(model.get_layer("conv_1").kernel) for model in (wide, cut))
    np.testing.assert_array_equal(after, before[..., best])


def test_an_ensemble_is_the_mean_of_its_teachers(digits):
    outcome = ensemble(digits, Budget(1, 1, 1, 4), 1, StepByStep())
    x = digits.data.x_val[:5]
    inner = [layer for layer in outcome.model.layers if isinstance(layer, keras.Model)]
    (mean,), *each = (checks.outputs(model, [x]) for model in (outcome.model, *inner))
    np.testing.assert_allclose(mean, (each[0][0] + each[1][0]) / 2, rtol=1e-5, atol=1e-6)
    assert kmerge.parameters(outcome.model) == 2 * kmerge.parameters(digits.build(1))


@pytest.mark.parametrize(
    "hierarchical, teachers, phases",
    [(False, 2, {"finetune": 5}), (True, 2, {"finetune_1": 1, "finetune_2": 1, "finetune": 3})],
)
def test_four_networks_share_the_epochs_of_two(digits, hierarchical, teachers, phases):
    stages = Watching()
    outcome = MagnitudeMerge(4, hierarchical)(digits, Budget(4, 3, 2, 13), 1, stages)
    counts = {}
    for row in outcome.history:
        counts[row["phase"]] = counts.get(row["phase"], 0) + 1
    assert counts == {f"teacher_{i}": teachers for i in range(4)} | phases
    assert {widths for widths, *_ in stages.seen} == {(4, 6)}


def test_a_big_network_without_gates_is_trained_before_the_cut(digits):
    stages = Watching()
    outcome = MagnitudeMerge(wide=True)(digits, Budget(1, 2, 1, 5), 1, stages)
    assert [seen[:2] for seen in stages.seen] == [((4, 6), 1), ((4, 6), 1), ((8, 12), 2), ((4, 6), 1)]
    assert (
        outcome.extras["validation_before_cut"]
        == [r for r in outcome.history if r["phase"] == "wide"][-1]["val_metric"]
    )


@pytest.mark.parametrize(
    "name, shape", [("mlp", (3,)), ("lenet", (28, 28, 1)), ("resnet", (8, 8, 1)), ("vgg11", (32, 32, 3))]
)
def test_a_wide_network_has_twice_the_units_of_every_space(name, shape):
    options = {"resnet": {"depth": 8, "width": 4}, "vgg11": {"width": 8}}.get(name, {})
    target, wide = (ARCHITECTURES[name](shape, 10, 1, widen=widen, **options) for widen in (1, 2))
    sizes, doubled = ({s.name: s.size for s in kmerge.channel_spaces(model).selectable} for model in (target, wide))
    assert doubled == {name: 2 * size for name, size in sizes.items()}
    cut = kmerge.select(wide, sizes)
    assert [w.shape for w in cut.weights] == [w.shape for w in target.weights]


def test_a_suite_cannot_widen_its_target(tmp_path):
    text = (FOLDER / "sine.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("weight_decay = 0.0", "weight_decay = 0.0\nwiden = 2", 1))
    with pytest.raises(SuiteError, match="widen"):
        load_suite(path)
