"""Learning curves for TensorBoard: a copy of what history.csv says, never a source of results.

    python -m benchmarks.report results/digits --tensorboard
    tensorboard --logdir results/digits/tensorboard
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import own_folder
from benchmarks.records.results import Results, Row, is_number

# Of the numbers of an epoch, those that are none of its results.
_NO_CURVE = ("seed", "epoch")


def write_event_files(results: Results) -> Path:
    """Write an event file for each run that left epochs, in place of those of an earlier call.

    Args:
        results: of a suite.

    Returns:
        The folder, to be given to TensorBoard. A run is in `<strategy>/seed_<seed>-<run>`; the steps are its epochs,
        counted over all phases, and the tags are the columns of its epochs and the names of their extras.
    """
    folder = own_folder(results.folder / "tensorboard")
    shutil.rmtree(folder)
    for row in results.rows:
        if epochs := results.history.get(row["run"]):
            write_epochs(results.folder, row, epochs)
    return folder


def write_epochs(folder: Path, row: Row, epochs: Sequence[Row]) -> None:
    """Write the event file of one run, in place of an earlier one.

    Args:
        folder: of the suite's results.
        row: of the run.
        epochs: its rows of history.csv.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    # Names of strangers must not lead out of the folder.
    strategy, run = (re.sub(r"\W", "_", row[name]) for name in ("strategy", "run"))
    place = own_folder(own_folder(folder / "tensorboard") / strategy) / f"seed_{row['seed']}-{run}"
    shutil.rmtree(own_folder(place))
    writer = EventFileWriter(str(place))
    for step, epoch in enumerate(epochs, 1):
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(epoch).items()]
        writer.add_event(Event(step=step, wall_time=float(step), summary=Summary(value=values)))
    writer.close()


def scalars(epoch: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch by tag, those in `extras` too."""
    extras = epoch.get("extras")
    columns = {name: value for name, value in epoch.items() if name not in _NO_CURVE}
    both = {**(extras if isinstance(extras, dict) else {}), **columns}
    return {name: float(value) for name, value in both.items() if is_number(value)}
