"""Walking a graph: every call in its order, and what the first walk notes about units."""

from collections.abc import Callable

import keras
import numpy as np

from kmerge.errors import KmergeError, UnsupportedLayerError, told
from kmerge.graph import Call, Graph, find_weight
from kmerge.rules import Labels, Rule, Site, channel_axis
from kmerge.spaces.facts import Fact, Kind


def walk_calls(graph: Graph, inputs: list, visit: Callable) -> list:
    """Runs `visit` over all calls in their order, those of nested models instead of the model.

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
                _refuse_mask(call, path)
                found = walk(Graph(call.operation), here, reached, key, path + "/")
            else:
                try:
                    found = visit(key, path, call, here, None if None in reached else reached[0])
                except UnsupportedLayerError as error:
                    raise error.called_on(call.reads) from None
                except KmergeError:
                    raise
                except Exception as error:
                    raise _failed(call, path, error) from None
            values.update({id(x): value for x, value in zip(call.outputs, found, strict=True)})
        return [values[id(x)] for x in graph.outputs]

    return walk(graph, inputs, range(len(graph.outputs)), (), "")


def _failed(call: Call, path: str, error: Exception) -> UnsupportedLayerError:
    why = f"its rule failed on this call ({told(error)})."
    remedy = "If the rule is yours, mend it; otherwise this is a fault of kmerge: please report it with the model."
    return UnsupportedLayerError(path, type(call.operation).__name__, why, remedy, call.reads)


def _refuse_mask(call: Call, path: str) -> None:
    if call.masks:
        raise UnsupportedLayerError(
            path,
            type(call.operation).__name__,
            "this nested model is handed a mask, which is not followed into it.",
            "Call its layers directly, or build the layer that makes the mask inside of it.",
        )


def input_labels(tensor: keras.KerasTensor, units: Callable[[int], np.ndarray]) -> Labels:
    """Labels of a model's input: its channels lie on the last axis, or on a virtual one."""
    axis, count = channel_axis(tuple(tensor.shape))
    return Labels(units(count), axis, tuple(tensor.shape), from_inputs=True)


def output_name(index: int) -> str:
    """The name of the units that a layer with several outputs makes for one of them."""
    return f"output {index}"


def copy_name(name: str) -> str:
    """The name of the copies of an input's channels, one for each source."""
    return f"{name}_of_each"


