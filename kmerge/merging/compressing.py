"""From a trained big student to a plain model of the target size."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches, check_amount
from kmerge.checks import flag, mapping, refuse, sentence, warn, whole_numbers
from kmerge.compiling import training_of
from kmerge.errors import InvalidArgumentError
from kmerge.gates import HardConcreteGate, plain_optimizer
from kmerge.graph import array_of
from kmerge.merging.checks import warn_of_changes
from kmerge.merging.compensation import compensate
from kmerge.merging.records import Merged, gate_places, keep_plan, kept_whole, place_of, read_merge
from kmerge.surgery import (
    Layout,
    Source,
    build,
    check_finite,
    constants_of,
    fill,
    verify,
    weight_axes,
)


def compress(
    big: keras.Model,
    data: Any = None,
    *,
    keep: Mapping[str, Sequence[int]] | None = None,
    batch_size: int = 256,
    steps: int | None = None,
    compile: bool = False,
) -> keras.Model:
    """Keeps the most open units of each space of a big student, in the architecture of the first parent.

    A space gets the width that `merge` was asked for: by default the parent's.

    Gate values are folded into the kernels that read the units; BatchNormalization statistics are carried over.

    Args:
        big: a big student made by `merge` or `gate`, trained or loaded.
        data: whatever `model.evaluate` takes, of which the inputs are read: arrays, `(x, y)`, `tf.data.Dataset`, `PyDataset`,
            ... With it, each Dense and convolution layer that mixes units is corrected for what was cut, by least squares on
            the activations of these examples. The batches of a generator are kept in memory, as data is walked twice.
        keep: units to keep instead of the most open ones: by name of a space, as many indices into the units of the big
            student (those of the first parent come first) as the space is to have units. Spaces that are not named keep
            the most open ones. For layers that run as they are it is the number of the parent whose layers are kept, in
            a list, by the name of the first space that they hold fixed.
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches of the data to take; None for all.
        compile: whether the student is compiled as `big` is, with the same losses, new metrics and a new optimizer of
            the same configuration: that of `gate_optimizer`'s `base`, as there are no gates any more.

    Returns:
        A plain `keras.Model`, uncompiled unless `compile=True`, with the first parent's layer names and configuration, and
        its shapes but for other widths that were asked for. It loads without kmerge.

    Raises:
        InvalidArgumentError: if `big` was not made by `merge`, `keep` names an unknown space or a wrong number of units, or
            the data does not serve; with `compile=True`, if `big` is not compiled, or has a metric or an optimizer that
            cannot be built again.

    Warns:
        UserWarning: if the gates were never trained, so that the choice is random; if units go whose gates are open, with
            how open, how many and where; if a layer normalizes over channels whose gates are not 0 or 1. With `data` the
            warning tells by how much the outputs change.

    Reference:
        Pašen & Boža 2024, section 2.3; folding the gates' values is ours.

    Example:
        >>> student = kmerge.compress(kmerge.merge(model, other))
        >>> [layer.name for layer in student.layers]
        ['first', 'second', 'logits']
    """
    merged = read_merge(big)
    training = training_of(big, plain_optimizer(getattr(big, "optimizer", None))) if flag("compile", compile) else {}
    check_amount(batch_size, steps, of="compress")
    check_finite(big)
    if data is not None:
        data = Batches(big, data, "compress", batch_size=batch_size, steps=steps, again=True)
    parents = merged.plan.sources
    keep = {} if keep is None else dict(mapping("keep", keep, of="compress"))
    whole = {region.name: 0 for region in kept_whole(merged.walked, parents)}  # where nobody reads the gate, any will do
    whole |= {name: _kept_parent(name, gate, keep.pop(name, None)) for name, gate in merged.region_gates.items()}
    asked = set(keep)
    keep = _kept_units(merged, keep)
    before = Layout(merged.walked, merged.plan)
    unread = {name: range(width) for name, width in merged.ungated.items()}  # any will do
    after = Layout(merged.walked, keep_plan(merged.walked, merged.plan, keep | unread, whole))
    arrays = _folded(merged, before)
    if data is not None:
        compensate(big, merged.layers, before, after, arrays, data)
    axes = {path: weight_axes(named, merged.layers[path]) for path, named in before.axes.items() if named}
    kept = _kept_parts(merged, before, whole)
    arrays |= {path: arrays[part] for path, part in kept.items()}
    axes |= {path: axes.get(part, {}) for path, part in kept.items()}
    of_calls = {key: placed.constants for key, placed in before.calls.items() if placed.constants}
    constants = _constants(merged, before, whole)
    layers = {path: merged.layers[kept.get(path, path)] for path in arrays}
    source = Source(lambda path, i: arrays[path][i], axes, constants.get, of_calls, layers)
    student, layers = build(after, constants=constants_of(after, [source]))
    fill(layers, after, [source])
    verify(student, after, layers)
    warn_of_changes(merged, keep, asked, whole, (big, student), data)
    if training:
        student.compile(**training)
    return student


def _kept_parent(region: str, gate: HardConcreteGate, wanted: Sequence[int] | None) -> int:
    """The parent whose layers of a region are kept."""
    chosen = whole_numbers("the kept parent", gate.kept() if wanted is None else wanted, of=f"Region {region!r}")
    if len(chosen) != 1 or not 0 <= chosen[0] < gate.units:
        raise InvalidArgumentError(
            sentence(f"one number of a parent, below {gate.units}", wanted, of=f"Region {region!r}")
        )
    return int(chosen[0])


def _kept_parts(merged: Merged, layout: Layout, whole: Mapping[str, int]) -> dict[str, str]:
    """Which layers of the big student are kept of those that it has one of each parent of, by the path in the parent."""
    kept = {
        path: whole[region.name] for region in kept_whole(merged.walked, merged.plan.sources) for path in region.layers
    }
    parts = {origin: path for path, origin in layout.origins.items()}
    return {path: parts[path, s] for path, s in kept.items() if parts.get((path, s)) in merged.layers}


def _constants(merged: Merged, layout: Layout, whole: Mapping[str, int]) -> dict[tuple, list]:
    """The arrays among the arguments of calls: the big student's, or of layers that run as they are the kept parent's."""
    regions = kept_whole(merged.walked, merged.plan.sources)
    kept = {path: whole[region.name] for region in regions for path in region.layers}
    found = {}
    for key, placed in layout.calls.items():
        path, call = placed.record.path, placed.record.call
        paths = [part.path for part in placed.parts if layout.origins[part.path][1] == kept.get(path)] or [path]
        if call.constants:
            # What is read by position, and no part of the operation that runs, is as in the first parent.
            found[key] = merged.constants.get(place_of(key, paths[0]), call.constants)
    return found


def _kept_units(merged: Merged, keep: Mapping[str, Sequence[int]] | None) -> dict[str, np.ndarray]:
    keep = dict(keep or {})
    unknown = [name for name in keep if name not in merged.gates]
    if unknown:
        refuse("keep", f"by names of gated spaces, of {list(merged.gates)}", unknown)
    chosen = {}
    for name, gate in merged.gates.items():
        units = np.sort(whole_numbers("the kept units", keep.get(name, gate.kept()), of=f"Space {name!r}"))
        size = len(gate.kept())
        if len(units) != size or len(np.unique(units)) != size or units[0] < 0 or units[-1] >= gate.units:
            expected = f"{size} distinct indices from 0 to {gate.units - 1}"
            raise InvalidArgumentError(sentence(expected, keep[name], of=f"Space {name!r}"))
        chosen[name] = units
    if not any(gate.trained() for gate in merged.gates.values()) and len(keep) < len(merged.gates):
        warn(
            "The gates of this big student were never trained, so the choice of units is random. Compile it with "
            "kmerge.gate_optimizer(optimizer) and fit it with callbacks=[kmerge.GatePressure()] first, or pass keep=."
        )
    return chosen


def _folded(merged: Merged, layout: Layout) -> dict[str, list[np.ndarray]]:
    """The weights of the big student with the gates' values multiplied into the kernels that read them."""
    values = {name: gate.values() for name, gate in (merged.gates | merged.region_gates).items()}
    value_of = {entry: values[name][i] for entry, (name, i) in gate_places(layout, merged.gates).items() if name in values}
    arrays = {}
    for path, layer in merged.layers.items():
        arrays[path] = [array_of(weight) for weight in layer.weights]
        for index, axes in weight_axes(layout.axes.get(path, {}), layer).items():
            for at, axis in enumerate(axes):
                if axis is not None and axis.role == "consumes":
                    values = np.array([value_of.get(int(entry), 1.0) for entry in axis.units], "float32")
                    shape = [-1 if i == at else 1 for i in range(len(axes))]
                    array = arrays[path][index]
                    arrays[path][index] = (array * values.reshape(shape)).astype(array.dtype)
    return arrays
