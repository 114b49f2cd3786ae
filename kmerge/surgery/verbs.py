"""The four verbs: concatenate, select, permute, grow. Each only writes a plan for `rewrite_walked`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.checks import flag, sentence, whole_number
from kmerge.compiling import training_of
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.opening import opened
from kmerge.pairing import paired_layers
from kmerge.spaces import ChannelSpace, ChannelSpaces, Trace, channel_spaces, trace
from kmerge.surgery.ends import check_growing_ends
from kmerge.surgery.layout import Layout
from kmerge.surgery.plan import NEW, Plan
from kmerge.surgery.rewriting import check_all_finite, check_finite, check_fresh, for_surgery, rewrite_walked

# Units that one call may add to a space: more are a slip, and would fill the memory.
_MOST_NEW = 2**20


def concatenate(*models: keras.Model) -> keras.Model:
    """Joins models of one architecture channel by channel into one that gives the mean of their logits.

    Logits are the outputs before a final softmax or sigmoid, which stays outside the mean. Any other final activation is
    inside: the mean is that of the outputs.

    Args:
        *models: two or more Functional or Sequential models of one architecture, or one list of them; the same model
            twice is allowed. Their widths may differ.

    Returns:
        A new `keras.Model` with the names of the first one. A space has all units of each model, in their order.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for fewer than two models, a subclassed or unbuilt one, or weights that are not finite.

    Reference:
        Pašen & Boža, Merging of Neural Networks, 2024, section 2.1.

    Example:
        >>> both = kmerge.concatenate(model, other)
        >>> both.get_layer("first").units
        12
        >>> np.allclose(both(x), (model(x) + other(x)) / 2, atol=1e-5)
        True
    """
    common = at_common_widths(for_surgery(listed(models)))
    models, arrays = common.models, check_all_finite(common.models)
    walked, copied, averaged = _separate_sources(models[0])
    entries = {}
    for space in walked.spaces.values():
        if space.is_interior:
            entries[space.name] = [(s, i) for s in range(len(models)) for i in range(space.size)]
    plan = Plan(len(models), entries | common.entries(), copied, averaged)
    return rewrite_walked(walked, models, plan, arrays, common.layers)


def listed(models: Sequence) -> tuple:
    """The models of a call with any number of them, or with a list of them in their place."""
    return tuple(models[0]) if len(models) == 1 and isinstance(models[0], list | tuple) else tuple(models)


def check_models(models: Sequence[keras.Model]) -> list[dict]:
    """Checks that there are at least two models, all of one architecture; for each what `paired_layers` gives."""
    if len(models) < 2:
        raise InvalidArgumentError(sentence("at least two models", len(models)))
    first, *others = (opened(model).model for model in models)
    layers = [paired_layers(first, other) for other in (first, *others)]
    if len(models[0].weights) == 0:
        raise InvalidArgumentError(sentence("models with weights to combine", models[0].name, "It has none."))
    return layers


def _separate_sources(model: keras.Model) -> tuple[Trace, frozenset, frozenset]:
    """Finds the inputs that must be copied, and the outputs averaged last, for the sources to stay apart between.

    An input can be common to all sources as long as nothing but parameter-free layers touches its channels. An output
    can be averaged in the kernels that make it as long as everything behind them is linear and nothing else reads them.
    """
    copied: frozenset = frozenset()
    averaged: frozenset = frozenset()
    while True:
        walked = trace(model, copied, averaged)
        spaces = list(walked.spaces.values())
        more_inputs = {place for place, units in walked.entries.items() if _any(spaces, walked, units, needs_copies)}
        more_outputs = {i for i, x in enumerate(walked.outputs) if _any(spaces, walked, x.units, needs_mean)}
        if more_inputs <= copied and more_outputs <= averaged:
            return walked, copied, averaged
        copied, averaged = copied | more_inputs, averaged | more_outputs


def _any(spaces: list[ChannelSpace], walked: Trace, units: np.ndarray, condition) -> bool:
    return any(condition(spaces[s]) for s in np.unique(walked.space_of[units]))


def needs_copies(space: ChannelSpace) -> bool:
    """Whether the sources can only stay apart if an input's channels are copied for each of them."""
    if not space.is_input:
        return False
    if space.is_output:
        return needs_mean(space)
    return space.is_held or space.is_made


