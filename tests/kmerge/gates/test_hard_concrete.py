import keras
import numpy as np
import pytest
from keras import ops

import kmerge.gates.hard_concrete as gates_module
from kmerge.errors import InvalidArgumentError
from kmerge.gates.application import ApplyGates
from kmerge.gates.hard_concrete import HardConcreteGate, gates_of
from tests.models import JIT
from tests.programs import without_programs

pytestmark = pytest.mark.both_backends


def built(gate, loc=None):
    gate.build((None, 3))
    if loc is not None:
        gate.loc.assign(loc)
    return gate


def sample(gate, rows):
    return ops.convert_to_numpy(gate(np.zeros((rows, 3), "float32"), training=True))


def gated_model(units=6, sampling="example", seed=7, **gate_settings):
    """Inputs of 3 features, a gated hidden layer, and the mask's two consumers, whose outputs show the same mask."""
    inputs = keras.Input((3,))
    mask = HardConcreteGate(units, sampling=sampling, seed=seed, name="gate", **gate_settings)(inputs)
    hidden = keras.layers.Dense(units, activation="tanh", name="hidden")(inputs)
    gated = ApplyGates(range(1, units + 1), name="apply")([hidden, mask])
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(gated))


def masks_model(units, sampling="example"):
    """Gives the mask that each of two consumers sees: `x * g` for x = 1."""
    inputs = keras.Input((units,))
    mask = HardConcreteGate(units, sampling=sampling, seed=3)(inputs)
    image = keras.layers.Reshape((1, units, 1))(inputs)
    first = ApplyGates(range(1, units + 1))([inputs, mask])
    second = ApplyGates(range(1, units + 1), axis=2)([image, mask])
    return keras.Model(inputs, [first, keras.layers.Flatten()(second)])


def test_distribution_at_the_papers_start():
    gate = built(HardConcreteGate(50, seed=1), np.ones(50))
    g = sample(gate, 8000)
    assert g.shape == (8000, 50) and g.dtype == np.float32
    # Standard errors of the three means over 400,000 draws are below .0008.
    assert abs((g > 0).mean() - 0.931) < 0.003
    assert abs((g == 1).mean() - 0.355) < 0.003
    assert abs(g.mean() - 0.707) < 0.003
    assert g.min() == 0 and g.max() == 1
    np.testing.assert_allclose(gate.open_probabilities(), 0.931, atol=5e-4)
    np.testing.assert_allclose(gate.values(), 0.777, atol=5e-4)


@pytest.mark.parametrize("loc", [-4.0, -1.0, 0.5, 3.0])
def test_open_probability_is_the_share_of_open_samples(loc):
    gate = built(HardConcreteGate(20, seed=2), np.full(20, loc))
    assert abs((sample(gate, 5000) > 0).mean() - gate.open_probabilities()[0]) < 0.01


def test_inference_is_deterministic_and_by_the_formula():
    gate = built(HardConcreteGate(3, seed=1), [-4.0, 0.0, 4.0])
    expected = np.clip(1.2 / (1 + np.exp(-np.array([-4.0, 0.0, 4.0]))) - 0.1, 0, 1)
    mask = ops.convert_to_numpy(gate(np.zeros((5, 3), "int32")))
    assert mask.shape == (1, 3)
    np.testing.assert_allclose(mask[0], expected, atol=1e-6)
    np.testing.assert_array_equal(mask, ops.convert_to_numpy(gate(np.zeros((2, 3), "int32"))))
    np.testing.assert_allclose(gate.values(), mask[0], atol=1e-6)


def test_open_start_is_exactly_one_in_inference_and_trainable():
    gate = built(HardConcreteGate(5000, start="open", seed=1))
    np.testing.assert_array_equal(ops.convert_to_numpy(gate(np.zeros((4, 1)))), 1.0)
    np.testing.assert_array_equal(gate.values(), 1.0)
    g = sample(gate, 40)
    assert 0.97 < (g > 0).mean() < 0.995 and 0.69 < (g == 1).mean() < 0.73


@pytest.mark.parametrize("sampling", ["example", "batch"])
def test_consumers_share_the_mask_of_a_pass_and_passes_differ(sampling):
    model = masks_model(40, sampling)
    x = np.ones((6, 40), "float32")
    first, second = (ops.convert_to_numpy(output) for output in model(x, training=True))
    np.testing.assert_array_equal(first, second)
    again, _ = model(x, training=True)
    assert not np.array_equal(first, ops.convert_to_numpy(again))
    rows_agree = np.array_equal(first[0], first[1])
    assert rows_agree == (sampling == "batch")


