"""The scripts in examples/ run at a small size."""

import contextlib
import importlib
import re
import sys
import warnings

import keras
import pytest

from benchmarks.checkout import ROOT
from tests.programs import without_programs

SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem not in ("__init__", "digits"))

# What a script has for one that trains for long, and what it runs with here.
SMALLER = {
    r"^EPOCHS = [89]$": "EPOCHS = 3",  # gates need some to be decided
    r"^EPOCHS = [^3]\d*$": "EPOCHS = 1",
    r"latency=0.6": "latency=10**9",  # no test hangs on a time
    r"^STEPS = \d+": "STEPS = 2",
    r"^WIDTH = \d+": "WIDTH = 48",
    r"^KILLED_IN = \d+": "KILLED_IN = 0",
    r'^WEIGHTS, SIZE, EPOCHS, EXAMPLES = "imagenet", .*': "WEIGHTS, SIZE, EPOCHS, EXAMPLES = None, 32, 1, 32",
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_what_it_found(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr(importlib.import_module("examples.digits"), "TRAIN", 64)
    if path.stem == "merge_on_jax" and keras.backend.backend() != "jax":
        monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    text = path.read_text()
    for long, short in SMALLER.items():
        text = re.sub(long, short, text, flags=re.MULTILINE)
    # Cards measure the time of predictions, many of them.
    programs = contextlib.nullcontext() if path.stem == "from_file_to_file" else without_programs()
    with programs, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so short a training leaves gates undecided
        exec(compile(text, path, "exec"), {"__name__": "example"})
    assert re.search(r"\d", capsys.readouterr().out)


def test_each_example_says_how_it_is_run():
    assert len(SCRIPTS) == 12
    for path in SCRIPTS:
        assert f"python -m examples.{path.stem}" in path.read_text()
