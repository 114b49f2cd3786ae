"""How the numbers of a protocol came about, in paragraphs for whoever reads its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.records.results import Row
from benchmarks.reports.claims import Claims, comparison_parts
from benchmarks.reports.summaries import done, protocol_text, unit, writer

_EQUIVALENT = (
    "Compute is counted in teacher-epoch equivalents: the floating-point operations of a run's training, over those of one "
    "epoch of training the suite's own architecture on the suite's training data. A run of 60 has cost as much as one such "
    "network that is trained for 60 epochs, whatever it trained: two parents at once, or a network of twice the width. "
    "Networks that strategies of a seed share are trained once, and charged in full to each row, as are their seconds."
)
_MEASURED = (
    "Each run is one strategy with one seed; all strategies of a seed see the same data and split. Choices are made on "
    "validation data alone, and test data is looked at once, when training is over: by the network of the last epoch, and "
    "by that of the epoch that was best on validation data. The column teachers (validation) is the mean of the networks "
    "that a run began with."
)


def methods(rows: Sequence[Row], found: Claims, definition: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Paragraphs, each with its head.

    Args:
        rows: of one protocol.
        found: what may be claimed of it.
        definition: of the suite, as runs keep it; empty where it is not known.
    """
    finished = done(rows)
    seeds = sorted({row["seed"] for row in finished})
    text = f"{protocol_text(rows[0])}. {len(finished)} runs are done, of {len({r['strategy'] for r in finished})} strategies"
    text += f" and {len(seeds)} seeds" + (f", {seeds[0]} to {seeds[-1]}." if seeds else ".")
    epochs = definition.get("epochs")
    if isinstance(epochs, Mapping):
        text += f" Epochs of the suite: {', '.join(f'{phase} {number}' for phase, number in epochs.items())}."
    parts = [("What was run.", text), ("What is measured.", _MEASURED), ("What is a teacher-epoch equivalent?", _EQUIVALENT)]
    if found.comparisons:
        parts.append(("How strategies are compared.", _compared(found, finished[0]["metric"])))
    devices = sorted({str(row["device"]) for row in finished if row.get("device")})
    commits = sorted({str(row["commit"]) for row in finished if row.get("commit")})
    if devices or commits:
        where = f"By the code of {', '.join(commits) or 'an unknown commit'}, on {'; '.join(devices) or 'an unknown device'}."
        parts.append(("Where it ran.", where))
    return parts


def _compared(found: Claims, metric: str) -> str:
    """The tests, the intervals and what is corrected."""
    first = found.comparisons[0]
    texts = [f"{head}: {how[0].lower()}{how[1:].rstrip(':')}." for head, how, _ in comparison_parts(found, writer(metric))]
    how = "Student's t" if first.test == "t" else "bootstrap over the seeds"
    texts.append(f"Differences are {first.first} minus the other, with 95 % intervals by {how}.")
    texts.append("The rank-biserial r is 1 where that is positive in every seed, and -1 where in none.")
    if first.margin is not None:
        margin = writer(metric)(first.margin) + (" points" if unit(metric) else "")
        texts.append(f"Not inferior means: worse by less than {margin}, by a one-sided test.")
    return " ".join(texts)
