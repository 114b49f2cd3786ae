"""The four verbs: concatenate, select, permute, grow. Each only writes a plan for `rewrite`."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kmerge.checks import number, sentence, whole_number
from kmerge.errors import InvalidArgumentError
from kmerge.pairing import paired_layers
from kmerge.spaces import ChannelSpace, ChannelSpaces, Trace, channel_spaces, trace
from kmerge.surgery.plan import NEW, Plan
from kmerge.surgery.rewriting import rewrite


def concatenate(*models: keras.Model) -> keras.Model:
    """Joins models of one architecture channel by channel into one that gives the mean of their logits.

    Logits are the outputs before a final softmax or sigmoid, which stays outside the mean. Any other final activation is
    inside: the mean is that of the outputs.

    Args:
        *models: two or more Functional or Sequential models of one architecture; the same model twice is allowed.

    Returns:
        A new `keras.Model` with the names of the first one. A space of n units has n from each model, in their order.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for fewer than two models, a subclassed or unbuilt one, or weights that are not finite.

    Reference:
        Pašen & Boža, Merging of Neural Networks, 2024, section 2.1.
    """
    check_models(models)
    walked, copied, averaged = _separate_sources(models[0])
    entries = {}
    for space in walked.spaces.values():
        if space.is_interior:
            entries[space.name] = [(s, i) for s in range(len(models)) for i in range(space.size)]
    return rewrite(models[0], models, Plan(len(models), entries, copied, averaged))


def check_models(models: Sequence[keras.Model]) -> None:
    """Checks that there are at least two models, all of one architecture."""
    if len(models) < 2:
        raise InvalidArgumentError(sentence("at least two models", len(models)))
    for other in models[1:]:
        paired_layers(models[0], other)
    if len(models[0].weights) == 0:
        raise InvalidArgumentError(sentence("models with weights to combine", models[0].name, "It has none."))


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
        more_inputs = {i for i, x in enumerate(walked.inputs) if _any(spaces, walked, x, needs_copies)}
        more_outputs = {i for i, x in enumerate(walked.outputs) if _any(spaces, walked, x, needs_mean)}
        if more_inputs <= copied and more_outputs <= averaged:
            return walked, copied, averaged
        copied, averaged = copied | more_inputs, averaged | more_outputs


def _any(spaces: list[ChannelSpace], walked: Trace, x, condition) -> bool:
    return any(condition(spaces[s]) for s in np.unique(walked.space_of[x.units]))


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


def select(model: keras.Model, keep: Mapping[str, object]) -> keras.Model:
    """Keeps some units of some spaces and drops the others.

    A layer that normalizes over units, such as LayerNormalization, normalizes over those that are left: where it drops
    some of its units but not all of one source, the others change.

    Args:
        model: a Functional or Sequential model.
        keep: by name of a space, or of a layer that makes one: indices, which are kept in ascending order; a boolean
            mask of shape `(units,)`; a count, of the first units; or a fraction between 0 and 1 (a float), of the
            first units, at least one. Spaces that are not named stay as they are.

    Returns:
        A new `keras.Model`.

    Raises:
        InvalidArgumentError: for an unknown or not selectable space, an empty or impossible choice.
    """
    spaces = channel_spaces(model)
    chosen = {}
    for name, value in by_space(spaces, keep).items():
        chosen[name] = _kept(spaces[name], value)
    return rewrite(model, [model], _single_plan(spaces, chosen))


def permute(model: keras.Model, order: Mapping[str, Sequence[int]]) -> keras.Model:
    """Reorders the units of some spaces; the outputs stay the same.

    Args:
        model: a Functional or Sequential model.
        order: by name of a space: a permutation of its units; unit `order[i]` moves to place i.

    Returns:
        A new `keras.Model`.

    Raises:
        InvalidArgumentError: for an unknown or not selectable space, or what is no permutation of its units.
    """
    spaces = channel_spaces(model)
    chosen = {}
    for name, value in by_space(spaces, order).items():
        indices = np.asarray(value)
        if indices.dtype.kind not in "iu" or not np.array_equal(np.sort(indices.ravel()), np.arange(spaces[name].size)):
            what = f"a permutation of 0 to {spaces[name].size - 1}"
            raise InvalidArgumentError(sentence(what, value, of=f"Space {name!r}"))
        chosen[name] = indices.ravel()
    return rewrite(model, [model], _single_plan(spaces, chosen))


def grow(model: keras.Model, new_units: Mapping[str, int], *, scale: float = 0.0, seed: int = 0) -> keras.Model:
    """Adds units to some spaces, behind those that are there.

    Args:
        model: a Functional or Sequential model.
        new_units: by name of a space: how many units to add.
        scale: factor on the weights with which other layers read the new units. With 0 the outputs do not change.
        seed: seed of the new units' weights, which their layers' initializers draw.

    Returns:
        A new `keras.Model`.

    Raises:
        InvalidArgumentError: for an unknown or not selectable space, or a count that is no positive integer.
    """
    number("scale", scale)
    spaces = channel_spaces(model)
    added = by_space(spaces, new_units)
    for name, count in added.items():
        whole_number("the number of new units", count, of=f"Space {name!r}")
    plan = _single_plan(spaces, {})
    for name, count in added.items():
        # A new unit lies wherever the last unit lies.
        plan.entries[name].extend([(NEW, spaces[name].size - 1)] * int(count))
    return rewrite(model, [model], plan, scale=scale, seed=seed)


def by_space(spaces: ChannelSpaces, values: Mapping) -> dict:
    """The values by name of the space, for spaces named by themselves or by a layer that makes them."""
    if not isinstance(values, Mapping):
        raise InvalidArgumentError(sentence("a mapping from names of spaces", values))
    result = {}
    for name, value in values.items():
        space = spaces[name]
        if not space.selectable:
            do = f"It is not: {space.reason}. print(kmerge.channel_spaces(model)) shows those that are."
            raise InvalidArgumentError(sentence("the name of a selectable space", name, do))
        if space.name in result:
            do = f"It means the space {space.name!r}, which is named before: name it once."
            raise InvalidArgumentError(sentence("one name for each space", name, do))
        result[space.name] = value
    return result


def _kept(space: ChannelSpace, value) -> np.ndarray:
    """Ascending indices of the kept units."""
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind == "f" and 0 < array <= 1:
        return np.arange(max(1, round(float(array) * space.size)))
    if array.ndim == 0 and array.dtype.kind in "iu" and 1 <= array <= space.size:
        return np.arange(int(array))
    if array.ndim == 1 and array.dtype == bool and len(array) == space.size and array.any():
        return np.flatnonzero(array)
    unique = np.unique(array)
    if array.ndim == 1 and array.dtype.kind in "iu" and len(unique) == len(array) > 0:
        if unique[0] >= 0 and unique[-1] < space.size:
            return unique
    what = (
        f"distinct indices from 0 to {space.size - 1}, a mask of shape ({space.size},) with at least one True, a count from "
        f"1 to {space.size}, or a fraction in (0, 1]"
    )
    raise InvalidArgumentError(sentence(what, value, of=f"Space {space.name!r} with {space.size} units"))


def _single_plan(spaces: ChannelSpaces, chosen: Mapping[str, np.ndarray]) -> Plan:
    entries = {
        space.name: [(0, int(i)) for i in chosen.get(space.name, range(space.size))] for space in spaces.selectable
    }
    return Plan(1, entries)
