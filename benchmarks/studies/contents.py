"""Two pages of the documentation, read from the code: the suites, by their files, and the strategies, by the registry.

    python -m benchmarks.studies.contents --out docs/benchmark    # writes suites.md and strategies.md there

What a strategy does is the first sentence of its docstring, and what its settings mean stands under `Attributes:` there.
Nothing is imported for that but the list itself.
"""

import ast
import inspect
import re
from collections.abc import Sequence

from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE, command_parser
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import SUITES, load_suite

_COMMAND = "python -m benchmarks.studies.contents --out docs/benchmark"

_SUITES = f"""\
# Suites

Written by `{_COMMAND}`, from the files in
`benchmarks/suites`. Each is one TOML file with the data, the network, the epochs and every hyper-parameter, with its source
beside it. [How to add one](add_a_strategy.md#a-suite)

Epochs are those of a teacher, the gates, fine-tuning, and of one network that trains for the whole budget.

| suite | what it is | data | network | epochs | seeds |
|---|---|---|---|---|---|
"""

_STRATEGIES = f"""\
# Strategies

Written by `{_COMMAND}`, from
`benchmarks/strategies/registry.py` and the docstrings of what it names. The papers, and what differs from them, stand in
[the table of baselines](../../baselines/README.md). [How to add one](add_a_strategy.md)

A *teacher* is a trained network of the target architecture. Strategies of a seed share their teachers, and each is charged for
them.
"""

_TITLES = {
    "benchmarks/strategies": "Merging by gates",
    "baselines/merging": "Merging without gates, and greedily",
    "baselines/single": "One network, or the best of several",
    "baselines/fusion": "Averages of aligned networks",
    "baselines/pruning": "Pruning",
    "baselines/distillation": "Distillation",
    "baselines/sizing": "Auto-sizing, and networks of fixed size",
}


def suites_page() -> str:
    """The page of all suites."""
    rows, lists = [], []
    for suite in map(load_suite, SUITES):
        architecture = dict(suite.definition["architecture"])
        network = architecture.pop("name")
        sizes = ", ".join(f"{key} {_text(value)}" for key, value in architecture.items() if key != "weight_decay")
        epochs = " + ".join(map(str, _epochs(suite.definition["epochs"])))
        seeds = f"{min(suite.seeds)}-{max(suite.seeds)}"
        network = f"{network}: {sizes}" if sizes else network
        cells = (f"`{suite.name}`", suite.description, suite.dataset, network, epochs, seeds)
        rows.append("| " + " | ".join(cells) + " |")
        lists.append(f"| `{suite.name}` | {', '.join(f'`{name}`' for name in suite.strategies)} |")
    tables = ["\n".join(rows), "## What each runs", "| suite | strategies, unless `--strategy` names others |\n|---|---|"]
    return _SUITES + "\n\n".join(tables) + "\n" + "\n".join(lists) + "\n"


def _epochs(epochs: dict[str, int]) -> list[int | str]:
    phases = [epochs[phase] for phase in ("teacher", "gates", "finetune") if epochs.get(phase)]
    return [*phases[:-1], f"{phases[-1]} against {epochs['single']}"] if phases else [epochs["single"]]


def _text(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _docstring(path: str, name: str) -> str:
    """The docstring of a class or function, which is not imported."""
    tree = ast.parse((ROOT / f"{path}.py").read_text(encoding="utf-8"))
    return next(ast.get_docstring(node) or "" for node in tree.body if getattr(node, "name", None) == name)


def _sentence(docstring: str) -> str:
    """Its first sentence, without what every strategy says: that it is one."""
    sentence = " ".join(docstring.partition("\n\n")[0].split())
    return re.sub(r"[;,.] (?:see|a) `Strategy`", "", sentence).rstrip(".")


def _settings(docstring: str) -> list[str]:
    """A row for each of its `Attributes:`."""
    section = inspect.cleandoc(docstring).partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return [f"| `{name}` | {' '.join(meaning.split())} |" for name, meaning in found]


def strategies_page() -> str:
    """The page of all strategies."""
    text, sources = _STRATEGIES, {}
    for name in STRATEGIES:
        module, attribute, settings = STRATEGIES.source(name)
        sources.setdefault((module.replace(".", "/"), attribute), {})[name] = settings
    for folder, title in _TITLES.items():
        text += f"\n## {title}\n"
        for (path, attribute), strategies in sources.items():
            if path.startswith(f"{folder}/"):
                text += _strategies_of(path, attribute, strategies)
    return text


def _strategies_of(path: str, attribute: str, strategies: dict[str, dict]) -> str:
    """What one function or class is as a strategy, or as several by its settings."""
    docstring = _docstring(path, attribute)
    text = f"\n{_sentence(docstring)} (`{path}.py`):"
    if not (meanings := _settings(docstring)):
        return f"{text} {', '.join(f'`{name}`' for name in strategies)}.\n"
    text += "\n\n| strategy | settings |\n|---|---|\n"
    for name, settings in strategies.items():
        given = ", ".join(f"`{key}={value!r}`" for key, value in settings.items() if value != name)
        text += f"| `{name}` | {given} |\n"
    return text + "\n| setting | meaning |\n|---|---|\n" + "\n".join(meanings) + "\n"


PAGES = {"suites.md": suites_page, "strategies.md": strategies_page}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages; returns the exit status."""
    out = command_parser(__file__, __doc__, "--out", out="docs/benchmark").parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (out / name).write_text(page(), encoding="utf-8")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
