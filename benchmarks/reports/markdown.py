"""Texts and tables of results as Markdown."""

import itertools
import re
from collections.abc import Sequence

from benchmarks.command_line import printable

# The longest text that is shown whole.
_LONGEST = 2000


def one_line(text: object) -> str:
    """A text of somebody's results on one line of Markdown that has an end, with no HTML, link or image in it."""
    line = printable(" ".join(str(text).split()))
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", line).replace("](", "]\\(")


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand under each other in a terminal too; the first row is the head."""
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*cells, fillvalue="")]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
