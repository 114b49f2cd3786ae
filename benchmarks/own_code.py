"""Code of one's own, which no repository has to be edited for: `module:function`, by name, and a hash of what it is.

    is_reference("my_nets:small")          True
    digest_of_code("my_nets:small", folder)
    imported("my_nets:small", folder)      the function

A module is looked for where Python finds any, which includes the folder that a command is given in, and then in a folder
of the caller's, as that of the suite's file. To find it, and to hash it, it is not run: a list of runs, or a report, trusts
no code.
This module imports neither Keras nor NumPy.
"""

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.command_line import refusal

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_LONGEST = 200
# Folders that are in `sys.path` because a caller named them; at most one at a time.
_added: set[str] = set()


class OwnCodeError(ValueError):
    """Code that is not there, or cannot be read; the message says where it was looked for."""


def is_reference(text: object) -> bool:
    """Whether a text has the form `module:function`."""
    return isinstance(text, str) and len(text) <= _LONGEST and _REFERENCE.fullmatch(text) is not None


def imported(text: str, folder: Path) -> Callable:
    """What `module:function` names.

    Args:
        text: the reference.
        folder: where the module may also be.

    Raises:
        OwnCodeError: if there is no such thing, or importing it fails.
    """
    check(text, folder)
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does
        raise OwnCodeError(f"{text} cannot be imported: {type(error).__name__}: {error}") from error


def check(text: str, folder: Path) -> None:
    """Refuse a reference to what is not there, without running it.

    Raises:
        OwnCodeError: if the module has no Python file, or that names no such function.
    """
    path, name = _file_of(text, folder), text.partition(":")[2]
    if name not in _names(_parsed(path).body):
        raise OwnCodeError(refusal(f"a function or class that {path} defines", text, "It has no such name."))


def digest_of_code(text: str, folder: Path) -> str:
    """A SHA-256 of the code behind `module:function`: of the whole package that it is in; or else of its file, and of those
    beside it that these import.

    Args:
        text: the reference.
        folder: where the module may also be.

    Raises:
        OwnCodeError: if it is not there.
    """
    check(text, folder)
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for root, path in _files(_spec(text, folder))):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def files_of_code(text: str, folder: Path) -> dict[str, Path]:
    """The files that `digest_of_code` hashes, by their paths from where Python finds the module.

    Raises:
        OwnCodeError: if it is not there.
    """
    check(text, folder)
    spec = _spec(text, folder)
    up = bool(spec.submodule_search_locations)
    return {path.relative_to(root.parent if up else root).as_posix(): path for root, path in _files(spec)}


def _files(spec: importlib.machinery.ModuleSpec) -> list[tuple[Path, Path]]:
    """The files of a package, or else of a module and those beside it that it imports, each with the folder that it is in."""
    if spec.submodule_search_locations:
        return [(root, path) for root in map(Path, spec.submodule_search_locations) for path in root.rglob("*.py")]
    path = Path(spec.origin)
    return [(path.parent, found) for found in _with_neighbours(path)]


def _spec(text: str, folder: Path) -> importlib.machinery.ModuleSpec:
    """Of the package or module at the top: to find what is below it, Python would run it."""
    top = text.partition(":")[0].partition(".")[0]
    place = str(Path(folder).resolve())
    # A module of another suite's folder may have the same name.
    sys.path[:] = [path for path in sys.path if path == place or path not in _added]
    if place not in sys.path:
        _added.add(place)
        sys.path.append(place)  # behind all others: a file there hides no module
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.submodule_search_locations or (spec.origin or "").endswith(".py")):
        do = f"Put {top}.py there, or install it."
        raise OwnCodeError(refusal(f"a module that Python finds from {Path.cwd()} or in {place}", text, do))
    return spec


def _file_of(text: str, folder: Path) -> Path:
    spec, (_, *below) = _spec(text, folder), text.partition(":")[0].split(".")
    if not below and not spec.submodule_search_locations:
        return Path(spec.origin)
    for root in map(Path, spec.submodule_search_locations or ()):
        place = root.joinpath(*below)
        for path in (place.with_suffix(".py") if below else place, place / "__init__.py"):
            if path.is_file():
                return path
    raise OwnCodeError(refusal(f"a module of the package {spec.name}", text, "It has no such file."))


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise OwnCodeError(f"{path} cannot be read as Python: {error}") from error


def _names(body: list[ast.stmt]) -> set[str]:
    """The names that statements of a module bind, as far as they can be read."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.If | ast.Try):
            found |= _names([*node.body, *node.orelse])
        else:
            found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return found


def _with_neighbours(path: Path) -> Iterator[Path]:
    """A file, and those of its folder that it imports, or that they do."""
    waiting, seen = [path], {path}
    while waiting:
        yield (current := waiting.pop())
        names = {alias.name for node in ast.walk(_parsed(current)) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(_parsed(current)) if isinstance(node, ast.ImportFrom) and node.module}
        for name in names:
            top = path.parent / name.partition(".")[0]
            for found in [top.with_suffix(".py"), *top.rglob("*.py")]:
                if found.is_file() and found not in seen:
                    seen.add(found)
                    waiting.append(found)
