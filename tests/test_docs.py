"""The pages of the documentation: their code runs as printed and prints what stands there, and what they name exists.

Nothing here needs MkDocs, which `make docs` builds the site with.
"""

import contextlib
import importlib
import io
import re
from functools import cache

import keras
import pytest
import yaml

import kmerge
from benchmarks.checkout import ROOT
from kmerge.rules.rule import RULES
from tests import chromium
from tests.documents import blocks, headings, run_guide, short_mobilenet
from tests.programs import without_programs

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Those beside them that people read, and that are pages of the site, too.
DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "baselines" / "README.md", ROOT / "results" / "published" / "README.md", *PAGES]

# What a guide runs with here, where there is no network and little time.
SMALLER = {
    "guides/merge_your_first_networks": {
        "epochs = 6": "epochs = 2",
        "batch_size=32": "batch_size=80",
        "4 * epochs": "1",
        "images[1200:1500], labels[1200:1500]": "images[1200:1360], labels[1200:1360]",
    },
    "guides/gates_and_callbacks": {"images[:1200], labels[:1200], (images[1200:], labels[1200:])": (
        "images[:64], labels[:64], (images[64:96], labels[64:96])"
    )},
    "guides/gates": {"images[:1400], labels[:1400]": "images[:128], labels[:128]"},
    "guides/auto_sizing": {"images[:1400], labels[:1400]": "images[:128], labels[:128]"},
    "guides/prune_pretrained": {
        'weights, size, alpha, examples, epochs = "imagenet", 96, 1.0, 1797, 5': (
            "weights, size, alpha, examples, epochs = None, 32, 0.35, 64, 1"
        ),
        "batch_size=32):.1f}": "batch_size=32, repetitions=1):.1f}",
    },
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


documents = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
# The changes also name what was.
of_today = pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=name_of)


# Code


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return lambda name: run_guide(DOCS / f"{name}.md", lambda: capsys.readouterr().out, SMALLER.get(name))


def test_the_page_on_channel_spaces_runs_and_draws_the_picture_that_it_shows(run, tmp_path):
    run("concepts/channel_spaces")
    drawn = (tmp_path / "channel_spaces.svg").read_text()
    assert drawn == (DOCS / "concepts" / "channel_spaces.svg").read_text()


def test_the_guide_on_merging_makes_a_student_of_its_parents_size_that_has_learned_the_digits(run, tmp_path):
    with without_programs():
        names = run("guides/merge_your_first_networks")
    assert names["accuracy"](names["student"]) > 0.7
    assert (tmp_path / "student.keras").is_file()
    assert "filters of conv1" in (tmp_path / "big.svg").read_text()


def test_the_guide_on_pruning_halves_the_parameters_but_of_a_layer_that_is_kept_whole(run, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.applications, "MobileNetV2", short_mobilenet)
    with without_programs():
        names = run("guides/prune_pretrained")
    whole = kmerge.multiply_accumulates(names["model"])
    assert 0.3 < kmerge.multiply_accumulates(kmerge.select(names["model"], names["half"])) / whole <= 0.5
    assert 0.3 < kmerge.parameters(names["small"]) / kmerge.parameters(names["model"]) <= 0.5
    assert (tmp_path / "small.keras").is_file()


def test_the_guide_on_callbacks_picks_a_decided_epoch(run):
    with without_programs():
        names = run("guides/gates_and_callbacks")
    assert all(gate.is_decided() for gate in kmerge.gates_of(names["best"]))
    assert len(names["history"].epoch) > 6


def test_the_guide_on_rules_teaches_its_layers(run):
    with without_programs():
        names = run("guides/write_a_rule")
    assert type(names["student"].get_layer("bottleneck")) is names["Bottleneck"]


# Each asserts what it says; by name, what it makes last.
GUIDES = {"verbs": "wide", "gates": "narrow", "auto_sizing": "sizer", "export": "loaded"}


@pytest.mark.parametrize("guide, last", GUIDES.items())
def test_the_other_guides_run(run, guide, last):
    with without_programs():
        assert last in run(f"guides/{guide}")


def test_all_code_is_run_by_some_test():
    here = {"concepts/channel_spaces", *(f"guides/{path.stem}" for path in (DOCS / "guides").glob("*.md"))}
    here -= {"guides/command_line"}  # has none
    elsewhere = {"index", "api/index", "benchmark/add_a_strategy", "benchmark/your_own"}
    with_code = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES if blocks(path, "python")}
    assert with_code == here | elsewhere
    assert blocks(DOCS / "index.md", "python")[0].text == blocks(ROOT / "README.md", "python")[0].text


# Names


