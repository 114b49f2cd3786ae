"""Scores of units, against counts by hand and against what happens if a unit goes."""

import functools

import keras
import numpy as np
import pytest

import kmerge
from kmerge.pruning import IMPORTANCES
from tests import checks
from tests.checks import parent, permuted
from tests.models import ZOO, every, example_inputs, randomize
from tests.programs import without_programs

every_model = every(ZOO)


def two_layers():
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model, {key: array.astype("float64") for key, array in checks.named_weights(model).items()}


@pytest.mark.parametrize("method, power, root", [("magnitude", 2, 0.5), ("magnitude_l1", 1, 1)])
def test_magnitudes_by_hand(method, power, root):
    model, weights = two_layers()
    parts = (
        (np.abs(weights["hidden", 0]) ** power).sum(axis=0),
        np.abs(weights["norm", 0]) ** power,
        (np.abs(weights["head", 0]) ** power).sum(axis=1),
    )
    found = kmerge.unit_importance(model, method)
    assert list(found) == ["hidden"]
    np.testing.assert_allclose(found["hidden"], sum(parts) ** root, rtol=1e-6)


def test_magnitudes_count_every_pixel_of_a_flattened_channel():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(3, 3, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(keras.layers.Flatten()(x)))
    conv, head = (keras.ops.convert_to_numpy(model.get_layer(name).kernel) for name in ("conv", "head"))
    expected = (conv**2).sum(axis=(0, 1, 2)) + (head.reshape(4, 3, 2) ** 2).sum(axis=(0, 2))
    np.testing.assert_allclose(kmerge.unit_importance(model)["conv"] ** 2, expected, rtol=1e-6)


