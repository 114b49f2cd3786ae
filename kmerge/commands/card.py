"""What is written beside a model: a card for people and model hubs, and the recipe that makes the model again."""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras

from kmerge.costs import latency, multiply_accumulates, parameters, saved_bytes
from kmerge.errors import KmergeError
from kmerge.spaces import channel_spaces
from kmerge.version import __version__


@dataclass
class Made:
    """A model that a command made, and what it was made of.

    Attributes:
        command: the verb, such as "prune".
        models: the given files with the SHA-256 of each.
        data: the files of `--data` and `--test`, by "data" and "test", each with its SHA-256.
        options: the options that are not as by default.
        before: the given models.
        model: the new one.
        before_quality: loss and metrics of each given model on `--test`, where it was given.
        quality: the same of the new one.
    """

    command: str
    models: Mapping[Path, str]
    data: Mapping[str, tuple[Path, str]]
    options: Mapping[str, object]
    before: Sequence[keras.Model]
    model: keras.Model
    before_quality: Sequence[Mapping[str, float]] = field(default_factory=list)
    quality: Mapping[str, float] = field(default_factory=dict)


def recipe(made: Made, folder: Path) -> str:
    """The YAML file with which `kmerge run` makes the model again; paths are as seen from `folder`."""
    import yaml  # only commands need it

    content = {
        "kmerge": __version__,
        "command": made.command,
        "models": [_entry(folder, *file) for file in made.models.items()],
        "data": {name: _entry(folder, *file) for name, file in made.data.items()},
        "options": dict(made.options),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _entry(folder: Path, path: Path, sha256: str) -> dict[str, str]:
    return {"path": Path(os.path.relpath(path, folder)).as_posix(), "sha256": sha256}


def card(made: Made, name: str) -> str:
    """A Markdown page on a model, with the head that model hubs read.

    Args:
        made: the model.
        name: the name of its file.
    """
    tags = "".join(f"- {tag}\n" for tag in ("keras", "kmerge", made.command))
    given = [path.name for path in made.models]
    given += [text for key, (path, _) in made.data.items() for text in (f"--{key}", path.name)]
    command = shlex.join(["kmerge", made.command, *given, *flags_of(made.options), "--out", name])
    files = [*made.models.items(), *made.data.values()]
    parts = [
        f"---\nlibrary_name: keras\ntags:\n{tags}---\n\n# {name}\n",
        f"Made by kmerge {__version__} on Keras {keras.__version__}, {keras.backend.backend()}, Python "
        f"{platform.python_version()}:\n\n    {command}\n\n`{Path(name).stem}.recipe.yaml` repeats it: "
        f"`kmerge run {Path(name).stem}.recipe.yaml`.\n",
        "## Made of\n\n" + _table(("file", "SHA-256"), [(f"`{path.name}`", f"`{digest}`") for path, digest in files]),
        "## Cost and quality\n\n" + _table(("", *(p.name for p in made.models), name), _rows(made)),
        "## Channel spaces\n\n" + _table(("space", "before", "now"), _widths(made)),
    ]
    return "\n".join(parts)


def flags_of(options: Mapping[str, object]) -> list[str]:
    """Options as they stand in a command line."""
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            flags += [flag] if each is True else [flag, str(each)]
    return flags


def _rows(made: Made) -> list[tuple]:
    models = [*made.before, made.model]
    rows = [
        ("parameters", *(f"{parameters(m):,}" for m in models)),
        ("multiply-accumulates of an example", *(_counted(multiply_accumulates, m, "{:,}") for m in models)),
        ("weights in a file, bytes", *(f"{saved_bytes(m):,}" for m in models)),
        ("one prediction on this machine, ms", *(_counted(lambda m: 1e3 * latency(m), m, "{:.2f}") for m in models)),
    ]
    found = [*made.before_quality, made.quality]
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return rows + [(name, *(f"{m[name]:.4f}" if name in m else "" for m in found)) for name in names]


def _counted(count, model: keras.Model, form: str) -> str:
    try:
        return form.format(count(model))
    except KmergeError:
        return "unknown: an input's size is open"


def _widths(made: Made) -> list[tuple]:
    now = {space.name: space.size for space in channel_spaces(made.model).values()}
    return [
        (f"`{space.name}`", space.size, now.get(space.name, ""))
        for space in channel_spaces(made.before[0]).values()
        if space.selectable
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |\n" for line in lines)
