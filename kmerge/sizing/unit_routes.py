"""How a unit's weights reach the layers that mix it: by themselves, or through a normalization that sets their scale.

    Conv2D -> ReLU -> Conv2D                          the kernel and the bias say how large the unit is
    Conv2D -> BatchNormalization -> ReLU -> Conv2D    the kernel's scale is divided out, gamma says how large it is

The *effective weight* of a unit is what its weights would be with normalizations folded in: `gamma * w / std`. A route
goes from a layer that makes the unit to one that mixes it, and passes layers that hold a weight for each unit. Where
routes meet in an addition a unit is as large as on the largest of them, in a product as on the smallest.

An *idle* unit, all of whose weights are zero, mostly gives nothing: relu(0) = 0, and so is what a normalization with gamma =
beta = 0 gives. Behind a sigmoid it is .5, which every layer that reads the unit sees, and learns to use.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.graph import Call, Graph, array_of, find_weight
from kmerge.rules import Axis
from kmerge.sizing.weights import Key, SizedWeights
from kmerge.spaces import Trace, walk_calls

_NORMALIZATIONS = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)
_NOISE = (keras.layers.GaussianNoise, keras.layers.AlphaDropout)
_RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)


@dataclass(frozen=True)
class UnitRoute:
    """A route of units.

    Attributes:
        maker: path of the layer that makes them.
        passes: paths of the layers on the way that hold weights for each unit.
    """

    maker: str
    passes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meeting:
    """Where routes meet: `parts` are routes or other meetings; in a product if not in an addition."""

    parts: frozenset
    product: bool = False

    def then(self, layer: str) -> "Meeting":
        """The same with one more layer passed."""
        parts = (
            p.then(layer) if isinstance(p, Meeting) else UnitRoute(p.maker, (*p.passes, layer)) for p in self.parts
        )
        return Meeting(frozenset(parts), self.product)

    def routes(self) -> Iterator[UnitRoute]:
        """All routes in it."""
        for part in self.parts:
            if isinstance(part, Meeting):
                yield from part.routes()
            else:
                yield part


class UnitRoutes:
    """The routes of all units of a model.

    Args:
        walked: the walk of the model.

    Attributes:
        meetings: what reaches the layers that mix units, one for each call of such a layer.
        routes: all routes in these.
    """

    def __init__(self, walked: Trace):
        self.walked = walked
        self.meetings: set[Meeting] = set()
        nothing = Meeting(frozenset())
        walk_calls(Graph(walked.model), [nothing] * len(walked.inputs), self._visit)
        self.routes = sorted(
            {route for meeting in self.meetings for route in meeting.routes()}, key=lambda r: (r.maker, r.passes)
        )

    def _visit(self, key, path, call, values, end) -> list:
        axes = self.walked.axes[path]
        roles = {axis.role for of_weight in axes.values() for axis in of_weight if axis is not None}
        if "consumes" in roles:
            self.meetings.update(v for v in values if v.parts)
        if self.makes(path):
            return [Meeting(frozenset([UnitRoute(path)]))] * len(call.outputs)
        values = [v for v in values if v.parts]
        product = self.walked.records[key].rule.multiplies and len(values) > 1
        if product:
            merged = Meeting(frozenset(values), product=True)
        else:
            sums = frozenset(p for v in values if not v.product for p in v.parts)
            merged = Meeting(sums | frozenset(v for v in values if v.product))
        if self.is_normalization(path) or self.holds_kernel(path):
            merged = merged.then(path)
        return [merged] * len(call.outputs)

    def makes(self, path: str) -> bool:
        """Whether a layer makes units of its own, and does not only pass those it reads."""
        return any(
            axis is not None and axis.role == "produces"
            for name, axes in self.walked.axes[path].items()
            if len(axes) > 1
            for axis in axes
        )

    def is_normalization(self, path: str) -> bool:
        """Whether a layer sets the scale of units."""
        return isinstance(self.walked.layers[path], _NORMALIZATIONS)

    def holds_kernel(self, path: str) -> bool:
        """Whether a layer passes units and multiplies each by weights, as a depthwise convolution does."""
        return not self.is_normalization(path) and bool(self.kernels(path, "channel"))

    def scale_of(self, route: UnitRoute) -> str | None:
        """The last normalization on a route, which says how large its units are; None if there is none."""
        return next((p for p in reversed(route.passes) if self.is_normalization(p)), None)

    def kernels(self, path: str, role: str) -> list[str]:
        """The names of a layer's weights, of more than one axis or named gamma, with an axis of this role."""
        found = []
        for name, axes in self.walked.axes[path].items():
            has = any(axis is not None and axis.role == role for axis in axes)
            if has and (len(axes) > 1 or name == "gamma") and name != "alpha":
                found.append(name)
        return found

    def not_sizable(self, space: str) -> str | None:
        """Why the sizes of a space cannot be learned, or None."""
        found = self.walked.spaces[space]
        if not found.selectable:
            return found.reason
        if found.is_normalized:
            return "its units are normalized together, so that each changes all others"
        recurrent = next((path for path in found.owners if isinstance(self.walked.layers.get(path), _RECURRENT)), None)
        if recurrent is not None:
            return f"{recurrent} mixes them at every step, so that small weights do not say that a unit does little"
        if found.adders:
            return f"{found.adders[0]} adds its units up without weights that could shrink"
        for record in self.walked.records.values():
            for axes in record.constants.values():
                if any(axis is not None and np.isin(axis.units, found.units).any() for axis in axes):
                    return f"{record.path} combines its units with an array, which no training resizes"
        reaching = [route for route in self.routes if route.maker in found.owners]
        if not reaching:
            return "no kernel makes its units for another layer to read"
        for route in reaching:
            scale = self.scale_of(route)
            if scale is not None and find_weight(self.walked.layers[scale], "gamma") is None:
                return f"{scale} normalizes its units and has no scale (scale=False) that could shrink"
        return None


