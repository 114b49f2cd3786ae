"""The one primitive: `rewrite` builds a new model from a template's structure and other models' units.

The template gives structure, names and configuration. The plan says which unit of which source each unit of the new
model is. Every weight is filled by looking up, for each of its axes, where the entries of the new axis lie in a source.
An element whose entries come from different sources is zero.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kmerge.checks import number, refuse, sentence, sequence, warn
from kmerge.checks import seed as check_seed
from kmerge.errors import InvalidArgumentError, KmergeError
from kmerge.graph import Graph, array_of, overridden
from kmerge.opening import open_models
from kmerge.pairing import paired_layers
from kmerge.rules import Axis
from kmerge.spaces import Trace, trace, warn_of_unfollowed
from kmerge.surgery.building import build
from kmerge.surgery.filling import Source, constants_of, fill
from kmerge.surgery.layout import Layout, weight_axes
from kmerge.surgery.new_units import Fresh
from kmerge.surgery.plan import COMMON, Plan


def check_finite(model: keras.Model) -> dict[int, np.ndarray]:
    """The weights of a model as arrays, by their ids.

    Raises:
        InvalidArgumentError: with the name of the first weight that holds NaN or infinity.
    """
    try:
        arrays = {id(weight): array_of(weight) for weight in model.weights}
    except (NotImplementedError, TypeError) as error:  # as TensorFlow says of a variable in a program
        do = "Call kmerge outside of tf.function and jax.jit, and the model that it returns inside."
        what = f"weights of model {model.name!r} that can be read"
        raise InvalidArgumentError(sentence(what, "a program that is being traced", do)) from error
    for weight in model.weights:
        if "float" in str(weight.dtype) and not np.isfinite(arrays[id(weight)]).all():
            raise InvalidArgumentError(
                f"Expected weight {weight.path!r} of model {model.name!r} to be finite, received NaN or infinity. The "
                "training of this model has failed: train it again."
            )
    return arrays


def check_all_finite(models: Sequence[keras.Model]) -> list[dict[int, np.ndarray]]:
    """For each model what `check_finite` gives; one that is there twice is read once."""
    read = {id(model): model for model in models}
    read = {key: check_finite(model) for key, model in read.items()}
    return [read[id(model)] for model in models]


def warn_of_lost_training(model: keras.Model) -> None:
    """Warns if the class of a model has a way of its own to train, which a new, plain model has not."""
    if lost := overridden(model):
        warn(
            f"The class {type(model).__name__} of model {model.name!r} has its own {', '.join(lost)}. The new model has the "
            "same graph but is a plain keras.Model: where it shall train like that, make one of your class from its inputs "
            "and outputs."
        )


def check_fresh(scale: float, seed: int) -> None:
    """Checks what weights of new units are drawn with."""
    number("scale", scale)
    check_seed("seed", seed)


def for_surgery(models: Sequence[keras.Model]) -> list[keras.Model]:
    """The models with layers open that no rule knows, see `open_models`; warns of a way to train that is not handed on.

    Each verb calls it once, before it walks them: a model whose layers are open is not opened again.
    """
    for model in models:
        if not isinstance(model, keras.Model):
            raise InvalidArgumentError(sentence("a keras.Model", model))
    if models:
        warn_of_lost_training(models[0])
    return open_models(models)


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

    Example:
        >>> plan = kmerge.Plan(1, {"first": [(0, 2), (0, 0)], "second": [(0, unit) for unit in range(4)]})
        >>> kmerge.rewrite(model, [model], plan).get_layer("first").units
        2
    """
    check_fresh(scale, seed)
    if not isinstance(plan, Plan):
        refuse("plan", "a kmerge.Plan", plan)
    if len(sequence("sources", sources, "a list of models")) != plan.sources:
        refuse("sources", f"the {plan.sources} models of the plan", len(sources))
    template, *sources = for_surgery([template, *sources])
    arrays = check_all_finite(sources)
    walked = trace(template, plan.copied, plan.averaged_outputs)
    return rewrite_walked(walked, sources, plan, arrays, scale=scale, seed=seed)


