"""What all commands of the benchmark share: how they are described, options, checked numbers, seeds, and how they end.

    parser = command_parser(__file__, __doc__, "--suite", "--seeds", "--out", seeds="0-2")

is a parser for the command of this file. A shared option means the same in every command; where a command has a default of
its own, it says so, and the help shows it. This module imports neither Keras nor NumPy, so help and refusals come at once.
"""

import argparse
import difflib
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkout import ROOT

# The exit statuses; argparse itself ends with 2, too.
DONE, FAILED, USAGE, DATA_MISSING, INTERRUPTED = 0, 1, 2, 3, 130
BACKENDS = ("tensorflow", "jax")


class UsageError(Exception):
    """What the user asked for cannot be; the message says what can."""


def refusal(expected: str, received: object, do: str = "") -> str:
    """The sentence of a refusal; that of `kmerge.checks`, without importing Keras."""
    return f"expected {expected}, received {received!r}." + (f" {do}" if do else "")


def nearest(name: object, known: Collection[str]) -> str:
    """A hint at the nearest of the names that are known, as "Did you mean polarization?"; "" where none is near."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""


def one_of(known: Collection[str], received: object) -> str:
    """The sentence for a name that is not known, with all that are, and a hint at the nearest."""
    return refusal(f"one of {', '.join(known)}", received, nearest(received, known))


def positive_number(text: str) -> float:
    """The finite number above 0 that a text says, as a type of argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(refusal("a number above 0", text))
    return value


def whole_number(text: str) -> int:
    """The whole number, 0 or more, that a text says, as a type of argparse."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(refusal("a whole number", text))
    return int(text)


def positive_whole_number(text: str) -> int:
    """The whole number above 0 that a text says, as a type of argparse."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(refusal("a whole number above 0", text))
    return int(text)


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
        help="runs at a time (default: 1 on a GPU, else one per core, at most 4)",
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
    if low.isascii() and low.isdigit() and not dash and int(low) > 0:
        return list(range(default[0], default[0] + int(low)))
    if all(part.isascii() and part.isdigit() for part in (low, high)) and int(low) <= int(high):
        return list(range(int(low), int(high) + 1))
    raise UsageError("--seeds: " + refusal("a number of seeds above 0, as 10, or a range, as 100-129", text))


def ended(parser: argparse.ArgumentParser, error: Exception, status: int = USAGE) -> int:
    """Tells why the command ends here; returns its exit status."""
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return status
