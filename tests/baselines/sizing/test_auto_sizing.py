"""Strategies of auto-sizing and the static networks that they are held against."""

import dataclasses

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.outcomes import training_flops
from baselines.protocol.task import Budget
from baselines.sizing import auto_sizing
from baselines.sizing.auto_sizing import AutoSizing, SizedNetwork, found_network, fresh_network, resized
from baselines.sizing.static_sizing import AdamRestart, equal_widths
from benchmarks.networks.architectures import das_cnn, das_dense, resnet
from benchmarks.runs.stages import StageCache
from benchmarks.runs.stopping import Stop, Stopped
from kmerge.spaces.channels import trace
from tests.programs import without_programs
from tests.tiny_tasks import EagerShelf, tiny_digits


def sizes_of(model):
    return {space.name: space.size for space in kmerge.channel_spaces(model).selectable}


@pytest.mark.parametrize(
    "shape, outputs, found, width",
    [  # the paper's code: the sizes that DAS found, and those of static B
        ((28, 28, 1), 10, (19, 14, 18, 34, 93), 31),
        ((28, 28, 1), 10, (22, 15, 21, 36, 124), 34),
        ((32, 32, 3), 10, (17, 16, 21, 45, 158), 42),
        ((32, 32, 3), 10, (39, 18, 26, 57, 175), 53),
        ((32, 32, 3), 100, (66, 20, 30, 64, 194), 60),
        ((64, 64, 3), 200, (47, 13, 48, 54, 377), 54),
    ],
)
def test_static_b_has_the_papers_widths(shape, outputs, found, width):
    model = das_cnn(shape, outputs, 1, hidden=found)
    widths = equal_widths(trace(model))
    *convolutions, dense = widths.values()
    # The paper took mean sizes before rounding, so its widths differ by up to one.
    assert len(set(convolutions)) == 1 and abs(convolutions[0] - width) <= 1 and dense == found[-1]
    parameters = kmerge.parameters(das_cnn(shape, outputs, 1, hidden=tuple(widths.values())))
    assert parameters == pytest.approx(kmerge.parameters(model), rel=0.02)


def test_dense_networks_become_equally_wide_throughout():
    model = das_dense((81,), 1, 1, hidden=(40, 10, 20, 5, 7))
    (width,) = set(equal_widths(trace(model)).values())
    sizes = [kmerge.parameters(das_dense((81,), 1, 1, hidden=(w,) * 5)) for w in (width - 1, width, width + 1)]
    errors = [abs(size - kmerge.parameters(model)) for size in sizes]
    assert errors[1] == min(errors)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return tiny_digits(tmp_path_factory.mktemp("cache"), 96)


def with_build(task, build):
    return dataclasses.replace(task, build=build)


