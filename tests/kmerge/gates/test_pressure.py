import dataclasses
import json

import keras
import numpy as np
import pytest

import kmerge
from kmerge.errors import InvalidArgumentError
from kmerge.gates.hard_concrete import gates_of
from kmerge.gates.optimizer import gate_optimizer
from kmerge.gates.pressure import GateControl, GatePressure
from tests.kmerge.gates.cases import compiled, drive
from tests.programs import without_programs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3)).astype("float32")
Y = X[:, :2] * 2


def fit(model, epochs=1, batch_size=16, **arguments):
    """Trains by the three steps of each epoch, of which no program is made."""
    with without_programs():
        return model.fit(X, Y, batch_size=batch_size, epochs=epochs, verbose=0, **arguments).history


def split(model):
    """Values of the gates' locs, and of all other trainable variables, by path."""
    values = {v.path: np.asarray(v).copy() for v in model.trainable_variables}
    locs = {path: values.pop(path) for path in [gate.loc.path for gate in gates_of(model)]}
    return locs, values


# --- the optimizer ---


def test_each_group_moves_at_its_own_rate():
    model = compiled(gate_optimizer(keras.optimizers.SGD(0.0), gate_learning_rate=0.5))
    locs, others = split(model)
    fit(model)
    new_locs, new_others = split(model)
    assert all(np.array_equal(others[path], new_others[path]) for path in others)
    assert all(np.abs(locs[path] - new_locs[path]).max() > 1e-4 for path in locs)


def test_gates_step_by_sgd_and_the_rest_by_base():
    """One step on a loss that is linear in every variable: gates move by 0.3, the rest, with Adam, by 0.01."""
    gate = keras.Variable(np.ones(4, "float32"), name="gate_loc")
    weight = keras.Variable(np.ones((2, 2), "float32"), name="kernel")
    optimizer = gate_optimizer(keras.optimizers.AdamW(0.01, weight_decay=0.5), 0.3, gate_momentum=0.0)
    optimizer.build([gate, weight])
    for step in range(1, 3):
        optimizer.apply([np.ones(4, "float32"), np.ones((2, 2), "float32")], [gate, weight])
        np.testing.assert_allclose(np.asarray(gate), 1 - 0.3 * step, rtol=1e-5)
    decayed = (1 - 0.005) * ((1 - 0.005) - 0.01) - 0.01
    np.testing.assert_allclose(np.asarray(weight), decayed, rtol=1e-4)
    assert int(optimizer.iterations) == 2


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_gates_are_not_clipped_with_the_base(clip):
    gate = keras.Variable(np.zeros(1, "float32"), name="gate_loc")
    weight = keras.Variable(np.zeros(1, "float32"), name="kernel")
    optimizer = gate_optimizer(keras.optimizers.SGD(1.0, **{clip: 0.5}), 1.0)
    optimizer.build([gate, weight])
    optimizer.apply([np.full(1, 8, "float32"), np.full(1, 2, "float32")], [gate, weight])
    np.testing.assert_allclose([np.asarray(gate)[0], np.asarray(weight)[0]], [-8, -0.5], rtol=1e-5)


def test_weight_decay_spares_the_gates():
    model = compiled(gate_optimizer(keras.optimizers.SGD(0.1, weight_decay=0.9), gate_learning_rate=1e-30))
    locs, others = split(model)
    fit(model, epochs=3, callbacks=[GatePressure()])
    new_locs, new_others = split(model)
    assert all(np.array_equal(locs[path], new_locs[path]) for path in locs)
    kernel = next(path for path in others if path.endswith("head/kernel"))
    assert np.abs(new_others[kernel]).sum() < 0.8 * np.abs(others[kernel]).sum()


