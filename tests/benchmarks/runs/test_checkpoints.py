"""Runs that are cut off: what comes out is what an undisturbed run gives, but for times."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Stages, TrainingRecord, TrainingState
from benchmarks.data.augmentation import ShiftAndFlip
from benchmarks.records.store import RunFolder
from benchmarks.runs import checkpoints
from benchmarks.runs.checkpoints import Checkpoint
from benchmarks.runs.preloading import preload
from benchmarks.runs.stages import Alone, StageCache
from benchmarks.suites.suite import load_suite
from tests import launches
from tests.programs import without_programs

TIMES = {"seconds", "wall_seconds", "compile_seconds", "programs"}


def _without_times(thing):
    """A result or history without what differs from run to run."""
    if isinstance(thing, list):
        return [_without_times(each) for each in thing]
    return {key: value for key, value in thing.items() if key not in TIMES}


def compare(found, expected, exact):
    """Two results or histories: equal, or equal to rounding."""
    if isinstance(found, list):
        for a, b in zip(found, expected, strict=True):
            compare(a, b, exact)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"together"}:
            compare(found[name], expected[name], exact)
    elif isinstance(found, float) and not exact:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    else:
        assert found == expected


class EagerTrainer(Alone):
    """Trains without programs."""

    def fit(self, phase, model, x, y, **how):
        with without_programs():
            super().fit(phase, model, x, y, **how)


class CutOff(Stages):
    """Keeps the state of every epoch, and begins with one if given."""

    def __init__(self, state=None):
        self.state, self.states = state, []

    def resume(self, key, check):
        return self.state

    def on_epoch(self, row, state):
        self.states.append(state())


def _image_task():
    """Digits with all that draws: augmentation, dropout, gates; and BatchNormalization and momentum."""
    task = load_suite("sine").task(1, None, "unused", examples=50)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 50).astype("int32")
    data = dataclasses.replace(task.data, x_train=x, y_train=y, x_val=x[:20], y_val=y[:20])

    def build(seed):
        image = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed))(image)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dropout(0.3, seed=seed)(keras.layers.GlobalAveragePooling2D()(x))
        return keras.Model(image, keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed))(x))

    return dataclasses.replace(
        task,
        data=data,
        build=build,
        loss=lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metric="accuracy",
        augment=lambda seed: ShiftAndFlip(1, (0.0,), seed),
    )


@pytest.mark.parametrize("control", [None, "paper", "lagrangian", "fade"])
def test_a_phase_goes_on_from_any_epoch_as_if_nothing_had_happened(control):
    task = _image_task()

    def trained(state=None):
        model = task.build(3)
        if control is not None:
            model = kmerge.merge(model, task.build(4), seed=5)
        stages = CutOff(state)
        # The control with the most state is trained in programs as well; the others show that theirs comes back.
        with contextlib.nullcontext() if control == "fade" else without_programs():
            record = train_phase(model, task, "gates", 4, 1, stages, control=control)
        return model, record, stages.states

    whole, record, states = trained()
    for done in (1, 2, 4):
        model, again, more = trained(states[done - 1])
        assert len(more) == 4 - done
        for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(record.best_weights, again.best_weights, strict=True):
            np.testing.assert_array_equal(a, b)
        assert _without_times(again.rows) == _without_times(record.rows)
        assert again.flops == record.flops and len(record.rows) == 4


def _state(epochs):
    record = TrainingRecord([{"epoch": i + 1, "loss": 0.1 + 0.2} for i in range(epochs)], 1.5, 3e9, [np.arange(3.0)])
    return TrainingState(record, [np.ones((2, 2), "float32"), np.array(7, "int64")])


def test_a_checkpoint_gives_back_the_phases_in_their_order(tmp_path):
    first = Checkpoint(tmp_path / "c.npz")
    assert first.resume({"phase": "gates"}) is None
    first.update(lambda: _state(3))
    assert first.resume({"phase": "finetune"}) is None
    first.update(lambda: _state(1))
    first.write()
    second = Checkpoint(tmp_path / "c.npz")
    for key, epochs in (("gates", 3), ("finetune", 1)):
        state = second.resume({"phase": key})
        assert state.record.rows == _state(epochs).record.rows and state.record.flops == 3e9
        for a, b in zip(state.variables, _state(1).variables, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)
        assert np.array_equal(state.record.best_weights[0], np.arange(3.0))
    assert second.resume({"phase": "another"}) is None
    other = Checkpoint(tmp_path / "c.npz")
    assert other.resume({"phase": "gates", "epochs": 9}) is None
    assert other.resume({"phase": "finetune"}) is None  # what follows another phase is another network


def test_a_checkpoint_of_other_code_or_a_damaged_one_counts_as_none(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "c.npz")
    checkpoint.resume({"phase": "gates"})
    checkpoint.update(lambda: _state(3))
    checkpoint.write()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "code_digest", lambda: "another")
        assert Checkpoint(tmp_path / "c.npz").resume({"phase": "gates"}) is None
    content = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(content[: len(content) // 2])
    assert Checkpoint(tmp_path / "c.npz").resume({"phase": "gates"}) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda state: dataclasses.replace(state, variables=[v.reshape(*v.shape, 1) for v in state.variables]),
        lambda state: dataclasses.replace(state, variables=[np.array(str(v)) for v in state.variables]),
        lambda state: dataclasses.replace(state, record=dataclasses.replace(state.record, best_weights=[np.ones(3)])),
        lambda state: dataclasses.replace(state, record=dataclasses.replace(state.record, rows=[{"epoch": 1}])),
    ],
    ids=["shapes", "texts", "best", "rows"],
)
def test_a_whole_checkpoint_that_does_not_fit_is_told_and_its_phase_begins_anew(tmp_path, change):
    """As one of a stranger, or of a Keras whose optimizers have other variables."""
    task, path, told = load_suite("sine").task(1, None, "unused", examples=50), tmp_path / "c.npz", []

    def trained():
        stages = StageCache(tmp_path / "stages", trainer=EagerTrainer())
        with stages.keeping(checkpoint := Checkpoint(path, told.append)):
            model = task.build(1)
            record = train_phase(model, task, "single", 2, 1, stages)
            name, state = checkpoint._phases[0]
            checkpoint._phases = [(name, lambda: change(state()))]
            checkpoint.write()
        return model.get_weights(), _without_times(record.rows)

    (weights, rows), (again, more) = trained(), trained()
    assert rows == more and all(map(np.array_equal, weights, again))
    assert len(told) == 1 and "is damaged" in told[0] and (tmp_path / "c.npz.damaged").exists()


def test_checkpoints_are_written_seldom(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c.npz")
    checkpoint.resume({})
    checkpoint.update(lambda: _state(1))
    assert not (tmp_path / "c.npz").exists()
    now[0] += checkpoints.SECONDS_BETWEEN_WRITES
    checkpoint.update(lambda: _state(2))
    stamp = (tmp_path / "c.npz").stat().st_mtime_ns
    checkpoint.update(lambda: _state(3))
    assert (tmp_path / "c.npz").stat().st_mtime_ns == stamp


# A worker that sends itself a signal when it hears of its n-th epoch, before that epoch is noted. It has what a worker
# may need, NumPy, Keras and JAX, and nothing else.
WORKER = """
import os, sys
sys.modules |= dict.fromkeys(["tensorflow", "tensorflow_datasets", "pandas", "sklearn", "matplotlib"])
from benchmarks.runs import checkpoints, worker
update, heard = checkpoints.Checkpoint.update, []

