"""An `AutoSizer` in one file: the model it was given, its options, and the weights and slots of the units alive.

The file is an `.npz` archive. It is written beside its place and then renamed, so a run that is killed leaves either the old
file or the new one.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError
from kmerge.sizing.optimizer_slots import Slot
from kmerge.sizing.options import SizingOptions
from kmerge.sizing.state import SizingState
from kmerge.sizing.weights import SizedWeights

_FORMAT = 1


def write_sizer(path: str | Path, alpha: float | None, state: SizingState) -> None:
    """Writes a sizer.

    Args:
        path: of the file.
        alpha: the strength of its penalty; None where that is a function.
        state: its state, with its options.
    """
    arrays, keys = {}, []
    for number, (key, values) in enumerate(state.weights.arrays.items()):
        keys.append([*key, len(values), list(state.weights.starts[key])])
        arrays.update({f"weight_{number}_{i}": value for i, value in enumerate(values)})
    arrays.update({f"other_{i}": value for i, value in enumerate(state.others or ())})
    about = {
        "format": _FORMAT,
        "options": {
            "options": {"alpha": alpha, **state.options.get_config()},
            "epochs_done": state.epochs_done,
            "history_of_sizes": state.history,
        },
        "compiled": keras.saving.serialize_keras_object(state.arguments),
        "keys": keys,
        "others": None if state.others is None else len(state.others),
        "slots": [dataclasses.astuple(slot) for slot in state.slots],
        "sizes": state.sizes,
        "room": state.room,
        "exact": state.rooms.exact,
        "counts": [state.compiles, state.grown],
    }
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), "uint8")
    arrays["model"] = np.frombuffer(_bytes_of(state.routes.walked.model), "uint8")
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        np.savez(file, **arrays)
    os.replace(file.name, path)


def _bytes_of(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        return file.read_bytes()


def read_sizer(path: str | Path) -> tuple[keras.Model, float | None, SizingOptions, dict, dict]:
    """Reads what `write_sizer` wrote.

    Args:
        path: of the file.

    Returns:
        The model; alpha, or None; the other options; the arguments of `compile`; and the rest, for `restore`.

    Raises:
        InvalidArgumentError: if it is no such file.
    """
    with np.load(path) as archive:
        if not {"about", "model"} <= set(archive.files):
            raise InvalidArgumentError(sentence(f"{path} to be a file of an AutoSizer", archive.files[:5]))
        rest = {name: archive[name] for name in archive.files}
    about = json.loads(rest.pop("about").tobytes())
    if about["format"] != _FORMAT:
        do = "Load it with the version of kmerge that saved it."
        raise InvalidArgumentError(sentence(f"{path} to have the format {_FORMAT}", about["format"], do))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        file.write_bytes(rest.pop("model").tobytes())
        model = keras.saving.load_model(file)
    compiled = keras.saving.deserialize_keras_object(about["compiled"])
    alpha, options = about["options"]["options"].pop("alpha"), SizingOptions.from_config(about["options"]["options"])
    return model, alpha, options, compiled, {**about, "arrays": rest}


def restore(state: SizingState, saved: Mapping) -> None:
    """Gives a fresh state what was saved, in place."""
    arrays, starts = {}, {}
    for number, (path, index, count, values) in enumerate(saved["keys"]):
        arrays[path, index] = [saved["arrays"][f"weight_{number}_{i}"] for i in range(count)]
        starts[path, index] = values
    state.weights = SizedWeights(state.geometry, saved["sizes"], arrays, starts)
    if saved["others"] is not None:
        state.others = [saved["arrays"][f"other_{i}"] for i in range(saved["others"])]
    state.slots = [Slot(*values) for values in saved["slots"]]
    state.rooms.exact, state.room = list(saved["exact"]), saved["room"]
    state.compiles, state.grown = saved["counts"]
    state.epochs_done, state.history = saved["options"]["epochs_done"], saved["options"]["history_of_sizes"]
