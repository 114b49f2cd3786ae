"""prune: budgets met as promised, on every model of the zoo; the least important units go."""

import keras
import numpy as np
import pytest

import kmerge
from kmerge.costs.budgets import WidthCosts
from kmerge.spaces.channels import trace
from tests import checks
from tests.checks import grown, halved, parent
from tests.models import KINDS, ZOO, every, example_inputs, randomize

every_model = every(ZOO)
COUNTS = {"parameters": kmerge.parameters, "multiply_accumulates": kmerge.multiply_accumulates}


def units_of(model) -> int:
    return sum(checks.selectable(model).values())


@every_model
def test_costs_of_widths_are_those_of_the_model_that_has_them(entry):
    model, rng = parent(entry, 0), np.random.default_rng(5)
    costs, measures = WidthCosts(trace(model)), dict(COUNTS)
    if entry.name == "unknown_image_size":
        with pytest.raises(kmerge.InvalidArgumentError, match="fixed size"):
            costs.multiply_accumulates({})
        del measures["multiply_accumulates"]
    sizes = checks.selectable(model)
    models = {
        "same": (model, {}),
        "narrow": (halved(entry), {name: max(1, size // 2) for name, size in sizes.items()}),
        "wide": (grown(entry), {name: size + 2 for name, size in sizes.items()}),
    }
    if entry.name in KINDS:
        widths = {name: int(rng.integers(1, size + 1)) for name, size in sizes.items()}
        models["uneven"] = (kmerge.select(model, widths), widths)
    for label, (built, planned) in models.items():
        for measure, count in measures.items():
            assert getattr(costs, measure)(planned) == count(built), (label, measure)


@every_model
def test_a_budget_is_used_up(entry):
    """Globally, no unit more would fit. Locally, all widths are one share rounded down or up, and no more could go up."""
    model, selection = parent(entry, 0), ("local", "global")[list(ZOO).index(entry.name) % 2]
    measure = "parameters" if entry.name == "unknown_image_size" else "multiply_accumulates"
    costs, sizes = WidthCosts(trace(model)), checks.selectable(model)
    least, whole = (getattr(costs, measure)(widths) for widths in (dict.fromkeys(sizes, 1), {}))
    limit = max(1, (least + whole) // 2)
    choice = kmerge.choose_units(model, budget=kmerge.Budget(**{measure: limit}), selection=selection)
    small = kmerge.select(model, choice)
    assert COUNTS[measure](small) <= limit
    assert choice.costs == {measure: (whole, COUNTS[measure](small), limit)}
    widths = {name: len(units) for name, units in choice.items()}
    assert set(widths) == set(sizes)
    # The share at which the next space would get one unit more: all are rounded down from it, some up.
    share = min(((width + 1) / sizes[name] for name, width in widths.items() if width < sizes[name]), default=1.0)
    for name, size in sizes.items():
        rounded_up = selection == "local" and widths[name] > share * size - 1e-9
        above = widths | {name: widths[name] + 1}
        assert widths[name] == size or rounded_up or getattr(costs, measure)(above) > limit, f"{name!r} could go up"
        assert selection == "global" or widths[name] < share * size + 1 + 1e-9, f"{name!r} is wider than its share"
    inputs = example_inputs(model)
    assert all(np.isfinite(value).all() for value in checks.outputs(small, inputs))
    checks.assert_same_interface(small, model)


def test_a_local_choice_keeps_the_same_share_everywhere():
    model = ZOO["resnet10"](0)
    choice = kmerge.choose_units(model, "random", budget=kmerge.Budget(units=0.5))
    sizes = checks.selectable(model)
    assert all(abs(len(choice[name]) - size / 2) <= 1 for name, size in sizes.items())
    assert sum(map(len, choice.values())) == units_of(model) // 2


def test_the_least_important_units_go_first():
    model, rng = ZOO["resnet8"](0), np.random.default_rng(3)
    importance = {name: rng.normal(size=size) for name, size in checks.selectable(model).items()}
    for selection in ("local", "global"):
        choice = kmerge.choose_units(model, importance, budget=0.6, selection=selection)
        for name, units in choice.items():
            lost = np.setdiff1d(np.arange(len(importance[name])), units)
            assert np.min(importance[name][units]) > np.max(importance[name][lost], initial=-np.inf)


def test_a_global_choice_narrows_the_space_that_matters_least():
    model = ZOO["vgg11"](0)
    first, *rest = (importance := {name: np.ones(size) for name, size in checks.selectable(model).items()})
    importance[first] = np.full(len(importance[first]), 0.5)
    budget = kmerge.Budget(units=units_of(model) - len(importance[first]) + 1)
    choice = kmerge.choose_units(model, importance, budget=budget, selection="global")
    assert len(choice[first]) == 1 and all(len(choice[name]) == len(importance[name]) for name in rest)


def test_magnitudes_are_compared_relative_to_their_space():
    """Scaling all that belongs to one space moves nothing between the spaces."""
    model = ZOO["vgg11"](0)
    budget = kmerge.Budget(units=0.6)
    before = kmerge.choose_units(model, "magnitude", budget=budget, selection="global")
    scaled = kmerge.select(model, {})
    for layer in scaled.layers:
        if layer.weights:
            layer.kernel.assign(layer.kernel * 10.0)
    after = kmerge.choose_units(scaled, "magnitude", budget=budget, selection="global")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_pruning_dead_units_changes_nothing():
    model = ZOO["resnet8"](0)
    for space in kmerge.channel_spaces(model).selectable:
        for unit in (0, space.size - 1):
            checks.zero_outgoing(model, space, unit)
    sizes = checks.selectable(model)
    importance = {name: np.r_[0, np.ones(size - 2), 0] for name, size in sizes.items()}
    budget = kmerge.Budget(units=units_of(model) - 2 * len(sizes))
    small = checks.check_arguments_unchanged(
        [model], lambda m: kmerge.prune(m, importance, budget=budget, selection="global")
    )
    inputs = example_inputs(model)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(model, inputs), 1e-6)
    checks.assert_spaces(small, {name: size - 2 for name, size in sizes.items()})


def wide_model():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(36, 3, name="a")(image)
    x = keras.layers.Conv2D(5, 3, name="b")(keras.layers.ReLU()(keras.layers.BatchNormalization()(x)))
    x = keras.layers.Dense(32, "relu", name="c")(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.Dense(4)(x))
    randomize(model, 0)
    return model


@pytest.mark.parametrize("selection", ["local", "global"])
def test_widths_are_multiples_of_eight_or_whole(selection):
    model = wide_model()
    for share in (0.9, 0.5, 0.3):
        small = kmerge.prune(model, budget=share, selection=selection, multiple=8)
        widths = checks.selectable(small)
        assert all(width % 8 == 0 or width == checks.selectable(model)[name] for name, width in widths.items())
        assert kmerge.parameters(small) <= share * kmerge.parameters(model)
    assert checks.selectable(kmerge.prune(model, budget=1.0, multiple=8)) == checks.selectable(model)


@pytest.mark.parametrize("minimum, expected", [(1, (1, 1, 1)), (6, (6, 5, 6)), (0.25, (9, 1, 8))])
def test_a_minimum_stays_in_every_space(minimum, expected):
    model, named = wide_model(), dict(zip("abc", expected, strict=True))
    least = kmerge.parameters(kmerge.select(model, named))
    small = kmerge.prune(model, budget=kmerge.Budget(parameters=least), minimum=minimum)
    assert checks.selectable(small) == named
    with pytest.raises(
        kmerge.InvalidArgumentError, match=f"at least {least:,} parameters, .*received {least - 1:,}[.]"
    ):
        kmerge.prune(model, budget=kmerge.Budget(parameters=least - 1), minimum=minimum)


def test_spaces_that_are_not_named_stay_whole():
    model = wide_model()
    small = kmerge.prune(model, {"a": np.arange(36)}, budget=0.99)
    assert checks.selectable(small)["a"] < 36 and {n: checks.selectable(small)[n] for n in "bc"} == {"b": 5, "c": 32}
    by_scale = kmerge.choose_units(model, "bn_scale", budget=0.9)
    assert list(by_scale) == ["a"]


def test_budgets_hold_together():
    model = ZOO["lenet"](0)
    budget = kmerge.Budget(parameters=0.5, multiply_accumulates=0.3, units=1000)
    small = kmerge.prune(model, budget=budget)
    assert kmerge.parameters(small) <= 0.5 * kmerge.parameters(model)
    assert kmerge.multiply_accumulates(small) <= 0.3 * kmerge.multiply_accumulates(model)


def test_the_choice_prints_how_close_it_is():
    model = ZOO["lenet"](0)
    choice = kmerge.choose_units(model, budget=0.5)
    before, after, limit = choice.costs["parameters"]
    assert f"parameters: {before:,} -> {after:,}, {after / limit:.2%} of the {limit:,} allowed" in str(choice)
    assert all(name in str(choice) for name in checks.selectable(model))
    checks.assert_same_weights(kmerge.select(model, choice), kmerge.prune(model, budget=0.5))


@pytest.mark.both_backends
def test_pruning_by_taylor_keeps_the_network_better_than_against_it():
    """The units that the loss needs least, against those that it needs most."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype("float32")
    y = np.sin(2 * x[:, :1]) + x[:, 1:2]
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(32, "tanh")(inputs)))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    kmerge.fit(model, x, y, epochs=10, verbose=0)
    importance = kmerge.unit_importance(model, "taylor", (x, y))
    losses = []
    for signed in (importance, {name: -values for name, values in importance.items()}):
        small = kmerge.prune(model, signed, budget=0.7)
        losses.append(float(np.mean((checks.outputs(small, [x])[0] - y) ** 2)))
    assert losses[0] < losses[1]


def test_the_importance_by_gates_prunes_the_model_without_gates():
    model = ZOO["lenet"](0)
    gated = kmerge.gate(model, 0.5)
    for gate in kmerge.gates_of(gated):
        gate.loc.assign(np.linspace(3, -3, gate.units))
    choice = kmerge.choose_units(model, kmerge.unit_importance(gated, "gates"), budget=0.5, selection="global")
    assert all(np.array_equal(units, np.arange(len(units))) for units in choice.values())
    with pytest.raises(kmerge.InvalidArgumentError, match="received 'gates'. A gated model is cut by kmerge.compress"):
        kmerge.prune(gated, "gates", budget=0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"budget": 1.5}, "at most 1, received .*1.5"),
        ({"budget": 0.0}, "Budget: expected parameters to be a number above 0, received 0.0.*share"),
        ({"budget": True}, "received True"),
        ({"budget": 100}, r"kmerge.Budget\(.*received 100"),
        ({"budget": 1e-6}, "Expected a budget of at least .*, received 0"),
        ({"budget": 0.5, "importance": "size"}, "received 'size'"),
        ({"budget": 1e-6, "importance": "taylor"}, "Expected a budget of at least .*, received 0"),
        ({"budget": 0.5, "importance": {"a": np.ones(36)}, "data": (1, 2)}, "data to be None.*received 'tuple'"),
        ({"budget": 0.5, "importance": "taylor"}, r"expected data=\(x, y\), received None"),
        ({"budget": 0.5, "importance": {}}, "at least one space"),
        ({"budget": 0.5, "importance": {"nothing": [1.0]}}, "name of a channel space.*'nothing'"),
        ({"budget": 0.5, "importance": {"a": [1.0]}}, r"'a'.*shape \(36,\)"),
        ({"budget": 0.5, "importance": {"a": np.full(36, np.nan)}}, r"finite numbers of shape \(36,\), received an array"),
        ({"budget": 0.5, "selection": "layer"}, "'local', 'global', received 'layer'"),
        ({"budget": 0.5, "multiple": 0}, "multiple.*received 0"),
        ({"budget": 0.5, "minimum": 0}, "minimum.*received 0"),
        ({"budget": 0.5, "minimum": 1.5}, "minimum.*received 1.5"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.prune(wide_model(), **arguments)


def test_a_budget_needs_a_limit():
    with pytest.raises(kmerge.InvalidArgumentError, match="at least one limit"):
        kmerge.Budget()


def test_a_model_without_selectable_spaces_is_refused():
    inputs = keras.Input((3,))
    with pytest.raises(kmerge.InvalidArgumentError, match="a selectable channel space, received 'functional.*has none:"):
        kmerge.prune(keras.Model(inputs, keras.layers.Dense(2)(inputs)), budget=0.5)


def test_normalizations_make_spaces_comparable():
    """Each is blind to what it says: factors of a space; "range" and "standard" also to an offset."""
    model, rng = wide_model(), np.random.default_rng(0)
    one = {name: rng.uniform(1, 2, size=size) for name, size in checks.selectable(model).items()}
    other = one | {"a": 7 * one["a"]}, one | {"a": 7 * one["a"] + 3}

    def chosen(importance, normalization):
        arguments = {"budget": 0.5, "selection": "global", "normalization": normalization}
        return [len(units) for units in kmerge.choose_units(model, importance, **arguments).values()]

    for name in ("mean", "max", "sum", "range", "standard"):
        assert chosen(one, name) == chosen(other[0], name), name
    for name in ("range", "standard"):
        assert chosen(one, name) == chosen(other[1], name), name
    assert chosen(one, None) == chosen(one, "auto") != chosen(other[0], "auto")


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_compensation_makes_up_for_units_that_others_tell(name):
    """Units that are copies of others go: by least squares nothing changes. Without, it does."""
    model, rng = ZOO[name](0), np.random.default_rng(1)
    doubled = kmerge.concatenate(model, model)  # each unit has a twin
    importance = {n: np.r_[np.ones(s), np.zeros(s)] for n, s in checks.selectable(model).items()}
    budget = kmerge.Budget(units=units_of(model))
    inputs = example_inputs(model, batch=64)
    data = (inputs[0], rng.normal(size=64))
    small = kmerge.prune(doubled, importance, budget=budget, selection="global", data=data, compensate=True)
    plain = kmerge.prune(doubled, importance, budget=budget, selection="global")
    assert checks.selectable(small) == checks.selectable(plain) == checks.selectable(model)
    expected = checks.outputs(doubled, inputs)
    checks.assert_close(checks.outputs(small, inputs), expected, 2e-2)
    assert checks.relative_error(checks.outputs(plain, inputs)[0], expected[0]) > 0.1


def test_compensation_needs_data():
    with pytest.raises(kmerge.InvalidArgumentError, match="data to be inputs of the model, to compensate on.*data=x"):
        kmerge.prune(wide_model(), budget=0.5, compensate=True)
    for switch in ("compensate", "compile"):
        with pytest.raises(kmerge.InvalidArgumentError, match=f"{switch} to be True or False, received 'no'"):
            kmerge.prune(wide_model(), budget=0.5, **{switch: "no"})
