"""The outlook of a merge: what doubling the epochs still gave, the forecast, and what is refused."""

import keras
import numpy as np
import pytest

import kmerge
from kmerge.merging import outlook, rise_per_doubling
from kmerge.merging.outlook import MergingLaw
from tests.programs import without_programs

FLAT, RISING = [0.2, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9, 0.9], [0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8]


@pytest.fixture
def line(monkeypatch):
    """Losing two points for each point of rise, with little doubt."""
    found = MergingLaw(cells=10, intercept=1.0, slope=-2.0, residual=0.1, mean=1.0, squares=50.0, quantile=2.0)
    monkeypatch.setattr(outlook, "LAW", found)
    return found


def test_the_rise_is_the_slope_over_doublings_of_the_epoch():
    assert rise_per_doubling([0.1, 0.4, 0.9]) == pytest.approx(0.3)  # from epoch 1 to 2
    ten = [9.0, 9.0, *(2 + 3 * np.log2(np.arange(3, 6))), 0.0, 0.0, 0.0, 0.0, 0.0]  # epochs 3, 4 and 5 count
    assert rise_per_doubling(ten) == pytest.approx(3.0)


@pytest.mark.parametrize("curve, advice", [(FLAT, "merge"), (RISING, "train on")])
def test_networks_that_still_gain_are_trained_on(line, curve, advice):
    found = kmerge.merging_outlook([curve, {"val_accuracy": curve}])
    assert found.advice == advice and found.parents == (curve[-1], curve[-1])
    assert found.rise == pytest.approx(100 * rise_per_doubling(curve))
    at, low, high = line.forecast(found.rise)
    assert at == pytest.approx(1 - 2 * found.rise) and (found.expected, *found.interval) == (at, low, high)
    half = 2.0 * 0.1 * np.sqrt(1 + 1 / 10 + (found.rise - 1) ** 2 / 50)
    assert (at - low, high - at) == pytest.approx((half, half))
    assert f"{at:+.2f} points expected" in str(found) and "10 settings" in str(found)


def test_parents_that_know_different_things_are_merged_whatever_their_curves(line):
    found = kmerge.merging_outlook([RISING, RISING], mean=0.95)
    assert found.advice == "merge" and "they know different things. Merge. Where each knew all classes" in str(found)
    assert kmerge.merging_outlook([RISING, RISING], mean=0.82).advice == "train on"


def test_what_fit_returns_is_taken(line):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    data = np.ones((4, 2), "float32"), np.zeros(4)
    with without_programs():
        history = model.fit(*data, validation_data=data, epochs=4, verbose=0)
    found = kmerge.merging_outlook([history, history.history])
    assert found.parents[0] == history.history["val_accuracy"][-1]
    with pytest.raises(kmerge.InvalidArgumentError, match="monitor to be one of .*val_accuracy.*received 'val_mse'"):
        kmerge.merging_outlook([history] * 2, monitor="val_mse")


@pytest.mark.parametrize(
    "histories, match",
    [
        ([FLAT], "at least two parents, received a list of 1"),
        ([[0.5, 0.6]] * 2, "at least 3 epochs"),
        ([[50.0, 60.0, 70.0, 80.0]] * 2, "from 0 to 1"),
        ([[0.5, 0.6, 0.7, float("nan")]] * 2, "from 0 to 1"),
        ([None, None], "validation accuracy"),
        (["abcde", "abcde"], "validation accuracy"),
    ],
)
def test_other_curves_are_refused(histories, match):
    with pytest.raises(kmerge.InvalidArgumentError, match=match):
        kmerge.merging_outlook(histories)


@pytest.mark.parametrize("mean", [95.0, "high", -0.1, float("nan")])
def test_other_means_are_refused(mean):
    with pytest.raises(kmerge.InvalidArgumentError, match="mean to be an accuracy from 0 to 1"):
        kmerge.merging_outlook([FLAT, FLAT], mean=mean)


@pytest.mark.parametrize("monitor", ["val_loss", "val_mean_squared_error"])
def test_what_falls_is_refused(monitor):
    """A loss between 0 and 1 that still falls would be taken for an accuracy that gets worse: it would advise the opposite."""
    with pytest.raises(kmerge.InvalidArgumentError, match=f"monitor to be the name of an accuracy.*{monitor}"):
        kmerge.merging_outlook([{monitor: [0.9, 0.5, 0.3, 0.2]}] * 2, monitor=monitor)
