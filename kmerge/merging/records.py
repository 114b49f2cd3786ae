"""What a big student keeps of its merge, in its configuration, so that it can be saved, loaded and cut."""

import json
from dataclasses import dataclass

import keras

from kmerge.errors import InvalidArgumentError
from kmerge.gates import HardConcreteGate, gated_layer, gates_of
from kmerge.graph import without_entries
from kmerge.spaces import Trace, trace
from kmerge.surgery import Plan


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


def architecture_of(parent: keras.Model) -> str:
    """The configuration of a model as JSON, without what it was compiled with."""
    return json.dumps(without_entries(keras.saving.serialize_keras_object(parent), {"compile_config"}))


def merge_plan(walked: Trace, parents: int) -> Plan:
    """All units of all parents side by side, in every selectable space."""
    entries = {
        space.name: [(source, i) for source in range(parents) for i in range(space.size)]
        for space in walked.spaces.selectable
    }
    return Plan(parents, entries, apart=False)


@dataclass(frozen=True)
class Merged:
    """What a big student says of its merge: the parent's architecture, walked, and the gate of each space."""

    walked: Trace
    plan: Plan
    gates: dict[str, HardConcreteGate]
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
    return Merged(walked, merge_plan(walked, records[0].parents), gates, layers)
