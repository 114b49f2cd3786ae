"""Merging: several trained networks of one architecture become one of the same size.

    big = kmerge.merge(model_a, model_b)          twice as wide, a gate on every channel
    ... train it: the gates learn which channels matter ...
    student = kmerge.compress(big)                the best half of every space, in model_a's own architecture

Reference: Pašen & Boža, Merging of Neural Networks, Neural Processing Letters 2024, section 2.
"""

import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kmerge.compensation import compensate
from kmerge.costs import Budget, target_widths
from kmerge.errors import InvalidArgumentError
from kmerge.gate_placement import GatePlacement
from kmerge.merge_checks import refuse_opaque, refuse_split_sharing, warn_of_joint_statistics, warn_of_undecided
from kmerge.merge_records import Merged, merge_plan, read_merge
from kmerge.spaces import Trace, check_selectable, trace
from kmerge.surgery import (
    Gating,
    Layout,
    Plan,
    Source,
    build,
    check_finite,
    check_models,
    fill,
    model_source,
    needs_copies,
    needs_mean,
    verify,
    weight_axes,
)


def merge(
    *models: keras.Model,
    width: float | Mapping[str, int | float] | Budget = 1.0,
    gates: str | float = "paper",
    sampling: str = "example",
    seed: int = 0,
) -> keras.Model:
    """Joins trained models of one architecture into a big student whose gates learn which channels to keep.

    The big student is a Functional model to compile with `gate_optimizer` and to fit with `GatePressure`. With open gates
    it gives the mean of the parents' logits. Nested models are flattened in it; `compress` brings them back.

    Args:
        *models: two or more Functional or Sequential models of one architecture; the same model twice is allowed.
        width: what `compress` will cut to, next to the first parent's widths: a share of every space (a float); for
            some spaces, by name, a share or a number of units; or a `Budget`, whose shares are of the parent's costs, and
            which is met by the largest equal share of every space, rounded up where that fits. At most as many times the
            parent's widths as there are models.
        gates: start of the gates: "paper" (loc = 1: the gates let .777 through in inference), "open" (all gates 1) or
            a number, the mean of `loc`.
        sampling: "example" for gates drawn for each example (paper), "batch" for one draw per batch.
        seed: seed of the gates' start and noise.

    Returns:
        A gated `keras.Model`, as many times as wide as there are models.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for fewer than two models, weights that are not finite, a model without a free space, a
            width out of range or a budget that cannot be reached.

    Warns:
        UserWarning: if the architecture cannot hold the parents' mean, as with BatchNormalization right on an input; if
            a layer normalises over channels, which it does over those of all parents together.

    Reference:
        Pašen & Boža 2024, section 2.1 and 2.2.
    """
    check_models(models)
    return _gated(models, width, gates, sampling, seed, f"{models[0].name}_big")


def gate(
    model: keras.Model,
    width: float | Mapping[str, int | float] | Budget,
    *,
    gates: str | float = "open",
    sampling: str = "example",
    seed: int = 0,
) -> keras.Model:
    """Puts a gate on each unit of one model that may go: pruning whose choice is learned.

    It is `merge` with a single model: compile the result with `gate_optimizer`, fit it with `GatePressure`, and
    `compress` it.

    Args:
        model: a Functional or Sequential model.
        width: what `compress` will cut to; as for `merge`, and at most the model's own widths.
        gates: start of the gates, as for `merge`; "open" gives the model's own outputs.
        sampling: as for `merge`.
        seed: seed of the gates' start and noise.

    Returns:
        A gated `keras.Model` of the model's widths.

    Raises:
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for weights that are not finite, a model without a free space, a width out of range or a
            budget that cannot be reached.

    Reference:
        Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018.
    """
    return _gated([model], width, gates, sampling, seed, f"{model.name}_gated")


def _gated(models: Sequence[keras.Model], width, gates, sampling: str, seed: int, name: str) -> keras.Model:
    start = {"paper": 1.0, "open": "open"}.get(gates, gates) if isinstance(gates, str) else gates
    if start != "open" and (isinstance(start, (str, bool)) or not isinstance(start, (int, float, np.number))):
        raise InvalidArgumentError(f"Expected gates to be 'paper', 'open' or a number. Received: {gates!r}.")
    if sampling not in ("example", "batch"):
        raise InvalidArgumentError(f"Expected sampling to be 'example' or 'batch'. Received: {sampling!r}.")
    for model in {id(m): m for m in models}.values():
        check_finite(model)
    walked = trace(models[0])
    check_selectable(walked)
    widths = target_widths(walked, width, most=len(models))
    refuse_opaque(walked, models)
    refuse_split_sharing(models[0])
    if len(models) > 1:
        _warn_of_inexact(walked)
        warn_of_joint_statistics(walked, stacklevel=3)
    plan = merge_plan(walked, len(models))
    # Refuses now, not after the training, widths that no student can have.
    Layout(walked, Plan(len(models), {name: plan.entries[name][:size] for name, size in widths.items()}, apart=False))
    layout = Layout(walked, plan)
    gating = GatePlacement(layout, models[0], widths, start, sampling, seed)
    big, layers = build(layout, Gating(gating.start, gating.apply, gating.inside), name=name)
    gating.record.layer_names.update({path: layer.name for path, layer in layers.items()})
    sources = [model_source(walked, plan, number, model) for number, model in enumerate(models)]
    fill(layers, layout, sources)
    return big