def test_loss_scale_and_accumulation_of_the_base_hold_for_the_gates():
    base = keras.optimizers.SGD(0.1, loss_scale_factor=8.0, gradient_accumulation_steps=2)
    optimizer = gate_optimizer(base, 1.0)
    assert (base.loss_scale_factor, optimizer.gates.loss_scale_factor) == (8.0, 8.0)
    gate = keras.Variable(np.zeros(1, "float32"), name="gate_loc")
    optimizer.build([gate])
    optimizer.apply([np.full(1, 8, "float32")], [gate])
    assert np.asarray(gate)[0] == 0
    optimizer.apply([np.full(1, 24, "float32")], [gate])
    np.testing.assert_allclose(np.asarray(gate), -2.0)


def test_learning_rate_is_the_bases_for_schedules_and_callbacks():
    optimizer = gate_optimizer(keras.optimizers.SGD(0.1), gate_learning_rate=0.25)
    model = compiled(optimizer)
    history = fit(model, 3, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: [0.3, 0.02, 0.01][epoch])])
    np.testing.assert_allclose(history["learning_rate"], [0.3, 0.02, 0.01], rtol=1e-6)
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.01, rtol=1e-6)
    np.testing.assert_allclose(float(optimizer.gates.learning_rate), 0.25, rtol=1e-6)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)
    history = fit(model, 3, callbacks=[plateau])
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.0025, rtol=1e-6)
    np.testing.assert_allclose(float(optimizer.gates.learning_rate), 0.25, rtol=1e-6)

    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.125])
    scheduled = gate_optimizer(keras.optimizers.SGD(schedule))
    fit(compiled(scheduled))
    np.testing.assert_allclose(float(scheduled.learning_rate), 0.125)


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"], indirect=True)
def test_a_compiled_gated_model_saves_and_loads_and_goes_on(tmp_path, policy):
    model = compiled(gate_optimizer(keras.optimizers.Adam(0.02), 0.3, gate_momentum=0.5))
    fit(model, 2, callbacks=[GatePressure()])
    model.save(tmp_path / "gated.keras")
    loaded = keras.models.load_model(tmp_path / "gated.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert type(loaded.optimizer) is type(model.optimizer)
    old, new = model.optimizer.variables, loaded.optimizer.variables
    for before, after in zip(old, new, strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert len(old) > 10
    # The noise starts anew in a loaded model, so compare what does not depend on it: the base's step count goes on.
    fit(loaded, 1)
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) + 3


def test_optimizer_configuration_round_trip():
    optimizer = gate_optimizer(keras.optimizers.Adam(0.02, weight_decay=0.1), 0.3, gate_momentum=0.5)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert copy.get_config()["gate_learning_rate"] == pytest.approx(0.3)


@pytest.mark.parametrize("wrap", [gate_optimizer, keras.optimizers.LossScaleOptimizer])
def test_gates_in_two_groups_are_refused(wrap):
    with pytest.raises(InvalidArgumentError, match="second group"):
        gate_optimizer(wrap(keras.optimizers.SGD(0.1)))


def test_bases_that_cannot_serve_are_refused():
    built = keras.optimizers.SGD(0.1, name="mine")
    built.build([keras.Variable(np.zeros(1), name="kernel")])
    with pytest.raises(InvalidArgumentError, match="'mine', which already belongs to a model"):
        gate_optimizer(built)
    for settings in ({"gate_learning_rate": 0.0}, {"gate_learning_rate": float("nan")}, {"gate_momentum": 1.0}):
        with pytest.raises(InvalidArgumentError, match=f"received.*{list(settings.values())[0]!r}"):
            gate_optimizer("sgd", **settings)
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    plain.compile(gate_optimizer("adam"), "mse")
    with pytest.raises(InvalidArgumentError, match="no gate"):
        fit(plain)


# --- the pressure ---


@pytest.mark.parametrize("start, step, epochs, end", [(0.01, 0.05, 150, 14.5), (0.05, 0.05, 100, 7.25)])
def test_lambda_rises_as_in_the_paper(start, step, epochs, end):
    """The end values are those of the paper's sine and CIFAR-100 runs."""
    model = compiled(gate_optimizer(keras.optimizers.SGD(0.0), 1e-9))
    history = keras.callbacks.History()
    drive(model, epochs, [GatePressure("paper", start=start, step=step), history])
    pressure = history.history["gate_pressure"]
    assert len(pressure) == epochs
    assert pressure[0] == pytest.approx(start + step * start**0.5, rel=1e-5)
    assert pressure[-1] == pytest.approx(end, abs=0.03)
    np.testing.assert_allclose(np.diff(pressure), step * np.sqrt(pressure[:-1]), rtol=1e-3)


def test_a_resumed_run_has_the_pressure_of_an_uninterrupted_one():
    whole = fit(compiled(gate_optimizer("sgd")), 5, 48, callbacks=[GatePressure("paper")])["gate_pressure"]
    model = compiled(gate_optimizer("sgd"))
    parts = fit(model, 2, 48, callbacks=[GatePressure("paper")])["gate_pressure"]
    parts += fit(model, 5, 48, initial_epoch=2, callbacks=[GatePressure("paper")])["gate_pressure"]
    assert parts == whole


def test_logs_tell_pressure_penalty_and_undecided_share():
    model = compiled(gate_optimizer(keras.optimizers.SGD(0.0), 1e-9))
    first, second = gates_of(model)
    first.build(None) if not first.built else None
    first.loc.assign([5.0, 5, 5, -2, -2, -9])
    second.loc.assign([5.0, 5, -9, -9])
    history = fit(model, callbacks=[GatePressure("paper")])
    probabilities = [gate.open_probabilities() for gate in (first, second)]
    expected = sum((p.mean() - 0.5) ** 2 for p in probabilities)
    assert history["gate_penalty"] == pytest.approx([expected], rel=1e-4)
    assert history["gate_undecided"] == pytest.approx([2 / 10])
    assert history["gate_pressure"] == pytest.approx([0.05 + 0.05 * 0.05**0.5])


def test_lagrangian_meets_the_budget_of_every_space_to_one_unit():
    model = compiled(gate_optimizer("sgd", gate_learning_rate=0.3), widths=(12, 8), target=0.25)
    model.layers[-1].supports_jit = False  # XLA would take most of the time
    history = kmerge.fit(model, X, Y, batch_size=16, epochs=60, verbose=0, callbacks=[GatePressure("lagrangian")]).history
    # Not better than that: of six seeds one ended with a unit too many, at .331 of 12 units, and stays there.
    for gate in gates_of(model):
        assert gate.open_probabilities().mean() == pytest.approx(0.25, abs=0.03 + 1 / gate.units)
    assert history["gate_penalty"][-1] < 0.02 * history["gate_penalty"][0]
    assert history["gate_pressure"] == [10.0] * 60
    assert all(
        float(gate.polarization) == pytest.approx(0.05) and float(gate.multiplier) != 0 for gate in gates_of(model)
    )


@pytest.mark.parametrize("control", ["paper", "lagrangian", "fade"])
def test_a_compiled_epoch_is_driven_as_model_fit_is(control):
    def run(fit_model):
        keras.utils.set_random_seed(1)
        # One batch an epoch, and gates so open that no noise closes them: neither order nor noise matters.
        model = compiled(gate_optimizer(keras.optimizers.SGD(0.05), 0.5), start=20.0)
        model.layers[-1].supports_jit = False  # XLA would take most of the time
        return fit_model(model, X, Y, batch_size=48, epochs=5, verbose=0, callbacks=[GatePressure(control)]).history

    def by_steps(model, *data, **arguments):
        with without_programs():
            return model.fit(*data, **arguments)

    epoch, step = run(kmerge.fit), run(by_steps)
    assert epoch.keys() == step.keys()
    for key in epoch:
        np.testing.assert_allclose(epoch[key], step[key], rtol=1e-3, atol=1e-4, err_msg=key)


def test_fade_chooses_nothing_before_the_gates_have_trained():
    model = compiled(gate_optimizer("sgd"))
    with pytest.warns(UserWarning, match="ended before its gates reached their end.* all of the 1 epochs, two at least"):
        fit(model, 1, callbacks=[GatePressure("fade")])
    assert all(float(gate.hardness) == 0 and not np.asarray(gate.chosen).any() for gate in gates_of(model))


@pytest.mark.parametrize("epochs", [2, 5, 12])
def test_fade_ends_in_a_hard_choice_that_later_epochs_keep(epochs):
    model = compiled(gate_optimizer("sgd"))
    choices = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: choices.append([np.asarray(gate.chosen).copy() for gate in gates_of(model)])
    )
    history = fit(model, epochs, 48, callbacks=[GatePressure("fade"), watch])
    assert history["gate_undecided"][-1] == 0
    for gate, chosen in zip(gates_of(model), choices[-1], strict=True):
        assert float(gate.hardness) == 1
        np.testing.assert_array_equal(gate.values(), chosen)
        assert gate.values().sum() == gate.units / 2
    started = [now for now in choices if now[0].any()]
    assert all(np.array_equal(now[0], started[0][0]) for now in started)
    assert epochs < 12 or not choices[0][0].any()


