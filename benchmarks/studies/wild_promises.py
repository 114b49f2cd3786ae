"""The promises of kmerge on one model of `benchmarks.studies.wild`; what each of its processes runs.

    python -m benchmarks.studies.wild_promises NAME      one JSON line for each verb, as soon as it is known
    python -m benchmarks.studies.wild_promises           one JSON line: all names, sources and packages

Each verb is a function of a `Case` that raises `Broken` where a promise does not hold.
"""

import importlib.metadata
import json
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import kmerge
from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE
from benchmarks.studies.wild_models.registry import BESIDE, PACKAGES, Entry, Subclassed, load

BATCH, LARGEST_ERROR = 4, 1e-5
_MEMORY = 8 << 30  # bytes that one process may hold


class Broken(Exception):
    """A promise that does not hold, and by how much."""


class NothingFree(Exception):
    """No channel space of the model can be changed."""


@dataclass
class Case:
    """Two random models of one graph, and what they give.

    Attributes:
        build: makes a third one.
        parents: the two models, as the verbs take them.
        inputs: arrays, in the order of `model.inputs`.
        outputs: of each parent.
        tolerance: 1e-5, or ten times the rounding of the model itself where that is more.
        parameters: of the model as it was built.
        custom: by name, the classes of layers that are not Keras'.
        folder: where to save.
    """

    build: Callable[[], keras.Model]
    parents: list[keras.Model]
    inputs: list[np.ndarray]
    outputs: list[list[np.ndarray]]
    tolerance: float
    parameters: int
    custom: dict[str, type]
    folder: Path

    @property
    def model(self) -> keras.Model:
        """The first parent."""
        return self.parents[0]

    def spaces(self) -> dict[str, int]:
        """The size of each space of the first parent that can be changed, by name."""
        free = {space.name: space.size for space in kmerge.channel_spaces(self.model).selectable}
        if not free:
            raise NothingFree("no channel space of the model can be changed")
        return free


# Models with random weights -------------------------------------------------------------------------------------------


def parts_of(layer: keras.Layer, seen: dict[int, keras.Layer] | None = None) -> list[keras.Layer]:
    """A layer and all layers inside of it, each once."""
    seen = {} if seen is None else seen
    if id(layer) not in seen:
        seen[id(layer)] = layer
        for value in [*vars(layer).values(), getattr(layer, "layers", None)]:
            inner = value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
            for part in inner:
                if isinstance(part, keras.Layer):
                    parts_of(part, seen)
    return list(seen.values())


def randomize(model: keras.Model, seed: int) -> None:
    """Random weights and statistics, none of them constant: biases, scales and statistics that start so hide errors.

    Args:
        model: which is changed.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng([seed, 40])
    for layer in parts_of(model):
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None and layer.built:
            layer.adapt_mean.assign(rng.normal(0, 1, layer.adapt_mean.shape))
            layer.adapt_variance.assign(rng.uniform(0.5, 2, layer.adapt_variance.shape))
            layer.finalize_state()
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if "float" in str(value.dtype) and "normalization/" not in weight.path.replace("batch_normalization/", ""):
            constant = value.size and np.ptp(value) == 0
            weight.assign(value + rng.uniform(-0.3, 0.3, value.shape) if constant else 1.2 * value)


def examples(model: keras.Model) -> list[np.ndarray]:
    """One batch for each input: normal numbers, small whole numbers, ones for masks, or words; an unknown size is 8.

    Args:
        model: which gets numbers up to 255 where it scales these itself.
    """
    rng = np.random.default_rng(41)
    scales = [part.scale for part in parts_of(model) if isinstance(part, keras.layers.Rescaling)]
    images = any(np.ndim(scale) == 0 and scale < 0.1 for scale in scales)

    def of(tensor: keras.KerasTensor) -> np.ndarray:
        shape, dtype = (BATCH, *(size or 8 for size in tensor.shape[1:])), str(tensor.dtype)
        if dtype == "string":
            return rng.choice(["a", "b", "a b", "w3 b w5"], shape).astype(object)
        if dtype == "bool" or "mask" in tensor.name:
            return np.ones(shape, dtype)
        if "int" in dtype:
            return rng.integers(0, 2 if "segment" in tensor.name else 4, shape).astype(dtype)
        return (rng.uniform(0, 255, shape) if images and len(shape) == 4 else rng.normal(size=shape)).astype(dtype)

    return [of(tensor) for tensor in model.inputs]


def values_of(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model in inference, flat."""
    tensors = [keras.ops.convert_to_tensor(value) for value in inputs]
    sequential = isinstance(model, keras.Sequential)
    given = tensors[0] if sequential else keras.tree.pack_sequence_as(model.input, tensors)
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(model(given, training=False))]


