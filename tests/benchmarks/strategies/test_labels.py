"""Readable names and papers of the strategies, without an import of Keras."""

import re

from benchmarks.reports.latex import BIBLIOGRAPHY
from benchmarks.strategies.labels import citation_of, label_of
from benchmarks.strategies.registry import STRATEGIES


def test_each_strategy_has_a_label_of_its_own_and_a_paper_that_is_listed():
    labels = {name: label_of(name) for name in STRATEGIES}
    assert not [name for name, label in labels.items() if label == name or "_" in label or len(label) > 45]
    assert len(set(labels.values())) == len(labels)
    listed = re.findall(r"^@\w+\{(\w+),$", BIBLIOGRAPHY.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert {citation_of(name) for name in STRATEGIES} - {None} == set(listed) - {"agarwal2021"}


def test_what_is_not_registered_is_called_by_its_name():
    assert label_of("somebody_else's") == "somebody_else's" and citation_of("somebody_else's") is None
