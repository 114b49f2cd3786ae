"""What a machine without a network needs to run a suite: source, decoded data, wheels; in files of a chosen size.

    python -m benchmarks.pack --suite cifar100 --out FOLDER --part-size 60M --present numpy jax jaxlib
    python -m benchmarks.pack --unpack FOLDER

    FOLDER/
        manifest.json           every file, its size, its SHA-256 and its parts
        source.tar.gz           this code, never cut; unpack it with `tar`, then call `--unpack` from there
        data/cifar100/...       decoded arrays; a file that is larger than a part is cut into NAME.part000, ...
        wheels/...              packages for pip
        own/mine.toml, ...      a suite of one's own, with its data and code

`--unpack` joins what was cut, checks every file and puts the data into the cache. It needs Python alone. A second call
does only what is missing, so parts may come one after the other. A pack may come from a stranger: only regular files that
the manifest lists are read, of the listed size, and nothing is written but these, in the pack and in the cache.

Exit status: 0 done, 1 a file is missing or damaged, or pip failed, 2 wrong usage, 3 data missing.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from benchmarks.checkout import ROOT, commit
from benchmarks.command_line import DATA_MISSING, DONE, FAILED, command_parser, ended, printable, refusal
from benchmarks.files import draft_folder, new_file, open_inside, read_regular
from benchmarks.wheels import PipError, download

if TYPE_CHECKING:
    from benchmarks.suites.suite import Suite

_SOURCE = ("kmerge", "baselines", "benchmarks", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_CHUNK = 1 << 20
_LONGEST_MANIFEST = 1 << 26
# All files that a pack may have, by their paths in it.
_PLACES = re.compile(
    r"source\.tar\.gz|data/[a-z0-9_]+/(info\.json|[a-z_]+\.npy)|wheels/[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl"
    r"|own(/[^/.\\][^/\\]*)+"
)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class PackError(Exception):
    """What could not be packed or unpacked; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.suite is None) == (options.unpack is None):
        parser.error("expected a suite to pack (--suite NAME --out FOLDER) or a folder to unpack (--unpack FOLDER)")
    if options.suite is not None and options.out is None:
        parser.error("expected --out FOLDER, where to pack, received no --out")
    try:
        if options.unpack is not None:
            return _unpack(options.unpack, options.cache_dir)
        return _pack(options)
    except (PackError, PipError, OSError) as error:
        return ended(parser, error, FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__file__, __doc__, "--suite", "--out", "--data-dir", "--cache-dir", out=None)
    parser.add_argument(
        "--part-size", metavar="N", type=size_of, default=None, help="largest file, as 60M (default: any)"
    )
    parser.add_argument(
        "--packages",
        metavar="P",
        nargs="*",
        default=["keras"],
        help="what pip gets, with all it needs (default: keras)",
    )
    parser.add_argument("--present", metavar="P", nargs="*", default=[], help="packages that are there: left out")
    parser.add_argument("--python", metavar="V", help="version of Python there (default: this one's)")
    parser.add_argument("--platform", metavar="T", nargs="*", default=[], help="wheel tags there (default: this one's)")
    parser.add_argument("--unpack", metavar="FOLDER", type=Path, help="join, check and put the data into the cache")
    return parser


def size_of(text: str) -> int:
    """The number of bytes that "60M", "1G" or "5000" means.

    Args:
        text: a whole number above 0, with K, M or G for powers of 1000 or without.

    Raises:
        argparse.ArgumentTypeError: for any other text.
    """
    found = re.fullmatch(r"([1-9][0-9]*)([KMG]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(refusal("a size as 60M", text))
    return int(found[1]) * _UNITS[found[2]]


def _pack(options: argparse.Namespace) -> int:
    from benchmarks.data.cache import DataMissingError
    from benchmarks.suites.suite import SuiteError, load_suite

    out = options.out
    if out.exists() and any(out.iterdir()):
        raise PackError(f"expected an empty folder, received {out}, which is not empty. Delete it, or name another.")
    try:
        suite = load_suite(options.suite)
        files, absent = _own(options.suite, suite)
        suite.prepare(options.data_dir, options.cache_dir)
    except (SuiteError, DataMissingError) as error:
        print(error, file=sys.stderr)
        return getattr(error, "status", DATA_MISSING)
    cached = {f"data/{suite.dataset}/{path.name}": path for path in sorted((options.cache_dir / suite.dataset).glob("*"))}
    files |= {place: path for place, path in cached.items() if _is_place(place)}  # none of data that is drawn
    out.mkdir(parents=True, exist_ok=True)
    for place, path in files.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / place)
    _write_source(out / "source.tar.gz")
    if options.packages:
        download(out / "wheels", options.packages, options.present, options.python, options.platform)
    _list(out, options.part_size)
    for sentence in absent:
        print(f"Not in the pack: {sentence}")
    return DONE


