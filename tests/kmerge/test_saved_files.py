"""Files that an earlier version saved load and give what they gave. `tests/saved/recipe.py` made them."""

import keras
import numpy as np
import pytest

import kmerge
from benchmarks.checkout import ROOT
from tests.saved.recipe import IMAGES, LABELS, compiled, network

SAVED = ROOT / "tests" / "saved"


def outputs(name):
    with np.load(SAVED / "outputs.npz") as known:
        return known[name]


@pytest.mark.parametrize("name", ["big_student", "student"])
def test_a_saved_model_loads_and_computes_what_it_did(name):
    model = keras.models.load_model(SAVED / f"{name}.keras")
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), outputs(name), rtol=1e-5, atol=1e-6)


def test_a_saved_big_student_compresses_to_the_saved_student():
    student = kmerge.compress(keras.models.load_model(SAVED / "big_student.keras"))
    assert student.count_params() == network(1).count_params()
    np.testing.assert_allclose(student.predict(IMAGES, verbose=0), outputs("student"), rtol=1e-5, atol=1e-6)


def test_a_saved_sizer_goes_on():
    sizer = kmerge.AutoSizer.load(SAVED / "sizer.npz")
    np.testing.assert_allclose(sizer.model.predict(IMAGES, verbose=0), outputs("sizer"), rtol=1e-5, atol=1e-6)
    epochs = len(sizer.history_of_sizes)
    compiled(sizer, "adam").fit(IMAGES, LABELS, epochs=1, verbose=0)
    assert len(sizer.history_of_sizes) == epochs + 1
