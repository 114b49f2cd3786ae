"""The table of benchmarks.studies.pruning; the benchmark itself takes minutes."""

import subprocess
import sys

from benchmarks.checkout import ROOT
from benchmarks.studies.pruning import COLUMNS, METHODS, table
from kmerge.pruning import IMPORTANCES


def test_the_table_says_mean_range_median_and_shortest_time():
    costs = {"parameters": 1_000, "macs": 12_345, "bytes": 20.4}
    rows = {
        "whole network": [{"cut": 90.0} | costs],
        "magnitude": [
            {"cut": cut, "tuned": 95.0, "latency": time, "whole": 2.0, "ratio": time / 2} | costs
            for cut, time in ((40.0, 1.0), (60.0, 9.0), (50.0, 2.0))
        ],
    }
    header, rule, whole, pruned = table(rows).splitlines()
    assert [line.count("|") for line in (header, rule, whole, pruned)] == [len(COLUMNS) + 2] * 4
    assert "| 50.0 (40.0 to 60.0) |" in pruned and "| 95.0 (95.0 to 95.0) |" in pruned
    assert "| 12,345 | 20 | 1.00 | 2.00 | 1.00 |" in pruned
    assert whole.endswith("| 20 |  |  |  |"), "what was not measured is empty"


def test_the_methods_of_the_table_exist():
    assert {options["importance"] for options in METHODS.values()} <= set(IMPORTANCES)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.studies.pruning", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "--seeds" in done.stdout
