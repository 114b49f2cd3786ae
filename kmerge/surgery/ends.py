"""Ends: what must hold for a model's outputs and inputs to grow, so that the old outputs stay as they are.

A new class, or a new input feature, comes last on its axis. Its column of a kernel is new; nothing else changes:

    Dense(3, name="classes")      kernel (6, 3), bias (3,)      with one more class (6, 4), (4,)
    Input((4,))                   read by a kernel (4, 6)       with one more feature (5, 6), whose last row is 0 at first
"""

from collections.abc import Iterable

import numpy as np

from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError
from kmerge.rules import Labels
from kmerge.spaces import ChannelSpace, Trace
from kmerge.surgery.layout import Layout


def check_growing_ends(layout: Layout, names: Iterable[str]) -> None:
    """Raises `InvalidArgumentError` if a space of these that holds an input or output cannot grow without harm.

    Args:
        layout: of the new model.
        names: the spaces that get new units.
    """
    for space in (layout.trace.spaces[name] for name in names):
        why = _obstacle(layout, space) if space.ends else ""
        if why:
            do = f"It cannot grow, for {why}. Build the wider model anew, and copy the weights that stay."
            raise InvalidArgumentError(sentence("an input or output that can grow alone", space.name, do))


def _obstacle(layout: Layout, space: ChannelSpace) -> str:
    """What stands against new units in a space, to be read behind "for"; empty if nothing does."""
    walked = layout.trace
    if space.is_input and space.is_output:
        return f"it is {' and '.join(space.ends)} of the model at once"
    if len(space.ends) > 1 and space.is_output:
        return f"{' and '.join(space.ends)} of the model hold the same units"
    if len(space.owners) > 1 and space.is_output:
        return f"{' and '.join(space.owners)} make it together"
    if space.is_normalized:
        return "a layer normalizes over its units together, so that new ones would change the old"
    unweighted = [path for path in space.consumers if not _has_weights_for(walked, path, space)]
    if unweighted:
        return f"{' and '.join(unweighted)} mixes its units without weights, so that new ones would change what it gives"
    pairs = [(x, layout.inputs[i]) for i, x in enumerate(walked.inputs)] if space.is_input else []
    pairs += [(x, layout.outputs[i]) for i, x in enumerate(walked.outputs)] if space.is_output else []
    pairs = [(old, new) for old, new in pairs if np.isin(old.units, space.units).any()]
    if not pairs:
        return "it is not an input itself but computed from one"
    return "" if all(_comes_last(layout, *pair) for pair in pairs) else "its new units would not come last"


def _has_weights_for(walked: Trace, path: str, space: ChannelSpace) -> bool:
    axes = (axis for named in walked.axes[path].values() for axis in named if axis is not None)
    return any(axis.role == "consumes" and np.isin(axis.units, space.units).any() for axis in axes)


def _comes_last(layout: Layout, old: Labels, new: Labels) -> bool:
    """Whether an axis begins with all the positions that it had, in their order."""
    start = new.units[: len(old.units)]
    is_old = layout.source_of(start) <= layout.plan.sources
    return len(start) == len(old.units) and bool(np.all(is_old)) and np.array_equal(start % layout.units, old.units)
