"""What is installed: every requirement has its use and its bound, and every file of the packages goes along."""

import ast
import configparser
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras
import pytest
from packaging.requirements import Requirement

from benchmarks.checkout import ROOT
from benchmarks.studies.structure import ORDER, imports_of, read_files

CONFIGURATION = configparser.ConfigParser()
CONFIGURATION.read(ROOT / "setup.cfg")

# Names to import where they are not those to install.
MODULES = {
    "scikit-learn": "sklearn",
    "tensorflow-datasets": "tensorflow_datasets",
    "keras-tuner": "keras_tuner",
    "POT": "ot",
    "PyYAML": "yaml",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
}
# What we need and do not import.
NEEDED_BY_OTHERS = {
    "jinja2": "pandas writes LaTeX by it",
    "importlib_resources": "tensorflow-datasets imports it for builders of others, as ours are, without asking for it",
    "ruff": "`make test` runs it",
    "mkdocs": "`make docs` runs it",
    "mkdocs-material": "the theme of the site",
    "mkdocstrings": "writes the site's reference",
}
# What is used where it is installed.
NEEDED_IF_THERE = {"mlflow", "onnxruntime", "torch", "torch_pruning", "torchvision", "wandb"}


def requirements(section, option):
    lines = CONFIGURATION[section][option].splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


EXTRAS = {extra: requirements("options.extras_require", extra) for extra in CONFIGURATION["options.extras_require"]}
LIBRARY = requirements("options", "install_requires")
OTHERS = [requirement for listed in (LIBRARY, *EXTRAS.values()) for requirement in listed if requirement.name != "kmerge"]


def names_imported(*packages):
    """The first parts of all modules that files of these packages import, also by `pytest.importorskip`."""
    names = set()
    for path, tree in read_files(ROOT, *packages).items():
        names |= {module.partition(".")[0] for module, _, _ in imports_of(path, tree, ROOT)}
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and "importorskip" in ast.unparse(node.func))
        names |= {ast.literal_eval(call.args[0]).partition(".")[0] for call in calls}
    return names


def test_each_requirement_is_imported_or_needed_by_another():
    imported = names_imported(*ORDER, "tests")
    used = {each.name: MODULES.get(each.name, each.name) in imported for each in OTHERS}
    assert not [name for name, is_used in used.items() if not is_used and name not in NEEDED_BY_OTHERS]
    assert not [name for name in NEEDED_BY_OTHERS if used.get(name, True)], "imported, or required no longer"


def test_what_baselines_benchmarks_and_tests_import_is_required():
    known = {MODULES.get(each.name, each.name) for each in OTHERS} | {*ORDER, "tests"} | NEEDED_IF_THERE
    assert not names_imported("baselines", "benchmarks", "tests") - known - sys.stdlib_module_names


@pytest.mark.parametrize("requirement", OTHERS, ids=str)
def test_each_requirement_has_a_lower_bound_which_holds_here(requirement):
    assert [bound.operator for bound in requirement.specifier] == [">="]
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip(f"{requirement.name} is not installed")
    assert requirement.specifier.contains(installed, prereleases=True)


def test_what_an_extra_names_of_our_own_is_an_extra():
    ours = [each for listed in EXTRAS.values() for each in listed if each.name == "kmerge"]
    assert ours and {extra for each in ours for extra in each.extras} <= set(EXTRAS)


def test_every_file_of_the_packages_goes_along():
    data = {package: patterns.split() for package, patterns in CONFIGURATION["options.package_data"].items()}
    globs = [(ROOT / Path(*package.split(".")), each) for package, patterns in data.items() for each in patterns]
    named = {path for folder, pattern in globs for path in folder.glob(pattern)}
    others = {path for package in ORDER for path in (ROOT / package).rglob("*") if path.is_file()}
    others = {path for path in others if path.suffix not in {".py", ".pyc"}}
    assert named == others - {ROOT / "baselines" / "README.md"}
    assert ROOT / "kmerge" / "py.typed" in named


def test_every_folder_of_code_is_a_package():
    """`packages = find:` leaves out a folder without an `__init__.py`."""
    folders = {path.parent for package in ORDER for path in (ROOT / package).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_the_licence_is_named_once():
    metadata = CONFIGURATION["metadata"]
    assert metadata["license_expression"] == "MIT" and (ROOT / metadata["license_files"]).read_text().startswith("MIT License")
    assert "License ::" not in metadata["classifiers"]


def test_the_commands_that_set_up_an_environment_ask_for_extras_that_exist():
    stamps = re.findall(r"^(\w+): \$\(VENV\)/ready-(\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ("demo", "demo") in stamps and ("test", "test") in stamps
    assert {extra for _, extra in stamps} <= set(EXTRAS)


def test_ci_on_a_fresh_machine_runs_make_test():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert re.search(r"^ *- run: make test$", workflow, re.MULTILINE)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="without JAX there is TensorFlow")
def test_kmerge_is_imported_where_there_is_no_jax():
    code = "import sys; sys.modules['jax'] = None; import kmerge; print(kmerge.fit_many.__name__)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "fit_many\n", done.stderr
