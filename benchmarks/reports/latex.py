"""Tables of results as LaTeX: a document that compiles, from which tables can be copied.

    pdflatex tables && bibtex tables && pdflatex tables && pdflatex tables

The tables need the packages booktabs and graphicx; their citations are in `methods.bib`, which is written beside them.
"""

import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.protocol.metrics import METRICS
from benchmarks.records.results import Row
from benchmarks.reports.claims import Claims
from benchmarks.reports.comparisons import Comparison, not_worse
from benchmarks.reports.summaries import (
    class_cells,
    done,
    grouped,
    protocol_text,
    published_cells,
    summary_rows,
    turned,
    unit,
    writer,
)
from benchmarks.strategies.labels import citation_of, label_of

# The papers that the tables cite.
BIBLIOGRAPHY = Path(__file__).parent / "methods.bib"

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "-": "{-}",  # no ligatures
    "[": "{[}",  # no options of the line above
    "*": "{*}",
    **{character: "\\" + character for character in "&%$#_"},
}
# Beyond ASCII, what the encoding T1 has: the letters of European languages, and these signs.
_NO_LETTERS = "\xadĦħĸĿŀŉŦŧſ"
_SIGNS = "–—‘’“”„…†‡•€™"
_HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[a4paper,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\setlength{\parindent}{0pt}
\setlength{\belowcaptionskip}{4pt}
\begin{document}
"""
_FOOT = "\\end{document}\n"
_REFERENCES = "\\bibliographystyle{plain}\n\\bibliography{methods}\n\n"
# What a column of numbers has besides them.
_NO_NUMBER = re.compile(r"\$\\(?:pm|times)\$|\$-\$|[\d\s.,\[\]+]")
_TESTS = {"signed_rank": "Wilcoxon's signed-rank test", "t": "the paired t-test"}


class Tex(str):
    """A text that is LaTeX already."""


def escaped(text: str) -> str:
    """Text as LaTeX prints it; characters that the encoding T1 does not have, as question marks."""
    if isinstance(text, Tex):
        return text
    plain = "".join(map(_known, str(text).replace("−", "-")))
    return "".join(_ESCAPES.get(character, character) for character in plain if character.isprintable())


def _known(character: str) -> str:
    is_letter = "¡" <= character <= "ſ" and character not in _NO_LETTERS
    return character if character.isascii() or is_letter or character in _SIGNS else "?"


def can_write() -> bool:
    """Whether what writes tables is installed; a machine that only trains may do without it."""
    return all(importlib.util.find_spec(name) is not None for name in ("pandas", "jinja2"))


def tables_of(rows: Sequence[Row], found: Claims, published: Sequence[Mapping[str, Any]], epoch: str = "last") -> list[str]:
    """The tables of a protocol: its results, those beside what papers report, and its comparisons.

    Args:
        rows: of the protocol, in the order of tables.
        found: what may be claimed of it.
        published: what papers report; see `benchmarks.suites.suite`.
        epoch: whose results the first table shows, "last" or "best". All else is about the last one.

    Returns:
        The tables as LaTeX; none where no run is done.
    """
    if not done(rows):
        return []
    text = protocol_text(rows[0])
    parts = [_results(rows, found, epoch, text)]
    if len(cells := class_cells(rows)) > 1:
        cells = [cells[0], *([label_cell(row[0]), *row[1:]] for row in cells[1:])]
        parts.append(table(turned(cells), f"Test intersection over union of each class in percent, last epoch. {text}."))
    if published:
        cells = published_cells(rows, published)
        cells = [cells[0], *([label_cell(row[0]), *row[1:]] for row in cells[1:])]
        parts.append(table(cells, f"Ours beside published results, test results of the last epoch. {text}."))
    write = writer(done(rows)[0]["metric"])
    for family in ("primary", "exploration"):
        if of_it := [c for c in found.comparisons if c.family == family]:
            parts.append(_comparisons(of_it, write, done(rows)[0]["metric"], text))
    return parts


def _results(rows: Sequence[Row], found: Claims, epoch: str, text: str) -> str:
    finished = done(rows)
    metric = finished[0]["metric"]
    write = writer(metric)
    values = {
        name: {row["seed"]: row[f"test_{epoch}"] for row in group}
        for name, group in grouped(finished, "strategy").items()
    }
    test = found.comparisons[0].test if found.comparisons else "signed_rank"
    bold = not_worse(values, METRICS[metric].higher_is_better, test)
    summaries = [row for row in summary_rows(rows) if row["model"] == epoch and row["n"]]
    head = ["Method", "n", f"Test {metric}{unit(metric)}", "Validation", "Teachers", "Epochs", "Compute", "Parameters"]
    cells = [
        [
            label_cell(row["strategy"]),
            str(row["n"]),
            _spread(row["mean"], row["std"], write),
            *("" if row[name] is None else number(write(row[name])) for name in ("validation", "validation_teachers")),
            *("" if row[name] is None else f"{row[name]:.0f}" for name in ("epochs", "teacher_epoch_equivalents")),
            "" if row["parameters"] is None else f"{row['parameters']:,.0f}",
        ]
        for row in summaries
    ]
    caption = (
        f"Test {metric}{unit(metric)} of the {epoch} epoch: mean and standard deviation over n seeds. Bold: the best mean, "
        f"and what {_TESTS[test]} against it, at .05 and not corrected, does not find worse. Compute: teacher-epoch "
        f"equivalents. {text}."
    )
    return table([head, *cells], caption, {(i, 2) for i, row in enumerate(summaries) if row["strategy"] in bold})


def _comparisons(compared: Sequence[Comparison], write, metric: str, text: str) -> str:
    """A table of one family of comparisons."""
    first = compared[0]
    is_primary = first.family == "primary"
    head = ["Against", "n", "Mean difference [95 % interval]", "Effect size", "p", *["p by Holm"] * is_primary, "Result"]
    cells = []
    for c in compared:
        low, high = map(write, c.mean_interval)
        shown = number(write(c.mean_difference) + (f" [{low}, {high}]" if c.n > 1 else ""))
        values = [c.p, *[c.p_holm] * is_primary]
        p_values = ["" if p is None else "<.001" if p < 0.001 else f"{p:.3f}" for p in values]
        cells.append([label_cell(c.second), str(c.n), shown, number(f"{c.effect_size:.2f}"), *p_values, _result(c)])
    correction = "Primary comparisons, corrected by Holm's method" if is_primary else "Exploration, not corrected"
    caption = (
        f"{label_of(first.first)} less each other method, test {metric}{unit(metric)} of the last epoch, paired by seed. "
        f"{correction}; p by {_TESTS[first.test]}. Effect size: rank-biserial correlation. {text}."
    )
    return table([head, *cells], caption, {(i, 2) for i, c in enumerate(compared) if c.is_significant})


def _result(c: Comparison) -> str:
    """What a comparison says in a word or two."""
    if c.same_as is not None:
        return f"the runs of {label_of(c.same_as)}"
    if c.p is None:
        return "not tested"
    if c.family == "exploration":
        return ""
    if c.is_significant:
        return "better" if c.is_ahead else "worse"
    return "not inferior" if c.is_not_inferior else "no difference shown"


def label_cell(strategy: str) -> Tex:
    """The label of a strategy, and the citation of its paper, as LaTeX."""
    key = citation_of(strategy)
    return Tex(escaped(label_of(strategy)) + (rf"~\cite{{{key}}}" if key else ""))


def _spread(mean: float, std: float | None, write) -> Tex:
    return number(write(mean) if std is None else f"{write(mean)} ± {write(std)}")


def number(text: str) -> Tex:
    """A written number, or several, with the signs of mathematics."""
    return Tex(text.replace("-", "$-$").replace("±", r"$\pm$"))


def table(cells: Sequence[Sequence[str]], caption: str, bold: Collection[tuple[int, int]] = ()) -> str:
    """A table with a caption, no wider than the page; texts left, numbers right, and no column without a cell.

    Args:
        cells: the rows, the first one the head; what is no `Tex` is escaped.
        caption: above the table.
        bold: rows, without the head, and columns of the cells to be bold.
    """
    import pandas  # here, because a list of suites does without it

    head, *rows = cells
    kept = [j for j in range(len(head)) if any(row[j] for row in rows)]
    frame = pandas.DataFrame([[row[j] for j in kept] for row in rows], columns=[head[j] for j in kept], dtype=object)
    marks = [["textbf:--rwrap;" if (i, j) in bold else "" for j in kept] for i in range(len(rows))]
    style = frame.style.hide(axis="index").format(escaped).format_index(escaped, axis="columns")
    style = style.apply(lambda frame: pandas.DataFrame(marks, frame.index, frame.columns), axis=None)
    columns = "".join("r" if _are_numbers(row[j] for row in rows) else "l" for j in kept)
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            style.to_latex(column_format=columns, hrules=True).rstrip() + "}",
            r"\end{table}",
        ]
    )


def _are_numbers(cells: Iterable[str]) -> bool:
    return all(not _NO_NUMBER.sub("", cell.replace("<", "")) for cell in cells)


def document(title: str, parts: Sequence[str]) -> str:
    """A document of such tables, with the references that they cite."""
    references = _REFERENCES if any(r"\cite{" in part for part in parts) else ""
    return "\n\n".join([_HEAD + rf"\section*{{{escaped(title)}}}", *parts, references + _FOOT])