def main(arguments):
    apart, signal, epoch, *arguments = arguments
    checkpoints.SECONDS_BETWEEN_WRITES, checkpoints._SHARE_OF_WRITING = float(apart), 1e9

    def hear(self, state):
        heard.append(state)
        if len(heard) == int(epoch):
            os.kill(os.getpid(), int(signal))
        update(self, state)

    checkpoints.Checkpoint.update = hear
    return worker.main(arguments)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def planned(folder, *seeds):
    """Folders of l0_merge runs on a small sine suite, as a launch makes them."""
    suite = launches.variant(
        folder,
        "sine",
        (r"hidden = \[100\]", "hidden = [8]"),
        (r"\nteacher = \d+", "\nteacher = 9"),
        (r"\ngates = \d+", "\ngates = 8"),
        (r"\nfinetune = \d+", "\nfinetune = 8"),
        (r"drops = \[[12].*\]", "drops = [6]"),
    )
    definition = load_suite(suite).definition
    common = {"suite": "variant", "definition": definition, "scale": 1.0, "examples": 320, "backend": "jax"}
    runs = []
    for seed in seeds:
        runs.append(RunFolder.of(folder / "variant", {**common, "strategy": "l0_merge", "seed": seed}))
        runs[-1].create({"suite": str(suite), "data_dir": None, "cache_dir": str(folder / "cache")})
    return runs


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Have a worker do runs, cut off by a signal at an epoch: its exit status. All are copies of a process where that can be.

    They leave their programs to each other.
    """
    folder = tmp_path_factory.mktemp("worker")
    (folder / "worker_cut_off.py").write_text(WORKER)
    paths = [str(folder), str(launches.ROOT), os.environ["PYTHONPATH"]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    environment |= launches.on_jax() | {"OMP_NUM_THREADS": "1", "NPROC": "1"}
    preloaded = preload(["worker_cut_off", "keras", "kmerge"], environment)

    def start(runs, *options, apart=0.0, signal=0, epoch=0):
        arguments = [str(apart), str(int(signal)), str(epoch), *options, *(str(run.path) for run in runs)]
        with open(folder / "log.txt", "wb") as log:
            command = [sys.executable, "-m", "worker_cut_off", *arguments]
            how = {"env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            worker = preloaded and preloaded.start(arguments, log) or subprocess.Popen(command, **how)
        with worker.stdin, worker.stdout:
            worker.stdout.read()
        return worker.wait(200)

    yield start
    if preloaded:
        preloaded.close()


def finish(work, runs, *options):
    """Have a worker do these runs to their end; their results and histories, without times."""
    assert work(runs, *options, apart=1000.0) == 0, [run.failure for run in runs]
    histories = [json.loads((run.path / "history.json").read_text()) for run in runs]
    return [_without_times(run.result) for run in runs], list(map(_without_times, histories))


def epochs_in(path):
    """How many epochs of each phase a checkpoint holds."""
    with np.load(path, allow_pickle=False) as arrays:
        return [len(content["record"]["rows"]) for content in json.loads(arrays["contents"].tobytes())]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, work):
    """What two seeds give alone and in one go."""
    return finish(work, planned(tmp_path_factory.mktemp("undisturbed"), 1, 2))


def test_a_worker_killed_in_a_teacher_and_in_the_gates_gives_what_an_undisturbed_one_does(tmp_path, work, undisturbed):
    (run,) = planned(tmp_path, 1)
    assert work([run], signal=signal.SIGKILL, epoch=9 + 6) == -signal.SIGKILL
    (teacher,) = (tmp_path / "variant" / "stages").glob("*/checkpoint.npz")
    assert epochs_in(teacher) == [5] and run.status == "unfinished"
    assert work([run], signal=signal.SIGKILL, epoch=5 + 4) == -signal.SIGKILL
    assert epochs_in(run.path / "checkpoint.npz") == [4] and not teacher.exists()
    results, histories = finish(work, [run])
    assert (results[0], histories[0]) == (undisturbed[0][0], undisturbed[1][0])
    assert not list(tmp_path.glob("variant/**/checkpoint.npz")) and run.status == "done"


def test_a_worker_that_is_asked_to_end_loses_no_epoch_of_seeds_that_train_together(tmp_path, work, undisturbed):
    """However far apart checkpoints are: here in the first epoch of fine-tuning. Together gives what each gives alone."""
    runs = planned(tmp_path, 1, 2)
    together = ("--together", "2")
    assert work(runs, *together, apart=1000.0, signal=signal.SIGTERM, epoch=(9 + 9 + 8) * 2 + 1) == 130
    for run in runs:
        assert epochs_in(run.path / "checkpoint.npz") == [8, 1]
    results, histories = finish(work, runs, *together)
    for found, expected in zip((*results, *histories), (*undisturbed[0], *undisturbed[1]), strict=True):
        compare(found, expected, exact=False)
    assert histories[0] != histories[1]
    for run in runs:
        assert run.result["together"] == 2 and run.result["compile_seconds"] > 0
        programs = run.result["programs"]
        assert list(programs) == ["teacher_0", "teacher_1", "gates", "finetune"]
        assert {(program["together"], program["xla"]) for program in programs.values()} == {(2, True)}