@pytest.mark.parametrize("start, epochs", [(0, 4), (0, 1), (5, 30)])
@pytest.mark.parametrize("control", ["fade", "paper"])
def test_gates_that_reached_their_end_stay_there_with_a_word(control, start, epochs):
    model = compiled(gate_optimizer("sgd"))
    drive(model, 5, [GatePressure()])
    before = [np.asarray(v) for gate in gates_of(model) for v in (gate.chosen, gate.hardness)]
    if control == "fade" or start == 0:
        with pytest.warns(UserWarning, match=r"reached their end in an earlier fit.*GatePressure\(restart=True\)"):
            drive(model, epochs, [GatePressure(control)], start=start)
    after = [np.asarray(v) for gate in gates_of(model) for v in (gate.chosen, gate.hardness)]
    assert all(map(np.array_equal, before, after)) and before[1] == 1


def test_a_run_that_is_resumed_after_the_fade_says_nothing_and_one_that_begins_anew_in_it_does(recwarn):
    model = compiled(gate_optimizer("sgd"))
    drive(model, 5, [GatePressure()])
    drive(model, 5, [GatePressure()], start=4)
    assert not recwarn.list
    gates_of(model)[0].hardness.assign(0.25)
    with pytest.warns(UserWarning, match="faded to 25% in a fit that ended early, and start anew.*initial_epoch"):
        drive(model, 5, [GatePressure()])
    assert all(gate.is_decided() for gate in gates_of(model))