def error_of(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest max|difference| / max|expected| of all outputs; raises `Broken` where shapes differ."""
    shapes = [value.shape for value in found], [value.shape for value in expected]
    if shapes[0] != shapes[1]:
        raise Broken(f"outputs of shapes {shapes[0]}, not {shapes[1]}")
    errors = [
        np.max(np.abs(a.astype("float64") - b)) / (np.max(np.abs(b)) + 1e-30)
        for a, b in zip(found, expected, strict=True)
        if a.size
    ]
    return max((float(e) if np.isfinite(e) else float("inf") for e in errors), default=0.0)


# The promises ---------------------------------------------------------------------------------------------------------


def _exact(what: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray], case: Case) -> float:
    error = error_of(found, expected)
    if error > case.tolerance:
        raise Broken(f"{what}: error {error:.1e}, of which {case.tolerance:.1e} would be rounding")
    return error


def spaces(case: Case) -> tuple[float, str]:
    """Channel spaces are found; the share that is free."""
    found = kmerge.channel_spaces(case.model)
    free = sum(space.size for space in found.selectable)
    inner = sum(space.size for space in found.values() if not (space.is_input or space.is_output))
    return free / max(1, inner), f"{len(found.selectable)} of {len(found)} spaces are free"


def permute(case: Case) -> tuple[float, str]:
    """The same units in another order: the same outputs."""
    moved = kmerge.permute(case.model, _orders(case))
    return _exact("permuted", values_of(moved, case.inputs), case.outputs[0], case), ""


def _orders(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(42)
    return {name: rng.permutation(size) for name, size in case.spaces().items()}


def select(case: Case) -> tuple[float, str]:
    """All units are the model itself; half of them are the same half, whether chosen at once or after a permutation."""
    orders = _orders(case)
    whole = kmerge.select(case.model, {name: np.sort(order) for name, order in orders.items()})
    error = _exact("all units selected", values_of(whole, case.inputs), case.outputs[0], case)
    half = {name: max(1, len(order) // 2) for name, order in orders.items()}
    chosen = kmerge.select(case.model, {name: np.sort(orders[name][:size]) for name, size in half.items()})
    moved = kmerge.permute(case.model, orders)
    names = dict(zip(half, [space.name for space in kmerge.channel_spaces(moved).selectable], strict=True))
    again = kmerge.select(moved, {names[name]: range(size) for name, size in half.items()})
    both = [values_of(model, case.inputs) for model in (chosen, again)]
    return max(error, _exact("half of the units, by two ways", both[1], both[0], case)), ""


def grow(case: Case) -> tuple[float, str]:
    """New units change nothing, and to select the old ones gives the model back."""
    free = case.spaces()
    wide = kmerge.grow(case.model, dict.fromkeys(free, 1))
    error = _exact("grown", values_of(wide, case.inputs), case.outputs[0], case)
    names = dict(zip(free, [space.name for space in kmerge.channel_spaces(wide).selectable], strict=True))
    back = kmerge.select(wide, {names[name]: range(size) for name, size in free.items()})
    return max(error, _exact("grown and selected back", values_of(back, case.inputs), case.outputs[0], case)), ""


def prune(case: Case) -> tuple[float, str]:
    """Half of the weights go; what is left has outputs of the right shape, trains, and loads as it was saved."""
    small = kmerge.prune(case.model, "magnitude", budget=0.5)
    share = small.count_params() / case.model.count_params()
    if share > 0.5:
        raise Broken(f"{share:.2f} of the weights are left")
    usable(small, case)
    return share, ""


def concatenate(case: Case) -> tuple[float, str]:
    """The mean of both models' outputs, or of their logits where an output is a softmax or a sigmoid."""
    found = values_of(kmerge.concatenate(*case.parents), case.inputs)
    return _exact("concatenated", found, mean_of(case.parents, case.inputs), case), ""


def mean_of(parents: Sequence[keras.Model], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The mean of models' outputs; where an output is a softmax or a sigmoid, the same function of the mean of logits."""
    each = [_logits(parent, inputs) for parent in parents]
    means = [np.mean(values, axis=0) for values in zip(*each, strict=True)]
    for index, layer in final_layers(parents[0]).items():
        function = layer if isinstance(layer, keras.layers.Softmax) else layer.activation
        means[index] = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(means[index])))
    return means


