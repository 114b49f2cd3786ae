"""Tables: no cell of theirs is a formula, and they are read as they were written."""

import csv
import random

import pytest

from benchmarks.records.tables import read_csv, write_csv

TEXTS = ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''-x", "'plain", "=\r\n,\"'", "a\rb", " =1", "b"]
NUMBERS = [-1, -1.5, 1e-30, "-1", "+1.5e-3", "-.5"]
LETTERS = "'=+-@\t\r\n,\";ax1 é\U0001f600"


def _texts():
    draw = random.Random(0)
    return TEXTS + ["".join(draw.choices(LETTERS, k=draw.randint(1, 6))) for _ in range(300)]


def test_cells_are_no_formulas_and_come_back(tmp_path):
    texts = _texts()
    write_csv(tmp_path / "a.csv", ("text", "more"), [{"text": text, "more": [text]} for text in texts])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        raw = [row["text"] for row in csv.DictReader(file)]
    head, *rows = read_csv(tmp_path / "a.csv")
    assert head == ["text", "more"] and [row[0] for row in rows] == texts
    assert [text for text in raw if text[0] in "=+-@\t\r\n" and not text.strip("+-").isdigit()] == []


def test_numbers_stay_numbers(tmp_path):
    write_csv(tmp_path / "a.csv", ("number",), [{"number": number} for number in NUMBERS])
    assert (tmp_path / "a.csv").read_text().split() == ["number", *map(str, NUMBERS)]


def test_tables_are_as_they_were_and_bytes_are_those_of_python(tmp_path):
    rows = [{"a": None, "b": 'x "y", z'}, {"a": 0.1, "b": {"k": [1]}}, {"a": True, "b": "two\nlines"}]
    write_csv(tmp_path / "a.csv", ("a", "b"), rows)
    expected = 'a,b\n,"x ""y"", z"\n0.1,"{""k"": [1]}"\nTrue,"two\nlines"\n'
    assert (tmp_path / "a.csv").read_text() == expected
    with pytest.raises(ValueError, match="a.csv: expected rows of a, received b"):
        write_csv(tmp_path / "a.csv", ("a",), rows)


def test_a_cell_of_a_million_letters_and_half_a_surrogate_are_written(tmp_path):
    write_csv(tmp_path / "a.csv", ("a",), [{"a": "x" * 1_000_000}, {"a": "\ud800"}, {"a": "after"}])
    assert [cells[0][:6] for cells in read_csv(tmp_path / "a.csv")] == ["a", "xxxxxx", "\\ud800", "after"]
