"""What all commands of the benchmark share: how they are described, options, checked numbers, seeds, and how they end.

    parser = command_parser(__file__, __doc__, "--suite", "--seeds", "--out", seeds="0-2")

is a parser for the command of this file. A shared option means the same in every command; where a command has a default of
its own, it says so, and the help shows it. This module imports neither Keras nor NumPy, so help and refusals come at once.
"""

import argparse
import difflib
import math
import reprlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkout import ROOT

# The exit statuses; argparse itself ends with 2, too.
DONE, FAILED, USAGE, DATA_MISSING, TABLES_STALE, INTERRUPTED = 0, 1, 2, 3, 4, 130
BACKENDS = ("tensorflow", "jax")
# The largest number that an option or a seed may be, and how many seeds may be asked for at once.
MOST, MOST_SEEDS = 999_999_999, 10_000


class UsageError(Exception):
    """What the user asked for cannot be; the message says what can.

    Attributes:
        status: that the command ends with.
    """

    def __init__(self, message: str, status: int = USAGE) -> None:
        super().__init__(message)
        self.status = status


def refusal(expected: str, received: object, do: str = "") -> str:
    """The sentence of a refusal; that of `kmerge.checks`, without importing Keras."""
    return f"expected {expected}, received {shown(received)}." + (f" {do}" if do else "")


class _Short(reprlib.Repr):
    """A `repr` of a line at most, however long, deep or large what comes is."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 4, 12, 12, 12
        self.maxstring = self.maxother = 200

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 200 else f"a whole number of {value.bit_length()} bits"


shown = _Short().repr


def printable(text: str) -> str:
    """A text of somebody's folder as a terminal may have it: what is no character to be seen, as an escape."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def nearest(name: object, known: Collection[str]) -> str:
    """A hint at the nearest of the names that are known, as "Did you mean polarization?"; "" where none is near."""
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"Did you mean {near[0]}?" if near else ""


def one_of(known: Collection[str], received: object) -> str:
    """The sentence for a name that is not known, with all that are, and a hint at the nearest."""
    return refusal(f"one of {', '.join(known)}", received, nearest(received, known))


def positive_number(text: str) -> float:
    """The number above 0, up to a billion, that a text says, as a type of argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(refusal(f"a number above 0, at most {MOST}", text))
    return value


def digits(text: str) -> int | None:
    """The whole number from 0 to `MOST` that a text of digits says; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) else None


def whole_number(text: str) -> int:
    """The whole number, 0 or more, that a text says, as a type of argparse."""
    if (value := digits(text)) is None:
        raise argparse.ArgumentTypeError(refusal(f"a whole number up to {MOST}", text))
    return value


def positive_whole_number(text: str) -> int:
    """The whole number above 0 that a text says, as a type of argparse."""
    if not (value := digits(text)):
        raise argparse.ArgumentTypeError(refusal(f"a whole number above 0, up to {MOST}", text))
    return value


_CACHE = Path("~/.cache/kmerge").expanduser()
_SHARED: dict[str, dict[str, Any]] = {
    "--suite": dict(metavar="NAME", help="a suite that `python -m benchmarks.run --list` names, or the file of one"),
    "--seeds": dict(
        metavar="N|A-B",
        help="N: the first N seeds of the suite, or 0 to N-1 without one; A-B: seeds A to B (default: the suite's)",
    ),
    "--scale": dict(metavar="F", type=positive_number, default=1.0, help="multiply all epochs (default: 1)"),
    "--examples": dict(metavar="N", type=positive_whole_number, help="use N training examples (default: all)"),
    "--data-dir": dict(metavar="D", type=Path, help="folder of tensorflow-datasets (default: its own)"),
    "--cache-dir": dict(
        metavar="D",
        type=Path,
        default=_CACHE,
        help="folder of decoded data; a machine without TensorFlow can run from it (default: ~/.cache/kmerge)",
    ),
    "--out": dict(metavar="DIR", type=Path, default=Path("results"), help="folder of what is written (default: results)"),
    "--jobs": dict(
        metavar="N",
        type=positive_whole_number,
        help="runs at a time (default: 1 on a GPU or TPU, else one per core, at most 4)",
    ),
    "--backend": dict(choices=BACKENDS, help="of Keras (default: $KERAS_BACKEND, or tensorflow)"),
}


def command_parser(
    file: str, doc: str, *options: str, required: Sequence[str] = (), epilog: str | None = None, **defaults: object
) -> argparse.ArgumentParser:
    """A parser for the command of a module.

    Args:
        file: of the module; it gives the command its name.
        doc: the module's docstring, whose first line describes the command.
        *options: those shared options that the command has.
        required: those of them that must be given.
        epilog: the last paragraph of the help.
        **defaults: of shared options, by name without dashes, where the command has defaults of its own.
    """
    module = ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.splitlines()[0], epilog=epilog)
    for name in options:
        how, key = dict(_SHARED[name], required=name in required), name.strip("-").replace("-", "_")
        if key in defaults:
            how["default"] = default = defaults.pop(key)
            how["help"] = how["help"].partition(" (default")[0] + (f" (default: {default})" if default is not None else "")
        parser.add_argument(name, **how)
    assert not defaults, f"no shared options of this command: {', '.join(defaults)}"
    return parser


def seeds_of(text: str | None, default: Sequence[int]) -> list[int]:
    """The seeds that `--seeds` names.

    Args:
        text: "N" for N seeds from the first default one on, "A-B" for A to B inclusive, None for the default.
        default: seeds of the suite, or of a study without one.

    Returns:
        The seeds, ascending.

    Raises:
        UsageError: for any other text.
    """
    if text is None:
        return list(default)
    low, dash, high = text.partition("-")
    first, last = digits(low), digits(high)
    if first and not dash:
        first, last = default[0], default[0] + first - 1
    if first is None or last is None or not first <= last < first + MOST_SEEDS:
        expected = f"a number of seeds from 1 to {MOST_SEEDS}, as 10, or a range of as many at most, as 100-129"
        raise UsageError("--seeds: " + refusal(expected, text))
    return list(range(first, last + 1))


def ended(parser: argparse.ArgumentParser, error: Exception, status: int | None = None) -> int:
    """Tells why the command ends here; returns its exit status: the given one, the error's, or that of wrong usage."""
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return getattr(error, "status", USAGE) if status is None else status
