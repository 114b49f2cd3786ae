"""Contracts that every rewritten model must pass, whatever its architecture.

Errors are max|difference| / max|reference|. Logits are recomputed here from the outputs (the logarithm of a softmax, up
to its constant; the log odds of a sigmoid), so that no check relies on the code it checks.
"""

import functools
import math
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

import kmerge
from tests.loading import outputs_where_kmerge_is_unknown
from tests.models import Entry, example_inputs


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    value, reference = np.asarray(value, "float64"), np.asarray(reference, "float64")
    assert value.shape == reference.shape, f"shape {value.shape}, expected {reference.shape}"
    assert np.isfinite(value).all() and np.isfinite(reference).all()
    scale = np.max(np.abs(reference), initial=0.0)
    return float(np.max(np.abs(value - reference), initial=0.0) / (scale or 1.0))


# Networks that are made once in a session, to be read and not changed: what they answered, which many tests ask.
_KNOWN: weakref.WeakKeyDictionary[keras.Model, dict] = weakref.WeakKeyDictionary()


def once(make: Callable) -> Callable:
    """Makes each network once in a session. Whoever asks for it reads it, and does not change it."""

    @functools.cache
    @functools.wraps(make)
    def made(*arguments, **options):
        model = make(*arguments, **options)
        _KNOWN.setdefault(model, {})
        return model

    return made


def _known(model: keras.Model, question: tuple, find: Callable):
    """What a function finds; for a network that does not change, what it found before."""
    if model not in _KNOWN:
        return find()
    answers = _KNOWN[model]
    if question not in answers:
        answers[question] = find()
    return answers[question]


