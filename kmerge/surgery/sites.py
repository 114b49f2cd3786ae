"""What a rule declares in a new model: the site of the walk that follows the entries of a layout."""

import numpy as np

from kmerge.errors import KmergeError
from kmerge.graph import find_weight, has_mask
from kmerge.rules import Axis, Labels, Site, channel_axis, match, occurrences, positions_of
from kmerge.spaces import output_name
from kmerge.surgery.masks import reads_carried_mask, takes_one_mask
from kmerge.surgery.placed import Placed


class LayoutSite(Site):
    """The site of the walk that follows entries instead of units.

    Args:
        layout: the `Layout` that walks; it has the plan and the walk of the template.
        placed: what is found out of the call.
    """

    def __init__(self, layout, placed: Placed):
        super().__init__(placed.record.call, placed.record.path, placed.record.end is not None)
        self.layout = layout
        self.placed = placed
        self.axes: dict[str, dict[str, tuple]] = {self.path: {}}
        self.curves = False  # whether the layer declares that it is not linear, even at the model's end

    def own(self, count, name="output"):
        return self.layout.expand(self.layout.trace.owned[self.path, name])

    def _index(self, x: Labels) -> int | None:
        return next((i for i, y in enumerate(self.placed.inputs) if y is x), None)

    def _template(self, x: Labels) -> np.ndarray:
        return self.placed.record.inputs[self._index(x)].units

    def _arrange(self, x: Labels, wanted: np.ndarray) -> Labels:
        """`x` in the order `wanted`, through a gather where it has another."""
        if np.array_equal(x.units, wanted):
            return x
        positions = positions_of(wanted, x.units)
        if len(wanted) != len(x.units) or np.any(positions < 0):
            self.refuse("the channels that it needs together cannot be brought together in the new widths.",
                        "Select or add whole groups.")  # fmt: skip
        return self._gather(x, positions)

    def _needs_carried_mask(self, i: int) -> bool:
        """Whether a mask cannot be handed over instead."""
        return not takes_one_mask(self.call) and (reads_carried_mask(self.call, i) or not self.call.masks)

    def _gather(self, x: Labels, positions: np.ndarray) -> Labels:
        i = self._index(x)
        if i is not None and has_mask(self.call.inputs[i]) and self._needs_carried_mask(i):
            self.refuse("its input carries a mask, which would be lost where its channels are reordered.",
                        "Leave the order of these channels as it is, or hand the mask on as an argument.")  # fmt: skip
        if i is None:
            raise KmergeError(
                f"{self.path}: units that must agree differ. This is a fault of kmerge: please report it."
            )
        _, before = self.placed.gathers.get(i, (x.axis, np.arange(len(x.units))))
        self.placed.gathers[i] = (x.axis, before[positions])
        self.placed.inputs[i] = x.with_units(x.units[positions])
        return self.placed.inputs[i]

    def _share(self, x, role):
        first = self.layout.first.setdefault((self.path, role), x)
        return self._arrange(x, first.units)

    def consume(self, x, weight="kernel"):
        i = self._index(x)
        x = self._share(x, f"consumed by {weight}")
        if i not in self.placed.consumed:
            self.placed.consumed.append(i)
        return x.units

    def contract(self, *inputs, count=1):
        """Where what the layer makes is of each source, one layer for each on its channels; else one for all of them.

        For two models of two channels, x is [A0 B0 A1 B1], and what it makes has the units [A2 B2]: `reads` is [0 2] and
        [1 3]. In a big student it makes one unit, common to all, of the open channels of all sources.
        """
        layout, source = self.layout, self.layout.source_of
        units = layout.trace.owned[self.path, output_name(0)]
        groups, numbers = np.unique(source(layout.expand(units))), [self._index(x) for x in inputs]
        for x, i in zip(self.tie(*inputs), numbers, strict=True):
            self.consume(x, f"input {i}")
        read = [self.placed.inputs[i] for i in numbers]
        self._refuse_new(*read)
        if groups.any():
            found = [[np.flatnonzero(np.isin(source(x.units), (0, g))) for x in read] for g in groups]
            axes = [x.axis for x in read]
            self._run_apart(groups, [dict(zip(numbers, zip(axes, p, strict=True), strict=True)) for p in found])
        return np.concatenate([units + group * layout.units for group in groups])

    def _refuse_new(self, *inputs: Labels) -> None:
        if any((self.layout.source_of(x.units) > self.layout.plan.sources).any() for x in inputs):
            self.refuse("it adds up channels without weights, so that a new one would change its outputs.",
                        "Grow other spaces, or put a Dense layer or a 1x1 convolution in its place.")  # fmt: skip

    def attend(self, query, key, value):
        """One layer for each source of which `value` has channels, on these; with them, what is new goes through the first."""
        at = [self._index(x) for x in (query, key, value)]
        for x, i in zip(self.tie(query, key), at, strict=False):
            self.consume(x, f"input {i}")
        query, key, value = (self.placed.inputs[i] for i in at)
        self._refuse_new(query, key)
        present, group = self._groups(value)
        if present is None:
            return query, value
        source = self.layout.source_of
        reads = [[np.flatnonzero(np.isin(source(x.units), (0, g))) for x in (query, key)] for g in present]
        reads = [[*found, np.flatnonzero(group == g)] for found, g in zip(reads, present, strict=True)]
        axes = [x.axis for x in (query, key, value)]
        self._run_apart(present, [dict(zip(at, zip(axes, found, strict=True), strict=True)) for found in reads])
        rows = [np.concatenate([found[i] for found in reads]) for i in (0, 2)]
        return query.with_units(query.units[rows[0]]), value.with_units(value.units[rows[1]])

    def weigh(self, sums, x):
        """Where each source has sums of its own, one layer for each source, on its channels of `x`; else one for all."""
        source = self.layout.source_of
        groups, of = source(sums.units), source(x.units)
        if not groups.any():
            return x
        if not np.array_equal(np.unique(of), np.unique(groups)):
            self.refuse("it mixes places by sums of each source, but its channels are not some of each.",
                        "Give each source its own, with `copied` or entries of the plan.")  # fmt: skip
        reads = [np.flatnonzero(of == group) for group in groups]
        at, of_x = self._index(sums), self._index(x)
        self._run_apart(groups, [{at: (None, np.array([i])), of_x: (x.axis, p)} for i, p in enumerate(reads)])
        return x.with_units(x.units[np.concatenate(reads)])

    def run_virtual_apart(self) -> None:
        """Runs a call on tensors without a channel axis once for each source, so that none of its axes is another."""
        several = [i for i, x in enumerate(self.placed.inputs) if x.is_virtual and len(x.units) > 1]
        if not several or getattr(self.layer, "weights", ()):
            return
        for i, (x, old) in enumerate(zip(self.placed.inputs, self.placed.record.inputs, strict=True)):
            if i not in several and not np.array_equal(x.units, old.units):
                self.refuse("it reads channels of several models beside a tensor without channels.", "Let it read one.")
        units = self.placed.inputs[several[0]].units
        reads = [{i: (None, np.array([p])) for i in several} for p in range(len(units))]
        self._run_apart(self.layout.source_of(units), reads)

    def consume_inside(self, units):
        self.placed.inside = units
        return units

    def fix(self, x, why):
        if not np.array_equal(x.units % self.layout.units, self._template(x)):
            self.refuse(f"it {why}, so they cannot be repeated for several models.", "Make them from an input.")

    def hold(self, x):
        return self._share(x, "held")

    def couple(self, x, size):
        return x if self._index(x) is None else self._arrange(x, self.layout.expand(self._template(x)))

    def tie(self, *inputs):
        return [inputs[0]] + [self._arrange(x, inputs[0].units) for x in inputs[1:]]

    def spread(self, x, over):
        if len(x.units) == 1:
            return x
        source = self.layout.source_of
        positions = np.array([np.flatnonzero(source(x.units) == s)[0] for s in source(over.units)])
        return self._gather(x, positions)

    def pick(self, x, positions, output=0):
        """What the new slice or gather reads: the same units of the same source, wherever they lie now.

        In the template x[..., 2:] reads the positions [2 3] of [0 1 2 3]. For two models A and B, x is now
        [A0 A1 B0 B1 A2 A3 B2 B3], as the slice makes two spaces of it:

            made      [2 3]                  units of the template's output
            wanted    [A2 A3 B2 B3]          entries of the new output, (n,)
            read      [2 3 2 3]              for each the position that the template reads, (n,)
            found     [4 5 6 7]              for each the position to be read in the new x, (n,)

        Units are found by their number and how often they occurred before, as `Flatten` and [h h] repeat them. The hard
        case is a gather that repeats units: what it makes has units of its own, whose numbers `x` does not know. So
        `wanted` is led back through the template to what it reads there, and then looked for under its own source. Where
        `x` is common to all sources, as an input is, it is found there. A new unit has no source: the first will do.
        """
        layout, template = self.layout, self._template(x)
        made = self.placed.record.outputs[output].units
        wanted = layout.expand(made)
        read = positions[match(wanted % layout.units, occurrences(wanted), made, occurrences(made))]
        unit, times = template[read], occurrences(template)[read]  # (n,) each
        source = layout.source_of(wanted)
        here = (x.units, occurrences(x.units))
        found = match(source * layout.units + unit, times, *here)
        is_new = source > layout.plan.sources
        for other in range(1 + layout.plan.sources):
            missing = (found < 0) & (is_new | (other == 0))
            found = np.where(missing, match(other * layout.units + unit, times, *here), found)
        if np.any(found < 0):
            self.refuse("it reads, once for all sources, channels of which each source has its own.",
                        "List what it makes in the plan, for each source, or average what it reads.")  # fmt: skip
        self.placed.picks[output] = (x.axis, found)
        return wanted

    def tile(self, x, grid, movable):
        if (grid == grid[:1]).all():
            return grid
        row = self.layout.expand(self.placed.record.outputs[0].units)
        if not movable or len(row) != grid.shape[1]:
            self.refuse("it cuts the channel axis where the new widths cannot be cut.", "Reshape after the last layer.")
        grid = np.tile(row, (len(grid), 1))
        self._arrange(x, grid.ravel())
        return grid

    def normalize(self, x):
        """Where a plan keeps sources apart, one layer for each source that has channels in `x`, on these alone.

        For two models of two channels, x is [A0 B0 A1 B1]: `reads` is [0 2] and [1 3], and what the two layers make, side
        by side, is [A0 A1 B0 B1]. The order of x may be any, as it may come from a join; the one that is returned is not.
        Where that is tied with a tensor of another order, a gather stands before one of the two.

        Mean and variance are of all channels of a source together. So a channel that is common to all sources cannot be
        normalized with those of each, and new channels, which are of no source, have one more layer for all of them. With
        one source nothing is kept apart but new channels: there a common channel is the source's.
        """
        x, plan = self.hold(x), self.layout.plan
        group = np.minimum(self.layout.source_of(x.units), plan.sources + 1)  # (n,): 0 common, 1 + source, or new
        group = np.maximum(group, 1) if plan.sources == 1 else group
        present = np.unique(group)
        if not plan.apart or len(present) < 2:
            return x
        if present[0] == 0:
            self.refuse("it normalizes channels of one source together with channels that all sources share.",
                        "Give each source its own, with `copied` or entries of the plan.")  # fmt: skip
        reads = [np.flatnonzero(group == g) for g in present]
        return self._each_alone(x, present, reads)

    def apart(self, x):
        """One layer for each source that has channels in `x`, on these alone; with them, what is new goes through the first.

        With one source there is nothing to keep apart; nor where all channels are common, as behind an input that no
        plan copies: there is one layer for all sources, whose weights must agree.
        """
        present, group = self._groups(x)
        return x if present is None else self._each_alone(x, present, [np.flatnonzero(group == g) for g in present])

    def _groups(self, x: Labels) -> tuple[np.ndarray | None, np.ndarray]:
        """The sources that need a layer each, or None if one does for all; and for each channel, which of them it meets."""
        plan, group = self.layout.plan, self.layout.source_of(x.units)
        present = np.unique(group[group <= plan.sources])
        if plan.sources == 1 or not present.any():
            return None, group
        if present[0] == 0:
            self.refuse("it would meet channels of one source together with channels that all sources share.",
                        "Give each source its own, with `copied` or entries of the plan.")  # fmt: skip
        return present, np.where(group > plan.sources, present[0], group)

    def _each_alone(self, x: Labels, groups: np.ndarray, reads: list[np.ndarray]) -> Labels:
        self._run_apart(groups, [{self._index(x): (x.axis, positions)} for positions in reads])
        return x.with_units(x.units[np.concatenate(reads)])

    def isolate(self, *inputs, why=""):
        """One layer for each source whose units the layer's outputs hold, each on all channels of its source, in order.

        For two models of a layer that reads two channels and makes two, x is [A0 A1 B0 B1] in some order; each layer reads
        what `positions_in` finds of its source, or else what is common to all, and `made` is [A2 A3 B2 B3]. Where the
        outputs are common there is one layer, of group 0, and it must read all of x: were there units of sources
        besides the common ones, it would leave them out without a word. Copies of an input are all the same, so it
        reads those of the first source.
        """
        layout = self.layout
        units = [x.units for x in self.placed.record.outputs]
        groups = np.unique(layout.source_of(np.concatenate([layout.expand(u) for u in units])))
        reads = []
        for group in groups:
            found = [self._read_whole(x, group) for x in inputs]
            if any(positions is None for positions in found):
                self.refuse("it runs as it is, and what it reads would not be what it reads in its model.",
                            "Leave the units before and behind it as they are.")  # fmt: skip
            whole = [x.is_virtual and len(x.units) == 1 for x in inputs]  # of which there are no channels to read
            pairs = [(x, positions) for x, positions, skip in zip(inputs, found, whole, strict=True) if not skip]
            reads.append({self._index(x): (None if x.is_virtual else x.axis, positions) for x, positions in pairs})
        self._run_apart(groups, reads)
        # A weight that it reads has no batch axis, along which gates could lie; what comes of it is gated behind the layer.
        batch = layout.trace.inputs[0].shape[:1]
        weights = [batch == (None,) and tuple(x.shape[:1]) != batch for x in self.call.inputs]
        floats = [i for i, x in enumerate(self.call.inputs) if "float" in str(x.dtype) and not weights[i]]
        self.placed.consumed = [i for i in map(self._index, inputs) if i in floats]
        made = [np.concatenate([u + group * layout.units for group in groups]) for u in units]
        return [self.output(u, channel_axis(tuple(self.call.outputs[i].shape))[0], i) for i, u in enumerate(made)]

    def _read_whole(self, x: Labels, group: int) -> np.ndarray | None:
        """The positions of `x` that are all that a source has there, or all that is common (group 0); None if some lack."""
        template = self.placed.record.inputs[self._index(x)]
        is_copy = group == 0 and template.from_inputs
        found = self.layout.positions_in(template.units, x, 0 if is_copy else group - 1)
        complete = group > 0 or is_copy or len(found) == len(x.units)
        return found if complete and np.all(found >= 0) else None

    def _run_apart(self, groups: np.ndarray, reads: list[dict]) -> None:
        for group, read in zip(groups, reads, strict=True):
            self.placed.parts.append(self.layout.part(self.path, group, group == groups[0], read))
        self.axes = {part.path: {} for part in self.placed.parts}

    def curve(self, *inputs):
        self.curves = True

    def weight(self, name, *axes):
        if find_weight(self.layer, name) is None or not any(axes):
            return
        if not self.placed.parts:
            self.axes[self.path][name] = axes
        start = 0
        for part in self.placed.parts:
            _, positions = next(iter(part.reads.values()))  # of the input for whose channels it holds weights
            stop = start + len(positions)
            cut = tuple(a and Axis(a.role, a.units[start:stop]) for a in axes)
            self.axes[part.path][name], start = cut, stop

    def constant(self, index, *axes):
        self.placed.constants[index] = axes

    def old_positions(self, index):
        units, x = self.placed.record.inputs[index].units, self.placed.inputs[index].units
        return match(x % self.layout.units, occurrences(x), units, occurrences(units))

    def is_new(self, index):
        return self.layout.source_of(self.placed.inputs[index].units) > self.layout.plan.sources
