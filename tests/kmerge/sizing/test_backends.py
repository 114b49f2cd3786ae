"""Auto-sizing on each backend: programs that see sizes change, and idle units that stay idle."""

import keras
import numpy as np
import pytest

import kmerge
from tests.kmerge.sizing.cases import plain_net, residual_net, sizer_of, task

pytestmark = pytest.mark.both_backends


def test_sizes_change_under_one_program():
    model = plain_net()
    sizer = sizer_of(model, alpha=1e-2, threshold=0.05)
    history = sizer.fit(*task(model), batch_size=8, epochs=2, static_epochs=0, verbose=0)
    assert sizer.compiles == 1, "there is room for 16 units"
    assert sizer.exact == [], "idle units have learned"
    assert sum(sizer.sizes.values()) < sum(sizer.history_of_sizes[-1]["grown"].values())
    assert history.history["loss"][1] != history.history["loss"][0] and np.isfinite(history.history["loss"]).all()


def test_units_behind_a_normalization_stay_idle_too():
    model = residual_net()
    sizer = sizer_of(model)
    sizer.fit(*task(model), batch_size=16, epochs=1, static_epochs=0, verbose=0)
    assert sizer.exact == [] and sizer.compiles == 1
    assert {n: s.size for n, s in kmerge.channel_spaces(sizer.model).items() if s.selectable} == sizer.sizes


def test_mixed_precision_with_its_scaled_loss():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = plain_net()
        sizer = sizer_of(model)
        history = sizer.fit(*task(model), batch_size=16, epochs=2, static_epochs=0, verbose=0)
        found = sizer.model
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert np.isfinite(history.history["loss"]).all() and sizer.exact == []
    assert type(found.optimizer).__name__ == "LossScaleOptimizer"
