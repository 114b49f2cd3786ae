"""Layouts: the labels of a new model, computed from a template and a plan before anything is built.

A *plan* lists, for every space of the new model, which unit of which source each of its units comes from. An *entry*
is such a unit of the new model, coded as one integer:

    0 * units + unit            common: one copy for all sources, as the channels of inputs and outputs are
    (1 + source) * units + unit         the unit of one source
    (1 + sources + i) * units + unit    the i-th new unit, which lies wherever `unit` lies

A layer that makes units orders them by `Layout.expand`. The rules then follow the entries exactly as they followed
the units of the template; where two layers need different orders, a gather is put between them.
"""

from collections.abc import Mapping
from dataclasses import replace

import keras
import numpy as np

from kmerge.errors import KmergeError
from kmerge.graph import Graph, find_weight
from kmerge.rules import Axis, Labels, match, occurrences, positions_of, stretches
from kmerge.spaces import Trace, walk_calls, without_masks
from kmerge.surgery.means import check_end
from kmerge.surgery.placed import Part, Placed
from kmerge.surgery.plan import NEW, Plan, check_plan
from kmerge.surgery.sites import LayoutSite


class Layout:
    """The entries along every tensor and weight of a new model.

    Attributes:
        trace: the walk of the template.
        plan: the plan.
        calls: `Placed` by the key of the call.
        axes: for each layer path and weight name, a tuple with an `Axis` of entries, or None, for each axis.
        inputs, outputs: the entries along the model's inputs, or their copies, and along its outputs.
        copies: for each input, the positions to read behind it. Those beyond the template's are new channels of the input.
        averages: for each output number, the positions of each source, if it is averaged.
        origins: for each path of a `Part`, the path in the template, and the source or None if it is not of one.
    """

    def __init__(self, trace: Trace, plan: Plan):
        check_plan(plan, trace.spaces)
        self.trace = trace
        self.plan = plan
        self.units = len(trace.space_of)
        self._names = list(trace.spaces)
        self._of_space = [self._entries(space) for space in trace.spaces.values()]
        self.calls: dict[tuple, Placed] = {}
        self.axes: dict[str, dict[str, tuple]] = {}
        self.averages: dict[int, list] = {}
        self.inputs: list[Labels] = []
        self.copies: list[np.ndarray] = []
        self.origins: dict[str, tuple[str, int | None]] = {}
        self._parts: dict[tuple, str] = {}
        self.first: dict[tuple, Labels] = {}
        for place, x in zip(trace.entries, trace.inputs, strict=False):  # the inputs' own come first
            wanted = self.expand(x.units)
            positions = match(wanted % self.units, occurrences(wanted), x.units, occurrences(x.units))
            added = np.flatnonzero(self.source_of(wanted) > plan.sources)
            in_order = np.array_equal([*np.delete(positions, added), *added], np.arange(len(wanted)))
            if place not in plan.copied and in_order and len(wanted) == len(x.units) + len(added):
                positions = np.arange(len(wanted))  # all of its own, then what is new
            self.copies.append(positions)
            self.inputs.append(x.with_units(wanted))
        outputs = walk_calls(Graph(trace.model), self.inputs, self._visit)
        self.outputs = [self._end(i, x) for i, x in enumerate(outputs)]

    def _entries(self, space) -> np.ndarray:
        listed = self.plan.entries.get(space.name)
        if listed is None:
            return space.units.copy()
        new = iter(range(1 + self.plan.sources, 1 + self.plan.sources + len(listed)))
        return np.array(
            [(next(new) if s is NEW else 1 + s) * self.units + space.units[i] for s, i in listed], dtype=int
        )

    def entries_of(self, space: str) -> np.ndarray:
        """The entries of a space, in the order of the plan."""
        return self._of_space[self._names.index(space)]

    def source_of(self, entries: np.ndarray) -> np.ndarray:
        """0 for a common entry, 1 + source for one of a source, more for a new one."""
        return entries // self.units

    def expand(self, units: np.ndarray) -> np.ndarray:
        """The entries along an axis whose positions hold `units` in the template.

        The axis is read as stretches in which every unit of a space stands once, or equally often in a row. Each becomes
        the entries of these units, in the order of the plan: [u v] -> [uA vA uB vB], [u u v v] -> [uA uA vA vA uB uB vB vB].
        What the plan does not list stays in its order.
        """
        pieces = [np.empty(0, int)]
        for space, count, members in stretches(units, self.trace.space_of):
            entries, name = self._of_space[space], self._names[space]
            found = entries[np.isin(entries % self.units, members)] if name in self.plan.entries else members
            pieces.append(np.repeat(found, count))
        return np.concatenate(pieces)

    def _visit(self, key, path, call, inputs, end):
        record = self.trace.records[key]
        # One object per input: a tensor that is read twice by a call may need two orders.
        pairs = zip(inputs, record.inputs, strict=True)
        placed = Placed(record, [replace(old, units=x.units, shape=x.with_units(x.units).shape) for x, old in pairs])
        averaged = record.end in self.plan.averaged_outputs and record.end is not None
        behind = averaged and record.rule.is_activation and record.rule.ends_behind_logits(call.operation)
        if behind and not np.array_equal(record.inputs[0].units, placed.inputs[0].units):
            placed.averages, placed.inputs[0] = self._average(record.inputs[0], placed.inputs[0])
        site = LayoutSite(self, placed)
        outputs = record.rule.walk(site, *without_masks(site, placed.inputs))
        if averaged and not site.curves:
            check_end(record)
        placed.outputs = outputs if isinstance(outputs, list) else [outputs]
        if not placed.parts:
            site.run_virtual_apart()
        may_lose = record.rule.may_lose or record.is_apart and not record.is_whole
        if any(len(x.units) == 0 for x in placed.inputs) and not may_lose:
            site.refuse("none of the channels that it reads are left.", "Keep at least one of them.")
        if placed.parts and all(len(part.reads) == 1 for part in placed.parts) and not record.rule.is_opaque:
            placed.parts = [replace(p, changes=record.rule.changes(site, *cut)) for p, cut in placed.cut_to_parts()]
        else:
            placed.changes = record.rule.changes(site, placed.inputs, placed.outputs)
        for of_layer, axes in site.axes.items():
            self.axes.setdefault(of_layer, axes)
        self.calls[key] = placed
        return placed.outputs

    def _average(self, template: Labels, x: Labels) -> tuple[list, Labels]:
        parts = [self.positions_in(template.units, x, source) for source in range(self.plan.sources)]
        if any(np.any(positions < 0) for positions in parts):
            raise KmergeError("An output lacks units of a source. This is a fault of kmerge: please report it.")
        return parts, x.with_units(template.units)

    def positions_in(self, units: np.ndarray, x: Labels, source: int) -> np.ndarray:
        """Where a source's own units, or else the common ones, lie in `x`; -1 for those that are not there."""
        own = positions_of(units + (1 + source) * self.units, x.units)
        return np.where(own >= 0, own, positions_of(units, x.units))

    def part(self, path: str, group: int, first: bool, reads: dict) -> Part:
        """The layer that runs instead of that of `path` for a group of `source_of`, the same at all its uses."""
        if (path, group) not in self._parts:
            of_source = 1 <= group <= self.plan.sources
            name = path if first else f"{path}_of_{group if of_source else 'new'}"
            while not first and (name in self.trace.layers or name in self.origins):
                name += "_"
            self._parts[path, group] = name
            self.origins[name] = (path, int(group) - 1 if of_source else None)
        return Part(self._parts[path, group], reads)

    def _end(self, number: int, x: Labels) -> Labels:
        template = self.trace.outputs[number]
        if number not in self.plan.averaged_outputs or np.array_equal(x.units, template.units):
            return x
        self.averages[number], x = self._average(template, x)
        return x


def weight_axes(axes: Mapping[str, tuple], layer: keras.layers.Layer) -> dict[int, tuple[Axis | None, ...]]:
    """The axes of a layer's weights by their index in `layer.weights`."""
    index = {id(w): i for i, w in enumerate(layer.weights)}
    return {index[id(find_weight(layer, name))]: roles for name, roles in axes.items()}
