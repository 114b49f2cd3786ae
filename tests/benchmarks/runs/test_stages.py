"""Stages that strategies share: trained once, the same from the cache, trained again where the cache is damaged."""

import contextlib

import keras
import numpy as np
import pytest

from baselines.protocol.strategy import TrainingRecord
from benchmarks.files import locked
from benchmarks.records.store import hash_of
from benchmarks.runs.arrays import numbered, write_arrays
from benchmarks.runs.stages import Alone, StageCache


def _model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])


def _train(calls):
    def train(model):
        calls.append(model)
        model.set_weights([w + 0.1 for w in model.get_weights()])
        best = [w - 1.0 for w in model.get_weights()]
        return TrainingRecord([{"phase": "teacher", "epoch": 1, "loss": 0.1 + 0.2}], 1.5, 3e9, best)

    return train


def test_a_stage_is_trained_once_and_is_the_same_from_the_cache(tmp_path):
    calls = []
    first, record = StageCache(tmp_path).run({"seed": 1}, _model, _train(calls))
    second, again = StageCache(tmp_path).run({"seed": 1}, _model, _train(calls))
    assert len(calls) == 1
    assert first is not calls[0]
    for a, b, c in zip(first.get_weights(), second.get_weights(), calls[0].get_weights(), strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)
    assert len(record.best_weights) == len(first.get_weights())
    for a, b, c in zip(record.best_weights, again.best_weights, calls[0].get_weights(), strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c - 1.0)
    assert (record.rows, record.seconds, record.flops) == (again.rows, again.seconds, again.flops)
    assert record.rows[0]["loss"] == 0.1 + 0.2


def test_another_key_is_another_stage(tmp_path):
    calls = []
    cache = StageCache(tmp_path)
    cache.run({"seed": 1, "phase": {"learning_rate": 0.1}}, _model, _train(calls))
    cache.run({"seed": 1, "phase": {"learning_rate": 0.2}}, _model, _train(calls))
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a file"])
def test_a_damaged_stage_is_trained_again(tmp_path, damage):
    calls = []
    cache = StageCache(tmp_path)
    before, _ = cache.run({"seed": 1}, _model, _train(calls))
    (weights,) = tmp_path.glob("*/stage.npz")
    weights.write_bytes(damage)
    after, _ = cache.run({"seed": 1}, _model, _train(calls))
    assert len(calls) == 2 and len(after.get_weights()) == len(before.get_weights())


WHOLE = {"key": {"seed": 1}, "rows": [{"epoch": 1}], "seconds": 1.0, "flops": 2.0, "program": {}}
SHAPES = [w.shape for w in _model().get_weights()]


@pytest.mark.parametrize(
    "last, best, contents",
    [
        ([(2, 4), *SHAPES[1:]], SHAPES, WHOLE),
        (SHAPES[:-1], SHAPES, WHOLE),
        (SHAPES, SHAPES[::-1], WHOLE),
        (SHAPES, [], WHOLE),
        (SHAPES, SHAPES, WHOLE | {"rows": "none"}),
        (SHAPES, SHAPES, WHOLE | {"rows": [1]}),
        (SHAPES, SHAPES, WHOLE | {"flops": None}),
        (SHAPES, SHAPES, [1]),
    ],
    ids=["shape", "number", "best", "no best", "rows", "a row", "flops", "no record"],
)
def test_a_whole_stage_that_does_not_fit_is_told_and_trained_again(tmp_path, last, best, contents):
    calls, told = [], []
    cache = StageCache(tmp_path, tell=lambda kind, **detail: told.append(detail["text"]))
    path = tmp_path / hash_of({"seed": 1}) / "stage.npz"
    path.parent.mkdir()
    arrays = [numbered(kind, map(np.ones, shapes)) for kind, shapes in (("last", last), ("best", best))]
    write_arrays(path, arrays[0] | arrays[1], contents)
    for _ in range(2):
        model, record = cache.run({"seed": 1}, _model, _train(calls))
        assert np.array_equal(model.get_weights()[0], calls[0].get_weights()[0]) and record.flops == 3e9
    assert len(calls) == 1 == len(told) and "is damaged" in told[0] and (path.parent / "stage.npz.damaged").exists()


def test_a_stage_that_fails_is_not_kept(tmp_path):
    def fail(model):
        raise RuntimeError("no")

    cache = StageCache(tmp_path)
    with pytest.raises(RuntimeError, match="no"):
        cache.run({"seed": 1}, _model, fail)
    calls = []
    cache.run({"seed": 1}, _model, _train(calls))
    assert len(calls) == 1


def test_waiting_for_a_stage_that_another_trains_is_told(tmp_path):
    heard, held = [], contextlib.ExitStack()

    class Other(Alone):
        def wait(self):
            heard.append("another works")
            held.close()

    cache = StageCache(tmp_path, trainer=Other(), tell=lambda kind, **_: heard.append(kind))
    cache.run({"seed": 1}, _model, _train([]))
    assert heard == []
    (lock,) = tmp_path.glob("*/lock")
    held.enter_context(locked(lock))
    cache.run({"seed": 1}, _model, _train([]))
    assert heard == ["waits", "another works", "resumes"]


def test_epochs_are_passed_on(tmp_path):
    rows = []
    StageCache(tmp_path, rows.append).on_epoch({"epoch": 1}, lambda: None)
    assert rows == [{"epoch": 1}]
