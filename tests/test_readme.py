"""The README's code runs as printed, it is short, and what strangers ask first is one click away.

That links and names exist is held by test_docs.py.
"""

import os
import re

import keras
import numpy as np
import pytest
import yaml

import kmerge
from benchmarks.checkout import ROOT
from tests.documents import blocks

pytestmark = pytest.mark.both_backends

README = (ROOT / "README.md").read_text()


def layers_of(model):
    return [(layer.name, [weight.shape for weight in layer.get_weights()]) for layer in model.layers]


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
    assert capsys.readouterr().out.startswith("parents 0.")
    assert names["accuracies"][2] > max(names["accuracies"][:2]), "as the text says"
    assert kmerge.multiply_accumulates(names["small"]) <= 0.25 * kmerge.multiply_accumulates(names["student"])


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake (\w+)", README)) <= set(targets)


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^exec make test\b", script, re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_it_is_of_a_screen_and_a_half():
    assert len(README.encode()) <= 9_000


@pytest.mark.parametrize(
    "question, page",
    [
        ("Which layers are supported?", "docs/concepts/layers.md"),
        ("How do I keep a layer whole?", "docs/guides/prune_pretrained.md#keep-a-layer-whole"),
        ("Is it better than training longer?", "docs/concepts/when_to_merge.md"),
    ],
)
def test_what_strangers_ask_is_a_click_away(question, page):
    assert f"]({page})" in README, question


def test_it_names_the_papers_that_it_asks_to_cite():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    merging, *_, sizing = citation["references"]
    assert merging["title"] in README and all(author["family-names"] in README for author in merging["authors"])
    assert sizing["title"] in README.replace("\n", " ")
