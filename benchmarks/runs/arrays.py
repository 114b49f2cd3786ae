"""Arrays and what is to be known of them in one file, which is read whole or not at all.

The file is a .npz archive, which `numpy.load` reads, and behind it the SHA-256 of all its bytes: names, shapes, contents. It
is checked before anything is parsed. A file that does not pass, whatever is wrong with it, is moved aside as `NAME.damaged`
and counts as none, so that no damage can stop a run for ever or change what it computes. Nor can one fill the memory: what is
larger than any of ours, or packed smaller than it is, is not read.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import read_regular, write_atomically
from benchmarks.records.store import json_text

_DIGEST_BYTES = 32
# The largest is that of a merged ResNet-50 with its optimizer, about 2 GB.
_MOST_BYTES = 8 << 30
# The array of the archive that holds JSON.
_CONTENTS = "contents"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], contents: Any) -> None:
    """Write a file as a whole.

    Args:
        path: of the file; its folder exists.
        arrays: by name, none of them of Python objects.
        contents: what JSON can hold.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{_CONTENTS: np.frombuffer(json_text(contents).encode(), "uint8")})
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path, tell: Callable[[str], None]) -> tuple[dict[str, np.ndarray], Any] | None:
    """The arrays and the contents of a file; None where there is none that is whole.

    Args:
        path: of the file.
        tell: is given a sentence about a file that is moved aside.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # damage shows as any of them: of the system, of the archive, of a header's syntax, of memory
        move_aside(path, error, tell)
        return None


def _read(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    content = read_regular(path, _MOST_BYTES)
    if hashlib.sha256(memoryview(content)[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        raise ValueError("its hash is that of another content")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(member.file_size != member.compress_size for member in archive.infolist()):
            raise ValueError("its arrays are compressed, and could be of any size")
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = dict(found)
    return arrays, json.loads(arrays.pop(_CONTENTS).tobytes())


def move_aside(path: Path, error: object, tell: Callable[[str], None]) -> None:
    """Take a damaged file out of the way, but keep it, in place of one that was moved before.

    Args:
        path: of the file.
        error: what is wrong with it.
        tell: is given the sentence that says so.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, aside)
        where = f"It is now {aside.name}; what it held is computed again."
    except OSError as second:
        where = f"It cannot be moved aside: {second.strerror}. Delete it."
    tell(f"{path} is damaged: {error}. {where}")


def numbered(kind: str, arrays: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """A list of arrays under names of their own, for `write_arrays`; see `listed`."""
    return {f"{kind} {i}": array for i, array in enumerate(arrays)}


def listed(kind: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The list of arrays that `numbered` put under that kind of name."""
    return [arrays[f"{kind} {i}"] for i in range(sum(name.startswith(f"{kind} ") for name in arrays))]