def needs_mean(space: ChannelSpace) -> bool:
    """Whether an output's units cannot be averaged in the kernels that make them."""
    if space.is_interior:
        return True
    if not space.is_output:
        return False
    return space.is_held or space.is_made and (space.is_curved or bool(space.consumers))


def select(model: keras.Model, keep: Mapping[str, object], *, compile: bool = False) -> keras.Model:
    """Keeps some units of some spaces and drops the others.

    A layer that normalizes over units, such as LayerNormalization, normalizes over those that are left: where it drops
    some of its units but not all of one source, the others change.

    Args:
        model: a Functional or Sequential model.
        keep: what stays, by name of a space or of a layer that makes one: indices, which are kept in ascending order; a
            boolean mask of shape `(units,)`; a count, of the first units; or a fraction between 0 and 1 (a float), of the
            first units, at least one. Spaces that are not named stay as they are.
        compile: whether the new model is compiled as this one is, with the same losses, new metrics and a new optimizer
            of the same configuration.

    Returns:
        A new `keras.Model`.

    Raises:
        InvalidArgumentError: for an unknown or not selectable space, an empty or impossible choice; with `compile=True`,
            if the model is not compiled, or has a metric or an optimizer that its configuration does not build again.

    Example:
        >>> small = kmerge.select(model, {"first": 0.5, "second": [0, 3]})
        >>> small.get_layer("first").units, small.get_layer("second").units
        (3, 2)
    """
    training = training_of(model) if flag("compile", compile) else {}
    (model,) = for_surgery([model])
    small = select_walked(trace(model), check_finite(model), keep)
    if training:
        small.compile(**training)
    return small


def select_walked(walked: Trace, arrays: Mapping[int, np.ndarray], keep: Mapping[str, object]) -> keras.Model:
    """`select` of a model that is walked, with its layers open, and whose weights are read by `check_finite`."""
    spaces = walked.spaces
    chosen = {name: _kept(spaces[name], value) for name, value in by_space(spaces, keep).items()}
    return rewrite_walked(walked, [walked.model], _single_plan(spaces, chosen), [arrays])


def permute(model: keras.Model, order: Mapping[str, Sequence[int]]) -> keras.Model:
    """Reorders the units of some spaces; the outputs stay the same.

    Args:
        model: a Functional or Sequential model.
        order: permutation of the units, by name of a space; unit `order[i]` moves to place i.

    Returns:
        A new `keras.Model`.

    Raises:
        InvalidArgumentError: for an unknown or not selectable space, or what is no permutation of its units.

    Example:
        >>> moved = kmerge.permute(model, {"second": [3, 2, 1, 0]})
        >>> np.allclose(moved(x), model(x), atol=1e-5)
        True
    """
    (model,) = for_surgery([model])
    walked = trace(model)
    spaces, chosen = walked.spaces, {}
    for name, value in by_space(spaces, order).items():
        indices = _array(value)
        if indices.dtype.kind not in "iu" or not np.array_equal(np.sort(indices.ravel()), np.arange(spaces[name].size)):
            what = f"a permutation of 0 to {spaces[name].size - 1}"
            raise InvalidArgumentError(sentence(what, value, of=f"Space {name!r}"))
        chosen[name] = indices.ravel()
    return rewrite_walked(walked, [walked.model], _single_plan(spaces, chosen), [check_finite(model)])


