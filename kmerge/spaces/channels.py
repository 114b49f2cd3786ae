"""Channel spaces: which units of a model must be kept, dropped, added or reordered together.

One walk over the graph gives every tensor's feature axis its units (`labels`). Units that some layer ties, as an
addition ties the channels of its inputs, become one. A *channel space* is the set of units that the same layers make:
in a residual network of four channels,

    x = Conv2D(4, name="stem")(image)          space "stem":  4 units, made by stem and up, tied by add
    h = Conv2D(4, name="down")(x)              space "down":  4 units
    y = Add(name="add")([x, Conv2D(4, name="up")(h)])
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from kmerge.checks import sentence
from kmerge.errors import InvalidArgumentError, KmergeError, UnsupportedLayerError
from kmerge.graph import Call, Graph, input_layer
from kmerge.opening import opened
from kmerge.rules import REGISTER, Axis, Labels, OpaqueRule, Rule, channel_axis, makes_no_negative, rule_for
from kmerge.spaces.channel_space import ChannelSpace
from kmerge.spaces.facts import Fact, Kind
from kmerge.spaces.grouping import Incidence, groups_of_units
from kmerge.spaces.strictness import is_strict
from kmerge.spaces.walks import Notes, TraceSite, copy_name, input_labels, walk_calls, without_masks


@dataclass
class Record:
    """What a walk found at one call.

    Attributes:
        call, path, rule: the call, the path of its layer, and the rule that described it.
        inputs, outputs: labels of its tensors.
        end: the number of the model's output that it makes for nothing else to read, or None.
        constants: the axes of the arrays among its arguments that are cut like weights, by their numbers.
        is_apart: whether a layer of its own runs for each source in its place, with all that this does.
        is_whole: whether it can only be kept whole, with all of the units that it meets.
        normalizes: whether it normalizes over units, so that a cut changes what is left of them.
    """

    call: Call
    path: str
    rule: Rule
    inputs: list[Labels]
    outputs: list[Labels]
    end: int | None
    constants: dict[int, tuple] = field(default_factory=dict)
    is_apart: bool = False
    is_whole: bool = False
    normalizes: bool = False


@dataclass
class Trace:
    """The result of walking a model: labels of all tensors, roles of all weights, and the spaces.

    Attributes:
        model: the model walked: the argument of `trace`, or where a layer of it was opened one on the same weights.
        records: a `Record` for each call, by the numbers of the calls that lead to it.
        axes: for each layer path and weight name, a tuple with an `Axis` or None for each axis of the weight.
        layers: layer or operation by path.
        owned: the units that each layer makes, by path and name.
        entries: the units that enter the model, by place: the name of an input and "output"; or the path of a layer
            without weights that reads inputs alone, and the name of its output.
        unfollowed: why layers run as they are that no rule follows, by path.
        inputs, outputs: labels of the model's inputs and outputs.
        spaces: the channel spaces.
        space_of: for each unit, the number of its space. `index_of`: its index in the space.
        for_gates: as for `trace`.
    """

    model: keras.Model
    records: dict[tuple, Record] = field(default_factory=dict)
    axes: dict[str, dict[str, tuple]] = field(default_factory=dict)
    layers: dict[str, object] = field(default_factory=dict)
    owned: dict[tuple, np.ndarray] = field(default_factory=dict)
    entries: dict[tuple, np.ndarray] = field(default_factory=dict)
    unfollowed: dict[str, UnsupportedLayerError] = field(default_factory=dict)
    inputs: list[Labels] = field(default_factory=list)
    outputs: list[Labels] = field(default_factory=list)
    spaces: "ChannelSpaces" = None
    space_of: np.ndarray = None
    index_of: np.ndarray = None
    for_gates: bool = False


class ChannelSpaces(Mapping):
    """The channel spaces of a model by name, or by a layer that makes just one. Prints as a table.

    Args:
        spaces: the spaces, in the order in which the model makes them.

    Example:
        >>> spaces = kmerge.channel_spaces(model)
        >>> [space.name for space in spaces.selectable]
        ['first', 'second']
    """

    def __init__(self, spaces: list[ChannelSpace]):
        self._spaces = {space.name: space for space in spaces}

    def __getitem__(self, name: str) -> ChannelSpace:
        if name in self:
            return self._spaces[name]
        owned = [space for space in self._spaces.values() if isinstance(name, str) and name in space.owners]
        if len(owned) == 1:
            return owned[0]
        known = ", ".join(self._spaces)
        raise InvalidArgumentError(sentence(f"the name of a channel space, one of: {known}", name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._spaces

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

    Example:
        >>> print(kmerge.channel_spaces(model))
        space   units  made by  mixed by  tied by  selectable
        x       3      x        first     -        no: input 0 of the model
        first   6      first    second    -        yes
        second  4      second   logits    -        yes
        logits  2      logits   -         -        no: output 0 of the model
    """
    return trace(model).spaces


def check_selectable(walked: Trace) -> None:
    """Raises `InvalidArgumentError`, with a table of the spaces and why not, if no space of a model is selectable."""
    if not walked.spaces.selectable:
        do = f"It has none:\n{walked.spaces}"
        raise InvalidArgumentError(sentence("a model with a selectable channel space", walked.model.name, do))


