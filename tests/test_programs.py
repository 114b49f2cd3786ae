"""Tests that train without programs see what programs compute."""

import keras
import pytest
from keras import layers

from kmerge.training import fit
from tests.kmerge.training.cases import (
    RAGGED,
    assert_same,
    assert_same_history,
    classification,
    compiled,
    convolutional,
    decaying_sgd,
    sparse,
    state_of,
)
from tests.programs import without_programs


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere everything is trained in programs")
def test_steps_without_a_program_are_those_of_the_program():
    seen, results = [], []

    class Seeing(layers.Layer):
        def call(self, x, training=False):
            seen.append(x.shape[0])
            return 2 * x

    def trained():
        model = compiled(convolutional, loss=sparse, optimizer=decaying_sgd, metrics=["accuracy"])
        how = dict(epochs=2, batch_size=32, seed=3, augment=Seeing(), validation_data=classification(50, 1), verbose=0)
        history = fit(model, *classification(RAGGED), **how)
        results.append((state_of(model), history))

    with without_programs():
        trained()
    assert seen == 2 * [32, 32, RAGGED - 64], "each step runs as it is, and none is traced"
    trained()
    (state, history), (expected, whole) = results
    assert_same(state, expected)
    assert_same_history(history, whole)
