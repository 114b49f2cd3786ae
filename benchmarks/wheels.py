"""Wheels for a machine without a network: pip chooses here what it would choose there. This module needs Python alone."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


class PipError(Exception):
    """What pip could not do; the message has its own."""


def download(
    folder: Path, packages: Sequence[str], present: Sequence[str], python: str | None, platforms: Sequence[str]
) -> None:
    """Have pip choose versions that fit together, then get the wheels of those that are not there.

    Args:
        folder: of the wheels; made if there are any.
        packages: what is wanted, with all that it needs.
        present: packages that are there.
        python: version of Python there; None for this one's.
        platforms: tags of wheels there; none for this machine's.

    Raises:
        PipError: if there are no such wheels, or no network.
    """
    target = ["--only-binary=:all:"]
    target += ["--python-version", python] if python else []
    target += [argument for tag in platforms for argument in ("--platform", tag)]
    wanted = [_pinned(name) for name in packages]
    with tempfile.TemporaryDirectory() as unused:
        report = _pip(
            "install", "--dry-run", "--ignore-installed", "--report", "-", "--target", unused, *target, *wanted
        )
    chosen = [item["metadata"] for item in json.loads(report)["install"]]
    there = {_normal(name) for name in present}
    unknown = there - {_normal(item["name"]) for item in chosen}
    if unknown:
        print(f"Not needed anyway: {', '.join(sorted(unknown))}")
    missing = [f"{item['name']}=={item['version']}" for item in chosen if _normal(item["name"]) not in there]
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
        raise PipError(f"pip {arguments[0]} failed: {process.stderr.strip()}")
    return process.stdout
