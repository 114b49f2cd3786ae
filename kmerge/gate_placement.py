"""Puts a gate on every space of a big student while it is built, and a record of the merge beside them."""

import json
import math

import keras
import numpy as np

from kmerge.compensation import KERNEL_LAYERS
from kmerge.gate_application import ApplyGates, FoldGates
from kmerge.gates import HardConcreteGate
from kmerge.labels import Labels
from kmerge.layout import Layout, Placed
from kmerge.seeds import seed_of
from kmerge.shape_rules import gather


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


class GatePlacement:
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

    def inside(self, entries: np.ndarray) -> keras.KerasTensor | None:
        """The gates of units that a layer mixes inside itself, (batch or 1, units), or None if they have none."""
        used, indices = self._numbers(entries)
        if not used:
            return None
        masks = [self.masks[name] for name in used]
        if len(masks) == 1 and min(indices) > 0:
            return gather(masks[0], 1, np.array(indices) - 1)
        return gather(
            keras.ops.concatenate([keras.ops.ones_like(masks[0][:, :1]), *masks], axis=1), 1, np.array(indices)
        )

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
