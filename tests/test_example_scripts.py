"""The scripts in examples/ run at a small size."""

import importlib
import re
import sys
import warnings
from functools import partial

import keras
import pytest
from sklearn.datasets import load_digits

import kmerge
from benchmarks.checkout import ROOT
from tests.documents import short_mobilenet
from tests.programs import without_programs

SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem not in ("__init__", "digits"))

# What a script has for one that trains for long, and what it runs with here.
SMALLER = {
    r"^EPOCHS = [89]$": "EPOCHS = 3",  # gates need some to be decided
    r"^EPOCHS = [^3]\d*$": "EPOCHS = 1",
    r"latency=0.6": "latency=10**9",  # no test hangs on a time
    r"^STEPS = \d+": "STEPS = 2",
    r"^WIDTH = \d+": "WIDTH = 48",
    r"\(2_000, LENGTH\)": "(200, LENGTH)",
    r"\b1600\b": "160",
    r"^KILLED_IN = \d+": "KILLED_IN = 0",
    r'^WEIGHTS, SIZE, EPOCHS, EXAMPLES = "imagenet", .*': "WEIGHTS, SIZE, EPOCHS, EXAMPLES = None, 32, 1, 32",
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_what_it_found(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    digits = importlib.import_module("examples.digits")
    monkeypatch.setattr(digits, "TRAIN", 32)
    monkeypatch.setattr(digits, "load_digits", lambda **how: [array[:64] for array in load_digits(**how)])
    if path.stem == "merge_on_jax" and keras.backend.backend() != "jax":
        monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    text = path.read_text()
    for long, short in SMALLER.items():
        text = re.sub(long, short, text, flags=re.MULTILINE)
    monkeypatch.setattr(keras.applications, "MobileNetV2", short_mobilenet)
    monkeypatch.setattr("kmerge.pruning.measured_budgets._REPETITIONS", 3)
    monkeypatch.setattr("kmerge.commands.card.latency", partial(kmerge.latency, repetitions=1))
    with without_programs(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so short a training leaves gates undecided
        exec(compile(text, path, "exec"), {"__name__": "example"})
    assert re.search(r"\d", capsys.readouterr().out)


def test_each_example_says_how_it_is_run():
    assert len(SCRIPTS) == 12
    for path in SCRIPTS:
        assert f"python -m examples.{path.stem}" in path.read_text()
