"""The one primitive: `rewrite` builds a new model from a template's structure and other models' units.

The template gives structure, names and configuration. The plan says which unit of which source each unit of the new
model is. Every weight is filled by looking up, for each of its axes, where the entries of the new axis lie in a source.
An element whose entries come from different sources is zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.checks import refuse, warn
from kmerge.errors import (
    ArchitectureMismatchError,
    InvalidArgumentError,
    KmergeError,
    UnsupportedLayerError,
    told,
)
from kmerge.graph import inner_layers, overridden
from kmerge.opening import open_models
from kmerge.pairing import paired_with_constants
from kmerge.rules import Axis, positions_of
from kmerge.spaces import Trace, trace, warn_of_unfollowed
from kmerge.surgery.building import build
from kmerge.surgery.layout import Layout, weight_axes
from kmerge.surgery.new_units import Fresh
from kmerge.surgery.plan import COMMON, Plan


@dataclass(frozen=True)
class Source:
    """Where values come from: arrays, and the entries along their axes.

    Attributes:
        read: `read(path, index)` gives the array of a layer's weight.
        axes: for each layer path, the axes of its weights by index.
    """

    read: Callable[[str, int], np.ndarray]
    axes: Mapping[str, Mapping[int, tuple]]


def check_finite(model: keras.Model) -> None:
    """Raises `InvalidArgumentError` with the name of the first weight that holds NaN or infinity."""
    for weight in model.weights:
        if "float" in str(weight.dtype) and not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise InvalidArgumentError(
                f"Expected weight {weight.path!r} of model {model.name!r} to be finite, received NaN or infinity. The "
                "training of this model has failed: train it again."
            )


def warn_of_lost_training(model: keras.Model) -> None:
    """Warns if the class of a model has a way of its own to train, which a new, plain model has not."""
    if lost := overridden(model):
        warn(
            f"The class {type(model).__name__} of model {model.name!r} has its own {', '.join(lost)}. The new model has the "
            "same graph but is a plain keras.Model: where it shall train like that, make one of your class from its inputs "
            "and outputs."
        )


def rewrite(
    template: keras.Model, sources: Sequence[keras.Model], plan: Plan, *, scale: float = 0.0, seed: int = 0
) -> keras.Model:
    """Builds a model with the template's structure from units of the sources.

    Args:
        template: gives structure, names and configuration.
        sources: models of the template's architecture.
        plan: which unit of which source each unit of the new model is.
        scale: factor on the weights with which layers read new units; 0 leaves the outputs unchanged.
        seed: seed of the new units' own weights, drawn from their layers' initializers.

    Returns:
        A new, uncompiled model. The arguments are not changed.

    Raises:
        ArchitectureMismatchError, UnsupportedLayerError, InvalidArgumentError: before anything is built.

    Warns:
        UserWarning: if the template's class has a way of its own to train: the new model is a plain one.
    """
    if len(sources) != plan.sources:
        refuse("sources", f"the {plan.sources} models of the plan", len(sources))
    for model in {id(m): m for m in sources}.values():
        check_finite(model)
    warn_of_lost_training(template)
    template, *sources = open_models([template, *sources])
    walked = trace(template, plan.copied, plan.averaged_outputs)
    warn_of_unfollowed(walked.layers, walked.unfollowed)
    layout = Layout(walked, plan)
    found = [model_source(walked, plan, number, model) for number, model in enumerate(sources)]
    model, layers = build(layout)
    fill(layers, layout, found, Fresh(walked, scale, seed))
    verify(model, layout, layers)
    return model


def model_source(walked: Trace, plan: Plan, number: int, model: keras.Model) -> Source:
    """A model of the template's architecture as source `number` of a plan: its units in their own places."""
    layers, constants = paired_with_constants(walked.model, model)
    kept = {record.path for record in walked.records.values() if record.rule.holds_constants}
    for path in sorted(constants - kept):
        raise ArchitectureMismatchError(
            f"The models differ in {path!r}: expected the constant array of its call to be equal in all of them, received "
            "other values, of which the new model would have room for one. Put it into a weight, as keras.layers.Embedding "
            "and Dense hold them, or build the models with equal constants."
        )
    separate = np.zeros(len(walked.space_of), dtype=int)
    for name, listed in plan.entries.items():
        units = walked.spaces[name].units
        separate[units] = 1
        separate[units[[i for source, i in listed if source == COMMON]]] = 0
    entries = np.arange(len(separate)) + (1 + number) * len(separate) * separate

    def coded(roles):
        return tuple(a and Axis(a.role, entries[a.units]) for a in roles)

    axes = {
        path: {i: coded(roles) for i, roles in weight_axes(named, walked.layers[path]).items()}
        for path, named in walked.axes.items()
        if named
    }
    return Source(lambda path, i: keras.ops.convert_to_numpy(layers[path].weights[i]), axes)


