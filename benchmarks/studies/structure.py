"""The structure of the code, read from its imports: the rooms of each package, their floors, and the arrows between them.

    python -m benchmarks.studies.structure
    python -m benchmarks.studies.structure --root ../older_checkout

A room is a file or a folder that lies directly in a package. An arrow leads from a room to each room that it imports, at
the top of a file or inside a function. A room stands on the floor above the highest room that it imports.
"""

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE, command_parser

# The order of the house: a package imports only packages before it, and a room only rooms of its package before it.
ORDER: dict[str, tuple[str, ...]] = {
    "kmerge": (
        "errors", "checks", "files", "seeds", "regularizers", "graph", "batching", "sameness", "cloning", "copying",
        "compiling", "pairing", "gates", "training", "rules", "opening", "spaces", "surgery", "costs", "merging", "matching",
        "sizing", "pruning", "drawing", "version", "commands", "__init__", "__main__",
    ),
    "baselines": (
        "__init__", "protocol", "single", "fusion", "pruning", "merging", "distillation", "sizing",
    ),
    "benchmarks": (
        "__init__", "checkout", "command_line", "files", "own_code", "data", "networks", "strategies", "suites", "records",
        "reports", "runs", "report", "run", "campaigns", "campaign", "demo", "tune", "wheels", "pack", "studies",
    ),
}  # fmt: skip


def read_files(root: Path, *packages: str) -> dict[Path, ast.Module]:
    """The syntax trees of all files of these packages, by path."""
    paths = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {path: _parsed(path.read_text(encoding="utf-8")) for path in paths}


_parsed = functools.cache(ast.parse)


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file: that of `kmerge/graph.py` is `kmerge.graph`, of a folder's face `kmerge.gates.__init__`."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def imports_of(path: Path, tree: ast.Module, root: Path) -> Iterator[tuple[str, str | None, ast.stmt]]:
    """Yields (module, imported name or None, statement) for each import, with relative imports made absolute."""
    package = module_name(path, root).rpartition(".")[0].split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield from ((module, alias.name, node) for alias in node.names)


def imported_files(path: Path, trees: Mapping[Path, ast.Module], root: Path) -> Iterator[tuple[Path | None, ast.stmt]]:
    """Yields (file, statement) for each import of one of our packages; no file where the import leads nowhere."""
    for module, name, node in imports_of(path, trees[path], root):
        if module.partition(".")[0] in ORDER:
            parts = module.split(".")
            candidates = ([parts + [name], [*parts, name, "__init__"]] if name else []) + [parts, parts + ["__init__"]]
            files = (root.joinpath(*candidate).with_suffix(".py") for candidate in candidates)
            yield next((file for file in files if file in trees), None), node


def room_of(path: Path, root: Path) -> tuple[str, str]:
    """(package, room) of a file: those of `kmerge/gates/pressure.py` are `("kmerge", "gates")`."""
    package, room = path.relative_to(root).with_suffix("").parts[:2]
    return package, room


@dataclass(frozen=True)
class Structure:
    """The rooms of one package.

    Attributes:
        arrows: for each room, the rooms of the same package that it imports.
        files: for each room, how many files it has.
    """

    arrows: dict[str, set[str]]
    files: dict[str, int]

    def floors(self) -> dict[str, int]:
        """For each room its floor, counted from 1; a circle raises RecursionError."""
        known: dict[str, int] = {}

        def floor(room: str) -> int:
            if room not in known:
                known[room] = 1 + max((floor(below) for below in self.arrows[room]), default=0)
            return known[room]

        return {room: floor(room) for room in self.arrows}

    def __str__(self) -> str:
        floors, text = self.floors(), []
        for number in range(max(floors.values()), 0, -1):
            text.append(f"floor {number}")
            for room in sorted(room for room, floor in floors.items() if floor == number):
                count = f" ({self.files[room]} files)" if self.files[room] > 1 else ""
                text.append(f"    {room}{count} -> {', '.join(sorted(self.arrows[room])) or 'nothing'}")
        return "\n".join(text)


def structures(root: Path = ROOT) -> dict[str, Structure]:
    """Reads the rooms of all packages.

    Args:
        root: folder of the checkout.
    """
    trees = read_files(root, *ORDER)
    found = {package: Structure({}, {}) for package in ORDER}
    for path in trees:
        package, room = room_of(path, root)
        arrows, files = found[package].arrows, found[package].files
        files[room] = files.get(room, 0) + 1
        below = {room_of(file, root) for file, _ in imported_files(path, trees, root) if file}
        arrows.setdefault(room, set()).update(name for other, name in below if other == package and name != room)
    return found


def structure_of(package: str, root: Path = ROOT) -> Structure:
    """Reads the rooms of a package.

    Args:
        package: name of the package, a folder of `root`.
        root: folder of the checkout.
    """
    return structures(root)[package]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the structure of each package; returns the exit status."""
    parser = command_parser(__file__, __doc__)
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="another checkout (default: this one)")
    root = parser.parse_args(arguments).root.resolve()
    for package, structure in structures(root).items():
        arrows = sum(map(len, structure.arrows.values()))
        floors = max(structure.floors().values())
        print(f"{package}: {len(structure.arrows)} rooms on {floors} floors, {arrows} arrows\n{structure}\n")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
