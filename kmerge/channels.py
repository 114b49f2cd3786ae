"""Channel spaces: which units of a model must be kept, dropped, added or reordered together.

One walk over the graph gives every tensor's feature axis its units (`labels`). Units that some layer ties, as an
addition ties the channels of its inputs, become one. A *channel space* is the set of units that the same layers make:
in a residual network of four channels,

    x = Conv2D(4, name="stem")(image)          space "stem":  4 units, made by stem and up, tied by add
    h = Conv2D(4, name="down")(x)              space "down":  4 units
    y = Add(name="add")([x, Conv2D(4, name="up")(h)])
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np

from kmerge.errors import InvalidArgumentError
from kmerge.graph import Call, Graph, input_layer
from kmerge.labels import Axis, Labels, Site
from kmerge.layer_rules import Rule
from kmerge.shape_rules import rule_for


@dataclass
class Record:
    """What a walk found at one call.

    Attributes:
        call, path, rule: the call, the path of its layer, and the rule that described it.
        inputs, outputs: labels of its tensors.
        end: the number of the model's output that it makes for nothing else to read, or None.
    """

    call: Call
    path: str
    rule: Rule
    inputs: list[Labels]
    outputs: list[Labels]
    end: int | None


@dataclass
class Trace:
    """The result of walking a model: labels of all tensors, roles of all weights, and the spaces.

    Attributes:
        model: the model walked.
        records: a `Record` for each call, by the numbers of the calls that lead to it.
        axes: for each layer path and weight name, a tuple with an `Axis` or None for each axis of the weight.
        layers: layer or operation by path.
        owned: the units that each layer makes, by path and name.
        inputs, outputs: labels of the model's inputs and outputs.
        spaces: the channel spaces.
        space_of: for each unit, the number of its space. `index_of`: its index in the space.
    """

    model: keras.Model
    records: dict[tuple, Record] = field(default_factory=dict)
    axes: dict[str, dict[str, tuple]] = field(default_factory=dict)
    layers: dict[str, object] = field(default_factory=dict)
    owned: dict[tuple, np.ndarray] = field(default_factory=dict)
    inputs: list[Labels] = field(default_factory=list)
    outputs: list[Labels] = field(default_factory=list)
    spaces: "ChannelSpaces" = None
    space_of: np.ndarray = None
    index_of: np.ndarray = None


@dataclass(frozen=True, eq=False)
class ChannelSpace:
    """An ordered set of units that are kept, dropped, added or reordered together.

    Attributes:
        name: that of the first layer that makes the units; with `:0`, `:1`, ... if it makes several spaces.
        size: number of units.
        selectable: whether units may be dropped, added or reordered.
        reason: why not, if not; otherwise empty.
        owners: paths of the layers that make the units.
        consumers: paths of the layers that mix them.
        ties: paths of the layers that tie units of several owners.
        facts: what else the walk noted: "input", "output", "made" (by a layer), "curved" (a nonlinear function is
            applied), "held" (a layer holds weights per unit), "consumed".
        units: the numbers of the units in the walk, shape `(size,)`.
    """

    name: str
    size: int
    selectable: bool
    reason: str
    owners: tuple[str, ...]
    consumers: tuple[str, ...]
    ties: tuple[str, ...]
    facts: frozenset
    units: np.ndarray


class ChannelSpaces(Mapping):
    """The channel spaces of a model by name. Prints as a table."""

    def __init__(self, spaces: list[ChannelSpace]):
        self._spaces = {space.name: space for space in spaces}

    def __getitem__(self, name: str) -> ChannelSpace:
        if name in self._spaces:
            return self._spaces[name]
        owned = [space for space in self._spaces.values() if name in space.owners]
        if len(owned) == 1:
            return owned[0]
        known = ", ".join(self._spaces)
        raise InvalidArgumentError(f"Expected the name of a channel space, one of: {known}. Received: {name!r}.")

    def __contains__(self, name: object) -> bool:
        return name in self._spaces

    def __iter__(self) -> Iterator[str]:
        return iter(self._spaces)

    def __len__(self) -> int:
        return len(self._spaces)

    @property
    def selectable(self) -> list[ChannelSpace]:
        """The spaces whose units may be dropped, added or reordered."""
        return [space for space in self._spaces.values() if space.selectable]

    def __str__(self) -> str:
        rows = [("space", "units", "made by", "mixed by", "tied by", "selectable")]
        for s in self._spaces.values():
            listed = (", ".join(names) or "-" for names in (s.owners, s.consumers, s.ties))
            rows.append((s.name, str(s.size), *listed, "yes" if s.selectable else f"no: {s.reason}"))
        rows = [tuple(c if len(c) <= 40 else c[:37] + "..." for c in row[:-1]) + row[-1:] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    __repr__ = __str__


def channel_spaces(model: keras.Model) -> ChannelSpaces:
    """Finds which channels of a model belong together.

    Args:
        model: a built Functional or Sequential `keras.Model`, nested at will.

    Returns:
        A mapping from names to `ChannelSpace`; `print` shows it as a table.

    Raises:
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for a subclassed or unbuilt model.
    """
    return trace(model).spaces


def walk_calls(graph: Graph, inputs: list, visit) -> list:
    """Runs `visit` over all calls in their order, those of nested models in the place of the model.

    Args:
        graph: the graph to walk.
        inputs: a value for each of its inputs.
        visit: `visit(key, path, call, values, end) -> values` of the outputs. `key` holds the numbers of the calls that
            lead here. `path` names the layer; one that is reached in several ways has the path of its first use.
            `end` is the number of the model's output that the call makes for nothing else to read, or None.

    Returns:
        The values of the outputs.
    """
    paths: dict[int, str] = {}

    def walk(graph, inputs, ends, number, prefix):
        values = {id(x): value for x, value in zip(graph.inputs, inputs, strict=True)}
        end_of = {id(x): end for x, end in zip(graph.outputs, ends, strict=True) if not graph.is_read(x)}
        for call in graph.calls:
            here = [values[id(x)] for x in call.inputs]
            key, path = number + (call.number,), paths.setdefault(id(call.operation), prefix + call.name)
            reached = [end_of.get(id(x)) for x in call.outputs]
            if call.is_model:
                found = walk(Graph(call.operation), here, reached, key, path + "/")
            else:
                found = visit(key, path, call, here, None if None in reached else reached[0])
            values.update({id(x): value for x, value in zip(call.outputs, found, strict=True)})
        return [values[id(x)] for x in graph.outputs]

    return walk(graph, inputs, range(len(graph.outputs)), (), "")


def input_labels(tensor, units) -> Labels:
    """Labels of a model's input: its channels lie on the last axis."""
    shape = tuple(tensor.shape)
    if len(shape) < 2 or shape[-1] is None:
        raise InvalidArgumentError(
            f"Expected an input with a batch axis and a known last axis. Received: input {tensor.name!r} of shape {shape}."
        )
    return Labels(units(shape[-1]), len(shape) - 1, shape)


