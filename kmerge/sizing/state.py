"""A model that is being sized: its weights between epochs, how they grow and are pruned, and what came of it so far.

Nothing here trains. The weights of the units alive are kept as arrays without room; a `WorkingModel` with room is filled
from them before an epoch and read after it. So results do not depend on how much room there is, but for what dropout draws.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from kmerge.costs import WidthCosts
from kmerge.graph import array_of, find_weight
from kmerge.seeds import seed_of
from kmerge.sizing.optimizer_slots import find_slots
from kmerge.sizing.options import SizingOptions
from kmerge.sizing.padded_models import Rooms, WorkingModel, stray_variables
from kmerge.sizing.unit_routes import EffectiveWeights, UnitRoutes, spaces_with_a_constant
from kmerge.sizing.weights import Geometry, Key, SizedWeights
from kmerge.spaces import Trace
from kmerge.surgery import QuickFresh, fold_constants

# What an epoch changes. The model that is trained is none of it: it is filled from these.
_CHANGED = ("weights", "others", "slots", "epochs_done", "history", "grown", "room", "rooms", "_new")


class SizingState:
    """A model whose spaces change their sizes, between two epochs.

    Args:
        routes: the routes of its units.
        options: of the `AutoSizer`; their spaces are those that change.
        arguments: of `compile`.

    Attributes:
        epochs_done, compile_seconds, history: what an `AutoSizer` reports of its training.
        weights: of the units alive, with their slots.
        working: the model that is trained, or None.
        room: the room of the last dynamic epoch, or None.
        compiles: how many models were compiled to be trained.
        grown: how often units were added.
        examples: two inputs, on which constants are read.
        not_exact, change: of the last pruning: where constants could not be carried exactly and why, and the largest
            change of an output on the examples, over the largest output.
    """

    def __init__(self, routes: UnitRoutes, options: SizingOptions, arguments: Mapping):
        self.routes, self.options, self.regularizer = routes, options, options.regularizer
        self.geometry = Geometry(routes.walked, list(options.spaces))
        self.examples: object = None
        self.not_exact: dict[str, str] = {}
        self.change = 0.0
        self.arguments = dict(arguments)
        self.epochs_done, self.compile_seconds = 0, 0.0
        self.history: list[dict] = []
        self.working: WorkingModel | None = None
        self._plain: WorkingModel | None = None
        self.compiles = self.grown = 0
        self.room: dict[str, int] | None = None
        self._new: dict[str, np.ndarray] = {}  # units whose constants are still to be taken from what reads them
        self.rooms = Rooms(WidthCosts(routes.walked), [n for n in spaces_with_a_constant(routes) if n in options.spaces])
        self.slots: list = []
        self.others: list | None = None
        self.weights = _weights_of(routes.walked, self.geometry)
        self._kept: dict[str, object] = {}  # what `whole` goes back to

    @property
    def sizes(self) -> dict[str, int]:
        """By space, the units alive."""
        return dict(self.weights.sizes)

    # Between epochs --------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Makes this the state that `whole` goes back to, with what callbacks set, such as a learning rate."""
        if self.settled().working is not None:
            self.read_others()
        kept = {name: copy.copy(getattr(self, name)) for name in _CHANGED}
        self._kept = {**kept, "weights": self.weights.with_own_lists(), "working": None}

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """If what is inside ends early, by an interrupt or error at any point: goes back to what was last kept."""
        self.keep()
        try:
            yield
        except BaseException:
            vars(self).update(self._kept)  # one step of Python, which no second interrupt divides
            raise

    def grow(self, new_sizes: Mapping[str, int]) -> None:
        """Adds units, with small weights of a seed of their own, behind those that are there."""
        before = self.sizes
        fresh = QuickFresh(self.routes.walked, 1.0, seed_of("sizing", self.options.seed, self.grown))
        self.weights = self.weights.resized(new_sizes)
        self.weights.drawn(before, lambda key, shape: fresh.draw(*key, shape), self._scale)
        self.grown += 1
        self._new = {n: np.arange(before[n], new_sizes[n]) for n in self.rooms.exact}

    def _scale(self, key: Key, role: str) -> float:
        """The factor on the fresh weights that new units have along an axis of a weight."""
        path, index = key
        layer = self.routes.walked.layers[path]
        scales = {self.routes.scale_of(route) for route in self.routes.routes}
        small = self.options.threshold
        if role == "consumes":
            return small
        if role == "channel":
            return small if path in scales and layer.weights[index] is find_weight(layer, "gamma") else 1.0
        normalized = [self.routes.scale_of(route) is not None for route in self.routes.routes if route.maker == path]
        return 1.0 if normalized and all(normalized) else small

    def prune(self) -> dict[str, np.ndarray]:
        """Drops the units below the threshold, or with proximal steps those that are zero; returns what is kept.

        The largest stay where too few would.
        """
        keep, least = {}, self.options.min_units
        for name, values in EffectiveWeights(self.routes, self.weights).sizes().items():
            stays = values > 0.0 if self.options.proximal else values >= self.options.threshold
            if stays.sum() < least:
                stays[np.argsort(-values, kind="stable")[:least]] = True
            keep[name] = np.flatnonzero(stays)
        self.not_exact, self.change, before = {}, 0.0, None
        gone = {
            name: np.setdiff1d(np.arange(n), keep[name]) for name, n in self.sizes.items() if name in self._constant
        }
        if any(map(len, gone.values())):
            before = self._outputs()
            self.weights, self.not_exact = self._carried(gone, 1.0)
        self.weights = self.weights.resized({name: len(units) for name, units in keep.items()}, keep)
        if before is not None:
            self.refill()
            self.change = _difference(before, self._outputs())
        return keep

    # What constant units give ----------------------------------------------------------------------------------------

    @property
    def _constant(self) -> set[str]:
        """The spaces whose units can give a constant once their weights are zero."""
        passed = {route.maker for route in self.routes.routes if route.passes}
        spaces = self.routes.walked.spaces
        return {n for n in self.geometry.names if n in self.rooms.exact or passed & {*spaces[n].owners}}

    def _carried(self, units: Mapping[str, np.ndarray], sign: float) -> tuple[SizedWeights, dict[str, str]]:
        """The weights once what units give without their inputs is added to what reads them; and where it is not exact.

        Args:
            units: by space, the ranks of the units.
            sign: 1 if they go, -1 if they come.
        """
        model, chosen = self.working, np.zeros(len(self.working.walked.space_of), bool)
        for name, ranks in units.items():
            chosen[model.walked.spaces[name].units[ranks]] = True
        silent = self.weights.with_own_lists()
        for key, axes in silent.axes.items():
            if not self._feeds(key):
                continue
            for at, axis in enumerate(axes):
                if axis is not None and axis.role != "consumes":
                    ranks = [np.isin(self.geometry.ranks(axis.units, name), ranks) for name, ranks in units.items()]
                    silent.arrays[key][0] = silent.value(key).copy()
                    silent.arrays[key][0][(slice(None),) * at + (np.any(ranks, axis=0),)] = 0.0
        model.write(silent, [], None)
        why = fold_constants(model.walked.layers, model.walked, chosen, chosen, self.examples, sign)
        changed, _ = model.read(self.sizes, [])
        for key, values in silent.arrays.items():
            before = self.weights.value(key)
            values[0] = before if self._feeds(key) else changed.value(key)
            for i in silent.averages(key):  # they move with the weight
                values[i] = values[i] + (values[0] - before)
        return silent, why

    def _feeds(self, key: Key) -> bool:
        """Whether a weight is a kernel that makes units, or the scale of a normalization."""
        path, index = key
        layer = self.routes.walked.layers[path]
        return len(layer.weights[index].shape) > 1 or layer.weights[index] is find_weight(layer, "gamma")

    def _outputs(self) -> list[np.ndarray]:
        found = self.working.plain(self.examples, training=False)
        return [array_of(y).astype("float64") for y in keras.tree.flatten(found)]

    # Models ----------------------------------------------------------------------------------------------------------

    def load(self, alpha: float | None) -> WorkingModel:
        """Fills a model to train with the weights: with room and a penalty of this strength, or of the exact sizes."""
        plain = alpha is None
        room = self.sizes if plain else self.rooms.next(self.sizes, self.room)
        if self.working is None or plain != (self.working.penalty is None) or room != self.working.room:
            self.working = self._built(room, plain)
            self.compiles += 1
        self.room = None if plain else room
        self._write(self.working)
        if self._new and any(map(len, self._new.values())):
            self.weights, _ = self._carried(self._new, -1.0)
            self._write(self.working)
        self._new = {}
        if not plain:
            self.set_alpha(alpha)
        return self.working

    def set_alpha(self, alpha: float) -> None:
        """Sets the factors of the units alive."""
        factors = []
        for name, fan_in in EffectiveWeights(self.routes, self.weights).fan_in().items():
            alive = self.regularizer.coefficients(np.arange(1, 1 + self.sizes[name]), alpha, fan_in)
            factors.append(np.pad(alive, (0, self.working.room[name] - len(alive))))
        self.working.penalty.set_factors(np.concatenate(factors))

    def refill(self) -> None:
        """Fills the model that is trained anew, after units went."""
        self._write(self.working)

    def woken(self) -> list[str]:
        """The spaces whose idle units have not stayed idle in training; from now on they get no room."""
        found = self.working.woken(self.sizes)
        self.rooms.exact = [*self.rooms.exact, *found]
        return found

    def pull(self) -> None:
        """Reads the weights of the units alive from the model that is trained."""
        self.weights, self.others = self.working.read(self.sizes, self.slots)

    def continue_from(self, other: "SizingState") -> None:
        """Takes over the sizes, weights and records of another state, but not its optimizer."""
        weights = other.weights
        arrays, starts = {k: v[:1] for k, v in weights.arrays.items()}, {k: v[:1] for k, v in weights.starts.items()}
        self.weights = SizedWeights(self.geometry, weights.sizes, arrays, starts)
        self.compiles, self.grown, self.rooms = other.compiles, other.grown, other.rooms
        self.epochs_done, self.compile_seconds, self.history = other.epochs_done, other.compile_seconds, other.history

    def settled(self) -> "SizingState":
        """This state, once the weights of static epochs are read, which change no sizes."""
        if self.working is not None and self.working.penalty is None:
            self.pull()
        return self

    def read_others(self) -> None:
        """Reads what no unit has a part in, such as a learning rate that a callback has set."""
        self.others = self.working.read_others(self.slots)

    def snapshot(self) -> tuple[SizedWeights, list[np.ndarray]]:
        """The weights with their sizes, and what else is trained, for `return_to`."""
        self.settled()
        return self.weights.copy(), list(self.others)

    def return_to(self, snapshot: tuple[SizedWeights, list[np.ndarray]]) -> None:
        """Goes back to a snapshot."""
        weights, others = snapshot
        self.weights, self.others, self.working = weights.copy(), list(others), None

    def check(self) -> None:
        """Raises if the weights, slots and other variables do not fit a model of the current sizes."""
        model = WorkingModel(self.geometry, self.sizes, None, self.arguments, self.options.proximal)
        if self.others is not None:
            self._write(model)

    def plain_model(self) -> keras.Model:
        """A plain model of the current sizes, compiled, with the state of the optimizer."""
        self.settled()
        model = self._built(self.sizes, plain=True)
        self._write(model)
        return model.plain

    def model_now(self) -> keras.Model:
        """A plain model like that, for use at once: as long as sizes stay, the same one with the weights of the time."""
        self.settled()
        if self.working is not None and self.working.penalty is None:
            return self.working.plain
        if self._plain is None or self._plain.room != self.sizes:
            self._plain = self._built(self.sizes, plain=True)
        self._write(self._plain)
        return self._plain.plain

    def _built(self, room: Mapping[str, int], plain: bool) -> WorkingModel:
        penalized = None if plain else (self.routes, self.regularizer)
        model = WorkingModel(self.geometry, room, penalized, self.arguments, self.options.proximal)
        if self.others is None:
            self._adopt(model)
        return model

    def _write(self, model: WorkingModel) -> None:
        model.write(self.weights, self.slots, self.others)

    def _adopt(self, model: WorkingModel) -> None:
        """Starts the slots, and takes over what no unit has a part in, from the model given and its optimizer."""
        template, optimizer = self.routes.walked, model.trained.optimizer
        self.slots = find_slots(optimizer, model.trained.trainable_variables)
        given = self.arguments["optimizer"]
        carried = self.routes.walked.model.compiled and given is self.routes.walked.model.optimizer and given.built
        numbers = _numbers(template) if carried else {}
        own = find_slots(given, self.routes.walked.model.trainable_variables) if carried else []
        waiting = {
            key: [array_of(given.variables[s.variable]) for s in own if s.weight == n] for key, n in numbers.items()
        }
        for slot in self.slots:
            key = model.owner(slot.weight)
            values = waiting.get(key) or [np.full_like(self.weights.value(key), slot.start or 0.0)]
            self.weights.arrays[key].append(values.pop(0))
            self.weights.starts[key].append(slot.start)
        taken = {s.variable for s in (own if carried else self.slots)}
        kept = [v for i, v in enumerate(given.variables if carried else model.optimizer_variables) if i not in taken]
        layers = [template.layers[path] for path in model.layers]
        self.others = [array_of(v) for layer in layers for v in stray_variables(layer)] + [array_of(v) for v in kept]


def _difference(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    changes = [np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0) for a, b in zip(before, after, strict=True)]
    return float(max(changes))


def _numbers(walked: Trace) -> dict[Key, int]:
    keys = {id(w): (path, i) for path, layer in walked.layers.items() for i, w in enumerate(_weights(layer))}
    return {keys[id(w)]: n for n, w in enumerate(walked.model.trainable_variables)}


def _weights(layer: object) -> list:
    return getattr(layer, "weights", [])


def _weights_of(walked: Trace, geometry: Geometry) -> SizedWeights:
    keys = [(path, i) for path, layer in walked.layers.items() for i in range(len(_weights(layer)))]
    arrays = {(path, i): [array_of(walked.layers[path].weights[i])] for path, i in keys}
    sizes = {name: walked.spaces[name].size for name in geometry.names}
    return SizedWeights(geometry, sizes, arrays, {key: [0.0] for key in keys})