def outputs(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs in inference, in the order of `keras.tree`."""

    def find():
        values = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(values)]

    if model not in _KNOWN:
        return find()
    # Some tests change a weight for a moment.
    asked = *map(np.asarray, inputs), *model.get_weights()
    return list(_known(model, ("outputs", *((x.dtype.str, x.shape, x.tobytes()) for x in asked)), find))


def logits(model: keras.Model, inputs: Sequence[np.ndarray], final: Sequence[str]) -> list[np.ndarray]:
    """The outputs before their last activation; those of a softmax have mean zero over the classes."""
    values = [value.astype("float64") for value in outputs(model, inputs)]
    assert len(values) == len(final)
    return [_before(activation, value) for activation, value in zip(final, values, strict=True)]


def _before(activation: str, value: np.ndarray) -> np.ndarray:
    if activation == "softmax":
        value = np.log(value)
        return value - value.mean(axis=-1, keepdims=True)
    if activation == "sigmoid":
        return np.log(value) - np.log1p(-value)
    return value


def assert_close(values, references, tolerance: float) -> None:
    assert len(values) == len(references)
    errors = [relative_error(value, reference) for value, reference in zip(values, references, strict=True)]
    assert max(errors) <= tolerance, f"errors of the outputs {errors}, expected at most {tolerance}"


def named_weights(model: keras.Model, prefix: str = "") -> dict[tuple[str, int], np.ndarray]:
    """Every weight by its layer's name (with the names of the nested models) and its index in the layer."""
    found = {}
    for layer in model.layers:
        if getattr(layer, "layers", None):
            found |= named_weights(layer, f"{prefix}{layer.name}/")
        else:
            arrays = [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
            found |= {(prefix + layer.name, index): array for index, array in enumerate(arrays)}
    return found


def assert_same_weights(model: keras.Model, reference: keras.Model) -> None:
    """Same layers, same shapes, the same bits."""
    weights, expected = named_weights(model), named_weights(reference)
    assert list(weights) == list(expected)
    different = [key for key in weights if not np.array_equal(weights[key], expected[key])]
    assert not different, f"weights that differ: {different}"


def selectable(model: keras.Model) -> dict[str, int]:
    """Units of every selectable space by its name."""
    spaces = _known(model, ("spaces",), lambda: kmerge.channel_spaces(model))
    return {name: space.size for name, space in spaces.items() if space.selectable}


def assert_spaces(model: keras.Model, sizes: Mapping[str, int]) -> None:
    """A second walk finds the spaces that the plan asked for."""
    found = selectable(model)
    assert {name: found.get(name) for name in sizes} == dict(sizes)


def random_orders(model: keras.Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 22])
    return {name: rng.permutation(size) for name, size in selectable(model).items()}


def _as_it_is(model: keras.Model) -> tuple[str, list[np.ndarray]]:
    return model.to_json(), model.get_weights()


def check_arguments_unchanged(models: Sequence[keras.Model], verb, *arguments) -> keras.Model:
    """`verb(*models, *arguments)` leaves weights and structure as they were, and shares no variable with them."""
    before = [_known(model, ("as it is",), functools.partial(_as_it_is, model)) for model in models]
    result = verb(*models, *arguments)
    for model, (structure, weights) in zip(models, before, strict=True):
        now, values = _as_it_is(model)
        assert now == structure
        assert all(np.array_equal(new, old) for new, old in zip(values, weights, strict=True))
        assert not {id(v) for v in model.variables} & {id(v) for v in result.variables}
    return result


# Networks of an entry and what the verbs make of them, each made and checked once in a session: to be read, not changed.


@once
def parent(entry: Entry, seed: int) -> keras.Model:
    """A network of the entry."""
    return entry(seed)


def family(entry: Entry, k: int = 2) -> list[keras.Model]:
    """`k` networks of the entry."""
    return [parent(entry, seed) for seed in range(k)]


@once
def concatenated(entry: Entry, k: int = 2) -> keras.Model:
    """The family side by side, which the family does not notice."""
    return check_arguments_unchanged(family(entry, k), kmerge.concatenate)


@once
def permuted(entry: Entry) -> keras.Model:
    """The first network by `check_permute`."""
    return check_permute(parent(entry, 0))


@once
def halved(entry: Entry) -> keras.Model:
    """The first network by `check_select_commutes`."""
    return check_select_commutes(parent(entry, 0), permuted(entry), 0.5)


@once
def grown(entry: Entry) -> keras.Model:
    """The first network by `check_grow`."""
    return check_grow(parent(entry, 0))


def check_concatenate(entry: Entry, parents: Sequence[keras.Model], big: keras.Model) -> None:
    """`big` gives the mean of the parents' logits, and its spaces are the parents' side by side."""
    inputs = example_inputs(parents[0])
    each = [logits(parent, inputs, entry.final) for parent in parents]
    means = [np.mean(values, axis=0) for values in zip(*each, strict=True)]
    assert_close(logits(big, inputs, entry.final), means, 1e-5)
    assert_spaces(big, {name: len(parents) * size for name, size in selectable(parents[0]).items()})
    assert_same_interface(big, parents[0])


def assert_same_interface(model: keras.Model, parent: keras.Model) -> None:
    """Inputs and outputs have the parent's shapes, types and structure; the class is Keras' own."""
    assert isinstance(model, keras.Model) and type(model).__module__.startswith("keras.")
    assert [(tensor.shape, tensor.dtype) for tensor in model.inputs] == [(t.shape, t.dtype) for t in parent.inputs]
    assert [(tensor.shape, tensor.dtype) for tensor in model.outputs] == [(t.shape, t.dtype) for t in parent.outputs]
    assert model.output_shape == parent.output_shape  # nested as the outputs are


def assert_mean(model: keras.Model, parents: Sequence[keras.Model], inputs, tolerance: float = 1e-5) -> None:
    """The outputs of a model are the means of those of its parents."""
    each = [outputs(parent, inputs) for parent in parents]
    assert_close(outputs(model, inputs), [np.mean(values, axis=0) for values in zip(*each, strict=True)], tolerance)


def every_second(gate: kmerge.HardConcreteGate) -> np.ndarray:
    """The second, fourth, ... unit of a gate: half of them, of each parent about as many."""
    return np.arange(gate.units) % 2 == 1


def of_parent(number: int, count: int = 2) -> Callable[[kmerge.HardConcreteGate], np.ndarray]:
    """The units of one parent, of so many."""
    return lambda gate: np.arange(gate.units) * count // gate.units == number


def decide(big: keras.Model, is_open: Callable[[kmerge.HardConcreteGate], np.ndarray] = every_second) -> None:
    """Opens the gates of these units fully, and closes all others."""
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(is_open(gate), 20.0, -20.0).astype("float32"))


