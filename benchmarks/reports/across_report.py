"""The report on several suites: tables, figures, and a page that says how they came about."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.files import own_folder, write_atomically
from benchmarks.records.results import Results
from benchmarks.records.tables import write_csv
from benchmarks.reports.across import (
    Block,
    Column,
    Difference,
    block_of,
    columns_of,
    differences,
    interquartile_means,
    probabilities_of_improvement,
    reference_of,
)
from benchmarks.reports.across_figures import Summary, cell_text, write_across_figures
from benchmarks.reports.figures import can_draw
from benchmarks.reports.latex import BIBLIOGRAPHY, Tex, can_write, document, label_cell, number, table
from benchmarks.reports.markdown import markdown_table, one_line
from benchmarks.strategies.labels import label_of

MATRIX_COLUMNS = ("strategy", "column", "metric", "n", "mean_difference", "low", "high", "sign")
SCORE_COLUMNS = (
    "strategy", "columns", "iqm", "iqm_low", "iqm_high", "improvement", "improvement_low", "improvement_high", "compute",
)  # fmt: skip
_MATRIX = """\
Each cell: mean difference in test results of the last epoch against {reference}, paired by seed, its 95 % bootstrap
interval, and the number of seeds; positive is better, in the metric's unit, accuracy in points. A sign, + or -, stands
where the interval excludes 0. None of this is corrected for the number of cells: it is exploration. What a suite claims
stands in its own report."""
_SCORES = """\
The strategies that all have results in the same {count} columns: {columns}. A score is the share of the reference's mean
error that a run is without: 0 is as good as {reference}, .1 has a tenth less errors, 1 none. IQM is the mean of the middle
half of all scores, P(better) the probability that a run is better than one of the reference in a column drawn by chance.
Intervals hold 95 % of a bootstrap that resamples the seeds of each column, for all strategies at once. Every column weighs
the same. Compute is that of training, relative to the reference's in the same column. The method is that of Agarwal et
al. 2021."""


def write_across(
    results: Sequence[Results], out: Path, reference: str | None = None, rivals: Collection[str] = ()
) -> list[str]:
    """Write what several suites say together: across.md, matrix.csv, scores.csv, tables.tex and figures.

    Args:
        results: of the suites.
        out: folder for the files, made where it does not exist.
        reference: the strategy that all are compared with; None for the one in the most columns.
        rivals: strategies whose scores are summed up, see `block_of`.

    Returns:
        Sentences about what is left out.

    Raises:
        ValueError: if there are not two columns in which another strategy has two seeds in common with it.
    """
    problems: list[str] = []
    columns = columns_of(results, problems)
    reference = reference or (reference_of(columns) if columns else "")
    matrix = differences(columns, reference)
    shown = [column for column in columns if any(column.name in found for found in matrix.values())]
    if alone := [column.name for column in columns if column not in shown]:
        problems.append(f"Left out, with no two seeds in common with {reference}: {'; '.join(alone)}.")
    if len(shown) < 2:
        expected = f"two protocols with two seeds in common of {reference or 'one strategy'} and another strategy"
        raise ValueError(f"expected {expected}, received {len(shown)}.")
    block = block_of(columns, reference, rivals)
    if block is None:
        problems.append(f"No scores: there are no two columns in which {', '.join([reference, *rivals])} all have two seeds.")
    summary = None if block is None else Summary(block, interquartile_means(block), probabilities_of_improvement(block))
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "matrix.csv", MATRIX_COLUMNS, _matrix_rows(shown, matrix))
    write_csv(out / "scores.csv", SCORE_COLUMNS, [] if summary is None else _score_rows(summary))
    figures = {}
    if can_draw():
        own_folder(out / "figures")
        figures = write_across_figures(out / "figures", shown, matrix, summary, reference, problems)
    write_atomically(out / "across.md", _page(shown, matrix, summary, reference, figures, problems))
    if can_write():
        write_atomically(out / "tables.tex", document("Across suites", _latex(shown, matrix, summary, reference)))
        write_atomically(out / BIBLIOGRAPHY.name, BIBLIOGRAPHY.read_text(encoding="utf-8"))
    return problems


def _matrix_rows(columns: Sequence[Column], matrix: Mapping[str, Mapping[str, Difference]]) -> list[dict]:
    rows = []
    for name, found in matrix.items():
        for column in columns:
            if (d := found.get(column.name)) is not None:
                values = (name, column.name, column.metric, d.n, d.mean, d.low, d.high, d.sign)
                rows.append(dict(zip(MATRIX_COLUMNS, values, strict=True)))
    return rows


def _score_rows(summary: Summary) -> list[dict]:
    rows = []
    for name, mean in summary.means.items():
        improvement = summary.improvements.get(name, (None, None, None))
        values = (name, len(summary.block.columns), *mean, *improvement, summary.block.compute.get(name))
        rows.append(dict(zip(SCORE_COLUMNS, values, strict=True)))
    return rows


def _page(columns, matrix, summary: Summary | None, reference: str, figures: Mapping[str, str], problems) -> str:
    parts = ["# Across suites", *(f"**{one_line(problem)}**" for problem in problems)]
    if summary is not None:
        block = summary.block
        parts += ["## Scores", _scores_text(block), markdown_table(_score_cells(summary))]
    cells = [["strategy", *(column.name for column in columns)]]
    for name, found in matrix.items():
        texts = [(found.get(column.name), column) for column in columns]
        cells.append([label_of(name), *("" if d is None else f"{_sign(d)}{cell_text(d, c, ' ')} ({d.n})" for d, c in texts)])
    parts += ["## Matrix", _MATRIX.format(reference=one_line(label_of(reference))), markdown_table(cells)]
    parts += ["\n".join(f"- {one_line(f'{column.name}: {column.text}')}" for column in columns)]
    parts += [f"![{caption}](figures/{name})" for name, caption in figures.items()]
    return "\n\n".join(parts) + "\n"


def _sign(d: Difference) -> str:
    return f"**{d.sign}** " if d.sign in "+-" else ""


def _scores_text(block: Block) -> str:
    names = "; ".join(map(one_line, block.columns))
    return _SCORES.format(count=len(block.columns), columns=names, reference=one_line(label_of(block.reference)))


def _score_cells(summary: Summary) -> list[list[str]]:
    """The table of scores as texts, the head first, the best strategy before others."""
    cells = [["strategy", "IQM of scores", "P(better)", "Compute"]]
    for name in sorted(summary.means, key=lambda name: -summary.means[name].value):
        estimates = [summary.means[name], summary.improvements.get(name)]
        texts = ["" if e is None else f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in estimates]
        cost = summary.block.compute.get(name)
        cells.append([name, *texts, "" if cost is None else f"{cost:.2f}"])
    return [cells[0], *([label_of(name), *row] for name, *row in cells[1:])]


def _latex(columns, matrix, summary: Summary | None, reference: str) -> list[str]:
    """Scores, and the matrix of the strategies that have them, columns below each other."""
    if summary is None:
        return []
    head, *rows = _score_cells(summary)
    names = sorted(summary.means, key=lambda name: -summary.means[name].value)
    cells = [["Method", *head[1:]]]
    cells += [[label_cell(name), *map(number, row[1:])] for name, row in zip(names, rows, strict=True)]
    count, first = len(summary.block.columns), label_of(reference)
    scores = (
        f"Scores over {count} suites, 95 % intervals by stratified bootstrap. IQM: interquartile mean share of the error of "
        f"{first} that is gone. P(better): probability of a better run than one of it. Compute: relative to its own."
    )
    rivals = [name for name in names if name != reference]
    table_of = [["Suite", "Metric", *map(label_of, rivals)]]
    bold = set()
    columns = [column for column in columns if any(column.name in matrix[name] for name in rivals)]
    for i, column in enumerate(columns):
        found = [matrix[name].get(column.name) for name in rivals]
        table_of.append(
            [column.name, column.metric, *(Tex("") if d is None else number(cell_text(d, column, " ")) for d in found)]
        )
        bold |= {(i, j + 2) for j, d in enumerate(found) if d is not None and d.sign in "+-"}
    differ = (
        f"Mean difference against {first}, paired by seed, with its 95 % interval; positive is better, accuracy in points. "
        "Bold: the interval excludes 0; not corrected for their number."
    )
    return [table(cells, scores), table(table_of, differ, bold)]
