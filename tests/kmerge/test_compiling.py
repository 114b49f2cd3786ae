"""compile=True: what comes back trains as the model did, and shares no state with it."""

import keras
import numpy as np
import pytest

import kmerge
from tests.programs import without_programs


def two_heads():
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(8, "relu", name="hidden")(inputs)
    return keras.Model(inputs, {n: keras.layers.Dense(3, name=n)(hidden) for n in ("a", "b")})


def compiled(model, **options):
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 100), weight_decay=0.1, clipnorm=2.0)
    metrics = {"a": ["mae", keras.metrics.MeanSquaredError("mse_a")], "b": [keras.metrics.MeanAbsoluteError("mae_b")]}
    losses = {"a": "mse", "b": keras.losses.Huber(0.3)}
    arguments = {"loss_weights": {"a": 1.0, "b": 0.25}, "jit_compile": False, "metrics": metrics, **options}
    model.compile(optimizer, losses, **arguments)
    return model


def batch():
    rng = np.random.default_rng(0)
    x, a, b = (rng.normal(size=(8, n)).astype("float32") for n in (5, 3, 3))
    return x, {"a": a, "b": b}


def cut(model):
    return {
        "select": lambda **options: kmerge.select(model, {}, **options),
        "prune": lambda **options: kmerge.prune(model, budget=1.0, **options),
    }


@pytest.mark.parametrize("verb", ["select", "prune"])
@pytest.mark.both_backends
def test_the_new_model_trains_as_this_one_does(verb):
    """One step of both, from the same weights with all units kept, ends at the same weights and the same metrics."""
    model = compiled(two_heads())
    assert not cut(model)[verb]().compiled, "only where it is asked for"
    new = cut(model)[verb](compile=True)
    assert new.optimizer is not model.optimizer and new.optimizer.get_config() == model.optimizer.get_config()
    with without_programs():
        logs = [m.train_on_batch(*batch(), return_dict=True) for m in (model, new)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5) and "mse_a" in "".join(logs[0])
    for before, after in zip(model.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@without_programs()
def test_no_state_is_shared():
    model = compiled(two_heads())
    model.train_on_batch(*batch())
    new = kmerge.select(model, {"hidden": 0.5}, compile=True)
    assert int(new.optimizer.iterations) == 0
    held = {id(v) for metric in model.metrics for v in metric.variables} | {id(v) for v in model.optimizer.variables}
    new.train_on_batch(*batch())
    assert not held & {id(v) for metric in new.metrics for v in metric.variables}
    assert int(model.optimizer.iterations) == 1 and int(new.optimizer.iterations) == 1


def test_a_student_has_the_base_of_its_gate_optimizer():
    gated = kmerge.gate(two_heads(), 0.5)
    gated.compile(kmerge.gate_optimizer(keras.optimizers.SGD(0.03, momentum=0.5)), "mse")
    student = kmerge.compress(gated, keep={"hidden": [0, 2, 4, 6]}, compile=True)
    assert type(student.optimizer) is keras.optimizers.SGD and not student.optimizer.built
    assert (float(student.optimizer.learning_rate), student.optimizer.momentum) == (pytest.approx(0.03), 0.5)
    assert student.loss == "mse"


class Hidden(keras.metrics.Metric):
    """Its configuration does not hold its argument: built again it would be another."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return self.factor


class Own(keras.Model):
    def train_step(self, data):
        return {}


@pytest.mark.parametrize(
    "build, message",
    [
        (two_heads, "compiled, received 'functional.*Call model.compile first"),
        (lambda: compiled(two_heads(), metrics=[Hidden(3.0)]), "get_config of metric Hidden.*leaves out factor"),
        (lambda: compiled(Own(*(lambda m: (m.inputs, m.output))(two_heads()))), "Own with its own train_step"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(build, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=f"compile=True: expected .*{message}"):
        kmerge.select(build(), {}, compile=True)
