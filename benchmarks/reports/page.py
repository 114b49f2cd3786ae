"""One HTML page of a suite's results that needs nothing else: `web/page.html` with style, scripts and data in it.

The page's script only ever writes text, never markup, so that nothing in a result file can become code; and the browser
is told to run that one script alone, by its hash.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from baselines.protocol.metrics import METRICS
from benchmarks.records.results import Results, Row, is_number
from benchmarks.records.store import hash_of
from benchmarks.reports.claims import Claims
from benchmarks.reports.comparisons import Comparison
from benchmarks.reports.methods import methods
from benchmarks.reports.summaries import class_cells, done, grouped, protocol_text, summary_rows, unit
from benchmarks.suites.suite import SUITES, load_suite

# All curves of a page together have about this many points, and a run's at least so many.
_POINTS = 40_000
_FEWEST = 40
# The longest text of a cell, in characters.
_LONGEST = 10_000
_CURVES = ("val_metric", "val_loss", "loss", "learning_rate", "gate_pressure", "gate_penalty", "gate_undecided")
_PROVENANCE = (
    "suite", "strategy", "seed", "status", "error", "test_last", "test_best", "validation_last", "validation_best",
    "epochs", "teacher_epoch_equivalents", "flops", "seconds", "compile_seconds", "wall_seconds", "together", "parameters",
    "macs", "scale", "match", "factor", "examples", "backend", "precision", "devices", "device", "environment", "versions",
    "commit", "command", "protocol", "run", "extras",
)  # fmt: skip


_WEB = Path(__file__).parent / "web"
_SCRIPTS = ("tables.js", "charts.js", "page.js", "live.js")


def page(content: Mapping[str, Any]) -> str:
    """The page as an HTML document.

    Args:
        content: what it shows; see `page_content`. With an entry `live` it asks its server for what is new.
    """
    text = json.dumps(content, separators=(",", ":"), default=str, allow_nan=False)
    # In a script element only these can end or open anything.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    script = "\n".join((_WEB / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    parts = {
        "STYLE": (_WEB / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": script,
        "HASH": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "CONNECT": "'self'" if content.get("live") else "'none'",
        "DATA": text,
    }
    template = (_WEB / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], template)


def page_content(
    results: Results,
    protocols: Mapping[str, Sequence[Row]],
    found: Mapping[str, Claims],
    pictures: Mapping[str, str | None] = MappingProxyType({}),
) -> dict[str, Any]:
    """What the page shows.

    Args:
        results: of a suite.
        protocols: its rows, in the order of tables.
        found: per protocol, what may be claimed of it.
        pictures: per protocol, a figure as an address that holds it; none while a launch runs.

    Returns:
        Content for `page`, which JSON can hold.
    """
    most = max(_FEWEST, _POINTS // max(1, len(results.history)))
    settings: dict[str, Any] = {}
    shown = [_protocol(name, rows, found[name], results, most, settings) for name, rows in protocols.items()]
    shown = [each | {"pictures": pictures.get(each["name"])} for each in shown]
    title = f"Results of {results.folder.resolve().name}"
    return {"title": title, "problems": results.problems, "protocols": shown, "settings": settings}


def _protocol(
    name: str, rows: Sequence[Row], found: Claims, results: Results, most: int, settings: dict[str, Any]
) -> dict[str, Any]:
    finished = done(rows)
    metric = finished[0]["metric"] if finished else "accuracy"
    configurations = (results.configurations.get(row["run"], {}) for row in rows)
    definition = next((c["definition"] for c in configurations if isinstance(c.get("definition"), dict)), {})
    return {
        "name": name,
        "text": protocol_text(rows[0]),
        "metric": metric,
        "scale": 100 if unit(metric) else 1,
        "higher_is_better": METRICS[metric].higher_is_better,
        "missing": _missing(rows),
        "methods": methods(rows, found, definition),
        "summary": [_finite(row) for row in summary_rows(rows) if row["n"]],
        "classes": class_cells(rows),
        "verdict": found.verdict,
        "comparisons": [_finite(_comparison(c)) for c in found.comparisons],
        "runs": [_run(row, results.configurations.get(row["run"], {}), settings) for row in rows],
        "curves": {row["run"]: _curve(epochs, most) for row in finished if (epochs := results.history.get(row["run"]))},
    }


def _run(row: Row, configuration: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a run; what many runs have in common stands in `settings` once, and its key here."""
    shown = {name: _plain(row[name]) for name in _PROVENANCE if row.get(name) is not None}
    own = {name: value for name, value in configuration.items() if name not in _PROVENANCE}
    parts = {"definition": own.pop("definition", None), "settings": own}
    for name, content in parts.items():
        if content:
            content = _without_nan(content)
            shown[name] = key = hash_of({"": content})
            settings[key] = content
    return shown


def _comparison(c: Comparison) -> dict[str, Any]:
    low, high = c.mean_interval
    shown = {"first": c.first, "second": c.second, "n": c.n, "mean": c.mean_difference, "low": low, "high": high}
    return shown | {"effect": c.effect_size, "p": c.p, "holm": c.p_holm, "family": c.family, "claim": c.claim}


def _missing(rows: Sequence[Row]) -> list[str]:
    """The runs of the suite's own seeds that a strategy with results lacks: what would make the comparison whole."""
    suite = rows[0]["suite"]
    seeds = {row["seed"] for row in rows} | (set(load_suite(suite).seeds) if suite in SUITES else set())
    found = {name: {row["seed"] for row in group} for name, group in grouped(rows, "strategy").items()}
    lacking: dict[str, list[str]] = {}
    for name, there in found.items():
        if seeds - there:
            lacking.setdefault(ranges(seeds - there), []).append(name)
    return [f"{_few(names)}: seeds {text}" for text, names in lacking.items()]


def _few(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more strategies"


def ranges(numbers: set[int]) -> str:
    """Whole numbers as people write them: 0-3, 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _curve(epochs: Sequence[Row], most: int) -> dict[str, Any]:
    """What is known of a run's epochs, thinned to so many, the last one among them; numbers with four digits."""
    step = math.ceil(len(epochs) / most)
    kept = sorted({*range(0, len(epochs), step), len(epochs) - 1})
    columns = {}
    for name in _CURVES:
        values = [_rounded(_value(epochs[i], name)) for i in kept]
        if any(value is not None for value in values):
            columns[name] = values
    phases = [str(epochs[i].get("phase")) for i in kept]
    starts = [i for i, phase in enumerate(phases) if i == 0 or phase != phases[i - 1]]
    return {"epoch": [i + 1 for i in kept], "phases": [[kept[i] + 1, phases[i]] for i in starts], **columns}


def _value(row: Row, name: str) -> Any:
    value = row.get(name)
    extras = row.get("extras")
    return extras.get(name) if value is None and isinstance(extras, dict) else value


def _rounded(value: Any) -> float | None:
    return float(f"{value:.4g}") if is_number(value) else None


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _without_nan(content: Any) -> Any:
    """The same with texts instead of numbers that JSON does not have, which a stranger's file may hold."""
    return json.loads(json.dumps(content, default=str), parse_constant=str)


def _plain(value: Any) -> Any:
    """A cell as the page shows it: numbers and texts as they are, others as JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = value if isinstance(value, (int, float, str)) else json.dumps(value, default=str)
    return text[:_LONGEST] if isinstance(text, str) else text
