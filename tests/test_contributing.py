"""What CONTRIBUTING.md, the page on where things are, the table of baselines and CITATION.cff name exists."""

import re

import pytest
import yaml

from benchmarks.checkout import ROOT

PAGE = (ROOT / "docs" / "development" / "where_things_are.md").read_text()
WHERE = re.findall(r"^\| .* \| .* \| `(.*)` \| `(.*)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("path, name", WHERE)
def test_things_are_where_the_page_says(path, name):
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", (ROOT / path).read_text())


def test_the_page_on_where_things_are_answers_ten_questions_or_more():
    assert len(set(WHERE)) >= 10


def test_the_paths_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:kmerge|baselines|benchmarks|tests|results)/[\w./]+)`", text) + re.findall(r"\]\(([^)#]+)", text)
    assert len(paths) > 10 and not [path for path in paths if not (ROOT / path).exists()]


def test_the_files_in_the_table_of_baselines_exist():
    paths = re.findall(r"`([\w./]+\.py)`", (ROOT / "baselines" / "README.md").read_text())
    wrong = [path for path in paths if not ((ROOT / "baselines" / path).exists() or (ROOT / path).exists())]
    assert len(paths) > 10 and not wrong, wrong


def test_what_to_cite_is_this_version_and_the_five_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r"^version = (.*)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    assert (citation["cff-version"], citation["version"], citation["license"]) == ("1.2.0", version, "MIT")
    assert citation["authors"] == [{"name": "The kmerge authors"}]
    assert [bool(each["title"] and each["authors"] and each["year"]) for each in citation["references"]] == [True] * 5