def test_a_fresh_network_of_other_widths_is_that_of_the_architecture(task):
    def build(seed, **options):
        return das_cnn((8, 8, 1), 10, seed, **options)

    widths = {"conv_1": 120, "conv_2": 3, "conv_3": 5, "conv_4": 7, "dense_1": 101}
    found = fresh_network(with_build(task, build), widths, 5)
    expected = build(5, hidden=(120, 3, 5, 7, 101))
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fresh_residual_network_starts_anew(task):
    build = lambda seed, **options: resnet((8, 8, 1), 10, seed, depth=8, width=4, **options)  # noqa: E731
    sizes = {name: size + 2 if place % 2 else size - 1 for place, (name, size) in enumerate(sizes_of(build(1)).items())}
    one, again, other = (fresh_network(with_build(task, build), sizes, seed) for seed in (5, 5, 6))
    assert sizes_of(one) == sizes
    for weight, a, b, c in zip(one.weights, one.get_weights(), again.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.array_equal(a, c) == (weight.name not in ("kernel", "bias")), weight.path
    kernel = one.get_layer("stage_1_block_1_conv_1").kernel
    assert keras.ops.convert_to_numpy(kernel).std() == pytest.approx((2 / (9 * kernel.shape[-1])) ** 0.5, rel=0.3)


def test_a_stage_gives_back_a_network_of_the_size_found():
    start = das_cnn((8, 8, 1), 10, 1, hidden=(6, 6, 6, 6, 6))
    found = SizedNetwork(das_cnn((8, 8, 1), 10, 2, hidden=(3, 9, 6, 2, 8)))
    read = SizedNetwork(start)
    read.set_weights(found.get_weights())
    assert read.sizes == found.sizes == sizes_of(read.model)
    x = np.random.default_rng(1).normal(size=(3, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(read.model(x), found.model(x))


def test_resized_networks_have_the_widths_and_leave_the_other_alone():
    start = das_cnn((8, 8, 1), 10, 1, hidden=(6, 6, 6, 6, 6))
    before = sizes_of(start)
    assert list(sizes_of(resized(start, dict(zip(before, (3, 9, 6, 2, 8), strict=True)))).values()) == [3, 9, 6, 2, 8]
    assert sizes_of(start) == before


def test_a_restarted_adam_forgets_its_state_but_not_its_steps():
    model = das_dense((4,), 1, 1, hidden=(3,) * 5)
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            slots = [v for v in self.model.optimizer.variables if v.name not in ("iteration", "learning_rate")]
            still = max(float(keras.ops.max(keras.ops.abs(slot))) for slot in slots)
            seen.append((int(self.model.optimizer.iterations), still > 0))

    with without_programs():
        kmerge.fit(model, x, y, batch_size=4, epochs=4, callbacks=[AdamRestart(3), Look()], verbose=0)
    assert seen == [(0, False), (2, False), (4, False), (6, True)]


def test_an_epoch_is_charged_at_the_sizes_that_it_trains(task):
    sizing = dataclasses.replace(task.sizing, dynamic=0.5, growth=1.0, min_growth=3, alphas={"weighted_l1": 0.05})
    stages = EagerShelf()
    outcome = AutoSizing()(dataclasses.replace(task, sizing=sizing), Budget(0, 0, 0, 4), 1, stages)
    rows = outcome.history
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("auto_sizing", 1),
        ("auto_sizing", 2),
        ("auto_sizing_static", 1),
        ("auto_sizing_static", 2),
    ]
    before = sizes_of(task.build(1))
    for row in rows[:2]:
        assert row["trained_sizes"] == {name: size + max(size, 3) for name, size in before.items()}
        before = row["sizes"]
    assert rows[2]["trained_sizes"] == rows[3]["sizes"] == before == outcome.extras["sizes"] == sizes_of(outcome.model)
    spent = sum(training_flops(resized(task.build(1), row["trained_sizes"]), task, 1) for row in rows)
    assert outcome.flops == pytest.approx(spent)
    assert stages.rows == rows and outcome.programs["auto_sizing"]["compiles"] >= 2


class _Before(Stop):
    """Asks the process to end before an epoch, counted from 1 and from where it began."""

    def __init__(self, epoch):
        super().__init__()
        self.left = epoch

    def check(self):
        self.left -= 1
        if not self.left:
            raise Stopped


def test_a_sizing_that_was_stopped_goes_on_and_ends_the_same(task, tmp_path, monkeypatch):
    monkeypatch.setattr(auto_sizing, "SECONDS_BETWEEN_STATES", 0.0)
    task = with_build(task, lambda seed, **options: das_cnn((8, 8, 1), 10, seed, hidden=(3, 4, 3, 4, 5), **options))
    budget, heard = Budget(0, 0, 0, 4), []
    with without_programs():
        for epoch in (2, 3):  # the second try begins with the second epoch, and so ends before a static one
            with pytest.raises(Stopped):
                found_network(task, budget, 1, StageCache(tmp_path, heard.append, stop=_Before(epoch)))
        resumed, record = found_network(task, budget, 1, StageCache(tmp_path, heard.append))
        assert len(heard) == 4  # no epoch twice
        whole, expected = found_network(task, budget, 1, EagerShelf())
    assert resumed.sizes == whole.sizes
    for first, second in ((resumed.get_weights(), whole.get_weights()), (record.best_weights, expected.best_weights)):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(record.rows, expected.rows, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    assert record.flops == expected.flops