def weight_index(layer: keras.layers.Layer, name: str) -> int | None:
    """The index of a named weight in `layer.weights`; None where the layer has none of that name."""
    wanted = find_weight(layer, name)
    return next((i for i, w in enumerate(layer.weights) if w is wanted), None)


def unit_axis(axes: tuple, role: str) -> tuple[int, Axis]:
    """The number of the axis of a role, and the axis."""
    return next((i, axis) for i, axis in enumerate(axes) if axis is not None and axis.role == role)


class EffectiveWeights:
    """How large units are: the largest effective weight of each.

    Args:
        routes: the routes of the model.
        weights: its weights at some sizes.
    """

    def __init__(self, routes: UnitRoutes, weights: SizedWeights):
        self._routes, self._weights = routes, weights
        self._count = sum(weights.sizes.values())

    def sizes(self) -> dict[str, np.ndarray]:
        """By space, the effective weight of each unit; the bias counts where no normalization follows."""
        total = np.full(self._count, np.nan)
        for meeting in self._routes.meetings:
            total = np.fmax(total, self._of_meeting(meeting))
        # Of a unit that comes by no route that is known, nothing says that it is small.
        total[np.isnan(total)] = np.inf
        return self._weights.geometry.by_space(total, self._weights.sizes)

    def fan_in(self) -> dict[str, np.ndarray]:
        """By space, how many weights each unit has in the kernels and biases on its routes; at least 1."""
        layers = {(route.maker, "produces") for route in self._routes.routes}
        passed = {path for route in self._routes.routes for path in route.passes}
        layers |= {(path, "channel") for path in passed if self._routes.holds_kernel(path)}
        total = np.zeros(self._count, int)
        for path, role in layers:
            names = dict.fromkeys(self._routes.kernels(path, role), role)
            names |= {name: self._routes.walked.axes[path][name][0].role for name in self._biases(path)}
            for name, of_role in names.items():
                values, units = self._rows(path, name, of_role)
                np.add.at(total, units, values.shape[1])
        return self._weights.geometry.by_space(np.maximum(total, 1), self._weights.sizes)

    def _of_meeting(self, meeting: Meeting) -> np.ndarray:
        """NaN for units that no part of it makes; such a part says nothing in a product."""
        values = [self._of_meeting(p) if isinstance(p, Meeting) else self._of_route(p) for p in meeting.parts]
        return functools.reduce(np.fmin if meeting.product else np.fmax, values)

    def _of_route(self, route: UnitRoute) -> np.ndarray:
        scaled = self._routes.scale_of(route) is not None
        value = self.largest(route.maker, "produces", with_bias=not scaled)
        for layer in route.passes:
            if self._routes.is_normalization(layer):
                value = value * self.scales(layer)
            else:
                value = value * self.largest(layer, "channel")
        return value

    def largest(self, path: str, role: str, with_bias: bool = False) -> np.ndarray:
        """The largest |weight| of each unit in a layer's kernels; NaN for units that it has none of."""
        result = np.full(self._count, np.nan)
        names = [(name, role) for name in self._routes.kernels(path, role)]
        names += [(name, "produces") for name in self._biases(path)] if with_bias else []
        for name, of_role in names:
            values, units = self._rows(path, name, of_role)
            np.fmax.at(result, units, np.abs(values).max(axis=1, initial=0.0))
        return result

    def scales(self, path: str) -> np.ndarray:
        """By how much a normalization multiplies each unit: |gamma| / std."""
        layer, result = self._routes.walked.layers[path], np.full(self._count, np.nan)
        values, units = self._rows(path, "gamma", "channel")
        scale = np.abs(values[:, 0])
        if isinstance(layer, keras.layers.BatchNormalization):
            variance, _ = self._rows(path, "moving_variance", "channel")
            scale = scale / np.sqrt(variance[:, 0] + layer.epsilon)
        np.fmax.at(result, units, scale)
        return result

    def _biases(self, path: str) -> list[str]:
        return [name for name, axes in self._routes.walked.axes[path].items() if len(axes) == 1 and axes[0] is not None]

    def _rows(self, path: str, name: str, role: str) -> tuple[np.ndarray, np.ndarray]:
        """A weight as (positions, weights of each), and where the units of the positions stand; only of sized spaces."""
        index = weight_index(self._routes.walked.layers[path], name)
        if index is None:
            return np.zeros((0, 1)), np.zeros(0, int)
        key: Key = (path, index)
        at, axis = unit_axis(self._weights.axes[key], role)
        places = self._weights.geometry.places(axis.units, self._weights.sizes)
        value = np.moveaxis(self._weights.value(key), at, 0)
        return value.reshape(len(value), -1)[places >= 0], places[places >= 0]


