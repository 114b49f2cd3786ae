"""When merging pays: the cells of a folder, the line through them, and that the library forecasts by the published one."""

import csv
import dataclasses

import numpy as np
import pytest

from benchmarks.checkout import ROOT
from benchmarks.studies import law
from kmerge.merging.outlook import LAW

RUNS = ROOT / "results" / "published" / "fashion_mnist"


def line_of(path, name):
    with open(path, newline="") as file:
        row = next(row for row in csv.DictReader(file) if row.pop("fitted") == name)
    return {key: float(value) for key, value in row.items()}


def test_the_line_is_that_of_least_squares_with_its_intervals():
    x = np.array([-3.0, -2.0, 0.0, 1.0, 4.0])
    y = 0.5 + 0.6 * x + np.array([0.1, -0.2, 0.15, 0.05, -0.1])
    line = law.line_through(list(zip(x, y, strict=True)))
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - intercept - slope * x
    residual = np.sqrt((rest**2).sum() / 3)
    half = 3.182446305284263 * residual / np.sqrt(((x - x.mean()) ** 2).sum())  # Student's t, 3 degrees of freedom
    assert (line.cells, line.mean, line.squares) == (5, 0.0, 30.0)
    found = (line.slope, line.intercept, line.residual, line.slope_low, line.slope_high)
    assert found == pytest.approx((slope, intercept, residual, slope - half, slope + half))


def test_a_cell_is_what_the_published_rows_say():
    (cell, disjoint), *others = law.cells_of(RUNS)
    assert not others and (cell.name, cell.n, cell.merging, cell.examples) == ("fashion_mnist", 10, "l0_merge_fade", 6000)
    assert (round(cell.x, 2), round(cell.y, 2)) == (-2.94, -1.18)  # 82.93 - 85.87, 84.68 - 85.87
    assert (cell.rival, round(cell.ahead, 2)) == ("one_model_equal_compute", -1.52)
    assert disjoint is not None and disjoint[0] != cell.x


def test_papers_are_cells():
    found = {cell.name: (round(cell.x, 1), round(cell.y, 1)) for cell in law.published_cells()}
    assert found["imagewoof_resnet18"] == (-0.7, 1.3)


def test_the_library_forecasts_by_the_published_line():
    published = line_of(ROOT / "results" / "published" / "law" / "law.csv", "restart_rise")
    expected = {field.name: published[field.name] for field in dataclasses.fields(LAW)}
    assert dataclasses.asdict(LAW) == pytest.approx(expected, rel=1e-4)


def test_cells_whose_epochs_were_not_kept_take_them_from_an_earlier_file(tmp_path, capsys):
    """These folders, as published, have no epochs; the published line has."""
    published, folders = ROOT / "results" / "published", ("fashion_mnist_mlp", "early_digits", "fashion_mnist_narrow")
    arguments = [*(str(published / name) for name in folders), "--out", str(tmp_path)]
    assert law.main(arguments) == 0
    assert "restart_rise" not in capsys.readouterr().out
    assert law.main([*arguments, "--earlier", str(published / "law" / "cells.csv")]) == 0
    found, expected = (line_of(folder / "law.csv", "restart_rise") for folder in (tmp_path, published / "law"))
    assert found == pytest.approx(expected)


def test_an_earlier_file_that_is_another(tmp_path, capsys):
    assert law.main([str(RUNS), "--out", str(tmp_path), "--earlier", str(RUNS / "summary.csv")]) != 0
    assert "expected a cells.csv that this command wrote" in capsys.readouterr().err


def test_too_few_cells_are_no_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(law, "published_cells", lambda: iter(()))
    assert law.main([str(RUNS), "--out", str(tmp_path)]) != 0
    assert "expected at least 3 cells for a line, received 1" in capsys.readouterr().err