@documents
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(document):
    wrong = []
    for address, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text("utf-8")):
        target = (document.parent / address) if address else document
        found = target.exists() and (not anchor or anchor in headings(target))
        wrong += [] if found else [f"{address}#{anchor}" if anchor else address]
    assert not wrong


@of_today
def test_every_public_name_exists(document):
    named = re.findall(r"\bkmerge\.([A-Za-z_]\w*)(?![\w/]*\.(?:py|md))", document.read_text("utf-8"))
    assert set(named) <= {*kmerge.__all__, "errors"}


@of_today
def test_files_that_a_document_names_exist(document):
    named = set(re.findall(r"`([\w.-]+/[\w./-]*)`", document.read_text("utf-8")))
    # What commands write is not there.
    named = {path for path in named if not path.startswith("results/") or path.startswith("results/published")}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


@cache
def options_of(command):
    """The options of a command, as its help lists them."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        importlib.import_module(f"benchmarks.{command}").main(["--help"])
    return options_in(printed.getvalue())


def test_every_command_in_the_documents_has_the_options_that_it_is_given():
    lines = "\n".join(path.read_text("utf-8").replace("\\\n", " ") for path in PAGES)
    commands = re.findall(r"-m benchmarks\.([a-z_.]+)((?:[^\n`]|`(?= or))*)", lines)
    # `tune` hands what it does not know on to `run`.
    known = {name: options_of(name) | (options_of("run") if name == "tune" else set()) for name, _ in commands}
    wrong = [(name, line) for name, line in commands if not options_in(line.partition(" #")[0]) <= known[name]]
    assert len(commands) > 30 and not wrong


def test_the_table_of_options_is_that_of_the_command():
    table = (DOCS / "benchmark" / "index.md").read_text().partition("## Options")[2].partition("\n\n##")[0]
    assert options_in(table) == options_of("run") - {"--help"}


def test_the_table_of_layers_names_layers_that_have_a_rule():
    """docs/concepts/layers_and_operations.md has all of them."""
    table = (DOCS / "concepts" / "layers.md").read_text().partition("| layers | how |")[2].partition("\n\n")[0]
    # "Conv1D/2D/3D" stands for three; a word such as "pooling" or "transposed" for all that have it in their name.
    ranks = re.findall(r"\b(\w+)((?:/\dD)+)", table)
    names = {name[:-2] + rank for name, others in ranks for rank in others.split("/")[1:]}
    names |= {name for name in re.findall(r"\b[A-Z]\w+", table) if hasattr(keras.layers, name)}
    assert len(names) > 30 and {getattr(keras.layers, name) for name in names} <= set(RULES)


# The site


def test_the_table_of_contents_has_every_page_once():
    def paths(entry):
        parts = entry.values() if isinstance(entry, dict) else entry
        return [entry] if isinstance(entry, str) else [path for part in parts for path in paths(part)]

    listed = paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    outside = {f"repository/{name_of(path)}" for path in DOCUMENTS if DOCS not in path.parents}
    assert sorted(set(listed) - outside) == [path.relative_to(DOCS).as_posix() for path in PAGES]
    assert len(listed) == len(set(listed))


def test_the_reference_has_every_public_name_once():
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md") if path.stem != "index")
    listed = re.findall(r"^::: kmerge\.(\w+)$", pages, re.MULTILINE)
    told = {name for name in kmerge.__all__ if re.search(rf"`kmerge\.{name}`", pages)}
    assert sorted([*listed, *told, "__version__"]) == sorted(kmerge.__all__)
    index = (DOCS / "api" / "index.md").read_text()
    assert not [name for name in kmerge.__all__ if not re.search(rf"`(?:kmerge\.)?{name}`", index)]


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")
def test_the_sites_search_works_in_files_that_are_opened_from_disk(tmp_path):
    """Its worker answers, though browsers start none there, and no page fetches anything for that."""
    polyfills = re.search(r"polyfills: \[(.+?)\]", (ROOT / "mkdocs.yml").read_text())[1]
    (tmp_path / polyfills).write_bytes((DOCS / polyfills).read_bytes())
    (tmp_path / "worker.js").write_text('addEventListener("message", event => postMessage(["heard", event.data]))')
    page = tmp_path / "page.html"
    ready = "<script>document.documentElement.dataset.ready = 'yes'</script>"
    page.write_text(f'<html><body></body><script src="{polyfills}"></script>{ready}</html>')
    answer = "new Promise(answer => { const worker = new Worker('worker.js');"
    answer += " worker.addEventListener('message', event => answer(event.data)); worker.postMessage('a word') })"
    with chromium.tab() as tab:
        tab.open(page)
        assert tab.run(answer) == ["heard", "a word"] and not tab.errors
