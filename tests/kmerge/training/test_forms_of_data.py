"""`fit` on data that is nested in other ways or of other types, and for no epoch at all."""

import keras
import pytest

import kmerge
from kmerge.training.fitting import fit
from tests.kmerge.training.cases import (
    assert_same,
    averaging_adam,
    compiled,
    decaying_sgd,
    dense,
    regression,
    sparse,
    state_of,
    two_of_each,
    two_outputs,
    without_xla,
)

pytestmark = pytest.mark.both_backends


def test_a_second_call_may_nest_its_data_otherwise():
    (a, b), (value, kind) = two_of_each()
    options = dict(loss=lambda: ["mse", sparse()], optimizer=decaying_sgd)
    model, other = (without_xla(compiled(two_outputs, **options)) for _ in range(2))
    for x, y in (([a, b], [value, kind]), ({"a": a, "b": b}, [value, kind]), ((a, b), (value, kind))):
        fit(model, x, y, verbose=0)
        fit(other, [a, b], [value, kind], verbose=0)
    assert_same(state_of(model), state_of(other))


def test_a_step_of_the_models_own_gets_floats_of_the_default_type():
    class Typed(keras.Model):
        def train_step(self, *arguments):
            types.update(keras.backend.standardize_dtype(array.dtype) for array in arguments[-1])
            return super().train_step(*arguments)

    types: set[str] = set()
    x, y = (array.astype("float64") for array in regression())
    plain = dense()
    model = compiled(lambda: Typed(plain.inputs, plain.outputs), loss="mse", optimizer=decaying_sgd)
    with pytest.warns(kmerge.ModelFitWarning, match="has a train_step of its own"):
        fit(model, x, y, verbose=0)
    assert types == {"float32"}


@pytest.mark.parametrize("epochs", [dict(epochs=0), dict(epochs=3, initial_epoch=3)], ids=["none", "all done"])
def test_no_epoch_leaves_weights_that_are_to_be_averaged(epochs):
    model = without_xla(compiled(dense, loss="mse", optimizer=averaging_adam))
    before = model.get_weights()
    fit(model, *regression(), verbose=0, **epochs)
    assert_same(model.get_weights(), before, 0)
