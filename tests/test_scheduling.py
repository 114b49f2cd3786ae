"""What `scheduling.py` says of the tests."""

from benchmarks.checkout import ROOT
from tests.scheduling import LONGEST, SHARED, place_of, unit_of


def test_every_unit_is_made_of_files_that_exist():
    files = [*SHARED, *(unit for unit in LONGEST if unit not in SHARED.values())]
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert set(SHARED.values()) - {"sources"} <= set(LONGEST) and len(set(LONGEST)) == len(LONGEST)


def test_a_unit_is_a_file_or_the_files_that_share_networks():
    assert unit_of("tests/test_docs.py::test_a[x::y]") == "tests/test_docs.py"
    for file in ("surgery/test_verbs.py", "merging/test_widths.py"):
        assert unit_of(f"tests/kmerge/{file}::test_a") == "zoo"
    assert place_of("tests/kmerge/surgery/test_verbs.py::test_a") == 0 < place_of("tests/test_house.py::test_a")