def spaces_with_a_constant(routes: UnitRoutes) -> list[str]:
    """The selectable spaces whose idle units are not zero where a layer mixes them.

    Args:
        routes: the routes of the model's units.
    """
    walked, found = routes.walked, []

    def visit(key, path, call, values, end):
        record = walked.records[key]
        axes = walked.axes[path].values()
        if any(axis is not None and axis.role == "consumes" for of_weight in axes for axis in of_weight):
            found.extend(x.units for x, value in zip(record.inputs, values, strict=True) if value)
        if routes.makes(path):
            value = _gives(call, False)
        elif routes.is_normalization(path):
            value = False
        elif record.rule.multiplies and len(values) > 1:
            value = all(values)
        else:
            value = any(values) or _gives(call, True)
        return [value] * len(call.outputs)

    walk_calls(Graph(walked.model), [False] * len(walked.inputs), visit)
    numbers = {int(s) for units in found for s in np.unique(walked.space_of[units])}
    return [space.name for i, space in enumerate(walked.spaces.values()) if i in numbers and space.selectable]


def _gives(call: Call, passes: bool) -> bool:
    """Whether a layer or operation gives anything but zero for units whose inputs, weights and biases are zero."""
    operation = call.operation
    if isinstance(operation, keras.layers.Rescaling):
        return bool(np.any(np.asarray(operation.offset) != 0))
    if isinstance(operation, keras.layers.Layer):
        activation = getattr(operation, "activation", None)
        return isinstance(operation, _NOISE) or callable(activation) and _is_not_zero(activation(_zeros((1, 2))))
    if not passes or len(call.inputs) != 1:
        return False
    x = call.inputs[0]
    zeros = _zeros(tuple(size or 1 for size in x.shape))
    return any(_is_not_zero(y) for y in call.replay(operation, [zeros]))


def _zeros(shape: tuple):
    return keras.ops.zeros(shape, dtype="float32")


def _is_not_zero(value) -> bool:
    return bool(np.any(array_of(value) != 0))
