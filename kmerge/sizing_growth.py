"""How many units a space is offered at the start of a period.

The fixed rule is the paper's: a share of the units there are, but at least so many. The adaptive one looks at what became of
the last offer to a space:

    at least 3/4 of the new units stayed    twice as many, but no more than the space has
    at most 1/4 stayed                      half as many
    else                                    as many again

One is offered at least, also where a limit on the size left nothing to offer. So a space that has found its size costs next
to nothing to test, and one that is too narrow doubles.
"""

from collections.abc import Mapping, Sequence

# The first offer of the adaptive rule, as a share of the units: the paper's.
_FIRST = 0.2
_MANY, _FEW = 0.75, 0.25


def grown_sizes(sizes: Mapping[str, int], growth: float, min_growth: int) -> dict[str, int]:
    """The sizes after units are added: a share of each, rounded down, but at least so many."""
    return {name: n + max(int(n * growth), min_growth) for name, n in sizes.items()}


def limited_sizes(sizes: Mapping[str, int], grown: Mapping[str, int], max_units: int) -> dict[str, int]:
    """The sizes after units are added, but to no space beyond so many; one that has more keeps its size."""
    return {name: max(n, min(grown[name], max_units)) for name, n in sizes.items()}


def adapted_sizes(sizes: Mapping[str, int], min_growth: int, history: Sequence[Mapping]) -> dict[str, int]:
    """The sizes after units are added by the adaptive rule.

    Args:
        sizes: those of now.
        min_growth: the least of the first offer.
        history: of sizes, as an `AutoSizer` keeps it. The last record with "stayed" tells of the last offer.
    """
    last = next((record for record in reversed(history) if "stayed" in record), None)
    if last is None:
        return grown_sizes(sizes, _FIRST, max(min_growth, 1))
    return {name: n + _next(last["new"][name], last["stayed"][name], n) for name, n in sizes.items()}


def _next(offered: int, stayed: int, units: int) -> int:
    if stayed >= _MANY * offered:
        offer = max(min(2 * offered, units), offered)
    else:
        offer = offered // 2 if stayed <= _FEW * offered else offered
    return max(offer, 1)
