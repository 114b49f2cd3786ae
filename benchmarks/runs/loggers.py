"""Ready places for runs beside their folders, by name, each a function of a `LoggedRun`; see `benchmarks.runs.log_to`."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import own_folder
from benchmarks.records.store import RunFolder, json_text
from benchmarks.reports.event_files import scalars, write_epochs

# MLflow takes so many parameters and metrics in a call, and so many letters of one.
_MOST_PARAMETERS, _MOST_METRICS, _LONGEST = 90, 900, 500


@dataclass(frozen=True)
class LoggedRun:
    """A run that has ended.

    Attributes:
        folder: of the suite's results.
        run: the name of its folder, which is the hash of its configuration.
        name: what people call it.
        configuration: what it is: suite, strategy, seed, and all that the suite's file says.
        row: of runs.csv: `status`, which is "done" or "failed", results and costs, or the `error`.
        epochs: rows of history.csv, in order; none of a run that failed.
    """

    folder: Path
    run: str
    name: str
    configuration: Mapping[str, Any]
    row: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, run: RunFolder) -> "LoggedRun":
        """What the folder of a run says.

        Raises:
            ValueError: if it lacks its history.
        """
        return cls(run.path.parents[1], run.path.name, run.name, run.configuration, run.row(), run.history())


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted keys."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float | bool) else json_text(value)


def results_of(run: LoggedRun) -> dict[str, float]:
    """The numbers of a run's row, those in `extras` too."""
    return {name: value for name, value in scalars({**run.row, "epoch": None}).items() if name not in run.configuration}


def tensorboard(run: LoggedRun) -> None:
    """Event files in `tensorboard/<strategy>/seed_<seed>-<run>` of the results; the steps are epochs, over all phases."""
    write_epochs(run.folder, run.row, run.epochs)


def mlflow(run: LoggedRun) -> None:
    """A run of MLflow in the experiment of the suite's name, where MLFLOW_TRACKING_URI says; an earlier one of the same
    hash is deleted."""
    import mlflow as package
    from mlflow.entities import Metric, Param

    experiment = package.set_experiment(run.configuration["suite"])
    client = package.MlflowClient()
    for earlier in client.search_runs([experiment.experiment_id], f"tags.kmerge_run = '{run.run}'"):
        client.delete_run(earlier.info.run_id)
    tags = {"kmerge_run": run.run, "kmerge_commit": run.row.get("commit"), "kmerge_error": run.row.get("error")}
    tags = {key: str(text)[:_LONGEST] for key, text in tags.items() if text is not None}
    params = [Param(_key(key), str(value)[:_LONGEST]) for key, value in flat(run.configuration)]
    metrics = [Metric(_key(f"result.{name}"), value, 0, 0) for name, value in results_of(run).items()]
    for step, epoch in enumerate(run.epochs, 1):
        metrics += [Metric(_key(name), value, 0, step) for name, value in scalars(epoch).items()]
    begun = package.start_run(run_name=run.name, tags=tags).info.run_id
    try:
        for start in range(0, len(params), _MOST_PARAMETERS):
            client.log_batch(begun, params=params[start : start + _MOST_PARAMETERS])
        for start in range(0, len(metrics), _MOST_METRICS):
            client.log_batch(begun, metrics=metrics[start : start + _MOST_METRICS])
    finally:
        package.end_run("FINISHED" if run.row["status"] == "done" else "FAILED")


def wandb(run: LoggedRun) -> None:
    """A run of Weights & Biases in the project `kmerge-<suite>`, or that of WANDB_PROJECT; its id is the run's hash."""
    import wandb as package

    suite, strategy = (run.configuration[name] for name in ("suite", "strategy"))
    project = os.environ.get("WANDB_PROJECT", f"kmerge-{re.sub(r'[^a-zA-Z0-9_-]', '-', suite)}")
    about = {"project": project, "id": run.run, "name": run.name, "group": strategy, "dir": str(run.folder)}
    own_folder(run.folder / "wandb")  # a link there would lead out of the results
    begun = package.init(config=dict(flat(run.configuration)), **about)
    for step, epoch in enumerate(run.epochs, 1):
        begun.log(scalars(epoch), step=step)
    begun.summary.update({**results_of(run), "status": run.row["status"], "error": run.row.get("error")})
    begun.finish(exit_code=0 if run.row["status"] == "done" else 1)


def _key(text: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w. /-]", "_", text)[:250]


READY: dict[str, Callable[[LoggedRun], None]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}


def is_installed(name: str) -> bool:
    """Whether the package behind one of `READY` is there."""
    return importlib.util.find_spec(name) is not None
