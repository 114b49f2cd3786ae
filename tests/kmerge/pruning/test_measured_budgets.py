"""Budgets of measured costs: files are as small as asked for and hardly smaller; latencies are told with their noise."""

import functools

import keras
import pytest

import kmerge
from kmerge.costs import measuring
from tests.models import randomize


@functools.cache
def network():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(96, "relu", name="a")(inputs)
    x = keras.layers.Dense(128, "relu", name="b")(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    randomize(model, 0)
    return model


@pytest.mark.parametrize("limit", [0.6, 30_000])
@pytest.mark.parametrize("selection", ["local", "global"])
def test_a_file_is_as_small_as_asked_for(limit, selection):
    model = network()
    choice = kmerge.choose_units(model, budget=kmerge.Budget(file_bytes=limit), selection=selection)
    allowed = int(limit * kmerge.saved_bytes(kmerge.select(model, {}))) if isinstance(limit, float) else limit
    size = kmerge.saved_bytes(kmerge.select(model, choice))
    before, after, most = choice.costs["file_bytes"]
    assert abs(most - allowed) <= choice.noise["file_bytes"] and abs(size - after) <= choice.noise["file_bytes"]
    assert 0.95 * allowed <= size <= allowed + choice.noise["file_bytes"]
    assert f"file_bytes: {before:,} -> {after:,} ± {choice.noise['file_bytes']}" in str(choice)


def test_measured_and_counted_limits_hold_together():
    model = network()
    choice = kmerge.choose_units(model, budget=kmerge.Budget(file_bytes=0.9, parameters=0.3))
    assert kmerge.parameters(kmerge.select(model, choice)) <= 0.3 * kmerge.parameters(model)
    assert set(choice.costs) == {"parameters", "file_bytes"}
    choice = kmerge.choose_units(model, budget=kmerge.Budget(file_bytes=0.5, parameters=10**6))
    assert choice.costs["parameters"][2] == 10**6  # what was asked for, not what was tried last


def test_a_latency_that_is_met_already_costs_no_unit():
    choice = kmerge.choose_units(network(), budget=kmerge.Budget(latency=60_000_000))
    assert [len(units) for units in choice.values()] == [96, 128]
    before, after, limit = choice.costs["latency"]
    assert before > 0 and after > 0 and limit == 60_000_000 and choice.noise["latency"] >= 0


class SlowingMachine:
    """A machine on which a batch takes as many seconds as the model has parameters, and each one longer than the last."""

    def __init__(self):
        self.now, self.speed = 0.0, 1.0

    def predict(self, model):
        self.now += kmerge.parameters(model) / self.speed
        self.speed *= 0.999


def test_a_share_of_the_latency_is_met_on_a_machine_that_slows_down(monkeypatch):
    machine, model = SlowingMachine(), network()
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda self, x: machine.predict(self))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: machine.now)
    small = kmerge.prune(model, budget=kmerge.Budget(latency=0.5))
    assert machine.speed < 0.8
    assert 0.45 < kmerge.parameters(small) / kmerge.parameters(model) < 0.505
    options = {"train": lambda small: None, "steps": 2, "compile": False}
    result = kmerge.prune_iteratively(model, kmerge.Budget(latency=0.5), **options)
    assert 0.45 < kmerge.parameters(result.model) / kmerge.parameters(model) < 0.505


def test_a_model_that_is_found_on_both_sides_of_the_limit_loses_few_units(monkeypatch):
    now, first, model = [0.0], [], network()

    def predict(self, x):  # the model that is measured first is a little faster than all others, the same one built anew too
        first.append(id(self))
        now[0] += kmerge.parameters(self) * (1e-6 if id(self) == first[0] else 1.01e-6)

    monkeypatch.setattr(keras.Model, "predict_on_batch", predict)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    choice = kmerge.choose_units(model, budget=kmerge.Budget(latency=int(1.005 * kmerge.parameters(model))))
    assert len(choice["a"]) > 85 and len(choice["b"]) > 115


@pytest.mark.parametrize(
    "budget, message",
    [
        ({"latency": 1}, "at least .* microseconds of latency, measured with the smallest widths.*received 1[.]"),
        ({"file_bytes": 100}, "at least .* bytes of file_bytes.*received 100"),
        ({"latency": 1.5}, "shares of the model's costs above 0 and at most 1"),
    ],
)
def test_what_cannot_be_met_is_refused_with_what_was_measured(budget, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.prune(network(), budget=kmerge.Budget(**budget))


def test_what_is_not_built_is_not_measured():
    with pytest.raises(kmerge.InvalidArgumentError, match="limits that are counted, received .'latency'.*prune"):
        kmerge.gate(network(), kmerge.Budget(latency=0.5))


def test_a_file_shrinks_in_steps_of_the_first():
    model = network()
    whole = kmerge.saved_bytes(kmerge.select(model, {}))
    options = {"train": lambda small: None, "steps": kmerge.PruningSchedule(2, "linear"), "compile": False}
    result = kmerge.prune_iteratively(model, kmerge.Budget(file_bytes=0.5), **options)
    for step, share in zip(result.steps, (0.75, 0.5), strict=True):
        assert step.costs["file_bytes"][1] <= share * whole + step.noise["file_bytes"]
