"""The guide on adding a strategy and a suite, followed in a copy of the repository."""

import os
import shutil
import subprocess
import sys

from benchmarks.checkout import ROOT
from tests.documents import blocks
from tests.launches import hidden, on_jax, table_of


def test_the_guide_adds_a_strategy_and_a_suite(tmp_path):
    for package in ("kmerge", "baselines", "benchmarks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    guide = ROOT / "docs" / "benchmark" / "add_a_strategy.md"
    (code,) = blocks(guide, "python")
    (line,) = blocks(guide, "text")
    suite, command = blocks(guide, "bash")
    (tmp_path / "baselines" / "single" / "smaller_weights.py").write_text(code.text)
    strategies = tmp_path / "benchmarks" / "strategies" / "registry.py"
    marker = '        "ensemble": ('
    assert strategies.read_text().count(marker) == 1
    strategies.write_text(strategies.read_text().replace(marker, line.text + marker))
    subprocess.run(["bash", "-ec", suite.text], cwd=tmp_path, check=True)
    listed = _run(tmp_path, [sys.executable, "-m", "benchmarks.run", "--list"])
    assert "smaller_weights" in listed and "the sine problem with a hidden layer of 20" in listed
    arguments = command.text.split()
    assert arguments[0] == "python"
    cheaper = ["--examples", "320", "--backend", "jax", "--cache-dir", str(tmp_path / "cache")]
    _run(tmp_path, [sys.executable, *arguments[1:], *cheaper])
    rows = table_of(tmp_path / "results" / "small_sine" / "runs.csv")
    assert {(row["strategy"], row["seed"], row["status"], row["parameters"]) for row in rows} == {
        (strategy, seed, "done", "61") for strategy in ("smaller_weights", "one_model") for seed in ("100", "101")
    }
    assert len({row["epochs"] for row in rows}) == 1


def _run(folder, command):
    environment = os.environ | on_jax() | hidden("matplotlib")
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout
