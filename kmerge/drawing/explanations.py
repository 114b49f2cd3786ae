"""What the channel spaces of a model are, layer by layer: which layer does what to their units, and what a unit costs.

Of the space that the addition of a small residual network ties, `explain` says:

    stem: 4 units, selectable, 122 parameters each
        stem    makes   10
        down    mixes   54
        up      makes   55
        add     ties
        pool    passes
        logits  mixes    3
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from kmerge.costs import WidthCosts
from kmerge.merging import Merged, holds_merge, read_merge
from kmerge.spaces import ChannelSpace, Record, Trace, trace


@dataclass(frozen=True)
class LayerShare:
    """What one layer does to the units of a space.

    Attributes:
        layer: path of the layer.
        roles: "input" (is the model's input), "makes", "carries" (holds weights for each unit), "normalizes" (over
            all units together), "ties", "mixes"; or "passes" alone.
        parameters: number of weights of the layer that go if one unit goes.

    Example:
        >>> share = kmerge.explain(model)["first"].layers[0]
        >>> share.layer, share.roles, share.parameters
        ('first', ('makes',), 4)
    """

    layer: str
    roles: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, eq=False)
class SpaceExplanation:
    """One channel space, layer by layer. Prints as a table.

    Attributes:
        space: the `ChannelSpace`.
        layers: a `LayerShare` for each layer that its units meet, in the order in which the model runs.
        parameters: number of weights of the model that go if one unit goes; fewer than those of the layers together where
            layers share a weight.
        kept: which units of which parent the gates of a big student keep, shape `(parents, units)`; None where there
            is no gate.

    Example:
        >>> space = kmerge.explain(model)["first"]
        >>> [share.layer for share in space.layers], space.parameters
        (['first', 'second'], 8)
    """

    space: ChannelSpace
    layers: tuple[LayerShare, ...]
    parameters: int
    kept: np.ndarray | None

    @property
    def summary(self) -> str:
        """One line: units, whether they are selectable and else why not, what one costs, what the gates keep."""
        units = f"{self.space.size:,} unit{'s' * (self.space.size != 1)}"
        if not self.space.selectable:
            return f"{units}, not selectable: {self.space.reason}"
        text = f"{units}, selectable, {self.parameters:,} parameters each"
        if self.kept is None:
            return text
        counts = " + ".join(str(n) for n in self.kept.sum(axis=1).tolist())
        return f"{text}; gates keep {counts} of {len(self.kept)} x {self.space.size}"

    def __str__(self) -> str:
        rows = [(s.layer, ", ".join(s.roles), f"{s.parameters:,}" if s.parameters else "") for s in self.layers]
        layer, roles, number = (max((len(row[i]) for row in rows), default=0) for i in range(3))
        lines = [f"    {a:{layer}}  {b:{roles}}  {c:>{number}}".rstrip() for a, b, c in rows]
        return "\n".join([f"{self.space.name}: {self.summary}", *lines])


class Explanation(dict):
    """A `SpaceExplanation` for each channel space by its name. Prints as tables.

    Args:
        title: what is explained.
        spaces: the explanations.

    Example:
        >>> explanation = kmerge.explain(model)
        >>> {name: space.parameters for name, space in explanation.items()}
        {'x': 6, 'first': 8, 'second': 9, 'logits': 5}
    """

    def __init__(self, title: str, spaces: Iterable[SpaceExplanation]):
        super().__init__((explained.space.name, explained) for explained in spaces)
        self.title = title

    def __str__(self) -> str:
        return "\n\n".join([self.title, *map(str, self.values())])


def explain(model: keras.Model) -> Explanation:
    """Tells which layers make, carry, tie and mix the units of each channel space, and what one unit costs.

    Layers that make units of one space are tied together: they can only be cut alike. The number behind a layer says
    how many of its parameters go with one unit.

    Args:
        model: a Functional or Sequential model. A big student is explained as what `compress` makes of it, with what
            its gates keep of each parent.

    Returns:
        A mapping from names of spaces to `SpaceExplanation`; `print` shows tables.

    Raises:
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for a subclassed or unbuilt model.

    Example:
        >>> print(kmerge.explain(model)["first"])
        first: 6 units, selectable, 8 parameters each
            first   makes  4
            second  mixes  4
    """
    return explain_walk(*walk_to_show(model))


def walk_to_show(model: keras.Model) -> tuple[Trace, Merged | None]:
    """The walk of a model; of a big student, that of what `compress` makes of it, and what it says of its merge."""
    merged = read_merge(model) if holds_merge(model) else None
    return merged.walked if merged else trace(model), merged


def explain_walk(walked: Trace, merged: Merged | None) -> Explanation:
    """`explain` for what `walk_to_show` returns."""
    costs, roles = WidthCosts(walked), _roles(walked)
    whole, explained = costs.parameters({}), []
    for space in walked.spaces.values():
        fewer = {space.name: space.size - 1}
        shares = tuple(
            LayerShare(path, found, costs.parameters({}, path) - costs.parameters(fewer, path))
            for path, found in roles[space.name].items()
        )
        kept = _kept(merged, space) if merged else None
        explained.append(SpaceExplanation(space, shares, whole - costs.parameters(fewer), kept))
    spaces, free = len(walked.spaces), len(walked.spaces.selectable)
    title = f"{walked.model.name}: {whole:,} parameters, {spaces} channel spaces, {free} of them selectable"
    if merged:
        title += f"; what compress makes of a big student of {merged.plan.sources} parents"
        trained = any(gate.trained() for gate in merged.gates.values())
        title += "" if trained else ", whose gates are not trained yet: their choice is random"
    return Explanation(title, explained)


def _roles(walked: Trace) -> dict[str, dict[str, tuple[str, ...]]]:
    """For each space and each layer that its units meet, in order, what the layer does to them."""
    found = {name: {} for name in walked.spaces}
    for space in walked.spaces.values():
        found[space.name].update({path: ("input",) for path in space.owners if path not in walked.layers})
    spaces = list(walked.spaces.values())
    for record in walked.records.values():
        for number in sorted(_met(walked, record)):
            space = spaces[number]
            found[space.name][record.path] = tuple(_roles_at(walked, record, space)) or ("passes",)
    return found


def _met(walked: Trace, record: Record) -> set[int]:
    """The numbers of the spaces whose units a call reads, makes, or holds weights for."""
    units = [labels.units for labels in record.inputs + record.outputs]
    units += [axis.units for axis in _axes(walked, record.path)]
    return set(walked.space_of[np.concatenate(units)].tolist()) if units else set()


def _axes(walked: Trace, path: str) -> Iterator:
    """The axes of a layer's weights that units lie along."""
    return (axis for axes in walked.axes[path].values() for axis in axes if axis is not None)


def _roles_at(walked: Trace, record: Record, space: ChannelSpace) -> Iterator[str]:
    path = record.path
    carried = any(a.role == "channel" and np.isin(a.units, space.units).any() for a in _axes(walked, path))
    if path in space.owners:
        yield "makes"
    if record.normalizes:
        yield "normalizes"
    elif carried:
        yield "carries"
    if path in space.ties:
        yield "ties"
    if path in space.consumers:
        yield "mixes"


def _kept(merged: Merged, space: ChannelSpace) -> np.ndarray | None:
    gate = merged.gates.get(space.name)
    if gate is None:
        return None
    kept = np.zeros((merged.plan.sources, space.size), bool)
    for source, unit in (gate.origins[i] for i in gate.kept()):
        kept[source, unit] = True
    return kept
