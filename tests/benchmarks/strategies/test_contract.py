"""What every strategy promises, on tiny tasks: the budget, the final architecture, repeatability, untouched test data.

A new strategy is tested here as soon as it has a name. One that does not end with the target architecture, or spends less
than the whole budget, says so in a table below.
"""

import inspect
import json
import math

import keras
import numpy as np
import pytest

import kmerge
from baselines.merging.neuron_transplantation import MagnitudeMerge
from baselines.protocol.outcomes import training_flops, validation_metric
from baselines.protocol.schedules import optimizer_of, stretch_of
from baselines.protocol.strategy import Stages
from baselines.protocol.task import Budget, Phase
from baselines.protocol.teachers import check_budget
from baselines.pruning.channel_pruning import ChannelPruning
from baselines.pruning.weight_pruning import WeightPruning
from baselines.sizing.auto_sizing import AutoSizing
from benchmarks.strategies.registry import SIZING, STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.tiny_tasks import RUNNABLE, EagerShelf, Shelf, tiny_digits, with_test_data

# One epoch of gates, as merging before annealing has it here, is too short for them to be decided, which kmerge warns of.
pytestmark = pytest.mark.filterwarnings("ignore:GatePressure. training of .* ended before", "ignore:Of the .* units that go")

BUDGET = Budget(teacher=2, gates=2, finetune=2, single=8)
# Three cuts need an epoch of gates and of fine-tuning each.
BUDGETS = dict.fromkeys(
    ("l0_merge_four_hierarchical", "magnitude_merge_four_hierarchical"), Budget(teacher=2, gates=3, finetune=3, single=10)
)
# Two epochs that change sizes, and two that don't, show all that sizing does.
SIZING_BUDGET = Budget(teacher=1, gates=1, finetune=1, single=4)
BUDGETS |= dict.fromkeys(SIZING, SIZING_BUDGET)
# Of strategies that differ from one trained at length in a setting alone: epochs of one step, and fewer of them.
SHORT_BUDGETS = {BUDGET: Budget(2, 2, 1, 7), SIZING_BUDGET: Budget(1, 1, 0, 3)}


def kind_of(name):
    """What stands behind a name: a class of strategies, or a function."""
    strategy = STRATEGIES[name]
    return strategy if inspect.isfunction(strategy) else type(strategy)


def takes_sizes(strategy):
    return not isinstance(strategy, AutoSizing) or strategy.start == "found"


SEED, EXAMPLES, FEW_EXAMPLES = 1, 96, 48

# Strategies that spend other epochs than merging does.
EPOCHS = {
    "best_of_three": 3 * BUDGET.teacher,
    "best_of_three_big": 3 * BUDGET.teacher,
    "ensemble": 2 * BUDGET.teacher,
    "one_model_equal_compute": None,  # as many as merging computes
    "greedy_merge": None,  # of single layers
}
# Strategies that take the sizes which another found, whose epochs they are charged as well.
SEARCHING = {name for name, strategy in ((name, STRATEGIES[name]) for name in SIZING) if takes_sizes(strategy)}
# Strategies that end with another architecture than the target, and what they promise instead.
WIDE, ENSEMBLE, SMALLER, NARROWER = "twice as wide", "two targets", "at most the target's parameters", "narrower"
SIZED = "the sizes in its row"
ENDS = {
    "one_big_model": WIDE,
    "best_of_three_big": WIDE,
    "ensemble": ENSEMBLE,
    "channel_pruning_global": SMALLER,
    "weight_pruning_random": NARROWER,
    "weight_pruning_uniform": NARROWER,
    "weight_pruning_blind": NARROWER,
    "distil_prune": NARROWER,
    **dict.fromkeys(SIZING, SIZED),
}
# Strategies that are trained at length, and twice: one of each kind at least, of several settings one that draws.
REPEATED = (
    "l0_merge_paper_unlinked",
    "aligned_merge",
    "l0_merge_three",
    "greedy_merge",
    "no_gate_phase",
    "random_merge",
    "restart",
    "restart_whole",
    "fusion_weight_matching",
    "one_model",
    "one_model_all_data",
    "one_model_equal_compute",
    "best_of_three",
    "one_big_model",
    "best_of_three_big",
    "ensemble",
    "channel_pruning_random",
    "weight_pruning_random",
    "distil_two_features",
    "distil_prune",
    "auto_sizing_paper",
    "static_a",
    "static_b",
    "static_adam_restart",
)
# What is trained as users train it, in programs: of each way of training a strategy that is trained twice. The others train
# the same steps one by one, since their programs take longer to compile than to run.
COMPILED = {
    "l0_merge_paper_unlinked",
    "one_model",
    "distil_two_features",
    "auto_sizing_paper",
    "static_b",
}
FUSING = [name for name in RUNNABLE if name.startswith("fusion_")]
# Strategies that train networks of the target architecture alone, and whose other work is not charged.
OF_THE_TARGET = [*FUSING, "one_model", "best_of_three", "restart", "restart_whole", "magnitude_merge", "random_merge"]
OF_THE_TARGET += ["one_model_all_data", "magnitude_merge_before_annealing", "no_gate_phase"]
GATED = ["l0_merge", "l0_merge_compensated", "l0_merge_batch", "l0_merge_early", "l0_merge_decayed_gates"]
every_strategy = pytest.mark.parametrize("name", RUNNABLE)