def trace(
    model: keras.Model,
    copied: frozenset = frozenset(),
    free_outputs: frozenset = frozenset(),
    *,
    for_merge: bool = False,
    for_gates: bool = False,
    as_built: bool = False,
) -> Trace:
    """Walks a model and finds its channel spaces.

    Args:
        model: the model.
        copied: the places, see `Trace.entries`, at which what enters the model is copied, into units that are free.
        free_outputs: numbers of the outputs whose units are not the model's own: something stands behind them.
        for_merge: whether several models are to become one of the same size: then a layer with the same weights for all
            units, see `Site.apart`, holds these fixed.
        for_gates: whether there will be gates: then a layer for which none can be, see `Site.attend`, runs as it is.
        as_built: whether its layers stay closed, as in a model built of one whose layers are open as far as that goes.

    Returns:
        A `Trace`.

    Raises:
        UnsupportedLayerError: for a layer that cannot even run as it is, and under `strict` for each that is not followed.
    """
    unfollowed: dict[str, UnsupportedLayerError] = {}
    model = model if as_built else opened(model).model
    while True:
        try:
            return _walk(model, Notes(copied, for_merge, for_gates), free_outputs, unfollowed)
        except _FollowedBefore as again:
            unfollowed[again.error.layer] = again.error


class _FollowedBefore(KmergeError):
    """An earlier use of a layer was followed, but this one cannot be: all must run as they are."""

    def __init__(self, error: UnsupportedLayerError):
        self.error = error


def _walk(model: keras.Model, notes: Notes, free_outputs: frozenset, unfollowed: dict) -> Trace:
    graph = Graph(model)
    result = Trace(model, unfollowed=unfollowed, for_gates=notes.for_gates)
    for i, x in enumerate(graph.inputs):
        name, fact = input_layer(x).name, Fact(Kind.INPUT, detail=f"input {i}")
        place = (name, "output")
        result.inputs.append(input_labels(x, lambda n, p=place, f=fact: notes.enter(p, n, f, copy_name(p[0]))))

    def visit(key, path, call, inputs, end):
        rule, site, outputs = _follow(result, notes, path, call, inputs, end)
        flags = (site.is_apart, site.is_whole, site.normalizes)
        result.records[key] = Record(call, path, rule, inputs, outputs, end, site.constants, *flags)
        result.layers[path] = call.operation
        result.axes.setdefault(path, site.axes)
        return outputs

    result.outputs = walk_calls(graph, result.inputs, visit)
    for i, x in enumerate(result.outputs):
        if i not in free_outputs:
            notes.note(Fact(Kind.OUTPUT, detail=f"output {i}"), x.units)
    _resolve(result, notes)
    return result


def _follow(result: Trace, notes: Notes, path: str, call: Call, inputs: list[Labels], end: int | None) -> tuple:
    """The rule of a call, its site, and the labels of its outputs; what cannot be followed runs as it is."""

    def walk(rule):
        site = TraceSite(call, path, end is not None, rule, inputs, notes)
        followed = without_masks(site, inputs)
        if any(x.is_virtual for x in followed) and not rule.takes_any_tensor:
            site.refuse("it reads a tensor without a channel axis of known size.", REGISTER)
        outputs = rule.walk(site, *followed)
        site.check_weights(result.axes.get(path))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        positive = makes_no_negative(call, [x.no_negative for x in inputs])
        return rule, site, [replace(x, from_inputs=site.from_inputs, no_negative=positive) for x in outputs]

    mark = notes.mark()
    if path not in result.unfollowed:
        try:
            found = walk(rule_for(call.operation, path))
            if not _moves_input_channels(*found[1:]):
                return found
            notes.forget(mark)
            return walk(OpaqueRule("it moves channels of an input."))
        except UnsupportedLayerError as error:
            if not error.may_run_as_it_is or is_strict():
                raise
            if path in result.layers:
                raise _FollowedBefore(error) from None
            result.unfollowed[path] = error
            notes.forget(mark)
    error = result.unfollowed[path]
    return walk(OpaqueRule(f"{error.why} {error.remedy}"))


def _moves_input_channels(site: TraceSite, outputs: list[Labels]) -> bool:
    """Whether a call brings channels of an input to another axis than the last, where layers look for them.

    Nobody has said on which axis of an input its channels lie. They are taken to lie on the last one; but it may be that
    they come there just now. As none of them can be selected, what is computed from inputs alone is like an input again.
    """
    return site.from_inputs and any(x.axis != channel_axis(x.shape)[0] for x in outputs)


def _resolve(result: Trace, notes: Notes) -> None:
    """Replaces units by their classes, numbered from 0, and groups them into spaces."""
    roots, unit = np.unique(notes.classes(), return_inverse=True)

    def relabel(labels: list[Labels]) -> list[Labels]:
        return [x.with_units(unit[x.units]) for x in labels]

    result.entries = {place: unit[units] for place, units in notes.entries.items()}
    result.inputs, result.outputs = relabel(result.inputs), relabel(result.outputs)
    for record in result.records.values():
        record.inputs, record.outputs = relabel(record.inputs), relabel(record.outputs)
    for named in [*result.axes.values(), *(record.constants for record in result.records.values())]:
        for name, axes in named.items():
            named[name] = tuple(a and Axis(a.role, unit[a.units]) for a in axes)
    result.owned = {owner: unit[units] for owner, units in notes.owned.items()}
    makers = Incidence(list(result.owned.items()), len(roots))
    facts = Incidence([(fact, unit[units]) for fact, units in notes.facts], len(roots))
    _name_spaces(result, groups_of_units(result.owned, facts, len(roots)), makers, facts)


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
            owners = dict.fromkeys(path for path, _ in makers.about(units))
            spaces.append(ChannelSpace(name, tuple(owners), tuple(facts.about(units)), units))
    result.spaces = ChannelSpaces(spaces)
