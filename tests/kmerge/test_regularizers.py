"""`kmerge.regularizers`: what they add up to, and their gradient at zero."""

import keras
import numpy as np
import pytest

import kmerge
from kmerge.regularizers import L21, LInf1, WeightedL1
from tests.models import JIT
from tests.programs import without_programs

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(1)
KERNEL = RNG.normal(size=(3, 3, 2, 5)).astype("float32")
ROWS = KERNEL.reshape(-1, 5)
RANKS = np.arange(1, 6)

EXPECTED = {
    "identity": (WeightedL1(0.1), 0.1 * (RANKS * np.abs(ROWS).sum(axis=0)).sum()),
    "sqrt": (WeightedL1(0.1, "sqrt"), 0.1 * (np.sqrt(RANKS) * np.abs(ROWS).sum(axis=0)).sum()),
    "function": (WeightedL1(0.1, np.log1p), 0.1 * (np.log1p(RANKS) * np.abs(ROWS).sum(axis=0)).sum()),
    "step": (WeightedL1(0.1, "step"), 0.1 * np.abs(ROWS).sum()),
    "l21": (L21(0.1), 0.1 * np.sqrt(np.square(ROWS).sum(axis=0)).sum()),
    "linf1": (LInf1(0.1), 0.1 * np.abs(ROWS).max(axis=0).sum()),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_penalty_is_that_of_the_papers(name):
    regularizer, expected = EXPECTED[name]
    assert float(regularizer(keras.ops.convert_to_tensor(KERNEL))) == pytest.approx(expected, rel=1e-5)
    if not callable(getattr(regularizer, "f", None)):
        copy = keras.regularizers.deserialize(keras.regularizers.serialize(regularizer))
        assert float(copy(keras.ops.convert_to_tensor(KERNEL))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regularizer", [WeightedL1(0.1), L21(0.1), LInf1(0.1)], ids=lambda r: type(r).__name__)
def test_units_that_are_zero_stay_zero(regularizer):
    x = keras.Input((4,))
    layer = keras.layers.Dense(3, kernel_regularizer=regularizer, bias_regularizer=regularizer, name="layer")
    model = keras.Model(x, keras.layers.Dense(1, name="out")(layer(x)))
    kernel = RNG.normal(size=(4, 3)) * [1.0, 0.0, 1.0]
    layer.kernel.assign(kernel)
    out = model.get_layer("out")
    out.kernel.assign([[1.0], [0.0], [1.0]])
    model.compile("adam", "mse", jit_compile=JIT)
    with without_programs():
        model.fit(RNG.normal(size=(32, 4)), RNG.normal(size=(32, 1)), epochs=2, verbose=0)
    after = keras.ops.convert_to_numpy(layer.kernel)
    assert not np.any(after[:, 1]) and np.isfinite(after).all()
    assert np.all(after[:, [0, 2]] != kernel.astype("float32")[:, [0, 2]])


@pytest.mark.parametrize("kind", [WeightedL1, L21, LInf1])
@pytest.mark.parametrize("alpha", [0, -1.0, np.nan, "much"])
def test_alpha_must_be_positive(kind, alpha):
    with pytest.raises(
        kmerge.InvalidArgumentError, match=f"{kind.__name__}: expected alpha to be a number above 0, received {alpha!r}"
    ):
        kind(alpha)


@pytest.mark.parametrize(
    "f, message",
    [
        (lambda rank: rank + 1, "0 at rank 0.*gives \\[1.0, 2.0, 3.0\\]"),
        (lambda rank: rank * (10 - rank), "not to decrease"),
        (lambda rank: rank * 0, "somewhere rise"),
        (lambda rank: 3.0, "one number for each rank"),
        ("cube", "f to be one of .*received 'cube'.*function"),
    ],
)
def test_a_growth_function_rises_from_the_origin(f, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        WeightedL1(1e-3, f)