def _logits(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model before a final softmax or sigmoid."""
    tensors, finals = keras.tree.flatten(model.outputs), final_layers(model)
    kept = {layer: layer.activation for layer in finals.values() if not isinstance(layer, keras.layers.Softmax)}
    for index, layer in finals.items():
        if layer not in kept:
            tensors[index] = layer.input
    try:
        for layer in kept:
            layer.activation = keras.activations.linear
        return values_of(keras.Model(model.inputs, tensors), inputs)
    finally:
        for layer, activation in kept.items():
            layer.activation = activation


def final_layers(model: keras.Model, nested: bool = False) -> dict[int, keras.Layer]:
    """For outputs whose last layer is a softmax or a sigmoid, or has it as its activation, by position: that layer."""
    functions = (keras.activations.softmax, keras.activations.sigmoid)
    found = {}
    for index, output in enumerate(keras.tree.flatten(model.outputs)):
        for layer in model.layers:
            if not any(tensor is output for tensor in _outputs_of(layer)):
                continue
            inner = final_layers(layer, nested=True) if isinstance(layer, keras.Model) else {}
            if len(inner) == 1 and 0 in inner:
                found[index] = inner[0]
            elif getattr(layer, "activation", None) in functions or not nested and isinstance(layer, keras.layers.Softmax):
                found[index] = layer
    return found


def _outputs_of(layer: keras.Layer) -> list:
    try:
        return keras.tree.flatten(layer.output)
    except (AttributeError, ValueError):  # never called, or called more than once
        return []


def merge(case: Case) -> tuple[float, str]:
    """The big student trains; what `compress` leaves has the parents' number of weights, trains and loads."""
    big = kmerge.merge(*case.parents)
    _trained(big, case, kmerge.gate_optimizer(keras.optimizers.SGD(1e-4)))
    student = kmerge.compress(big)
    if student.count_params() != case.parameters:
        raise Broken(f"the student has {student.count_params()} weights, its parents {case.parameters}")
    usable(student, case)
    return 1.0, ""


VERBS: dict[str, Callable[[Case], tuple[float, str]]] = {
    "spaces": spaces, "permute": permute, "select": select, "grow": grow, "prune": prune, "concatenate": concatenate,
    "merge": merge,
}  # fmt: skip


# What a result must be good for ---------------------------------------------------------------------------------------


def usable(model: keras.Model, case: Case) -> None:
    """Raises `Broken` unless a model has outputs of the right shape, trains a step and loads as it was saved."""
    shapes = [value.shape for value in values_of(model, case.inputs)], [value.shape for value in case.outputs[0]]
    if shapes[0] != shapes[1]:
        raise Broken(f"outputs of shapes {shapes[0]}, not {shapes[1]}")
    for what, check in (("train", _trained), ("save and load", _loads)):
        try:
            check(model, case)
        except Exception as problem:
            if _can(check, case):  # what the model itself cannot do, its results need not do
                raise Broken(f"does not {what}: {first_line(problem)}") from problem


def _can(check: Callable[[keras.Model, Case], None], case: Case) -> bool:
    try:
        check(case.build(), case)
    except Exception:
        return False
    return True


def _trained(model: keras.Model, case: Case, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    outputs = [tensor for tensor in keras.tree.flatten(model.outputs) if "float" in tensor.dtype]
    trained = keras.Model(model.inputs, outputs)
    trained.compile(optimizer or keras.optimizers.SGD(1e-4), ["mse"] * len(outputs), jit_compile=False,
                    run_eagerly=keras.backend.backend() == "tensorflow")  # fmt: skip
    before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    rng = np.random.default_rng(43)
    targets = [rng.normal(size=v.shape).astype(v.dtype) for v in values_of(model, case.inputs) if v.dtype.kind == "f"]
    loss = trained.train_on_batch([keras.ops.convert_to_tensor(value) for value in case.inputs], targets)
    after = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    if not np.all(np.isfinite(loss)) or all(np.array_equal(a, b) for a, b in zip(after, before, strict=True)):
        raise Broken(f"a step of training gave loss {loss} and {'other' if len(after) else 'no'} weights")


def _loads(model: keras.Model, case: Case) -> None:
    path = case.folder / f"{len(list(case.folder.iterdir()))}.keras"
    model.save(path)
    loaded = keras.models.load_model(path, custom_objects=case.custom, safe_mode=False, compile=False)
    if error := error_of(values_of(loaded, case.inputs), values_of(model, case.inputs)):
        raise Broken(f"loaded: error {error:.1e}")


def first_line(problem: BaseException) -> str:
    """The type of an exception, its first line, and where in kmerge it came through last."""
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if "/kmerge/" in frame.filename]
    text = next((line.strip() for line in str(problem).splitlines() if line.strip(" \x1b[10m")), "")
    where = ""
    if frames and not isinstance(problem, kmerge.KmergeError):
        where = f" ({Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno})"
    return f"{type(problem).__name__}: {text[:400]}{where}"


# One model ------------------------------------------------------------------------------------------------------------


def prepared(entry: Entry, folder: Path) -> tuple[Case, dict]:
    """Builds two models of an entry; returns them as a case, and what its row says of them."""

    def build(seed: int = 2) -> tuple[keras.Model, keras.Model]:
        keras.utils.set_random_seed(1000 + seed)
        made = entry.build()
        if not isinstance(made, Subclassed):
            randomize(made, seed)
            return made, made
        randomize(made.model, seed)
        return made.model, kmerge.functional(made.model, made.inputs)

    (given, first), (_, second) = build(0), build(1)
    custom = {type(part).__name__: type(part) for part in parts_of(given) if not type(part).__module__.startswith("keras.")}
    own_layers = any(not issubclass(kind, keras.Model) for kind in custom.values())
    kind = "subclassed" if given is not first else "custom layers" if own_layers else "Functional"
    parents = [first, second]
    inputs = examples(parents[0])
    outputs = [values_of(parent, inputs) for parent in parents]
    rounding = _rounding(parents[0], inputs, outputs[0])
    tolerance, parameters = max(LARGEST_ERROR, 10 * rounding), given.count_params()
    case = Case(lambda: build()[1], parents, inputs, outputs, tolerance, parameters, custom, folder)
    spread = max(float(np.std(v, axis=0).max() / (np.abs(v).max() + 1e-30)) for v in outputs[0] if v.dtype.kind == "f")
    if not all(np.all(np.isfinite(value)) for each in outputs for value in each) or spread < 1e-4:
        raise ValueError(f"the model itself shows no error: spread of its outputs {spread:.1e}")
    return case, {"kind": kind, "parameters": parameters, "rounding": rounding, "spread": spread}


def _rounding(model: keras.Model, inputs: list, outputs: list) -> float:
    """The error of a model itself when its weights change in their last bit."""
    kept, rng = [keras.ops.convert_to_numpy(weight) for weight in model.weights], np.random.default_rng(44)
    for weight, value in zip(model.weights, kept, strict=True):
        if "float" in str(value.dtype):
            weight.assign(value * rng.uniform(1 - 1e-7, 1 + 1e-7, value.shape).astype(value.dtype))
    error = error_of(values_of(model, inputs), outputs)
    for weight, value in zip(model.weights, kept, strict=True):
        weight.assign(value)
    return error


def _weights(case: Case) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(weight) for parent in case.parents for weight in parent.weights]


