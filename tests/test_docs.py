"""The code of the guides runs as printed, and prints what stands there."""

import re

import pytest

import kmerge
from benchmarks.checkout import ROOT
from tests.documents import run_guide
from tests.programs import without_programs

GUIDES = sorted((ROOT / "docs").glob("*.md"))

# What a guide runs with here, where there is no network and little time.
SMALLER = {
    "merge_your_first_networks": {"epochs = 6": "epochs = 3"},
    "prune_pretrained": {
        'weights, size, alpha, examples, epochs = "imagenet", 96, 1.0, 1797, 5': (
            "weights, size, alpha, examples, epochs = None, 32, 0.35, 64, 1"
        )
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return lambda name: run_guide(ROOT / "docs" / f"{name}.md", lambda: capsys.readouterr().out, SMALLER.get(name))


def test_the_guide_on_channel_spaces_runs_and_draws_the_picture_that_it_shows(run, tmp_path):
    run("channel_spaces")
    drawn = (tmp_path / "channel_spaces.svg").read_text()
    assert drawn == (ROOT / "docs" / "channel_spaces.svg").read_text()


def test_the_guide_on_merging_makes_a_student_of_its_parents_size_that_has_learned_the_digits(run, tmp_path):
    names = run("merge_your_first_networks")
    assert names["accuracy"](names["student"]) > 0.7
    assert (tmp_path / "student.keras").is_file()
    assert "filters of conv1" in (tmp_path / "big.svg").read_text()


def test_the_guide_on_callbacks_picks_a_decided_epoch(run):
    names = run("gates_and_callbacks")
    assert all(gate.is_decided() for gate in kmerge.gates_of(names["best"]))
    assert len(names["history"].epoch) > 6


def test_the_guide_on_pruning_halves_the_multiply_accumulates_of_a_mobilenet(run, tmp_path):
    with without_programs():
        names = run("prune_pretrained")
    share = kmerge.multiply_accumulates(names["small"]) / kmerge.multiply_accumulates(names["model"])
    assert 0.3 < share <= 0.5
    assert (tmp_path / "small.keras").is_file()


def test_the_guide_on_rules_teaches_its_layers(run):
    names = run("write_a_rule")
    assert type(names["student"].get_layer("bottleneck")) is names["Bottleneck"]


def test_the_readme_lists_every_guide():
    readme = (ROOT / "README.md").read_text()
    assert not [path.name for path in GUIDES if f"docs/{path.name}" not in readme]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_public_name_and_every_link_in_a_guide_exists(path):
    text = path.read_text()
    assert set(re.findall(r"\bkmerge\.([A-Za-z_]\w*)", text)) <= {*kmerge.__all__, "errors"}
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert not [link for link in links if not (path.parent / link).exists()]


DOCUMENTS = [ROOT / "README.md", ROOT / "baselines" / "README.md", *GUIDES]


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_files_that_a_document_names_exist(document):
    quoted = re.findall(r"`([\w./-]+)`", document.read_text(encoding="utf-8"))
    named = {path for path in quoted if "/" in path or path.endswith(".py")}
    # What commands write is not there.
    named = {path for path in named if not path.startswith("results/") or path.startswith("results/published")}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