class Notes:
    """What the walk collects about units, before ties are resolved.

    Args:
        copied: the places, see `Trace.entries`, at which what enters the model is copied for each source.
        for_merge: whether layers with the same weights for all units, see `Site.apart`, hold these fixed.
        for_gates: whether there will be gates, so that layers for which none can be, see `Site.attend`, run as they are.

    Attributes:
        count: number of units so far.
        entries: the units that enter the model, by the place where they do.
        owned: the units that each layer makes, by path and name.
        ties: pairs of arrays of units, of one shape, that are one at equal positions.
        sums: the units that `Site.contract` makes.
        facts: pairs of a fact and the units that it is noted about.
        shared: the labels that the first use of a layer reads, by path and what it does to them; other uses tie theirs.
    """

    def __init__(self, copied: frozenset = frozenset(), for_merge: bool = False, for_gates: bool = False):
        self.copied = copied
        self.for_merge = for_merge
        self.for_gates = for_gates
        self.count = 0
        self.entries: dict[tuple[str, str], np.ndarray] = {}
        self.owned: dict[tuple[str, str], np.ndarray] = {}
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.sums: set[int] = set()
        self.facts: list[tuple[Fact, np.ndarray]] = []
        self.shared: dict[tuple[str, str], Labels] = {}

    def own(self, path: str, count: int, name: str = "output") -> np.ndarray:
        if len(self.owned.get((path, name), ())) not in (0, count):  # a layer without weights may make several sizes
            return self.own(path, count, f"{name} of {count}")
        if (path, name) not in self.owned:
            self.owned[path, name] = np.arange(self.count, self.count + count)
            self.count += count
        return self.owned[path, name]

    def note(self, fact: Fact, units: np.ndarray) -> np.ndarray:
        self.facts.append((fact, units))
        return units

    def enter(self, place: tuple[str, str], count: int, fact: Fact, copy: str) -> np.ndarray:
        """Units of an input, or of what is computed from inputs alone; where these are copied, the units of `copy`."""
        copied = place in self.copied
        path, name = place
        units = self.own(copy if copied else path, count, name)
        self.entries[place] = np.union1d(self.entries.get(place, units), units)
        return self.note(Fact(Kind.MADE, copy) if copied else fact, units)

    def mark(self) -> tuple:
        """The current state, for `forget`."""
        return self.count, *(len(x) for x in (self.entries, self.owned, self.ties, self.facts, self.shared))

    def forget(self, mark: tuple) -> None:
        """Goes back to an earlier state."""
        self.count = mark[0]
        for kept, table in zip(mark[1:3] + mark[5:], (self.entries, self.owned, self.shared), strict=True):
            for key in list(table)[kept:]:
                del table[key]
        del self.ties[mark[3] :], self.facts[mark[4] :]
        self.sums = {unit for unit in self.sums if unit < self.count}

    def tie(self, a: np.ndarray, b: np.ndarray, path: str) -> None:
        self.ties.append((a, b))
        self.note(Fact(Kind.TIED, path), a)

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

    def __init__(self, call: Call, path: str, final: bool, rule: Rule, inputs: list[Labels], notes: Notes):
        super().__init__(call, path, final)
        self.rule = rule
        self.inputs = inputs
        self.notes = notes
        self.axes: dict[str, tuple] = {}
        self.constants: dict[int, tuple] = {}
        from_inputs = not getattr(self.layer, "weights", ()) and all(x.from_inputs for x in inputs)
        self.from_inputs = rule.reads_sizes or from_inputs
        self.is_apart = self.is_whole = self.normalizes = False
        self._declared: set[int] = set()

    def _note(self, kind: Kind, units: np.ndarray, detail: str = "") -> np.ndarray:
        return self.notes.note(Fact(kind, self.path, detail), units)

    def own(self, count, name="output"):
        return self._note(Kind.MADE, self.notes.own(self.path, count, name))

    def consume(self, x, weight="kernel"):
        self._share(x, f"consumed by {weight}")
        return self._note(Kind.CONSUMED, x.units)

    def contract(self, *inputs, count=1):
        self.tie(*inputs)
        for x in inputs:
            self.consume(x, f"input {self._number(x)}")
            self._note(Kind.SUMMED, x.units)
        units = self._make(count, output_name(0), self.from_inputs)
        self.notes.sums.update(units.tolist())
        # They differ between sources wherever the inputs do, as if weights were held for them.
        self._note(Kind.HELD, units)
        return self._note(Kind.FIXED, units, "makes them of sums over channels")

    def weigh(self, sums, x):
        if not self.notes.sums.issuperset(sums.units.tolist()):
            self.refuse(
                "it mixes places by what is no sum over channels that kmerge follows.", "Use MultiHeadAttention."
            )
        self._note(Kind.HELD, x.units)
        self._note(Kind.WEIGHED, x.units)
        return x

    def attend(self, query, key, value):
        if self.notes.for_gates:
            self.refuse("gates of its keys would act on its values, too.", "Use MultiHeadAttention.")
        self.tie(query, key)
        for x in (query, key):
            self.consume(x, f"input {self._number(x)}")
            self._note(Kind.SUMMED, x.units)
        self._note(Kind.HELD, value.units)
        self._note(Kind.WEIGHED, value.units)
        return query, value

    def _number(self, x):
        return next(i for i, y in enumerate(self.inputs) if y is x)

    def _make(self, count, name, from_inputs):
        """Units that the layer makes; those of an input where it computes them from inputs alone."""
        if not from_inputs:
            return self.own(count, name)
        fact = Fact(Kind.INPUT, self.path, "computes them from the inputs alone")
        return self.notes.enter((self.path, name), count, fact, self.path)

    def consume_inside(self, units):
        return self._note(Kind.CONSUMED, units)

    def fix(self, x, why):
        self._note(Kind.FIXED, x.units, why)

    def hold(self, x):
        self._share(x, "held")
        # Constants that meet an input are the same in all sources, so that it can stay common to these.
        if getattr(self.layer, "weights", ()) or not x.from_inputs:
            self._note(Kind.HELD, x.units)
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
        self._note(Kind.FIXED, x.units, "repeats it by broadcasting")
        # The product differs between sources wherever x does, as if a weight were held for each unit.
        self._note(Kind.HELD, over.units)
        return x

    def pick(self, x, positions, output=0):
        if len(np.unique(positions)) == len(positions):
            kind = Kind.GATHERED if self.rule.gathers else Kind.SLICED
            return self._note(kind, x.units[positions], output_name(output))
        # A gather that repeats units: what it reads must stay, what it makes is free. The latter differs between sources
        # wherever the former does, as if a weight were held for each unit.
        self._note(Kind.FIXED, x.units, "repeats it by a gather")
        return self._note(Kind.HELD, self.own(len(positions), output_name(output)))

    def tile(self, x, grid, movable):
        if _runs_into_itself(grid):
            self.refuse("it cuts channels into rows that hold the same ones at other places.", "Cut between whole ones.")
        self.notes.tie(grid, np.broadcast_to(grid[:1], grid.shape), self.path)
        return grid

    def normalize(self, x):
        x, self.normalizes = self.hold(x), True
        self._note(Kind.NORMALIZED, x.units, self._use())
        self.curve(x)
        return x

    def apart(self, x):
        self.is_apart = True
        if self.notes.for_merge:
            self.is_whole = True
            because = (
                f"({type(self.layer).__name__}) has the same weights for all of them, and a merge keeps those of one"
            )
            self._note(Kind.ISOLATED, x.units, because)
        self._note(Kind.HELD, x.units)
        self._note(Kind.ALIKE, x.units, self._use())
        return x

    def _use(self) -> str:
        """A detail that makes facts of several uses of a layer several facts."""
        return f"note {len(self.notes.facts)}"

    def isolate(self, *inputs, why=""):
        self.is_apart = self.is_whole = True
        because = f"({type(self.layer).__name__}) runs as it is, on all its channels" + (f": {why}" if why else "")
        for x in inputs:
            self._note(Kind.ISOLATED, x.units, because)
            self._note(Kind.CONSUMED, x.units)
        outputs = []
        for i, tensor in enumerate(self.call.outputs):
            axis, count = channel_axis(tuple(tensor.shape))
            units = self._make(count, output_name(i), self.from_inputs)
            self._note(Kind.CURVED, units)
            self._note(Kind.ISOLATED, units, because)
            outputs.append(self.output(units, axis, i))
        return outputs

    def curve(self, *inputs):
        for x in inputs:
            self._note(Kind.CURVED, x.units)

    def old_positions(self, index):
        return np.arange(len(self.inputs[index].units))

    def is_new(self, index):
        return np.zeros(len(self.inputs[index].units), bool)

    def weight(self, name, *axes):
        variable = find_weight(self.layer, name)
        if variable is None:
            return
        if not any(variable is w for w in self.layer.weights):
            self.forbid(f"its {name!r} is computed from other weights.", "Work on a layer that holds it itself.")
        self._declared.add(id(variable))
        if any(axes):
            sizes, shape = [axis and len(axis.units) for axis in axes], tuple(variable.shape)
            if len(sizes) != len(shape) or any(n not in (None, m) for n, m in zip(sizes, shape, strict=True)):
                why = f"its rule says that its {name!r} has axes of {sizes} units, but its shape is {shape}."
                self.refuse(why, "Declare each axis of the weight in the rule, None for one without units.")
            self.axes[name] = axes

    def constant(self, index, *axes):
        self.constants[index] = axes

    def check_weights(self, before: dict[str, tuple] | None) -> None:
        """Refuses a layer that has weights of which its rule says nothing, or says something else than of an earlier use."""
        if self.rule.is_opaque:
            return

        def roles(named):
            return {name: [a and a.role for a in axes] for name, axes in named.items()}

        if before is not None and roles(self.axes) != roles(before):
            self.refuse("its uses read channels on different axes.", "Give each of them a layer of its own.")
        unknown = [w.path for w in getattr(self.layer, "weights", ()) if id(w) not in self._declared]
        if unknown:
            self.refuse(f"its rule says nothing of its weights {unknown}.", "Declare them in the rule: site.weight.")


def _runs_into_itself(grid: np.ndarray) -> bool:
    """Whether units of one row become one if the rows of a grid are the same: [0 1 2] and [3 0 1] make all of them one."""
    _, places = np.unique(grid, return_inverse=True)
    places = places.reshape(grid.shape)
    classes = np.arange(places.max() + 1)
    while True:
        before = classes.copy()
        np.minimum.at(classes, places, np.broadcast_to(classes[places].min(axis=0), places.shape))
        if np.array_equal(classes, before):
            return len(np.unique(classes[places[0]])) < len(np.unique(places[0]))


def without_masks(site: Site, inputs: list[Labels]) -> list[Labels]:
    """The inputs that a rule follows. Masks are handed on as they are: their positions must stay."""
    for i in site.call.masks:
        site.fix(inputs[i], "reads them as a mask")
    return [x for i, x in enumerate(inputs) if i not in site.call.masks]
