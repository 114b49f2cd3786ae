"""The benchmark of one-shot fusion: its tables, and a run of seconds."""

import csv
import subprocess
import sys

import pytest

from baselines.fusion.model_fusion import MATCHINGS
from benchmarks.checkout import ROOT
from benchmarks.studies import fusion
from tests.programs import without_programs


def rows(seeds: int, gain: float) -> list[dict]:
    found = []
    for seed in range(seeds):
        for number, name in enumerate(("averaging", "weight matching")):
            row = {"seed": seed, "matching": name, "parent_0": 95.0, "parent_1": 97.0, "fused": 10.0 + seed}
            found.append(row | {"recalibrated": 70.0 + seed + number * (gain + 0.1 * seed), "tuned": 96.0})
    return found


def test_the_table_says_mean_deviation_and_number_of_seeds():
    lines = fusion.table(rows(3, 20.0)).splitlines()
    assert lines[2] == "| the parents | 96.0 (std 1.1, n = 6) | | |"
    assert "| averaging | 11.0 (std 1.0, n = 3) | 71.0 (std 1.0, n = 3) | 96.0 (std 0.0, n = 3) |" in lines
    without = [row | {"recalibrated": ""} for row in rows(3, 20.0)]
    assert "| averaging | 11.0 (std 1.0, n = 3) |  | 96.0" in fusion.table(without)


def test_comparisons_are_paired_and_claim_nothing_of_few_seeds():
    (line,) = (line for line in fusion.comparisons(rows(10, 20.0)).splitlines() if "recalibrated" in line)
    assert line.startswith("| weight matching | and recalibrated | 10 | 20.5 | 20.") and line.endswith("| 0.002 | 0.002 |")
    assert "| 5 | 20.2 |" in fusion.comparisons(rows(5, 20.0)) and "too few seeds" in fusion.comparisons(rows(5, 20.0))


def test_every_matching_has_a_name():
    assert set(fusion.NAMES) == set(MATCHINGS)


@pytest.mark.parametrize("network", ["vgg11_bn", "vgg11"])
def test_a_run_is_written_and_not_repeated(tmp_path, network):
    arguments = ["--out", str(tmp_path), "--seeds", "3-3", "--network", network, "--width", "1", "--examples", "64"]
    arguments += ["--epochs", "1", "--matchings", "none", "weights"]
    with without_programs():
        assert fusion.main(arguments) == 0
    with (tmp_path / "runs.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["seed"], row["matching"]) for row in found] == [("3", "averaging"), ("3", "weight matching")]
    assert all(bool(row["recalibrated"]) == (network == "vgg11_bn") for row in found)
    assert all(0 <= float(row[name]) <= 100 for row in found for name in ("parent_0", "fused", "tuned"))
    written = (tmp_path / "runs.csv").stat().st_mtime_ns
    assert fusion.main(arguments) == 0
    assert (tmp_path / "runs.csv").stat().st_mtime_ns == written
    assert "| weight matching |" in (tmp_path / "summary.md").read_text()
    with pytest.raises(SystemExit) as refused:
        fusion.main([*arguments, "--tuning", "2"])  # the rows of two settings would stand in one table
    assert refused.value.code == 2


def test_the_command_line_needs_no_keras():
    probe = "import sys, benchmarks.studies.fusion as f\ntry: f.main(['--help'])\nfinally: assert 'keras' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--seeds" in done.stdout, done.stderr
