"""Rules for layers and operations that join, split, reshape or combine tensors."""

import math

import numpy as np
from keras import KerasTensor, layers, ops, tree

from kmerge.graph import Call, rename_operation
from kmerge.rules.labels import Labels
from kmerge.rules.reductions import ReduceRule
from kmerge.rules.rule import Rule, channel, operation_rule, refuse_odd_bias, rules_for
from kmerge.rules.site import Site


def named_axis(site: Site, axis: int, rank: int) -> int:
    """An axis counted from the front, or a refusal if it is the batch axis."""
    if axis % rank == 0:
        site.refuse("it works on the batch axis.", "Work on other axes only.")
    return axis % rank


# Joining and splitting ------------------------------------------------------------------------------------------------


def refuse_constants(site: Site) -> None:
    """Refuses a call that combines tensors with an array: its channels have no units."""
    for value in tree.flatten((site.call.args, site.call.kwargs)):
        if hasattr(value, "shape") and not isinstance(value, KerasTensor) and math.prod(value.shape) > 1:
            site.refuse(
                f"it combines channels with a constant array of shape {tuple(value.shape)}, which no weight holds.",
                "Use a layer that holds it as a weight, such as one for embeddings of places, and register its rule.",
            )


@rules_for(layers.Concatenate)
class ConcatenateRule(Rule):
    may_lose = True

    def walk(self, site, *inputs):
        refuse_constants(site)
        rank = len(inputs[0].shape)
        axis = named_axis(site, site.layer.axis, rank)
        if any(x.axis != inputs[0].axis for x in inputs):
            site.refuse("the channels of its inputs lie on different axes.", "Permute them to the last axis first.")
        if axis != inputs[0].axis:
            return site.output(site.tie(*inputs)[0].units, inputs[0].axis)
        return site.output(np.concatenate([x.units for x in inputs]), axis)


class SplitRule(Rule):
    """keras.ops.split: one slice after the other."""

    def walk(self, site, x):
        axis = named_axis(site, site.layer.axis, len(x.shape))
        outputs = range(len(site.call.outputs))
        if axis != x.axis:
            return [site.output(x.units, x.axis, i) for i in outputs]
        ends = np.cumsum([out.shape[axis] for out in site.call.outputs])
        parts = np.split(np.arange(ends[-1]), ends[:-1])
        return [site.output(site.pick(x, parts[i], i), axis, i) for i in outputs]

    def changes(self, site, inputs, outputs):
        if site.layer.axis % len(inputs[0].shape) != inputs[0].axis:
            return {}
        sizes = [len(out.units) for out in outputs]
        if isinstance(site.layer.indices_or_sections, int) and len(set(sizes)) == 1:
            return {}
        return {"indices_or_sections": np.cumsum(sizes)[:-1].tolist()}

    def replay(self, call, operation, tensors, picks):
        if not picks or _is_run(np.concatenate([positions for _, positions in picks.values()])):
            return super().replay(call, operation, tensors, picks)
        return [gather(tensors[0], *picks[i]) for i in range(len(picks))]


class SliceRule(Rule):
    """x[..., a:b] on the feature axis; other axes may be sliced, indexed or added at will."""

    def walk(self, site, x):
        key, at = _key_and_place(site.call, len(x.shape), x.axis)
        if not isinstance(key[at], slice):
            site.refuse(f"it reads the single channel {key[at]!r} of axis {x.axis}, which removes the feature axis.",
                        "Read a slice of length one, x[..., i:i+1].")  # fmt: skip
        positions = np.arange(site.call.inputs[0].shape[x.axis])[key[at]]
        axis = sum(not isinstance(k, int) for k in key[:at])
        if key[at] == slice(None):
            return site.output(x.units, axis)
        return site.output(site.pick(x, positions), axis)

    def replay(self, call, operation, tensors, picks):
        if not picks:
            return super().replay(call, operation, tensors, picks)
        x, (axis, positions) = tensors[0], picks[0]
        key, at = _key_and_place(call, len(x.shape), axis)
        if np.array_equal(np.arange(x.shape[axis])[key[at]], positions):
            return super().replay(call, operation, tensors, picks)
        if _is_run(positions):
            key[at] = slice(int(positions[0]), int(positions[-1]) + 1)
        else:
            x, key[at] = gather(x, axis, positions, f"{operation.name}_order"), slice(None)
        return [operation(x, tuple(key))]


