"""Run folders are the truth; tables are derived from them.

A *run* is one strategy with one seed of one suite. Its folder is named by the hash of its configuration, so that a
second launch finds what a first one finished:

    results/digits/
        runs/3f0c9a1be4d27788/
            config.json     the configuration (what the name is the hash of) and how it was launched
            history.json    one row per epoch
            result.json     the run's row
            function.json   of a network of one variable with one output: points `x` and its outputs `y`
            filters.json    of merged networks of images: `kernel` of the first convolution, and `parents` of its filters
            pictures.json   of segmentation: `classes`, test `images` and labels of them: `truth`, `before` and `after`
            done            empty, written last: without it the run counts as not finished
            failed.json     instead of `done`: the error and its traceback
            log.txt         what the run printed, when it was last tried
            lock            held by whoever does the run, and says who that is
            checkpoint.npz  while it is not done: where to go on; see `benchmarks.runs.checkpoints`
        stages/...          networks that several strategies of a seed share; see `benchmarks.runs.stages`
        runs.csv            every run's row; rebuilt from the folders, never appended to
        history.csv         every epoch's row

The hash does not cover the version of the code: a run is an experiment, and a comment that changes would make hours of
them vanish. Rows name their commit instead, and a launch says which of the runs it finds done are of another one. What
is not finished is bound to the code: stages by what trains them, checkpoints by all of it.

How files are written, read and locked, `benchmarks.files` says. Who holds a run's lock writes its folder; who waits for it
leaves it alone. This module does not import Keras.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import HeldError, locked_at_once, read_regular, real_folder, write_atomically

RUN_COLUMNS = (
    "suite",
    "strategy",
    "seed",
    "status",
    "metric",
    "test_last",
    "test_best",
    "validation_last",
    "validation_best",
    "epochs",
    "teacher_epoch_equivalents",
    "flops",
    "parameters",
    "macs",
    "seconds",
    "compile_seconds",
    "wall_seconds",
    "together",
    "devices",
    "scale",
    "match",
    "factor",
    "examples",
    "backend",
    "precision",
    "programs",
    "device",
    "environment",
    "versions",
    "commit",
    "command",
    "protocol",
    "run",
    "extras",
    "error",
)
HISTORY_COLUMNS = (
    "run",
    "suite",
    "strategy",
    "seed",
    "phase",
    "epoch",
    "loss",
    "train_metric",
    "val_loss",
    "val_metric",
    "learning_rate",
    "seconds",
    "extras",
)
FUNCTION = "function.json"
FILTERS = "filters.json"
PICTURES = "pictures.json"


def hash_of(content: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(json_text(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: of the folder.
        configuration: what the run is: `suite`, `strategy`, `seed`, `scale`, `examples`, `backend`, `definition`; and
            `sizing`, for strategies of auto-sizing where others do not depend on it, and `early`, for those that merge before
            annealing; `code`, the hash of a strategy that is none of ours; at equal compute also `match`, which
            says whose, and `factor`, which its epochs are multiplied by besides `scale`; `precision`, if not float32;
            `devices`, if more than one.
        own_launch: how whoever does the run launched it; None for others, who read config.json.
    """

    path: Path
    configuration: Mapping[str, Any]
    own_launch: Mapping[str, Any] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, suite_folder: Path, configuration: Mapping[str, Any]) -> "RunFolder":
        """The folder that a configuration has; it need not exist yet."""
        return cls(Path(suite_folder) / "runs" / hash_of(configuration), configuration)

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """The run of an existing folder.

        Raises:
            ValueError: if the folder is not one that `create` made: no readable config.json, or another's.
        """
        path = Path(path)
        if path.is_symlink():
            raise ValueError(f"{path} is left out: it is a link, and could lead anywhere. Delete it.")
        content = read_json(path / "config.json")
        configuration = content.get("configuration") if isinstance(content, dict) else None
        if not isinstance(configuration, dict) or not {"suite", "strategy", "seed"} <= configuration.keys():
            raise ValueError(f"{path} is not a run folder: it has no readable config.json. Delete or move it.")
        if not isinstance(configuration["seed"], int) or not isinstance(configuration["strategy"], str):
            raise ValueError(f"{path} is left out: its strategy is no text, or its seed no whole number. Delete it.")
        if hash_of(configuration) != path.name:
            raise ValueError(
                f"{path} does not belong to its configuration, whose hash is {hash_of(configuration)}. "
                "Its config.json was edited or copied. Delete or move the folder."
            )
        return cls(path, configuration)

    @property
    def launch(self) -> Mapping[str, Any]:
        """How the run was last launched: command, commit, folders."""
        if self.own_launch is not None:
            return self.own_launch
        launch = (_mapping(self.path / "config.json") or {}).get("launch")
        return launch if isinstance(launch, dict) else {}

    @property
    def lock(self) -> Path:
        """The file whose lock is held by whoever does the run; nobody else writes in its folder."""
        return self.path / "lock"

    @property
    def protocol(self) -> str:
        """Hash of all but strategy and its own settings and seed: runs of one protocol may be compared."""
        own = ("strategy", "seed", "factor", "sizing", "early", "code")
        return hash_of({k: v for k, v in self.configuration.items() if k not in own})[:8]

    @property
    def name(self) -> str:
        """What people call the run."""
        return f"{self.configuration['strategy']} seed {self.configuration['seed']}"

    @property
    def status(self) -> str:
        """One of "done", "failed", "unfinished" (was started, or lost a file) and "missing" (never started)."""
        readable = [_mapping(self.path / name) is not None for name in ("config.json", "result.json")]
        if (self.path / "done").exists() and all(readable):
            return "done"
        if self.failure is not None:
            return "failed"
        return "unfinished" if (self.path / "config.json").exists() else "missing"

    @property
    def result(self) -> dict[str, Any] | None:
        """The run's row as far as the run knows it; None where it was never written."""
        return _mapping(self.path / "result.json")

    @property
    def failure(self) -> dict[str, Any] | None:
        """`error` and `traceback` of a failed run; None where it did not fail."""
        return _mapping(self.path / "failed.json")

    def create(self, launch: Mapping[str, Any]) -> None:
        """Make the folder and write config.json; a finished run stays finished.

        Raises:
            OSError: if there is no room, or a link is there instead of the folder or of the one that it is in.
        """
        real_folder(real_folder(self.path.parent) / self.path.name)
        content = {"configuration": self.configuration, "launch": launch}
        write_atomically(self.path / "config.json", json_text(content, indent=1))

    def announce(self, launch: Mapping[str, Any]) -> None:
        """As `create`, unless that was done: who does the run says so once it holds the lock, and not who waits for it."""
        content = _mapping(self.path / "config.json") or {}
        if json_text(content.get("configuration"), sort_keys=True) != json_text(self.configuration, sort_keys=True):
            self.create(launch)

    def taken(self, launch: Mapping[str, Any] | None) -> "RunFolder":
        """The same run for whoever holds its lock and does it now; config.json then says how that was launched.

        Args:
            launch: of whoever does it; None for what config.json says, which is read here and no more.
        """
        if launch is not None:
            self.create(launch)
        return replace(self, own_launch=self.launch if launch is None else launch)

    def start(self) -> None:
        """Forget an earlier try."""
        for name in ("done", "failed.json", "result.json", "history.json"):
            (self.path / name).unlink(missing_ok=True)

    def finish(self, result: Mapping[str, Any], history: list[Mapping[str, Any]]) -> None:
        """Record that the run is done: `done` comes last, so a crash in between leaves the run unfinished."""
        write_atomically(self.path / "history.json", json_text(history))
        write_atomically(self.path / "result.json", json_text(result, indent=1))
        (self.path / "failed.json").unlink(missing_ok=True)
        write_atomically(self.path / "done", "")

    def fail(self, error: str, traceback: str) -> None:
        """Record that the run failed; the next launch tries again."""
        write_atomically(self.path / "failed.json", json_text({"error": error, "traceback": traceback}, indent=1))

    def give_up(self, error: str, traceback: str) -> str:
        """Record that the run failed because whoever did it is gone, unless somebody else does it meanwhile.

        Returns:
            The error, with that added.
        """
        try:
            with locked_at_once(self.lock):
                self.fail(error, traceback)
        except HeldError as holder:
            return f"{error}; {holder} does this run"
        except OSError as second:
            return f"{error}; that could not be recorded: {second.strerror}"
        return error

    def row(self) -> dict[str, Any]:
        """The run's row of runs.csv, whatever its status."""
        row: dict[str, Any] = dict.fromkeys(RUN_COLUMNS)
        launch = self.launch
        row.update({k: launch.get(k) for k in ("commit", "command")})
        known = ("suite", "strategy", "seed", "scale", "match", "factor", "examples", "backend")
        row.update({k: self.configuration.get(k) for k in known})
        row.update(status=self.status, protocol=self.protocol, run=self.path.name)
        source = {"done": self.result, "failed": self.failure}.get(row["status"]) or {}
        own = ("status", "protocol", "run", *known)  # what a run is, its folder says, and its result cannot change
        row.update({k: v for k, v in source.items() if k in RUN_COLUMNS and k not in own})
        return row

    def history(self) -> list[dict[str, Any]]:
        """The run's rows of history.csv: none unless it is done.

        Raises:
            ValueError: if it is done, and its history.json is lost, cut or something else.
        """
        if self.status != "done":
            return []
        epochs = read_json(self.path / "history.json")
        if not isinstance(epochs, list) or not all(isinstance(epoch, dict) for epoch in epochs):
            raise ValueError(
                f"{self.path / 'history.json'} is not a list of epochs: it was lost, cut or edited. The curves of the run are "
                f"left out. Delete {self.path} to repeat it."
            )
        head = {"run": self.path.name, **{k: self.configuration.get(k) for k in ("suite", "strategy", "seed")}}
        rows = []
        for epoch in epochs:
            known = {k: v for k, v in epoch.items() if k in HISTORY_COLUMNS}
            extras = {k: v for k, v in epoch.items() if k not in HISTORY_COLUMNS}
            rows.append(dict.fromkeys(HISTORY_COLUMNS) | head | known | {"extras": extras})
        return rows


