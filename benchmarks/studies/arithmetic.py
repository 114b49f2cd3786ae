"""The benchmark's worker with training replaced by arithmetic, for what is asked of processes, files and locks.

All else is the worker's own: locks, signals, events, logs, stages, checkpoints, failures and what it leaves in a run's
folder. A network is one number, which every epoch multiplies, so that a run that went on after a wrong epoch ends in another
number; `expected` says which one is right. A worker starts at once, on no backend. A run ends as its learning rate says:
the nearer to 0.01 the better, and above 1 it diverges.
"""

import functools
import math
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from baselines.protocol.strategy import TrainingRecord, TrainingState
from benchmarks.records.store import RunFolder
from benchmarks.runs import checkpoints, worker
from benchmarks.runs.stages import Alone, StageCache
from benchmarks.runs.stopping import DivergedError

_TEACHERS = {"l0_merge": 2, "best_of_three": 3}
_OTHERS = {"l0_merge": ("gates", "finetune"), "best_of_three": ()}
_FACTOR, _MODULUS = 48271, 2**31 - 1


class _Number:
    """What stands for a network: a number, whose file is as large as that of a small one."""

    def __init__(self, value: int) -> None:
        self.value = value

    @property
    def weights(self) -> list[np.ndarray]:
        return self.get_weights()

    def get_weights(self) -> list[np.ndarray]:
        return [np.full(1000, self.value)]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.value = int(weights[0][0])


class _Calculator(Alone):
    """Does what it is given for a network, once an epoch."""

    def fit(self, phase: int, model: Callable[[], None], x: Any, y: Any, **how: Any) -> None:
        model()


def calculate(seconds_per_epoch: float, seconds_between_writes: float) -> None:
    """Have the workers of this process calculate from now on.

    Args:
        seconds_per_epoch: sleep so long in each epoch.
        seconds_between_writes: of checkpoints.
    """
    # All that a worker itself needs of Keras, between two runs.
    sys.modules["keras"] = types.SimpleNamespace(backend=types.SimpleNamespace(clear_session=lambda: None))
    worker.Alone, worker.train = _Calculator, functools.partial(train, seconds_per_epoch=seconds_per_epoch)
    checkpoints.SECONDS_BETWEEN_WRITES = seconds_between_writes


def train(run: RunFolder, stages: StageCache, seconds_per_epoch: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What stands for `worker.train`: the run's row, and one row per epoch."""
    trained = functools.partial(_trained, stages=stages, seconds=seconds_per_epoch)
    definition, seed, strategy = (run.configuration[name] for name in ("definition", "seed", "strategy"))
    network, history = _Number(seed), []
    for number in range(_TEACHERS.get(strategy, 0)):
        label, epochs = f"teacher_{number}", _epochs(run.configuration, "teacher")
        network, record = stages.run(
            {"label": label, "epochs": epochs, "seed": seed},
            functools.partial(_Number, 3 * seed + number),
            functools.partial(trained, label=label, epochs=epochs),
        )
        history += record.rows
    for phase in _others(strategy):
        history += trained(network, phase, _epochs(run.configuration, phase)).rows
    rate = definition["phases"][history[-1]["phase"].partition("_")[0]]["learning_rate"]
    if rate > 1:
        raise DivergedError("training diverged: the network's outputs are not finite")
    value = abs(math.log10(rate) + 2) + network.value / 2**31
    results = {f"{part}_{which}": value for part in ("test", "validation") for which in ("last", "best")}
    spent = sum(4.0 if row["phase"] == "gates" else 1.0 for row in history)
    costs = {"epochs": len(history), "teacher_epoch_equivalents": spent, "seconds": 1.0, "wall_seconds": 1.0}
    costs |= {"compile_seconds": 0.0, "programs": {}, "commit": run.launch.get("commit")}
    return {"metric": definition["metric"], **results, **costs, "extras": {}}, history


def expected(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The history that a run of that configuration has, if all went well: no state, no file, one formula.

    The last loss, a number below 1, is the run's result where the learning rate is 0.01.
    """
    seed, strategy = configuration["seed"], configuration["strategy"]
    phases = [(f"teacher_{i}", "teacher", 3 * seed + i) for i in range(_TEACHERS.get(strategy, 0))]
    phases += [(name, name, None) for name in _others(strategy)]
    rows, value = [], seed
    for label, name, start in phases:
        value = value if start is None else start
        for epoch in range(1, _epochs(configuration, name) + 1):
            rows.append({"phase": label, "epoch": epoch, "loss": value * pow(_FACTOR, epoch, _MODULUS) % _MODULUS / 2**31})
        value = value * pow(_FACTOR, _epochs(configuration, name), _MODULUS) % _MODULUS
    return rows


def _others(strategy: str) -> tuple[str, ...]:
    """The phases after the teachers; of strategies that are not told apart here, of one's own too, the one of one network."""
    return _OTHERS.get(strategy, ("single",))


def _epochs(configuration: Mapping[str, Any], phase: str) -> int:
    scale = configuration["scale"] * configuration.get("factor", 1.0)
    return max(1, round(configuration["definition"]["epochs"][phase] * scale))


def _trained(network: _Number, label: str, epochs: int, stages: StageCache, seconds: float) -> TrainingRecord:
    state = stages.resume({"label": label, "epochs": epochs}, lambda state: int(state.variables[0][0]))
    record = TrainingRecord([], 0.0, 0.0, []) if state is None else state.record
    if state is not None:
        network.set_weights(state.variables)

    def epoch() -> None:
        time.sleep(seconds)
        network.value = network.value * _FACTOR % _MODULUS
        record.rows.append({"phase": label, "epoch": len(record.rows) + 1, "loss": network.value / 2**31})

    def now() -> TrainingState:
        return TrainingState(replace(record, rows=list(record.rows)), network.get_weights())

    while len(record.rows) < epochs:
        stages.before_epoch()
        stages.fit(epoch, None, None)
        stages.on_epoch(record.rows[-1], now)
    record.best_weights = network.get_weights()
    return record
