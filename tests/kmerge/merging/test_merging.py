"""merge and compress: one gate per space, exact at open gates and at hard ones."""

import contextlib
import functools
import json

import keras
import numpy as np
import pytest

import kmerge
from kmerge.merging import read_merge
from tests import checks
from tests.checks import family
from tests.loading import run_elsewhere
from tests.models import JIT, KINDS, ZOO, Entry, every, example_inputs
from tests.programs import without_programs

every_model = every(ZOO)

# The others have one place for what each parent has its own of: there `merge` averages weights, and warns.
SEPARATE = {name: entry for name, entry in ZOO.items() if not (entry.repeats_input or entry.leaves_others)}


def merged(entry: Entry, k: int = 2, **options) -> keras.Model:
    expected = contextlib.nullcontext() if entry.name in SEPARATE else pytest.warns(UserWarning, match="averaged")
    with expected:
        return kmerge.merge(*family(entry, k), **options)


def harden(big: keras.Model, seed: int = 0) -> None:
    """Sets every gate to exactly 0 or 1, as many to 1 as its target says."""
    rng = np.random.default_rng([seed, 23])
    for gate in kmerge.gates_of(big):
        loc = np.full(gate.units, -20.0, "float32")
        loc[rng.permutation(gate.units)[: round(gate.target * gate.units)]] = 20.0
        gate.loc.assign(loc)
        assert set(gate.values().tolist()) <= {0.0, 1.0}


def assert_same_architecture(model: keras.Model, parent: keras.Model) -> None:
    assert type(model) is type(parent)
    assert model.name == parent.name
    assert [layer.name for layer in model.layers] == [layer.name for layer in parent.layers]
    shapes, expected = ({key: array.shape for key, array in checks.named_weights(m).items()} for m in (model, parent))
    assert shapes == expected
    assert _configuration(model) == _configuration(parent)
    assert not model.compiled


def _configuration(model: keras.Model) -> dict:
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)["config"], default=str))
    for layer in config["layers"]:
        if layer["class_name"] == "Rescaling":
            # The constants of the units that were chosen, as exactness needs.
            layer["config"]["scale"] = np.shape(layer["config"]["scale"])
    return config


@functools.cache
def big_student(entry: Entry) -> keras.Model:
    """The family merged, which the family does not notice; whoever reads it sets its gates first."""
    return checks.check_arguments_unchanged(family(entry), lambda *models: merged(entry))


@functools.cache
def student(entry: Entry) -> keras.Model:
    """What is left of the big student behind hard gates."""
    harden(big_student(entry))
    return checks.check_arguments_unchanged([big_student(entry)], kmerge.compress)


@every_model
def test_there_is_one_gate_per_selectable_space(entry):
    big, sizes = big_student(entry), checks.selectable(family(entry)[0])
    gates = kmerge.gates_of(big)
    assert sorted(gate.units for gate in gates) == sorted(2 * size for size in sizes.values())
    for gate in gates:
        half = gate.units // 2
        assert gate.target == 0.5
        assert sorted(gate.origins) == [[source, unit] for source in range(2) for unit in range(half)]
    assert type(big) is not keras.Sequential and not big.compiled


@every(SEPARATE)
def test_open_gates_give_the_parents_mean(entry):
    """`gates="open"` sets them so: see the tests of three parents and of one model twice."""
    parents, big = family(entry), big_student(entry)
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.full(gate.units, 20.0, "float32"))
    inputs = example_inputs(parents[0])
    each = [checks.logits(parent, inputs, entry.final) for parent in parents]
    means = [np.mean(values, axis=0) for values in zip(*each, strict=True)]
    checks.assert_close(checks.logits(big, inputs, entry.final), means, 1e-5)
    checks.assert_same_interface(big, parents[0])


@every(ZOO, [name for name in ZOO if name not in SEPARATE])
@pytest.mark.filterwarnings("ignore:Models 1 and 2 are one object")
def test_where_merging_averages_one_model_twice_is_that_model(entry):
    model, inputs = family(entry)[0], example_inputs(family(entry)[0])
    with pytest.warns(UserWarning, match="averaged.*kmerge.concatenate"):
        big = kmerge.merge(model, model, gates="open")
    checks.assert_close(checks.outputs(big, inputs), checks.outputs(model, inputs), 1e-5)


