"""Tables, figures and one page from what a suite's runs left: how good each strategy is, and what may be claimed.

    python -m benchmarks.report results/cifar100
    python -m benchmarks.report results/digits results/sine --reference l0_merge_fade
    python -m benchmarks.report --serve results/digits
    python -m benchmarks.report results/*
    python -m benchmarks.report results/* --across results/across --reference one_model --strategy restart l0_merge_fade

Into each folder go summary.csv, comparisons.csv, summary.md, tables.tex, figures/*.pdf and *.png, and report.html, one
file that needs nothing else. What failed, is missing or cannot be trusted is said first, and never averaged.

With `--serve` nothing is written: the page of one folder is on an address of this machine until Ctrl-C, and stays live while a
launch runs. The suite's file says what is compared; `--suite FILE` names it where it is none that comes with the benchmark.

Of several folders, what their suites say together goes into a folder `across` beside them: across.md, matrix.csv, scores.csv,
tables.tex and figures; `--across DIR` writes that alone. What holds no results is then passed over, and told.

Exit status: 0, or 2 for a folder without results or a reference that has none.
"""

import contextlib
import csv
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command_line import DONE, UsageError, command_parser, ended, one_of, printable, refusal, whole_number
from benchmarks.files import write_atomically
from benchmarks.records.results import Results, ResultsError, Row, holds_results, read_results, tables_locked
from benchmarks.records.tables import read_csv, write_csv
from benchmarks.reports.across_report import write_across
from benchmarks.reports.claims import (
    COMPARISON_COLUMNS,
    Claims,
    claims,
    comparison_parts,
    comparison_rows,
    missing_control,
)
from benchmarks.reports.event_files import write_event_files
from benchmarks.reports.figures import write_figures
from benchmarks.reports.latex import BIBLIOGRAPHY, can_write, document, tables_of
from benchmarks.reports.markdown import markdown_table, one_line
from benchmarks.reports.page import page, page_content
from benchmarks.reports.pictures import picture_address
from benchmarks.reports.summaries import (
    SUMMARY_COLUMNS,
    by_protocol,
    class_cells,
    done,
    extras_cells,
    protocol_text,
    published_cells,
    result_cells,
    summary_rows,
    turned,
    writer,
)
from benchmarks.runs.log_to import add_log_to, check_loggers, log_run, loggers
from benchmarks.runs.loggers import LoggedRun
from benchmarks.runs.serving import serve
from benchmarks.suites.suite import SUITES, Suite, SuiteError, load_suite

