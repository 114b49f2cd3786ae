"""Reading files of suites and campaigns: TOML or JSON of a moderate size, and nothing that hangs or fills the memory."""

import json
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.command_line import shown
from benchmarks.suites.values import Place, SuiteError

# The largest file that is read, and of TOML the longest line: `tomllib` takes hours over a key of many parts.
_MOST_BYTES, _MOST_OF_A_LINE = 100_000, 3_000


def content_of(path: Path, what: str) -> dict[str, Any]:
    """What a file of TOML or JSON says, unchecked.

    Args:
        path: of the file.
        what: the file is to be, as "a suite's file".

    Raises:
        SuiteError: if it cannot be read.
    """
    read = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        content = read(_text_of(path))
    except (OSError, ValueError, RecursionError) as error:  # of Unicode, TOML, JSON, or numbers of thousands of digits
        why = getattr(error, "strerror", None) or error
        raise SuiteError(f"expected {what}, received {shown(str(path))}, which cannot be read: {why}") from error
    if not isinstance(content, dict):
        Place(str(path)).refuse("a table of keys", content)
    return content


def _text_of(path: Path) -> str:
    """The text of a file of a suite's size, which is no pipe that nobody ends."""
    if not path.is_file():
        raise OSError("there is no such file")
    if path.stat().st_size > _MOST_BYTES:
        raise OSError(f"it has more than {_MOST_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml" and max(map(len, text.splitlines()), default=0) > _MOST_OF_A_LINE:
        raise OSError(f"a line of it has more than {_MOST_OF_A_LINE} characters")
    return text