def test_loss_and_gradient_by_hand():
    loc = np.array([-3.0, -1.0, 0.0, 2.0])
    gate = built(HardConcreteGate(4, target=0.25, seed=1), loc)
    lam, mu, rho = 2.0, -0.3, 0.7
    gate.pressure.assign(lam), gate.multiplier.assign(mu), gate.polarization.assign(rho)

    def by_hand(loc):
        p = 1 / (1 + np.exp(-(loc + 2 / 3 * np.log(11))))
        d = p.mean() - 0.25
        return lam * d**2 + mu * d + rho * np.mean(p * (1 - p))

    sample(gate, 2)
    (loss,) = gate.losses
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(loss), by_hand(loc), rtol=1e-5)

    # One step of plain SGD at rate 1 on that loss alone moves loc by minus its gradient.
    inputs = keras.Input((3,))
    model = keras.Model(inputs, ops.stop_gradient(gate(inputs)))
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, out: 0.0 * ops.mean(out, axis=-1))
    with without_programs():
        model.fit(np.zeros((4, 3)), np.zeros((4, 4)), batch_size=4, verbose=0)
    numeric = [(by_hand(loc + e) - by_hand(loc - e)) / 2e-5 for e in 1e-5 * np.eye(4)]
    np.testing.assert_allclose(loc - np.asarray(gate.loc), numeric, atol=1e-5)


def test_the_loss_is_absent_in_inference():
    model = gated_model()
    gate = gates_of(model)[0]
    gate.pressure.assign(1000.0)
    x, y = np.ones((8, 3), "float32"), np.zeros((8, 2), "float32")
    model.compile("sgd", "mse")
    with without_programs():
        expected = np.mean(model.predict(x, verbose=0) ** 2)
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision(policy):
    gate = HardConcreteGate(200, seed=1, dtype=policy)
    mask = gate(np.zeros((300, 3), policy.replace("mixed_", "")), training=True)
    assert keras.backend.standardize_dtype(mask.dtype) == policy.replace("mixed_", "")
    assert {v.dtype for v in gate.weights if "seed" not in v.name} == {"float32"}
    mask = ops.convert_to_numpy(ops.cast(mask, "float32"))
    assert np.isfinite(mask).all() and 0 <= mask.min() and mask.max() <= 1
    assert keras.backend.standardize_dtype(gate.losses[0].dtype) == "float32"


@pytest.mark.parametrize(
    "policy, jit, sampling",
    [
        ("float32", True, "example"),
        ("float32", JIT, "batch"),
        ("mixed_float16", JIT, "example"),
        ("mixed_bfloat16", True, "batch"),
    ],
)
def test_fit_trains_gates_towards_what_the_loss_asks(policy, jit, sampling):
    keras.config.set_dtype_policy(policy)
    try:
        model = gated_model(sampling=sampling)
    finally:
        keras.config.set_dtype_policy("float32")
    gate = gates_of(model)[0]
    assert not gate.trained()
    gate.pressure.assign(20.0)
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=jit)
    x = np.random.default_rng(0).normal(size=(640, 3)).astype("float32")
    history = model.fit(x, x[:, :2], batch_size=16, epochs=2, verbose=0)
    assert gate.trained()
    assert np.isfinite(history.history["loss"]).all()
    assert abs(gate.open_probabilities().mean() - 0.5) < 0.1


def test_hardness_moves_the_mask_to_the_choice():
    gate = built(HardConcreteGate(4, target=0.5, seed=1), [1.0, -1.0, 0.5, 1.2])
    np.testing.assert_array_equal(gate.kept(), [0, 3])
    gate.choose()
    gate.hardness.assign(1.0)
    chosen = np.array([1, 0, 0, 1], "float32")
    np.testing.assert_array_equal(sample(gate, 5), np.tile(chosen, (5, 1)))
    np.testing.assert_array_equal(gate.values(), chosen)
    np.testing.assert_array_equal(gate.open_probabilities(), chosen)
    assert gate.undecided() == 0
    gate.loc.assign([-9.0, 9.0, 9.0, -9.0])
    np.testing.assert_array_equal(gate.kept(), [0, 3])
    gate.hardness.assign(0.25)
    np.testing.assert_allclose(gate.values(), [0.25, 0.75, 0.75, 0.25])


@pytest.mark.parametrize("target, units, expected", [(1 / 3, 9, 3), (0.5, 200, 100), (1.0, 4, 4), (0.01, 4, 1)])
def test_number_of_units_kept(target, units, expected):
    gate = built(HardConcreteGate(units, target=target, seed=5))
    kept = gate.kept()
    assert len(kept) == len(set(kept)) == expected
    dropped = np.setdiff1d(np.arange(units), kept)
    if len(dropped):
        assert gate.open_probabilities()[kept].min() >= gate.open_probabilities()[dropped].max()


