"""What `fuzz_arguments` attacks: everything public that takes arguments, with a right value for each of them.

A target is named after the public name it is about, with what makes it special behind a dot, a bracket or a blank:
"AutoSizer.fit", "channel_spaces[]", "merge of h".
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import kmerge

# Made by the library alone: a user reads them.
RESULTS = frozenset(
    "ChannelSpace ChannelSpaces Comparison Drawing Explanation IterativePruning LayerShare MergeReport MergingOutlook "
    "PruningStep Site SpaceExplanation UnitChoice UnitWeight UnitWeights".split()
)


class Target(NamedTuple):
    """Something public: what is called, and for each argument a right value."""

    call: Callable
    right: Mapping[str, Any]


class Right:
    """The right values: tiny models, each of its kind, and data."""

    def __init__(self):
        self.a, self.b = model_of(0), model_of(1)
        self.big = kmerge.merge(self.a, self.b)
        self.gated = kmerge.gate(self.a, 0.5)
        self.x, self.y = np.zeros((8, 4), "float32"), np.zeros((8, 2), "float32")
        self.trained = model_of(2)
        self.trained.compile("adam", "mse")
        self.sizer = kmerge.AutoSizer(self.trained)
        self.folder = Path.cwd()
        self.file = self.folder / "sizer.npz"
        self.sizer.save(self.file)


class Subclassed(keras.Model):
    """A model that is not built before it is called."""

    def call(self, x):
        return x


def model_of(seed: int) -> keras.Model:
    """A small model whose only selectable space is "h"."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="image")
    h = keras.layers.Dense(6, activation="relu", name="h")(x)
    return keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.BatchNormalization(name="n")(h)))


def targets(r: Right) -> dict[str, Target]:
    """Everything public that takes arguments, by name."""
    parts = (_of_structure, _of_costs, _of_surgery, _of_pruning, _of_merging, _of_gates, _of_training, _of_sizing)
    return {name: Target(*both) for part in parts for name, both in part(r).items()}


def left_out(found: Mapping[str, Target]) -> list[str]:
    """The public functions, classes and methods of the sizer, and the arguments of these, that no target is about."""
    given: dict[str, set[str]] = {}
    for name, target in found.items():
        given.setdefault(re.split(r"[\[ ]", name)[0], set()).update(target.right)
    missing = []
    for name, public in _public().items():
        parameters = [p for p in inspect.signature(public).parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
        missing += [f"{name}({argument})" for argument in sorted(named - given.get(name, set()))]
        missing += [name] if parameters and name not in given else []
    return missing


def _public() -> dict[str, Callable]:
    """Everything public that can be called, but for what is raised and what only the library makes."""
    of_module = {name: getattr(kmerge, name) for name in kmerge.__all__}
    found = {
        name: public
        for name, public in of_module.items()
        if callable(public) and name not in RESULTS and not (isinstance(public, type) and issubclass(public, BaseException))
    }
    own = [name for name, value in vars(kmerge.AutoSizer).items() if name[0] != "_" and not isinstance(value, property)]
    sizer = kmerge.AutoSizer(model_of(0))
    return found | {f"AutoSizer.{name}": getattr(sizer, name) for name in own}


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
    }  # fmt: skip


def _of_costs(r: Right) -> dict[str, tuple]:
    return {
        "multiply_accumulates": (kmerge.multiply_accumulates, {"model": r.a, "input_shape": (4,)}),
        "parameters": (kmerge.parameters, {"model": r.a}),
        "saved_bytes": (kmerge.saved_bytes, {"model": r.a}),
        "latency": (kmerge.latency, {"model": r.a, "batch_size": 1, "repetitions": 1}),
        "Budget": (kmerge.Budget, {"parameters": 0.5, "multiply_accumulates": None, "units": None, "latency": None,
                                    "file_bytes": None}),
        "Budget of prune": (lambda **a: kmerge.prune(r.a, budget=kmerge.Budget(**a)), {"units": 5, "parameters": 40}),
        "PruningSchedule": (kmerge.PruningSchedule, {"steps": 2, "shape": "cubic"}),
        "PruningSchedule.limits": (kmerge.PruningSchedule().limits, {"whole": {"units": 6}, "final": {"units": 3}}),
    }  # fmt: skip


