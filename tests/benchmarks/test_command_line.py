"""What all commands share: their names, what options mean, numbers, seeds, and hints."""

import argparse
import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import command_line
from benchmarks.checkout import ROOT
from benchmarks.command_line import UsageError, command_parser, nearest, one_of, refusal, seeds_of

COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "__main__" in path.read_text() and "\ndef main(" in path.read_text()
)


def help_of(command, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(command).main(["--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_described_by_its_docstring_and_an_option_means_the_same_in_all(command, capsys):
    text = help_of(command, capsys)
    assert text.startswith(f"usage: python -m {command} ")
    assert importlib.import_module(command).__doc__.splitlines()[0].split(":")[0] in text
    for name, how in command_line._SHARED.items():
        if f" {name} {how.get('metavar', '{')}" in text:
            assert how["help"].partition(" (default")[0] in text, name


def test_commands_make_no_parser_and_no_shared_option_of_their_own():
    for path in (ROOT / "benchmarks").rglob("*.py"):
        if path.name != "command_line.py":
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [call for call in calls if ast.unparse(call.func).endswith("ArgumentParser")], path
            options = [call.args[0] for call in calls if ast.unparse(call.func).endswith(".add_argument")]
            assert not {getattr(option, "value", None) for option in options} & set(command_line._SHARED), path


def test_it_needs_neither_keras_nor_numpy():
    code = "import sys, benchmarks.command_line; print(sorted({'keras', 'numpy', 'kmerge', 'baselines'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_command_may_have_a_default_of_its_own_and_shows_it():
    file = ROOT / "benchmarks" / "tune.py"
    shared = ("--seeds", "--out", "--suite")
    parser = command_parser(str(file), "What it does.\nMore.", *shared, required=["--suite"], seeds="0-2")
    assert parser.prog == "python -m benchmarks.tune" and parser.description == "What it does."
    options = parser.parse_args(["--suite", "sine"])
    assert (options.suite, options.seeds, options.out) == ("sine", "0-2", Path("results"))
    assert "A to B (default: 0-2)" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit):
        parser.parse_args([])
    with pytest.raises(AssertionError, match="jobs"):
        command_parser(str(file), "What it does.", "--seeds", jobs=2)


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (command_line.positive_number, {"0.5": 0.5, "3": 3.0}, ["0", "-1", "inf", "nan", "much", "1e300"]),
        (command_line.whole_number, {"0": 0, "12": 12}, ["-1", "1.5", "", "\u0663", "9" * 150]),
        (command_line.positive_whole_number, {"1": 1, "12": 12}, ["0", "-1", "1.5", "\u00b2", "9" * 150]),
    ],
)
def test_numbers_are_checked(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a .*number.*, received {re.escape(repr(text))}"):
            kind(text)


def test_seeds_are_a_number_of_them_or_a_range():
    suite, none = range(100, 110), range(1)
    assert seeds_of(None, suite) == list(suite)
    assert (seeds_of("3", suite), seeds_of("3", none)) == ([100, 101, 102], [0, 1, 2])
    assert seeds_of("4-6", suite) == seeds_of("4-6", none) == [4, 5, 6]
    for text in ("0", "9-1", "-3", "all", "1-", "1-2-3", "\u0663", "", "0-99999999999", "99999999999", "10001", "9" * 150):
        with pytest.raises(UsageError, match=f"--seeds: expected .*, received {re.escape(repr(text))}"):
            seeds_of(text, suite)


def test_a_name_that_is_not_known_gets_a_hint_at_the_nearest():
    known = ["rho", "eta", "polarization"]
    assert nearest("polarisation", known) == "Did you mean polarization?" and nearest("width", known) == ""
    assert one_of(known, "polarisation") == (
        "expected one of rho, eta, polarization, received 'polarisation'. Did you mean polarization?"
    )
    assert refusal("a table", 3, "Write one.") == "expected a table, received 3. Write one."
