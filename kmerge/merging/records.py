"""What a big student keeps of its merge, in its configuration, so that it can be saved, loaded and cut."""

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import keras

from kmerge.checks import shown
from kmerge.cloning import custom_objects, is_of_keras, unsavable_objects
from kmerge.errors import InvalidArgumentError, KmergeError, told
from kmerge.gates import HardConcreteGate, gated_layer, gates_of
from kmerge.graph import Graph, inner_layers
from kmerge.merging.regions import Region, regions
from kmerge.pairing import paired_layers
from kmerge.sameness import without_entries
from kmerge.spaces import Trace, trace
from kmerge.surgery import Layout, Plan, build


@keras.saving.register_keras_serializable("kmerge")
class MergeRecord(keras.layers.Layer):
    """Keeps, in its configuration, what `compress` must know of a merge, so that a big student can be saved.

    Args:
        architecture: the first parent's configuration, as JSON; None if no configuration builds it again.
        parents: number of parents.
        layers: name in the big student of each layer of the first parent, by path.
        gates: name of the gate layer of each space.
        regions: name of the gate layer of each region.
        ungated: the width of each space whose units nobody reads, so that it has no gate.
        problem: why there is no architecture.
        constants: name in the big student of each operation that is called with arrays, by `place_of` its call.
        **kwargs: for `keras.layers.Layer`.
    """

    def __init__(
        self,
        architecture: str | None,
        parents: int,
        layers: dict,
        gates: dict,
        regions: dict | None = None,
        ungated: dict | None = None,
        problem: str = "",
        constants: dict | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.architecture = architecture
        self.parents = parents
        self.layer_names = dict(layers)
        self.gate_names = dict(gates)
        self.region_names = dict(regions or {})
        self.ungated = dict(ungated or {})
        self.problem = problem
        self.constant_names = dict(constants or {})
        self.template: _Live | None = None  # only in the process that merged

    def call(self, inputs):
        return inputs

    def note(self, key: tuple, path: str, name: str) -> None:
        """Keeps the name of an operation that is called with arrays."""
        self.constant_names[place_of(key, path)] = name

    def get_config(self) -> dict:
        return super().get_config() | {
            "architecture": self.architecture,
            "parents": self.parents,
            "layers": self.layer_names,
            "gates": self.gate_names,
            "regions": self.region_names,
            "ungated": self.ungated,
            "problem": self.problem,
            "constants": self.constant_names,
        }


def place_of(key: tuple, path: str) -> str:
    """A text for a call, or a part of one, by its numbers and the path of the layer that runs."""
    return ".".join(map(str, key)) + f" {path}"


@dataclass(frozen=True)
class _Live:
    """Holds a model where Keras does not look for layers: its weights are none of the record's."""

    model: keras.Model


def record_of(walked: Trace, parents: int) -> MergeRecord:
    """The record of a merge, still without its layers and gates.

    In this process it holds a model of the first parent's architecture, and so anything that can be built. To be saved it
    also holds the architecture as JSON, if what that gives is the same.

    Args:
        walked: the walk of the first parent.
        parents: number of parents.
    """
    parent = walked.model
    with keras.device("cpu:0"):  # a model whose weights nobody reads should not take the memory of an accelerator
        is_plain = all(is_of_keras(type(x)) for x in inner_layers(parent) if isinstance(x, keras.Model))
        # Of a subclass the graph counts; its own configuration need not hold it.
        plain = parent if is_plain else _structure_of(walked)
        architecture, problem = None, ""
        try:
            text = architecture_of(plain)
            template = _built(text, custom_objects(plain))
            _check_names(plain, template)
            architecture = text
        except Exception as error:
            unsavable = unsavable_objects(parent)
            why = str(error) if isinstance(error, KmergeError) else told(error)
            problem = f"{', '.join(unsavable)} cannot be saved." if unsavable else f"{why.rstrip('.')}."
            template = plain if plain is not parent else _structure_of(walked)
    record = MergeRecord(architecture, parents, {}, {}, problem=problem, name="merge_record", autocast=False)
    record.template = _Live(template)
    return record


def _check_names(parent: keras.Model, template: keras.Model) -> None:
    """Refuses a template that is not the parent's architecture, or whose layers have lost their names."""
    for path, layer in paired_layers(parent, template).items():
        name = path.rpartition("/")[2]
        if layer.name != name:
            raise KmergeError(
                f"{type(layer).__name__} {name!r} does not keep its name. Let its __init__ take name or **kwargs (so "
                "called) and hand them to super().__init__, or write its get_config."
            )


def _structure_of(walked: Trace) -> keras.Model:
    return build(Layout(walked, Plan(1, {})))[0]


def architecture_of(parent: keras.Model) -> str:
    """The configuration of a model as JSON, without what it was compiled with."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")  # see `record_of`
        return json.dumps(without_entries(keras.saving.serialize_keras_object(parent), {"compile_config"}))


def _built(architecture: str, known: dict) -> keras.Model:
    with keras.saving.custom_object_scope(known):
        return keras.saving.deserialize_keras_object(json.loads(architecture))


def _template(big: keras.Model, record: MergeRecord) -> keras.Model:
    if record.template is not None:
        return record.template.model
    if record.architecture is None:
        raise KmergeError(
            f"The big student {big.name!r} was saved or copied without the architecture of its parents, which no "
            f"configuration builds again: {record.problem} Compress it in the process that merged it."
        )
    try:
        return _built(record.architecture, custom_objects(big))
    except Exception as error:
        raise KmergeError(
            f"The architecture of the parents of {big.name!r} cannot be built again: {told(error)}. "
            "Register what it lacks with keras.saving.register_keras_serializable and import that first, or call this in "
            "the scope of keras.saving.custom_object_scope({name: object})."
        ) from None


def kept_whole(walked: Trace, parents: int) -> list[Region]:
    """The regions of which a big student holds one of each parent; none if there is one parent."""
    return regions(walked) if parents > 1 else []


def merge_plan(walked: Trace, parents: int, own: Mapping[str, Sequence] | None = None) -> Plan:
    """All units of all parents side by side, in every selectable space and every region.

    Args:
        walked: the walk of the first parent.
        parents: their number.
        own: for spaces in which parents have fewer units, those that they have, as `(parent, unit)`.
    """
    names = [space.name for space in walked.spaces.selectable]
    names += [name for region in kept_whole(walked, parents) for name in region.spaces]
    entries = {name: [(s, i) for s in range(parents) for i in range(walked.spaces[name].size)] for name in names}
    return Plan(parents, entries | {name: list(map(tuple, units)) for name, units in (own or {}).items()}, apart=False)


def keep_plan(walked: Trace, plan: Plan, keep: Mapping[str, Sequence[int]], whole: Mapping[str, int]) -> Plan:
    """What is left of `merge_plan`.

    Args:
        walked: the walk of the parent.
        plan: what `merge_plan` gave.
        keep: the units to keep of each selectable space, as indices into those of all parents.
        whole: the parent whose units of a region are kept, by the region's name.
    """
    entries = {name: [plan.entries[name][i] for i in units] for name, units in keep.items()}
    for region in kept_whole(walked, plan.sources):
        for name in region.spaces:
            entries[name] = [entry for entry in plan.entries[name] if entry[0] == whole[region.name]]
    return Plan(plan.sources, entries, apart=False)


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
        gates: the gate of each space whose units are read.
        region_gates: the gate of each region, see `Region`, with one unit for each parent.
        layers: the big student's layers by the path in the parent.
        ungated: the width to cut to of each space whose units nobody reads.
        constants: the arrays among the arguments of the big student's calls, by `place_of` these calls.
    """

    walked: Trace
    plan: Plan
    gates: dict[str, HardConcreteGate]
    region_gates: dict[str, HardConcreteGate]
    layers: dict[str, keras.layers.Layer]
    ungated: dict[str, int]
    constants: dict[str, list]

    @property
    def widths(self) -> dict[str, int]:
        """The width to cut to of each space."""
        return {name: len(gate.kept()) for name, gate in self.gates.items()} | self.ungated


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
            f"Expected a big student made by kmerge.merge or kmerge.gate, received {shown(getattr(big, 'name', big))}, which "
            "holds no record of a merge."
        )
    record = records[0]
    walked = trace(_template(big, record), for_merge=record.parents > 1, for_gates=True)
    named = {gate.name: gate for gate in gates_of(big)}
    gates = {space: named[name] for space, name in record.gate_names.items()}
    inner = {layer.name: layer for layer in map(gated_layer, big.layers)}
    layers = {path: inner[name] for path, name in record.layer_names.items()}
    whole = {region: named[name] for region, name in record.region_names.items()}
    arrays = {call.name: call.constants for call in Graph(big).calls if call.constants}
    constants = {place: arrays[name] for place, name in record.constant_names.items() if name in arrays}
    plan = merge_plan(walked, record.parents, {space: gate.origins for space, gate in gates.items() if gate.origins})
    return Merged(walked, plan, gates, whole, layers, dict(record.ungated), constants)
