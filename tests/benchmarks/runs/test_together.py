"""Runs whose networks train together know nothing of each other: each ends as if it had been alone, or fails alone."""

import random

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.strategy import TrainingRecord
from benchmarks.runs.stages import Alone, StageCache
from benchmarks.runs.stopping import Stop, Stopped
from benchmarks.runs.together import work_together

pytestmark = [
    pytest.mark.both_backends,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="runs train together on JAX alone; elsewhere it is refused"),
]

DATA = np.linspace(-1, 1, 60, dtype="float32").reshape(20, 3)


class Places(keras.callbacks.Callback):
    """Notes who trains in which program, and with how many others."""

    def __init__(self, notes, name):
        super().__init__()
        self.notes, self.name = notes, name

    def on_train_begin(self, logs=None):
        self.notes.append((self.name, self.params.get("together")))


def train(stages, model, name, notes=None, **how):
    """A phase of one epoch."""
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    stages.resume({}, lambda state: None)
    callbacks = [] if notes is None else [Places(notes, name)]
    settings = {
        "batch_size": 8,
        "epochs": 1,
        "initial_epoch": 0,
        "validation_data": (DATA, DATA[:, :1]),
        "augment": None,
    }
    stages.fit(model, DATA, DATA[:, :1] * 2, callbacks=callbacks, seed=7, **settings | how)
    return model


def build(seed, units=4):
    init = keras.initializers.GlorotUniform
    layers = [
        keras.layers.Dense(units, "relu", kernel_initializer=init(seed)),
        keras.layers.Dense(1, kernel_initializer=init(9)),
    ]
    return keras.Sequential([keras.Input((3,)), *layers])


def strategy(stages, seed, notes=None, units=4):
    """Two phases, with draws from the process' generators around them."""
    keras.utils.set_random_seed(seed)
    draws = [random.random(), np.random.rand()]
    model = train(stages, build(seed, units), f"{seed} first", notes)
    draws += [random.random(), np.random.rand()]
    train(stages, model, f"{seed} second", notes)
    return [*draws, random.random(), model.name, *model.get_weights()]


def job(tmp_path, work, *arguments):
    return lambda seat: work(StageCache(tmp_path, trainer=seat), *arguments)


def alone(tmp_path, work, *arguments):
    keras.backend.clear_session()
    return job(tmp_path, work, *arguments)(Alone())


def assert_same(found, expected):
    assert found[:6] == expected[:6]  # draws and names to the bit
    for a, b in zip(found[6:], expected[6:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What seeds 1 to 3 give alone."""
    return {seed: alone(tmp_path_factory.mktemp("alone"), strategy, seed) for seed in (1, 2, 3)}


def work(tmp_path, *jobs):
    keras.backend.clear_session()
    return work_together([job(tmp_path, *each) for each in jobs], Stop())


def test_each_ends_as_if_alone(tmp_path, expected):
    notes = []
    found = work(tmp_path, *((strategy, seed, notes) for seed in (1, 2, 3)))
    for seed, result in zip((1, 2, 3), found, strict=True):
        assert_same(result, expected[seed])
    assert notes == [(f"{seed} {phase}", 3) for phase in ("first", "second") for seed in (1, 2, 3)]


def test_a_run_that_fails_leaves_the_others(tmp_path, expected):
    def at_once(stages):
        raise OSError("at once")

    def later(stages):
        train(stages, build(5), "later")
        raise ValueError("later")

    found = work(tmp_path, (at_once,), (strategy, 1), (later,), (strategy, 2))
    assert [str(found[0]), str(found[2])] == ["at once", "later"]
    assert_same(found[1], expected[1])
    assert_same(found[3], expected[2])


def test_what_cannot_be_trained_in_one_program_is_trained_one_by_one(tmp_path, expected, capsys):
    wide = alone(tmp_path, strategy, 4, None, 6)
    found = work(tmp_path, (strategy, 1), (strategy, 4, None, 6))
    assert_same(found[0], expected[1])
    assert_same(found[1], wide)
    assert "Trained one by one" in capsys.readouterr().out


def test_bad_data_of_one_run_fails_that_run(tmp_path, expected):
    def bad(stages):
        train(stages, build(5), "bad", validation_data=(DATA * np.nan, DATA[:, :1]))

    found = work(tmp_path, (strategy, 1), (bad,))
    assert isinstance(found[1], kmerge.InvalidArgumentError) and "NaN" in str(found[1])
    assert_same(found[0], expected[1])


def test_those_that_are_behind_come_first(tmp_path):
    """The second run begins its training a phase later than the first, which waits for it."""
    notes = []

    def ahead(stages):
        stages.resume({}, lambda state: None)  # a phase that an earlier try had finished
        train(stages, build(1), "ahead", notes)

    def behind(stages):
        model = train(stages, build(2), "behind 1", notes)
        train(stages, model, "behind 2", notes)

    work(tmp_path, (ahead,), (behind,))
    assert [name for name, _ in notes] == ["behind 1", "ahead", "behind 2"]


def test_runs_of_one_group_may_want_one_stage(tmp_path):
    """The second finds it locked by the first, waits its turn, and gets what the first trained."""
    calls = []

    def shared(stages):
        def fit(model):
            calls.append(model)
            train(stages, model, "stage")
            return TrainingRecord([], 0.0, 0.0, [])

        return stages.run({"stage": 1}, lambda: build(1), fit)[0].get_weights()

    first, second = work(tmp_path, (shared,), (shared,))
    assert len(calls) == 1
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_being_asked_to_end_ends_every_run(tmp_path):
    stop = Stop()
    ended = []

    def run(stages):
        try:
            train(stages, build(1), "run")
            stop._ask()
            train(stages, build(1), "run")
        except Stopped:
            ended.append(True)
            raise

    keras.backend.clear_session()
    with pytest.raises(Stopped):
        work_together([job(tmp_path, run), job(tmp_path, strategy, 2)], stop)
    assert ended == [True]
