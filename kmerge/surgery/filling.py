"""Values of a new model: weights, and arrays among the arguments of calls, both looked up by the units along their axes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.checks import warn
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError, KmergeError, UnsupportedLayerError, told
from kmerge.graph import array_of, inner_layers
from kmerge.rules import positions_of
from kmerge.surgery.layout import Layout, Placed, weight_axes
from kmerge.surgery.new_units import Fresh


@dataclass(frozen=True)
class Source:
    """Where values come from: arrays, and the entries along their axes.

    Attributes:
        read: `read(path, index)` gives the array of a layer's weight.
        axes: for each layer path, the axes of its weights by index.
        constants: `constants(key)` gives the arrays among the arguments of a call, see `Call.constants`.
        constant_axes: by the key of a call, the axes of those that are cut like weights, by their numbers.
        layers: the layers of these paths, which may hold single weights that are not trained.
    """

    read: Callable[[str, int], np.ndarray]
    axes: Mapping[str, Mapping[int, tuple]]
    constants: Callable[[tuple], Sequence]
    constant_axes: Mapping[tuple, Mapping[int, tuple]]
    layers: Mapping[str, keras.Layer]


# Weights --------------------------------------------------------------------------------------------------------------


def fill(
    layers: Mapping[str, keras.Layer], layout: Layout, sources: Sequence[Source], fresh: Fresh | None = None
) -> None:
    """Assigns the weights of a newly built model.

    Args:
        layers: its layers by path.
        layout: its layout.
        sources: where the values come from; where several have an element, it is their mean.
        fresh: draws the weights of new units, where the plan has any.

    Warns:
        UserWarning: if layers that share a weight in the sources have one each in the new model.
    """
    made: dict[int, dict[int, tuple[str, str]]] = {}  # by a weight of a source: the layer it is of there, and its name here
    for path, layer in layers.items():
        axes = weight_axes(layout.axes.get(path, {}), layer)
        origin, source = layout.origins.get(path, (path, None))
        own = sources if source is None or len(sources) == 1 else [sources[source]]
        for index, variable in enumerate(layer.weights):
            try:
                if index in axes:
                    pairs = [(s.read(origin, index), s.axes[origin][index]) for s in sources]
                    value = _value(axes[index], pairs, layout, fresh, origin, index)
                else:
                    value = _unlabelled(origin, index, own)
                variable.assign(value)
                given = own[0].layers[origin].weights[index]
                made.setdefault(id(given), {}).setdefault(id(variable), (origin, f"{path}/{variable.name}"))
                if own[0].layers[origin].trainable and not given.trainable:
                    variable.trainable = False  # it is fixed alone, which no configuration says
            except KmergeError:
                raise
            except Exception as error:
                raise UnsupportedLayerError(
                    path, type(layer).__name__,
                    f"its weight {variable.name!r} of shape {tuple(variable.shape)} cannot be filled ({told(error)}).",
                    "Register a rule that names the axes of all its weights: kmerge.register_rule(layer_class, rule).",
                ) from None  # fmt: skip
        for inner in inner_layers(layer):
            if isinstance(inner, keras.layers.Normalization):
                inner.finalize_state()
    _warn_of_untied([dict(named.values()) for named in made.values()])


def _warn_of_untied(shared: list[dict[str, str]]) -> None:
    """Warns of weights that several layers share in the sources; each has its name here, by the layer there."""
    together = [", ".join(names.values()) for names in shared if len(names) > 1]
    if together:
        warn(
            f"Layers share weights in a way in which they cannot be built again: {'; '.join(together)}. In the "
            "new model each has its own, with equal outputs: training it moves them apart, and it has more weights."
        )


def _unlabelled(path: str, index: int, sources: Sequence[Source]) -> np.ndarray:
    values = [source.read(path, index) for source in sources]
    if any(not np.array_equal(values[0], value) for value in values[1:]):
        raise InvalidArgumentError(
            f"Layer {path!r}: expected its weight {index}, which has no channel axis, to be equal in all models, received "
            "values that differ. Register a rule that names its axes, or give the models equal values."
        )
    return values[0]


def _value(axes: tuple, pairs: list[tuple], layout: Layout, fresh: Fresh | None, *weight) -> np.ndarray:
    """An array with these axes, from one of each source with its axes; `weight` is its path and index, if it is one."""
    first = pairs[0][0]
    shape = tuple(size if axis is None else len(axis.units) for size, axis in zip(first.shape, axes, strict=True))
    # Whole numbers and truth values have means, too, where all are the same.
    result = np.zeros(shape, "float64" if first.dtype.kind in "biu" else first.dtype)
    for array, source_axes in pairs:
        _add_block(result, array, axes, source_axes)
    if len(pairs) > 1:
        # A unit that all sources make together is the mean of what each makes of it.
        at, axis = next(((i, a) for i, a in enumerate(axes) if a and a.role != "consumes"), (None, None))
        if axis is not None:
            common = layout.source_of(axis.units) == 0
            result[(slice(None),) * at + (common,)] /= len(pairs)
    if fresh is not None:
        draw = (
            (lambda: fresh.draw(*weight, shape)) if weight else (lambda: np.full(shape, np.mean(first), result.dtype))
        )
        _add_new(result, axes, layout, draw, fresh.scale)
    return result.astype(first.dtype, copy=False)


def _add_block(result: np.ndarray, array: np.ndarray, axes: tuple, source_axes: tuple) -> None:
    """Adds the elements of a source's array, all of whose entries the new array has too."""
    target = []
    for at, (axis, source_axis) in enumerate(zip(axes, source_axes, strict=True)):
        if axis is None:
            target.append(np.arange(array.shape[at]))
            continue
        positions = positions_of(axis.units, source_axis.units)
        target.append(np.flatnonzero(positions >= 0))
        positions = positions[positions >= 0]
        if len(positions) != array.shape[at] or np.any(np.diff(positions) != 1):
            array = array.take(positions, axis=at)
    if all(len(t) and t[-1] - t[0] + 1 == len(t) for t in target):
        result[tuple(slice(t[0], t[-1] + 1) for t in target)] += array
    else:
        result[np.ix_(*target)] += array