def test_a_new_run_begins_from_neutral_gates():
    model = compiled(gate_optimizer("sgd"))
    drive(model, 3, [GatePressure("fade")])
    drive(model, 1, [GatePressure("paper", restart=True)])
    for gate in gates_of(model):
        assert float(gate.hardness) == 0 and not np.asarray(gate.chosen).any()
        assert gate.undecided() < 1 and float(gate.pressure) > 0


def test_a_control_of_ones_own():
    class Constant(GateControl):
        def before_epoch(self, gates, epoch, epochs):
            for gate in gates:
                gate.pressure.assign(10.0 * epoch + epochs)

    history = fit(compiled(gate_optimizer("sgd")), 3, callbacks=[GatePressure(Constant())])
    assert history["gate_pressure"] == [3.0, 13.0, 23.0]
    with pytest.raises(InvalidArgumentError, match="holds its own settings"):
        GatePressure(Constant(), start=1.0)


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class Rise(GateControl):
    """A user's control, as a dataclass."""

    rate: float = 1.0
    penalty: keras.regularizers.Regularizer | None = None


@keras.saving.register_keras_serializable("tests")
class Hold(GateControl):
    """A user's control with an `__init__` of its own."""

    def __init__(self, pressure):
        self.pressure = pressure

    def get_config(self):
        return {"pressure": self.pressure}


