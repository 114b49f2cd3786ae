"""What a machine without a network needs to run a suite: source, decoded data, wheels; in files of a chosen size.

    python -m benchmarks.pack --suite cifar100 --out FOLDER --part-size 60M --present numpy jax jaxlib
    python -m benchmarks.pack --unpack FOLDER

    FOLDER/
        manifest.json           every file, its size, its SHA-256 and its parts
        source.tar.gz           this code, never cut; unpack it with `tar`, then call `--unpack` from there
        data/cifar100/...       decoded arrays; a file that is larger than a part is cut into NAME.part000, ...
        wheels/...              packages for pip

`--unpack` joins what was cut, checks every file and puts the data into the cache. It needs Python alone. A second call
does only what is missing, so parts may come one after the other.

Exit status: 0 done, 1 a file is missing or damaged, or pip failed, 2 wrong usage, 3 data missing.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkout import ROOT, commit
from benchmarks.command_line import DATA_MISSING, DONE, FAILED, USAGE, command_parser, ended, refusal

_SOURCE = ("kmerge", "baselines", "benchmarks", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_CHUNK = 1 << 20
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
    except PackError as error:
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
        suite.prepare(options.data_dir, options.cache_dir)
    except (SuiteError, DataMissingError) as error:
        print(error, file=sys.stderr)
        return USAGE if isinstance(error, SuiteError) else DATA_MISSING
    out.mkdir(parents=True, exist_ok=True)
    _write_source(out / "source.tar.gz")
    cached = options.cache_dir / suite.dataset
    if cached.exists():  # other data is drawn
        shutil.copytree(cached, out / "data" / suite.dataset)
    if options.packages:
        _download(out / "wheels", options)
    whole = _entry(out, out / "source.tar.gz", None)  # what joins the others
    others = [path for path in sorted(out.glob("*/**/*")) if path.is_file()]
    files = [whole, *(_entry(out, path, options.part_size) for path in others)]
    (out / "manifest.json").write_text(json.dumps({"files": files}, indent=1))
    count, total = sum(max(1, len(file["parts"])) for file in files), sum(file["bytes"] for file in files)
    print(f"{count + 1} files, {total / 1e6:.1f} MB, in {out}")
    wheels = [Path(file["path"]).name for file in files if file["path"].startswith("wheels/")]
    print("Wheels:", ", ".join(wheels) or "none")
    return DONE


def _write_source(path: Path) -> None:
    """The code, with the name of its commit: rows tell it, and there is no git there."""
    def chosen(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tarfile.open(path, "w:gz") as archive:
        for name in _SOURCE:
            archive.add(ROOT / name, f"kmerge/{name}", filter=chosen)
        content = commit().encode()
        info = tarfile.TarInfo("kmerge/COMMIT")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def _download(folder: Path, options: argparse.Namespace) -> None:
    """Have pip choose versions that fit together, then get the wheels of those that are not there."""
    target = ["--only-binary=:all:"]
    target += ["--python-version", options.python] if options.python else []
    target += [argument for tag in options.platform for argument in ("--platform", tag)]
    wanted = [_pinned(name) for name in options.packages]
    with tempfile.TemporaryDirectory() as unused:
        report = _pip(
            "install", "--dry-run", "--ignore-installed", "--report", "-", "--target", unused, *target, *wanted
        )
    chosen = [item["metadata"] for item in json.loads(report)["install"]]
    present = {_normal(name) for name in options.present}
    unknown = present - {_normal(item["name"]) for item in chosen}
    if unknown:
        print(f"Not needed anyway: {', '.join(sorted(unknown))}")
    missing = [f"{item['name']}=={item['version']}" for item in chosen if _normal(item["name"]) not in present]
    if missing:
        _pip("download", "--no-deps", "--dest", str(folder), *target, *missing)


def _pinned(name: str) -> str:
    """A package in the version that is installed here, as results depend on it; others as they are asked for."""
    try:
        return f"{name}=={importlib.metadata.version(name)}"
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return name


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise PackError(f"pip {arguments[0]} failed: {process.stderr.strip()}")
    return process.stdout


def _entry(folder: Path, path: Path, part_size: int | None) -> dict[str, Any]:
    """Describe a file for the manifest; cut it into parts if it is larger than a part."""
    size, parts = path.stat().st_size, []
    digest = _digest(path)
    if part_size is not None and size > part_size:
        with open(path, "rb") as file:
            for number in range(-(-size // part_size)):
                part = path.with_name(f"{path.name}.part{number:03}")
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


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(folder: Path, cache_dir: Path) -> int:
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        raise PackError(f"{folder} has no readable manifest.json: {error}. Copy it again.") from error
    problems = [problem for file in files if (problem := _join(folder, file))]
    if problems:
        raise PackError("\n".join([*problems, "Copy these files again, then call --unpack again."]))
    for data in sorted((folder / "data").glob("*")):
        _install(data, cache_dir / data.name)
    print(f"{len(files)} files are complete; the data is in {cache_dir}")
    wheels = sorted((folder / "wheels").glob("*.whl"))
    if wheels:
        print(f"Install the packages: python -m pip install --no-index --no-deps {folder / 'wheels'}/*.whl")
    return DONE


def _join(folder: Path, file: dict[str, Any]) -> str | None:
    """Make the file of its parts, unless it is there; what is wrong with it."""
    path = folder / file["path"]
    if not path.exists() and file["parts"]:
        missing = [part for part in file["parts"] if not (folder / part).exists()]
        if missing:
            return f"missing: {', '.join(missing)}"
        draft = path.with_name(f"{path.name}.draft")
        with open(draft, "wb") as target:
            for part in file["parts"]:
                with open(folder / part, "rb") as source:
                    shutil.copyfileobj(source, target)
        os.replace(draft, path)
    if not path.exists():
        return f"missing: {file['path']}"
    if _digest(path) != file["sha256"]:
        if file["parts"]:
            path.unlink()  # the parts that come anew are joined anew
        return f"damaged: {', '.join(file['parts'] or [file['path']])}"
    return None


def _install(data: Path, place: Path) -> None:
    """Copy the arrays of a data set into the cache, unless it has them."""
    if (place / "info.json").exists():
        if (place / "info.json").read_bytes() != (data / "info.json").read_bytes():
            raise PackError(f"{place} holds other data of that name. Delete it, or name another --cache-dir.")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    for path in data.iterdir():
        if ".part" not in path.name:
            shutil.copy2(path, draft / path.name)
    draft.chmod(0o755)
    os.rename(draft, place)


if __name__ == "__main__":
    sys.exit(main())
