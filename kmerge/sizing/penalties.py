"""The penalty on units inside a model that is being sized: a layer whose factors change without a new program.

A unit whose scale is set by no normalization pays for its weights and its bias. One that is normalized pays for its
effective weights, `gamma * w / std`, and for beta: their gradient goes to gamma and beta only, as the scale of w is divided
out. So the penalty is that of the network with its normalizations folded in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kmerge.graph import find_weight
from kmerge.regularizers import UnitRegularizer
from kmerge.rules import positions_of
from kmerge.sizing.unit_routes import UnitRoutes, unit_axis, weight_index
from kmerge.sizing.weights import Geometry

_TINY = 1e-12


class Member(NamedTuple):
    """A weight, and the number of its axis of units."""

    variable: keras.Variable
    at: int


@dataclass(frozen=True)
class Term:
    """Some weights of units.

    Attributes:
        parts: gives arrays that each hold weights of all units, of the shape (weights of a unit, positions).
        units: for each position, the place of its unit among those of all spaces; the place behind the last for none.
        members: the weights that the penalty moves.
        kernels: of a normalization, gives the norms of the kernels that gamma, the first member, stands for; else None.
    """

    parts: Callable[[], list]
    units: np.ndarray
    members: Sequence[Member]
    kernels: Callable[[], keras.KerasTensor] | None = None


class SizingPenalty(keras.layers.Layer):
    """Hands its input on, and adds the penalty on units to the loss of every training step.

    Args:
        terms: gives the terms; a function, as the weights belong to other layers.
        regularizer: its norms are taken.
        units: number of units.
        **kwargs: for `keras.layers.Layer`.
    """

    def __init__(self, terms: Callable[[], list[Term]], regularizer: UnitRegularizer, units: int, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self._terms, self._norms, self._units = terms, regularizer.norms, units
        self.supports_masking = True

    def build(self, input_shape):
        # A variable of the model: whatever else a program reads, JAX takes for a constant.
        self.factors = self.add_weight(
            name="factors", shape=(self._units + 1,), initializer="zeros", trainable=False, dtype="float32"
        )

    def call(self, x, training=False):
        if training:
            self.add_loss(self.penalty())
        return x

    def penalty(self):
        """The penalty, a float32 scalar."""
        factors = ops.convert_to_tensor(self.factors)
        parts = [ops.sum(ops.take(factors, term.units) * self._norms(*term.parts())) for term in self._terms()]
        return sum(parts[1:], parts[0])

    def set_factors(self, factors: np.ndarray) -> None:
        """Sets the factor on the norm of each unit, shape (units,)."""
        self.factors.assign(np.append(factors, 0.0).astype("float32"))


class Terms:
    """The terms of a model's units.

    Args:
        routes: the routes of its units.
        geometry: the labels of its weights.
        sizes: its sizes.
        layers: its layers by path.
        regularizer: its norms are taken.
    """

    def __init__(
        self,
        routes: UnitRoutes,
        geometry: Geometry,
        sizes: Mapping[str, int],
        layers: Mapping[str, keras.Layer],
        regularizer: UnitRegularizer,
    ):
        self._routes, self._geometry, self._sizes = routes, geometry, sizes
        self._layers, self._regularizer = layers, regularizer

    def all(self) -> list[Term]:
        """Every term: those of layers whose scale counts, then those of normalizations."""
        direct: dict[tuple, None] = {}
        scaled: dict[str, dict] = {}
        for route in self._routes.routes:
            scale = self._routes.scale_of(route)
            if scale is None:
                direct[route.maker, "produces"] = None
            else:
                scaled.setdefault(scale, {})[route.maker] = None
            after = route.passes if scale is None else route.passes[route.passes.index(scale) + 1 :]
            direct.update(dict.fromkeys((p, "channel") for p in after if self._routes.holds_kernel(p)))
        terms = [term for path, role in direct for term in self._direct(path, role)]
        terms += [self._scaled(path, list(makers)) for path, makers in scaled.items()]
        return [term for term in terms if np.any(term.units < self._count)]

    @property
    def _count(self) -> int:
        return sum(self._sizes.values())

    def _axis(self, path: str, name: str, role: str) -> tuple:
        """A weight of the model, the number of its axis of units, and the ids along it."""
        index = weight_index(self._routes.walked.layers[path], name)
        if index is None:
            return None, 0, np.zeros(0, int)
        at, axis = unit_axis(self._geometry.axes(self._sizes)[path, index], role)
        return self._layers[path].weights[index], at, axis.units

    def _units(self, ids: np.ndarray) -> np.ndarray:
        places = self._geometry.places(ids, self._sizes)
        return np.where(places < 0, self._count, places).astype("int32")

    def _direct(self, path: str, role: str) -> list[Term]:
        """A layer's kernels and, with the first that has the same units along it, each bias."""
        groups: list[tuple] = []
        names = [(name, role) for name in self._routes.kernels(path, role)]
        for name, axes in self._routes.walked.axes[path].items():
            if len(axes) == 1 and name != "gamma":
                names.append((name, axes[0].role))
        for name, of_role in names:
            variable, at, ids = self._axis(path, name, of_role)
            if variable is None:
                continue
            same = next((members for known, members in groups if np.array_equal(known, ids)), None)
            if same is None:
                groups.append((ids, same := []))
            same.append(Member(variable, at))
        return [Term(parts_of(members), self._units(ids), members) for ids, members in groups]

    def _scaled(self, path: str, makers: list[str]) -> Term:
        gamma, _, ids = self._axis(path, "gamma", "channel")
        layer, norms = self._layers[path], self._regularizer.norms
        beta, moving = find_weight(layer, "beta"), find_weight(layer, "moving_variance")
        sources = [
            self._of_maker(maker, name, ids) for maker in makers for name in self._routes.kernels(maker, "produces")
        ]

        def norms_of_kernels():
            kernels = 0.0
            for kernel, positions, here in sources:
                norm = norms(*kernel())
                if moving is None:  # a group norm: its standard deviation is not kept, but goes with the weights
                    norm = norm / (ops.sqrt(ops.sum(ops.square(kernel()[0]), axis=0)) + _TINY)
                kernels = kernels + ops.take(norm, positions) * here
            return kernels if moving is None else kernels / ops.sqrt(ops.convert_to_tensor(moving) + layer.epsilon)

        def parts():
            found = [ops.convert_to_tensor(gamma) * ops.stop_gradient(norms_of_kernels())]
            found += [] if beta is None else [ops.convert_to_tensor(beta)]
            return [ops.expand_dims(values, 0) for values in found]

        members = [Member(variable, 0) for variable in (gamma, beta) if variable is not None]
        return Term(parts, self._units(ids), members, norms_of_kernels)

    def _of_maker(self, maker: str, name: str, wanted: np.ndarray) -> tuple:
        """The parts of a kernel, where the units `wanted` stand in it, and 1 for each that it makes, else 0."""
        variable, at, ids = self._axis(maker, name, "produces")
        first = positions_of(np.unique(wanted), ids)
        found = first[np.searchsorted(np.unique(wanted), wanted)]
        return parts_of([Member(variable, at)]), np.maximum(found, 0).astype("int32"), (found >= 0).astype("float32")


def parts_of(members: Sequence[Member]) -> Callable[[], list]:
    """A function that gives the weights of members, each of the shape (weights of a unit, units)."""

    def parts():
        found = []
        for variable, at in members:
            value = ops.convert_to_tensor(variable)
            value = value if at == len(variable.shape) - 1 else ops.moveaxis(value, at, -1)
            found.append(ops.reshape(value, (-1, variable.shape[at])))
        return found

    return parts
