"""The two first guides as notebooks: their prose and their code, cell by cell, without outputs.

    python -m benchmarks.studies.notebooks --out examples

Tests run the code of the guides; `tests/benchmarks/studies/test_pages.py` shows that the notebooks have the same.
"""

import json
import re
from collections.abc import Sequence
from posixpath import normpath, relpath
from typing import Any

from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE, command_parser

GUIDES = "docs/guides"
# The notebooks, by the guides that they are made of.
NOTEBOOKS = {"merge_your_first_networks": "merge_two_checkpoints", "prune_pretrained": "prune_and_ship"}
_CODE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s]+)(?=\))")


def cells(guide: str) -> list[dict[str, Any]]:
    """The cells of a guide: prose between its blocks of Python, and these."""
    text = (ROOT / GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    found = []
    for number, part in enumerate(_CODE.split(text)):
        kind = "code" if number % 2 else "markdown"
        if part := (part if number % 2 else _from_examples(part)).strip("\n"):
            cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": part.splitlines(keepends=True)}
            found.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return found


def _from_examples(text: str) -> str:
    """Prose with its links as they lead from examples/."""
    return _LINK.sub(lambda link: relpath(normpath(f"{GUIDES}/{link[1]}"), "examples"), text)


def notebook(guide: str) -> str:
    """The file of a notebook, format 4.5."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells(guide), "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the notebooks; returns the exit status."""
    out = command_parser(__file__, __doc__, "--out", out="examples").parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for guide, name in NOTEBOOKS.items():
        (out / f"{name}.ipynb").write_text(notebook(guide), encoding="utf-8")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