# Of `--serve`, unless it is told another.
_PORT = 8765


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    parser = command_parser(__file__, __doc__, "--suite")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="results of a suite, as results/digits")
    parser.add_argument(
        "--reference", metavar="S", help="compare this one with the others, all as exploration (default: the suite's own)"
    )
    parser.add_argument(
        "--epoch", choices=("last", "best"), default="last", help="whose results the LaTeX tables show (default: last)"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write learning curves for TensorBoard, too")
    add_log_to(parser, "log all runs that have ended")
    parser.add_argument("--serve", action="store_true", help="show the page of one folder while a launch runs; write nothing")
    parser.add_argument(
        "--port", metavar="N", type=whole_number, default=_PORT, help=f"of --serve; 0 for a free one (default: {_PORT})"
    )
    parser.add_argument("--across", type=Path, metavar="DIR", help="write what the suites say together alone, into DIR")
    parser.add_argument(
        "--strategy", nargs="+", default=(), metavar="S", help="sum up these across suites (default: the most that can be)"
    )
    options = parser.parse_args(arguments)
    try:
        check_loggers(options.log_to)
        suite = None if options.suite is None else load_suite(options.suite, with_own=False)
        if options.serve:
            return _serve(options, suite)
    except (UsageError, SuiteError, ResultsError, OSError, OverflowError) as error:
        return ended(parser, error)
    found = []
    for folder in options.folders:
        try:
            if len(options.folders) > 1 and folder.exists() and not holds_results(folder):
                print(f"{printable(str(folder))} holds no results, and is passed over.")
            elif options.across is None:
                found.append(_report(folder, suite, options))
            else:
                found.append(read_results(folder))
        except (ResultsError, SuiteError, OSError) as error:
            return ended(parser, error)
    if options.across is None and len(found) < 2:
        return DONE
    out = options.across or Path(os.path.commonpath(map(Path.resolve, options.folders))) / "across"
    try:
        problems = write_across(found, out, options.reference, options.strategy)
        print(*map(printable, problems), f"across suites: {out / 'across.md'}", sep="\n")
    except (ValueError, OSError) as error:
        if options.across is not None:
            return ended(parser, error)
        print(f"Nothing is said across suites: {error}")
    return DONE


def _report(folder: Path, suite: Suite | None, options: Namespace) -> Results:
    """One folder's report, written and told."""
    with tables_locked(folder):
        results = read_results(folder)
        _check_reference(results, options.reference)
        order = suite_order(results.rows) if suite is None else suite.strategies
        write_report(results, order, options.reference, suite, options.epoch)
        said = [f"curves: {write_event_files(results)}"] if options.tensorboard else []
    said += _logged(results, options.log_to)
    print(*map(printable, results.problems), f"{len(results.rows)} runs: {folder / 'report.html'}", *said, sep="\n")
    return results


def _logged(results: Results, names: Sequence[str]) -> list[str]:
    """Log all runs that have ended elsewhere; a sentence about each that could not be, and how many there were."""
    if not names:
        return []
    ended = [row for row in results.rows if row["status"] in ("done", "failed")]
    problems, functions = [], loggers(names)
    for row in ended:
        name, run = f"{row['strategy']} seed {row['seed']}", row["run"]
        configuration = results.configurations.get(run) or {key: row[key] for key in ("suite", "strategy", "seed")}
        problems += log_run(functions, LoggedRun(results.folder, run, name, configuration, row, results.history.get(run, ())))
    return [*problems, f"{len(ended)} runs logged to {', '.join(names)}, {len(problems)} times in vain"]


def _serve(options: Namespace, suite: Suite | None) -> int:
    """Show the page of the one folder until somebody interrupts."""
    if len(options.folders) != 1:
        raise UsageError("--serve: " + refusal("one folder", [str(folder) for folder in options.folders]))
    (folder,) = options.folders

    def content() -> dict[str, Any]:
        results = read_results(folder)
        order = suite_order(results.rows) if suite is None else suite.strategies
        return page_content(results, *judged(results, order, options.reference, suite))

    content()  # a folder without results is refused now
    with serve(folder, content, options.port) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"The page is on http://{server.server_address[0]}:{server.server_address[1]}/ until Ctrl-C.", flush=True)
        server.serve_forever()
    return DONE


def judged(
    results: Results, order: Sequence[str], reference: str | None, suite: Suite | None
) -> tuple[dict[str, list[Row]], dict[str, Claims]]:
    """The rows of each protocol, and what may be claimed of them."""
    protocols = by_protocol(results.rows, order)
    return protocols, {name: claims(rows, _declared(rows[0]["suite"], suite), reference) for name, rows in protocols.items()}


def suite_order(rows: Sequence[Row]) -> list[str]:
    """The strategies of the rows' suites as their files order them; none for a suite that is not ours."""
    suites = dict.fromkeys(row["suite"] for row in rows)
    return [strategy for name in suites if name in SUITES for strategy in load_suite(name).strategies]


class Report(NamedTuple):
    """By protocol, what a report says: its section of summary.md, and its verdict, "" where nothing is compared."""

    sections: dict[str, str]
    verdicts: dict[str, str]


def write_report(
    results: Results,
    order: Sequence[str],
    reference: str | None = None,
    suite: Suite | None = None,
    epoch: str = "last",
) -> Report:
    """Write all tables, figures and the page into the results' folder.

    Args:
        results: of a suite.
        order: of the strategies in tables.
        reference: the strategy to compare instead of the declared one; protocols in which it has no run have no
            comparisons.
        suite: whose file declares the comparisons; None for the one of the rows' name, where it is one of ours.
        epoch: whose results the LaTeX tables show, "last" or "best".

    Returns:
        What it says of each protocol.
    """
    folder = results.folder
    protocols, found = judged(results, order, reference, suite)
    summaries = [row for rows in protocols.values() for row in summary_rows(rows)]
    pairs = [
        row for name, rows in protocols.items() for row in comparison_rows(rows[0]["suite"], name, found[name].comparisons)
    ]
    write_csv(folder / "summary.csv", SUMMARY_COLUMNS, summaries)
    write_csv(folder / "comparisons.csv", COMPARISON_COLUMNS, pairs)
    sections, tables, shown = {}, [], {}
    for name, rows in protocols.items():
        figures = write_figures(folder, name, rows, results.history, results.problems)
        shown[name] = picture_address(folder, figures)
        sections[name] = "\n\n".join(_section(rows, found[name], figures))
        tables += tables_of(rows, found[name], published(rows[0]["suite"]), epoch) if can_write() else []
    head = [f"# Results of {folder.name}", *(f"**{one_line(problem)}**" for problem in results.problems)]
    parts = [*head, *sections.values(), *_tuning(folder)]
    if can_write():
        write_atomically(folder / "tables.tex", document(f"Results of {folder.name}", tables))
        write_atomically(folder / BIBLIOGRAPHY.name, BIBLIOGRAPHY.read_text(encoding="utf-8"))
    else:
        (folder / "tables.tex").unlink(missing_ok=True)  # of other rows
        parts.append("No tables.tex: pandas and jinja2 are not installed.")
    write_atomically(folder / "summary.md", "\n\n".join(parts) + "\n")
    write_atomically(folder / "report.html", page(page_content(results, protocols, found, shown)))
    return Report(sections, {name: of_it.verdict for name, of_it in found.items()})


