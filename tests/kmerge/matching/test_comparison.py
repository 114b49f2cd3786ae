"""What `compare` says of two models is what each way of joining them gives."""

import keras
import numpy as np
import pytest

import kmerge
from kmerge.matching.comparison import SpaceComparison
from tests import checks
from tests.models import ZOO, example_inputs


@pytest.fixture(scope="module")
def found():
    """A network, itself in another order of units, data with the classes that it sees, and the comparison."""
    model = checks.parent(ZOO["lenet"], 0)
    moved = checks.permuted(ZOO["lenet"])
    (inputs,) = example_inputs(model, batch=40)
    classes = model.predict(inputs, verbose=0).argmax(-1)
    data = (inputs, classes)
    before = [net.get_weights() for net in (model, moved)]
    comparison = kmerge.compare(model, moved, data, metric="sparse_categorical_accuracy")
    for net, weights in zip((model, moved), before, strict=True):
        checks.assert_close(net.get_weights(), weights, 0)
    return model, moved, data, comparison


def test_a_network_in_another_order_is_found_to_be_the_same(found):
    model, moved, data, comparison = found
    assert comparison.keys() == checks.selectable(model).keys()
    for name, row in comparison.items():
        assert row.units == checks.selectable(model)[name]
        assert row.matched > 0.999 and row.in_place < 0.7
    restored = kmerge.permute(moved, comparison.order)
    checks.assert_close([restored.predict(data[0], verbose=0)], [model.predict(data[0], verbose=0)], 1e-5)


def test_metrics_and_costs_are_those_of_what_is_joined(found):
    model, moved, data, comparison = found
    whole = {"first": 1.0, "second": 1.0, "mean of the outputs": 1.0, "averaged, matched": 1.0}
    assert whole.items() <= comparison.metrics.items() and comparison.metrics["averaged in place"] < 1
    big = kmerge.concatenate(model, moved)
    costs = [(kmerge.parameters(net), kmerge.multiply_accumulates(net)) for net in (model, big)]
    assert list(comparison.costs.values()) == costs
    assert "averaged, matched" in str(comparison) and f"{costs[1][0]:,}" in str(comparison)


def test_without_a_metric_inputs_are_enough_of_any_kind(found):
    model, moved, (inputs, _), comparison = found
    batches = (inputs[i : i + 16] for i in range(0, len(inputs), 16))
    again = kmerge.compare(model, moved, batches)
    assert not again.metrics
    for name, row in again.items():
        assert row.matched == pytest.approx(comparison[name].matched, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b, x: (a, "b", x, None), "compare: expected two Keras models"),
        (lambda a, b, x: (a, b, x[:0], None), "compare: expected data to be"),
        (lambda a, b, x: (a, b, x, "mean_squared_error"), "compare: expected data to be inputs and targets"),
        (lambda a, b, x: (a, b, np.full_like(x, np.nan), None), "NaN"),
    ],
)
def test_wrong_arguments_are_refused(found, change, message):
    a, b, x, metric = change(*found[:2], found[2][0])
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        kmerge.compare(a, b, x, metric=metric)


def test_models_of_two_architectures_are_refused(found):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(kmerge.ArchitectureMismatchError, match="The models differ"):
        kmerge.compare(found[0], other, found[2])


def test_models_of_other_widths_are_matched_unit_by_unit():
    model = checks.parent(ZOO["mlp"], 0)
    (inputs,) = example_inputs(model, batch=40)
    classes = np.argmax(model(inputs), -1)
    spaces = checks.selectable(model)
    name, kept = next(iter(spaces)), [3, 0, 2]
    narrow = kmerge.permute(kmerge.select(model, {name: kept}), {name: [2, 0, 1]})
    to_wide = kmerge.compare(narrow, model, (inputs, classes), metric="sparse_categorical_accuracy")
    to_narrow = kmerge.compare(model, narrow, inputs)
    units = spaces[name]
    assert to_wide.order[name].tolist() == kept
    assert to_narrow.order[name].tolist() == [kept.index(i) if i in kept else -1 for i in range(units)]
    for each, sizes in ((to_wide, (3, units)), (to_narrow, (units, 3))):
        row = each[name]
        assert (row.units, row.of_other) == sizes and row.matched == pytest.approx(1, abs=1e-6) and row.in_place < 0.9
        assert each.keys() == spaces.keys() and f"{sizes[0]}, {sizes[1]}" in str(each)
    assert [to_wide.metrics[f"averaged{how}"] for how in (" in place", ", matched")] == [None, None]
    assert str(to_wide).count("not possible") == 2
    to_wide[name] = SpaceComparison(1024, 2048, 0.0, 0.5)
    head, row = str(to_wide).split("\n")[:2]
    assert "1024, 2048" in row and len(row) == len(head)
    big = kmerge.concatenate(narrow, model)
    right = np.argmax(big(inputs), -1) == classes
    assert to_wide.metrics["mean of the outputs"] == pytest.approx(np.mean(right), abs=1e-6)
    costs = [(kmerge.parameters(net), kmerge.multiply_accumulates(net)) for net in (narrow, model, big)]
    assert list(to_wide.costs.values()) == costs
