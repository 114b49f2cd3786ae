"""An `AutoSizer` in one file: the model it was given, its options, and the weights and slots of the units alive.

The file is an `.npz` archive. It is written beside its place, brought to the disk and then renamed, so a run that is killed
leaves either the old file or the new one. A hash in it covers all names and values; only files of earlier versions have none.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from kmerge.checks import sentence, whole_number
from kmerge.errors import InvalidArgumentError, KmergeError, told
from kmerge.files import write_arrays
from kmerge.sizing.optimizer_slots import Slot
from kmerge.sizing.options import SizingOptions
from kmerge.sizing.state import SizingState
from kmerge.sizing.weights import SizedWeights

_FORMAT = 1


def write_sizer(path: Path, alpha: float | None, state: SizingState) -> None:
    """Writes a sizer.

    Args:
        path: of the file, whose folder must be there.
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
    arrays["digest"] = _digest(arrays)
    write_arrays(path, arrays)


def _bytes_of(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        return file.read_bytes()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[None]:
    """Says of whatever goes wrong inside that the file is none of a sizer, or damaged."""
    if not path.is_file():  # and no pipe, which would never end
        raise InvalidArgumentError(sentence("the path of a file of an AutoSizer", str(path), "There is no such file."))
    try:
        yield
    except Warning:  # of one who lets warnings be errors; no file is the worse for it
        raise
    except Exception as error:  # a damaged file may lead to anything
        why = str(error) if isinstance(error, KmergeError) else told(error)
        raise InvalidArgumentError(
            f"Expected {str(path)!r} to be a whole file of an AutoSizer, received one that is damaged or something else: "
            f"{why.rstrip('.')}. Take another copy of it."
        ) from error


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """A SHA-256 of all names, types, shapes and values, but for its own."""
    found = hashlib.sha256()
    for name in sorted(arrays.keys() - {"digest"}):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name!r} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return np.frombuffer(found.digest(), "uint8")


def _arrays_in(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        # As they are written: what is packed may be a thousand times as large as the file.
        if any(member.file_size != member.compress_size for member in archive.infolist()):
            raise InvalidArgumentError("its members are compressed")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if "digest" in arrays and not np.array_equal(arrays["digest"], _digest(arrays)):
        raise InvalidArgumentError("its content is not what was saved")
    arrays.pop("digest", None)
    return arrays


def read_sizer(path: Path) -> tuple[keras.Model, float | None, SizingOptions, dict, dict]:
    """Reads what `write_sizer` wrote.

    Args:
        path: of the file.

    Returns:
        The model; alpha, or None; the other options; the arguments of `compile`; and the rest, for `restore`.

    Raises:
        Exception: of any kind, if it is no such file, or a damaged one; see `whole_file`.
    """
    about, rest = _archive(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        file.write_bytes(rest.pop("model").tobytes())
        model = keras.saving.load_model(file)
    compiled = keras.saving.deserialize_keras_object(about["compiled"])
    alpha, options = about["options"]["options"].pop("alpha"), SizingOptions.from_config(about["options"]["options"])
    return model, alpha, options, compiled, {**about, "arrays": rest}


def _archive(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """What is written about a sizer, and its arrays."""
    rest = _arrays_in(path)
    about = json.loads(rest.pop("about").tobytes())
    if about["format"] != _FORMAT:
        raise InvalidArgumentError(f"it has the format {about['format']}, and this version of kmerge reads {_FORMAT}")
    return about, rest


def continue_from(path: Path, state: SizingState) -> None:
    """Gives a state what `write_sizer` wrote of another one of the same model, in place.

    Args:
        path: of the file.
        state: the state.

    Raises:
        InvalidArgumentError: if it is no such file, or of another model or optimizer.
    """
    with whole_file(path):
        about, arrays = _archive(path)
        arrays.pop("model")
        kind, spaces = about["compiled"]["optimizer"]["class_name"], ", ".join(about["sizes"])
    wanted = type(state.arguments["optimizer"]).__name__
    if kind != wanted or list(about["sizes"]) != list(state.sizes):
        expected = f"{path} to hold this model, optimizer and spaces, {wanted} with {', '.join(state.sizes)}"
        raise InvalidArgumentError(sentence(expected, f"{kind} with {spaces}", "Take another backup_dir, or remove that one."))
    with whole_file(path):
        restore(state, {**about, "arrays": arrays})
    state.working = None


def restore(state: SizingState, saved: Mapping) -> None:
    """Gives a fresh state what was saved, in place; raises if that does not fit it."""
    arrays, starts, left = {}, {}, dict(saved["arrays"])
    for number, (path, index, count, values) in enumerate(saved["keys"]):
        arrays[path, index] = [left.pop(f"weight_{number}_{i}") for i in range(count)]
        starts[path, index] = [None if value is None else float(value) for value in values]
    others = None if saved["others"] is None else [left.pop(f"other_{i}") for i in range(saved["others"])]
    _check_weights(state, saved["sizes"], arrays, starts)
    if left:
        raise InvalidArgumentError(f"it holds arrays of other names, {sorted(left)[:3]}")
    state.weights = SizedWeights(state.geometry, saved["sizes"], arrays, starts)
    if others is not None:
        state.others = others
    state.slots = [Slot(*values) for values in saved["slots"]]
    state.rooms.exact, state.room = list(saved["exact"]), saved["room"]
    state.compiles, state.grown = (whole_number("a count", count, 0) for count in saved["counts"])
    state.epochs_done = whole_number("epochs_done", saved["options"]["epochs_done"], 0)
    state.history = saved["options"]["history_of_sizes"]
    _check_history(state)
    state.check()


def _check_weights(state: SizingState, sizes: Mapping, arrays: Mapping, starts: Mapping) -> None:
    """Raises unless there are finite arrays of the right shapes for each weight of a model of these sizes."""
    everything = [array for values in arrays.values() for array in values]
    longest = max((n for array in everything for n in array.shape), default=0)  # before anything is built of such a size
    if list(sizes) != state.geometry.names or arrays.keys() != state.weights.arrays.keys():
        raise InvalidArgumentError("its spaces or weights are not those of its model")
    for name, size in sizes.items():
        whole_number(f"the size of {name!r}", size, most=longest)
    axes = state.geometry.axes(sizes)
    for key, values in arrays.items():
        shape = state.weights.value(key).shape
        if key in axes:
            shape = tuple(n if axis is None else len(axis.units) for n, axis in zip(shape, axes[key], strict=True))
        if not values or len(values) != len(starts[key]) or any(array.shape != shape for array in values):
            raise InvalidArgumentError(f"weight {key[1]} of {key[0]!r} has not the shape {shape}")
    if not all(array.dtype.kind in "fiubV" for array in everything):
        raise InvalidArgumentError("it holds weights that are no numbers")
    if not all(np.isfinite(array).all() for array in everything if array.dtype.kind == "f"):
        raise InvalidArgumentError("it holds NaN or infinity")


def _check_history(state: SizingState) -> None:
    names = set(state.geometry.names)
    sized = [state.room] if state.room is not None else []
    sized += [record[entry] for record in state.history for entry in ("grown", "new", "sizes", "room")]
    if not set(state.rooms.exact) <= names or not all(names <= found.keys() for found in sized):
        raise InvalidArgumentError("its records are of other spaces")
    for found in sized:
        for name in names:
            whole_number(f"a size of {name!r}", found[name], 0)
