"""What the command line imports before anything is trained: a list or a refusal must come at once."""

import json
import re
import subprocess
import sys

from benchmarks.suites.suite import SUITES
from tests import launches

BACKENDS_AND_MORE = {"keras", "tensorflow", "jax", "torch", "pandas", "scipy", "matplotlib"}
CALLS = """
import json, sys
from benchmarks import run
for arguments in json.loads(sys.argv[1]):
    try:
        status = run.main(arguments)
    except SystemExit as end:
        status = end.code
    print(json.dumps([status, sorted(name for name in sys.modules if "." not in name)]))
"""


def test_the_list_as_a_user_calls_it_imports_neither_keras_nor_a_backend_and_names_all():
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.run", "--list"]
    process = subprocess.run(command, cwd=launches.ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == 0, process.stderr[-500:]
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", process.stderr, re.MULTILINE))
    assert "argparse" in imported and not imported & BACKENDS_AND_MORE
    for name in (*SUITES, "l0_merge", "one_model", "best_of_three"):
        assert re.search(rf"^  {name}\b", process.stdout, re.MULTILINE)


def test_what_trains_nothing_imports_neither_keras_nor_a_backend(tmp_path):
    calls = [
        (["--help"], 0),
        (["--suite", "sine", "--dry-run", "--strategy", "l0_merge", "one_model"], 0),
        (["--suite", "sin"], 2),
        (["--suite", "sine", "--strategy", "nobody"], 2),
        (["--suite", "sine", "--seeds", "9-1"], 2),
    ]
    arguments = json.dumps([[*each, "--out", str(tmp_path / "out")] for each, _ in calls])
    command = [sys.executable, "-c", CALLS, arguments]
    process = subprocess.run(command, cwd=launches.ROOT, capture_output=True, text=True, check=False, timeout=60)
    told = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]
    assert [status for status, _ in told] == [status for _, status in calls], process.stderr[-500:]
    assert "argparse" in told[-1][1] and not set(told[-1][1]) & BACKENDS_AND_MORE
    assert not (tmp_path / "out").exists()
