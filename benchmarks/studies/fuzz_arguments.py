"""Wrong arguments of every kind, given to every public function and class of kmerge: each is taken, or refused in our words.

    python -m benchmarks.studies.fuzz_arguments
    python -m benchmarks.studies.fuzz_arguments --only merge,prune

An outcome is "refused" (a `KmergeError`), "taken", or "foreign" (any other exception: a fault). What is taken is right only
for the kinds that `TAKEN` lists for the argument; all else that is taken is a fault, too. Without KERAS_BACKEND=jax
`fit_many` refuses all.
"""

import contextlib
import gc
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

import kmerge
from benchmarks.command_line import DONE, FAILED, command_parser
from benchmarks.studies.fuzz_targets import Right, Subclassed, targets


class Unshowable:
    """Raises wherever it is looked at."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


def nested(depth: int) -> list:
    """A list in a list in a list, deeper than Python recurses."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def wrong_values() -> dict[str, Any]:
    """A value of each kind that an argument may wrongly have, made anew."""
    return {
        "None": None, "NaN": float("nan"), "infinity": float("inf"), "-1": -1, "0": 0, "1e308": 1e308, "huge": 10**400,
        "beyond int64": 2**63, "-0.5": -0.5, "complex": 1j, "True": True, "text": "x", "empty text": "", "bytes": b"\xff",
        "surrogate": "\ud800", "NUL": "a\0b", "list": [], "list of None": [None], "nested": nested(100_000), "tuple": (),
        "dict": {}, "dict of numbers": {1: 2}, "dict of text": {"x": "y"}, "set": {1}, "range": range(3), "object": object(),
        "unshowable": Unshowable(), "lambda": lambda *x: x[0], "class": int, "empty array": np.zeros((0,)),
        "array": np.full((2, 3, 1, 2), -1.5), "array of text": np.array(["x"]), "array of objects": np.array([None, "x"]),
        "array of NaN": np.full(8, np.nan), "NumPy's NaN": np.float32("nan"), "NumPy's int": np.int64(-3),
        "subclassed model": Subclassed(), "unbuilt model": keras.Sequential([keras.layers.Dense(2)]),
        "layer": keras.layers.Dense(2), "optimizer": keras.optimizers.SGD(), "symbolic": keras.Input((3,)),
        "generator": (x for x in [1.0]),
    }  # fmt: skip


