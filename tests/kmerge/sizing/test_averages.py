"""Optimizers with `use_ema`, which give weights their averages, in an `AutoSizer`."""

import keras
import numpy as np
import pytest

import kmerge
from tests.kmerge.sizing.cases import dense_net, randomized, sizer_of, task


@pytest.mark.parametrize("every", [None, 3], ids=["at the end", "every 3 steps"])
def test_weights_get_their_averages_when_model_fit_gives_them(every):
    model = randomized(dense_net())
    x, y = task(model)
    average = dict(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=every)
    sizer = sizer_of(model, keras.optimizers.Adam(0.05, **average), grow=False, prune="never")
    sizer.fit(x, y, epochs=0, static_epochs=3, shuffle=False, verbose=0)
    model.compile(keras.optimizers.Adam(0.05, **average), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=3, shuffle=False, verbose=0)
    for ours, keras_own in zip(sizer.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, keras_own, atol=1e-5)


@pytest.mark.parametrize("optimizer_state", ["carry", "restart"])
def test_averages_of_units_begin_at_the_weights_that_the_units_begin_with(optimizer_state, tmp_path):
    """With a momentum of 1 an average stays what it began as, and at a rate of 0 so do weights."""
    model = randomized(dense_net(4))
    optimizer = keras.optimizers.Adam(0.0, use_ema=True, ema_momentum=1.0)
    sizer = sizer_of(model, optimizer, optimizer_state=optimizer_state, prune="never")
    x, y = task(model)
    sizer.fit(x, y, epochs=1, static_epochs=0, verbose=0)
    before = randomized(model).predict(x, verbose=0)
    sizer.save(tmp_path / "sizer.npz")
    for grown in (sizer, kmerge.AutoSizer.load(tmp_path / "sizer.npz")):
        grown.fit(x, y, epochs=3, initial_epoch=1, static_epochs=0, verbose=0)
        assert grown.sizes == {"first": 13, "second": 13}
        first = grown.model.get_layer("first")
        assert np.all(np.any(np.asarray(first.kernel), axis=0))
        np.testing.assert_allclose(grown.predict(x, verbose=0), before, atol=2e-3)


def test_a_constant_that_a_unit_leaves_reaches_the_average_of_the_bias_that_reads_it():
    x = keras.Input((6,))
    norm = keras.layers.BatchNormalization(momentum=1.0)
    h = keras.layers.ReLU()(norm(keras.layers.Dense(4, name="hidden")(x)))
    model = randomized(keras.Model(x, keras.layers.Dense(3, activation="softmax")(h)))
    norm.gamma.assign([1.0, 1e-6, 1.0, 1.0])
    norm.beta.assign([0.1, 0.7, 0.2, 0.3])
    data = task(model)
    before = model.predict(data[0], verbose=0)
    sizer = sizer_of(model, keras.optimizers.Adam(0.0, use_ema=True, ema_momentum=1.0), grow=False)
    sizer.fit(*data, epochs=2, static_epochs=1, verbose=0)
    assert sizer.sizes == {"hidden": 3}
    np.testing.assert_allclose(sizer.predict(data[0], verbose=0), before, atol=1e-5)
