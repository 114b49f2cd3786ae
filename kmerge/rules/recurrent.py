"""Rules for recurrent layers.

A unit stands in the block of every gate, and the recurrent kernel reads it at each step. An LSTM of two units has

    kernel              (inputs, 8)    makes [0 1 0 1 0 1 0 1]: input gate, forget gate, carry, output gate
    recurrent kernel    (2, 8)         mixes [0 1], makes the same
    bias                (8,)

and its outputs and both of its states hold [0 1]. So units of several models stand side by side exactly: what one model's
units read of another's is zero. Both layers of a Bidirectional must have one width, as Keras computes its shapes from the
first: unit i of one and unit i of the other are one unit.
"""

import keras
import numpy as np
from keras import layers

from kmerge.gates import GATED_RECURRENT, cells_of, runs_of, width_of
from kmerge.rules.elementwise import is_elementwise
from kmerge.rules.labels import Labels
from kmerge.rules.rule import Rule, consumes, produces, register_rule
from kmerge.rules.site import Site
from kmerge.sameness import without_entries

# By Keras' own classes of cells: how many blocks their kernels have, and how many states they carry on.
_BLOCKS = {"SimpleRNNCell": 1, "GRUCell": 3, "LSTMCell": 4, "ConvLSTMCell": 4}
_STATES = {"SimpleRNNCell": 1, "GRUCell": 1, "LSTMCell": 2, "ConvLSTMCell": 2}


class RecurrentRule(Rule):
    """A recurrent layer, or two that run forward and backward; `gated` is its class with gates."""

    def __init__(self, gated: type):
        self.gated = gated

    def walk(self, site, *inputs):
        self._require_known(site)
        named = site.named(inputs)
        (x,) = named["sequences"]
        site.require_last_axis(x)
        units = self._units(site)
        site.consume_inside(np.concatenate(units))
        read = site.consume(x)
        for path, run in _paths(site.layer):
            self._name_weights(site, path, run, read, units)
        states = [own for run in runs_of(site.layer) for own in _of_states(run, units)]
        self._tie(site, named.get("initial_state", []), states)
        outputs = [site.output(made, index=i) for i, made in enumerate(self._made(site.layer, units, states))]
        site.curve(*outputs)
        return outputs

    @staticmethod
    def _units(site: Site) -> list[np.ndarray]:
        """The units of each cell."""
        widths = [width_of(cell) for cell in cells_of(runs_of(site.layer)[0])]
        return [site.own(width, name=f"cell {i}") for i, width in enumerate(widths)]

    @staticmethod
    def _name_weights(site: Site, path: str, run: layers.RNN, read: np.ndarray, units: list[np.ndarray]) -> None:
        stacked = isinstance(run.cell, layers.StackedRNNCells)
        for cell, own in zip(cells_of(run), units, strict=True):
            name = f"{path}/{cell.name}" if stacked else path
            made = produces(np.tile(own, _BLOCKS[type(cell).__name__]))
            places = [None] * (len(cell.kernel.shape) - 2)
            site.weight(f"{name}/kernel", *places, consumes(read), made)
            site.weight(f"{name}/recurrent_kernel", *places, consumes(own), made)
            if cell.use_bias:
                site.weight(f"{name}/bias", *[None] * (len(cell.bias.shape) - 1), made)
            read = own

    @staticmethod
    def _tie(site: Site, given: list[Labels], states: list[np.ndarray]) -> None:
        """Ties the states that the layer starts from with its units."""
        handed = keras.tree.flatten((site.call.args[1:], site.call.kwargs.get("initial_state")))
        if len(given) not in (0, len(states)) or any(
            x is not None and not isinstance(x, keras.KerasTensor) for x in handed
        ):
            site.refuse("it starts from a state that is a constant.", "Hand it all of its states as tensors, or none.")
        for x, own in zip(given, states, strict=False):
            site.require_last_axis(x)
            site.tie(x.with_units(own), x)

    @staticmethod
    def _made(layer, units: list[np.ndarray], states: list[np.ndarray]) -> list[np.ndarray]:
        """The units along the last axis of each output."""
        made = [units[-1]]
        if isinstance(layer, layers.Bidirectional) and layer.merge_mode in ("concat", None):
            made = [np.tile(units[-1], 2)] if layer.merge_mode else [units[-1], units[-1]]
        return made + (states if layer.return_state else [])

    def _require_known(self, site: Site) -> None:
        runs = runs_of(site.layer)
        if site.layer.stateful:
            site.forbid("it is stateful: it carries its state from batch to batch.", "Build it with stateful=False.")
        for run in runs:
            if run is not site.layer and type(run) not in GATED_RECURRENT:
                site.refuse(f"it holds a {type(run).__name__}, which is no layer of Keras.", _REGISTER)
            for cell in cells_of(run):
                _require_known_cell(site, cell)
            if len({cell.name for cell in cells_of(run)}) < len(cells_of(run)):
                site.refuse("several of its cells have one name.", "Give each a name of its own.")
        if len({tuple(width_of(cell) for cell in cells_of(run)) for run in runs}) > 1:
            site.forbid("its two layers have other widths, for which Keras computes a wrong shape.",
                        "Give both the same number of units.")  # fmt: skip
        if getattr(cells_of(runs[0])[0], "data_format", None) == "channels_first":
            site.refuse("data_format='channels_first' is not followed.", "Build the model with 'channels_last'.")

    def changes(self, site, inputs, outputs):
        return _resized(site.layer, [len(own) for own in self._units(site)])


