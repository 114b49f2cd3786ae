"""What commands read and write: models, data and text, each checked before any long work starts."""

import hashlib
import importlib
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmerge.errors import InvalidArgumentError, told

TARGETS = "y"  # the array of a data file that is not an input


@dataclass(frozen=True)
class Examples:
    """The content of a data file.

    Attributes:
        inputs: an array `(examples, ...)`, or for a model with several inputs a dict of them by the inputs' names.
        targets: the array `y`, or None where the file has none.
    """

    inputs: Any
    targets: np.ndarray | None

    def for_model(self) -> Any:
        """What a verb takes as `data`: the inputs, with the targets where there are any."""
        return self.inputs if self.targets is None else (self.inputs, self.targets)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_modules(names: Sequence[str]) -> None:
    """Imports modules, which register the layers of a model; an `InvalidArgumentError` names the one that cannot be."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise InvalidArgumentError(f"--import: module {name!r} cannot be imported ({told(error)}).") from None


def read_model(path: Path, trust_code: bool = False) -> keras.Model:
    """The model of a `.keras` file.

    Args:
        path: the file.
        trust_code: whether Python code that the file holds, such as that of a `Lambda` layer, may run.

    Raises:
        InvalidArgumentError: if there is no such file, it is no model, or it holds code that was not allowed.
    """
    if path.suffix != ".keras" or not path.is_file():
        raise InvalidArgumentError(f"Expected a model to be a file that ends in .keras, received {str(path)!r}.")
    try:
        with warnings.catch_warnings():
            # Of a model that was compiled and never trained; no command goes on with an optimizer of a file.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            return keras.models.load_model(path, safe_mode=not trust_code)
    except Exception as error:
        if "arbitrary code" in str(error) or "safe_mode" in str(error):
            do = "Where you trust whoever made the file, add --trust-code."
        elif "register" in str(error):
            do = "Where it has layers of its own, add --import with the module that defines and registers them."
        else:
            do = "Save it anew with model.save."
        raise InvalidArgumentError(f"Model {str(path)!r} cannot be loaded ({told(error)}). {do}") from None


def read_examples(path: Path) -> Examples:
    """The arrays of a `.npz` file: `y` are the targets, all others inputs; a single one is the input of any name.

    Raises:
        InvalidArgumentError: if there is no such file, or its arrays cannot be data.
    """
    if path.suffix != ".npz" or not path.is_file():
        raise InvalidArgumentError(
            f"Expected --data to be a .npz file with inputs and targets 'y', received {str(path)!r}. Write one with "
            "numpy.savez(path, x=inputs, y=targets)."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidArgumentError(f"Data file {str(path)!r} cannot be read ({told(error)}).") from None
    targets = arrays.pop(TARGETS, None)
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    counts |= {} if targets is None else {TARGETS: len(targets) if targets.ndim else 0}
    if not arrays or len(set(counts.values())) != 1 or 0 in counts.values():
        raise InvalidArgumentError(
            f"Expected the arrays of {str(path)!r} to be inputs, and targets 'y', of equally many examples, received "
            f"{counts or 'no array'}."
        )
    return Examples(next(iter(arrays.values())) if len(arrays) == 1 else arrays, targets)


def check_free(path: Path, suffix: str, overwrite: bool, option: str = "--out") -> Path:
    """The path, if a file of this suffix can be written there and none is lost."""
    if path.suffix != suffix or not path.parent.is_dir():
        raise InvalidArgumentError(
            f"Expected {option} to be a file that ends in {suffix}, in a folder that is there, received {str(path)!r}."
        )
    if path.exists() and not overwrite:
        raise InvalidArgumentError(f"{str(path)!r} is there already. Give another {option}, or --overwrite.")
    return path
