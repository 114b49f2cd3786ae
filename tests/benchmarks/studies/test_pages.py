"""Pages that are read from the code are current, and the picture of the floor plan says what the imports say."""

import json
import re

import pytest

from benchmarks.checkout import ROOT
from benchmarks.studies import contents, floor_plan, notebooks
from benchmarks.studies.structure import structures
from tests.documents import blocks

PAGES = [(contents, "docs/benchmark"), (floor_plan, "docs/development"), (notebooks, "examples")]


@pytest.mark.parametrize("module, folder", PAGES)
def test_written_pages_are_current(module, folder, tmp_path):
    assert module.main(["--out", str(tmp_path)]) == 0
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    stale = [name for name, text in written.items() if (ROOT / folder / name).read_text("utf-8") != text]
    assert written and not stale, f"run: make pages; {stale} in {folder}"


def test_notebooks_hold_the_code_of_guides_which_tests_run():
    for guide, name in notebooks.NOTEBOOKS.items():
        document = ROOT / notebooks.GUIDES / f"{guide}.md"
        found = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text("utf-8"))
        code = ["".join(cell["source"]) + "\n" for cell in found["cells"] if cell["cell_type"] == "code"]
        assert code == [block.text for block in blocks(document, "python")] and len(code) > 4
        prose = "".join("".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "markdown")
        for address in re.findall(r"\]\((?!\w+:|#)([^)#]+)", prose):
            assert (ROOT / "examples" / address).exists(), address
        assert not any(cell.get("outputs") for cell in found["cells"])


def test_every_suite_and_strategy_is_on_its_page():
    pages = {name: (ROOT / "docs" / "benchmark" / name).read_text() for name in contents.PAGES}
    assert not [name for name in contents.SUITES if f"| `{name}` | " not in pages["suites.md"]]
    assert not [name for name in contents.STRATEGIES if f"`{name}`" not in pages["strategies.md"]]


def test_the_arrows_that_are_drawn_lead_where_all_of_them_lead():
    def reached(arrows, room):
        return arrows[room].union(*(reached(arrows, other) for other in arrows[room]))

    for structure in structures().values():
        drawn = floor_plan.needed_arrows(structure.arrows)
        assert all(reached(drawn, room) == reached(structure.arrows, room) for room in structure.arrows)
        assert sum(map(len, drawn.values())) < sum(map(len, structure.arrows.values()))


def test_of_two_ways_to_a_room_the_longer_one_is_drawn():
    assert floor_plan.needed_arrows({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