def grow(
    model: keras.Model,
    new_units: Mapping[str, int],
    *,
    outputs: bool = False,
    inputs: bool = False,
    scale: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Adds units to some spaces, behind those that are there.

    Args:
        model: a Functional or Sequential model.
        new_units: number of units to add, by name of a space.
        outputs: whether spaces that are outputs of the model may grow, as by one more class. The old logits stay as they
            are; the new ones come last, from weights that the layer's initializers draw. A final softmax is then over
            all classes, so that the old probabilities shrink, all by the same factor.
        inputs: whether spaces that are inputs of the model may grow, as by one more feature, which comes last. The shape
            of the input changes with them. Whatever the new feature is, it changes nothing with a scale of 0; in
            BatchNormalization and Normalization it starts as in a new layer.
        scale: factor on the weights with which other layers read the new units. With 0 the outputs do not change.
        seed: seed of the new units' weights, which their layers' initializers draw.

    Returns:
        A new `keras.Model`.

    Raises:
        InvalidArgumentError: for an unknown or not selectable space, or a count that is no positive integer; for an input
            or output that cannot grow alone, as where one is tied to the other.

    Example:
        >>> wide = kmerge.grow(model, {"first": 2})
        >>> np.allclose(wide(x), model(x), atol=1e-5)
        True
        >>> kmerge.grow(model, {"logits": 1}, outputs=True).output_shape      # one more class
        (None, 3)
    """
    check_fresh(scale, seed)
    outputs, inputs = flag("outputs", outputs), flag("inputs", inputs)
    (model,) = for_surgery([model])
    walked = trace(model)
    spaces = walked.spaces
    added = by_space(spaces, new_units, outputs=outputs, inputs=inputs)
    for name, count in added.items():
        whole_number("the number of new units", count, most=_MOST_NEW, of=f"Space {name!r}")
    plan = _single_plan(spaces, {})
    for name, count in added.items():
        # A new unit lies wherever the last unit lies.
        old = [(0, i) for i in range(spaces[name].size)]
        plan.entries[name] = old + [(NEW, spaces[name].size - 1)] * int(count)
    if any(spaces[name].ends for name in added):
        check_growing_ends(Layout(walked, plan), added)
    return rewrite_walked(walked, [walked.model], plan, [check_finite(model)], scale=scale, seed=seed)


def by_space(spaces: ChannelSpaces, values: Mapping, *, outputs: bool = False, inputs: bool = False) -> dict:
    """The values by name of the space, for spaces named by themselves or by a layer that makes them.

    Args:
        spaces: the spaces.
        values: by name; raises `InvalidArgumentError` for one that is unknown or not selectable.
        outputs, inputs: whether spaces that nothing but outputs or inputs of the model holds fast count as selectable.
    """
    if not isinstance(values, Mapping):
        raise InvalidArgumentError(sentence("a mapping from names of spaces", values))
    result = {}
    for name, value in values.items():
        space = spaces[name]
        only_ends = len(space.ends) == len(space.reasons)
        if not (only_ends and (outputs or not space.is_output) and (inputs or not space.is_input)):
            do = f"It is not: {space.reason.rstrip('.')}. {_way_out(space) if only_ends else _SEE}"
            raise InvalidArgumentError(sentence("the name of a selectable space", name, do))
        if space.name in result:
            do = f"It means the space {space.name!r}, which is named before: name it once."
            raise InvalidArgumentError(sentence("one name for each space", name, do))
        result[space.name] = value
    return result


_SEE = "print(kmerge.channel_spaces(model)) shows those that are."


def _way_out(space: ChannelSpace) -> str:
    if space.is_input and space.is_output:
        return _SEE
    argument = "outputs" if space.is_output else "inputs"
    return f"Units can only be added to it: kmerge.grow(model, {{{space.name!r}: 1}}, {argument}=True)."


def _kept(space: ChannelSpace, value) -> np.ndarray:
    """Ascending indices of the kept units."""
    array = _array(value)
    if array.ndim == 0 and array.dtype.kind == "f" and 0 < array <= 1:
        return np.arange(max(1, round(float(array) * space.size)))
    if array.ndim == 0 and array.dtype.kind in "iu" and 1 <= array <= space.size:
        return np.arange(int(array))
    if array.ndim == 1 and array.dtype == bool and len(array) == space.size and array.any():
        return np.flatnonzero(array)
    if array.ndim == 1 and array.dtype.kind in "iu" and len(unique := np.unique(array)) == len(array) > 0:
        if unique[0] >= 0 and unique[-1] < space.size:
            return unique
    what = (
        f"distinct indices from 0 to {space.size - 1}, a mask of shape ({space.size},) with at least one True, a count from "
        f"1 to {space.size}, or a fraction in (0, 1]"
    )
    raise InvalidArgumentError(sentence(what, value, of=f"Space {space.name!r} with {space.size} units"))


def _array(value: object) -> np.ndarray:
    """The value as an array; one without numbers where it cannot be made one."""
    try:
        return np.asarray(value)
    except Exception:  # whatever a stranger's object raises
        return np.empty(0, object)


def _single_plan(spaces: ChannelSpaces, chosen: Mapping[str, np.ndarray]) -> Plan:
    entries = {
        space.name: [(0, int(i)) for i in chosen.get(space.name, range(space.size))] for space in spaces.selectable
    }
    return Plan(1, entries)


# Models of other widths ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommonWidths:
    """Models of the same widths, and which of their units are their own.

    Attributes:
        models: each as wide in every space as the widest; their outputs are what they were.
        sizes: by the name of each selectable space in the first model, the number of units that each model had; those that
            it got stand behind them. Empty if all models had the same widths.
        layers: for each model its layers, by the paths of the first one's, if they were paired.
    """

    models: tuple[keras.Model, ...]
    sizes: dict[str, tuple[int, ...]]
    layers: Sequence[dict[str, keras.Layer]] = ()

    def entries(self) -> dict[str, list[tuple[int, int]]]:
        """The models' own units side by side, as `(model, unit)`, by the name of the space."""
        return {name: [(s, i) for s, size in enumerate(sizes) for i in range(size)] for name, sizes in self.sizes.items()}


def _kinds(model: keras.Model) -> list:
    """The classes of its layers, nested as they are."""
    return [_kinds(layer) if hasattr(layer, "layers") else type(layer) for layer in model.layers]


def at_common_widths(models: Sequence[keras.Model]) -> CommonWidths:
    """Checks that models are of one architecture but for their widths, and widens those where another one is wider.

    Args:
        models: Functional models whose layers are open.

    Raises:
        InvalidArgumentError: for fewer than two models, or models without weights.
        ArchitectureMismatchError: names the first layer that differs, as it is in the models given.
    """
    shapes = [[tuple(weight.shape) for weight in model.weights] for model in models if isinstance(model, keras.Model)]
    spaces = [channel_spaces(model).selectable for model in models] if any(each != shapes[0] for each in shapes) else [[]]
    sizes = [[space.size for space in each] for each in spaces]
    if sizes == [[]] or any(len(each) != len(sizes[0]) for each in sizes):
        return CommonWidths(tuple(models), {}, check_models(models))
    most = [max(column) for column in zip(*sizes, strict=True)]
    wide = []
    for model, each in zip(models, spaces, strict=True):
        missing = {space.name: size - space.size for space, size in zip(each, most, strict=True) if size > space.size}
        wide.append(grow(model, missing) if missing else model)
    try:
        layers = check_models(wide)
    except ArchitectureMismatchError:
        if any(_kinds(model) != _kinds(grown) for model, grown in zip(models, wide, strict=True)):
            check_models(models)  # what differs is named as it is there, not by layers that were put in to grow it
        raise
    names = [space.name for space in spaces[0]]
    return CommonWidths(tuple(wide), dict(zip(names, zip(*sizes, strict=True), strict=True)), layers)
