"""The promises of kmerge on one model of `benchmarks.studies.wild`; what each of its processes runs.

Each verb is a function of a `Case` that raises `Broken` where a promise does not hold.
"""

import importlib.metadata
import json
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

import kmerge
from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE
from benchmarks.studies.wild_cases import (
    Broken,
    Case,
    InPart,
    NothingFree,
    error_of,
    mean_by_inverse,
    mean_of,
    prepared,
    values_of,
)
from benchmarks.studies.wild_models.registry import BESIDE, PACKAGES, Entry, load

_MEMORY = 8 << 30  # bytes that one process may hold


# The promises ---------------------------------------------------------------------------------------------------------


def _exact(what: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray], case: Case) -> float:
    error = error_of(found, expected)
    if error > case.tolerance:
        raise Broken(f"{what}: error {error:.1e}, of which {case.tolerance:.1e} would be rounding")
    return error


def spaces(case: Case) -> tuple[float, str]:
    """Channel spaces are found; the share of units that is free, and what runs as it is."""
    found = kmerge.channel_spaces(case.model)
    free = sum(space.size for space in found.selectable)
    inner = sum(space.size for space in found.values() if not (space.is_input or space.is_output))
    closed = sorted(set(re.findall(r"\((\w+)\) runs as it is", str(found))))
    says = f"{len(found.selectable)} of {len(found)} spaces are free" + "; as they are: " * bool(closed) + ", ".join(closed)
    return free / max(1, inner), says


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
    try:
        small = kmerge.prune(case.model, "magnitude", budget=0.5)
    except kmerge.InvalidArgumentError as problem:
        raise InPart(_half_of_what_is_free(case), first_line(problem)) from problem
    share = small.count_params() / case.model.count_params()
    if share > 0.5:
        raise Broken(f"{share:.2f} of the weights are left")
    usable(small, case)
    return share, ""


def _half_of_what_is_free(case: Case) -> float:
    """Prunes a model of which half cannot go to halfway between itself and the least that its free spaces allow."""
    least = kmerge.select(case.model, dict.fromkeys(case.spaces(), 1)).count_params()
    if least == case.model.count_params():
        raise NothingFree("each space of the model that can be changed has one unit, which must stay")
    most = (least + case.model.count_params()) // 2
    small = kmerge.prune(case.model, "magnitude", budget=kmerge.Budget(parameters=most))
    if small.count_params() > most:
        raise Broken(f"{small.count_params()} weights are left, of {most} allowed")
    usable(small, case)
    return small.count_params() / case.model.count_params()


def concatenate(case: Case) -> tuple[float, str]:
    """The mean of both models' outputs, or of their logits where an output is a softmax or a sigmoid."""
    found = values_of(kmerge.concatenate(*case.parents), case.inputs)
    expected = mean_of(case.parents, case.inputs)
    for index, (value, mean) in enumerate(zip(found, expected, strict=True)):
        if error_of([value], [mean]) > case.tolerance:
            expected[index] = mean_by_inverse(value, [outputs[index] for outputs in case.outputs], mean)
    return _exact("concatenated", found, expected, case), ""


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
    """The type of an exception and its first line; of one that is not kmerge's, three, and where it left kmerge."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    if isinstance(problem, kmerge.KmergeError):
        return f"{type(problem).__name__}: {lines[0]}"
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if frame.filename.startswith(f"{ROOT}/kmerge/")]
    where = f" ({Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {' '.join(lines[:3])[:400]}{where}"


# One model ----------------------------------------------------------------------------------------------------------


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
    except InPart as problem:
        outcome, value, says = "in part", problem.value, problem.says
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
        kinds = {kmerge.KmergeError: "refused", Broken: "wrong", Exception: "no model"}
        found = next(outcome for kind, outcome in kinds.items() if isinstance(problem, kind))
        yield from ({**about, "verb": verb, "outcome": found, "says": first_line(problem)} for verb in [*verbs, "unchanged"])
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


def main(arguments: Sequence[str]) -> int:
    """What a process of the study does.

    Args:
        arguments: the name of a model, which prints one JSON line for each verb as soon as it is known; or nothing, which
            prints one JSON line with all names, sources and packages.

    Returns:
        The exit status.
    """
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
