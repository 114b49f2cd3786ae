"""How gates are driven to their budget: the optimizer that trains them and the pressure that rises over the epochs.

`gate_optimizer` gives the gates a learning rate of their own. `GatePressure` sets, at the borders of epochs, the state
that every gate layer holds: the weights of its loss, and how far its mask is moved to a fixed choice. What it sets is a
`GateControl`:

    control        what it does                                                    the gates at the end
    "paper"        lambda * d^2, lambda rising quadratically                       undecided: the cut hurts on conv nets
    "lagrangian"   rho * d^2 from the start, a multiplier per space                undecided, but their mean is exact
    "fade"         lets gates compete, then fades the rest of the units out        exactly 0 or 1: the cut is lossless

with d = mean P(g > 0) - target.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from kmerge import checks
from kmerge.errors import InvalidArgumentError
from kmerge.gates.hard_concrete import HardConcreteGate, gates_of
from kmerge.gates.optimizer import GateOptimizer

_STATE = ("pressure", "multiplier", "polarization", "hardness")


@keras.saving.register_keras_serializable("kmerge")
class GateControl:
    """A rule that sets the state of the gates at the borders of epochs. `epoch` counts from 0 to `epochs` - 1.

    The state: `gate.pressure`, `gate.multiplier`, `gate.polarization`, `gate.hardness`, all variables, and
    `gate.choose()`. It is 0 when epoch 0 begins. Subclass it for a rule of your own. Controls are saved as Keras objects are:
    register the subclass with `keras.saving.register_keras_serializable`, and override `get_config` if it takes arguments
    and is no dataclass.

    Example:
        >>> class Constant(kmerge.GateControl):
        ...     def before_epoch(self, gates, epoch, epochs):
        ...         for gate in gates:
        ...             gate.pressure.assign(2.0)
        >>> pressure = kmerge.GatePressure(Constant())
    """

    def before_epoch(self, gates: Sequence[HardConcreteGate], epoch: int, epochs: int) -> None:
        """Called when an epoch begins."""

    def after_epoch(self, gates: Sequence[HardConcreteGate], epoch: int, epochs: int) -> None:
        """Called when an epoch has ended."""

    def is_through(self, gates: Sequence[HardConcreteGate]) -> bool:
        """Whether training may stop here if the choice of units no longer changes."""
        return True

    def get_config(self) -> dict:
        """The arguments of a control of this class that does the same: of a dataclass its fields."""
        if dataclasses.is_dataclass(self):
            return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        if type(self).__init__ is not object.__init__:
            raise NotImplementedError(
                f"{type(self).__name__} has an __init__ of its own: expected it to override get_config, which returns the "
                "arguments of __init__."
            )
        return {}

    @classmethod
    def from_config(cls, config: dict) -> "GateControl":
        """A control of this configuration, in which Keras may have written objects as dictionaries."""
        read = keras.saving.deserialize_keras_object
        return cls(**{name: read(value) if isinstance(value, dict) else value for name, value in config.items()})


def _check_settings(control: GateControl, *shares: str) -> None:
    """Refuses settings that are no numbers from 0 on, and shares above 1."""
    for name, value in control.get_config().items():
        checks.number(name, value, least=0, most=1 if name in shares else None, of=type(control).__name__)


@keras.saving.register_keras_serializable("kmerge")
@dataclasses.dataclass(frozen=True)
class PaperControl(GateControl):
    """`lambda * d^2`, where lambda rises before each epoch: `lambda += step * sqrt(lambda)`, from `start`.

    Args:
        start: lambda before its first rise.
        step: size of the rise.

    Raises:
        InvalidArgumentError: if a setting is no number from 0 on.

    Reference:
        Pašen and Boža, Merging of neural networks, section 3, figure 5.

    Example:
        >>> control = kmerge.PaperControl(start=0.05, step=0.05)
        >>> round(control.pressure(epoch=99), 2)
        7.25
    """

    start: float = 0.05
    step: float = 0.05

    def __post_init__(self):
        _check_settings(self)

    def pressure(self, epoch: int) -> float:
        """Lambda in an epoch, counted from 0."""
        checks.whole_number("epoch", epoch, 0, of="PaperControl.pressure")
        # From the start, not from the variable: so a resumed run has the pressure of an uninterrupted one.
        pressure = self.start
        for _ in range(epoch + 1):
            pressure += self.step * pressure**0.5
        return pressure

    def before_epoch(self, gates, epoch, epochs):
        for gate in gates:
            gate.pressure.assign(self.pressure(epoch))


@keras.saving.register_keras_serializable("kmerge")
@dataclasses.dataclass(frozen=True)
class LagrangianControl(GateControl):
    """An augmented Lagrangian: `rho * d^2 + mu * d`, mu per space, and a term that decides gates, rising linearly.

    Args:
        rho: weight of the square, from the first step on.
        eta: after each epoch `mu += eta * d`.
        polarization: weight of `mean(P * (1 - P))` in the last epoch.

    Raises:
        InvalidArgumentError: if a setting is no number from 0 on.

    Example:
        >>> pressure = kmerge.GatePressure(kmerge.LagrangianControl(rho=5.0))
    """

    rho: float = 10.0
    eta: float = 0.5
    polarization: float = 0.05

    def __post_init__(self):
        _check_settings(self)

    def before_epoch(self, gates, epoch, epochs):
        for gate in gates:
            gate.pressure.assign(self.rho)
            gate.polarization.assign(self.polarization * (epoch + 1) / epochs)

    def after_epoch(self, gates, epoch, epochs):
        for gate in gates:
            gate.multiplier.assign_add(self.eta * _distance(gate))


@keras.saving.register_keras_serializable("kmerge")
@dataclasses.dataclass(frozen=True)
class FadeControl(GateControl):
    """Lets the gates compete, then makes the choice and fades the mask into it, linearly, while the weights adapt.

    In the first `compete` of the epochs the loss is that of the paper's control at a constant `pressure`. Then the most
    open units of each space are chosen for good, and the mask moves from the gates' samples to the choice. In the last
    epochs, about `settle` of them and at least one, the mask is exactly the choice: the network trains as it will be
    after the cut, which then changes nothing but BatchNormalization's lag. A single epoch leaves no time to fade: the
    gates compete all through it.

    Args:
        pressure: weight of `d^2`.
        compete: share of the epochs before the choice.
        settle: share of the epochs after the mask has become the choice.

    Raises:
        InvalidArgumentError: if a setting is no number from 0 on, or a share above 1.

    Example:
        >>> pressure = kmerge.GatePressure(kmerge.FadeControl(compete=0.5))
    """

    pressure: float = 0.05
    compete: float = 0.3
    settle: float = 0.3

    def __post_init__(self):
        _check_settings(self, "compete", "settle")

    def before_epoch(self, gates, epoch, epochs):
        first = min(round(self.compete * epochs), epochs - 1)
        last = max(first, min(epochs - 1, round((1 - self.settle) * epochs)))
        hardness = np.clip((epoch - first + 1) / (last - first + 1), 0, 1) if epochs > 1 else 0.0
        for gate in gates:
            gate.pressure.assign(self.pressure)
            if hardness > 0 and not np.asarray(gate.chosen).any():
                gate.choose()
            gate.hardness.assign(hardness)

    def is_through(self, gates):
        return all(np.asarray(gate.hardness) == 1 for gate in gates)


CONTROLS = {"paper": PaperControl, "lagrangian": LagrangianControl, "fade": FadeControl}


def _openness(gate: HardConcreteGate) -> float:
    """The largest value of a gate in inference among those of the units that are not kept."""
    return float(np.delete(gate.values(), gate.kept()).max(initial=0.0))


def _distance(gate: HardConcreteGate) -> float:
    return float(np.mean(gate.open_probabilities(), dtype="float64")) - gate.target


class GatePressure(keras.callbacks.Callback):
    """Drives the share of open gates to its target while a gated model trains, and reports how far it is.

    It acts only when an epoch begins and ends, so a whole epoch may be one compiled program. When epoch 0 begins, the
    state of all gates is set back to 0; with `initial_epoch` training goes on where it was. Gates that reached their end in
    an earlier `fit`, where the mask is the choice, stay there: more epochs train the network as it will be after the cut.

    At the end of each epoch `logs` gains
    `gate_pressure`: the weight of `d^2` (the paper's lambda), mean over the gate layers;
    `gate_penalty`: the sum over the gate layers of `d^2`;
    `gate_undecided`: the share of all units with .1 < P(g > 0) < .9.
    Callbacks that report logs (`TensorBoard`, `CSVLogger`) come after it in the list.

    Args:
        control: `"fade"` (the default: what `compress` then cuts off contributes nothing any more), `"paper"`,
            `"lagrangian"`, or a `GateControl`.
        patience: stop training after this many epochs in which no unit entered or left the choice that `compress` would
            make, and the control has done its work (`"fade"`: the mask is the choice). None never stops. Epochs of
            the big student cost several times those of the student: spend what is left there. Training that is resumed with
            `initial_epoch` counts anew.
        restart: whether gates that reached their end in an earlier `fit` compete anew.
        **settings: the arguments of the named control, e.g. `GatePressure("paper", start=.01, step=.05)`;
            see `PaperControl`, `LagrangianControl`, `FadeControl`.

    Raises:
        InvalidArgumentError: if the control or a setting is unknown or out of range; in training, if the model has no
            gates, or its optimizer would decay them.

    Warns:
        UserWarning: if training ends before the control has done its work, as when `EarlyStopping` ends it; if gates
            stay at the end that they reached in an earlier `fit`, or a fade that was interrupted starts anew.

    Reference:
        Pašen and Boža, Merging of neural networks, section 3.

    Example:
        >>> big = kmerge.merge(model, other)
        >>> big.compile(kmerge.gate_optimizer("adam"), loss)
        >>> history = big.fit(x, y, epochs=3, callbacks=[kmerge.GatePressure()], verbose=0).history
        >>> history["gate_undecided"][-1]
        0.0
    """

    def __init__(
        self, control: str | GateControl = "fade", patience: int | None = None, *, restart: bool = False, **settings: float
    ):
        super().__init__()
        self.patience = checks.whole_number("patience", patience, optional=True)
        self.restart = checks.flag("restart", restart)
        self.control = control if isinstance(control, GateControl) else _named_control(control, settings)
        if self.control is control and settings:
            checks.refuse("settings", "none beside a GateControl, which holds its own settings", settings)

    def on_train_begin(self, logs=None):
        self.gates = gates_of(self.model)
        if not self.gates:
            raise InvalidArgumentError(
                f"GatePressure: expected a model with gates, received {self.model.name!r}, which has none. "
                "Make one with kmerge.merge."
            )
        for gate in self.gates:
            gate.values()  # refuses a gate that was never called
        _check_decay(self.model.optimizer)
        self.choice, self.unchanged = None, 0
        self.begun = self.stays = False

    def on_epoch_begin(self, epoch, logs=None):
        # Not when training begins, as a callback behind this one may yet load weights there.
        hardness = [] if self.begun else [float(np.asarray(gate.hardness)) for gate in self.gates]
        ended = bool(hardness) and min(hardness) == 1 and not self.restart
        self.begun = True
        with self._all_or_none():
            if epoch == 0 and not ended:
                self._set_back(min(hardness, default=0.0))
            if not self.stays:
                self.control.before_epoch(self.gates, epoch, self.params["epochs"])
            if ended and (epoch == 0 or not all(np.asarray(gate.hardness) == 1 for gate in self.gates)):
                self._stay()

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Changes the state of all gates, or, where an interrupt or error comes between, of none."""
        variables = [getattr(gate, name) for gate in self.gates for name in (*_STATE, "chosen")]
        before = [np.asarray(variable).copy() for variable in variables]
        try:
            yield
        except BaseException:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            raise

    def _set_back(self, hardness: float) -> None:
        """Sets the state of the gates to 0; warns if they had faded so far."""
        if 0 < hardness < 1:
            checks.warn(
                f"GatePressure: the gates of {self.model.name!r} had faded to {hardness:.0%} in a fit that ended early, and "
                "start anew. To go on where it ended, give fit its initial_epoch and the same epochs as before."
            )
        for gate in self.gates:
            for name in _STATE:
                getattr(gate, name).assign(0.0)
            gate.chosen.assign(np.zeros(gate.units, "float32"))

    def _stay(self) -> None:
        """Puts gates that the control moved away from their end back there, for all of this training."""
        self.stays = True
        for gate in self.gates:
            gate.hardness.assign(1.0)
        checks.warn(
            f"GatePressure: the gates of {self.model.name!r} reached their end in an earlier fit. They stay there, and the "
            "network trains on as it will be after the cut. For a new choice of units, take GatePressure(restart=True)."
        )

    def on_epoch_end(self, epoch, logs=None):
        pressures = [float(np.asarray(gate.pressure)) for gate in self.gates]
        undecided = [gate.undecided() for gate in self.gates]
        if logs is not None:
            logs["gate_pressure"] = float(np.mean(pressures))
            logs["gate_penalty"] = float(sum(_distance(gate) ** 2 for gate in self.gates))
            logs["gate_undecided"] = float(np.average(undecided, weights=[gate.units for gate in self.gates]))
        if not self.stays:
            with self._all_or_none():
                self.control.after_epoch(self.gates, epoch, self.params["epochs"])
        self._stop_if_settled()

    def on_train_end(self, logs=None):
        if self.begun and not self.control.is_through(self.gates):
            checks.warn(
                f"GatePressure: training of {self.model.name!r} ended before its gates reached their end, with some up to "
                f"{max(_openness(gate) for gate in self.gates):.2g} open that kmerge.compress cuts off. Train all of the "
                f"{self.params['epochs']} epochs, two at least. If another callback ended it, wrap that: "
                "kmerge.AfterFade(keras.callbacks.EarlyStopping(...)). Or go on with initial_epoch."
            )

    def _stop_if_settled(self) -> None:
        choice = [gate.kept().tolist() for gate in self.gates]
        self.unchanged = self.unchanged + 1 if choice == self.choice else 0
        self.choice = choice
        if self.patience is not None and self.unchanged >= self.patience and self.control.is_through(self.gates):
            self.model.stop_training = True


def _named_control(name: str, settings: dict) -> GateControl:
    kind = CONTROLS[checks.one_of("control", name, tuple(CONTROLS), do="Or give a GateControl.")]
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(settings.keys() - known):
        checks.refuse("settings", f"among {sorted(known)}", unknown, of=f"Control {name!r}")
    return kind(**settings)


def _check_decay(optimizer) -> None:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, GateOptimizer):
        return
    decayed = [part.name for part in getattr(optimizer, "optimizers", [optimizer]) if part.weight_decay]
    if decayed:
        raise InvalidArgumentError(
            f"Expected gates to train without weight decay, received the optimizer {decayed[0]!r} with weight_decay. "
            "Compile the model with kmerge.gate_optimizer(optimizer)."
        )