class Untouchable:
    """Test data that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"a strategy touches the test data: {name}")

    __len__ = __getitem__ = __iter__ = __array__ = lambda self, *_: self.touched


def budget_of(name):
    budget = BUDGETS.get(name, BUDGET)
    return budget if name in REPEATED else SHORT_BUDGETS.get(budget, budget)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Tasks by their examples, each with a shelf for what strategies share and the outcomes."""
    folder = tmp_path_factory.mktemp("cache")
    return {n: (with_test_data(tiny_digits(folder, n), Untouchable()), {}, {}) for n in (EXAMPLES, FEW_EXAMPLES)}


@pytest.fixture(scope="module")
def target(places):
    """The architecture, which no test changes."""
    return places[EXAMPLES][0].build(SEED)


@pytest.fixture
def place(places, request):
    """That of the strategy that is tested."""
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    return places[EXAMPLES if name in REPEATED or name is None else FEW_EXAMPLES]


@pytest.fixture
def task(place):
    return place[0]


@pytest.fixture
def kept(place):
    return place[1]


@pytest.fixture
def done(place):
    """Runs a strategy, once for all tests."""
    task, kept, runs = place

    def run(name):
        if name not in runs:
            runs[name] = train(name, task, kept)
        return runs[name]

    return run


def train(name, task, kept):
    stages = (Shelf if name in COMPILED else EagerShelf)(kept)
    return STRATEGIES[name](task, budget_of(name), SEED, stages), stages


@every_strategy
def test_the_budget_is_kept(done, task, target, name):
    outcome, stages = done(name)
    budget = budget_of(name)
    expected = 2 * budget.single if name in SEARCHING else EPOCHS.get(name, budget.merging)
    if expected is not None:
        assert outcome.epochs == expected <= budget.merging * (1 + (name in SEARCHING))
    (batch_size,) = {phase.batch_size for phase in task.phases.values()}
    examples = len(task.data.x_train)
    assert stages.steps == outcome.epochs * math.ceil(examples / batch_size)
    assert len(outcome.history) == outcome.epochs
    for phase in {row["phase"] for row in outcome.history}:
        epochs = [row["epoch"] for row in outcome.history if row["phase"] == phase]
        assert epochs == [*range(1, len(epochs) + 1)]
    assert outcome.flops > 0 and math.isfinite(outcome.flops) and outcome.seconds > 0
    per_epoch = 6 * kmerge.multiply_accumulates(target) * examples
    assert outcome.teacher_epoch_equivalents == pytest.approx(outcome.flops / per_epoch)


@pytest.mark.parametrize("name", OF_THE_TARGET)
def test_epochs_of_the_target_are_the_unit_of_cost(done, task, target, name):
    outcome, _ = done(name)
    assert outcome.teacher_epoch_equivalents == pytest.approx(outcome.epochs)
    assert outcome.flops == pytest.approx(outcome.epochs * training_flops(target, task, 1))


@every_strategy
def test_rows_tell_every_epoch(done, name):
    outcome, _ = done(name)
    columns = {"phase", "epoch", "loss", "train_metric", "val_loss", "val_metric", "learning_rate", "seconds"}
    for row in outcome.history:
        assert columns <= set(row)
        assert np.isfinite([value for value in row.values() if isinstance(value, float)]).all()
    json.dumps([outcome.history, outcome.extras])