def _add_new(result: np.ndarray, axes: tuple, layout: Layout, draw: Callable[[], np.ndarray], scale: float) -> None:
    draws = None
    for at, axis in sorted(enumerate(axes), key=lambda pair: bool(pair[1]) and pair[1].role == "consumes"):
        new = layout.source_of(axis.units) > layout.plan.sources if axis else np.zeros(1, bool)
        if new.any():
            draws = draw() if draws is None else draws
            place = (slice(None),) * at + (new,)
            result[place] = draws[place] * (scale if axis.role == "consumes" else 1.0)


# Arrays among the arguments of calls ----------------------------------------------------------------------------------


def constants_of(
    layout: Layout, sources: Sequence[Source], fresh: Fresh | None = None
) -> dict[tuple, list[dict[int, np.ndarray]]]:
    """The arrays among the arguments of each call of a new model, to be built with.

    Args:
        layout: of the new model.
        sources: where the values come from; where several have an element, it is their mean.
        fresh: as for `fill`; what belongs to a new unit is the mean of the array.

    Returns:
        For each key of a call that has arrays, these by their numbers: once, or once for each of its parts.

    Raises:
        ArchitectureMismatchError: where sources differ in an array of which the new model has room for one.
    """
    found = {}
    for key, placed in layout.calls.items():
        if placed.record.call.constants:
            owners = [layout.origins[part.path][1] for part in placed.parts] or [None]
            several = len(sources) > 1
            read = [[sources[i]] if several and i is not None else sources for i in owners]
            found[key] = [_arrays(key, placed, layout, some, fresh) for some in read]
    return found


def _arrays(key: tuple, placed: Placed, layout: Layout, sources: Sequence[Source], fresh: Fresh | None) -> dict:
    arrays = {}
    for index in range(len(placed.record.call.constants)):
        values = [array_of(source.constants(key)[index]) for source in sources]
        axes = placed.constants.get(index)
        if axes is None or any(_holds_input(axis.units, layout) for axis in axes if axis is not None):
            _check_equal(placed.record.path, values)
        if axes is not None:
            pairs = [(value, s.constant_axes[key][index]) for value, s in zip(values, sources, strict=True)]
        arrays[index] = values[0] if axes is None else _value(axes, pairs, layout, fresh)
    return arrays


def _holds_input(units: np.ndarray, layout: Layout) -> bool:
    """Whether some are units of an input that all sources share."""
    spaces = list(layout.trace.spaces.values())
    common = units[layout.source_of(units) == 0]
    return any(spaces[number].is_input for number in np.unique(layout.trace.space_of[common]))


def _check_equal(path: str, values: Sequence[np.ndarray]) -> None:
    if any(not np.array_equal(values[0], value) for value in values[1:]):
        raise ArchitectureMismatchError(
            f"The models differ in {path!r}: expected the constant array of its call to be equal in all of them, received "
            "other values, of which the new model has room for one. Build the models with equal constants, or hold them as "
            "a weight, in keras.layers.Embedding or Dense."
        )
