"""The benchmark's worker, whose epochs sleep instead of training: it starts at once, on no backend.

All else is the worker's own: locks, signals, events, logs, stages, checkpoints, failures and what it leaves in a run's
folder. Its networks are one number each, which every epoch changes, so that a run that went on after a wrong epoch ends in
another number. A run ends as its learning rate says: the nearer to 0.01 the better, and above 1 it diverges.
"""

import functools
import math
import sys
import time
import types
from dataclasses import replace

import numpy as np

from baselines.protocol.strategy import TrainingRecord, TrainingState
from benchmarks.runs import checkpoints, worker
from benchmarks.runs.stages import Alone

SECONDS_PER_EPOCH = 0.01
_TEACHERS = {"l0_merge": 2, "best_of_three": 3}
_OTHERS = {"l0_merge": ("gates", "finetune"), "one_model": ("single",), "one_model_equal_compute": ("single",)}


class Number:
    """What stands for a network: a number, whose file is as large as that of a small one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def get_weights(self) -> list[np.ndarray]:
        return [np.full(1000, self.value)]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.value = int(weights[0][0])


class Sleeper(Alone):
    """Does what it is given for a network, once an epoch."""

    def fit(self, phase, model, x, y, **how):
        model()


def train(run, stages):
    """What stands for `worker.train`."""
    configuration = run.configuration
    definition, seed, strategy = configuration["definition"], configuration["seed"], configuration["strategy"]
    network, history = Number(seed), []
    for number in range(_TEACHERS.get(strategy, 0)):
        label, epochs = f"teacher_{number}", _epochs(run, "teacher")
        network, record = stages.run(
            {"label": label, "epochs": epochs, "seed": seed},
            functools.partial(Number, 3 * seed + number),
            functools.partial(_trained, label=label, epochs=epochs, stages=stages),
        )
        history += record.rows
    for phase in _OTHERS.get(strategy, ()):
        history += _trained(network, phase, _epochs(run, phase), stages).rows
    rate = definition["phases"][history[-1]["phase"].partition("_")[0]]["learning_rate"]
    if rate > 1:
        raise worker.DivergedError("training diverged: the network's outputs are not finite")
    value = abs(math.log10(rate) + 2) + network.value / 2**31
    results = {f"{part}_{which}": value for part in ("test", "validation") for which in ("last", "best")}
    spent = sum(4.0 if row["phase"] == "gates" else 1.0 for row in history)
    costs = {"epochs": len(history), "teacher_epoch_equivalents": spent, "seconds": 1.0, "wall_seconds": 1.0}
    costs |= {"compile_seconds": 0.0, "programs": {}}
    return {"metric": definition["metric"], **results, **costs, "extras": {}}, history


def _epochs(run, phase):
    scale = run.configuration["scale"] * run.configuration.get("factor", 1.0)
    return max(1, round(run.configuration["definition"]["epochs"][phase] * scale))


def _trained(network, label, epochs, stages):
    state = stages.resume({"label": label, "epochs": epochs})
    record = TrainingRecord([], 0.0, 0.0, []) if state is None else state.record
    if state is not None:
        network.set_weights(state.variables)

    def epoch():
        time.sleep(SECONDS_PER_EPOCH)
        network.value = network.value * 48271 % (2**31 - 1)
        record.rows.append({"phase": label, "epoch": len(record.rows) + 1, "loss": network.value / 2**31})

    def now():
        return TrainingState(replace(record, rows=list(record.rows)), network.get_weights())

    while len(record.rows) < epochs:
        stages.before_epoch()
        stages.fit(epoch, None, None)
        stages.on_epoch(record.rows[-1], now)
    record.best_weights = network.get_weights()
    return record


if __name__ == "__main__":
    # All that a worker itself needs of Keras, between two runs.
    sys.modules["keras"] = types.SimpleNamespace(backend=types.SimpleNamespace(clear_session=lambda: None))
    worker.Alone, worker.train = Sleeper, train
    checkpoints.SECONDS_BETWEEN_WRITES = 0.2
    sys.exit(worker.main())