def read_runs(suite_folder: Path) -> tuple[list[RunFolder], list[str]]:
    """All runs of a suite, and a sentence about each folder that is none and is left out."""
    runs, problems = [], []
    for path in sorted((Path(suite_folder) / "runs").glob("*")):
        try:
            runs.append(RunFolder.read(path))
        except ValueError as error:
            problems.append(str(error))
    runs.sort(key=_same)
    counted = []
    for _, alike in itertools.groupby(runs, _same):
        # What a strategy alone depends on is not in the protocol: of runs that differ in it alone, one that is done
        # counts, the one that was launched last.
        *others, last = sorted(alike, key=_standing)
        because = f"{last.path.name} is the same run with other settings of its own"
        problems += [f"{run.path} is left out: {because}." for run in others]
        counted.append(last)
    return counted, problems


def _same(run: RunFolder) -> tuple[str, str, int]:
    return run.protocol, run.configuration["strategy"], run.configuration["seed"]


def _standing(run: RunFolder) -> tuple[bool, float]:
    launched = run.launch.get("launched")
    return run.status == "done", launched if isinstance(launched, int | float) else 0.0


def json_text(content: Any, **how: Any) -> str:
    """Content as JSON, NumPy's numbers and paths included."""
    return json.dumps(content, default=_plain, **how)


def _plain(value: Any) -> Any:
    """What JSON can hold of a value that it cannot."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}: {value!r}")


def _mapping(path: Path) -> dict[str, Any] | None:
    content = read_json(path)
    return content if isinstance(content, dict) else None


def read_json(path: Path, most_bytes: int = 200_000_000) -> Any:
    """The content of a JSON file, or None where there is none that can be read, or one of more bytes than that.

    No link is followed, and no pipe waited for.
    """
    try:
        content = json.loads(read_regular(path, most_bytes))
    except (OSError, ValueError, RecursionError):
        return None
    return content if is_shallow(content) else None


def is_shallow(content: Any, most: int = 50) -> bool:
    """Whether tables and lists are in each other so many times at most: else whoever walks them may come to no end."""
    level = [content]
    for _ in range(most):
        level = [item for table in level for item in _items(table) if isinstance(item, dict | list)]
        if not level:
            return True
    return False


def _items(content: Any) -> Iterable[Any]:
    return content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