def _same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def outcome_of(verb: Callable[[Case], tuple[float, str]], case: Case) -> dict:
    """What a verb does with a case: its outcome, a value (an error, or a share), and what is to be said."""
    start = time.perf_counter()
    value = None
    try:
        value, says = verb(case)
        outcome = "works"
    except Broken as problem:
        outcome, says = "wrong", str(problem)
    except NothingFree as problem:
        outcome, says = "fixed", str(problem)
    except kmerge.KmergeError as problem:
        outcome, says = "refused", first_line(problem)
    except Exception as problem:
        outcome, says = "foreign", first_line(problem)
    seconds = round(time.perf_counter() - start, 2)
    return {"outcome": outcome, "value": value, "says": " ".join(says.split()), "seconds": seconds}


def rows_of(name: str, entry: Entry, folder: Path, verbs: dict[str, Callable] | None = None) -> Iterator[dict]:
    """Puts one model through all verbs.

    Args:
        name: of the model.
        entry: what builds it.
        folder: an empty one.
        verbs: by name; by default `VERBS`.

    Yields:
        One row for each verb as soon as it is known; the last one says whether the arguments are as they were.
    """
    about = {"model": name, "source": entry.source, "package": _version(entry.package)}
    verbs = VERBS if verbs is None else verbs
    try:
        case, more = prepared(entry, folder)
    except Exception as problem:
        outcome = "refused" if isinstance(problem, kmerge.KmergeError) else "no model"
        yield from ({**about, "verb": verb, "outcome": outcome, "says": first_line(problem)} for verb in [*verbs, "unchanged"])
        return
    before, changed = _weights(case), []
    for verb, call in verbs.items():
        yield {**about, **more, "verb": verb, **outcome_of(call, case)}
        after = _weights(case)
        changed += [] if _same(after, before) else [verb]
        before = after
    outputs = [values_of(parent, case.inputs) for parent in case.parents]
    if not changed and not all(map(_same, outputs, case.outputs)):
        changed = ["one of them, in its outputs"]
    says = f"changed by {', '.join(changed)}" if changed else ""
    yield {**about, **more, "verb": "unchanged", "outcome": "wrong" if changed else "works", "says": says}


def _version(package: str) -> str:
    if not package:
        return ""
    distribution = PACKAGES[package].partition("==")[0]
    return f"{distribution} {importlib.metadata.version(distribution)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """What a process of the study does; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    entries = load()
    if not arguments:
        packages = [*PACKAGES.values(), *BESIDE]
        models = {name: [entry.source, entry.package] for name, entry in entries.items()}
        print(json.dumps({"models": models, "packages": packages}))
        return DONE
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # packages print
    with tempfile.TemporaryDirectory() as folder:
        for row in rows_of(arguments[0], entries[arguments[0]], Path(folder)):
            print(json.dumps(row), file=answers, flush=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