def _of_surgery(r: Right) -> dict[str, tuple]:
    return {
        "concatenate": (_two(kmerge.concatenate), {"first": r.a, "second": r.b}),
        "grow": (kmerge.grow, {"model": r.a, "new_units": {"h": 2}, "outputs": False, "inputs": False,
                               "scale": 0.0, "seed": 0}),
        "grow of h": (lambda count: kmerge.grow(r.a, {"h": count}), {"count": 1}),
        "select": (kmerge.select, {"model": r.a, "keep": {"h": 3}, "compile": False}),
        "select of h": (lambda kept: kmerge.select(r.a, {"h": kept}), {"kept": 3}),
        "permute": (kmerge.permute, {"model": r.a, "order": {"h": range(6)}}),
        "permute of h": (lambda order: kmerge.permute(r.a, {"h": order}), {"order": range(6)}),
        "rewrite": (kmerge.rewrite, {"template": r.a, "sources": [r.a], "plan": kmerge.Plan(1, {}), "scale": 0.0, "seed": 0}),
        "Plan": (lambda **a: kmerge.rewrite(r.a, [r.a, r.a], kmerge.Plan(**a)),
                 {"sources": 2, "entries": {"h": [(0, 0), (1, 2)]}, "copied": frozenset(),
                  "averaged_outputs": frozenset(), "apart": True}),
        "Plan of h": (lambda entries: kmerge.rewrite(r.a, [r.a], kmerge.Plan(1, {"h": entries})), {"entries": [(0, 0)]}),
    }  # fmt: skip


def _of_pruning(r: Right) -> dict[str, tuple]:
    choice = {"importance": "magnitude", "budget": 0.7, "selection": "local", "normalization": "auto", "multiple": 1,
              "minimum": 1, "maximum": None, "exclude": (), "data": None, "batch_size": 32, "seed": 0}  # fmt: skip
    measured = {"data": (r.x, r.y), "batch_size": 8, "steps": None}
    several = {"train": lambda small: None, "evaluate": lambda small: 0.5, "folder": None, "compile": True,
               "compensate": False}  # fmt: skip
    return {
        "choose_units": (kmerge.choose_units, {"model": r.a, **choice, "steps": None}),
        "prune": (kmerge.prune, {"model": r.a, **choice, "steps": None, "compile": False, "compensate": False}),
        "prune of h": (lambda **bounds: kmerge.prune(r.a, budget=0.7, **{n: {"h": v} for n, v in bounds.items()}),
                       {"minimum": 2, "maximum": 5}),
        "prune compensated": (lambda **a: kmerge.prune(r.trained, budget=0.7, compensate=True, compile=True, **a),
                              {"importance": "magnitude", **measured}),
        "prune_iteratively": (kmerge.prune_iteratively, {"model": r.trained, **choice, **several, "steps": 1}),
        "unit_importance": (kmerge.unit_importance, {"model": r.a, "importance": "random", "data": None, "batch_size": 32,
                                                     "steps": None, "seed": 0}),
        "unit_importance taylor": (lambda **a: kmerge.unit_importance(r.trained, "taylor", **a), measured),
        "unit_importance hessian": (lambda **a: kmerge.unit_importance(r.trained, "hessian", **a), measured),
        "register_importance": (kmerge.register_importance, {"name": "of the fuzz", "importance": _as_it_lies}),
    }  # fmt: skip


def _as_it_lies(weights) -> dict[str, np.ndarray]:
    return weights.sums(lambda weight: weight.array)


