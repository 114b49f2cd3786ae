"""What a move of files breaks without a word: names of modules in texts, files beside the code, paths that are counted upward.

Hashes of code are held by benchmarks/test_checkout.py, files of earlier versions by kmerge/test_saved_files.py, and the
order of rooms by test_house.py.
"""

import ast
import configparser
import re
import subprocess
import sys

import pytest

from benchmarks.checkout import ROOT
from benchmarks.studies.structure import ORDER, read_files

SOURCES = read_files(ROOT, *ORDER)
TEXTS = [*SOURCES, *read_files(ROOT, "tests"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("baselines/*.md")]
TEXTS += [*ROOT.glob("benchmarks/suites/*.toml"), ROOT / "Makefile"]


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_modules_named_in_strings_exist():
    named = [
        (path, node.value)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and re.fullmatch(rf"(?:{'|'.join(ORDER)})(?:\.[a-z_0-9]+)+", node.value)
    ]  # fmt: skip
    assert len({name for _, name in named}) > 15
    assert not [(path.name, name) for path, name in named if not is_module(name)]


def test_commands_named_in_texts_exist():
    named = [(path, name) for path in TEXTS for name in re.findall(r"-m (benchmarks(?:\.\w+)+)", path.read_text("utf-8"))]
    assert {"benchmarks.run", "benchmarks.report", "benchmarks.tune", "benchmarks.pack"} <= {name for _, name in named}
    assert not [(path.name, name) for path, name in named if not is_module(name)]


def test_only_the_checkout_counts_folders_upward():
    counted = [path for path in SOURCES if re.search(r"__file__\)[^\n]*\.(parent\.parent|parents\[)", path.read_text("utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in counted] == ["benchmarks/checkout.py"]


def test_every_file_beside_the_code_is_installed_with_it():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    installed = set()
    for package, patterns in settings["options.package_data"].items():
        for pattern in patterns.replace(",", " ").split():
            found = list(ROOT.joinpath(*package.split(".")).glob(pattern))
            assert found, f"{package}: {pattern} names no file"
            installed |= set(found)
    kinds = {".toml", ".html", ".css", ".js", ".typed", ".bib", ".mplstyle"}
    beside = {path for package in ORDER for path in (ROOT / package).rglob("*.*") if path.suffix in kinds}
    assert beside == installed


@pytest.mark.parametrize("folder", sorted({path.parent.relative_to(ROOT).as_posix() for path in SOURCES}))
def test_every_folder_is_a_package_that_setup_finds(folder):
    assert (ROOT / folder / "__init__.py").is_file()


def test_what_lists_suites_and_reads_results_imports_no_keras():
    modules = (
        "benchmarks.run", "benchmarks.report", "benchmarks.tune", "benchmarks.pack", "benchmarks.runs.planning",
        "benchmarks.suites.suite", "benchmarks.strategies.registry", "benchmarks.records.store", "baselines.protocol.strategy",
        "baselines.protocol.task", "benchmarks.studies.structure",
    )  # fmt: skip
    script = f"import sys, {', '.join(modules)}; print({{'keras', 'tensorflow', 'jax'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
