"""What a big student keeps of its merge, in its configuration, so that it can be saved, loaded and cut."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import keras

from kmerge.errors import InvalidArgumentError
from kmerge.gates import HardConcreteGate, gated_layer, gates_of
from kmerge.graph import without_entries
from kmerge.merging.regions import Region, regions
from kmerge.spaces import Trace, trace
from kmerge.surgery import Layout, Plan


@keras.saving.register_keras_serializable("kmerge")
class MergeRecord(keras.layers.Layer):
    """Keeps, in its configuration, what `compress` must know of a merge, so that a big student can be saved.

    Args:
        architecture: the first parent's configuration, as JSON.
        parents: number of parents.
        layers: name in the big student of each layer of the first parent, by path.
        gates: name of the gate layer of each space.
        regions: name of the gate layer of each region.
        **kwargs: for `keras.layers.Layer`.
    """

    def __init__(
        self, architecture: str, parents: int, layers: dict, gates: dict, regions: dict | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        self.architecture = architecture
        self.parents = parents
        self.layer_names = dict(layers)
        self.gate_names = dict(gates)
        self.region_names = dict(regions or {})

    def call(self, inputs):
        return inputs

    def get_config(self) -> dict:
        return super().get_config() | {
            "architecture": self.architecture,
            "parents": self.parents,
            "layers": self.layer_names,
            "gates": self.gate_names,
            "regions": self.region_names,
        }


def architecture_of(parent: keras.Model) -> str:
    """The configuration of a model as JSON, without what it was compiled with."""
    return json.dumps(without_entries(keras.saving.serialize_keras_object(parent), {"compile_config"}))


def kept_whole(walked: Trace, parents: int) -> list[Region]:
    """The regions of which a big student holds one of each parent; none if there is one parent."""
    return regions(walked) if parents > 1 else []


def merge_plan(walked: Trace, parents: int) -> Plan:
    """All units of all parents side by side, in every selectable space and every region."""
    names = [space.name for space in walked.spaces.selectable]
    names += [name for region in kept_whole(walked, parents) for name in region.spaces]
    entries = {name: [(s, i) for s in range(parents) for i in range(walked.spaces[name].size)] for name in names}
    return Plan(parents, entries, apart=False)


def keep_plan(walked: Trace, parents: int, keep: Mapping[str, Sequence[int]], whole: Mapping[str, int]) -> Plan:
    """What is left of `merge_plan`.

    Args:
        walked: the walk of the parent.
        parents: their number.
        keep: the units to keep of each selectable space, as indices into those of all parents.
        whole: the parent whose units of a region are kept, by the region's name.
    """
    all_units = merge_plan(walked, parents).entries
    entries = {name: [all_units[name][i] for i in units] for name, units in keep.items()}
    for region in kept_whole(walked, parents):
        for name in region.spaces:
            entries[name] = [entry for entry in all_units[name] if entry[0] == whole[region.name]]
    return Plan(parents, entries, apart=False)


def gate_places(layout: Layout, gated: Collection[str]) -> dict[int, tuple[str, int]]:
    """For each entry of a big student that has a gate, the name of the space or region, and the place of the gate there.

    Args:
        layout: of the big student.
        gated: the names of the spaces that have gates.
    """
    places = {int(entry): (name, i) for name in gated for i, entry in enumerate(layout.entries_of(name))}
    for region in kept_whole(layout.trace, layout.plan.sources):
        for name in region.spaces:
            places |= {int(e): (region.name, int(layout.source_of(e)) - 1) for e in layout.entries_of(name)}
    return places


@dataclass(frozen=True)
class Merged:
    """What a big student says of its merge.

    Attributes:
        walked: the walk of the first parent's architecture.
        plan: which units of which parents the big student has.
        gates: the gate of each space.
        region_gates: the gate of each region, see `Region`, with one unit for each parent.
        layers: the big student's layers by the path in the parent.
    """

    walked: Trace
    plan: Plan
    gates: dict[str, HardConcreteGate]
    region_gates: dict[str, HardConcreteGate]
    layers: dict[str, keras.layers.Layer]


def _records(model: keras.Model) -> list[MergeRecord]:
    return [layer for layer in getattr(model, "layers", []) if isinstance(layer, MergeRecord)]


def holds_merge(model: keras.Model) -> bool:
    """Whether a model is a big student, which says of its merge what `read_merge` returns."""
    return len(_records(model)) == 1


def read_merge(big: keras.Model) -> Merged:
    """What a big student says of its merge; raises `InvalidArgumentError` if it was not made by `merge` or `gate`."""
    records = _records(big)
    if len(records) != 1:
        raise InvalidArgumentError(
            f"Expected a big student made by kmerge.merge or kmerge.gate, received {getattr(big, 'name', big)!r}, which holds "
            "no record of a merge."
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
    whole = {region: named[name] for region, name in records[0].region_names.items()}
    return Merged(walked, merge_plan(walked, records[0].parents), gates, whole, layers)
