"""The table of `benchmarks.studies.wild`: read, written, and summed up."""

import csv
from collections import Counter
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

COLUMNS = (
    "model", "source", "package", "kind", "parameters", "rounding", "spread", "verb", "outcome", "value", "says", "seconds",
    "commit",
)  # fmt: skip
VERBS = {
    "spaces": "spaces", "permute": "permute", "select": "select", "grow": "grow", "prune": "prune to half",
    "concatenate": "concatenate", "merge": "merge, compress", "unchanged": "arguments",
}  # fmt: skip
# Those that promise equal outputs.
EXACT = ("permute", "select", "grow", "concatenate")
OUTCOMES = {
    "works": "the promise holds",
    "in part": "half of the weights cannot go, as too many hang on outputs or are fixed; half of what is free was pruned",
    "fixed": "no space of the model is free, so there is nothing to do",
    "refused": "an error of kmerge that says why",
    "foreign": "an exception of something else",
    "wrong": "the promise does not hold",
    "killed": "the process ran out of time or memory",
    "no model": "the model could not be built, or shows no error",
    "skipped": "a package is absent",
}

Table = dict[str, dict[str, dict]]


def read(folder: Path | None) -> Table:
    """The rows that a folder holds, by model and verb.

    Args:
        folder: where wild.csv lies, if anywhere.
    """
    rows: Table = {}
    if folder is not None and (folder / "wild.csv").exists():
        with open(folder / "wild.csv", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["model"], {})[row["verb"]] = row
    return rows


def write(folder: Path | None, rows: Table) -> None:
    """Writes wild.csv and wild.md.

    Args:
        folder: where; None writes nothing.
        rows: by model and verb, in order.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "wild.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row for verbs in rows.values() for row in verbs.values())
    (folder / "wild.md").write_text(page(rows))


def page(rows: Table) -> str:
    """The table as a page.

    Args:
        rows: by model and verb.

    Returns:
        Markdown.
    """
    head = ["model", "from", "kind", "parameters", *VERBS.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for model, verbs in rows.items():
        first = next(iter(verbs.values()))
        about = [model, first.get("source", ""), first.get("kind", ""), str(first.get("parameters", ""))]
        lines.append("| " + " | ".join(about + [_cell(verbs.get(verb), verb) for verb in VERBS]) + " |")
    legend = "; ".join(f"*{name}*: {meaning}" for name, meaning in OUTCOMES.items())
    parts = ["# Models as people have them", "", _about(rows), "", summary(rows), "", legend + ".", "", *lines, ""]
    return "\n".join(parts + ["## What is said", "", *_said(rows), ""])


def _cell(row: Mapping | None, verb: str) -> str:
    if row is None:
        return ""
    if row["outcome"] not in ("works", "in part") or row.get("value") in (None, ""):
        return row["outcome"]
    value = float(row["value"])
    if row["outcome"] == "in part":
        return f"in part: {value:.0%}"
    return f"{value:.0e}" if verb in EXACT else f"{value:.0%}" if verb in ("spaces", "prune") else "works"


def _about(rows: Table) -> str:
    packages = sorted({row["package"] for verbs in rows.values() for row in verbs.values() if row.get("package")})
    commits = Counter(row["commit"] for verbs in rows.values() for row in verbs.values())
    ours = [f"{name} {version(name)}" for name in ("keras", "tensorflow", "numpy")]
    return (
        f"{len(rows)} models, measured by `python -m benchmarks.studies.wild --out docs/development`; page written on "
        f"{date.today()}, commit {', '.join(name for name, _ in commits.most_common())}; {', '.join([*ours, *packages])}. "
        "Each model is as small as its example or package allows, with random weights and statistics; backbones, whose stream "
        "of channels is an output, have two blocks or more, in the proportions of the published ones. Numbers are errors, "
        "max|difference| / max|reference|; of spaces, the share of units that are free; of prune, the share of weights that "
        "is left."
    )


def summary(rows: Table) -> str:
    """One line: the shares of models pruned whole and followed exactly, and counts of what must not be.

    Args:
        rows: by model and verb.
    """
    built = {
        model: verbs
        for model, verbs in rows.items()
        if not {row["outcome"] for row in verbs.values()} & {"no model", "skipped"}
    }
    outcomes = [(verb, row["outcome"]) for verbs in built.values() for verb, row in verbs.items()]
    counts = Counter(outcome for _, outcome in outcomes)
    pruned = sum(verbs.get("prune", {}).get("outcome") == "works" for verbs in built.values())
    in_part = pruned + sum(verbs.get("prune", {}).get("outcome") == "in part" for verbs in built.values())
    free = sum(float(verbs.get("spaces", {}).get("value") or 0) > 0 for verbs in built.values())
    followed = [outcome for verb, outcome in outcomes if verb in EXACT and outcome in ("works", "wrong")]
    whole = sum(
        all(row["outcome"] == "works" for row in verbs.values()) and len(verbs) == len(VERBS) for verbs in built.values()
    )
    others = ", ".join(f"{counts[name]} {name}" for name in ("foreign", "wrong", "refused", "in part", "fixed", "killed"))
    return (
        f"**{_share(pruned, len(built))} pruned to half, trained, saved and loaded; "
        f"{_share(in_part, free)} of those with a free space pruned to half of what is free; "
        f"{_share(followed.count('works'), len(followed))} of the results that must be equal are; "
        f"{_share(whole, len(built))} keep every promise.** Of {len(outcomes)} outcomes: {others}."
    )


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / max(1, of):.1%})"


def _said(rows: Table) -> list[str]:
    """Each refusal, exception and broken promise, once for a model, with the verbs that it stopped."""
    lines = []
    for model, verbs in rows.items():
        said: dict[tuple[str, str], list[str]] = {}
        for verb, row in verbs.items():
            if row["outcome"] != "works":
                said.setdefault((row["outcome"], row.get("says", "")), []).append(VERBS.get(verb, verb))
        for (outcome, says), stopped in said.items():
            lines.append(f"- {model}, {outcome} ({', '.join(stopped)}): {says.replace('|', chr(92) + '|')}")
    return lines
