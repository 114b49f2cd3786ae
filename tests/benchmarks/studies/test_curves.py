"""The command of the curves: rows, files, resuming, and refusals before anything is trained."""

import csv
import re
import subprocess
import sys

import pytest

from benchmarks.checkout import ROOT
from benchmarks.studies import curves
from benchmarks.suites.suite import FOLDER
from tests.programs import without_programs

SHORT = ["--scale", "0.005", "--examples", "64"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One launch for all tests: a seed of sine, the student of a big teacher among the curves."""
    folder = tmp_path_factory.mktemp("curves")
    how = ["--suite", "sine", "--seeds", "1", *SHORT, "--percentages", "0", "90"]
    how += [
        "--methods",
        "random",
        "class_blind",
        "--finetune",
        "1",
        "--distilled",
        "--cache-dir",
        str(folder / "cache"),
        "--out",
        str(folder),
    ]
    with without_programs():
        assert curves.main(how) == 0
    return how, folder / "sine"


def rows_of(folder):
    with open(folder / "curves.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_seed_curve_method_and_percentage(done):
    _, folder = done
    rows = rows_of(folder)
    assert tuple(rows[0]) == curves.COLUMNS
    lines = [("trained", "random"), ("trained", "class_blind"), ("distilled", "class_blind")]
    expected = [("100", *line, percentage) for line in lines for percentage in ("0.0", "90.0")]
    assert [(row["seed"], row["curve"], row["method"], row["percentage"]) for row in rows] == expected
    for row in rows:
        whole, zeros = row["percentage"] == "0.0", int(row["parameters"]) - int(row["nonzero"])
        assert row["finetune_epochs"] == "1" and float(row["tuned"]) > 0 and float(row["seconds"]) > 0
        assert (int(row["parameters"]), zeros) == (301, 0) if whole else int(row["nonzero"]) < 301
        # A student is held against its teacher, of twice the width.
        reference = 601 if row["curve"] == "distilled" else 301
        assert float(row["compression"]) == pytest.approx(100 * (1 - int(row["nonzero"]) / reference))


def test_figures_are_an_image_and_vectors(done):
    _, folder = done
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    pdf = (folder / "curves.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Subtype /Image" not in pdf and b"CreationDate" not in pdf


def test_the_same_command_again_computes_nothing(done, monkeypatch, capsys):
    how, folder = done
    before = {path.name: path.read_bytes() for path in folder.glob("curves.*")}
    monkeypatch.setattr(curves, "_rows", None)
    assert curves.main(how) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("curves.*")} == before
    text = capsys.readouterr().out
    assert "| curve | what | 0 % | 90 % |" in text and "| distilled, class_blind | and fine-tuned |" in text
    found = re.search(r"\| random \| parameters \| 301 \| (\d+) \|", text)
    assert found and int(found[1]) < 100


def test_the_table_says_mean_and_range_over_seeds():
    sizes = ((0.5, 10_000), (0.7, 20_000), (0.9, 60_000))
    rows = [
        {"curve": "trained", "method": "random", "percentage": 50.0, "removed": accuracy, "nonzero": parameters}
        for accuracy, parameters in sizes
    ]
    header, _, removed, left = curves.table(rows).splitlines()
    assert header == "| curve | what | 50 % |"
    assert removed == "| random | pruned | 0.700 (0.500 to 0.900) |"
    assert left == "| random | parameters | 30,000 (10,000 to 60,000) |"


def test_sizes_of_an_untrained_teacher(tmp_path):
    teacher = """
[teacher]
epochs = 1

[teacher.architecture]
name = "mlp"
hidden = [20, 30]

[teacher.phase]
learning_rate = 0.1
momentum = 0.9
nesterov = false
batch_size = 32
drops = []
drop_factor = 0.1
"""
    (tmp_path / "mine.toml").write_text((FOLDER / "sine.toml").read_text() + teacher)
    how = ["--suite", str(tmp_path / "mine.toml"), "--network", "teacher", "--untrained", "--seeds", "1", *SHORT]
    how += ["--percentages", "0", "97", "--methods", "class_blind", "--out", str(tmp_path)]
    assert curves.main(how) == 0
    whole, few = rows_of(tmp_path / "mine_teacher")
    assert whole["parameters"] == str(40 + 20 * 30 + 30 + 31) and whole["tuned"] == "" == few["tuned"]
    assert int(few["removed_units"]) > 0 and int(few["parameters"]) < int(whole["parameters"]) / 2
    assert not list((tmp_path / "mine_teacher" / "stages").glob("*/stage.npz")), "nothing was trained"


@pytest.mark.parametrize(
    "how, status, message",
    [
        (["--suite", "sines"], 2, "received 'sines'. Did you mean sine"),
        (["--suite", "sine", "--percentages", "50", "100"], 2, "at least 0 and below 100, received 100"),
        (["--suite", "sine", "--methods", "all"], 2, "one of .*class_blind.*received 'all'"),
        (["--suite", "sine", "--finetune", "-1"], 2, "--finetune: expected a whole number up to 999999999, received '-1'"),
        (["--suite", "sine", "--untrained", "--finetune", "1"], 2, "leave out --finetune"),
        (["--suite", "sine", "--distilled", "--network", "teacher"], 2, "leave out --untrained and --network teacher"),
        (["--suite", "sine", "--seeds", "none"], 2, "--seeds: expected a number of seeds"),
        (["--suite", "sine", "--scale", "0"], 2, "--scale: expected a number above 0, at most 999999999, received '0'"),
        (["--suite", "sine", "--examples", "20000"], 2, "10000 training examples; asked for 20000"),
        (["--suite", "robots_lenet", "--data-dir", "nowhere"], 3, r"tfds.load\('cifar10:3.0.2', data_dir='nowhere'"),
    ],
)
def test_refusals_tell_what_to_do(how, status, message, tmp_path, capsys):
    try:
        found = curves.main([*how, "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")])
    except SystemExit as refused:
        found = refused.code
    assert found == status
    assert re.search(message, capsys.readouterr().err)


def test_help_comes_without_keras():
    code = "import sys, benchmarks.studies.curves; print({'keras', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