def trace(model: keras.Model, copied_inputs: frozenset = frozenset(), free_outputs: frozenset = frozenset()) -> Trace:
    """Walks a model and finds its channel spaces.

    Args:
        model: the model.
        copied_inputs: numbers of the inputs whose channels are copied behind the input, into units that are free.
        free_outputs: numbers of the outputs whose units are not the model's own: something stands behind them.

    Returns:
        A `Trace`.
    """
    graph = Graph(model)
    notes = _Notes()
    result = Trace(model)
    for i, x in enumerate(graph.inputs):
        name = input_layer(x).name
        if i in copied_inputs:
            result.inputs.append(input_labels(x, lambda n, name=name: notes.own(name, n)))
        else:
            result.inputs.append(input_labels(x, lambda n, name=name, i=i: notes.own(name, n, ("input", i))))

    def visit(key, path, call, inputs, end):
        rule = rule_for(call.operation, path)
        site = TraceSite(call, path, end is not None, notes)
        outputs = rule.walk(site, *inputs)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        result.records[key] = Record(call, path, rule, inputs, outputs, end)
        result.layers[path] = call.operation
        result.axes.setdefault(path, site.axes)
        return outputs

    result.outputs = walk_calls(graph, result.inputs, visit)
    for i, x in enumerate(result.outputs):
        if i not in free_outputs:
            notes.note(("output", i), x.units)
    _resolve(result, notes)
    return result


class _Notes:
    """What the walk collects about units, before ties are resolved."""

    def __init__(self):
        self.count = 0
        self.owned: dict[tuple, np.ndarray] = {}
        self.ties: list[tuple] = []
        self.facts: list[tuple] = []
        self.shared: dict[tuple, Labels] = {}

    def own(self, path: str, count: int, *facts, name: str = "output") -> np.ndarray:
        if (path, name) not in self.owned:
            self.owned[path, name] = np.arange(self.count, self.count + count)
            self.count += count
        for fact in facts:
            self.note(fact, self.owned[path, name])
        return self.owned[path, name]

    def note(self, fact, units) -> None:
        self.facts.append((fact, units))

    def tie(self, a, b, path: str) -> None:
        self.ties.append((a, b))
        self.note(("tie", path), a)

    def classes(self) -> np.ndarray:
        """The class of each unit under all ties: the smallest number that it is tied to."""
        parent = np.arange(self.count)
        if not self.ties:
            return parent
        a, b = (np.concatenate([np.ravel(t[i]) for t in self.ties]) for i in (0, 1))
        while True:
            low = np.minimum(parent[a], parent[b])
            before = parent.copy()
            for side in (a, b):
                np.minimum.at(parent, parent[side], low)
                np.minimum.at(parent, side, low)
            parent = parent[parent]
            if np.array_equal(parent, before):
                return parent


