"""The checkout: its commit, and hashes that tell one version of the code from another."""

import shutil

import pytest

from benchmarks.checkout import ALL_CODE, ROOT, SIZING_CODE, TRAINING_CODE, commit, digest_of
from benchmarks.studies.structure import imported_files, read_files


def test_commit_names_the_checkout():
    text = commit()
    assert text and "\n" not in text


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the code, to be edited."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ALL_CODE:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("code", [ALL_CODE, TRAINING_CODE, SIZING_CODE], ids=["all", "training", "sizing"])
def test_an_edit_of_any_file_below_a_hashed_folder_changes_the_digest(copy, code):
    before = digest_of(*code, root=copy)
    assert before == digest_of(*code)
    files = [path for place in code for path in (read_files(copy, place) if not place.endswith(".py") else [copy / place])]
    assert len({path.parent for path in files}) >= len(code)
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b"#\n")
        assert digest_of(*code, root=copy) != before, path
        path.write_bytes(content)
    assert digest_of(*code, root=copy) == before


def test_a_new_file_and_a_moved_one_change_the_digest(copy):
    before = digest_of(*TRAINING_CODE, root=copy)
    added = copy / "benchmarks" / "data" / "tfds_builders" / "added.py"
    added.write_text("")
    assert digest_of(*TRAINING_CODE, root=copy) != before
    added.unlink()
    old, new = (copy / "kmerge" / "training" / name for name in ("loop.py", "moved.py"))
    old.rename(new)
    assert digest_of(*TRAINING_CODE, root=copy) != before
    new.rename(old)


def test_code_that_is_not_there_has_no_digest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected Python files below .*kmerge/training, found none"):
        digest_of("kmerge/training", root=tmp_path)


def test_training_code_imports_only_training_code_and_what_does_not_change_results():
    trees = read_files(ROOT, *ALL_CODE)
    # Errors say, costs count, copies are what was copied; what training uses of kmerge beyond `fit` stands in a stage's key.
    names = ("__init__", "errors", "checks", "costs/__init__", "graph", "cloning", "copying", "gates/__init__")
    harmless = {f"kmerge/{name}.py" for name in names} | {"benchmarks/files.py"}  # whole files, or none
    # Words of refusals; and what finds code of one's own, whose hash stands in a run's configuration.
    harmless |= {"benchmarks/command_line.py", "benchmarks/own_code.py"}
    outside = set()
    for path in trees:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(TRAINING_CODE):
            files = (file.relative_to(ROOT).as_posix() for file, _ in imported_files(path, trees, ROOT))
            outside |= {(name, file) for file in files if not file.startswith(TRAINING_CODE) and file not in harmless}
    assert not outside
