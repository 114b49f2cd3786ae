"""Merging: several trained networks of one architecture become one of the same size.

    big = kmerge.merge(model_a, model_b)          twice as wide, a gate on every channel
    ... train it: the gates learn which channels matter ...
    student = kmerge.compress(big)                the best half of every space, in model_a's own architecture

Reference: Pašen & Boža, Merging of Neural Networks, Neural Processing Letters 2024, section 2.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.channels import Trace, trace
from kmerge.compensation import KERNEL_LAYERS, compensate
from kmerge.errors import InvalidArgumentError
from kmerge.gate_application import ApplyGates, FoldGates, gated_layer
from kmerge.gates import HardConcreteGate, gates_of
from kmerge.labels import Labels
from kmerge.layout import Layout, Placed, Plan, weight_axes
from kmerge.rewriting import Gating, Source, build, check_finite, fill, model_source, verify
from kmerge.seeds import seed_of
from kmerge.surgery import check_models, needs_copies, needs_mean


@keras.saving.register_keras_serializable("kmerge")
class MergeRecord(keras.layers.Layer):
    """Keeps, in its configuration, what `compress` must know of a merge, so that a big student can be saved.

    Args:
        architecture: the first parent's configuration, as JSON.
        parents: number of parents.
        layers: name in the big student of each layer of the first parent, by path.
        gates: name of the gate layer of each space.
        **kwargs: for `keras.layers.Layer`.
    """

    def __init__(self, architecture: str, parents: int, layers: dict, gates: dict, **kwargs):
        super().__init__(**kwargs)
        self.architecture = architecture
        self.parents = parents
        self.layer_names = dict(layers)
        self.gate_names = dict(gates)

    def call(self, inputs):
        return inputs

    def get_config(self) -> dict:
        return super().get_config() | {
            "architecture": self.architecture,
            "parents": self.parents,
            "layers": self.layer_names,
            "gates": self.gate_names,
        }


def merge(*models: keras.Model, gates: str | float = "paper", sampling: str = "example", seed: int = 0) -> keras.Model:
    """Joins trained models of one architecture into a big student whose gates learn which channels to keep.

    The big student is a Functional model to compile with `gate_optimizer` and to fit with `GatePressure`. With open gates
    it gives the mean of the parents' logits. Nested models are flattened in it; `compress` brings them back.

    Args:
        *models: two or more Functional or Sequential models of one architecture; the same model twice is allowed.
        gates: start of the gates: "paper" (loc = 1: the gates let .777 through in inference), "open" (all gates 1) or
            a number, the mean of `loc`.
        sampling: "example" for gates drawn for each example (paper), "batch" for one draw per batch.
        seed: seed of the gates' start and noise.

    Returns:
        A gated `keras.Model`, as many times as wide as there are models.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for fewer than two models, weights that are not finite, a model without a free space.

    Warns:
        UserWarning: if the architecture cannot hold the parents' mean, as with BatchNormalization right on an input.

    Reference:
        Pašen & Boža 2024, section 2.1 and 2.2.
    """
    start = {"paper": 1.0, "open": "open"}.get(gates, gates) if isinstance(gates, str) else gates
    if start != "open" and (isinstance(start, (str, bool)) or not isinstance(start, (int, float, np.number))):
        raise InvalidArgumentError(f"Expected gates to be 'paper', 'open' or a number. Received: {gates!r}.")
    if sampling not in ("example", "batch"):
        raise InvalidArgumentError(f"Expected sampling to be 'example' or 'batch'. Received: {sampling!r}.")
    check_models(models)
    for model in {id(m): m for m in models}.values():
        check_finite(model)
    walked = trace(models[0])
    if not walked.spaces.selectable:
        raise InvalidArgumentError(f"Model {models[0].name!r} has no selectable channel space:\n{walked.spaces}")
    _warn_of_inexact(walked)
    plan = _merge_plan(walked, len(models))
    layout = Layout(walked, plan)
    gating = _Gates(layout, models[0], start, sampling, seed)
    big, layers = build(layout, Gating(gating.start, gating.apply), name=f"{models[0].name}_big")
    gating.record.layer_names.update({path: layer.name for path, layer in layers.items()})
    sources = [model_source(walked, plan, number, model) for number, model in enumerate(models)]
    fill(layers, layout, sources)
    return big


def _merge_plan(walked: Trace, parents: int) -> Plan:
    entries = {
        space.name: [(source, i) for source in range(parents) for i in range(space.size)]
        for space in walked.spaces.selectable
    }
    return Plan(parents, entries)


def _warn_of_inexact(walked: Trace) -> None:
    inexact = [s.name for s in walked.spaces.values() if needs_copies(s) or "output" in s.facts and needs_mean(s)]
    inexact += [s.name for s in walked.spaces.values() if not s.selectable and not {"input", "output"} & s.facts]
    if inexact:
        warnings.warn(
            f"The architecture has one place for what the parents have one each of, in the spaces {inexact}: their weights "
            "are averaged there, and the big student starts near the mean of the parents, not at it. Training repairs "
            "this; kmerge.concatenate is exact.",
            UserWarning,
            stacklevel=3,
        )


class _Gates:
    """Puts a gate on every selectable space, at the input of each layer that mixes it."""

    def __init__(self, layout: Layout, parent: keras.Model, start, sampling: str, seed: int):
        self.layout = layout
        spaces = layout.trace.spaces.selectable
        names = {
            space.name: f"gate_{i}_" + space.name.replace("/", "_").replace(":", "_") for i, space in enumerate(spaces)
        }
        self.gates = {
            space.name: HardConcreteGate(
                space.size * layout.plan.sources,
                target=1 / layout.plan.sources,
                origins=[list(origin) for origin in layout.plan.entries[space.name]],
                sampling=sampling,
                start=start,
                seed=seed_of("gates", seed, space.name),
                name=names[space.name],
                dtype="float32",
            )
            for space in spaces
        }
        self.record = MergeRecord(
            _architecture(parent), layout.plan.sources, {}, names, name="merge_record", autocast=False
        )
        self._place = {
            int(entry): (space.name, i) for space in spaces for i, entry in enumerate(layout.entries_of(space.name))
        }
        self.folds = sampling == "batch"
        self._applied: dict[tuple, keras.KerasTensor] = {}
        self._folded: dict[int, FoldGates] = {}

    def start(self, inputs: list) -> None:
        recorded = self.record(inputs[0])
        self.masks = {name: gate(recorded) for name, gate in self.gates.items()}

    def apply(self, placed: Placed, operation, tensors: list) -> tuple:
        """The operation to call in the place of one that mixes units, and its inputs."""
        at = self._kernel_axis(placed, operation, tensors) if self.folds else None
        if at is not None:
            used, indices = self._numbers(self.layout.axes[placed.record.path]["kernel"][at].units)
            if id(operation) not in self._folded:
                name = f"fold_gates_{len(self._folded)}"
                self._folded[id(operation)] = FoldGates(operation, indices, at, name=name)
            return self._folded[id(operation)], [[tensors[0], *(self.masks[name] for name in used)]]
        return operation, [
            self._gated(x, placed.inputs[i]) if i in placed.consumed else x for i, x in enumerate(tensors)
        ]

    def _kernel_axis(self, placed: Placed, operation, tensors: list) -> int | None:
        """The axis of the kernel that takes the gates, if it is smaller than what 32 examples bring it to read."""
        if not isinstance(operation, KERNEL_LAYERS) or not placed.consumed:
            return None
        positions = math.prod(size or math.inf for size in tensors[0].shape[1:-1])
        if len(placed.outputs[0].units) * math.prod(getattr(operation, "kernel_size", ())) > 32 * positions:
            return None
        axes = self.layout.axes[placed.record.path]["kernel"]
        at = next(i for i, axis in enumerate(axes) if axis is not None and axis.role == "consumes")
        return at if self._numbers(axes[at].units)[0] else None

    def _numbers(self, units: np.ndarray) -> tuple[tuple, tuple]:
        """The gated spaces that lie along an axis, and for each position the number of its gate among theirs."""
        places = [self._place.get(int(entry)) for entry in units]
        used = tuple(dict.fromkeys(place[0] for place in places if place))
        starts = np.cumsum([1, *(self.gates[name].units for name in used)]).tolist()
        offsets = dict(zip(used, starts[:-1], strict=True))
        return used, tuple(offsets[place[0]] + place[1] if place else 0 for place in places)

    def _gated(self, tensor: keras.KerasTensor, labels: Labels) -> keras.KerasTensor:
        used, indices = self._numbers(labels.units)
        if not used:
            return tensor
        key = (id(tensor), indices, used)
        if key not in self._applied:
            layer = ApplyGates(indices, axis=labels.axis, name=f"apply_gates_{len(self._applied)}", dtype=tensor.dtype)
            self._applied[key] = layer([tensor, *(self.masks[name] for name in used)])
        return self._applied[key]


def _architecture(parent: keras.Model) -> str:
    return json.dumps(_without_compile(keras.saving.serialize_keras_object(parent)))


def _without_compile(config):
    if isinstance(config, dict):
        return {key: _without_compile(value) for key, value in config.items() if key != "compile_config"}
    return [_without_compile(value) for value in config] if isinstance(config, list) else config


@dataclass(frozen=True)
class _Merged:
    """What a big student says of its merge: the parent's architecture, walked, and the gate of each space."""

    walked: Trace
    plan: Plan
    gates: dict[str, HardConcreteGate]
    layers: dict[str, keras.layers.Layer]