@every(ZOO, ["mlp", "lenet", "resnet8", "siamese", "nested_two_deep", "gated_linear_unit"])
def test_gates_in_kernels_are_gates_on_inputs(entry):
    """Sampling per batch folds masks into kernels: the same outputs as with masks on the inputs."""
    inputs = example_inputs(family(entry)[0])
    by_input, by_kernel = (merged(entry, sampling=sampling) for sampling in ("example", "batch"))
    folds = [layer for layer in by_kernel.layers if isinstance(layer, kmerge.FoldGates)]
    assert folds and not any(isinstance(layer, kmerge.FoldGates) for layer in by_input.layers)
    checks.assert_close(checks.outputs(by_kernel, inputs), checks.outputs(by_input, inputs), 1e-5)
    harden(by_kernel)
    small = kmerge.compress(by_kernel)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(by_kernel, inputs), 1e-5)


@every_model
def test_hard_gates_compress_exactly(entry):
    small, big, inputs = student(entry), big_student(entry), example_inputs(family(entry)[0])
    harden(big)
    checks.assert_close(checks.logits(small, inputs, entry.final), checks.logits(big, inputs, entry.final), 1e-5)
    assert_same_architecture(small, family(entry, 2)[0])


@every(ZOO, ["mlp", "lenet", "siamese", "grouped_convolution", "gated_linear_unit"])
def test_three_parents(entry):
    inputs = example_inputs(family(entry)[0])
    big = merged(entry, 3, gates="open")
    each = [checks.logits(parent, inputs, entry.final) for parent in family(entry, 3)]
    checks.assert_close(checks.logits(big, inputs, entry.final), [np.mean([v for (v,) in each], axis=0)], 1e-5)
    assert {round(3 * gate.target, 6) for gate in kmerge.gates_of(big)} == {1.0}
    harden(big)
    small = kmerge.compress(big)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(big, inputs), 1e-5)
    assert_same_architecture(small, family(entry, 3)[0])


@every(ZOO, ["mlp", "lenet", "siamese", "nested_two_deep"])
def test_gates_of_one_parent_give_that_parent_but_for_its_head(entry):
    parents = family(entry, 2)
    big = kmerge.merge(*parents)
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.array([20.0 if source == 1 else -20.0 for source, _ in gate.origins], "float32"))
    small, second = (list(checks.named_weights(model).values()) for model in (kmerge.compress(big), parents[1]))
    *hidden, kernel, bias = zip(small, second, strict=True)
    assert all(np.array_equal(new, old) for new, old in hidden)
    assert checks.relative_error(kernel[0], kernel[1] / 2) <= 1e-6
    assert bias[0].shape == bias[1].shape


