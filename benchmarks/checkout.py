"""The checkout that this code is run from: its folder, the name of its commit, and hashes of its code."""

import contextlib
import functools
import hashlib
import importlib.metadata
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# All code that a run may use.
ALL_CODE = ("kmerge", "baselines", "benchmarks")
# The code that a trained network depends on.
TRAINING_CODE = (
    "kmerge/seeds.py", "kmerge/batching.py", "kmerge/training", "baselines/protocol", "benchmarks/data", "benchmarks/networks",
)  # fmt: skip
# All that auto-sizing may use: it rewrites networks, so all of kmerge.
SIZING_CODE = ("kmerge", "baselines/sizing")


def digest_of(*places: str, root: Path = ROOT) -> str:
    """A SHA-256 of the code in these files and folders, and in all folders below them.

    Args:
        places: paths of Python files, or of folders with some, from the root of the checkout.
        root: folder of the checkout.

    Raises:
        FileNotFoundError: if one of the places has no code, and its hash would not tell one version from another.
    """
    digest = hashlib.sha256()
    for place in places:
        files = [root / place] if place.endswith(".py") else sorted((root / place).rglob("*.py"))
        if not files:
            raise FileNotFoundError(f"expected Python files below {root / place}, found none")
        for path in files:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def code_digest() -> str:
    """A hash of all code that a run may use, as it was when this process first asked."""
    return digest_of(*ALL_CODE)


def commit() -> str:
    """What `git describe` says of the checkout; where there is no git, what `benchmarks.pack` wrote into the source that it
    packed, or the version of the package."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--tags"]
        with contextlib.suppress(OSError):
            process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            if process.returncode == 0:
                return process.stdout.strip()
    with contextlib.suppress(OSError):
        return (ROOT / "COMMIT").read_text().strip()
    try:
        return f"kmerge {importlib.metadata.version('kmerge')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