def _is_run(positions: np.ndarray) -> bool:
    return len(positions) > 0 and np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions)))


def gather(x: KerasTensor, axis: int, positions: np.ndarray, name: str | None = None) -> KerasTensor:
    """Reads `positions` of an axis of a symbolic tensor; the tensor itself if these are all in order."""
    if len(positions) == x.shape[axis] and _is_run(positions) and positions[0] == 0:
        return x
    y = ops.take(x, positions.tolist(), axis=axis)
    return y if name is None else rename_operation(y, name)


def _key_and_place(call: Call, rank: int, axis: int) -> tuple[list, int]:
    """The key of a slice with an entry for every axis, and the place in it of the entry for `axis`."""
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    key = list(key) if isinstance(key, (tuple, list)) else [key]
    rest = [slice(None)] * (rank - sum(k is not None and k is not Ellipsis for k in key))
    at = next((i for i, k in enumerate(key) if k is Ellipsis), len(key))
    key = key[:at] + rest + key[at + 1 :]
    return key, [i for i, k in enumerate(key) if k is not None][axis]


class TakeRule(Rule):
    """keras.ops.take with constant indices: a gather."""

    gathers = True

    def walk(self, site, x, *rest):
        indices = site.call.args[1] if len(site.call.args) > 1 else site.call.kwargs["indices"]
        if rest or np.ndim(indices) != 1:
            site.refuse("its indices are a tensor or not one-dimensional.", "Gather with a constant list of indices.")
        if site.layer.axis is None:
            site.refuse("it flattens its input (axis=None).", "Pass axis=-1.")
        axis = named_axis(site, site.layer.axis, len(x.shape))
        if axis != x.axis:
            return site.output(x.units, x.axis)
        return site.output(site.pick(x, np.asarray(indices) % site.call.inputs[0].shape[axis]), axis)

    def replay(self, call, operation, tensors, picks):
        if not picks:
            return super().replay(call, operation, tensors, picks)
        return [gather(tensors[0], *picks[0], name=operation.name)]


# Reshaping ------------------------------------------------------------------------------------------------------------


def reshape(site: Site, x: Labels) -> Labels:
    """The labels of a reshaped tensor: the same numpy operation on the label array.

    Where the feature axis is cut into several, units are tied so that they vary along the last of these only; but where it
    is cut into two of which the last is reduced, as for maxout, each row of what is reduced is one unit.
    """
    before, after = (tuple(t.shape) for t in (site.call.inputs[0], site.call.outputs[0]))
    (start, stop), (first, last) = _block(site, before, after, x.axis)
    sizes = before[start:stop] + after[first:last]
    if None in sizes or math.prod(before[start:stop]) != math.prod(after[first:last]):
        site.refuse(f"it reshapes {before} to {after}, with sizes that are not known.", "Give the model fixed sizes.")
    if (stop - start, last - first) == (1, 2) and after[first] > 1 and _is_reduced(site, last - 1, len(after)):
        x = site.couple(x, after[last - 1])
        return site.output(x.units[:: after[last - 1]], first)
    rows = math.prod(after[first : last - 1])
    # `before` and `after` are the template's; in a new model x has another length. All axes of its run but its own repeat it.
    local = np.reshape(x.units, [-1 if i == x.axis else 1 for i in range(start, stop)])
    full = np.broadcast_to(local, [len(x.units) if i == x.axis else before[i] for i in range(start, stop)])
    grid = full.reshape(rows, -1)  # the last axis of the run, along each row, has the channels from now on
    if rows > 1:
        grid = site.tile(x, grid, movable=(start, stop) == (x.axis, x.axis + 1))
    return site.output(grid[0], last - 1)


def _is_reduced(site: Site, axis: int, rank: int) -> bool:
    """Whether all that reads the output reduces this axis of it, and no other."""
    rules = [reader is not None and operation_rule(type(reader)) for reader in site.call.readers]
    axes = [getattr(reader, "axis", None) for reader in site.call.readers]
    return bool(rules) and all(
        isinstance(rule, ReduceRule) and np.size(over) == 1 and over is not None and int(np.ravel(over)[0]) % rank == axis
        for rule, over in zip(rules, axes, strict=True)
    )


