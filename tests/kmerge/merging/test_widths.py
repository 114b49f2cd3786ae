"""merge to other widths, gates on a single model, and merging in pairs."""

import keras
import numpy as np
import pytest

import kmerge
from tests import checks
from tests.checks import family
from tests.kmerge.merging.test_merging import SEPARATE, assert_same_architecture, harden, merged
from tests.models import ZOO, example_inputs, randomize
from tests.programs import without_programs

some = pytest.mark.parametrize("name", ["mlp", "resnet8", "siamese", "nested_two_deep", "grouped_convolution"])
BIG = "lenet"


def widths_of(model) -> dict[str, int]:
    return checks.selectable(model)


def hardened(big):
    harden(big)
    return big


def assert_hard_gates_compress_exactly(entry, big, expected):
    small, inputs = kmerge.compress(hardened(big)), example_inputs(big)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(big, inputs), 1e-5)
    assert widths_of(small) == expected
    checks.assert_same_interface(small, entry(0))
    return small


@some
@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_share_of_every_space(name, share):
    entry = ZOO[name]
    expected = {space: max(1, round(share * size)) for space, size in widths_of(family(entry, 2)[0]).items()}
    assert_hard_gates_compress_exactly(entry, merged(entry, 2, width=share), expected)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_a_number_or_a_share_of_some_spaces(k):
    entry = ZOO["inception"]
    sizes = widths_of(family(entry, k)[0])
    first, second, *_ = sizes
    big = merged(entry, k, width={first: k * sizes[first], second: 0.5})
    expected = sizes | {first: k * sizes[first], second: round(0.5 * sizes[second])}
    assert_hard_gates_compress_exactly(entry, big, expected)


def test_the_parents_own_widths_are_the_default():
    small = assert_hard_gates_compress_exactly(ZOO[BIG], merged(ZOO[BIG], 4), widths_of(family(ZOO[BIG], 4)[0]))
    assert_same_architecture(small, family(ZOO[BIG], 4)[0])


@pytest.mark.parametrize("measure, limit", [("parameters", 0.4), ("multiply_accumulates", 1.7)])
def test_a_budget_is_met_by_equal_shares(measure, limit):
    entry, count = ZOO["vgg11_bn"], getattr(kmerge, measure)
    small = kmerge.compress(hardened(merged(entry, 2, width=kmerge.Budget(**{measure: limit}))))
    allowed, sizes = limit * count(entry(0)), widths_of(family(entry, 2)[0])
    assert 0.9 * allowed <= count(small) <= allowed
    widths = widths_of(small)
    share = min((widths[name] + 1) / size for name, size in sizes.items())
    assert all(widths[name] <= share * size + 1 for name, size in sizes.items()), "shares are equal up to rounding"
    assert count(kmerge.grow(small, dict.fromkeys(widths, 1))) > allowed


def test_the_report_and_a_saved_big_student_know_the_widths(tmp_path):
    big = hardened(merged(ZOO[BIG], 2, width=0.5))
    big.save(tmp_path / "big.keras")
    loaded = keras.models.load_model(tmp_path / "big.keras")
    checks.assert_same_weights(kmerge.compress(loaded), kmerge.compress(big))
    expected = {name: max(1, round(0.5 * size)) for name, size in widths_of(family(ZOO[BIG], 2)[0]).items()}
    assert {name: row.kept for name, row in kmerge.merge_report(loaded).items()} == expected


def test_given_units_have_the_number_asked_for():
    big = hardened(merged(ZOO["mlp"], 2, width=0.5))
    name = next(iter(kmerge.merge_report(big)))
    kept = kmerge.merge_report(big)[name].kept
    small = kmerge.compress(big, keep={name: range(kept)})
    assert widths_of(small)[name] == kept
    with pytest.raises(kmerge.InvalidArgumentError, match=f"expected {kept} distinct indices"):
        kmerge.compress(big, keep={name: range(kept + 1)})


@pytest.mark.parametrize(
    "width, message",
    [
        (0.0, "share above 0 and at most 2.0"),
        (2.1, "received 2.1"),
        (1, r"a float such as 0.5 or 1.0.*received 1\b"),
        ({"nothing": 1}, "'nothing'"),
        ({0: 1}, "received 0"),
        (kmerge.Budget(parameters=1), "budget of at least .* parameters, .*received 1[.]"),
    ],
)
def test_errors_of_widths(width, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.merge(*family(ZOO[BIG], 2), width=width)
    if not isinstance(width, kmerge.Budget):
        with pytest.raises(kmerge.InvalidArgumentError):
            kmerge.gate(family(ZOO[BIG], 2)[0], width)


@pytest.mark.parametrize("entry", list(ZOO.values())[::3], ids=list(ZOO)[::3])
def test_a_gated_model_starts_as_the_model_and_compresses_exactly(entry):
    model = family(entry)[0]
    gated = checks.check_arguments_unchanged([model], kmerge.gate, 0.5)
    inputs = example_inputs(model)
    checks.assert_close(checks.outputs(gated, inputs), checks.outputs(model, inputs), 1e-5)
    expected = {name: max(1, round(0.5 * size)) for name, size in widths_of(model).items()}
    harden(gated)
    small = kmerge.compress(gated)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(gated, inputs), 1e-5)
    checks.assert_spaces(small, {name: width for name, width in expected.items() if width > 1})