def published(suite: str) -> tuple:
    """What papers report on a suite of ours; see `benchmarks.suites.suite`."""
    return load_suite(suite).published if suite in SUITES else ()


def _declared(name: str, suite: Suite | None) -> Mapping[str, Any]:
    """What the rows' suite declares to be compared; nothing where its file is not known."""
    if suite is None and name in SUITES:
        suite = load_suite(name)
    return {} if suite is None else suite.comparisons


def _check_reference(results: Results, reference: str | None) -> None:
    known = sorted({row["strategy"] for row in done(results.rows)})
    if reference is not None and reference not in known:
        raise ResultsError(f"--reference: {results.folder} has no finished run of it: {one_of(known, reference)}")


def _section(rows: Sequence[Row], found: Claims, figures: dict[str, str]) -> list[str]:
    parts = [f"## {one_line(protocol_text(rows[0]))}"]
    failed = [row for row in rows if row["status"] == "failed"]
    parts += [f"**{one_line(row['strategy'])} seed {row['seed']} failed:** {one_line(row['error'])}" for row in failed]
    unfinished = sum(row["status"] == "unfinished" for row in rows)
    if unfinished:
        parts.append(f"**Unfinished runs: {unfinished}.** The same command runs them.")
    finished = done(rows)
    if not finished:
        return [*parts, "No run is done."]
    parts += [f"**{one_line(found.verdict)}**"] * bool(found.verdict)
    parts.append(markdown_table(result_cells(rows)))
    parts += [text for text in [missing_control(rows)] if text]
    together = max(row.get("together") or 1 for row in finished)
    if together > 1:
        parts.append(f"Up to {together} networks trained in one program; seconds are the program's over their number.")
    classes = class_cells(rows)
    if len(classes) > 1:
        parts += ["Test intersection over union of each class, %, last epoch, mean over the seeds:"]
        parts += [markdown_table(turned(classes))]
    extras = extras_cells(rows)
    if len(extras) > 1:
        parts += ["Means of what the strategies report besides:", markdown_table(extras)]
    tables = published(rows[0]["suite"])
    if tables:
        parts += [
            "Beside what papers report, test results of the last epoch:",
            markdown_table(published_cells(rows, tables)),
        ]
    for head, how, sentences in comparison_parts(found, writer(finished[0]["metric"])):
        parts += [f"### {head}", how, "\n".join(f"- {one_line(text)}" for text in sentences)]
    sources = sorted({_source(row) for row in finished})
    images = [f"![{caption}]({path})" for path, caption in figures.items()]
    return [
        *parts,
        "\n".join(f"- {source}" for source in sources),
        *(images or ["No figures: matplotlib is not installed."]),
    ]


def _source(row: Row) -> str:
    """Where a row comes from."""
    command = str(row["command"]).replace("`", "'")
    return one_line(f"`{command}` at {row['commit']} on {row['device']}")


def _tuning(folder: Path) -> list[str]:
    """What `benchmarks.tune` tried for this suite, and what it cost: none of that is in the rows above."""
    tables = sorted((folder / "tuning").glob("*.csv"))
    parts = ["## Tuning, on validation data, not charged to the runs above"] if tables else []
    for path in tables:
        try:
            cells = list(read_csv(path))
            head = cells[0]
        except (OSError, ValueError, IndexError, csv.Error) as error:
            parts.append(f"**{path} cannot be read: {error}**")
            continue
        parts += [f"{path.stem}:", markdown_table([head, *(row for row in cells[1:] if len(row) == len(head))])]
    return parts


if __name__ == "__main__":
    sys.exit(main())
