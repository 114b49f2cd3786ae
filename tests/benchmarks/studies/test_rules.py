"""The table of layers and operations is whole and current."""

from benchmarks.checkout import ROOT
from benchmarks.studies.rules import PAGE, main, page, rows
from kmerge.rules import as_it_is


def test_each_layer_and_operation_of_keras_has_a_rule_or_a_reason():
    assert not [name for name, rule, _ in rows() if not rule]


def test_no_reason_is_given_for_what_keras_lacks_or_a_rule_follows():
    opaque = {name.rpartition(".")[2] for name, rule, _ in rows() if rule == "as it is"}
    assert not (as_it_is.LAYERS.keys() | as_it_is.OPERATIONS.keys()) - opaque


def test_the_page_in_the_docs_is_current(tmp_path):
    assert main(["--out", str(tmp_path)]) == 0
    written, committed = (tmp_path / PAGE).read_text(), (ROOT / "docs" / "concepts" / PAGE).read_text()
    assert written == page() == committed, "run: python -m benchmarks.studies.rules --out docs/concepts"