CONTROLS = [
    GateControl(),
    kmerge.PaperControl(start=0.01, step=0.2),
    kmerge.LagrangianControl(rho=3.0, eta=0.25, polarization=0.5),
    kmerge.FadeControl(pressure=0.5, compete=0.25, settle=0.125),
    Rise(2.0, kmerge.regularizers.L21(0.5)),
    Hold(0.75),
]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: type(control).__name__)
def test_controls_are_saved_with_their_settings(control):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(control)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(control) and list(map(type, vars(copy).values())) == list(map(type, vars(control).values()))
    assert json.loads(json.dumps(keras.saving.serialize_keras_object(copy))) == config
    same = type(control).from_config(control.get_config())
    assert same.get_config() == control.get_config() == vars(control)
    if dataclasses.is_dataclass(control):
        assert control != type(control)(), "settings that are not the defaults"


def test_a_control_whose_arguments_nobody_knows_is_not_saved_without_them():
    class Silent(GateControl):
        def __init__(self, pressure):
            self.pressure = pressure

    with pytest.raises(NotImplementedError, match="Silent has an __init__ of its own.*get_config"):
        keras.saving.serialize_keras_object(Silent(1.0))


def test_wrong_controls_and_settings_are_refused():
    with pytest.raises(InvalidArgumentError, match="control to be one of .*'paper'.* received 'papre'.*GateControl"):
        GatePressure("papre")
    with pytest.raises(InvalidArgumentError, match=r"'paper'.*settings to be among \['start', 'step'\], received \['rho'\]"):
        GatePressure("paper", rho=1.0)
    with pytest.raises(InvalidArgumentError, match="PaperControl: expected step to be a number of at least 0, received -1"):
        GatePressure("paper", step=-1)
    with pytest.raises(InvalidArgumentError, match="settle to be a number of at least 0 and of at most 1, received 1.5"):
        kmerge.FadeControl(settle=1.5)


def test_pressure_needs_gates_that_are_not_decayed():
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    plain.compile("sgd", "mse")
    with pytest.raises(InvalidArgumentError, match="'plain', which has none"):
        fit(plain, callbacks=[GatePressure()])
    decaying = keras.optimizers.SGD(0.1, weight_decay=1e-4, name="decaying")
    with pytest.raises(InvalidArgumentError, match="'decaying' with weight_decay.*gate_optimizer"):
        fit(compiled(decaying), callbacks=[GatePressure()])
    with pytest.raises(InvalidArgumentError, match="train without weight decay"):
        fit(compiled(keras.optimizers.AdamW()), callbacks=[GatePressure()])
    assert "gate_pressure" in fit(compiled(keras.optimizers.SGD(0.1)), callbacks=[GatePressure("paper")])


def test_patience_ends_training_once_the_choice_stands():
    model = compiled(gate_optimizer(keras.optimizers.SGD(0.01)))
    last = drive(model, 40, [GatePressure("fade", patience=2)])
    # The gates compete in 12 epochs and fade in 16; in the first that follows the mask is the choice.
    assert last == 28
    for gate in gates_of(model):
        np.testing.assert_array_equal(gate.values(), np.asarray(gate.chosen))
        assert gate.values().sum() == len(gate.kept())


def test_patience_counts_epochs_without_a_change():
    class Turn(GateControl):
        """Swaps which unit of each space is the most open, up to epoch 4."""

        def after_epoch(self, gates, epoch, epochs):
            for gate in gates:
                gate.loc.assign(np.roll(np.linspace(3, -3, gate.units), min(epoch, 4)))

    model = compiled(gate_optimizer("sgd"))
    assert drive(model, 20, [GatePressure(Turn(), patience=3)]) == 7
    with pytest.raises(InvalidArgumentError, match="patience to be a whole number of at least 1 or None, received 0"):
        GatePressure("paper", patience=0)