def check_compress(big: keras.Model, inputs) -> keras.Model:
    """Where gates are decided, `compress` changes no output; returns what it makes."""
    student = kmerge.compress(big)
    assert_close(outputs(student, inputs), outputs(big, inputs), 1e-5)
    return student


def students_of_one_parent(big: keras.Model, parents: Sequence[keras.Model], folder: Path) -> Iterator[tuple]:
    """Saves and loads a big student; gives each parent, and what `compress` makes once its gates alone are open."""
    big.save(folder / "big.keras")
    big, inputs = keras.models.load_model(folder / "big.keras"), example_inputs(parents[0])
    for number, network in enumerate(parents):
        decide(big, of_parent(number, len(parents)))
        yield network, check_compress(big, inputs)


def check_merge(networks: Sequence[keras.Model], inputs, **options) -> keras.Model:
    """Open gates give the mean of the parents, decided ones what `compress` makes."""
    big = kmerge.merge(*networks, gates="open", **options)
    assert_mean(big, networks, inputs)
    decide(big)
    return check_compress(big, inputs)


def check_permute(model: keras.Model, seed: int = 0) -> keras.Model:
    """Any order of any space leaves the outputs, and the way back restores every bit."""
    inputs, orders = example_inputs(model), random_orders(model, seed)
    moved = check_arguments_unchanged([model], kmerge.permute, orders)
    assert_close(outputs(moved, inputs), outputs(model, inputs), 1e-5)
    assert_spaces(moved, selectable(model))
    back = kmerge.permute(moved, {name: np.argsort(order) for name, order in orders.items()})
    assert_same_weights(back, model)
    return moved


def check_select_everything(model: keras.Model) -> None:
    """Keeping all units, said in each of the four ways, is the identity."""
    sizes = selectable(model)
    ways = [range, lambda size: np.ones(size, bool), int, lambda size: 1.0]
    keep = {name: ways[index % 4](size) for index, (name, size) in enumerate(sizes.items())}
    assert_same_weights(check_arguments_unchanged([model], kmerge.select, keep), model)


def check_select_commutes(model: keras.Model, moved: keras.Model, share: float, seed: int = 0) -> keras.Model:
    """Keeping the first units of `moved`, the model permuted by `random_orders` of this seed, is keeping those units of the
    model; one unit at the least. Returns the latter."""
    orders, inputs = random_orders(model, seed), example_inputs(model)
    counts = {name: max(1, int(share * len(order))) for name, order in orders.items()}
    first = kmerge.select(moved, counts)
    direct = kmerge.select(model, {name: order[: counts[name]] for name, order in orders.items()})
    # A convolution with one group left is an ordinary one, whose spaces are others.
    assert_spaces(direct, {name: count for name, count in counts.items() if count > 1})
    assert_close(outputs(first, inputs), outputs(direct, inputs), 1e-5)
    assert_same_interface(direct, model)
    return direct