_REGISTER = "Register a rule: kmerge.register_rule(kind, rule)."


def _require_known_cell(site: Site, cell) -> None:
    kind = type(cell)
    if kind.__name__ not in _BLOCKS or not kind.__module__.startswith("keras.src."):
        site.refuse(f"its cell is a {kind.__name__}, of which kmerge has no rule.", _REGISTER)
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if function is not None and not is_elementwise(function):
            name = getattr(function, "__name__", repr(function))
            site.refuse(f"its activation {name!r} mixes units at every step.", "Take one that works on each unit alone.")


def _paths(layer) -> list[tuple[str, layers.RNN]]:
    """The layers that run, and where each has its cell."""
    names = ("forward_layer/cell", "backward_layer/cell") if isinstance(layer, layers.Bidirectional) else ("cell",)
    return list(zip(names, runs_of(layer), strict=True))


def _of_states(run: layers.RNN, units: list[np.ndarray]) -> list[np.ndarray]:
    """The units of each state that a layer carries on."""
    pairs = zip(cells_of(run), units, strict=True)
    return [own for cell, own in pairs for _ in range(_STATES[type(cell).__name__])]


def _resized(layer: keras.Layer, widths: list[int]) -> dict:
    """The entries of a layer's configuration that differ if its cells have these widths."""
    config = layer.get_config()
    if isinstance(layer, layers.Bidirectional):
        parts = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
        return {name: _nested(config[name], _resized(part, widths)) for name, part in parts.items()}
    if isinstance(layer, layers.StackedRNNCells):
        pairs = zip(config["cells"], layer.cells, widths, strict=True)
        return {"cells": [_nested(saved, _resized(cell, [width])) for saved, cell, width in pairs]}
    if "cell" in config:
        return {"cell": _nested(config["cell"], _resized(layer.cell, widths))}
    return {"filters" if "filters" in config else "units": widths[0]}


def _nested(saved: dict, changes: dict) -> dict:
    """What Keras saves of a part of a layer, with these changes, and without the shapes that it was built for."""
    saved = without_entries(saved, ("build_config",))
    return saved | {"config": saved["config"] | changes}


for _plain, _gated in GATED_RECURRENT.items():
    register_rule(_plain, RecurrentRule(_gated))
