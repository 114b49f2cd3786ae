"""Widths that users ask for: a share, a number for each space, or a budget."""

from collections.abc import Mapping

import numpy as np

from kmerge.checks import refuse, sentence
from kmerge.costs.budgets import Budget, WidthCosts, share_ladder, widths_within
from kmerge.errors import InvalidArgumentError
from kmerge.spaces import ChannelSpace, Trace
from kmerge.surgery import by_space


def target_widths(walked: Trace, width: float | Mapping[str, int | float] | Budget, most: int) -> dict[str, int]:
    """The width of each selectable space.

    Args:
        walked: the walk of the model that widths are relative to.
        width: a share of the units of every space (a float); for some spaces, by name, a share or a number of units; or
            a `Budget`, met by the largest equal share of every space, rounded up where that fits.
        most: how many times the model's own width a space can have.

    Returns:
        A number of units, at least one, by name of the space.

    Raises:
        InvalidArgumentError: for an unknown space, a width out of range, or a budget that cannot be reached.
    """
    spaces = walked.spaces.selectable
    if isinstance(width, Budget):
        ladders = {space.name: share_ladder(space.size, range(1, most * space.size + 1)) for space in spaces}
        return widths_within(WidthCosts(walked), width, ladders, even=True)
    if isinstance(width, Mapping):
        return {s.name: s.size for s in spaces} | {
            name: units_of(walked.spaces[name], value, most) for name, value in by_space(walked.spaces, width).items()
        }
    if isinstance(width, (float, np.floating)):
        return {space.name: units_of(space, width, most) for space in spaces}
    refuse(
        "width",
        "a share of every space (a float such as 0.5 or 1.0), a mapping from names of spaces to shares or numbers of units, "
        "or a kmerge.Budget",
        width,
    )


def units_of(space: ChannelSpace, value: int | float, most: int = 1) -> int:
    """A number of units from a share (a float) or a number (an int), from 1 unit to `most` times the space's size."""
    if isinstance(value, (float, np.floating)) and 0 < value <= most:
        return max(1, round(float(value) * space.size))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= value <= most * space.size:
        return int(value)
    what = f"a number of units from 1 to {most * space.size}, or a share above 0 and at most {float(most)} (a float)"
    raise InvalidArgumentError(sentence(what, value, of=f"Space {space.name!r} with {space.size} units"))
