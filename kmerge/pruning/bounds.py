"""Bounds of pruning: the widths that a channel space may have, whatever the budget."""

from collections.abc import Iterable, Mapping

import keras
import numpy as np

from kmerge.checks import is_whole_number, refuse, sentence, whole_number
from kmerge.costs import units_of
from kmerge.errors import InvalidArgumentError
from kmerge.spaces import ChannelSpace, ChannelSpaces

# A number of units (an int), a share of them (a float), or one of these by name of a space or a layer.
Bound = int | float | Mapping[str, int | float]


def spaces_named(spaces: ChannelSpaces, name: str) -> list[ChannelSpace]:
    """The space of this name, or all that the layer of this name makes; raises `InvalidArgumentError` for another."""
    owned = [space for space in spaces.values() if name in space.owners]
    return owned if owned and name not in spaces else [spaces[name]]


def listed_names(exclude: Iterable[str]) -> list[str]:
    """The names to exclude, as a list; raises `InvalidArgumentError` for what is none."""
    is_listed = isinstance(exclude, Iterable) and not isinstance(exclude, str | keras.KerasTensor)
    names = list(exclude) if is_listed else [None]
    if not all(isinstance(name, str) for name in names):
        refuse("exclude", "a list of names of spaces or layers", exclude)
    return names


def allowed_widths(
    spaces: ChannelSpaces,
    multiple: int = 1,
    minimum: Bound = 1,
    maximum: Bound | None = None,
    exclude: Iterable[str] = (),
) -> dict[str, list[int]]:
    """The widths that each selectable space may have, ascending; of those that are excluded, their own.

    Args:
        spaces: of the model.
        multiple: widths are multiples of it, or a space's whole width.
        minimum: the least units of each space, or of some by name.
        maximum: the most.
        exclude: names of spaces, or of layers that make them.

    Raises:
        InvalidArgumentError: for an unknown name, a number out of range, or a space to which no width is left.
    """
    whole_number("multiple", multiple)
    free = {space.name: space for space in spaces.selectable}
    least, most = _by_name(spaces, "minimum", minimum, 1), _by_name(spaces, "maximum", maximum, None)
    whole = {space.name for name in listed_names(exclude) for space in spaces_named(spaces, name)}
    both = [name for name in free if name in whole and most[name] is not None and isinstance(maximum, Mapping)]
    if both:
        refuse("maximum", "of spaces that are not excluded", both)
    return {
        name: [space.size] if name in whole else _widths(space, multiple, least[name], most[name])
        for name, space in free.items()
    }


def _by_name(spaces: ChannelSpaces, of: str, bound: Bound | None, default: int | None) -> dict[str, int | float | None]:
    """The bound of each selectable space."""
    if not isinstance(bound, Mapping):
        return {space.name: bound for space in spaces.selectable}
    found: dict[str, int | float | None] = {}
    for name, value in bound.items():
        for space in spaces_named(spaces, name):
            if not space.selectable:
                do = f"It is not: {space.reason.rstrip('.')}."
                refuse(of, "by names of selectable spaces, or of layers that make them", name, do)
            if space.name in found:
                refuse(of, "by one name for each space", name, f"It means {space.name!r}, which is named before.")
            found[space.name] = value
    return {space.name: found.get(space.name, default) for space in spaces.selectable}


def _widths(space: ChannelSpace, multiple: int, minimum: int | float, maximum: int | float | None) -> list[int]:
    least = _units("minimum", space, minimum)
    most = space.size if maximum is None else _units("maximum", space, maximum)
    widths = list(range(-(-least // multiple) * multiple, min(most, space.size - 1) + 1, multiple))
    if most >= space.size:
        return [*widths, space.size]
    if not widths:
        what = f"a width that is a multiple of {multiple}, from the minimum of {least} to the maximum of {most} units"
        do = "There is none. Move a bound, or leave the space out: exclude=[...]."
        raise InvalidArgumentError(sentence(what, space.size, do, of=f"Space {space.name!r}"))
    return widths


def _units(of: str, space: ChannelSpace, value: int | float) -> int:
    """A number of units from a share (a float) or a number (an int)."""
    if isinstance(value, (float, np.floating)) and 0 < value <= 1:
        return units_of(space, value)
    if is_whole_number(value) and value >= 1:
        return int(value)
    refuse(of, "a number of units from 1 on (an int) or a share of them in (0, 1] (a float)", value)
