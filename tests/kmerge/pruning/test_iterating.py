"""Pruning in steps: each meets a budget of the first model, and a run that was killed ends as if it had not been."""

import functools

import keras
import numpy as np
import pytest

import kmerge
from tests import checks
from tests.models import ZOO

STEPS = kmerge.PruningSchedule(3, "linear")


@functools.cache
def network():
    return ZOO["lenet"](0)


def shrink(model):
    """Something that changes the weights, so that units are ranked anew at each step."""
    rng = np.random.default_rng(len(model.weights))
    model.set_weights([w * rng.uniform(0.5, 1.5, size=w.shape) for w in model.get_weights()])


def pruned(**options):
    arguments = {"train": shrink, "steps": STEPS, "compile": False, "selection": "global", **options}
    return kmerge.prune_iteratively(network(), 0.4, **arguments)


def test_schedules_end_where_they_shall():
    limits = kmerge.PruningSchedule(4, "cubic").limits({"parameters": 100, "units": 9}, {"parameters": 20, "units": 10})
    assert [step["parameters"] for step in limits] == [53, 30, 21, 20]
    assert all(step["units"] == 10 for step in limits), "what is within the limit already has it at once"
    linear = kmerge.PruningSchedule(4, "linear").limits({"parameters": 100}, {"parameters": 20})
    assert [step["parameters"] for step in linear] == [80, 60, 40, 20]


def test_steps_are_prunes_to_budgets_of_the_first_model():
    model = network()
    whole, before = kmerge.parameters(model), model.get_weights()
    result = pruned()
    by_hand = model
    for step in (1, 2, 3):
        limit = int(0.4 * whole + (whole - int(0.4 * whole)) * (1 - step / 3))
        by_hand = kmerge.prune(by_hand, budget=kmerge.Budget(parameters=limit), selection="global")
        shrink(by_hand)
        first, now, allowed = result.steps[step - 1].costs["parameters"]
        assert first == whole and now <= allowed and abs(allowed - limit) <= 1
    checks.assert_same_weights(result.model, by_hand)
    assert kmerge.parameters(result.model) <= 0.4 * whole
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert all(f"step {n}: parameters {whole:,}" in str(result) for n in (1, 2, 3))


def test_bounds_are_those_of_the_first_model():
    sizes = checks.selectable(network())
    first, second = list(sizes)[:2]
    widths = checks.selectable(pruned(minimum={first: 0.75}, maximum={second: 0.5}).model)
    assert widths[first] >= round(0.75 * sizes[first]) and widths[second] <= round(0.5 * sizes[second])
    whole = checks.selectable(pruned(exclude=[first]).model)
    assert whole[first] == sizes[first] and whole != sizes


def test_each_step_is_compiled_as_the_first_model_and_measured():
    model = kmerge.select(network(), {})
    model.compile(keras.optimizers.SGD(0.25), "mse", jit_compile=False)
    seen = []

    def train(small):
        seen.append((small.loss, float(small.optimizer.learning_rate), int(small.optimizer.iterations)))
        small.optimizer.learning_rate = 0.01
        small.optimizer.iterations.assign(7)
        shrink(small)

    result = kmerge.prune_iteratively(
        model, 0.5, train=train, steps=2, evaluate=lambda m: {"norm": float(np.abs(m.get_weights()[0]).sum())}
    )
    assert seen == [("mse", 0.25, 0)] * 2
    for step in result.steps:
        assert step.after_cut["norm"] != step.after_training["norm"]
    assert f"{result.steps[-1].after_training['norm']:.4g} after training" in str(result)


def test_a_run_that_was_killed_goes_on(tmp_path):
    expected, trained = pruned(), []

    def train(model):
        if len(trained) == 1:
            raise RuntimeError("killed")
        trained.append(kmerge.parameters(model))
        shrink(model)

    with pytest.raises(RuntimeError, match="killed"):
        pruned(train=train, folder=tmp_path)
    trained += [0, 0]
    result = pruned(train=train, folder=tmp_path)
    assert len(trained) == 5, "the first step is not done again"
    checks.assert_same_weights(result.model, expected.model)
    assert result.steps == expected.steps
    again = pruned(train=train, folder=tmp_path)
    assert len(trained) == 5
    checks.assert_same_weights(again.model, expected.model)
    first, second = (tmp_path / f"step_{n}.npz" for n in (1, 2))
    for content in (second.read_bytes()[:-40], first.read_bytes()):
        second.write_bytes(content)
        with pytest.warns(UserWarning, match="step_2.npz is damaged: .* Its step is done anew"):
            mended = pruned(train=train, folder=tmp_path)
        checks.assert_same_weights(mended.model, expected.model)
    with pytest.raises(kmerge.InvalidArgumentError, match="folder: expected a folder of the same run.*differs in schedule"):
        pruned(steps=2, folder=tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"importance": {"a": np.ones(3)}}, "importance to be a name or a function"),
        ({"train": 3}, "train to be a function of a model"),
        ({"train": lambda model: network()}, "a function that trains a model in place"),
        ({"evaluate": lambda model: [1.0, 2.0]}, "evaluate to be a function that gives a number.*return_dict=True"),
        ({"steps": 0}, "PruningSchedule: expected steps to be a whole number of at least 1"),
        ({"compile": True}, "compiled, received .*Call model.compile first"),
        ({"exclude": ["z"]}, "received 'z'"),
        ({"minimum": 1.0}, "a budget of at least"),
    ],
)
def test_what_no_step_can_do_is_refused(options, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        pruned(**options)


def test_shapes_of_schedules_are_checked():
    with pytest.raises(kmerge.InvalidArgumentError, match="PruningSchedule: expected shape to be one of 'linear', 'cubic'"):
        kmerge.PruningSchedule(3, "square")
