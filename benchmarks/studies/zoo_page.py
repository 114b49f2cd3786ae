"""The table of `benchmarks.studies.zoo`: read, written, and how costs grow with size."""

import csv
import os
import platform
from collections.abc import Collection
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

COLUMNS = {
    "member": "member",
    "parameters": "parameters, M",
    "spaces": "spaces",
    "free": "of them free",
    "trace_seconds": "trace, CPU s",
    "concatenate_seconds": "concatenate, CPU s",
    "weights": "weights of the result, M",
    "seconds_per_million": "s per M weights",
    "memory_before": "memory with the parents, MB",
    "memory_peak": "peak, MB",
    "concatenate_error": "error of concatenate",
    "permute_error": "permute",
    "select_error": "select",
    "load_error": "load",
    "rounding": "rounding",
    "half_parameters": "half of each space: parameters",
    "spread": "spread of the logits",
    "problem": "problem",
}


def read(folder: Path | None) -> dict[str, dict]:
    """The rows that a folder holds, by member.

    Args:
        folder: where zoo.csv lies, if anywhere.

    Returns:
        For each member its row.
    """
    if folder is None or not (folder / "zoo.csv").exists():
        return {}
    with open(folder / "zoo.csv", newline="") as file:
        return {
            row["member"]: {key: _number(text) for key, text in row.items() if text} for row in csv.DictReader(file)
        }


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def write(folder: Path | None, rows: dict[str, dict], members: Collection[str]) -> None:
    """Writes zoo.csv and zoo.md.

    Args:
        folder: where; None writes nothing.
        rows: by member.
        members: all members, in order.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    ordered = {name: rows[name] for name in members if name in rows}
    with open(folder / "zoo.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(ordered.values())
    (folder / "zoo.md").write_text(page(ordered, len(members)))


def page(rows: dict[str, dict], of: int) -> str:
    """The table as a page.

    Args:
        rows: by member.
        of: how many members there are.

    Returns:
        Markdown.
    """
    shown = [key for key in COLUMNS if any(row.get(key) not in (None, "") for row in rows.values())]
    lines = ["| " + " | ".join(COLUMNS[key] for key in shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(_cell(key, row.get(key, "")) for key in shown) + " |" for row in rows.values()]
    about = _about(sum(not row.get("problem") for row in rows.values()), of)
    title = "# The networks of `keras.applications`, and two of segmentation"
    return "\n".join([title, "", about, "", *lines, "", _growth(rows), ""])


def _cell(key: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if key == "rounding" or key.endswith("_error") and value:
        return f"{value:.1e}"
    return f"{value:.0f}" if "memory" in key else f"{value:.3g}"


def _about(count: int, of: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("keras", "tensorflow", "numpy"))
    hardware = f"{_processor()}, {os.cpu_count()} cores, no GPU; Python {platform.python_version()}, {versions}"
    return (
        f"{count} of {of} members, measured by `python -m benchmarks.studies.zoo --members all --out docs/development`; "
        f"page written on {date.today()}, {hardware}. "
        "Two parents each, at the smallest input that the member takes, with random weights and statistics. "
        "An error is max|difference| / max|reference| of the logits; *rounding* is that of the member itself when its "
        "inputs change in their last bit, so that other errors cannot be expected below it. "
        "Memory is the most that the whole process held, TensorFlow included. Rows that were there before stay: their seconds "
        "may be another machine's."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _growth(rows: dict[str, dict]) -> str:
    """How seconds and memory grow with the number of weights: a straight line through all members."""
    rows = [row for row in rows.values() if "weights" in row]
    if len(rows) < 3:
        return ""
    weights = np.array([row["weights"] for row in rows])
    seconds = np.array([row["concatenate_seconds"] for row in rows])
    memory = np.array([row["memory_peak"] for row in rows])
    design = np.stack([np.ones_like(weights), np.array([row["spaces"] for row in rows]), weights], axis=1)
    parts = []
    for what, values, unit in (("Seconds", seconds, "s"), ("Memory", memory, "MB")):
        (start, each, slope), *_ = np.linalg.lstsq(design, values, rcond=None)
        residual = values - design @ (start, each, slope)
        explained = 1 - np.sum(residual**2) / np.sum((values - values.mean()) ** 2)
        parts.append(f"{what} = {start:.3g} {unit} + {each:.3g} {unit} per space + {slope:.3g} {unit} per million weights "
                     f"explains {explained:.1%} of the variance.")  # fmt: skip
    return "`concatenate`, fitted over all members by spaces and weights of the result: " + " ".join(parts)