class TraceSite(Site):
    """The site of a walk that finds out which units belong together."""

    def __init__(self, call, path, final, notes: _Notes):
        super().__init__(call, path, final)
        self.notes = notes
        self.axes: dict[str, tuple] = {}

    def own(self, count, name="output"):
        return self.notes.own(self.path, count, "made", name=name)

    def consume(self, x):
        self._share(x, "consumed")
        self.notes.note(("consumed", self.path), x.units)
        return x.units

    def hold(self, x):
        self._share(x, "held")
        self.notes.note("held", x.units)
        return x

    def _share(self, x, role):
        first = self.notes.shared.setdefault((self.path, role), x)
        if first is not x:
            self.notes.tie(x.units, first.units, self.path)

    def couple(self, x, size):
        if size > 1:
            grid = x.units.reshape(-1, size)
            self.notes.tie(grid, np.broadcast_to(grid[:, :1], grid.shape), self.path)
        return x

    def tie(self, *inputs):
        for x in inputs[1:]:
            self.notes.tie(inputs[0].units, x.units, self.path)
        return list(inputs)

    def spread(self, x, over):
        self.notes.note(("fixed", f"{self.path} repeats it by broadcasting"), x.units)
        return x

    def pick(self, x, positions, output=0):
        if len(np.unique(positions)) == len(positions):
            self.notes.note(("slice", self.path, output), x.units[positions])
            return x.units[positions]
        # A gather that repeats units: what it reads must stay, what it makes is free.
        self.notes.note(("fixed", f"{self.path} repeats it by a gather"), x.units)
        return self.notes.own(self.path, len(positions), "made", name=f"output {output}")

    def tile(self, x, grid, movable):
        self.notes.tie(grid, np.broadcast_to(grid[:1], grid.shape), self.path)
        return grid

    def curve(self, *inputs):
        for x in inputs:
            self.notes.note("curved", x.units)

    def weight(self, name, *axes):
        if getattr(self.layer, name, None) is not None:
            self.axes[name] = axes


def _resolve(result: Trace, notes: _Notes) -> None:
    """Replaces units by their classes, numbered from 0, and groups them into spaces."""
    roots, unit = np.unique(notes.classes(), return_inverse=True)

    def relabel(labels: list[Labels]) -> list[Labels]:
        return [x.with_units(unit[x.units]) for x in labels]

    result.inputs, result.outputs = relabel(result.inputs), relabel(result.outputs)
    for record in result.records.values():
        record.inputs, record.outputs = relabel(record.inputs), relabel(record.outputs)
    for named in result.axes.values():
        for name, axes in named.items():
            named[name] = tuple(a and Axis(a.role, unit[a.units]) for a in axes)
    result.owned = {owner: unit[units] for owner, units in notes.owned.items()}
    facts: list[list] = [[] for _ in roots]
    makers: list[list] = [[] for _ in roots]
    for fact, units in notes.facts:
        for u in np.unique(unit[units]):
            facts[u].append(fact)
    for owner, units in result.owned.items():
        for u in units:
            makers[u].append(owner)
    _group(result, makers, facts)


def _group(result: Trace, makers: list[list], facts: list[list]) -> None:
    groups: dict[tuple, list[int]] = {}
    marks = ("input", "output", "slice", "fixed")
    for u, (made, noted) in enumerate(zip(makers, facts, strict=True)):
        kept = {f for f in noted if f[0] in marks}
        groups.setdefault((tuple(sorted(made)), frozenset(kept)), []).append(u)
    result.space_of = np.empty(len(makers), int)
    result.index_of = np.empty(len(makers), int)
    first_owner = [made[0][0] for made in makers]
    named: dict[str, list[list[int]]] = {}
    for units in groups.values():
        named.setdefault(first_owner[units[0]], []).append(units)
    spaces = []
    for owner, several in named.items():
        for i, units in enumerate(several):
            name = owner if len(several) == 1 else f"{owner}:{i}"
            result.space_of[units], result.index_of[units] = len(spaces), np.arange(len(units))
            spaces.append(_space(name, units, makers, facts))
    result.spaces = ChannelSpaces(spaces)


def _space(name: str, units: list[int], makers, facts) -> ChannelSpace:
    noted = dict.fromkeys(f for u in units for f in facts[u])
    reasons = [f"{f[0]} {f[1]} of the model" for f in noted if f[0] in ("input", "output")]
    reasons += [f[1] for f in noted if f[0] == "fixed"]
    return ChannelSpace(
        name=name,
        size=len(units),
        selectable=not reasons,
        reason="; ".join(reasons),
        owners=tuple(dict.fromkeys(path for u in units for path, _ in makers[u])),
        consumers=tuple(f[1] for f in noted if f[0] == "consumed"),
        ties=tuple(f[1] for f in noted if f[0] == "tie"),
        facts=frozenset(f if isinstance(f, str) else f[0] for f in noted),
        units=np.asarray(units),
    )