def moves_batch(call: Call) -> bool:
    """Whether a call is a reshape, by known sizes, of places into the batch axis or out of it."""
    before, after = (tuple(side[0].shape) for side in (call.inputs, call.outputs))
    is_known = before[:1] == after[:1] == (None,) and None not in before[1:] + after[1:]
    return is_known and type(call.operation).__name__ == "Reshape" and math.prod(before[1:]) != math.prod(after[1:])


def _block(site: Site, before: tuple, after: tuple, axis: int) -> tuple[tuple, tuple]:
    """The smallest runs of axes of equal size, before and after, that hold `axis`; batch axes apart.

    A reshape keeps the order of the elements. So where the products of the leading sizes agree, before and after, it may
    be cut in two, each of which reshapes its own axes. With channels on the last axis:

        (None, 2, 2, 4) to (None, 16)            axes 1 to 3 become axis 1, as Flatten does      (1, 4), (1, 2)
        (None, 5, 5, 4) to (None, 5, 5, 2, 2)    axis 3 becomes axes 3 and 4, the rest stays     (3, 4), (3, 5)
        (None, 4, 1)    to (None, 4)             the 1 goes with the 4                           (1, 3), (1, 2)

    Two fingers walk along the sizes; the one whose product is smaller goes on, until both agree. Two things make it hard.
    An axis of size one changes no product, so that it could stand in either of two runs. And nothing can be multiplied by
    a size that is not known: there a run ends too early, with sides that differ, and all after it may stand awry, so
    that `reshape` refuses such a run if channels are in there. An axis in no run was merged with that of the batch.

    Returns:
        Start and stop of the axes before, and of those after.
    """
    if moves_batch(site.call):
        return _block_from_the_end(site, before, after, axis)
    # Where the next run begins, before and after. A held weight has no batch axis, so its first may be reshaped, too.
    i, j = (1, 1) if before[0] == after[0] or None in (before[0], after[0]) else (0, 0)
    while i < len(before) or j < len(after):
        start, first = i, j
        left, right = (before[i], after[j]) if i < len(before) and j < len(after) else (1, 1)
        i, j = i + 1, j + 1
        while left != right and None not in (left, right):
            if left < right and i < len(before):
                left, i = left * before[i] if before[i] is not None else None, i + 1
            elif j < len(after):
                right, j = right * after[j] if after[j] is not None else None, j + 1
            else:
                break
        # Axes of size one go with what follows them, and at the end with what went before.
        if math.prod(d or 0 for d in before[i:]) == math.prod(d or 0 for d in after[j:]) == 1:
            i, j = len(before), len(after)
        if start <= axis < i:
            return (start, i), (first, j)
    return site.refuse(
        f"it reshapes {before} to {after}, which moves channels into the batch axis.", "Keep the batch axis."
    )


def _block_from_the_end(site: Site, before: tuple, after: tuple, axis: int) -> tuple[tuple, tuple]:
    """The same where places go into the batch axis or come out of it, so that only the last axes can be matched.

        (None, 4, 2, 3) to (None, 2, 3)    axis 3 stays, and axis 2; axis 1 goes into the batch
    """
    i, j = len(before), len(after)  # where the next run ends, before and after
    while i > 1 and j > 1:
        stop, last, i, j = i, j, i - 1, j - 1
        left, right = before[i], after[j]
        while left != right and (i if left < right else j) > 1:
            if left < right:
                i, left = i - 1, left * before[i - 1]
            else:
                j, right = j - 1, right * after[j - 1]
        if left != right:
            break
        if i <= axis < stop:
            return (i, stop), (j, last)
    return site.refuse(
        f"it reshapes {before} to {after}, which moves channels into the batch axis.", "Keep the batch axis."
    )


def reshaped(target: tuple, outputs: list[Labels], batch: int) -> tuple:
    """A target shape with the new width; `batch` is 1 if it counts the batch axis too."""
    out = outputs[0]
    target = list(target)
    at = out.axis - 1 + batch
    if target[at] != -1:
        target[at] = len(out.units)
    return tuple(target)


@rules_for(layers.Flatten)
class FlattenRule(Rule):
    def walk(self, site, x):
        if getattr(site.layer, "data_format", None) == "channels_first":
            site.refuse("data_format='channels_first' reorders channels.", "Build the model with 'channels_last'.")
        return reshape(site, x)


