"""The report on a merge: which units the gates of a big student keep, and of which parent."""

from dataclasses import dataclass

import keras
import numpy as np

from kmerge.merging.records import read_merge


@dataclass(frozen=True)
class SpaceReport:
    """What the gates of one space say.

    Attributes:
        units, kept: units in the big student, and how many of them `compress` keeps.
        from_parents: how many of the kept ones come from each parent.
        open_share: mean of P(g > 0). Its target is kept / units.
        undecided: share of units with .1 < P(g > 0) < .9.
    """

    units: int
    kept: int
    from_parents: tuple[int, ...]
    open_share: float
    undecided: float


class MergeReport(dict):
    """`SpaceReport` by name of the space. Prints as a table."""

    def __str__(self) -> str:
        lines = [f"{'space':40} {'units':>6} {'kept':>6}  {'from parents':16} {'open':>6} {'undecided':>9}"]
        for name, r in self.items():
            parents = " + ".join(map(str, r.from_parents))
            lines.append(f"{name:40} {r.units:6} {r.kept:6}  {parents:16} {r.open_share:6.2f} {r.undecided:9.2f}")
        return "\n".join(lines)


def merge_report(big: keras.Model) -> MergeReport:
    """Tells, per space, how many units `compress` would keep of which parent, and how decided the gates are.

    Args:
        big: a big student made by `merge`.

    Returns:
        A mapping from space names to `SpaceReport`; `print` shows it as a table.

    Raises:
        InvalidArgumentError: if `big` was not made by `merge`.
    """
    merged = read_merge(big)
    report = MergeReport()
    for name, gate in merged.gates.items():
        kept = gate.kept()
        counts = np.bincount([gate.origins[i][0] for i in kept], minlength=merged.plan.sources)
        share = float(np.mean(gate.open_probabilities()))
        report[name] = SpaceReport(gate.units, len(kept), tuple(counts.tolist()), share, gate.undecided())
    return report
