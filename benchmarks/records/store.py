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
            done            empty, written last: without it the run counts as not finished
            failed.json     instead of `done`: the error and its traceback
            log.txt         what the run printed
            checkpoint.npz  while it is not done: where to go on; see `benchmarks.runs.checkpoints`
        stages/...          networks that several strategies of a seed share; see `benchmarks.runs.stages`
        runs.csv            every run's row; rebuilt from the folders, never appended to
        history.csv         every epoch's row

The hash does not cover the version of the code: a run is an experiment, and a comment that changes would make hours of
them vanish. Rows name their commit instead, and a launch says which of the runs it finds done are of another one. What
is not finished is bound to the code: stages by what trains them, checkpoints by all of it.

Every file is written under a temporary name and renamed, so a reader never sees half a file. Locks are `flock`s: the
kernel drops them with their holder, so a killed run leaves none behind. This module does not import Keras.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

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
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left to write."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def hash_of(content: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(json_text(content, sort_keys=True).encode()).hexdigest()[:16]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Args:
        path: of the file; its folder exists.
        content: text is written as UTF-8; what that cannot hold, as half of a pair of surrogates, as an escape.

    Raises:
        OSError: when there is no room; the old file then stands as it was.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def pause() -> None:
    """Let others work for a moment."""
    time.sleep(0.05)


@contextlib.contextmanager
def locked(path: Path, wait: Callable[[], None] = pause) -> Iterator[None]:
    """Hold the lock of that file; a dead holder holds nothing.

    Args:
        path: of the file; its folder is made.
        wait: called between tries, as long as somebody else holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        while not _taken(file):
            wait()
        yield


def _taken(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: of the folder.
        configuration: what the run is: `suite`, `strategy`, `seed`, `scale`, `examples`, `backend`, `definition`; and
            `sizing`, for strategies of auto-sizing where others do not depend on it, and `early`, for those that merge before
            annealing; at equal compute also `match`, which
            says whose, and `factor`, which its epochs are multiplied by besides `scale`; `precision`, if not float32;
            `devices`, if more than one.
    """

    path: Path
    configuration: Mapping[str, Any]

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
    def launch(self) -> dict[str, Any]:
        """How the run was last launched: command, commit, folders."""
        launch = (_mapping(self.path / "config.json") or {}).get("launch")
        return launch if isinstance(launch, dict) else {}

    @property
    def protocol(self) -> str:
        """Hash of all but strategy and its own settings and seed: runs of one protocol may be compared."""
        own = ("strategy", "seed", "factor", "sizing", "early")
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
        """Make the folder and write config.json; a finished run stays finished."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"configuration": self.configuration, "launch": launch}
        write_atomically(self.path / "config.json", json_text(content, indent=1))

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
        """The run's rows of history.csv: none unless it is done."""
        if self.status != "done":
            return []
        head = {"run": self.path.name, **{k: self.configuration.get(k) for k in ("suite", "strategy", "seed")}}
        rows = []
        for epoch in read_json(self.path / "history.json") or []:
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
    """The content of a JSON file, or None where there is none that can be read, or one of more bytes than that."""
    try:
        if not path.is_file() or path.stat().st_size > most_bytes:  # a pipe has no end
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
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