def test_a_gated_model_trains_to_its_width():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 12, 12, 1)).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > 0).astype("int32")
    model = ZOO["lenet"](0)
    gated = kmerge.gate(model, kmerge.Budget(parameters=0.5))
    gated.compile(kmerge.gate_optimizer("adam"), "sparse_categorical_crossentropy")
    with without_programs():
        kmerge.fit(gated, x, y, epochs=4, callbacks=[kmerge.GatePressure()], verbose=0)
    small = kmerge.compress(gated)
    assert kmerge.parameters(small) <= 0.5 * kmerge.parameters(model)
    checks.assert_close(checks.outputs(small, [x]), checks.outputs(gated, [x]), 1e-4)


@pytest.mark.parametrize("k, pairs", [(2, 1), (3, 2), (4, 3), (5, 4)])
def test_merging_in_pairs_never_exceeds_twice_the_width(k, pairs):
    parents, seen, gates = family(ZOO["mlp"], k), [], set()

    def train(big):
        seen.append(sum(gate.units for gate in kmerge.gates_of(big)))
        gates.add(tuple(kmerge.gates_of(big)[0].values().tolist()))
        return kmerge.compress(hardened(big))

    student = kmerge.merge_pairwise(*parents, train=train)
    assert seen == [2 * sum(widths_of(parents[0]).values())] * pairs
    assert len(gates) == pairs, "every pair has gates of its own"
    assert_same_architecture(student, parents[0])


@pytest.mark.filterwarnings("ignore:Models 1 and 2 are one object")
def test_merging_in_pairs_keeps_equal_models():
    model = SEPARATE["mlp"](0)

    def keep_the_first(big):
        sizes = {name: row.kept for name, row in kmerge.merge_report(big).items()}
        both = kmerge.compress(big, keep={name: range(size) for name, size in sizes.items()})
        assert widths_of(both) == widths_of(model)
        return model

    assert kmerge.merge_pairwise(model, model, model, train=keep_the_first) is model


def test_what_train_must_return():
    with pytest.raises(kmerge.InvalidArgumentError, match="train to return the model.*received None"):
        kmerge.merge_pairwise(*family(ZOO["mlp"], 2), train=lambda big: None)
    with pytest.raises(kmerge.InvalidArgumentError, match="at least two models"):
        kmerge.merge_pairwise(family(ZOO["mlp"], 2)[0], train=lambda big: big)


# Parents of other widths


def of_width(first, second, seed, prefix=""):
    """A residual network whose two free spaces have these widths."""
    image = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(first, 3, padding="same", name=f"{prefix}stem")(image)
    x = skip = keras.layers.BatchNormalization(name=f"{prefix}norm")(x)
    x = keras.layers.Conv2D(first, 3, padding="same", activation="relu", name=f"{prefix}block")(x)
    x = keras.layers.Flatten()(keras.layers.Add(name=f"{prefix}add")([skip, x]))
    x = keras.layers.Dense(second, activation="relu", name=f"{prefix}hidden")(x)
    model = keras.Model(image, keras.layers.Dense(3, name=f"{prefix}logits")(x))
    randomize(model, seed)
    return model


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parents_of_other_widths_are_merged_to_the_first_ones(order, tmp_path):
    both = of_width(6, 5, 1), of_width(4, 9, 2, "other_")
    models = [both[i] for i in order]
    inputs = example_inputs(models[0])
    wide = checks.check_arguments_unchanged(models, kmerge.concatenate)
    assert list(widths_of(wide).values()) == [10, 14]
    checks.assert_mean(wide, models, inputs)
    big = checks.check_arguments_unchanged(models, lambda *parents: kmerge.merge(*parents, gates="open"))
    checks.assert_mean(big, models, inputs)
    assert [gate.units for gate in kmerge.gates_of(big)] == [10, 14]
    big.save(tmp_path / "big.keras")
    student = assert_hard_gates_compress_exactly(
        lambda _: models[0], keras.models.load_model(tmp_path / "big.keras"), widths_of(models[0])
    )
    assert [w.shape for w in student.weights] == [w.shape for w in models[0].weights]


def test_parents_of_other_widths_give_a_student_of_the_width_that_was_asked_for():
    models = of_width(6, 6, 1), of_width(3, 8, 2)
    big = kmerge.merge(*models, width={"hidden": 12})
    assert {gate.units: len(gate.kept()) for gate in kmerge.gates_of(big)} == {9: 6, 14: 12}
    with pytest.raises(kmerge.InvalidArgumentError, match="'stem' to be at most the 9 units of all models, received 12"):
        kmerge.merge(*models, width=2.0)
    with pytest.raises(kmerge.ArchitectureMismatchError, match="The models differ"):
        kmerge.merge(models[0], ZOO["lenet"](0))


@pytest.mark.parametrize("other", [{"classes": 4}, {"activation": "tanh"}])
def test_what_differs_beside_widths_is_named_and_not_the_widths(other):
    def build(width, classes=3, activation="relu"):
        layers = [keras.layers.Dense(width, name="hidden"), keras.layers.Dense(classes, activation, name="head")]
        return keras.Sequential([keras.Input((6,)), *layers])

    with pytest.raises(kmerge.ArchitectureMismatchError, match="first in 'head'"):
        kmerge.merge(build(4), build(7, **other))


def test_layers_that_cannot_have_silent_units_are_named_as_they_stand_in_the_models():
    def normalized(width):
        behind = [keras.layers.LayerNormalization(), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(width, name="hidden"), *behind])

    with pytest.raises(kmerge.ArchitectureMismatchError, match="first in 'hidden'"):
        kmerge.merge(normalized(4), normalized(7))
