"""Tables of results as LaTeX: a document that compiles, from which tables can be copied."""

import importlib.util
from collections.abc import Sequence

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
_HEAD = r"""\documentclass{article}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\setlength{\parindent}{0pt}
\begin{document}
"""
_FOOT = "\\end{document}\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it; characters beyond ASCII, which not every font has, as question marks."""
    plain = str(text).replace("−", "-").encode("ascii", "replace").decode()
    return "".join(_ESCAPES.get(character, character) for character in plain if character.isprintable())


def can_write() -> bool:
    """Whether what writes tables is installed; a machine that only trains may do without it."""
    return all(importlib.util.find_spec(name) is not None for name in ("pandas", "jinja2"))


def table(cells: Sequence[Sequence[str]], caption: str) -> str:
    """A table with a caption, no wider than the page; the first row is the head, texts left, numbers right."""
    import pandas  # here, because a list of suites does without it

    head, *rows = cells
    frame = pandas.DataFrame(rows, columns=head)
    numbers = frame.replace("", "0").apply(pandas.to_numeric, errors="coerce").notna().all() & bool(rows)
    style = frame.style.hide(axis="index").format(escaped).format_index(escaped, axis="columns")
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            style.to_latex(column_format="".join(numbers.map({True: "r", False: "l"})), hrules=True).rstrip() + "}",
            r"\end{table}",
        ]
    )


def document(title: str, parts: Sequence[str]) -> str:
    """A document of such tables."""
    return "\n\n".join([_HEAD + rf"\section*{{{escaped(title)}}}", *parts, _FOOT])
