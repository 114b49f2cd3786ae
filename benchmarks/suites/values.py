"""The kinds of values of a suite's file. Each refuses what is none, naming file and key, and shows how to write one.

    PHASE = Table({"momentum": Number(0.9, least=0, below=1), "nesterov": Flag()})
    PHASE.check(Place("mine.toml", ("phases", "teacher")), {"momentum": "0.9", "nesterov": False})

raises "mine.toml, phases.teacher.momentum: expected a number of at least 0 and below 1, received '0.9'. Write momentum = 0.9."
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, NoReturn

from benchmarks.command_line import DATA_MISSING, USAGE, nearest, one_of, refusal, shown


class SuiteError(ValueError):
    """A suite that does not exist, or whose file is wrong.

    Attributes:
        status: that a command ends with.
    """

    status = USAGE


class OwnDataMissingError(SuiteError):
    """A suite whose data, one's own, cannot be had; the message says where it was looked for."""

    status = DATA_MISSING


@dataclass(frozen=True)
class Place:
    """Where a value stands: the file, and the keys of the tables around it and its own, none for the whole file; and
    whether it is one of a list there."""

    file: str
    keys: tuple[str, ...] = ()
    is_in_list: bool = False

    def __truediv__(self, key: str) -> "Place":
        return Place(self.file, (*self.keys, key))

    def item(self, number: int) -> "Place":
        """The place of an item of the list that stands here, counted from 1."""
        return Place(self.file, (*self.keys[:-1], f"{self.keys[-1]} {number}"))

    @property
    def table(self) -> "Place":
        """The same, written as the head of a table."""
        return Place(self.file, (f"[{'.'.join(self.keys)}]",)) if self.keys else self

    def refuse(self, expected: str, received: object, do: str = "") -> NoReturn:
        """Raises: expected this, received that; do so."""
        raise SuiteError(f"{self}: {refusal(expected, received, do)}")

    def __str__(self) -> str:
        return f"{self.file}, {'.'.join(self.keys)}" if self.keys else self.file


class Kind:
    """What may stand at a place. `expected` says it in words, and `example` is one."""

    expected: str
    example: object

    def holds(self, value: Any) -> bool:
        """Whether a value is of this kind."""
        raise NotImplementedError

    def check(self, place: Place, value: Any) -> None:
        """Refuse a value of another kind.

        Raises:
            SuiteError: naming the place, what is expected, what was received, and how to write it.
        """
        if not self.holds(value):
            example = json.dumps([self.example] if place.is_in_list else self.example)
            place.refuse(self.expected, value, f"Write {place.keys[-1]} = {example}.")


@dataclass(frozen=True)
class Number(Kind):
    """A number within limits, `is_whole` or any; `of` says of what."""

    example: float
    _: KW_ONLY
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    is_whole: bool = False
    of: str = "a number"

    @property
    def expected(self) -> str:
        limits = {"of at least": self.least, "above": self.above, "below": self.below, "at most": self.most}
        return f"{self.of} {' and '.join(f'{word} {limit:.9g}' for word, limit in limits.items() if limit is not None)}"

    def holds(self, value: Any) -> bool:
        if type(value) is not int and (self.is_whole or type(value) is not float):
            return False
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )


def whole(least: int, most: int = 1_000_000, of: str = "a whole number") -> Number:
    """The kind of a whole number from `least` to `most`."""
    return Number(least, least=least, most=most, is_whole=True, of=of)


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    expected = "true or false"
    example = False

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(Kind):
    """A line of text."""

    example: str = "the digits with a network of mine"
    expected = "a line of at most 1000 characters"

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable()


@dataclass(frozen=True)
class OneOf(Kind):
    """One of some names, or of some numbers."""

    known: Collection[Any]

    def check(self, place: Place, value: Any) -> None:
        if not any(type(value) is type(name) and value == name for name in self.known):
            raise SuiteError(f"{place}: {one_of([str(name) for name in self.known], value)}")


@dataclass(frozen=True)
class ListOf(Kind):
    """A list, all of one kind, of so many items."""

    item: Kind
    least: int = 0
    most: int = 1000

    def check(self, place: Place, value: Any) -> None:
        if not (isinstance(value, list) and self.least <= len(value) <= self.most):
            number = self.least if self.least == self.most else f"{self.least} to {self.most}"
            place.refuse("a list" if isinstance(value, str | dict) else f"a list of {number} items", value)
        for number, item in enumerate(value, 1):
            self.item.check(place.item(number) if isinstance(self.item, Table) else replace(place, is_in_list=True), item)


@dataclass(frozen=True)
class Table(Kind):
    """A table with all `needed` keys, some of the `optional` ones, and no others."""

    needed: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)

    def check(self, place: Place, value: Any) -> None:
        kinds = {**self.needed, **self.optional}
        if not isinstance(value, dict):
            place.table.refuse("a table", value, f"Its keys are {', '.join(kinds)}.")
        unknown, missing = [key for key in value if key not in kinds], [key for key in self.needed if key not in value]
        if unknown or missing:
            found = [f"unknown keys {shown(unknown)}"] * bool(unknown) + [f"missing keys {missing}"] * bool(missing)
            free = [key for key in kinds if key not in value]
            hints = [hint for key in unknown[:5] if (hint := nearest(key, free))]
            text = f"{place.table}: expected keys of {', '.join(kinds)}, received {' and '.join(found)}."
            raise SuiteError(" ".join([text, *hints]))
        for key, item in value.items():
            kinds[key].check(place / key, item)


@dataclass(frozen=True)
class Named(Kind):
    """A table whose key `name` says which other keys it may have."""

    tables: Mapping[str, Mapping[str, Kind]]

    def check(self, place: Place, value: Any) -> None:
        if not isinstance(value, dict) or "name" not in value:
            place.table.refuse("a table with the key name", value, f"Names are {', '.join(self.tables)}.")
        name = OneOf(self.tables)
        name.check(place / "name", value["name"])
        Table({"name": name}, self.tables[value["name"]]).check(place, value)


@dataclass(frozen=True)
class Varied(Kind):
    """Values of one key that are to be tried: a list of them, or a range of numbers."""

    expected = "a list of values of one type, or a range { min, max } with 0 < min < max"
    example = [0.03, 0.1]

    def holds(self, value: Any) -> bool:
        if isinstance(value, dict):
            ends = value.get("min"), value.get("max")
            return value.keys() == {"min", "max"} and all(map(_POSITIVE.holds, ends)) and ends[0] < ends[1]
        if not isinstance(value, list) or {type(item) for item in value} not in ({int}, {float}, {str}, {bool}):
            return False
        return isinstance(value[0], str | bool) or all(map(_FINITE.holds, value))


_FINITE, _POSITIVE = Number(0.1, least=-1e38, most=1e38), Number(0.1, above=0, most=1e38)


@dataclass(frozen=True)
class Tuned(Kind):
    """A table of dotted keys of the file, each with values to be tried."""

    def check(self, place: Place, value: Any) -> None:
        if not isinstance(value, dict):
            place.table.refuse("a table", value, 'Its keys are as "phases.finetune.learning_rate".')
        for key, values in value.items():
            if not (len(key) <= 200 and key.isprintable()):
                place.table.refuse("dotted keys of the file", key)
            Varied().check(place / f'"{key}"', values)
