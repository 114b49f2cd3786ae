"""What may be claimed of a protocol: its comparisons, each in words, and one verdict on all.

A suite's file declares what is compared, by a table [comparisons]; see `benchmarks.suites.suite`. Its claims are about the
reference and the primary family alone. A file that names no family has that of `RIVALS`, those of them that have results.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baselines.protocol.metrics import METRICS
from benchmarks.records.results import Row, is_number
from benchmarks.reports.comparisons import Comparison, compare_all
from benchmarks.reports.statistics import LEVEL
from benchmarks.reports.summaries import done, grouped, mean, unit, writer

# What merging has to be held against: one long run for its compute, the best of several, more training, and no gates.
RIVALS = ("one_model_equal_compute", "best_of_three", "restart", "magnitude_merge")
# Their validation metric is the best of several, and so too good to choose by.
_CHOSEN_BY_VALIDATION = {"best_of_three", "best_of_three_big"}
COMPARISON_COLUMNS = (
    "suite",
    "protocol",
    "first",
    "second",
    "family",
    "test",
    "same_as",
    "n",
    "median_difference",
    "median_low",
    "median_high",
    "mean_difference",
    "mean_low",
    "mean_high",
    "effect_size",
    "p",
    "p_holm",
    "margin",
    "p_non_inferior",
    "seeds_for_power",
    "claim",
)
# What two strategies have in common, seed by seed, if they are the same in this protocol.
_MARKS = ("test_last", "test_best", "validation_last", "validation_best", "teacher_epoch_equivalents", "parameters")
_MANY_SEEDS = 1000


@dataclass(frozen=True)
class Claims:
    """Of one protocol.

    Attributes:
        comparisons: of the reference with each other strategy.
        is_declared: whether the suite's file names the primary family.
        verdict: a sentence; "" where nothing is compared.
    """

    comparisons: Sequence[Comparison] = ()
    is_declared: bool = False
    verdict: str = ""


def claims(rows: Sequence[Row], declared: Mapping[str, Any], reference: str | None = None) -> Claims:
    """What the finished runs of a protocol bear, in the last epoch.

    Args:
        rows: of the protocol, in the order of tables.
        declared: the suite's `comparisons`; empty for a suite that is not known.
        reference: the strategy to compare instead of the declared one, or where that has no result, the first one that
            has. Nobody declared that before the runs: all its comparisons are exploration.
    """
    groups = grouped(done(rows), "strategy")
    if not groups:
        return Claims()
    intended = declared.get("reference", next(iter(groups)))
    first = reference or (intended if intended in groups else next(iter(groups)))
    if first not in groups:
        return Claims()
    primary = declared.get("primary", RIVALS) if first == intended else ()
    metric = groups[first][0]["metric"]
    values = {name: {row["seed"]: row["test_last"] for row in group} for name, group in groups.items()}
    compared = compare_all(
        first,
        values,
        METRICS[metric].higher_is_better,
        declared.get("margin", METRICS[metric].margin),
        test=declared.get("test", "signed_rank"),
        primary=primary,
        same_as=_same_runs(groups, first, primary),
    )
    # One long run is what all are held against, be it in the family or not.
    text = _verdict(groups, first, compared, {*RIVALS, "one_model", *declared.get("primary", ())})
    return Claims(compared, "primary" in declared, text)


def _same_runs(groups: Mapping[str, Sequence[Row]], first: str, primary: Collection[str]) -> dict[str, str]:
    """Strategies that left the values and costs of another one at every common seed, and which one that is: the first
    strategy or one of the primary family, if it can be, or else that with the most seeds."""
    marks = {name: {row["seed"]: [row[mark] for mark in _MARKS] for row in group} for name, group in groups.items()}
    kept: list[str] = []
    same: dict[str, str] = {}
    for name in sorted(marks, key=lambda name: (name != first, name not in primary, -len(marks[name]))):
        mine = marks[name]
        twins = (other for other in kept if (common := mine.keys() & marks[other].keys())
                 and all(mine[seed] == marks[other][seed] for seed in common))  # fmt: skip
        if (twin := next(twins, None)) is None:
            kept.append(name)
        else:
            same[name] = twin
    return same


def _verdict(groups: Mapping[str, Sequence[Row]], first: str, compared: Sequence[Comparison], rivals: Collection[str]) -> str:
    metric = groups[first][0]["metric"]
    write, sign = writer(metric), 1 if METRICS[metric].higher_is_better else -1
    own = {row["seed"]: row for row in groups[first]}

    def pairs(name: str) -> list[tuple[Row, Row]]:
        return [(own[row["seed"]], row) for row in groups[name] if row["seed"] in own]

    def lead(name: str, column: str) -> list[float]:
        known = [(a[column], b[column]) for a, b in pairs(name) if is_number(a[column]) and is_number(b[column])]
        return [sign * (a - b) for a, b in known]

    def value(rows: Iterable[Row]) -> str:
        return write(mean(row["test_last"] for row in rows)) + (" %" if unit(metric) else "")

    validated = {c.second: lead(c.second, "validation_last") for c in compared if c.second in rivals and c.same_as != first}
    validated = {name: mean(leads) for name, leads in validated.items() if leads}
    text = f"Test {metric}: {first} {value(own.values())}"
    if validated:
        best = min(validated, key=lambda name: (name in _CHOSEN_BY_VALIDATION, validated[name]))
        leads = lead(best, "test_last")
        text = f"Test {metric}: {first} {value(a for a, _ in pairs(best))}, best other (by validation) {best} "
        text += f"{value(b for _, b in pairs(best))}: ahead in {sum(x > 0 for x in leads)} of {len(leads)} seeds"
        if level := sum(x == 0 for x in leads):
            text += f", level in {level}"
    return f"{text}; {_of_the_family(compared, write)}."


def _of_the_family(compared: Sequence[Comparison], write: Callable[[float], str]) -> str:
    """What the primary family bears, in words."""
    family = [c for c in compared if c.family == "primary" and c.same_as is None]
    if not family:
        return "no primary comparison: all of this is exploration"
    tested = [c for c in family if c.p is not None]
    parts = {
        "significantly better than": [c for c in tested if c.is_significant and c.is_ahead],
        "significantly worse than": [c for c in tested if c.is_significant and not c.is_ahead],
        "no significant difference to": [c for c in tested if not c.is_significant],
        f"not inferior by {write(family[0].margin or 0)} to": [
            c for c in tested if c.is_not_inferior and not (c.is_significant and c.is_ahead)
        ],
    }
    words = [f"{text} {listed(c.second for c in found)}" for text, found in parts.items() if found]
    untested: dict[str, list[str]] = {}
    for c in family:
        if c.p is None:
            untested.setdefault(c.claim, []).append(c.second)
    return ", ".join(words + [f"{claim} ({listed(names)})" for claim, names in untested.items()])


def listed(names: Iterable[str]) -> str:
    """Names as people write them: a, b and c."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def comparison_rows(suite: str, protocol: str, compared: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Rows of comparisons.csv."""
    rows = []
    for c in compared:
        row = {column: getattr(c, column) for column in COMPARISON_COLUMNS if hasattr(c, column)}
        row |= dict(zip(("median_low", "median_high"), c.median_interval, strict=True))
        row |= dict(zip(("mean_low", "mean_high"), c.mean_interval, strict=True))
        rows.append(row | {"suite": suite, "protocol": protocol})
    return rows