# What may be taken: kinds by argument, or by target and argument where it means something else there.
_REAL = "-1|0|beyond int64|-0.5|NumPy's int"
_POSITIVE = "beyond int64"
_LAZY = "|".join(wrong_values())  # what is looked at when an epoch is run, and here none is
TAKEN = {
    "seed": "-1|0|beyond int64|NumPy's int", "gates": _REAL, "start": _REAL, "scale": _REAL, "alpha": _POSITIVE,
    "width": "dict", "data": "None", "keep": "None|dict", "order": "dict", "new_units": "dict", "entries": "dict",
    "sizes": "dict", "parents": "list|tuple", "mean": "None|0", "path": "None|text|bytes", "outputs": "True", "inputs": "True",
    "apart": "True", "grow": "True", "proximal": "True", "shuffle": "True", "verbose": "0|True", "epochs": "0",
    "initial_epoch": "0", "static_epochs": "0", "epoch": "0", "callbacks": "list|tuple", "augment": "None|subclassed model",
    "data_bytes": "None|beyond int64", "validation_data": "None", "input_shape": "None|dict", "units": "None|beyond int64",
    "multiply_accumulates": "None|beyond int64", "parameters": "None|beyond int64", "control": "", "patience": "None",
    "compete": "0", "settle": "0", "rho": "0|beyond int64", "eta": "0|beyond int64", "polarization": "0|beyond int64",
    "pressure": "0|beyond int64", "step": "0|beyond int64", "origins": "None", "indices": "range", "axis": "-1|0|NumPy's int",
    "layer": "subclassed model|unbuilt model|layer", "base": "optimizer", "optimizer": "optimizer", "loss": _LAZY,
    "metrics": _LAZY, "growth": "0|beyond int64", "max_units": "None", "min_growth": "0", "period_steps": "None",
    "spaces": "None", "threshold": _POSITIVE, "name": "text|empty text|NUL", "monitor": "text|empty text|NUL",
    "why": "text|empty text|NUL", "metric": "lambda", "normalization": "None", "minimum": "dict",
    "maximum": "None|huge|beyond int64|dict", "exclude": "list|tuple|dict|empty array", "steps": "None",
    "evaluate": "lambda|None", "folder": "None|text|bytes", "compile": "True", "restart": "True",
    "latency": "None|beyond int64", "file_bytes": "None|beyond int64", "final": "dict", "train": "lambda",
    "f": "lambda|subclassed model", "normalize": "None",
    "gate_learning_rate": _POSITIVE, "gate_momentum": "0", "kept": "range", "shape": "None|list|list of None|tuple|symbolic",
    "weighted_metrics": _LAZY, "loss_weights": f"None|list|tuple|dict|list of None|dict of numbers|{_REAL}",
    "run_eagerly": "True", "auto_scale_loss": "True", "steps_per_execution": "None", "jit_compile": "None|0|True",
    "validation_split": "0", "class_weight": "None|dict", "sample_weight": "None", "weight": _REAL,
    "steps_per_epoch": "None", "validation_steps": "None", "validation_batch_size": "None",
    "validation_freq": "range", "y": "None", "seeds": "None", "augments": "None|list of None",
    "PaperControl.start": "0|beyond int64", "HardConcreteGate.seed": "None|-1|0|beyond int64|NumPy's int",
    "HardConcreteGate.units": "", "consumes.units": "range", "produces.units": "range", "channel.units": "range",
    "channel_spaces[].name": "", "gates_of.model": "subclassed model|unbuilt model", "fit_many.callbacks": "None",
    "AutoSizer.fit.augment": "None|lambda|subclassed model|unbuilt model|layer", "fit.y": "",
    "fit of classes.class_weight": "None|dict|dict of numbers", "AutoSizer.fit.sample_weight": _LAZY,
    "AutoSizer.fit.x": _LAZY, "AutoSizer.fit.y": _LAZY, "AutoSizer.fit.validation_data": _LAZY,
    "fit.validation_data": "None|symbolic|generator|array of text|array of objects",
    "AutoSizer.load.path": "text|bytes", "compare.metric": "None|lambda", "AutoSizer.predict.batch_size": "None",
    "AutoSizer.evaluate.batch_size": "None", "AutoSizer.fit.batch_size": "None", "AutoSizer.fit.callbacks": "None|list|tuple",
    "AutoSizer.load.alpha": "None|beyond int64", "functional.input_shape": "None",
}  # fmt: skip
# Keras itself walks through the arguments of a layer before the layer sees them.
_LAYERS = ("HardConcreteGate", "ApplyGates", "FoldGates", "WithMasks")


def outcome(call: Callable, arguments: Mapping) -> tuple[str, str]:
    """What becomes of a call: "taken", "refused" or "foreign", and the message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(**arguments)
        except kmerge.KmergeError as error:
            return "refused", str(error)
        except Exception as error:
            return "foreign", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return "taken", ""


def is_fault(target: str, argument: str, kind: str, found: str) -> bool:
    """Whether an outcome is wrong."""
    if found == "taken":
        allowed = TAKEN.get(f"{target}.{argument}", TAKEN.get(argument, ""))
        return argument != "" and kind not in allowed.split("|")
    if argument == "":
        return target != "fit_many" or found == "foreign" or keras.backend.backend() == "jax"
    return found == "foreign" and not (target in _LAYERS and kind == "nested")


def attack(
    wanted: Callable[[str], bool], kinds: Callable[[], Mapping[str, Any]] = wrong_values
) -> Iterator[tuple[str, str, str, str, str]]:
    """Gives each argument of each target wrong values, in the working directory, where files are written.

    Args:
        wanted: whether a target of this name is called.
        kinds: `kinds()` gives the wrong values for the next argument, by kind.

    Yields:
        Target, argument, kind of value, outcome and message; of a call that is right, no argument.
    """
    r = Right()
    for name, target in targets(r).items():
        if not wanted(name):
            continue
        yield name, "", "right", *outcome(target.call, target.right)
        for argument in target.right:
            for kind, value in kinds().items():
                yield name, argument, kind, *outcome(target.call, {**target.right, argument: value})
        gc.collect()


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__file__, __doc__)
    parser.add_argument("--only", default="", help="names of functions and classes, with commas between")
    only = [name for name in parser.parse_args(argv).only.split(",") if name]
    counts, faults = Counter(), 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for target, argument, kind, found, message in attack(lambda name: not only or name in only):
            counts[found] += 1
            if is_fault(target, argument, kind, found):
                faults += 1
                print(ascii(f"{target}({argument}={kind}): {found} {message}"), flush=True)
    print(f"{counts['refused']} refused, {counts['taken']} taken, {counts['foreign']} foreign; {faults} faults")
    return FAILED if faults else DONE


if __name__ == "__main__":
    sys.exit(main())
