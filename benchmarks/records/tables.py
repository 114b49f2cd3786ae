"""Tables as CSV files: written whole, safe to open in a spreadsheet, and read back as they were.

A spreadsheet takes a cell that begins with = + - @, a tab or the end of a line for a formula, and would run what a stranger
named so. Such texts are written with an apostrophe before them, as people type them, which reading takes away again.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import open_regular, write_atomically
from benchmarks.records.store import json_text

# Also where apostrophes stand before it already, so that reading knows which are ours.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
# The longest cell that is read, in characters; Python's own limit is 128 KiB, and then no further row is read.
_LONGEST = 100_000_000


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with exactly these columns; mappings and lists become JSON, None an empty cell.

    Args:
        path: of the file; its folder exists.
        columns: their names, the head.
        rows: by column.

    Raises:
        OSError: when there is no room; the old file then stands as it was.
        ValueError: if a row has a column that is none of these.
    """
    lines = [_line(columns)]
    for row in rows:
        if unknown := [name for name in row if name not in columns]:
            raise ValueError(f"{path.name}: expected rows of {', '.join(columns)}, received {', '.join(unknown)}.")
        lines.append(_line([_cell(row.get(name)) for name in columns]))
    write_atomically(path, "".join(lines))


def read_csv(path: Path) -> Iterator[list[str]]:
    """The rows of a table as texts, the head first.

    Raises:
        OSError, csv.Error: if it cannot be read; bytes that are no text are read as escapes.
    """
    csv.field_size_limit(_LONGEST)
    with io.TextIOWrapper(open_regular(path), "utf-8", "backslashreplace", newline="") as file:
        for cells in csv.reader(file):
            yield [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in cells]


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json_text(value)
    if isinstance(value, str) and _FORMULA.match(value) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None


def _line(cells: Sequence[Any]) -> str:
    """A row; Python quotes a carriage return only where it ends lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2] + "\n"
