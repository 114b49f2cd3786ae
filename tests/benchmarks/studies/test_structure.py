"""The structure that is read from imports, on a made-up tree."""

import pytest

from benchmarks.studies import structure

FILES = {
    "kmerge/__init__.py": "from kmerge.verbs import select",
    "kmerge/graph.py": "import numpy",
    "kmerge/rules/__init__.py": "from kmerge.rules.lookup import rule_of",  # the face of a folder
    "kmerge/rules/lookup.py": "from ..graph import trace",
    "kmerge/verbs.py": "from kmerge.rules import rule_of",
    "baselines/merging/merge.py": "def merge():\n    import kmerge.verbs\n    from baselines.protocol import task",  # late
    "baselines/protocol/task.py": "from keras import Model",
    "benchmarks/run.py": "from benchmarks import report\nfrom baselines.merging.merge import merge",
    "benchmarks/report.py": "def table():\n    from benchmarks.run import main",  # a circle, by a late import
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_rooms_arrows_and_floors(root):
    kmerge = structure.structure_of("kmerge", root)
    assert kmerge.arrows == {"__init__": {"verbs"}, "graph": set(), "rules": {"graph"}, "verbs": {"rules"}}
    assert kmerge.files == {"__init__": 1, "graph": 1, "rules": 2, "verbs": 1}
    assert kmerge.floors() == {"graph": 1, "rules": 2, "verbs": 3, "__init__": 4}
    assert str(kmerge).splitlines()[4:] == [
        "floor 2",
        "    rules (2 files) -> graph",
        "floor 1",
        "    graph -> nothing",
    ]


def test_an_import_inside_of_a_function_counts_and_one_of_another_package_is_no_arrow(root):
    assert structure.structure_of("baselines", root).arrows == {"merging": {"protocol"}, "protocol": set()}


def test_a_circle_has_no_floors(root):
    benchmarks = structure.structure_of("benchmarks", root)
    assert benchmarks.arrows == {"run": {"report"}, "report": {"run"}}
    with pytest.raises(RecursionError):
        benchmarks.floors()


def test_an_import_of_a_face_leads_to_it_and_one_of_nothing_nowhere(root):
    trees = structure.read_files(root, *structure.ORDER)
    (found,) = structure.imported_files(root / "kmerge" / "verbs.py", trees, root)
    assert found[0] == root / "kmerge" / "rules" / "__init__.py"
    (root / "kmerge" / "graph.py").write_text("from kmerge import nothing_here\nfrom kmerge.nowhere import thing")
    trees = structure.read_files(root, *structure.ORDER)
    files = [file for file, _ in structure.imported_files(root / "kmerge" / "graph.py", trees, root)]
    assert files == [root / "kmerge" / "__init__.py", None]  # a name of the package's own, and a room that is not there


def test_the_command_prints_each_package(root, capsys):
    (root / "benchmarks" / "report.py").write_text("")
    assert structure.main(["--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "kmerge: 4 rooms on 4 floors, 3 arrows\nfloor 4\n    __init__ -> verbs" in out
    assert "benchmarks: 2 rooms on 2 floors, 1 arrows" in out