def _read_merge(big: keras.Model) -> _Merged:
    records = [layer for layer in getattr(big, "layers", []) if isinstance(layer, MergeRecord)]
    if len(records) != 1:
        raise InvalidArgumentError(
            f"Expected a big student made by kmerge.merge. Received: {getattr(big, 'name', big)!r}, which holds no record "
            "of a merge."
        )
    custom = {
        type(layer).__name__: type(layer) for layer in big.layers if not type(layer).__module__.startswith("keras.")
    }
    with keras.saving.custom_object_scope(custom):
        template = keras.saving.deserialize_keras_object(json.loads(records[0].architecture))
    walked = trace(template)
    named = {gate.name: gate for gate in gates_of(big)}
    gates = {space: named[name] for space, name in records[0].gate_names.items()}
    inner = {layer.name: layer for layer in map(gated_layer, big.layers)}
    layers = {path: inner[name] for path, name in records[0].layer_names.items()}
    return _Merged(walked, _merge_plan(walked, records[0].parents), gates, layers)


def compress(
    big: keras.Model,
    data: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    keep: Mapping[str, Sequence[int]] | None = None,
) -> keras.Model:
    """Keeps the most open units of each space of a big student, in the architecture of the first parent.

    Gate values are folded into the kernels that read the units; BatchNormalization statistics are carried over.

    Args:
        big: a big student made by `merge`, trained or loaded.
        data: model inputs, an array or a list with one array per input. With it, each Dense and convolution layer that
            mixes units is corrected for what was cut, by least squares on the activations of these examples.
        keep: units to keep instead of the most open ones: by name of a space, as many indices into the units of the big
            student (those of the first parent come first) as the parent has units. Spaces that are not named keep
            the most open ones.

    Returns:
        A plain, uncompiled `keras.Model` with the first parent's layer names, shapes and configuration. It loads
        without kmerge.

    Raises:
        InvalidArgumentError: if `big` was not made by `merge`, or `keep` names an unknown space or a wrong number of units.

    Warns:
        UserWarning: if the gates were never trained, so that the choice is random.

    Reference:
        Pašen & Boža 2024, section 2.3; folding the gates' values is ours.
    """
    merged = _read_merge(big)
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
    return student