def rewrite_walked(
    walked: Trace,
    sources: Sequence[keras.Model],
    plan: Plan,
    arrays: Sequence[Mapping[int, np.ndarray]],
    layers: Sequence[Mapping[str, keras.Layer]] | None = None,
    *,
    scale: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """`rewrite` of a template that is walked, as the plan needs it, and of sources whose weights are read.

    Args:
        walked: the walk of the template.
        sources: as for `rewrite`, with open layers.
        plan, scale, seed: as for `rewrite`.
        arrays: of each source what `check_finite` gives.
        layers: of each source what `paired_layers` gives, if that is known.
    """
    warn_of_unfollowed(walked.layers, walked.unfollowed)
    layout = Layout(walked, plan)
    layers = layers or [paired_layers(walked.model, source) for source in sources]
    found = [model_source(walked, plan, i, model, arrays[i], layers[i]) for i, model in enumerate(sources)]
    fresh = Fresh(walked, scale, seed)
    model, made = build(layout, constants=constants_of(layout, found, fresh))
    fill(made, layout, found, fresh)
    verify(model, layout, made)
    return model


def _constants_by_call(model: keras.Model) -> dict[tuple, list]:
    """The `Call.constants` of all calls that have such, by the numbers of the calls that lead there."""
    found: dict[tuple, list] = {}

    def visit(graph, number):
        for call in graph.calls:
            key = number + (call.number,)
            if call.is_model:
                visit(Graph(call.operation), key)
            if call.constants:
                found[key] = call.constants

    visit(Graph(model), ())
    return found


def model_source(
    walked: Trace,
    plan: Plan,
    number: int,
    model: keras.Model,
    arrays: Mapping[int, np.ndarray],
    layers: Mapping[str, keras.Layer],
) -> Source:
    """A model of the template's architecture as source `number` of a plan: its units in their own places.

    Args:
        walked: the walk of the template.
        plan: the plan.
        number: of the source.
        model: the source, with open layers.
        arrays: what `check_finite` gives of it.
        layers: what `paired_layers` gives of the template and it.
    """
    constants = _constants_by_call(model)
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
    of_calls = {key: {i: coded(a) for i, a in r.constants.items()} for key, r in walked.records.items() if r.constants}
    return Source(lambda path, i: arrays[id(layers[path].weights[i])], axes, constants.get, of_calls, layers)


def verify(model: keras.Model, layout: Layout, layers: Mapping[str, keras.Layer]) -> None:
    """Walks the new model and compares what belongs together there with the plan.

    Args:
        model: the new model.
        layout: its layout.
        layers: its layers by the path in the template.

    Raises:
        UnsupportedLayerError: if a layer cannot be followed at its new width.
        KmergeError: if the entries of the plan and the units of the new model are not one to one.
    """
    # A layer that ran as it is may open now, as where it is handed the mask that its input carried before.
    walked = trace(model, for_gates=layout.trace.for_gates, as_built=True)
    found = {id(walked.layers[path]): axes for path, axes in walked.axes.items()}
    lost = {id(walked.layers[path]): error for path, error in walked.unfollowed.items()}
    selectable = np.array([space.selectable for space in walked.spaces.values()], bool)
    # A group or a broadcast factor of one unit is no longer told from a channel, nor a gather that repeats none from a slice.
    gathers = {record.path for record in layout.trace.records.values() if record.rule.gathers}
    loose = [e for n, s in layout.trace.spaces.items() if len(e := layout.entries_of(n)) == 1 or gathers & {*s.owners}]
    pairs = [np.empty((2, 0), int)]
    for path, named in ((path, named) for path, named in layout.axes.items() if path in layers):
        if named and id(layers[path]) in lost:  # at its old width it could be followed
            raise lost[id(layers[path])]
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