# The ensemble has two last phases, and a network that finds its size is best among the epochs of that size.
@pytest.mark.parametrize("name", [name for name in RUNNABLE if name not in SIZING and name != "ensemble"])
def test_best_model_is_that_of_the_best_validation_epoch(done, task, name):
    outcome, _ = done(name)
    last = outcome.history[-1]["phase"]
    if last.startswith(("teacher", "wide_teacher")):
        last = last[:-1] + str(outcome.extras["winner"])
    values = [row["val_metric"] for row in outcome.history if row["phase"] == last]
    assert validation_metric(task, outcome.best_model) == pytest.approx(max(values), rel=1e-3)
    assert validation_metric(task, outcome.model) == pytest.approx(values[-1], rel=1e-3)


@pytest.mark.parametrize("name", ["magnitude_merge", "restart", "distil_two", "ensemble", "best_of_three", *GATED, *FUSING])
def test_teachers_are_trained_once_and_charged_to_each(done, kept, name):
    outcome, _ = done(name)
    rows = [row for row in outcome.history if row["phase"] == "teacher_0"]
    (key,) = (key for key in map(json.loads, kept) if _is_teacher(key, number=0, epochs=BUDGET.teacher))
    _, record, _ = kept[json.dumps(key, sort_keys=True)]
    assert rows == record.rows
    assert outcome.seconds >= sum(row["seconds"] for row in rows)


def _is_teacher(key, **of):
    return {**key, "stage": "teacher", "widen": 1, **of} == key


@pytest.mark.parametrize("name", [*GATED, "magnitude_merge"])
def test_merging_reports_before_and_after_the_cut(done, task, name):
    extras = done(name)[0].extras
    assert {"validation_teachers", "validation_before_cut", "validation_after_cut"} <= set(extras)
    if name in GATED:
        assert 0 <= extras["gates_undecided"] <= 1
        assert extras["control"] in task.gates.controls


@every_strategy
def test_the_architecture_is_the_one_promised(done, task, target, name):
    outcome, _ = done(name)
    for model in (outcome.model, outcome.best_model):
        if ENDS.get(name) == SIZED:
            sizes = {space.name: space.size for space in kmerge.channel_spaces(model).selectable}
            assert sizes == outcome.extras["sizes"] == json.loads(json.dumps(sizes))
        else:
            check_end(ENDS.get(name), model, target, task)
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
        assert np.isfinite(validation_metric(task, model))


def check_end(promise, model, target, task):
    shapes, expected = ([tuple(w.shape) for w in m.weights] for m in (model, target))
    if promise is None:
        assert shapes == expected
    elif promise == WIDE:
        assert shapes == [tuple(w.shape) for w in task.build(SEED, widen=2).weights] != expected
    elif promise == ENSEMBLE:
        assert shapes == 2 * expected
        assert kmerge.multiply_accumulates(model) == 2 * kmerge.multiply_accumulates(target)
    elif promise == SMALLER:
        assert 0.8 * kmerge.parameters(target) < kmerge.parameters(model) <= kmerge.parameters(target)
    else:
        assert len(shapes) == len(expected)
        assert all(a <= b for s, e in zip(shapes, expected, strict=True) for a, b in zip(s, e, strict=True))