def test_save_and_load_round_trip(tmp_path):
    origins = [[unit % 2, unit // 2] for unit in range(6)]
    model = gated_model(target=1 / 3, origins=origins, start=0.5)
    gate = gates_of(model)[0]
    gate.loc.assign(np.linspace(-2, 2, 6))
    gate.choose()
    for name, value in (("pressure", 0.1), ("multiplier", 0.2), ("polarization", 0.3), ("hardness", 0.4)):
        getattr(gate, name).assign(value)
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    model(x, training=True)  # a pass with another batch size leaves nothing behind that would not load
    model.save(tmp_path / "big.keras")
    loaded = keras.models.load_model(tmp_path / "big.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(model(x)))
    copy = gates_of(loaded)[0]
    assert copy.get_config() == gate.get_config() and copy.origins == origins
    for old, new in zip(gate.weights, copy.weights, strict=True):
        if "seed" not in old.name:
            np.testing.assert_array_equal(np.asarray(old), np.asarray(new))


def test_the_seed_decides_the_start_and_the_noise():
    first, same, other = (built(HardConcreteGate(300, seed=seed)) for seed in (4, 4, 5))
    start = np.asarray(first.loc)
    np.testing.assert_array_equal(start, np.asarray(same.loc))
    np.testing.assert_array_equal(sample(first, 3), sample(same, 3))
    assert not np.array_equal(start, np.asarray(other.loc))
    assert abs(start.mean() - 1) < 0.003 and abs(start.std() - 0.01) < 0.002
    assert HardConcreteGate(3).seed != HardConcreteGate(3).seed


def test_apply_gates_looks_gates_up_along_an_axis():
    x = np.ones((2, 3, 5), "float32")
    a, b = np.array([[0.1, 0.2]], "float32"), np.array([[0.3, 0.4, 0.5]], "float32")
    last = ops.convert_to_numpy(ApplyGates([0, 2, 1, 5, 5])([x, a, b]))
    np.testing.assert_allclose(last, np.broadcast_to([1, 0.2, 0.1, 0.5, 0.5], x.shape))
    middle = ops.convert_to_numpy(ApplyGates([3, 0, 2], axis=1)([x, a, b]))
    np.testing.assert_allclose(middle, np.broadcast_to(np.array([0.3, 1, 0.2])[:, None], x.shape))
    per_example = ops.convert_to_numpy(ApplyGates([1, 2], axis=-1)([np.ones((3, 4, 2)), np.arange(6.0).reshape(3, 2)]))
    np.testing.assert_allclose(per_example[2], np.broadcast_to([4.0, 5.0], (4, 2)))
    layer = ApplyGates.from_config(ApplyGates([3, 0, 2], axis=1).get_config())
    np.testing.assert_array_equal(ops.convert_to_numpy(layer([x, a, b])), middle)


def test_apply_gates_keeps_the_compute_dtype():
    mask = HardConcreteGate(4, seed=1)(np.zeros((2, 1)))
    out = ApplyGates([1, 2, 3, 4], dtype="mixed_bfloat16")([np.ones((2, 4), "float32"), mask])
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"


@pytest.mark.parametrize(
    "indices, axis, words",
    [
        ([1, 2], -1, "each of the 5 positions"),
        ([0] * 5, 0, "other than the batch"),
        ([0, 1, 2, 3, 4], -1, "0 and the 3"),
    ],
)
def test_apply_gates_refuses_what_does_not_fit(indices, axis, words):
    with pytest.raises(InvalidArgumentError, match=words):
        ApplyGates(indices, axis=axis, name="apply")([np.ones((2, 5)), np.ones((1, 3))])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"units": 0}, r"^Gate 'gate': expected units to be a whole number of at least 1, received 0\.$"),
        ({"units": 2.0}, "units to be a whole number of at least 1, received 2.0"),
        ({"target": 0.0}, "target to be a number above 0 and of at most 1, received 0.0"),
        ({"target": 1.5}, "received 1.5"),
        ({"sampling": "pixel"}, "one of .* received 'pixel'"),
        ({"start": "closed"}, "received 'closed'"),
        ({"start": float("nan")}, "finite"),
        ({"origins": [[0, 1]]}, r"each of the 4 units, received \[\[0, 1\]\]"),
    ],
)
def test_gate_refuses_arguments_out_of_range(settings, words):
    with pytest.raises(InvalidArgumentError, match=words):
        HardConcreteGate(**({"units": 4, "name": "gate"} | settings))


@pytest.mark.parametrize("method", ["values", "open_probabilities", "undecided", "kept", "choose", "trained"])
def test_a_gate_never_called_is_an_error(method):
    with pytest.raises(InvalidArgumentError, match="received 'lonely', which has no weights, because it was never called"):
        getattr(HardConcreteGate(4, name="lonely"), method)()


def test_gates_of_looks_into_nested_models_once():
    inner = gated_model()
    inputs = keras.Input((3,))
    mask = HardConcreteGate(2, name="outer")(inputs)
    outer = keras.Model(inputs, ApplyGates([1, 2])([inner(inner(inputs)[:, :1] + inputs), mask]))
    assert {gate.name for gate in gates_of(outer)} == {"gate", "outer"}
    assert len(gates_of(outer)) == 2
    assert gates_of(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])) == []


def test_constants_are_the_papers():
    assert (gates_module.BETA, gates_module.GAMMA, gates_module.ZETA) == (2 / 3, -0.1, 1.1)
