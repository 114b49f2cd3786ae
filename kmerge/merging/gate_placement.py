"""Where the gates of a big student stand: one on every space, put in while the model is built."""

import math
from collections.abc import Mapping

import keras
import numpy as np

from kmerge.checks import refuse
from kmerge.errors import UnsupportedLayerError
from kmerge.gates import ApplyGates, FoldGates, HardConcreteGate, LookUpGates
from kmerge.merging.records import gate_places, kept_whole, record_of
from kmerge.rules import KERNEL_LAYERS, Labels
from kmerge.seeds import seed_of
from kmerge.surgery import Layout, Placed


class GatePlacement:
    """Puts a gate on every selectable space, at the input of each layer that mixes it."""

    def __init__(self, layout: Layout, widths: Mapping[str, int], start, sampling: str, seed: int):
        self.layout = layout
        spaces = layout.trace.spaces.selectable
        names = {
            space.name: f"gate_{i}_" + space.name.replace("/", "_").replace(":", "_") for i, space in enumerate(spaces)
        }
        self.gates = {
            space.name: HardConcreteGate(
                len(layout.plan.entries[space.name]),
                target=widths[space.name] / len(layout.plan.entries[space.name]),
                origins=[list(origin) for origin in layout.plan.entries[space.name]],
                sampling=sampling,
                start=start,
                seed=seed_of("gates", seed, space.name),
                name=names[space.name],
                dtype="float32",
            )
            for space in spaces
        }
        self.names, self.widths = names, widths
        self.region_gates = {
            region.name: HardConcreteGate(
                layout.plan.sources,
                target=1 / layout.plan.sources,
                sampling=sampling,
                start=start,
                seed=seed_of("region gates", seed, region.name),
                name=f"gate_of_each_{i}",
                dtype="float32",
            )
            for i, region in enumerate(kept_whole(layout.trace, layout.plan.sources))
        }
        self.record = record_of(layout.trace, layout.plan.sources)
        self._place = gate_places(layout, self.gates)
        self.folds = sampling == "batch"
        self._gates_of: dict[tuple, keras.KerasTensor] = {}
        self._applied: dict[tuple, keras.KerasTensor] = {}
        self._folded: dict[int, tuple[FoldGates, tuple] | None] = {}

    def start(self, inputs: list) -> None:
        recorded = self.record(inputs[0])
        self.masks = {name: gate(recorded) for name, gate in (self.gates | self.region_gates).items()}

    def finish(self, big: keras.Model, layers: Mapping[str, keras.Layer]) -> None:
        """Records the layers of the model that was built, and its gates. One whose units nobody reads is not in it."""
        inside = {layer.name for layer in big.layers}
        for path, layer in layers.items():
            if layer.name not in inside:
                why = "nothing in the big student reads what it makes, so that it would be lost."
                raise UnsupportedLayerError(path, type(layer).__name__, why, "Leave it out of the models.")
        self.record.layer_names.update({path: layer.name for path, layer in layers.items()})
        read = {name: gate.name for name, gate in self.region_gates.items() if gate.name in inside}
        self.record.region_names.update(read)
        for space, name in self.names.items():
            if name in inside:
                self.record.gate_names[space] = name
            else:
                every = self.layout.trace.spaces[space].size * self.layout.plan.sources
                if len(self.layout.plan.entries[space]) != every:
                    do = "Nothing reads its units: `kmerge.select` brings it to one width in all models first."
                    refuse(f"space {space!r}", "of one width in all models", "other widths", do)
                self.record.ungated[space] = int(self.widths[space])

    def apply(self, placed: Placed, operation, tensors: list) -> tuple:
        """The operation to call instead of one that mixes units, and its inputs."""
        if self.folds and operation is not None:
            if id(operation) not in self._folded:
                # One way for all uses of a shared layer: one that stands in a wrapper and by itself cannot be loaded.
                self._folded[id(operation)] = self._fold(placed, operation, tensors)
            if self._folded[id(operation)] is not None:
                folded, used = self._folded[id(operation)]
                return folded, [[tensors[0], *(self.masks[name] for name in used)]]
        for i in placed.consumed:
            self._check_batch_axis(placed, tensors[i], placed.inputs[i])
        return operation, [
            self.gated(x, placed.inputs[i]) if i in placed.consumed else x for i, x in enumerate(tensors)
        ]

    def _check_batch_axis(self, placed: Placed, tensor: keras.KerasTensor, labels: Labels) -> None:
        """Refuses gates of each example on what has no examples, as a weight that an opened layer held itself."""
        batch = self.layout.trace.inputs[0].shape[:1]
        if tuple(tensor.shape[:1]) != batch and self._numbers(labels.units)[0]:
            record = placed.record
            raise UnsupportedLayerError(
                record.path, type(record.call.operation).__name__,
                "it mixes channels of a weight that has no batch axis, along which gates could lie.",
                "Register a rule for the layer that holds the weight, or kmerge.OpaqueRule() to leave that as it is.",
            )  # fmt: skip

    def _fold(self, placed: Placed, operation, tensors: list) -> tuple[FoldGates, tuple] | None:
        """The layer with gates on its kernel, if that is smaller than what 32 examples bring it to read; and their names."""
        if not isinstance(operation, KERNEL_LAYERS) or not placed.consumed:
            return None
        if operation.activity_regularizer is not None:  # the scope of `FoldGates` would swallow its loss
            return None
        positions = math.prod(size or math.inf for size in tensors[0].shape[1:-1])
        if len(placed.outputs[0].units) * math.prod(getattr(operation, "kernel_size", ())) > 32 * positions:
            return None
        axes = self.layout.axes[placed.record.path]["kernel"]
        at = next(i for i, axis in enumerate(axes) if axis is not None and axis.role == "consumes")
        used, indices = self._numbers(axes[at].units)
        # It takes the layer's name: losses and metrics are keyed by those of the outputs.
        return (FoldGates(operation, indices, at, name=operation.name), used) if used else None

    def _numbers(self, units: np.ndarray) -> tuple[tuple, tuple]:
        """The gated spaces that lie along an axis, and for each position the number of its gate among theirs."""
        places = [self._place.get(int(entry)) for entry in units]
        used = tuple(dict.fromkeys(place[0] for place in places if place))
        starts = np.cumsum([1, *(self.masks[name].shape[-1] for name in used)]).tolist()
        offsets = dict(zip(used, starts[:-1], strict=True))
        return used, tuple(offsets[place[0]] + place[1] if place else 0 for place in places)

    def inside(self, entries: np.ndarray) -> keras.KerasTensor | None:
        """The gates of units that a layer mixes inside itself, (batch or 1, units), or None if they have none."""
        used, indices = self._numbers(entries)
        if not used:
            return None
        if (used, indices) not in self._gates_of:
            layer = LookUpGates(indices, name=f"look_up_gates_{len(self._gates_of)}", dtype="float32")
            self._gates_of[used, indices] = layer([self.masks[name] for name in used])
        return self._gates_of[used, indices]

    def gated(self, tensor: keras.KerasTensor, labels: Labels) -> keras.KerasTensor:
        """A tensor times the gates of the units along it, or itself if they have none."""
        used, indices = self._numbers(labels.units)
        if not used:
            return tensor
        key = (id(tensor), indices, used)
        if key not in self._applied:
            layer = ApplyGates(indices, axis=labels.axis, name=f"apply_gates_{len(self._applied)}", dtype=tensor.dtype)
            self._applied[key] = layer([tensor, *(self.masks[name] for name in used)])
        return self._applied[key]