def test_fractional_gates_are_folded_into_the_consumers():
    """With half of the units at 0 and the other half at values between 0 and 1."""
    big = kmerge.merge(*family(ZOO["mlp"], 2))
    for gate in kmerge.gates_of(big):
        loc = np.linspace(-1.0, 1.0, gate.units, dtype="float32")
        loc[: gate.units // 2] = -20.0
        gate.loc.assign(loc)
        assert ((gate.values() > 0) & (gate.values() < 1)).sum() >= gate.units // 2 - 1
    inputs = example_inputs(big)
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


@pytest.mark.parametrize("what", ["are one object", "have equal weights"])
def test_the_same_model_twice_is_that_model_and_said(what):
    model = ZOO["lenet"](0)
    twin = model if what == "are one object" else ZOO["lenet"](0)
    with pytest.warns(UserWarning, match=f"Models 1 and 2 {what}: .*adds nothing.*kmerge.gate") as caught:
        big = kmerge.merge(model, twin, gates="open")
    assert [warning.filename for warning in caught if warning.category is UserWarning] == [__file__]
    inputs = example_inputs(model)
    checks.assert_close(checks.outputs(big, inputs), checks.outputs(model, inputs), 1e-5)


@pytest.mark.parametrize("kind", [list, tuple])
def test_models_may_come_in_a_list(kind):
    parents = family(ZOO["mlp"])
    inputs = example_inputs(parents[0])
    for verb in (kmerge.concatenate, kmerge.merge):
        checks.assert_close(checks.outputs(verb(kind(parents)), inputs), checks.outputs(verb(*parents), inputs), 0.0)
    assert kmerge.merge_pairwise(kind(parents), train=lambda big: parents[1]) is parents[1]
    with pytest.raises(kmerge.InvalidArgumentError, match="at least two models, received 1"):
        kmerge.merge(kind(parents[:1]))
    with pytest.raises(kmerge.InvalidArgumentError, match="at least two models, received 0"):
        kmerge.merge(kind())


@pytest.mark.parametrize("gates", ["paper", "open"])
def test_compressing_untrained_gates_warns(gates):
    big = kmerge.merge(*family(ZOO["mlp"], 2), gates=gates)
    with pytest.warns(UserWarning, match="(?is)gate.*(train|fit)"):
        kmerge.compress(big)


def test_cutting_off_units_with_open_gates_tells_how_open_how_many_and_where():
    big = kmerge.merge(*family(ZOO["mlp"], 2))
    first, second = kmerge.gates_of(big)
    for gate in (first, second):
        gate.loc.assign(np.where(np.arange(gate.units) % 2, -20.0, 20.0))
    kmerge.compress(big)  # the gates are closed of what goes
    first.loc.assign([20.0, 1.0, 20.0, 0.0, *[20.0, -20.0] * 6])  # values of .777 and .5
    (name,) = [name for name, gate in read_merge(big).gates.items() if gate is first]
    told = rf"Of the 15 units that go, 2 have open gates: in {name} \(2 of 8, up to 0\.78 open, 0\.64 on average\)\."
    with pytest.warns(UserWarning, match=told + ".*pass data= .*GatePressure.*AfterFade"):
        kmerge.compress(big)
    inputs = example_inputs(big, batch=32)
    with pytest.warns(UserWarning, match=told) as caught:
        small = kmerge.compress(big, data=inputs[0])
    before, after = (model.predict(inputs[0], verbose=0) for model in (big, small))
    change = np.abs(before - after).max() / np.abs(before).max()
    assert change > 1e-3 and any(f"by {change:.1e} of" in str(warning.message) for warning in caught)
    kmerge.compress(big, keep={name: range(0, 16, 2)})  # somebody asked for these


def test_merging_is_seeded():
    parents = family(ZOO["mlp"], 2)
    one, again, other = ([gate.values() for gate in kmerge.gates_of(kmerge.merge(*parents, seed=s))] for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({values[:7].tobytes() for values in one}) == len(one)


@pytest.mark.filterwarnings("ignore:Models 1 and 2 are one object")
def test_siblings_share_one_mask_per_pass():
    """A gate is drawn once per forward pass, however many layers read it: both readers see the same sample."""
    x = keras.Input((3,))
    h = keras.layers.Dense(6, name="hidden")(x)
    a, b = keras.layers.Dense(1, use_bias=False, name="a")(h), keras.layers.Dense(1, use_bias=False, name="b")(h)
    model = keras.Model(x, [a, b])
    model.get_layer("b").set_weights(model.get_layer("a").get_weights())
    big = kmerge.merge(model, model)
    first, second = big(np.ones((16, 3), "float32"), training=True)
    first, second = keras.ops.convert_to_numpy(first), keras.ops.convert_to_numpy(second)
    assert np.array_equal(first, second)
    assert len(np.unique(first)) > 1


def test_a_big_student_trains_and_compresses():
    entry = ZOO["lenet"]
    big = kmerge.merge(*family(entry, 2))
    before = [gate.values() for gate in kmerge.gates_of(big)]
    optimizer = kmerge.gate_optimizer(keras.optimizers.Adam(1e-3), gate_learning_rate=0.1)
    big.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=JIT)
    (images,) = example_inputs(big, batch=64)
    labels = np.random.default_rng(0).integers(0, 5, 64)
    with without_programs():
        history = big.fit(images, labels, batch_size=16, epochs=3, verbose=0, callbacks=[kmerge.GatePressure()])
    assert all(np.isfinite(history.history["loss"]))
    assert not any(np.array_equal(gate.values(), old) for gate, old in zip(kmerge.gates_of(big), before, strict=True))
    checks.assert_same_interface(kmerge.compress(big), entry(0))


def test_compressed_models_load_without_kmerge(tmp_path):
    """One of each kind: `test_hard_gates_compress_exactly` shows that all are built as their parents."""
    checks.check_saves({name: student(ZOO[name]) for name in KINDS}, tmp_path)


_LOAD_BIG = """
import sys, keras, kmerge, numpy as np
for path in sys.argv[1:]:
    kmerge.compress(keras.models.load_model(path)).save(path.replace(".big.", ".small."))
"""


def test_a_saved_big_student_compresses_the_same(tmp_path):
    """In another process: targets, origins and the parent's architecture travel in the file."""
    small, names = {}, ["mlp", "resnet10", "siamese", "gated_linear_unit", "dictionary_outputs", "sequential"]
    for name in names:
        big = kmerge.merge(*family(ZOO[name], 2))
        harden(big)
        big.save(tmp_path / f"{name}.big.keras")
        small[name] = kmerge.compress(big)
    run_elsewhere(_LOAD_BIG, *(tmp_path / f"{name}.big.keras" for name in names))
    for name in names:
        checks.assert_same_weights(keras.models.load_model(tmp_path / f"{name}.small.keras"), small[name])


def test_the_report_tells_where_units_came_from():
    big = kmerge.merge(*family(ZOO["lenet"], 2))
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.array([20.0 if source == 1 else -20.0 for source, _ in gate.origins], "float32"))
    report = str(kmerge.merge_report(big))
    for name, size in checks.selectable(ZOO["lenet"](0)).items():
        assert any(str(size) in line for line in report.splitlines()), name
    assert len(report.splitlines()) >= 1 + len(kmerge.gates_of(big))


