"""Models with room to grow: a few more units than are alive, so that sizes change without a new program.

A unit all of whose weights are zero, those that lead in and those that lead out, and whose value is zero, is a fixed
point of training: it adds nothing, and all its gradients are zero. So the place of such a unit can wait in the model
until a unit comes. With two units alive and room for four:

    kernel in   a b 0 0        kernel out   a'
                a b 0 0                     b'
                                            0
                                            0

A space whose idle units have another value, as those behind a sigmoid have, gets no room: its sizes are exact.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import keras
import numpy as np

from kmerge.costs import WidthCosts
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Graph, array_of, input_layer
from kmerge.regularizers import UnitRegularizer
from kmerge.sizing.optimizer_slots import Slot, fresh_optimizer
from kmerge.sizing.penalties import SizingPenalty, Terms
from kmerge.sizing.proximal import ProximalSteps, proximal_optimizer
from kmerge.sizing.unit_routes import UnitRoutes
from kmerge.sizing.weights import Geometry, Key, SizedWeights
from kmerge.spaces import Trace, trace
from kmerge.surgery import build, verify

# Room is made in steps of so many units.
_STEP = 8
# A model is made smaller once it costs so many times what the units alive need: a program takes as long to make as a short
# epoch to run, and sizes fall in most epochs of a run.
_WASTE = 2.0
# A space that outgrows its room gets so many times what it needs, and so does one where that makes hardly any difference.
_HEADROOM = 1.25
_HARDLY = 0.02


class Rooms:
    """Decides how many units of each space a model has room for.

    Args:
        costs: of the model at any widths.
        exact: the spaces that get no room.
    """

    def __init__(self, costs: WidthCosts, exact: Sequence[str] = ()):
        self._costs = costs
        self.exact = list(exact)

    @cached_property
    def _cost(self) -> Callable[[Mapping[str, int]], int]:
        """What counts: multiply-accumulates or, where the size of inputs is open, weights."""
        try:
            self._costs.multiply_accumulates({})
        except InvalidArgumentError:
            return self._costs.parameters
        return self._costs.multiply_accumulates

    def next(self, needed: Mapping[str, int], now: Mapping[str, int] | None) -> dict[str, int]:
        """The room for units that are needed: the current one, if they fit and it does not cost too much."""
        if now is not None and self._fits(needed, now):
            return dict(now)
        tight = {n: count if n in self.exact else _up(count) for n, count in needed.items()}
        result, limit = dict(tight), (1.0 + _HARDLY) * self._cost(tight)
        for name in needed:
            roomy = {**tight, name: _up(_HEADROOM * needed[name])}
            outgrown = now is not None and needed[name] > now[name]
            if name not in self.exact and (outgrown or self._cost(roomy) <= limit):
                result[name] = roomy[name]
        return result

    def _fits(self, needed: Mapping[str, int], now: Mapping[str, int]) -> bool:
        if any(n > now[name] or name in self.exact and n != now[name] for name, n in needed.items()):
            return False
        return self._cost(now) <= _WASTE * self._cost(needed)


def _up(units: float) -> int:
    return _STEP * math.ceil(units / _STEP)


class WorkingModel:
    """A model with room for units, ready to be trained.

    Args:
        geometry: the labels of the model that is sized.
        room: by space, how many units it has room for.
        penalized: the routes of units and the regularizer; None for a plain model.
        arguments: of `compile`.
        proximal: whether the penalty shrinks weights after each step, and is no part of the loss.

    Attributes:
        plain: the model without its penalty.
        trained: the model to train.
        penalty: its `SizingPenalty` or `ProximalSteps`, or None.
        room: as given.
    """

    def __init__(
        self,
        geometry: Geometry,
        room: Mapping[str, int],
        penalized: tuple[UnitRoutes, UnitRegularizer] | None,
        arguments: Mapping,
        proximal: bool = False,
    ):
        self.room = dict(room)
        self._keys: list[Key] | None = None
        self._geometry = geometry
        layout = geometry.layout(room)
        self.plain, self.layers = build(layout)
        verify(self.plain, layout, self.layers)
        self.penalty, self.trained = None, self.plain
        optimizer = fresh_optimizer(arguments["optimizer"]) if arguments else None
        if penalized is not None:
            routes, regularizer = penalized
            terms = Terms(routes, geometry, room, self.layers, regularizer).all()
            units = sum(room.values())
            if proximal:
                self.penalty = ProximalSteps(terms, regularizer, units)
                optimizer = optimizer and proximal_optimizer(optimizer, self.penalty)
            else:
                self.penalty = SizingPenalty(lambda: terms, regularizer, units, name="sizing_penalty")
                self.trained = _behind(self.penalty, self.plain)
        if arguments:
            self.trained.compile(**{**arguments, "optimizer": optimizer})
            self.trained.optimizer.build(self.trained.trainable_variables)

    def write(self, weights: SizedWeights, slots: Sequence[Slot], others: Sequence[np.ndarray]) -> None:
        """Assigns all weights, slots and other variables; units without weights become idle."""
        padded = weights.resized(self.room)
        for (path, index), values in padded.arrays.items():
            self.layers[path].weights[index].assign(values[0])
        for layer in self.layers.values():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()
        waiting = {key: list(values[1:]) for key, values in padded.arrays.items()}
        for slot in slots:
            self.trained.optimizer.variables[slot.variable].assign(waiting[self.owner(slot.weight)].pop(0))
        for variable, value in zip(self._others(slots), others, strict=True) if others is not None else ():
            variable.assign(value)

    def read(self, sizes: Mapping[str, int], slots: Sequence[Slot]) -> tuple[SizedWeights, list[np.ndarray]]:
        """The weights of the units alive, with their slots; and the other variables."""
        keys = [(path, i) for path, layer in self.layers.items() for i in range(len(layer.weights))]
        arrays = {(path, i): [array_of(self.layers[path].weights[i])] for path, i in keys}
        starts = {key: [0.0] for key in keys}
        for slot in slots:
            arrays[self.owner(slot.weight)].append(array_of(self.trained.optimizer.variables[slot.variable]))
            starts[self.owner(slot.weight)].append(slot.start)
        padded = SizedWeights(self._geometry, self.room, arrays, starts)
        return padded.resized(sizes), self.read_others(slots)

    def read_others(self, slots: Sequence[Slot]) -> list[np.ndarray]:
        """The variables that no unit has a part in."""
        return [array_of(variable) for variable in self._others(slots)]

    def woken(self, sizes: Mapping[str, int]) -> list[str]:
        """The spaces in which idle units have weights that are not zero: what reads or makes them has learned."""
        found = set()
        for (path, index), axes in self._geometry.axes(self.room).items():
            variable = self.layers[path].weights[index]
            array = array_of(variable) if variable.trainable else None
            for at, axis in enumerate(axes) if array is not None else ():
                idle = axis is not None and self._geometry.beyond(axis.units, sizes)
                if np.any(idle) and np.any(array[(slice(None),) * at + (idle,)]):
                    found.update(n for n in self._geometry.names if self._holds(array, at, axis.units, n, sizes))
        return [name for name in self._geometry.names if name in found]

    def _holds(self, array: np.ndarray, at: int, ids: np.ndarray, name: str, sizes: Mapping[str, int]) -> bool:
        idle = self._geometry.ranks(ids, name) >= sizes[name]
        return bool(np.any(array[(slice(None),) * at + (idle,)]))

    @cached_property
    def walked(self) -> Trace:
        """The walk of the plain model."""
        return trace(self.plain)

    def owner(self, number: int) -> Key:
        """The layer's path and the index of a trainable weight, by its number for the optimizer."""
        if self._keys is None:
            keys = {id(w): (path, i) for path, layer in self.layers.items() for i, w in enumerate(layer.weights)}
            self._keys = [keys[id(w)] for w in self.trained.trainable_variables]
        return self._keys[number]

    def _others(self, slots: Sequence[Slot]) -> list[keras.Variable]:
        """What no unit has a part in: states of random generators, steps and learning rates of the optimizer."""
        found = [v for layer in self.layers.values() for v in stray_variables(layer)]
        if not self.trained.compiled:
            return found
        taken = {slot.variable for slot in slots}
        return found + [v for i, v in enumerate(self.optimizer_variables) if i not in taken]

    @property
    def optimizer_variables(self) -> list[keras.Variable]:
        """The optimizer's variables, without the coefficients of proximal steps, which every model sets anew."""
        own = getattr(self.penalty, "coefficients", None)
        return [v for v in self.trained.optimizer.variables if v is not own]


def stray_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of a layer that are no weights: the states of its random generators."""
    weights = {id(w) for w in layer.weights}
    return [v for v in layer.variables if id(v) not in weights]


def _behind(penalty: SizingPenalty, model: keras.Model) -> keras.Model:
    """The model behind a layer that hands its first input on."""
    graph = Graph(model)
    inputs = keras.tree.map_structure(_new_input, graph.input_structure)
    first, *rest = keras.tree.flatten(inputs)
    outputs = model(keras.tree.pack_sequence_as(inputs, [penalty(first), *rest]))
    result = keras.Model(inputs, outputs, name=f"{model.name}_sized")
    # Losses and metrics are keyed by the names of outputs.
    result.output_names = list(getattr(model, "output_names", result.output_names))
    return result


def _new_input(tensor: keras.KerasTensor) -> keras.KerasTensor:
    layer = input_layer(tensor)
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name, sparse=layer.sparse)
