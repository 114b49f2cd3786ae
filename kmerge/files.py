"""Files that appear whole or not at all: a process that is killed, or a full disk, leaves the old file or the new one."""

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Writes a file beside its place, brings it to the disk, and gives it its name.

    Args:
        path: the file, whose folder must be there.
        save: function that writes the file at the path that it is given, which has the same suffix.
    """
    draft = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        save(draft)
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz` archive of arrays, whole, whatever its suffix."""

    def save(draft: Path) -> None:
        with open(draft, "xb") as file:
            np.savez(file, **arrays)

    write_whole(path, save)
