"""Every verb on every kind of model that people bring: it keeps its promise or refuses, and leaves its argument alone."""

import contextlib
import functools
import warnings

import keras
import numpy as np
import pytest

import kmerge
import tests.kmerge.cases.inner_models  # noqa: F401  (it registers cases)
from tests.checks import relative_error
from tests.kmerge.cases.models import ALONE, CASES, FIXED, REFUSES

TOLERANCE = 1e-5
LATER = pytest.mark.xfail(strict=True, reason="not yet")


def example(model: keras.Model) -> list:
    rng = np.random.default_rng(0)

    def draw(tensor):
        shape = (3, *(size or 8 for size in tensor.shape[1:]))
        if tensor.dtype == "string":
            return keras.ops.convert_to_tensor(np.full(shape, "a b"))
        return rng.integers(0, 3, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return [draw(tensor) for tensor in model.inputs]


def outputs(model: keras.Model, values: list) -> list[np.ndarray]:
    found = model(values if len(values) > 1 else values[0], training=False)
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(found)]


def error(model: keras.Model, values: list, wanted: list[np.ndarray]) -> float:
    return max(map(relative_error, outputs(model, values), wanted))


def state(model: keras.Model) -> list:
    """All that a user could see change in a model and in the layers of which it is made."""
    layers = model._flatten_layers()
    about = [(id(x), x.name, x.built, vars(x).get("call"), x.trainable, sorted(vars(x))) for x in layers]
    return [about, [(w.path, keras.ops.convert_to_numpy(w).tobytes()) for w in model.weights]]


def verbs(a: keras.Model, b: keras.Model, values: list) -> dict:
    rng = np.random.default_rng(1)
    mean = lambda: [(y + z) / 2 for y, z in zip(outputs(a, values), outputs(b, values), strict=True)]  # noqa: E731

    def permute():
        orders = {s.name: rng.permutation(s.size) for s in kmerge.channel_spaces(a).selectable}
        return error(kmerge.permute(a, orders), values, outputs(a, values))

    def same_shapes(model):
        assert [y.shape for y in outputs(model, values)] == [y.shape for y in outputs(a, values)]
        return 0.0

    return {
        "permute": permute,
        "prune": lambda: same_shapes(kmerge.prune(a, "magnitude", budget=0.7)),
        "concatenate": lambda: error(kmerge.concatenate(a, b), values, mean()),
        "merge and compress": lambda: same_shapes(kmerge.compress(kmerge.merge(a, b))),
    }


# The verbs that find nothing to cut, by outcome.
NOT_THERE = {FIXED: ("prune", "merge and compress"), ALONE: ("merge and compress",)}


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_never_ran_stays_as_it_was(name):
    """A layer in it may still be without its weights, and must not be given any."""
    model = CASES[name](0)
    before = state(model)
    with contextlib.suppress(kmerge.KmergeError):
        kmerge.channel_spaces(model)
    assert state(model) == before


@functools.cache
def runs(name: str) -> tuple[dict, list, list]:
    """What each verb came to, an error of the outputs or an exception; and the argument's state before and after."""
    a, b = CASES[name](0), CASES[name](1)
    values = example(a)
    known, _ = outputs(a, values), outputs(b, values)
    before = state(a)
    found = {}
    for verb, run in verbs(a, b, values).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[verb] = run()
            except Exception as exception:
                found[verb] = exception
    return found, [known, *before], [outputs(a, values), *state(a)]


@pytest.mark.parametrize("name", CASES)
def test_the_argument_stays_as_it_was(name):
    _, before, after = runs(name)
    for y, z in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(y, z)
    assert before[1:] == after[1:]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[LATER] if case.later else []) for n, case in CASES.items()])
def test_every_verb_keeps_its_promise_or_refuses(name):
    found, _, _ = runs(name)
    for verb, result in found.items():
        if CASES[name].outcome == REFUSES or verb in NOT_THERE.get(CASES[name].outcome, ()):
            assert isinstance(result, kmerge.KmergeError), (verb, result)
        else:
            assert not isinstance(result, Exception) and result <= TOLERANCE, (verb, result)