def sentence(c: Comparison, write: Callable[[float], str]) -> str:
    """A comparison in words."""
    text = f"{c.first} - {c.second}: median {write(c.median_difference)}, mean {write(c.mean_difference)}"
    if c.n > 1:
        text += " (95 % interval {} to {})".format(*map(write, c.mean_interval))
    if c.p is None:
        return f"{text}, n = {c.n}: **{c.claim}**."
    text += f", n = {c.n}, rank-biserial r = {c.effect_size:.2f}, "
    text += f"p = {c.p:.2g}" + ("" if c.p_holm is None else f", by Holm {c.p_holm:.2g}")
    if c.p_non_inferior is not None:
        text += f", p of inferiority by {write(c.margin)} or more = {c.p_non_inferior:.2g}"
    text += f": **{c.claim}**."
    needed = c.seeds_for_power
    if (c.p if c.p_holm is None else c.p_holm) >= LEVEL and needed is not None and needed > c.n:
        text += f" If the difference is as large as it looks here, {_number_of_seeds(needed)} would show it."
    return text


def _number_of_seeds(number: int) -> str:
    """An estimate of one digit or two, and none of a number that nobody can run."""
    return f"about {number} seeds" if number <= _MANY_SEEDS else f"more than {_MANY_SEEDS} seeds"


def comparison_parts(found: Claims, write: Callable[[float], str]) -> list[tuple[str, str, list[str]]]:
    """The comparisons as two lists: the primary family, and exploration.

    Args:
        found: of a protocol.
        write: how differences are written; see `benchmarks.reports.summaries.writer`.

    Returns:
        Of each list its head, how it came about, and its sentences; a list that would be empty is left out.
    """
    tests = {"signed_rank": "Wilcoxon's signed-rank test", "t": "the paired t-test, which the suite's file declares"}
    where = "declared in the suite's file" if found.is_declared else "by default: the suite's file names none"
    heads = {
        "primary": (f"Primary comparisons, {where}", "corrected by Holm's method"),
        "exploration": ("Exploration", "not corrected, so that nothing is claimed"),
    }
    parts = []
    for family, (head, correction) in heads.items():
        if of_it := [c for c in found.comparisons if c.family == family]:
            how = f"Paired by seed, last epoch; p by {tests[of_it[0].test]}, {correction}:"
            parts.append((head, how, [sentence(c, write) for c in of_it]))
    return parts


def missing_control(rows: Sequence[Row]) -> str:
    """A sentence where networks were merged, and no network was trained for as much compute; "" otherwise."""
    names = {row["strategy"] for row in done(rows)}
    if "one_model_equal_compute" in names or not any("merge" in name for name in names):
        return ""
    return (
        "No row of `one_model_equal_compute` here: merging spends more compute than one model of as many epochs, and nothing "
        "in this table shows what that buys. Add `--strategy one_model_equal_compute`."
    )
