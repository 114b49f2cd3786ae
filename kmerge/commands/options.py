"""The options of the command line."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from kmerge.costs import Budget
from kmerge.pruning import IMPORTANCES, NORMALIZATIONS


def command_parser() -> argparse.ArgumentParser:
    """The parser of `kmerge` with all of its commands."""
    parser = argparse.ArgumentParser("kmerge", description="Prune, merge and explain Keras models that are files.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("explain", "say what each layer does to each channel space, and what a unit costs"),
        ("prune", "remove the least important channels within a budget"),
        ("merge", "lay models side by side with gates; with --epochs, train these and cut back to the size of one"),
        ("compress", "cut a merged model whose gates were trained"),
        ("compare", "say how alike two models are, and what each way of joining them gives before any training"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        several = {"merge": "+", "compare": 2}.get(name, 1)
        command.add_argument("models", nargs=several, type=Path, metavar="MODEL.keras", help="a model saved by Keras")
        _ADDED[name](command)
        imports = "a module to import first, which registers layers of your own"
        command.add_argument("--import", action="append", default=[], metavar="MODULE", help=imports)
        _add_switches(command)
    again = commands.add_parser("run", help="make a model again from its recipe")
    again.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="the file beside the model")
    again.add_argument("--out", type=Path, help="the file to write; default: beside the recipe, by its name")
    _add_switches(again)
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, received {text!r}")
        return int(text)

    return number


def defaults(command: str) -> dict[str, object]:
    """The options of a command that makes a model, where only what must be given is."""
    budget = ["--budget", ""] if command == "prune" else []
    return vars(command_parser().parse_args([command, "model.keras", "--out", "new.keras", *budget]))


def _add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="write over files that are there")
    parser.add_argument("--trust-code", action="store_true", help="let Python code in the files run (safe_mode off)")


def _add_making(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="NEW.keras", help="the file to write")
    reads = "what the command itself reads: arrays, targets 'y', all others inputs"
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help=reads)
    parser.add_argument("--test", type=Path, metavar="FILE.npz", help="the same, on which models are measured for the card")
    parser.add_argument("--batch-size", type=_at_least(1), default=32, help="examples per batch (32)")


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    _add_making(parser)
    parser.add_argument("--budget", required=True, metavar="B", help="a share such as .5, or a number such as 100000")
    kinds = [field.name for field in dataclasses.fields(Budget)]
    parser.add_argument("--of", choices=kinds, default=kinds[0], help=f"what the budget limits ({kinds[0]})")
    known = ", ".join(sorted({*IMPORTANCES} - {"gates"}))
    parser.add_argument("--importance", default="magnitude", help=f"by which units are chosen (magnitude): {known}")
    parser.add_argument("--selection", choices=("local", "global"), default="local", help="within or across spaces (local)")
    kinds = ("auto", *NORMALIZATIONS, "none")
    parser.add_argument("--normalization", choices=kinds, default="auto", help="how spaces are made comparable (auto)")
    for name, text in (("minimum", "least"), ("maximum", "most")):
        bound = f"the {text} units, or share of them, that stay of each space; repeat it with NAME=NUMBER for some"
        parser.add_argument(f"--{name}", action="append", default=[], metavar="[NAME=]NUMBER", help=bound)
    whole = "a space, or a layer that makes some, that stays whole; may be repeated"
    parser.add_argument("--exclude", action="append", default=[], metavar="NAME", help=whole)
    repair = "correct layers that lose inputs by least squares on --data"
    parser.add_argument("--compensate", action="store_true", help=repair)
    parser.add_argument("--steps", type=_at_least(1), default=1, help="how often it is cut; needs --epochs (1)")
    parser.add_argument("--epochs", type=_at_least(0), default=0, help="epochs of training after each cut (0)")
    _add_training(parser)
    parser.add_argument("--multiple", type=_at_least(1), default=1, help="widths are multiples of this number (1)")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="seed of random choices (0)")


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loss", help="name of a loss of Keras; default: that which the first model was compiled with")
    parser.add_argument("--learning-rate", type=float, help="default: that of the first model's optimizer, or of Adam")


def _add_merging(parser: argparse.ArgumentParser) -> None:
    _add_making(parser)
    epochs = "epochs of the gates; 0: write the model with its gates (0)"
    parser.add_argument("--epochs", type=_at_least(0), default=0, help=epochs)
    parser.add_argument("--fine-tune", type=_at_least(0), default=0, metavar="EPOCHS", help="epochs after the cut (0)")
    _add_training(parser)
    parser.add_argument("--width", type=float, default=1.0, help="share of the first model's widths (1)")
    parser.add_argument("--sampling", choices=("example", "batch"), default="example", help="a mask per (example)")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="seed of the gates' noise (0)")


def _add_explaining(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the channel spaces, too")


def _add_comparing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="arrays: targets 'y', all others inputs")
    parser.add_argument("--metric", help="a metric of Keras, such as sparse_categorical_accuracy, to measure on the targets")


_ADDED: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "explain": _add_explaining, "prune": _add_pruning, "merge": _add_merging, "compress": _add_making,
    "compare": _add_comparing,
}  # fmt: skip
