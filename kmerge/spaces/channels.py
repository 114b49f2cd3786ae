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
from kmerge.rules import Axis, Labels, Rule, rule_for, stretches
from kmerge.spaces.walks import Notes, TraceSite, copy_name, input_labels, walk_calls, without_masks


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
    """The channel spaces of a model by name, or by a layer that makes just one. Prints as a table.

    Args:
        spaces: the spaces, in the order in which the model makes them.
    """

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


def check_selectable(walked: Trace) -> None:
    """Raises `InvalidArgumentError`, with a table of the spaces and why not, if no space of a model is selectable."""
    if not walked.spaces.selectable:
        raise InvalidArgumentError(f"Model {walked.model.name!r} has no selectable channel space:\n{walked.spaces}")


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
    notes = Notes()
    result = Trace(model)
    for i, x in enumerate(graph.inputs):
        name = input_layer(x).name
        facts = ("made",) if i in copied_inputs else (("input", i),)
        name = copy_name(name) if i in copied_inputs else name
        result.inputs.append(input_labels(x, lambda n, name=name, facts=facts: notes.own(name, n, *facts)))

    def visit(key, path, call, inputs, end):
        rule = rule_for(call.operation, path)
        site = TraceSite(call, path, end is not None, notes)
        outputs = rule.walk(site, *without_masks(site, inputs))
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


def _resolve(result: Trace, notes: Notes) -> None:
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
    makers = Incidence(list(result.owned.items()), len(roots))
    facts = Incidence([(fact, unit[units]) for fact, units in notes.facts], len(roots))
    labels = _grouped(result.owned, facts, len(roots))
    _, firsts, labels = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(firsts))[labels]  # groups in the order of their first units
    groups = np.split(np.argsort(order, kind="stable"), np.cumsum(np.bincount(order))[:-1])
    _name_spaces(result, groups, makers, facts)


class Incidence:
    """Which units have what noted about them, in arrays: a large model has a hundred thousand units.

    Args:
        noted: pairs of a thing and the units that it is noted about; a thing may be noted several times.
        count: number of units.
    """

    def __init__(self, noted: list[tuple], count: int):
        numbers: dict = {}
        things = [numbers.setdefault(thing, len(numbers)) for thing, _ in noted]
        axes = [np.unique(units) for _, units in noted]
        units = np.concatenate([np.empty(0, int), *axes])
        order = np.argsort(units, kind="stable")
        self._things = list(numbers)
        self._units, self._numbers = units[order], np.repeat(np.array(things, int), list(map(len, axes)))[order]
        self._starts = np.searchsorted(self._units, np.arange(count + 1))

    def about(self, units: np.ndarray) -> list:
        """What is noted about any of the units, by the order of the units and of the notes."""
        numbers = np.concatenate([self._numbers[self._starts[u] : self._starts[u + 1]] for u in units.tolist()])
        found, first = np.unique(numbers, return_index=True)
        return [self._things[i] for i in found[np.argsort(first)]]

    def items(self) -> Iterator[tuple]:
        """Each thing and the units that it is noted about; one noted twice stands twice."""
        order, counts = np.argsort(self._numbers, kind="stable"), np.bincount(self._numbers)
        return zip(self._things, np.split(self._units[order], np.cumsum(counts)[:-1]), strict=True)


def _grouped(owned: dict, facts: Incidence, count: int) -> np.ndarray:
    """A label for each unit, equal for those that the same layers make, equally often, under the same marks.

    Then groups are split until, on every axis that several share, their units stand in the same stretches. Otherwise
    units that other units stand between would count as neighbours, and could not be reordered freely.
    """
    labels = np.zeros(count, int)
    for axis in owned.values():
        _split(labels, *np.unique(axis, return_counts=True))
    noted = [(fact, np.unique(units)) for fact, units in facts.items()]
    # A gather of what is then normalized keeps sources apart. It may lose all it reads, so it sets no units apart.
    normalized = {units.tobytes() for fact, units in noted if fact[0] == "normalized"}
    for fact, units in noted:
        whole = fact[0] == "gather" and units.tobytes() in normalized
        if fact[0] in ("input", "output", "slice", "gather", "fixed") and not whole:
            _split(labels, units)
    while True:
        before = labels.copy()
        for axis in owned.values():
            if len(np.unique(before[axis])) > 1:
                for _, _, members in stretches(axis, before):
                    _split(labels, np.array(members))
        if len(np.unique(labels)) == len(np.unique(before)):
            return labels


def _split(labels: np.ndarray, units: np.ndarray, marks: np.ndarray | int = 0) -> None:
    """Gives units labels of their own: the same to those that had the same and bear the same mark."""
    keys = labels[units] * (1 + np.max(marks, initial=0)) + marks
    labels[units] = 1 + labels.max() + np.unique(keys, return_inverse=True)[1]


def _name_spaces(result: Trace, groups: list[np.ndarray], makers: Incidence, facts: Incidence) -> None:
    result.space_of = np.empty(sum(map(len, groups)), int)
    result.index_of = np.empty_like(result.space_of)
    named: dict[str, list[np.ndarray]] = {}
    for units in groups:
        named.setdefault(makers.about(units[:1])[0][0], []).append(units)
    spaces = []
    for owner, several in named.items():
        for i, units in enumerate(several):
            name = owner if len(several) == 1 else f"{owner}:{i}"
            result.space_of[units], result.index_of[units] = len(spaces), np.arange(len(units))
            spaces.append(_space(name, units, makers.about(units), facts.about(units)))
    result.spaces = ChannelSpaces(spaces)


def _space(name: str, units: np.ndarray, makers: list, noted: list) -> ChannelSpace:
    reasons = [f"{f[0]} {f[1]} of the model" for f in noted if f[0] in ("input", "output")]
    reasons += [f[1] for f in noted if f[0] == "fixed"]
    return ChannelSpace(
        name=name,
        size=len(units),
        selectable=not reasons,
        reason="; ".join(reasons),
        owners=tuple(dict.fromkeys(path for path, _ in makers)),
        consumers=tuple(f[1] for f in noted if f[0] == "consumed"),
        ties=tuple(f[1] for f in noted if f[0] == "tie"),
        facts=frozenset(f if isinstance(f, str) else f[0] for f in noted),
        units=units,
    )
