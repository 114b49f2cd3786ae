"""Align, merge what is nearly equal, gate the rest: exact where units are equal, and a plain merge where none is."""

import keras
import numpy as np
import pytest

import kmerge
from baselines.merging.aligned_merging import gate_the_rest, join, nearly_equal
from kmerge.matching import align, match
from tests import checks
from tests.models import ZOO, example_inputs
from tests.programs import without_programs

# Gates that were not trained to their end are cut here, which kmerge warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Of the .* units that go")

# One with a shared layer, a residual stream, a depthwise convolution, joins, nesting: none normalizes over units.
NAMES = ["mlp", "lenet", "resnet8", "vgg11_bn", "densenet", "mobilenet_se", "siamese", "nested_two_deep", "sequential"]


def random_half(model: keras.Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = checks.selectable(model)
    return {name: np.sort(rng.permutation(size)[: rng.integers(0, size + 1)]) for name, size in sizes.items()}


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in NAMES), ("resnet8", 1)])
def test_pairs_of_equal_units_may_be_merged(name, seed):
    """Two equal networks of which any units are one: the outputs stay, whatever reads or makes those units."""
    model, inputs = ZOO[name](0), example_inputs(ZOO[name](0))
    merged = random_half(model, seed)
    joint = checks.check_arguments_unchanged([model, model], join, merged)
    checks.assert_close(checks.outputs(joint, inputs), checks.outputs(model, inputs), 1e-5)
    sizes = checks.selectable(model)
    checks.assert_spaces(joint, {name: 2 * size - len(merged[name]) for name, size in sizes.items()})


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_a_network_in_another_order_is_merged_whole(name):
    model = ZOO[name](0)
    data = example_inputs(model, batch=150)
    other = kmerge.permute(model, checks.random_orders(model, 5))
    aligned = align(model, other, match(model, other))
    merged = nearly_equal(model, aligned, data, 0.999)
    assert {space: len(units) for space, units in merged.items()} == checks.selectable(model)
    big = gate_the_rest(model, aligned, merged, "example", seed=3)
    checks.assert_close(checks.outputs(big, data), checks.outputs(model, data), 1e-5)
    student = kmerge.compress(big)
    checks.assert_same_interface(student, model)
    checks.assert_same_weights(student, model)


@pytest.mark.parametrize("name", ["lenet", "vgg11_bn"])
def test_without_nearly_equal_units_it_is_a_merge(name):
    model, other = ZOO[name](0), ZOO[name](1)
    merged = nearly_equal(model, other, example_inputs(model, batch=50), 1.01)
    assert not any(map(len, merged.values()))
    big, plain = gate_the_rest(model, other, merged, "example", seed=3), kmerge.merge(model, other, seed=3)
    assert [type(layer) for layer in big.layers] == [type(layer) for layer in plain.layers]
    for a, b in zip(big.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=b.path)
    for a, b in zip(kmerge.gates_of(big), kmerge.gates_of(plain), strict=True):
        assert (a.units, a.target) == (b.units, b.target)


def test_merged_units_are_neither_closed_nor_trained_by_their_gates():
    model, other = ZOO["lenet"](0), ZOO["lenet"](1)
    merged = {name: np.arange(size // 2) for name, size in checks.selectable(model).items()}
    big = gate_the_rest(model, other, merged, "example", seed=3)
    big.compile(kmerge.gate_optimizer(keras.optimizers.SGD(0.01), gate_learning_rate=1.0), "mse")
    before = [np.asarray(gate.loc).copy() for gate in kmerge.gates_of(big)]
    (x,) = example_inputs(model, batch=32)
    y = np.random.default_rng(1).normal(size=checks.outputs(model, [x])[0].shape).astype("float32")
    with without_programs():
        kmerge.fit(big, x, y, epochs=2, callbacks=[kmerge.GatePressure("paper", start=5.0)], verbose=0)
    spaces = list(checks.selectable(model))
    for space, gate, start in zip(spaces, kmerge.gates_of(big), before, strict=True):
        count = len(merged[space])
        moved = np.abs(np.asarray(gate.loc) - start)
        assert (start[:count] == 40).all() and (moved[:count] == 0).all() and (moved[count:] > 1e-3).all()
        assert (gate.kept()[:count] == np.arange(count)).all()
        mask = np.asarray(gate(np.zeros((50, 1), "float32"), training=True))
        assert (mask[:, :count] == 1).all() and (mask[:, count:] == 0).any()
    checks.assert_same_interface(kmerge.compress(big), model)


def test_concordance_falls_with_scale_and_offset():
    x = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")
    model = keras.Model(x, keras.layers.Dense(2)(hidden(x)))
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    kernel, bias = model.get_layer("hidden").get_weights()
    factors = np.array([1, 3, -1, 1], "float32")
    other.get_layer("hidden").set_weights([kernel * factors, bias + np.array([0, 0, 0, 5], "float32")])
    data = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    assert nearly_equal(model, other, data, 0.8)["hidden"].tolist() == [0]
    assert nearly_equal(model, other, data, -1)["hidden"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "entries", [[(-1, 0), (0, 0)], [(-1, 1), (-1, 1)], [(-2, 0)]], ids=["of both kinds", "twice", "unknown"]
)
def test_a_plan_with_an_impossible_common_unit_is_refused(entries):
    model = ZOO["mlp"](0)
    space = next(iter(checks.selectable(model)))
    with pytest.raises(kmerge.InvalidArgumentError, match=rf"Plan, space '{space}'.*received \["):
        kmerge.rewrite(model, [model, model], kmerge.Plan(2, {space: entries}))