def test_a_zero_model_has_the_smallest_magnitudes():
    strong, weak = ZOO["lenet"](1), ZOO["lenet"](2)
    weak.set_weights([w * 0.0 for w in weak.get_weights()])
    importance = kmerge.unit_importance(kmerge.concatenate(strong, weak))
    assert all((s[: len(s) // 2] > 0).all() and (s[len(s) // 2 :] == 0).all() for s in importance.values())


@every_model
def test_importance_follows_the_units(entry):
    """A unit keeps its importance wherever it lies."""
    model = parent(entry, 0)
    orders = checks.random_orders(model, 0)
    before, after = kmerge.unit_importance(model), kmerge.unit_importance(permuted(entry))
    assert set(before) == set(orders)
    for name, order in orders.items():
        np.testing.assert_allclose(after[name], before[name][order], rtol=1e-6)


def test_bn_scale_is_the_mean_over_the_normalizations_of_a_unit():
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(x)
    first = keras.layers.BatchNormalization(name="first")(x)
    second = keras.layers.BatchNormalization(name="second")(x)
    x = keras.layers.Dense(5, name="plain")(keras.layers.Flatten()(keras.layers.Concatenate()([first, second])))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    gammas = np.array([[1.0, -2.0, 0.0, 4.0], [3.0, 2.0, 0.0, -1.0]])
    for name, gamma in zip(("first", "second"), gammas, strict=True):
        model.get_layer(name).gamma.assign(gamma)
    importance = kmerge.unit_importance(model, "bn_scale")
    assert list(importance) == ["stem"], "the space without a normalization has none"
    np.testing.assert_allclose(importance["stem"], np.abs(gammas).mean(axis=0))


def test_lamp_is_the_share_among_those_that_survive_longer():
    model, _ = two_layers()
    squares = kmerge.unit_importance(model)["hidden"] ** 2
    expected = [value / squares[squares >= value].sum() for value in squares]
    found = kmerge.unit_importance(model, "lamp")["hidden"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.array_equal(np.argsort(found), np.argsort(squares)) and np.max(found) == 1


@pytest.mark.both_backends
def test_hessian_is_the_fisher_weighted_square_of_all_weights_of_a_unit():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, use_bias=False, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name="head")(hidden))
    randomize(model, 4)
    model.compile("sgd", "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    first, second = (w.astype("float64") for w in model.get_weights())
    slope = x @ first @ second - y  # of the mean over two outputs, (5, 2)
    of_second = np.einsum("ni,no->nio", x @ first, slope)
    of_first = np.einsum("ni,no->nio", x, slope @ second.T)
    expected = (np.mean(of_first**2, 0) * first**2).sum(0) / 2 + (np.mean(of_second**2, 0) * second**2).sum(1) / 2
    found = kmerge.unit_importance(model, "hessian", (x.astype("float32"), y.astype("float32")), batch_size=2)
    np.testing.assert_allclose(found["hidden"], expected, rtol=1e-4)


def test_an_importance_of_ones_own_is_one_function():
    model, _ = two_layers()

    def readers(weights):
        return weights.sums(lambda weight: np.square(weight.array), roles=["consumes"])

    head = model.get_layer("head").get_weights()[0]
    expected = (head.astype("float64") ** 2).sum(axis=1)
    np.testing.assert_allclose(kmerge.unit_importance(model, readers)["hidden"], expected)
    assert kmerge.register_importance("readers", readers) is readers
    try:
        np.testing.assert_allclose(kmerge.unit_importance(model, "readers")["hidden"], expected)
        small = kmerge.prune(model, "readers", budget=kmerge.Budget(units=3))
        kept = np.sort(np.argsort(-expected)[:3])
        checks.assert_same_weights(small, kmerge.select(model, {"hidden": kept}))
    finally:
        del IMPORTANCES["readers"]


@pytest.mark.parametrize(
    "found, message",
    [
        (lambda weights: {"hidden": [1.0]}, r"Space 'hidden': expected importance to be finite numbers of shape \(4,\)"),
        (lambda weights: {}, "importance for at least one space"),
        (lambda weights: {"head": np.ones(2)}, "the name of a selectable space, received 'head'"),
        (lambda weights: None, "a mapping from names of spaces"),
    ],
)
def test_what_an_importance_of_ones_own_returns_is_checked(found, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.unit_importance(two_layers()[0], found)


def test_names_of_importances_are_not_taken_twice():
    for name in ("magnitude", "taylor", "gates", 3):
        expected = "a text that names no other importance" if isinstance(name, str) else "a string, received 3"
        with pytest.raises(kmerge.InvalidArgumentError, match=f"name to be {expected}"):
            kmerge.register_importance(name, lambda weights: {})


def test_fpgm_is_the_sum_of_distances_of_filters():
    x = inputs = keras.Input((6, 6, 2))
    first = keras.layers.Conv2D(4, 3, padding="same", name="first")(x)
    second = keras.layers.Conv2D(4, 1, name="second")(x)
    x = keras.layers.Flatten()(keras.layers.Add()([first, second]))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    randomize(model, 5)
    kernels = [keras.ops.convert_to_numpy(model.get_layer(n).kernel).reshape(-1, 4) for n in ("first", "second")]
    filters = np.concatenate(kernels).T.astype("float64")  # a unit is made by both
    expected = np.linalg.norm(filters[:, None] - filters[None], axis=-1).sum(axis=1)
    np.testing.assert_allclose(kmerge.unit_importance(model, "fpgm")["first"], expected, rtol=1e-6)


def test_fpgm_finds_the_unit_that_others_replace():
    model, _ = two_layers()
    kernel, *rest = model.get_weights()
    kernel[:, 3] = kernel[:, :3].mean(axis=1)
    model.set_weights([kernel, *rest])
    assert np.argmin(kmerge.unit_importance(model, "fpgm")["hidden"]) == 3


@every_model
def test_fpgm_follows_the_units(entry):
    model = parent(entry, 0)
    orders = checks.random_orders(model, 0)
    before, after = kmerge.unit_importance(model, "fpgm"), kmerge.unit_importance(permuted(entry), "fpgm")
    assert list(before) == list(after) and set(before) <= set(orders)
    for name in before:
        np.testing.assert_allclose(after[name], before[name][orders[name]], rtol=1e-5, atol=1e-6)


def loss_of(model, data) -> float:
    (prediction,) = checks.outputs(model, [data[0]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(loss(data[1], prediction))


def compiled(model):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def labelled(model, examples: int = 12):
    (x,) = example_inputs(model, batch=examples)
    return x, np.arange(examples) % model.output_shape[-1]


def smooth_model():
    """All kinds of readers and of ties, without the kinks at which a slope cannot be measured."""
    image = keras.Input((6, 6, 2))
    stem = keras.layers.Conv2D(4, 3, padding="same", activation="swish")(image)
    x = keras.layers.BatchNormalization()(stem)
    x = keras.layers.SeparableConv2D(4, 3, padding="same", activation="tanh", depth_multiplier=2)(x)
    x = keras.layers.Conv2D(4, 3, padding="same", groups=2, activation="swish")(keras.layers.Add()([stem, x]))
    x = keras.layers.Conv2DTranspose(3, 2, 2, activation="tanh")(keras.layers.Concatenate()([x, x]))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(3)(x))
    shared = keras.layers.Dense(48, "tanh")
    model = keras.Model(image, keras.layers.Dense(3)(shared(shared(keras.layers.Dense(48)(x)))))
    randomize(model, 7)
    return model


@pytest.mark.both_backends
def test_taylor_is_the_squared_slope_of_the_loss_in_a_gate():
    """The slope is measured on the gates of a gated model, which know nothing of gradients."""
    model = compiled(smooth_model())
    data = labelled(model)
    importance = kmerge.unit_importance(model, "taylor", data, batch_size=len(data[0]))
    gated = kmerge.gate(model, 1.0)
    open_loss, rng = loss_of(gated, data), np.random.default_rng(3)
    assert open_loss == pytest.approx(loss_of(model, data), rel=1e-5)
    for gate, values in zip(kmerge.gates_of(gated), importance.values(), strict=True):
        start = keras.ops.convert_to_numpy(gate.loc).copy()
        for unit in rng.permutation(gate.units)[:2]:
            losses = []
            for below in (0.02, 0.04):
                share = (1 - below + 0.1) / 1.2  # the gate's value is 1.2 * sigmoid(loc) - .1
                gate.loc.assign(np.where(np.arange(gate.units) == unit, np.log(share / (1 - share)), start))
                losses.append(loss_of(gated, data))
            gate.loc.assign(start)
            slope = (4 * losses[0] - losses[1] - 3 * open_loss) / (2 * 0.02)
            assert abs(abs(slope) - values[unit] ** 0.5) <= 0.02 * np.max(values) ** 0.5, gate.name


@pytest.mark.both_backends
def test_taylor_is_the_mean_over_batches_by_their_sizes():
    model = compiled(smooth_model())
    x, y = labelled(model, 10)
    with without_programs():
        both = kmerge.unit_importance(model, "taylor", (x, y), batch_size=6)
        first = kmerge.unit_importance(model, "taylor", (x[:6], y[:6]), batch_size=6)
        rest = kmerge.unit_importance(model, "taylor", (x[6:], y[6:]), batch_size=6)
    for name, values in both.items():
        np.testing.assert_allclose(values, 0.6 * first[name] + 0.4 * rest[name], rtol=1e-4, atol=1e-12)


@pytest.mark.both_backends
def test_taylor_sees_the_loss_alone_and_frozen_layers_too():
    """Penalties do not count, and a layer that is not trained still reads its units."""

    def build(penalty, trainable):
        inputs = keras.Input((3,))
        penalties = {"kernel_regularizer": penalty, "bias_regularizer": penalty}
        x = keras.layers.Dense(4, "tanh", **penalties, name="hidden")(inputs)
        x = keras.layers.Dense(4, "relu", **penalties, name="other")(keras.layers.Dropout(0.5)(x))
        model = keras.Model(inputs, keras.layers.Dense(2, trainable=trainable, name="head")(x))
        rng = np.random.default_rng(1)
        model.set_weights([rng.normal(size=w.shape) for w in model.weights])
        return compiled(model)

    plain, penalized = build(None, True), build(keras.regularizers.L2(1.0), False)
    data = np.random.default_rng(2).normal(size=(8, 3)).astype("float32"), np.arange(8) % 2
    weights = penalized.get_weights()
    with without_programs():
        expected, found = (kmerge.unit_importance(model, "taylor", data) for model in (plain, penalized))
    for name, values in expected.items():
        assert (values > 0).any()
        np.testing.assert_allclose(found[name], values, rtol=1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(penalized.get_weights(), weights, strict=True))


@pytest.mark.both_backends
def test_taylor_takes_several_inputs_outputs_and_weights():
    model = ZOO["two_inputs_two_outputs"](0)
    model.compile("sgd", ["mse", "sparse_categorical_crossentropy"], loss_weights=[1.0, 0.0])
    x = example_inputs(model, batch=6)
    y = [np.ones((6, 1), "float32"), np.zeros(6, "int32")]
    importance = kmerge.unit_importance(model, "taylor", (x, y))
    y[1] = y[1] + 2
    again = kmerge.unit_importance(model, "taylor", (x, y))
    assert all(np.allclose(importance[name], again[name], rtol=1e-5) for name in importance), "its loss has weight 0"
    assert any((values > 0).any() for values in importance.values())


@pytest.mark.both_backends
@pytest.mark.parametrize("name", ["sequential", "nested_two_deep"])
def test_taylor_reads_sequential_and_nested_models(name):
    model = ZOO[name](0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with without_programs():
        importance = kmerge.unit_importance(model, "taylor", labelled(model))
    assert {space: len(values) for space, values in importance.items()} == checks.selectable(model)
    assert all(np.max(values) > 0 for values in importance.values())


def test_random_importance_is_seeded():
    model = ZOO["resnet8"](0)
    one, again, other = (kmerge.unit_importance(model, "random", seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)
    assert len({values[0] for values in one.values()}) == len(one)


def test_gates_tell_the_importance_of_the_units_of_a_gated_model():
    model = ZOO["mlp"](0)
    gated = kmerge.gate(model, 0.5)
    for gate in kmerge.gates_of(gated):
        gate.loc.assign(np.linspace(-3, 3, gate.units))
    importance = kmerge.unit_importance(gated, "gates")
    assert {name: len(values) for name, values in importance.items()} == checks.selectable(model)
    assert all((np.diff(values) > 0).all() for values in importance.values())


@functools.cache
def model_for_errors():
    return ZOO["lenet"](0)


def unlabelled(model):
    return (example_inputs(model)[0],)


@pytest.mark.both_backends
@pytest.mark.parametrize(
    "importance, data, message",
    [
        ("size", None, "one of 'magnitude'.*received 'size'"),
        ("taylor", None, r"'taylor': expected data=\(x, y\), received None"),
        ("hessian", None, r"'hessian': expected data=\(x, y\), received None"),
        ("magnitude", labelled, "'magnitude': expected no data, received 'tuple'"),
        ("taylor", labelled, "compiled with a loss, received .*Call model.compile"),
        ("bn_scale", None, "with scale=True, received .*has none. Use 'magnitude'"),
        ("gates", None, "made by kmerge.merge or kmerge.gate"),
    ],
)
def test_errors(importance, data, message):
    model = model_for_errors()
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.unit_importance(model, importance, data and data(model))


@pytest.mark.both_backends
@pytest.mark.parametrize(
    "data, message",
    [
        (lambda x, y: x, r"inputs and targets, \(x, y\), received inputs alone"),
        (lambda x, y: (x,), r"inputs and targets, \(x, y\), received inputs alone"),
        (lambda x, y: (x, y[:-1]), r"equally many examples, received \[12, 11\]"),
        (lambda x, y: (x, y + 100), "labels that output"),
        (lambda x, y: (x * np.nan, y), "holds .* NaN"),
    ],
)
def test_errors_of_taylors_data(data, message):
    model = compiled(kmerge.select(model_for_errors(), {}))
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.unit_importance(model, "taylor", data(*labelled(model)))