def test_the_report_tells_how_good_parents_and_their_mean_are():
    parents = family(ZOO["lenet"], 2)
    big = kmerge.merge(*parents)
    x = example_inputs(big, batch=300)[0]  # more than a batch
    outputs = [checks.outputs(parent, [x])[0] for parent in parents]
    y = outputs[0].argmax(-1)  # the first parent is always right
    outputs += [(outputs[0] + outputs[1]) / 2, checks.outputs(big, [x])[0]]
    shares = [np.mean(out.argmax(-1) == y) for out in outputs]
    report = kmerge.merge_report(big, parents=parents, data=(x, y), metric="sparse_categorical_accuracy")
    expected = dict(zip(("parent 1", "parent 2", "mean of the parents", "big student"), shares, strict=True))
    assert report.metrics == pytest.approx(expected, abs=1e-6) and 0 < shares[1] < 1
    assert f"mean of the parents {shares[2]:.4f}" in " ".join(str(report).split())
    loss = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
    found = kmerge.merge_report(big, data=(x, y), metric=loss).metrics["big student"]
    logits = outputs[3]
    entropy = np.log(np.exp(logits).sum(-1)) - logits[np.arange(300), y]
    assert found == pytest.approx(entropy.mean(), rel=1e-4)
    for wrong in ({"parents": parents}, {"data": (x, y)}, {"metric": "mae"}, {"data": (x, y), "metric": "none such"}):
        with pytest.raises(kmerge.InvalidArgumentError, match="merge_report"):
            kmerge.merge_report(big, **wrong)
    lambda_metric = keras.metrics.MeanMetricWrapper(lambda a, b: a, name="own")
    for data, metric in (((x, y[:-1]), loss), ((x, y.tolist()), loss), ((x, y), "accuracy"), ((x, y), lambda_metric)):
        with pytest.raises(kmerge.InvalidArgumentError, match="merge_report"):
            kmerge.merge_report(big, data=data, metric=metric)
    with pytest.raises(kmerge.InvalidArgumentError, match="a list of the 2 models"):
        kmerge.merge_report(big, parents=parents[:1], data=(x, y), metric=loss)
    with pytest.raises(kmerge.InvalidArgumentError, match="inputs and targets.*received inputs alone"):
        kmerge.merge_report(big, data=x, metric="mae")
    two = kmerge.merge(*family(ZOO["dictionary_outputs"], 2))
    with pytest.raises(kmerge.InvalidArgumentError, match="models of one output, received one of"):
        kmerge.merge_report(two, data=(x, y), metric="mae")


def test_compensation_never_hurts_on_its_own_data():
    """Least squares on the inputs it is measured on: a random half of the units, head refitted layer by layer."""
    entry = ZOO["vgg11"]
    big = kmerge.merge(*family(entry, 2))
    harden(big)
    data = example_inputs(big, batch=64)
    plain, compensated = kmerge.compress(big), kmerge.compress(big, data=data[0])
    expected = checks.outputs(big, data)[0]
    errors = [np.mean((checks.outputs(model, data)[0] - expected) ** 2) for model in (plain, compensated)]
    assert errors[1] <= errors[0] + 1e-6 * np.mean(expected**2)


@pytest.mark.parametrize("sampling", ["example", "batch"])
def test_compensation_sees_what_units_are_worth_without_their_gates(sampling):
    """Linear units that are sums of two others, all half open: the two, compensated, do the work of all."""

    def parent(seed):
        inputs = keras.Input((5,), name="x")
        hidden = keras.layers.Dense(3, name="hidden")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
        rng = np.random.default_rng(7)  # the same hidden units in both parents
        two, bias = rng.normal(size=(5, 2)), rng.normal(size=2)
        model.get_layer("hidden").set_weights([np.c_[two, two.sum(1)], np.r_[bias, bias.sum()]])
        model.get_layer("head").set_weights([np.random.default_rng(seed).normal(size=(3, 2)), np.zeros(2)])
        return model

    big = kmerge.merge(parent(1), parent(2), sampling=sampling)
    (gate,) = kmerge.gates_of(big)
    gate.loc.assign(np.linspace(-1.5, 1.5, 6))
    data = np.random.default_rng(0).normal(size=(500, 5)).astype("float32")
    expected = big(data)
    small, cut = (kmerge.compress(big, data=d, keep={"hidden": [0, 1, 3]}) for d in (data, None))
    errors = [float(np.abs(np.asarray(model(data)) - np.asarray(expected)).max()) for model in (small, cut)]
    assert errors[0] < 0.03 and errors[1] > 0.3  # a ridge keeps it from being exact