# Filling --------------------------------------------------------------------------------------------------------------


def fill(
    layers: Mapping[str, keras.Layer], layout: Layout, sources: Sequence[Source], fresh: Fresh | None = None
) -> None:
    """Assigns the weights of a newly built model.

    Args:
        layers: its layers by path.
        layout: its layout.
        sources: where the values come from; where several have an element, it is their mean.
        fresh: draws the weights of new units, where the plan has any.
    """
    for path, layer in layers.items():
        axes = weight_axes(layout.axes.get(path, {}), layer)
        origin, source = layout.origins.get(path, (path, None))
        for index, variable in enumerate(layer.weights):
            try:
                if index in axes:
                    value = _value(origin, index, variable, axes[index], layout, sources, fresh)
                else:
                    one = source is not None and len(sources) > 1
                    value = _unlabelled(origin, index, [sources[source]] if one else sources)
                variable.assign(value)
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


def _unlabelled(path: str, index: int, sources: Sequence[Source]) -> np.ndarray:
    values = [source.read(path, index) for source in sources]
    if any(not np.array_equal(values[0], value) for value in values[1:]):
        raise InvalidArgumentError(
            f"Layer {path!r}: expected its weight {index}, which has no channel axis, to be equal in all models, received "
            "values that differ. Register a rule that names its axes, or give the models equal values."
        )
    return values[0]


def _value(path, index, variable, axes, layout: Layout, sources, fresh: Fresh | None) -> np.ndarray:
    result = None
    for source in sources:
        array = source.read(path, index)
        result = np.zeros(variable.shape, array.dtype) if result is None else result
        _add_block(result, array, axes, source.axes[path][index])
    if len(sources) > 1:
        # A unit that all sources make together is the mean of what each makes of it.
        at, axis = next(((i, a) for i, a in enumerate(axes) if a and a.role != "consumes"), (None, None))
        if axis is not None:
            common = layout.source_of(axis.units) == 0
            result[(slice(None),) * at + (common,)] /= len(sources)
    if fresh is not None:
        _add_new(result, path, index, axes, layout, len(sources), fresh)
    return result


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


def _add_new(result, path, index, axes, layout: Layout, sources: int, fresh: Fresh) -> None:
    draws = None
    for at, axis in sorted(enumerate(axes), key=lambda pair: bool(pair[1]) and pair[1].role == "consumes"):
        new = layout.source_of(axis.units) > sources if axis else np.zeros(1, bool)
        if new.any():
            draws = fresh.draw(path, index, result.shape) if draws is None else draws
            place = (slice(None),) * at + (new,)
            result[place] = draws[place] * (fresh.scale if axis.role == "consumes" else 1.0)


# Checking -------------------------------------------------------------------------------------------------------------


def verify(model: keras.Model, layout: Layout, layers: Mapping[str, keras.Layer]) -> None:
    """Walks the new model and compares what belongs together there with the plan.

    Args:
        model: the new model.
        layout: its layout.
        layers: its layers by the path in the template.

    Raises:
        KmergeError: if the entries of the plan and the units of the new model are not one to one.
    """
    walked = trace(model)
    found = {id(walked.layers[path]): axes for path, axes in walked.axes.items()}
    selectable = np.array([space.selectable for space in walked.spaces.values()], bool)
    # A group or a broadcast factor of one unit is no longer told from a channel, nor a gather that repeats none from a slice.
    gathers = {record.path for record in layout.trace.records.values() if record.rule.gathers}
    loose = [e for n, s in layout.trace.spaces.items() if len(e := layout.entries_of(n)) == 1 or gathers & {*s.owners}]
    pairs = [np.empty((2, 0), int)]
    for path, named in ((path, named) for path, named in layout.axes.items() if path in layers):
        for name, axes in named.items():
            twins = zip(axes, found[id(layers[path])][name], strict=True)
            pairs += [np.stack([a.units, b.units]) for a, b in twins if a is not None]
    unique = np.unique(np.concatenate(pairs, axis=1), axis=1)
    unique = unique[:, selectable[walked.space_of[unique[1]]] & ~np.isin(unique[0], np.concatenate([[], *loose]))]
    if any(len(np.unique(side)) != unique.shape[1] for side in unique):
        raise KmergeError(
            f"The channel spaces of the rewritten model {model.name!r} do not agree with the plan. The result would be "
            "wrong, so it is withheld. This is a fault of kmerge: please report it with the model."
        )