def _of_merging(r: Right) -> dict[str, tuple]:
    merging = {"first": r.a, "second": r.b, "width": 1.0, "gates": "paper", "sampling": "example", "heads": "same", "seed": 0}
    return {
        "merge": (_two(kmerge.merge), merging),
        "merge_pairwise": (_two(kmerge.merge_pairwise), {**{n: v for n, v in merging.items() if n not in ("width", "heads")},
                                                         "train": kmerge.compress}),
        "gate": (kmerge.gate, {"model": r.a, "width": 0.5, "gates": "open", "sampling": "example", "seed": 0}),
        "merge of h": (lambda width: kmerge.merge(r.a, r.b, width={"h": width}), {"width": 3}),
        "compress": (kmerge.compress, {"big": r.big, "data": None, "keep": {}, "batch_size": 8, "steps": None,
                                       "compile": False}),
        "compress on data": (lambda data: kmerge.compress(r.gated, data), {"data": r.x}),
        "compress of h": (lambda kept: kmerge.compress(r.big, keep={"h": kept}), {"kept": range(6)}),
        "merge_report": (kmerge.merge_report, {"big": r.big, "parents": [r.a, r.b], "data": (r.x, r.y),
                                          "metric": "mean_squared_error", "batch_size": 8, "steps": None}),
        "compare": (kmerge.compare, {"model": r.a, "other": r.b, "data": (r.x, r.y), "metric": "mean_squared_error",
                                     "batch_size": 8, "steps": None}),
        "merging_outlook": (kmerge.merging_outlook, {"histories": [[0.1, 0.2, 0.3, 0.4]] * 2, "mean": 0.5,
                                                "monitor": "val_accuracy"}),
    }  # fmt: skip


def _of_gates(r: Right) -> dict[str, tuple]:
    return {
        "gates_of": (kmerge.gates_of, {"model": r.big}),
        "gate_optimizer": (kmerge.gate_optimizer, {"base": "sgd", "gate_learning_rate": 0.1, "gate_momentum": 0.9}),
        "GateOptimizer": (kmerge.GateOptimizer, {"base": "sgd", "gate_learning_rate": 0.1, "gate_momentum": 0.9,
                                                 "name": "gates"}),
        "GatePressure": (kmerge.GatePressure, {"control": "fade", "patience": None, "restart": False, "pressure": 0.1}),
        "AfterFade": (kmerge.AfterFade, {"callback": keras.callbacks.EarlyStopping()}),
        "PaperControl": (kmerge.PaperControl, {"start": 0.1, "step": 0.1}),
        "PaperControl.pressure": (kmerge.PaperControl().pressure, {"epoch": 1}),
        "LagrangianControl": (kmerge.LagrangianControl, {"rho": 1.0, "eta": 0.5, "polarization": 0.1}),
        "FadeControl": (kmerge.FadeControl, {"pressure": 0.1, "compete": 0.3, "settle": 0.3}),
        "HardConcreteGate": (kmerge.HardConcreteGate, {"units": 2, "target": 0.5, "origins": [[0, 0], [0, 1]],
                                                  "sampling": "batch", "start": 1.0, "seed": 0}),
        "ApplyGates": (kmerge.ApplyGates, {"indices": [1, 2], "axis": -1}),
        "FoldGates": (kmerge.FoldGates, {"layer": keras.layers.Dense(2), "indices": [1, 2], "axis": 0}),
    }  # fmt: skip


