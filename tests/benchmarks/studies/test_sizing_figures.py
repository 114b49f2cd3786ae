"""Figures of auto-sizing: every number in the CSV, both files drawn, what was trained is not trained again."""

import csv

import numpy as np
import pytest

from benchmarks.studies.sizing_figures import FIGURES, draw, easy_part, main
from benchmarks.suites.suite import FOLDER, load_suite
from tests.programs import without_programs

SMALL = ["--epochs", "1", "--examples", "48", "--alphas", "1e-4", "--starts", "2", "4"]


def run(folder, *arguments):
    return main([*arguments, *SMALL, "--out", str(folder), "--cache-dir", str(folder / "cache")])


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_all_figures_and_a_second_command_that_trains_nothing(tmp_path, monkeypatch, capsys):
    suite = tmp_path / "mine.toml"
    text = (FOLDER / "das_digits.toml").read_text()
    suite.write_text(text.replace("[100, 100, 100, 100, 100]", "[3, 3, 3, 3, 3]"))
    with without_programs():
        assert run(tmp_path, "--suite", str(suite)) == 0
    folder = tmp_path / "mine"
    rows = {figure: read(folder / f"{figure}.csv") for figure in FIGURES}
    assert {name: len(of) for name, of in rows.items()} == {"alpha": 5, "starts": 2 * 5, "drift": 3 * 5}
    for figure in FIGURES:
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert all(int(row["trained"]) >= int(row["units"]) >= 1 for row in rows[figure])
    assert [row["trained"] for row in rows["alpha"]] == ["23"] * 5
    assert [row["trained"] for row in rows["starts"]] == ["22"] * 5 + ["24"] * 5
    drift = [(row["epoch"], row["space"], int(row["trained"]), int(row["units"])) for row in rows["drift"]]
    assert [epoch for epoch, *_ in drift] == ["1"] * 5 + ["2"] * 5 + ["3"] * 5
    for before, after in zip(drift, drift[5:], strict=False):
        assert after[1] == before[1] and after[2] == before[3] + 20  # each part goes on with the sizes of the last
    assert "alpha 0.0001, seed 100: {'conv_1': " in capsys.readouterr().out
    written = {path: path.read_bytes() for path in folder.glob("*.*")}
    monkeypatch.setattr("baselines.sizing.auto_sizing.AutoSizing.train", None)
    assert run(tmp_path, "--suite", str(suite)) == 0
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == written


def test_another_strategy_sizes_the_networks(tmp_path):
    suite = tmp_path / "mine.toml"
    suite.write_text((FOLDER / "das_digits.toml").read_text().replace("[100, 100, 100, 100, 100]", "[3, 3, 3, 3, 3]"))
    units = {}
    for strategy in ("auto_sizing", "auto_sizing_l21"):
        with without_programs():
            assert run(tmp_path / strategy, "starts", "--suite", str(suite), "--strategy", strategy) == 0
        rows = read(tmp_path / strategy / "mine" / "starts.csv")
        assert {row["strategy"] for row in rows} == {strategy}
        units[strategy] = sum(int(row["units"]) for row in rows)
    assert units["auto_sizing_l21"] > units["auto_sizing"]  # which prunes them at once


def test_easy_parts_are_as_long_and_easier(tmp_path):
    digits = load_suite("das_digits").task(0, None, tmp_path, examples=200)
    puzzle = load_suite("das_puzzle").task(0, None, tmp_path, examples=200)
    for task, limit in ((digits, 2), (puzzle, np.max(puzzle.data.y_train) / 2)):
        easy = easy_part(task.data, task.metric)
        assert len(easy.x_train) == len(easy.y_train) == 200 and len(easy.x_val) == len(easy.y_val) < 200
        assert max(np.max(easy.y_train), np.max(easy.y_val)) <= limit < np.max(task.data.y_train)
        assert easy.x_test is easy.y_test is None
        pairs = {(x.tobytes(), y.tobytes()) for x, y in zip(task.data.x_train, task.data.y_train, strict=True)}
        assert {(x.tobytes(), y.tobytes()) for x, y in zip(easy.x_train, easy.y_train, strict=True)} < pairs


def test_the_last_convolution_is_drawn():
    head = {"figure": "starts", "suite": "s", "strategy": "auto_sizing", "examples": None, "seed": 1, "value": 5, "trained": 7}
    rows = [
        {**head, "epoch": epoch, "space": space, "units": epoch, "val_metric": 0.5, "loss": 1.0}
        for epoch in (1, 2)
        for space in ("conv_1", "conv_4", "dense_1")
    ]
    files = draw("starts", rows, 2, "accuracy")
    assert files == draw("starts", rows, 2, "accuracy")
    others = [row for row in rows if row["space"] == "conv_4"]
    assert files["png"] == draw("starts", others, 2, "accuracy")["png"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--suite", "sine"], r"suite sine: expected a table [sizing], which auto_sizing needs"),
        (["--suite", "das"], "received 'das'"),
        (["--suite", "das_digits", "--strategy", "static_a"], "expected one that sizes the suite's network, of auto_sizing, "),
    ],
)
def test_a_suite_that_cannot_be_drawn(tmp_path, capsys, arguments, message):
    assert run(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_network_without_free_widths_has_no_starts(tmp_path):
    with pytest.raises(SystemExit, match="resnet of suite digits has no widths `hidden`"):
        run(tmp_path, "starts", "--suite", "digits")
