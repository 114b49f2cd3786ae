"""Runs in a process of their own: `python -m benchmarks.runs.worker FOLDER...`.

Each folder holds a config.json that `benchmarks.run` wrote. The runs are worked through in order, and each stands for
itself: a run that fails leaves failed.json and the next one begins. Events go to standard output as JSON, one object a
line; whatever libraries print goes to the folder's log.txt. Test data is looked at once, after training.

A run that was cut off goes on after its last known epoch; see `benchmarks.runs.checkpoints`. SIGTERM and Ctrl-C end the worker
after the epoch that it is at, with status 130. With `--together K`, up to K runs that follow each other and differ only
in their seed are trained in one program; see `benchmarks.runs.together`.

`--check REQUEST`, a JSON object, instead reads a data set, and decodes it into the cache where needed; it ends with
status 3 where that cannot be had.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.protocol.metrics import METRICS
from benchmarks.command_line import DATA_MISSING, DONE, FAILED, INTERRUPTED, command_parser, positive_whole_number
from benchmarks.data.cache import DataMissingError, forget_verified
from benchmarks.data.datasets import load
from benchmarks.files import is_disk_full, locked_in_turn, new_file, real_folder, write_atomically
from benchmarks.records.store import FILTERS, FUNCTION, PICTURES, RunFolder, hash_of, json_text
from benchmarks.runs.checkpoints import NAME, Checkpoint
from benchmarks.runs.executors import GRACE_SECONDS
from benchmarks.runs.provenance import provenance
from benchmarks.runs.stages import Alone, StageCache
from benchmarks.runs.stopping import Stop, Stopped
from benchmarks.runs.together import work_together
from benchmarks.suites.suite import Suite, load_suite

if TYPE_CHECKING:
    from baselines.protocol.strategy import Outcome
    from baselines.protocol.task import Task

_SECONDS_BETWEEN_EPOCH_EVENTS = 0.2

Emit = Callable[..., None]


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 if all runs are done, else 1; for `--check` see the module.

    Args:
        arguments: of the command line; None for the process' own.
    """
    parser = command_parser(__file__, __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folder of a run")
    parser.add_argument("--check", metavar="REQUEST", type=json.loads, help="only read data; see check()")
    parser.add_argument("--together", metavar="K", type=positive_whole_number, default=1, help="seeds in one program")
    parser.add_argument("--launch", metavar="JSON", type=json.loads, help="how, as config.json is to say; see RunFolder")
    parser.add_argument("--attached", action="store_true", help="end when standard input ends: the parent is gone")
    options = parser.parse_args(arguments)
    if options.check is not None:
        return check(**options.check)
    runs = [RunFolder.read(folder) for folder in options.folders]
    stop = Stop()
    stop.listen()
    if options.attached:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the events
    emit = functools.partial(_emit, events)
    try:
        grouped = groups(runs, options.together)
        statuses = [status for group in grouped for status in work(group, emit, stop, options.launch)]
    except Stopped:
        return INTERRUPTED
    return DONE if all(status == "done" for status in statuses) else FAILED


def groups(runs: Sequence[RunFolder], most: int) -> list[list[RunFolder]]:
    """Runs that are trained together: neighbours that differ only in their seed, at most so many."""
    result = []
    for _, alike in itertools.groupby(runs, lambda run: hash_of({**run.configuration, "seed": None})):
        alike = list(alike)
        result += [alike[start : start + most] for start in range(0, len(alike), most)]
    return result


def check(dataset: str, data_dir: str | None, cache_dir: str, verify: bool = False) -> int:
    """Read a data set, and decode it into the cache where needed; print what is wrong with it.

    Args:
        dataset: its name.
        data_dir: folder of tensorflow-datasets; None for its default.
        cache_dir: folder of the decoded arrays.
        verify: whether to read them whole and check their hash, though that was done on this machine.

    Returns:
        The exit status: 0, or 3 for data that cannot be had.
    """
    if verify:
        forget_verified(Path(cache_dir) / dataset)
    try:
        load(dataset, data_dir, cache_dir, seed=0)
    except DataMissingError as error:
        print(error)
        return DATA_MISSING
    return DONE


def work(
    runs: Sequence[RunFolder], emit: Emit, stop: Stop, launch: Mapping[str, Any] | None = None
) -> list[str]:
    """Do runs at once, but those that are done, and leave the result or the failure of each in its folder.

    Args:
        runs: one, or several to be trained together.
        emit: is called with a run, the kind of an event and its details.
        stop: whether to end before the next epoch.
        launch: how they were launched, which their rows will tell; None for what their folders say.

    Returns:
        The status that each run then has.

    Raises:
        Stopped: if the process was asked to end.
    """
    with contextlib.ExitStack() as held:
        for run in runs:
            held.enter_context(_turn(run, emit))
        for run in runs:
            if run.status == "done":
                (run.path / NAME).unlink(missing_ok=True)  # of a worker that was killed right after `done`
                emit(run, "done", **run.result)
        waiting = [run for run in runs if run.status != "done"]
        if not waiting:
            return ["done"] * len(runs)
        import keras  # before there is a log of a run: what goes wrong here the launch hears

        try:
            waiting = [run.taken(launch) for run in waiting]
            _log_to(waiting, held)
        except OSError as error:
            for run in waiting:
                _record(run, error, functools.partial(emit, run))
            return ["failed"] * len(waiting)
        keras.backend.clear_session()  # of all threads
        jobs = [functools.partial(_attempt, run, functools.partial(emit, run), stop) for run in waiting]
        statuses = [jobs[0](Alone())] if len(jobs) == 1 else work_together(jobs, stop)
        return ["done"] * (len(runs) - len(waiting)) + statuses


def _turn(run: RunFolder, emit: Emit) -> contextlib.AbstractContextManager[None]:
    """The lock of a run: for whom it waits is told, and when that is over."""

    def queue(holder: str, _: float) -> None:
        emit(run, "queues", holder=holder)

    return locked_in_turn(run.lock, queue, functools.partial(emit, run, "resumes"), 0.0)


def _log_to(runs: Sequence[RunFolder], held: contextlib.ExitStack) -> None:
    """Have all that is printed go to a new log of the first run, and the other logs say so."""
    log = held.enter_context(new_file(runs[0].path / "log.txt"))
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    for run in runs[1:]:
        text = f"Trained together with {runs[0].path.name}, whose log.txt is that of all.\n"
        write_atomically(run.path / "log.txt", text)


def _attempt(run: RunFolder, emit: Callable[..., None], stop: Stop, trainer: Any) -> str:
    emit("start")
    folder = run.launch.get("stages")
    try:
        folder = Path(folder) if folder else real_folder(run.path.parent.parent / "stages")
        stages = StageCache(folder, _throttled(emit), stop, trainer, emit, run.configuration.get("devices", 1))
        run.start()
        with stages.keeping(Checkpoint(run.path / NAME, stages.tell_damage)):
            result, history = train(run, stages)
            run.finish(result, history)
        (run.path / NAME).unlink(missing_ok=True)
    except Exception as error:
        _record(run, error, emit)
        return "failed"
    emit("done", **result)
    return "done"


def train(run: RunFolder, stages: StageCache) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the strategy and evaluate what it ends with.

    Args:
        run: what to run.
        stages: what its strategy trains with.

    Returns:
        The run's row, and one row per epoch.

    Raises:
        DivergedError: if the network's predictions are not finite.
    """
    import keras

    from benchmarks.strategies.registry import strategy_named
    from kmerge.seeds import seed_of

    began = time.monotonic()
    configuration = run.configuration
    if keras.backend.backend() != configuration["backend"]:
        raise ValueError(
            f"This run is for the backend {configuration['backend']}; Keras runs on {keras.backend.backend()}. "
            f"Set KERAS_BACKEND={configuration['backend']}."
        )
    keras.config.set_dtype_policy(configuration.get("precision", "float32"))
    there, devices = keras.distribution.list_devices(), configuration.get("devices", 1)
    if devices > len(there):
        raise ValueError(f"This run is for {devices} devices; there are {len(there)}: {', '.join(there)}.")
    name, seed = configuration["strategy"], configuration["seed"]
    keras.utils.set_random_seed(seed_of("run", configuration["suite"], name, seed))
    scale, launch = configuration["scale"] * configuration.get("factor", 1.0), run.launch
    suite = _suite(run)
    task = suite.task(seed, launch["data_dir"], launch["cache_dir"], scale, configuration["examples"])
    if devices > 1:
        task = replace(task, identity={**task.identity, "data_parallel": devices})
    outcome = strategy_named(name, suite.folder)(task, suite.budget(scale), seed, stages)
    result = _result(task, outcome) | provenance(run)
    _keep_function(run, task, outcome)
    _keep_filters(run, outcome)
    _keep_pictures(run, task, outcome)
    return result | {"wall_seconds": time.monotonic() - began}, outcome.history


def _suite(run: RunFolder) -> Suite:
    suite = load_suite(run.launch["suite"])
    planned = {key: run.configuration[key] for key in ("definition", "sizing", "early", "code") if key in run.configuration}
    now = {"definition": suite.definition, **suite.settings_of(run.configuration["strategy"])}
    if hash_of(now) != hash_of(planned):
        raise ValueError(f"The suite {run.launch['suite']} was changed after this run was planned. Launch again.")
    return suite


def _result(task: "Task", outcome: "Outcome") -> dict[str, Any]:
    from benchmarks.runs.evaluation import results_of
    from kmerge.costs import multiply_accumulates, parameters

    return {
        "metric": task.metric,
        **results_of(task, outcome),
        "epochs": outcome.epochs,
        "teacher_epoch_equivalents": outcome.teacher_epoch_equivalents,
        "flops": outcome.flops,
        "seconds": outcome.seconds,
        "compile_seconds": sum(program["compile_seconds"] for program in outcome.programs.values()),
        "together": max(program["together"] for program in outcome.programs.values()),
        "programs": outcome.programs,
        "parameters": parameters(outcome.model),
        "macs": multiply_accumulates(outcome.model),
    }


def _keep_function(run: RunFolder, task: "Task", outcome: "Outcome") -> None:
    """Of a network of one variable, leave in the folder what it computes, for a figure."""
    import numpy as np

    x = task.data.x_train
    if x.shape[1:] != (1,) or task.data.y_train.shape[1:] != (1,):
        return
    points = np.linspace(x.min(), x.max(), 400, dtype=x.dtype)
    outputs = outcome.model.predict(points[:, None], batch_size=500, verbose=0)
    write_atomically(run.path / FUNCTION, json_text({"x": points.tolist(), "y": outputs[:, 0].tolist()}))


def _keep_filters(run: RunFolder, outcome: "Outcome") -> None:
    """Of a merged network of images, leave in the folder its first filters and which parents they are of, for a figure."""
    import keras

    parents = outcome.extras.get("first_parents")
    if parents is None:
        return
    first = next(layer for layer in outcome.model.layers if isinstance(layer, keras.layers.Conv2D))
    kernel = keras.ops.convert_to_numpy(first.kernel).astype("float32")
    write_atomically(run.path / FILTERS, json_text({"kernel": kernel.tolist(), "parents": parents}))


def _keep_pictures(run: RunFolder, task: "Task", outcome: "Outcome") -> None:
    """Of a network that labels pixels, leave in the folder what it says of some images, for a figure."""
    if METRICS[task.metric].of_pixels:
        from benchmarks.runs.evaluation import pictures

        write_atomically(run.path / PICTURES, json_text(pictures(task, outcome)))


def _record(run: RunFolder, error: Exception, emit: Emit) -> None:
    """Leave the failure in the folder if there is room, and report it in any case."""
    text = f"{type(error).__name__}: {error}"
    if not is_disk_full(error):
        try:
            run.fail(text, traceback.format_exc())
        except OSError as second:
            error = second
    emit("failed", error=text, disk_full=is_disk_full(error))


def _throttled(emit: Emit) -> Callable[[Mapping[str, Any]], None]:
    """Emits an epoch's row and how many epochs there were so far, but not more often than anyone reads."""
    last, ended = -math.inf, 0

    def on_epoch(row: Mapping[str, Any]) -> None:
        nonlocal last, ended
        ended += 1
        if time.monotonic() - last >= _SECONDS_BETWEEN_EPOCH_EVENTS:
            last = time.monotonic()
            emit("epoch", ended=ended, **{name: row.get(name) for name in ("phase", "epoch", "loss", "val_metric")})

    return on_epoch


def _emit(events: Any, run: RunFolder, kind: str, /, **detail: Any) -> None:
    message = {"event": kind, "folder": str(run.path), **detail}
    with contextlib.suppress(BrokenPipeError):  # a parent that is gone
        events.write(json.dumps(message, default=float) + "\n")


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