def _of_training(r: Right) -> dict[str, tuple]:
    rest = {"batch_size": 8, "epochs": 1, "initial_epoch": 1, "validation_data": (r.x, r.y), "shuffle": True}
    training = {**rest, "x": r.x, "y": r.y, "sample_weight": np.ones(8), "validation_split": 0.0, "class_weight": None,
                "callbacks": [], "seed": 0, "augment": None, "data_bytes": None, "verbose": 0}  # fmt: skip
    several = {**rest, "models": [r.trained], "xs": r.x, "ys": r.y, "callbacks": [[]], "seeds": [0], "augments": [None],
               "packed_channels": "auto"}  # fmt: skip
    looked_at = {"x": r.x, "y": r.y, "sample_weight": np.ones(8), "validation_data": (r.x, r.y)}
    return {
        "fit": (kmerge.fit, {"model": r.trained, **training}),
        "fit of an epoch": (_one_epoch(kmerge.fit, r.trained), looked_at),
        "fit of classes": (_one_epoch(kmerge.fit, _classifier()), {"x": r.x, "y": np.arange(8) % 2, "class_weight": {0: 2.0}}),
        "fit of class 1": (lambda weight: _one_epoch(kmerge.fit, _classifier())(
            r.x, np.arange(8) % 2, class_weight={1: weight}), {"weight": 2.0}),
        "fit_many": (kmerge.fit_many, several),
        "WithMasks": (kmerge.WithMasks, {"layer": keras.layers.RandomFlip(seed=1)}),
        "recalibrate": (kmerge.recalibrate, {"model": r.a, "data": r.x, "batch_size": 8, "steps": None}),
        "WeightedL1": (kmerge.regularizers.WeightedL1, {"alpha": 0.1, "f": "sqrt", "normalize": None}),
        "L21": (kmerge.regularizers.L21, {"alpha": 0.1}),
        "LInf1": (kmerge.regularizers.LInf1, {"alpha": 0.1}),
    }  # fmt: skip


def _one_epoch(fit: Callable, *model: keras.Model) -> Callable:
    """`fit` for a single epoch, in which all data is looked at."""
    return lambda x, y, **arguments: fit(*model, x, y, batch_size=8, verbose=0, **arguments)


def _classifier() -> keras.Model:
    model = model_of(3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _of_sizing(r: Right) -> dict[str, tuple]:
    sizing = {name: getattr(r.sizer.options, name) for name in vars(r.sizer.options)}
    looked_at = {"x": r.x, "y": r.y, "sample_weight": np.ones(8), "validation_data": (r.x, r.y)}
    rest = {"batch_size": 8, "epochs": 1, "static_epochs": 0, "initial_epoch": 1, "callbacks": [], "validation_split": 0.0,
            "shuffle": True, "class_weight": None, "steps_per_epoch": None, "validation_steps": None,
            "validation_batch_size": None, "validation_freq": 1, "augment": None, "verbose": 0}  # fmt: skip
    compiling = {"optimizer": "adam", "loss": "mse", "loss_weights": None, "metrics": [], "weighted_metrics": None,
                 "run_eagerly": False, "steps_per_execution": 1, "jit_compile": "auto", "auto_scale_loss": True}  # fmt: skip
    return {
        "AutoSizer": (kmerge.AutoSizer, {"model": r.a, "alpha": 0.1, **sizing}),
        "AutoSizer.compile": (kmerge.AutoSizer(r.a).compile, compiling),
        "AutoSizer.fit": (r.sizer.fit, {**looked_at, **rest}),
        "AutoSizer.fit of an epoch": (_one_epoch(_fresh_sizer(r)), looked_at),
        "AutoSizer.predict": (_silent(r.sizer.predict), {"x": r.x, "batch_size": 8}),
        "AutoSizer.evaluate": (_silent(r.sizer.evaluate), {"x": r.x, "y": r.y, "batch_size": 8}),
        "AutoSizer.save": (r.sizer.save, {"path": r.folder / "again.npz"}),
        "AutoSizer.load": (kmerge.AutoSizer.load, {"path": r.file, "alpha": None}),
        "AutoSizer.alpha": (lambda alpha: setattr(r.sizer, "alpha", alpha), {"alpha": 0.1}),
        "AutoSizer.alpha_at": (r.sizer.alpha_at, {"epoch": 0}),
        "AutoSizer.larger": (r.sizer.larger, {"sizes": {"h": 6}}),
    }  # fmt: skip


def _silent(method: Callable) -> Callable:
    return lambda **arguments: method(verbose=0, **arguments)


def _fresh_sizer(r: Right) -> Callable:
    return lambda *data, **rest: kmerge.AutoSizer(r.trained, grow=False).fit(*data, epochs=1, static_epochs=0, **rest)


def _built() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