@rules_for(layers.Reshape)
class ReshapeRule(Rule):
    def walk(self, site, x):
        return reshape(site, x)

    def changes(self, site, inputs, outputs):
        return {"target_shape": reshaped(site.layer.target_shape, outputs, batch=0)}


class ReshapeOperationRule(Rule):
    def walk(self, site, x):
        return reshape(site, x)

    def changes(self, site, inputs, outputs):
        return {"newshape": reshaped(site.layer.newshape, outputs, batch=1)}


class ResizeRule(Rule):
    """expand_dims and squeeze: reshapes without a target."""

    def walk(self, site, x):
        return reshape(site, x)

    def replay(self, call, operation, tensors, picks):
        x, before, after = tensors[0], call.inputs[0].shape, call.outputs[0].shape
        if x.shape[-1] == before[-1] or after[-1] == before[-1] != 1 or None in x.shape[1:]:
            return super().replay(call, operation, tensors, picks)
        # The channel axis comes or goes at the end: the new units belong on the last axis that is left.
        kept = tuple(after[1:-1])
        y = ops.reshape(x, (-1, *kept, math.prod(x.shape[1:]) // math.prod(kept)))
        return [rename_operation(y, operation.name)]


@rules_for(layers.Permute)
class PermuteRule(Rule):
    def walk(self, site, x):
        return site.output(x.units, 1 + list(site.layer.dims).index(x.axis))


@rules_for(layers.RepeatVector)
class RepeatVectorRule(Rule):
    def walk(self, site, x):
        return site.output(x.units)


# Combining ------------------------------------------------------------------------------------------------------------


def combine(site: Site, inputs: tuple[Labels, ...]) -> Labels:
    """The labels of an elementwise combination: equal positions are tied, a size-1 axis is repeated."""
    rank = len(site.call.outputs[0].shape)
    if all(x.is_virtual for x in inputs):
        return site.output(site.tie(*inputs)[0].units, rank)
    if any(x.axis - len(x.shape) != inputs[0].axis - len(inputs[0].shape) for x in inputs):
        site.refuse("the channels of its inputs lie on different axes.", "Permute them to the last axis first.")
    sizes = [x.shape[axis] for x, axis in zip(site.call.inputs, (x.axis for x in inputs), strict=True)]
    wide = [x for x, size in zip(inputs, sizes, strict=True) if size == max(sizes)]
    wide[0] = _hold_constants(site, wide[0], max(sizes))
    wide = site.tie(*wide)
    for x, size in zip(inputs, sizes, strict=True):
        if size != max(sizes):
            site.spread(x, wide[0])
    return site.output(wide[0].units, inputs[0].axis - len(inputs[0].shape) + rank)


def _hold_constants(site: Site, x: Labels, size: int) -> Labels:
    """Declares the arrays that are combined with the channels of `x`, of this size; returns `x` in their order."""
    if isinstance(site.layer, layers.Layer):
        refuse_constants(site)  # its uses may have several, which a model that is flattened could not tell apart
    at, rank = x.axis - len(x.shape), len(x.shape)
    shapes = {i: tuple(array.shape) for i, array in enumerate(site.call.constants)}
    for shape in shapes.values():
        if type(site.layer).__name__ == "Add":
            refuse_odd_bias(site, shape)
        if len(shape) > rank or len(shape) == rank and shape[0] != 1:
            site.refuse(f"it combines examples of a batch with an array of shape {shape}.", "Leave its batch axis out.")
        if len(shape) >= -at and shape[at] not in (1, size):
            site.refuse(f"its array of shape {shape} makes channels of one.", "Repeat it with Dense or Concatenate.")
    held = [i for i, shape in shapes.items() if len(shape) >= -at and shape[at] != 1]
    x = site.hold(x) if held else x
    for i in held:
        site.constant(i, *(channel(x.units) if a - len(shapes[i]) == at else None for a in range(len(shapes[i]))))
    return x


@rules_for(layers.Add, layers.Average, layers.Subtract)
class LinearMergeRule(Rule):
    takes_any_tensor = True

    def walk(self, site, *inputs):
        return combine(site, inputs)


@rules_for(layers.Maximum, layers.Minimum)
class MergeRule(Rule):
    takes_any_tensor = True

    def walk(self, site, *inputs):
        site.curve(*inputs)
        return combine(site, inputs)


@rules_for(layers.Multiply)
class MultiplyRule(MergeRule):
    multiplies = True