def _kept_units(merged: _Merged, keep: Mapping[str, Sequence[int]] | None) -> dict[str, np.ndarray]:
    spaces, keep = merged.walked.spaces, dict(keep or {})
    unknown = [name for name in keep if name not in merged.gates]
    if unknown:
        raise InvalidArgumentError(f"Expected names of gated spaces, of {list(merged.gates)}. Received: {unknown}.")
    chosen = {}
    for name, gate in merged.gates.items():
        units = np.sort(np.asarray(keep.get(name, gate.kept())))
        size = spaces[name].size
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


def _keep_plan(merged: _Merged, keep: Mapping[str, np.ndarray]) -> Plan:
    entries = {name: [merged.plan.entries[name][i] for i in units] for name, units in keep.items()}
    return Plan(merged.plan.sources, entries)


def _folded(merged: _Merged, layout: Layout) -> dict[str, list[np.ndarray]]:
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


@dataclass(frozen=True)
class SpaceReport:
    """What the gates of one space say.

    Attributes:
        units, kept: units in the big student, and how many of them `compress` keeps.
        from_parents: how many of the kept ones come from each parent.
        open_share: mean of P(g > 0). Its target is kept / units.
        undecided: share of units with .1 < P(g > 0) < .9.
    """

    units: int
    kept: int
    from_parents: tuple[int, ...]
    open_share: float
    undecided: float


class MergeReport(dict):
    """`SpaceReport` by name of the space. Prints as a table."""

    def __str__(self) -> str:
        lines = [f"{'space':40} {'units':>6} {'kept':>6}  {'from parents':16} {'open':>6} {'undecided':>9}"]
        for name, r in self.items():
            parents = " + ".join(map(str, r.from_parents))
            lines.append(f"{name:40} {r.units:6} {r.kept:6}  {parents:16} {r.open_share:6.2f} {r.undecided:9.2f}")
        return "\n".join(lines)


def merge_report(big: keras.Model) -> MergeReport:
    """Tells, per space, how many units `compress` would keep of which parent, and how decided the gates are.

    Args:
        big: a big student made by `merge`.

    Returns:
        A mapping from space names to `SpaceReport`; `print` shows it as a table.

    Raises:
        InvalidArgumentError: if `big` was not made by `merge`.
    """
    merged = _read_merge(big)
    report = MergeReport()
    for name, gate in merged.gates.items():
        kept = gate.kept()
        counts = np.bincount([gate.origins[i][0] for i in kept], minlength=merged.plan.sources)
        share = float(np.mean(gate.open_probabilities()))
        report[name] = SpaceReport(gate.units, len(kept), tuple(counts.tolist()), share, gate.undecided())
    return report