def _list(out: Path, part_size: int | None) -> None:
    """Cut what is larger than a part, write the manifest, and say what is in it."""
    whole = _entry(out, out / "source.tar.gz", None)  # what joins the others
    others = [path for path in sorted(out.glob("*/**/*")) if path.is_file()]
    files = [whole, *(_entry(out, path, part_size) for path in others)]
    if faults := [fault for file in files if (fault := _fault(file))] or _doubles(files):
        raise PackError("\n".join(faults))
    manifest = json.dumps({"files": files}, indent=1)
    if len(manifest) > _LONGEST_MANIFEST:
        raise PackError(refusal("fewer files", len(files), "Put images into an npz file."))
    (out / "manifest.json").write_text(manifest)
    count, total = sum(max(1, len(file["parts"])) for file in files), sum(file["bytes"] for file in files)
    print(f"{count + 1} files, {total / 1e6:.1f} MB, in {out}")
    wheels = [Path(name).name for name in _names(files, "wheels/")]
    print("Wheels:", ", ".join(wheels) or "none")


def _own(name: str, suite: "Suite") -> tuple[dict[str, Path], list[str]]:
    """What goes into the pack of a suite of one's own, by its place there; and sentences on what does not."""
    from benchmarks.suites.own import files_of
    from benchmarks.suites.suite import PAPER, SUITES

    path = Path(name.removesuffix(PAPER))
    found, others = ({}, []) if str(path) in SUITES else files_of(path, suite.definition, suite.strategies, suite.folder)
    files = {f"own/{place}": file for place, file in found.items()}
    if wrong := [place for place in files if not _is_place(place)]:
        expected = "data and code beside the suite's file, or below it, of names that begin with no dot"
        raise PackError(refusal(expected, wrong[0].removeprefix("own/"), "Move it there."))
    return files, others