def _warn_of_inexact(walked: Trace) -> None:
    inexact = [s.name for s in walked.spaces.values() if needs_copies(s) or "output" in s.facts and needs_mean(s)]
    inexact += [s.name for s in walked.spaces.values() if not s.selectable and not {"input", "output"} & s.facts]
    if inexact:
        warnings.warn(
            f"The architecture has one place for what the parents have one each of, in the spaces {inexact}: their weights "
            "are averaged there, and the big student starts near the mean of the parents, not at it. Training repairs "
            "this; kmerge.concatenate is exact.",
            UserWarning,
            stacklevel=4,
        )


def compress(
    big: keras.Model,
    data: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    keep: Mapping[str, Sequence[int]] | None = None,
) -> keras.Model:
    """Keeps the most open units of each space of a big student, in the architecture of the first parent.

    A space gets the width that `merge` was asked for: by default the parent's.

    Gate values are folded into the kernels that read the units; BatchNormalization statistics are carried over.

    Args:
        big: a big student made by `merge` or `gate`, trained or loaded.
        data: model inputs, an array or a list with one array per input. With it, each Dense and convolution layer that
            mixes units is corrected for what was cut, by least squares on the activations of these examples.
        keep: units to keep instead of the most open ones: by name of a space, as many indices into the units of the big
            student (those of the first parent come first) as the space is to have units. Spaces that are not named keep
            the most open ones.

    Returns:
        A plain, uncompiled `keras.Model` with the first parent's layer names and configuration, and its shapes but for
        other widths that were asked for. It loads without kmerge.

    Raises:
        InvalidArgumentError: if `big` was not made by `merge`, or `keep` names an unknown space or a wrong number of units.

    Warns:
        UserWarning: if the gates were never trained, so that the choice is random; if a layer normalises over channels
            whose gates are not 0 or 1, with the change that this makes where there is data.

    Reference:
        Pašen & Boža 2024, section 2.3; folding the gates' values is ours.
    """
    merged = read_merge(big)
    check_finite(big)
    keep = _kept_units(merged, keep)
    before, after = Layout(merged.walked, merged.plan), Layout(merged.walked, _keep_plan(merged, keep))
    arrays = _folded(merged, before)
    if data is not None:
        compensate(big, merged.layers, before, after, arrays, data)
    axes = {path: weight_axes(named, merged.layers[path]) for path, named in before.axes.items() if named}
    source = Source(lambda path, i: arrays[path][i], axes)
    student, layers = build(after)
    fill(layers, after, [source])
    verify(student, after, layers)
    warn_of_undecided(merged.walked, merged.gates, keep, (big, student), data, stacklevel=2)
    return student


def _kept_units(merged: Merged, keep: Mapping[str, Sequence[int]] | None) -> dict[str, np.ndarray]:
    keep = dict(keep or {})
    unknown = [name for name in keep if name not in merged.gates]
    if unknown:
        raise InvalidArgumentError(f"Expected names of gated spaces, of {list(merged.gates)}. Received: {unknown}.")
    chosen = {}
    for name, gate in merged.gates.items():
        units = np.sort(np.asarray(keep.get(name, gate.kept())))
        size = len(gate.kept())
        if len(units) != size or len(np.unique(units)) != size or units[0] < 0 or units[-1] >= gate.units:
            raise InvalidArgumentError(
                f"Space {name!r}: expected {size} distinct indices from 0 to {gate.units - 1}. Received: {keep[name]!r}."
            )
        chosen[name] = units
    if not any(gate.trained() for gate in merged.gates.values()) and len(keep) < len(merged.gates):
        warnings.warn(
            "The gates of this big student were never trained, so the choice of units is random. Compile it with "
            "kmerge.gate_optimizer(optimizer) and fit it with callbacks=[kmerge.GatePressure()] first, or pass keep=.",
            UserWarning,
            stacklevel=3,
        )
    return chosen


def _keep_plan(merged: Merged, keep: Mapping[str, np.ndarray]) -> Plan:
    entries = {name: [merged.plan.entries[name][i] for i in units] for name, units in keep.items()}
    return Plan(merged.plan.sources, entries, apart=False)


def _folded(merged: Merged, layout: Layout) -> dict[str, list[np.ndarray]]:
    """The weights of the big student with the gates' values multiplied into the kernels that read them."""
    value_of = {
        int(entry): value
        for name, gate in merged.gates.items()
        for entry, value in zip(layout.entries_of(name), gate.values(), strict=True)
    }
    arrays = {}
    for path, layer in merged.layers.items():
        arrays[path] = [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
        for index, axes in weight_axes(layout.axes.get(path, {}), layer).items():
            for at, axis in enumerate(axes):
                if axis is not None and axis.role == "consumes":
                    values = np.array([value_of.get(int(entry), 1.0) for entry in axis.units], "float32")
                    shape = [-1 if i == at else 1 for i in range(len(axes))]
                    array = arrays[path][index]
                    arrays[path][index] = (array * values.reshape(shape)).astype(array.dtype)
    return arrays
