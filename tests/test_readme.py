"""The README's code runs as printed, and its commands and tables name what exists."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import kmerge
from benchmarks.checkout import ROOT
from kmerge.rules.rule import RULES
from tests.documents import blocks

pytestmark = pytest.mark.both_backends

README = (ROOT / "README.md").read_text()


def table_below(heading):
    """The code names in the first column of the table whose first header cell is `heading`."""
    rows = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)[1]
    return re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)


def layers_of(model):
    return [(layer.name, [weight.shape for weight in layer.get_weights()]) for layer in model.layers]


def benchmarks(*arguments, module="run"):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def test_the_four_lines_of_the_first_screen_run_on_any_two_models():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return np.random.default_rng(index).normal(size=(16, 4)).astype("float32"), np.arange(16) % 3

    def trained(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)])

    names = {
        "kmerge": kmerge,
        "model_a": trained(11),
        "model_b": trained(22),
        "optimizer": keras.optimizers.SGD(0.01),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "train": Batches(),
    }
    blocks(ROOT / "README.md", "python")[0].run(names)
    assert layers_of(names["student"]) == layers_of(names["model_a"])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the first screen runs on every backend, the rest on one")
def test_the_python_code_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(ROOT / "README.md", "python")[1:]:
        block.run(names)
    assert (tmp_path / "student.keras").is_file()
    assert "stem" in capsys.readouterr().out, "the table of channel spaces was printed"


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake (\w+)", README)) <= set(targets)


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^exec make test\b", script, re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_every_option_in_the_readme_exists():
    commands = re.findall(r"python -m benchmarks\.(\w+(?:\.\w+)*)([^\n]*)", README)
    known = {name: options_in(benchmarks("--help", module=name).stdout) for name in {name for name, _ in commands}}
    assert all(options_in(line) <= known[name] for name, line in commands)
    pips = options_in(" ".join(re.findall(r"pip install[^\n`]*", README)))
    assert options_in(README) - pips <= set().union(*known.values())


@pytest.mark.parametrize("heading", ["suite", "strategy"])
def test_every_suite_and_strategy_in_the_readme_exists(heading):
    run = benchmarks("--list")
    assert run.returncode == 0, run.stderr
    assert not [name for name in table_below(heading) if not re.search(rf"\b{name}\b", run.stdout)]


def test_every_public_name_in_the_readme_exists():
    assert set(re.findall(r"\bkmerge\.([A-Za-z_]\w*)", README)) <= set(kmerge.__all__)


def test_the_table_of_layers_names_layers_that_have_a_rule():
    """docs/layers_and_operations.md has all of them."""
    table = README[README.index("| layers | how |") : README.index("Every network of `keras.applications` is followed")]
    # "Conv1D/2D/3D" stands for three; a word such as "pooling" or "transposed" for all that have it in their name.
    ranks = re.findall(r"\b(\w+)((?:/\dD)+)", table)
    names = {name[:-2] + rank for name, others in ranks for rank in others.split("/")[1:]}
    names |= {name for name in re.findall(r"\b[A-Z]\w+", table) if hasattr(keras.layers, name)}
    assert len(names) > 30 and {getattr(keras.layers, name) for name in names} <= set(RULES)