def check_select_parent(entry: Entry, parents: Sequence[keras.Model], big: keras.Model, which: int) -> None:
    """One parent's units of the concatenated model are that parent, but for its head."""
    sizes, k = selectable(big), len(parents)
    part = kmerge.select(big, {name: range(which * n // k, (which + 1) * n // k) for name, n in sizes.items()})
    assert_spaces(part, selectable(parents[0]))
    assert_same_interface(part, parents[0])
    # A layer that ran once for each parent has a name for each.
    weights = {(re.sub(r"_of_\d+$", "", name), index): array for (name, index), array in named_weights(part).items()}
    everything = _paired_weights(parents)
    heads = _owners(parents[0], selectable=False)
    hidden = _owners(parents[0], selectable=True) if entry.leaves_others else {layer for layer, _ in everything} - heads
    assert entry.leaves_others or set(weights) == set(everything)
    for (layer, index), candidates in everything.items():
        if layer in hidden:
            assert np.array_equal(weights[layer, index], candidates[which]), f"{layer!r} is not the parent's"
        elif not entry.leaves_others:
            _check_head(weights[layer, index], candidates, which)
    if not entry.leaves_others:
        _put_back(part, {key: values[which] for key, values in everything.items() if key[0] in heads})
        inputs = example_inputs(parents[0])
        assert_close(outputs(part, inputs), outputs(parents[which], inputs), 1e-6)


def _check_head(weight: np.ndarray, candidates: Sequence[np.ndarray], which: int) -> None:
    """A kernel's share of the mean; its own, if it adds to copies of an input. What it reads right from an input, and
    the bias, is common to all parents."""
    ways = [np.mean(candidates, axis=0), candidates[which]] + [candidates[which] / len(candidates)] * (weight.ndim > 1)
    distance = np.min([np.abs(weight - expected) for expected in ways], axis=0)
    assert np.max(distance) <= 1e-6 * np.max(np.abs(candidates))


def _paired_weights(parents: Sequence[keras.Model]) -> dict[tuple[str, int], list[np.ndarray]]:
    """Each weight of the first parent with those in its place in the others, whose layers have other names."""
    families = [named_weights(parent).values() for parent in parents]
    return dict(zip(named_weights(parents[0]), map(list, zip(*families, strict=True)), strict=True))


def _owners(model: keras.Model, selectable: bool) -> set[str]:
    spaces = kmerge.channel_spaces(model).values()
    return {owner for space in spaces if space.selectable == selectable for owner in space.owners}


def _put_back(model: keras.Model, weights: Mapping[tuple[str, int], np.ndarray]) -> None:
    for (path, index), array in weights.items():
        layer = model
        for name in path.split("/"):
            layer = layer.get_layer(name)
        layer.weights[index].assign(array)


def check_grow(model: keras.Model, extra: int = 2) -> keras.Model:
    """New units whose outgoing weights are zero change nothing, and taking the old ones gives every bit back."""
    sizes, inputs = selectable(model), example_inputs(model)
    grown = check_arguments_unchanged([model], kmerge.grow, dict.fromkeys(sizes, extra))
    assert_close(outputs(grown, inputs), outputs(model, inputs), 1e-6)
    assert_spaces(grown, {name: size + extra for name, size in sizes.items()})
    back = kmerge.select(grown, {name: range(size) for name, size in sizes.items()})
    assert_same_weights(back, model)
    return grown


def zero_outgoing(model: keras.Model, space, unit: int) -> None:
    """Set to zero, in `model`, what the consumers of `space` (plain Dense and Conv layers) read from `unit`."""
    for name in space.consumers:
        kernel = model.get_layer(name).kernel
        values = keras.ops.convert_to_numpy(kernel).copy()
        axis = values.ndim - 2
        assert values.shape[axis] % space.size == 0, f"{name!r} reads more than {space.name!r}"
        # Flatten puts the channels last, so position p holds channel p % size.
        rows = np.arange(values.shape[axis]) % space.size == unit
        values[(slice(None),) * axis + (rows,)] = 0.0
        kernel.assign(values)


def check_zero_unit(model: keras.Model, unit: int = 1) -> None:
    """A unit that nobody hears can go. `model` is changed: pass one built for this check."""
    spaces = [space for space in kmerge.channel_spaces(model).values() if space.selectable]
    assert spaces
    for space in spaces:
        zero_outgoing(model, space, unit)
    inputs = example_inputs(model)
    keep = {space.name: [index for index in range(space.size) if index != unit] for space in spaces}
    smaller = kmerge.select(model, keep)
    assert_close(outputs(smaller, inputs), outputs(model, inputs), 1e-6)
    assert_spaces(smaller, {space.name: space.size - 1 for space in spaces})
    assert sum(math.prod(w.shape) for w in smaller.weights) < sum(math.prod(w.shape) for w in model.weights)


def check_saves(models: Mapping[str, keras.Model], folder: Path, layers_of: Path | None = None) -> None:
    """Every model, loaded in a process that never imports kmerge, gives the outputs it gave here.

    `layers_of` is a file that defines layers of the user's own, if there are any.
    """
    expected, paths = {}, [folder / f"{name}.keras" for name in models]
    for path, model in zip(paths, models.values(), strict=True):
        inputs = example_inputs(model)
        np.savez(path.with_suffix(".inputs.npz"), *inputs)
        expected[path] = outputs(model, inputs)
        model.save(path)
    found = outputs_where_kmerge_is_unknown(paths, layers_of)
    for loaded, values in zip(found, expected.values(), strict=True):
        assert_close(loaded, values, 1e-6)