@pytest.mark.parametrize("name", REPEATED)
def test_a_seed_gives_one_result(done, task, kept, name):
    outcome, _ = done(name)
    again, _ = train(name, task, kept)
    for a, b in zip(outcome.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [row["val_metric"] for row in outcome.history] == [row["val_metric"] for row in again.history]
    assert outcome.extras == again.extras


@every_strategy
def test_a_failure_is_reported(task, name):
    class Failing(Stages):
        def fit(self, model, x, y, **how):
            raise MemoryError("the device is full")

        size = fit

    with pytest.raises(MemoryError, match="the device is full"):
        STRATEGIES[name](task, budget_of(name), SEED, Failing())


def test_the_guard_of_the_test_data_bites():
    for touch in (len, np.asarray, lambda data: data[0], lambda data: data.shape, list):
        with pytest.raises(AssertionError, match="touches the test data"):
            touch(Untouchable())


def test_tables_name_strategies():
    assert set(EPOCHS) | set(ENDS) | set(BUDGETS) | set(REPEATED) | set(OF_THE_TARGET) | set(GATED) <= set(STRATEGIES)


def test_every_kind_is_repeated():
    assert set(REPEATED) >= COMPILED
    assert {kind_of(name) for name in REPEATED} == {kind_of(name) for name in STRATEGIES}


# Bad input: an error before anything is trained.


@pytest.mark.parametrize(
    "strategy, budget, match",
    [
        (ChannelPruning(), Budget(3, 1, 2, 9), r"at least 2 epochs for the gates.*received Budget\(teacher=3, gates=1"),
        (MagnitudeMerge(networks=4), Budget(1, 1, 1, 4), "of 4 networks needs an epoch at least for each"),
        (MagnitudeMerge(networks=4, hierarchical=True), Budget(2, 1, 1, 6), "for each of them and each cut"),
        (MagnitudeMerge(networks=1), BUDGET, r"networks >= 2.*Received: MagnitudeMerge\(networks=1"),
        (MagnitudeMerge(networks=4, wide=True), BUDGET, "wide only with 2"),
        (MagnitudeMerge(importance="beauty"), BUDGET, "Expected importance to be one of .*, received 'beauty'"),
        (ChannelPruning("beauty"), BUDGET, "Expected importance to be one of .*, received 'beauty'"),
        (ChannelPruning("gates"), BUDGET, "Expected importance to be one of .*, received 'gates'"),
        (ChannelPruning(to="nothing"), BUDGET, "one of 'target', 'global', received 'nothing'"),
        (WeightPruning(percentage=101), BUDGET, "least 0 and below 100, received 101"),
        (WeightPruning(percentage=-1), BUDGET, "least 0 and below 100, received -1"),
        (WeightPruning(percentage=float("nan")), BUDGET, "least 0 and below 100, received nan"),
        (WeightPruning("all"), BUDGET, "one of .*class_blind.*received 'all'"),
        (AutoSizing(), Budget(0, 0, 0, 1), "auto_sizing needs 2 epochs at least.*single=1"),
        (STRATEGIES["static_a"], Budget(0, 0, 0, 1), "static_a needs 2 epochs at least.*single=1"),
        (AutoSizing(penalty="l0"), BUDGET, "the strength of 'l0'. Add it to .sizing.alphas., which has weighted_l1"),
    ],
)
def test_bad_input_is_refused_before_training(task, strategy, budget, match):
    stages = Shelf()
    with pytest.raises(kmerge.InvalidArgumentError, match=match):
        strategy(task, budget, SEED, stages)
    assert not stages.steps


def test_an_importance_that_some_units_lack_is_refused_before_training():
    stages = Shelf()
    for strategy in (ChannelPruning("bn_scale"), MagnitudeMerge(importance="bn_scale")):
        with pytest.raises(kmerge.InvalidArgumentError, match="expected a model with units that pass a BatchNormalization"):
            strategy(load_suite("sine").task(1, None, "unused", examples=20), BUDGET, SEED, stages)
    assert not stages.steps


@pytest.mark.parametrize("name", sorted(SIZING))
def test_auto_sizing_without_settings_is_refused_before_training(name):
    stages = Shelf()
    with pytest.raises(kmerge.InvalidArgumentError, match=rf"{name} needs a table \[sizing\] in the suite sine"):
        STRATEGIES[name](load_suite("sine").task(1, None, "unused", examples=20), BUDGET, SEED, stages)
    assert not stages.steps


def test_a_stretch_of_a_schedule_goes_on_where_it_is():
    phase = Phase(0.1, 0.9, 32, drops=(0.5, 0.7))
    assert stretch_of(phase, 0.0, 1.0) == phase
    first, second = stretch_of(phase, 0.0, 0.5), stretch_of(phase, 0.5, 1.0)
    assert (first.learning_rate, first.drops) == (0.1, ())
    assert second.learning_rate == pytest.approx(0.01) and second.drops == pytest.approx((0.4,))
    assert stretch_of(phase, 0.8, 1.0).learning_rate == pytest.approx(0.001)


@pytest.mark.parametrize("drops", [(), (0.5,)])
def test_a_phase_warms_up_in_equal_steps(drops):
    phase = Phase(0.1, 0.9, 8, drops=drops, warmup=0.25)
    optimizer, rate_at = optimizer_of(phase, epochs=4, examples=20)  # 12 steps, 3 of them warm-up
    rates = []
    weight = keras.Variable(1.0)
    for step in range(12):
        rates.append(float(optimizer.learning_rate))
        assert rates[-1] == pytest.approx(rate_at(step))
        optimizer.apply([keras.ops.zeros(())], [weight])
    np.testing.assert_allclose(rates[:6], [0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates[6:], [0.01 if drops else 0.1] * 6, rtol=1e-6)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    again.iterations.assign(1)
    assert float(again.learning_rate) == pytest.approx(0.2 / 3)
    assert stretch_of(phase, 0.0, 0.5).warmup == 0.5 and stretch_of(phase, 0.5, 1.0).warmup == 0


def test_a_budget_that_suffices_passes():
    assert check_budget("Anything", True, "nothing", BUDGET) is None