def _write_source(path: Path) -> None:
    """The code, with the name of its commit: rows report it, and there is no git there."""
    def chosen(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tarfile.open(path, "w:gz") as archive:
        for name in _SOURCE:
            archive.add(ROOT / name, f"kmerge/{name}", filter=chosen)
        content = commit().encode()
        info = tarfile.TarInfo("kmerge/COMMIT")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def _entry(folder: Path, path: Path, part_size: int | None) -> dict[str, Any]:
    """Describe a file for the manifest; cut it into parts if it is larger than a part."""
    size, parts = path.stat().st_size, []
    with open(path, "rb") as file:
        digest = _digest(file)
    if part_size is not None and size > part_size:
        with open(path, "rb") as file:
            for number in range(-(-size // part_size)):
                part = Path(_part(str(path), number))
                with open(part, "wb") as target:
                    for chunk in _chunks(file, part_size):
                        target.write(chunk)
                parts.append(part.relative_to(folder).as_posix())
        path.unlink()
    return {"path": path.relative_to(folder).as_posix(), "bytes": size, "sha256": digest, "parts": parts}


def _chunks(file: Any, limit: int) -> Iterator[bytes]:
    while limit and (chunk := file.read(min(_CHUNK, limit))):
        limit -= len(chunk)
        yield chunk


def _part(path: str, number: int) -> str:
    return f"{path}.part{number:03}"


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(folder: Path, cache_dir: Path) -> int:
    files = _listed(folder)
    _check_room(folder, cache_dir, files)
    problems = [problem for file in files if (problem := _join(folder, file))]
    if problems:
        raise PackError("\n".join([*problems, "Copy these files again, then call --unpack again."]))
    sets: dict[str, list[str]] = {}
    for name in _names(files, "data/"):
        sets.setdefault(name.split("/")[1], []).append(name)
    for data, names in sets.items():
        _install(folder, names, cache_dir / data)
    print(f"{len(files)} files are complete{f'; the data is in {cache_dir}' if sets else ''}")
    for name in _names(files, "own/"):
        if name.count("/") == 1 and name.endswith((".toml", ".json")):
            print(f"The suite is {shlex.quote(str(folder / name))}, with its data and code beside it.")
    if others := _unlisted(folder, files):
        print(f"Left alone, as manifest.json does not list them: {printable(', '.join(others))}")
    if wheels := _names(files, "wheels/"):
        paths = " ".join(shlex.quote(str(folder / name)) for name in wheels)
        print(f"Install the packages: python -m pip install --no-index --no-deps {paths}")
    return DONE


def _names(files: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    return [file["path"] for file in files if file["path"].startswith(where)]


def _listed(folder: Path) -> list[dict[str, Any]]:
    """What the manifest lists, all of it where a pack may have files, and each name once."""
    try:
        files = json.loads(read_regular(folder / "manifest.json", _LONGEST_MANIFEST))["files"]
        faults = [fault for file in files if (fault := _fault(file))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackError(f"{folder} has no readable manifest.json: {error}. Copy it again.") from error
    if faults := faults or _doubles(files):
        raise PackError("\n".join([*faults[:10], f"Nothing of {folder} was unpacked: its manifest.json is not one of ours."]))
    return files


def _doubles(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Files of one name; a disk may take two names for one that differ in their case alone."""
    counts = Counter(name.lower() for file in files for name in (file["path"], *file["parts"]))
    return [f"{name}: expected each file once, received it {n} times." for name, n in counts.items() if n > 1]


def _is_place(path: str) -> bool:
    """Whether a pack may have a file there."""
    return path.isprintable() and _PLACES.fullmatch(path) is not None


def _fault(file: Any) -> str | None:
    """What is wrong with an entry of a manifest."""
    path = file["path"]
    if not isinstance(path, str) or not _is_place(path):
        where = "source.tar.gz, data/SET/ARRAY.npy, data/SET/info.json, wheels/WHEEL.whl or own/FILE"
        return f"manifest.json: expected a file as {where}, received {str(path)[:200]!r}."
    size, digest, parts = file["bytes"], file["sha256"], file["parts"]
    is_size = type(size) is int and 0 <= size < 1 << 63
    if not is_size or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        return f"manifest.json: expected the size of {path} in bytes and its SHA-256, received others."
    if not isinstance(parts, list) or parts != [_part(path, number) for number in range(len(parts))]:
        return f"manifest.json: expected the parts of {path} to be {_part(path, 0)} and so on, received others."
    return None


def _check_room(folder: Path, cache_dir: Path, files: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what the disks have no room for, before a byte of it is read: a file with holes may claim any size."""
    cut = sum(file["bytes"] for file in files if file["parts"])
    data = sum(file["bytes"] for file in files if file["path"].startswith("data/"))
    largest = max((file["bytes"] for file in files), default=0)
    existing = next(place for place in (cache_dir, *cache_dir.absolute().parents) if place.is_dir())
    for place, needed in ((folder, max(cut, largest)), (existing, data)):
        if needed > (total := shutil.disk_usage(place).total):
            raise PackError(f"expected files of at most {total} bytes, as large as the disk of {place}, received {needed}.")


def _join(folder: Path, file: Mapping[str, Any]) -> str | None:
    """Make the file of its parts, unless it is there; what is wrong with it."""
    path, parts = file["path"], file["parts"]
    pieces = parts or [path]
    try:
        try:
            found = open_inside(folder, path)
        except FileNotFoundError:
            if missing := [name for name in pieces if not os.path.lexists(folder / name)]:
                return f"missing: {', '.join(missing)}"
            if not _glue(folder, file):
                return f"damaged: {', '.join(pieces)}"
            found = open_inside(folder, path)
        with found:
            if os.fstat(found.fileno()).st_size == file["bytes"] and _digest(found) == file["sha256"]:
                return None
    except OSError as error:
        return f"refused: {path}: {error.strerror}"
    if parts:
        (folder / path).unlink()  # the parts that come anew are joined anew
    return f"damaged: {', '.join(pieces)}"


def _glue(folder: Path, file: Mapping[str, Any]) -> bool:
    """Join the parts of a file; False if they are not as large as it."""
    with contextlib.ExitStack() as opened:
        parts = [opened.enter_context(open_inside(folder, part)) for part in file["parts"]]
        if sum(os.fstat(part.fileno()).st_size for part in parts) != file["bytes"]:
            return False
        path = folder / file["path"]
        draft = path.with_name(f".{path.name}.joined")
        with new_file(draft) as target:
            for part in parts:
                shutil.copyfileobj(part, target)
        os.replace(draft, path)
    return True


def _unlisted(folder: Path, files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Some of the files beside data, wheels and a suite of one's own that nobody vouches for."""
    known = {name for file in files for name in (file["path"], *file["parts"])}
    found = (
        os.path.relpath(os.path.join(where, name), folder)
        for place in ("data", "wheels", "own")
        for where, _, names in os.walk(folder / place)
        for name in sorted(names)
    )
    return list(itertools.islice((name for name in found if name not in known), 10))


def _install(folder: Path, names: Sequence[str], place: Path) -> None:
    """Copy the arrays of a data set into the cache, unless it has them."""
    about = next((name for name in names if name.endswith("/info.json")), None)
    if about is None:
        raise PackError(f"{folder}: expected an info.json beside {names[0]}, received none.")
    if place.exists():
        with open_inside(folder, about) as file:
            content = file.read()
        if not (place / "info.json").is_file() or (place / "info.json").read_bytes() != content:
            raise PackError(f"{place} holds other data of that name. Delete it, or name another --cache-dir.")
        return
    with draft_folder(place) as draft:
        for name in names:
            with open_inside(folder, name) as source, open(draft / name.rpartition("/")[2], "xb") as target:
                shutil.copyfileobj(source, target)
        draft.chmod(0o755)
        os.rename(draft, place)


if __name__ == "__main__":
    sys.exit(main())
