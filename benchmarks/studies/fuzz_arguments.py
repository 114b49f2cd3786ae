"""Wrong arguments of every kind, given to every public function and class of kmerge: each is taken, or refused in our words.

    python -m benchmarks.studies.fuzz_arguments
    python -m benchmarks.studies.fuzz_arguments --only merge,prune

An outcome is "refused" (a `KmergeError`), "taken", or "foreign" (any other exception: a fault). What is taken is right only
for the kinds that `TAKEN` lists for the argument; all else that is taken is a fault, too. `fit_many` needs KERAS_BACKEND=jax.
"""

import contextlib
import gc
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import kmerge
from benchmarks.command_line import DONE, FAILED, command_parser


class Unshowable:
    """Raises wherever it is looked at."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


class Subclassed(keras.Model):
    """A model that was never built."""

    def call(self, x):
        return x


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


class Target(NamedTuple):
    """Something public: what is called, and for each argument a right value."""

    call: Callable
    right: Mapping[str, Any]


class Right:
    """The right values: tiny models, each of its kind, and data."""

    def __init__(self):
        self.a, self.b = _model(0), _model(1)
        self.big = kmerge.merge(self.a, self.b)
        self.gated = kmerge.gate(self.a, 0.5)
        self.x, self.y = np.zeros((8, 4), "float32"), np.zeros((8, 2), "float32")
        self.trained = _model(2)
        self.trained.compile("adam", "mse")
        self.sizer = kmerge.AutoSizer(self.trained)
        self.folder = Path.cwd()
        self.file = self.folder / "sizer.npz"
        self.sizer.save(self.file)


def _model(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="image")
    h = keras.layers.Dense(6, activation="relu", name="h")(x)
    return keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.BatchNormalization(name="n")(h)))


def targets(r: Right) -> dict[str, Target]:
    """Everything public that takes arguments, by name."""
    parts = (_of_structure, _of_surgery, _of_merging, _of_gates, _of_training, _of_sizing)
    return {name: Target(*both) for part in parts for name, both in part(r).items()}


def _two(verb: Callable) -> Callable:
    return lambda first, second, **rest: verb(first, second, **rest)


def _of_structure(r: Right) -> dict[str, tuple]:
    return {
        "channel_spaces": (kmerge.channel_spaces, {"model": r.a}),
        "channel_spaces[]": (lambda name: kmerge.channel_spaces(r.a)[name], {"name": "h"}),
        "explain": (kmerge.explain, {"model": r.a}),
        "plot": (kmerge.plot, {"model": r.a, "path": str(r.folder / "a.svg")}),
        "functional": (kmerge.functional, {"model": r.a, "input_shape": None}),
        "functional of a subclass": (lambda shape: kmerge.functional(_built(), shape), {"shape": (4,)}),
        "consumes": (kmerge.consumes, {"units": np.arange(3)}),
        "produces": (kmerge.produces, {"units": np.arange(3)}),
        "channel": (kmerge.channel, {"units": np.arange(3)}),
        "register_rule": (kmerge.register_rule, {"layer_class": Subclassed, "rule": kmerge.OpaqueRule()}),
        "OpaqueRule": (kmerge.OpaqueRule, {"why": ""}),
        "multiply_accumulates": (kmerge.multiply_accumulates, {"model": r.a, "input_shape": (4,)}),
        "parameters": (kmerge.parameters, {"model": r.a}),
        "saved_bytes": (kmerge.saved_bytes, {"model": r.a}),
        "latency": (kmerge.latency, {"model": r.a, "batch_size": 1, "repetitions": 1}),
        "Budget": (kmerge.Budget, {"parameters": 0.5, "multiply_accumulates": None, "units": None}),
    }  # fmt: skip


def _of_surgery(r: Right) -> dict[str, tuple]:
    choice = {"model": r.a, "importance": "magnitude", "budget": 0.7, "selection": "local", "multiple": 1, "minimum": 1,
              "data": None, "batch_size": 32, "seed": 0}  # fmt: skip
    return {
        "concatenate": (_two(kmerge.concatenate), {"first": r.a, "second": r.b}),
        "grow": (kmerge.grow, {"model": r.a, "new_units": {"h": 2}, "outputs": False, "inputs": False,
                               "scale": 0.0, "seed": 0}),
        "grow of h": (lambda count: kmerge.grow(r.a, {"h": count}), {"count": 1}),
        "select": (kmerge.select, {"model": r.a, "keep": {"h": 3}}),
        "select of h": (lambda kept: kmerge.select(r.a, {"h": kept}), {"kept": 3}),
        "permute": (kmerge.permute, {"model": r.a, "order": {"h": range(6)}}),
        "permute of h": (lambda order: kmerge.permute(r.a, {"h": order}), {"order": range(6)}),
        "rewrite": (kmerge.rewrite, {"template": r.a, "sources": [r.a], "plan": kmerge.Plan(1, {}), "scale": 0.0, "seed": 0}),
        "Plan": (lambda **a: kmerge.rewrite(r.a, [r.a, r.a], kmerge.Plan(**a)),
                 {"sources": 2, "entries": {"h": [(0, 0), (1, 2)]}, "copied": frozenset(),
                  "averaged_outputs": frozenset(), "apart": True}),
        "Plan of h": (lambda entries: kmerge.rewrite(r.a, [r.a], kmerge.Plan(1, {"h": entries})), {"entries": [(0, 0)]}),
        "choose_units": (kmerge.choose_units, choice),
        "prune": (kmerge.prune, choice),
        "unit_importance": (kmerge.unit_importance, {"model": r.a, "importance": "random", "data": None, "batch_size": 32,
                                                "seed": 0}),
        "unit_importance taylor": (lambda **a: kmerge.unit_importance(r.trained, "taylor", **a),
                                   {"data": (r.x, r.y), "batch_size": 8}),
    }  # fmt: skip


def _of_merging(r: Right) -> dict[str, tuple]:
    merging = {"first": r.a, "second": r.b, "width": 1.0, "gates": "paper", "sampling": "example", "seed": 0}
    return {
        "merge": (_two(kmerge.merge), merging),
        "merge_pairwise": (_two(kmerge.merge_pairwise), {**{n: v for n, v in merging.items() if n != "width"},
                                                   "train": kmerge.compress}),
        "gate": (kmerge.gate, {"model": r.a, "width": 0.5, "gates": "open", "sampling": "example", "seed": 0}),
        "merge of h": (lambda width: kmerge.merge(r.a, r.b, width={"h": width}), {"width": 3}),
        "compress": (kmerge.compress, {"big": r.big, "data": None, "keep": {}}),
        "compress on data": (lambda data: kmerge.compress(r.gated, data), {"data": r.x}),
        "compress of h": (lambda kept: kmerge.compress(r.big, keep={"h": kept}), {"kept": range(6)}),
        "merge_report": (kmerge.merge_report, {"big": r.big, "parents": [r.a, r.b], "data": (r.x, r.y),
                                          "metric": "mean_squared_error"}),
        "merging_outlook": (kmerge.merging_outlook, {"histories": [[0.1, 0.2, 0.3, 0.4]] * 2, "mean": 0.5,
                                                "monitor": "val_accuracy"}),
    }  # fmt: skip


def _of_gates(r: Right) -> dict[str, tuple]:
    return {
        "gates_of": (kmerge.gates_of, {"model": r.big}),
        "gate_optimizer": (kmerge.gate_optimizer, {"base": "sgd", "gate_learning_rate": 0.1, "gate_momentum": 0.9}),
        "GateOptimizer": (kmerge.GateOptimizer, {"base": "sgd", "name": "gates"}),
        "GatePressure": (kmerge.GatePressure, {"control": "fade", "patience": None, "pressure": 0.1}),
        "PaperControl": (kmerge.PaperControl, {"start": 0.1, "step": 0.1}),
        "LagrangianControl": (kmerge.LagrangianControl, {"rho": 1.0, "eta": 0.5, "polarization": 0.1}),
        "FadeControl": (kmerge.FadeControl, {"pressure": 0.1, "compete": 0.3, "settle": 0.3}),
        "HardConcreteGate": (kmerge.HardConcreteGate, {"units": 2, "target": 0.5, "origins": [[0, 0], [0, 1]],
                                                  "sampling": "batch", "start": 1.0, "seed": 0}),
        "ApplyGates": (kmerge.ApplyGates, {"indices": [1, 2], "axis": -1}),
        "FoldGates": (kmerge.FoldGates, {"layer": keras.layers.Dense(2), "indices": [1, 2], "axis": 0}),
    }  # fmt: skip


def _of_training(r: Right) -> dict[str, tuple]:
    training = {"x": r.x, "y": r.y, "batch_size": 8, "epochs": 1, "initial_epoch": 1, "validation_data": (r.x, r.y),
                "callbacks": [], "shuffle": True, "seed": 0, "augment": None, "data_bytes": None, "verbose": 0}  # fmt: skip
    return {
        "fit": (kmerge.fit, {"model": r.trained, **training}),
        "fit_many": (kmerge.fit_many, {"models": [r.trained], "xs": r.x, "ys": r.y, "batch_size": 8, "epochs": 1,
                                  "initial_epoch": 1, "validation_data": (r.x, r.y), "callbacks": [[]], "shuffle": True,
                                  "seeds": [0], "augments": [None]}),
        "WithMasks": (kmerge.WithMasks, {"layer": keras.layers.RandomFlip(seed=1)}),
        "recalibrate": (kmerge.recalibrate, {"model": r.a, "data": r.x, "batch_size": 8}),
        "WeightedL1": (kmerge.regularizers.WeightedL1, {"alpha": 0.1, "f": "sqrt", "normalize": None}),
        "L21": (kmerge.regularizers.L21, {"alpha": 0.1}),
        "LInf1": (kmerge.regularizers.LInf1, {"alpha": 0.1}),
    }  # fmt: skip


def _of_sizing(r: Right) -> dict[str, tuple]:
    sizing = {name: getattr(r.sizer.options, name) for name in vars(r.sizer.options)}
    data = {"x": r.x, "y": r.y, "batch_size": 8, "epochs": 1, "static_epochs": 0, "initial_epoch": 1,
            "validation_data": None, "callbacks": [], "shuffle": True, "augment": None, "verbose": 0}  # fmt: skip
    return {
        "AutoSizer": (kmerge.AutoSizer, {"model": r.a, "alpha": 0.1, **sizing}),
        "AutoSizer.compile": (kmerge.AutoSizer(r.a).compile, {"optimizer": "adam", "loss": "mse", "metrics": []}),
        "AutoSizer.fit": (r.sizer.fit, data),
        "AutoSizer.save": (r.sizer.save, {"path": r.folder / "again.npz"}),
        "AutoSizer.load": (kmerge.AutoSizer.load, {"path": r.file, "alpha": None}),
        "AutoSizer.alpha_at": (r.sizer.alpha_at, {"epoch": 0}),
        "AutoSizer.larger": (r.sizer.larger, {"sizes": {"h": 6}}),
    }  # fmt: skip


def _built() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


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
    "why": "text|empty text|NUL", "metric": "lambda", "train": "lambda", "f": "lambda|subclassed model", "normalize": "None",
    "gate_learning_rate": _POSITIVE, "gate_momentum": "0", "kept": "range", "shape": "None|list|list of None|tuple|symbolic",
    "y": "None", "seeds": "None", "augments": "None|list of None",
    "PaperControl.start": "0|beyond int64", "HardConcreteGate.seed": "None|-1|0|beyond int64|NumPy's int",
    "HardConcreteGate.units": "", "consumes.units": "range", "produces.units": "range", "channel.units": "range",
    "channel_spaces[].name": "", "gates_of.model": "subclassed model|unbuilt model", "fit_many.callbacks": "None",
    "AutoSizer.fit.augment": "None|lambda|subclassed model|unbuilt model|layer", "fit.y": "",
    "AutoSizer.fit.x": _LAZY, "AutoSizer.fit.y": _LAZY, "AutoSizer.fit.validation_data": _LAZY,
    "fit.validation_data": "None|symbolic|generator|array of text|array of objects",
    "AutoSizer.load.path": "", "AutoSizer.load.alpha": "None|beyond int64", "functional.input_shape": "None",
}  # fmt: skip
# Keras itself walks through the arguments of a layer before the layer sees them.
_LAYERS = ("HardConcreteGate", "ApplyGates", "FoldGates")


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
    return argument == "" or found == "foreign" and not (target in _LAYERS and kind == "nested")


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
