"""Dynamic auto-sizing: layers that find their own width while they train.

Every period the sizer adds units to each channel space, small ones that change nothing, trains under a penalty that is
dearer for every further unit, and drops the units that have come to nothing. Sizes settle where what is added is
dropped again. A space of 4 units, with a growth of 2 and two units that are worth their price:

    4 -> grow 6 -> train -> prune 3 -> grow 5 -> train -> prune 2 -> grow 4 -> train -> prune 2 ...

    sizer = kmerge.AutoSizer(model, alpha=2e-5)
    sizer.compile("adam", loss, metrics=["accuracy"])
    history = sizer.fit(x, y, epochs=20, static_epochs=20)
    sizer.model                                            # a plain keras.Model of the sizes found

Sizes change without a new program: see `padded_models`.

Reference: Cahlik, Kordik, Cepek, Adapting the Size of Artificial Neural Networks Using Dynamic Auto-Sizing, 2022.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from kmerge import checks
from kmerge.errors import InvalidArgumentError
from kmerge.gates import optimizer_of
from kmerge.graph import compile_arguments
from kmerge.regularizers import UnitRegularizer
from kmerge.sizing.callbacks import Hooks
from kmerge.sizing.checks import check_compile, check_proximal, handed_to_keras, sizable_spaces, warn_of
from kmerge.sizing.data import fit_data
from kmerge.sizing.epochs import run_epochs
from kmerge.sizing.files import read_sizer, restore, whole_file, write_sizer
from kmerge.sizing.options import SizingOptions, check_alpha
from kmerge.sizing.schedule import Schedule, next_sizes
from kmerge.sizing.state import SizingState
from kmerge.sizing.unit_routes import UnitRoutes
from kmerge.spaces import trace
from kmerge.training import Arrays


class AutoSizer:
    """Trains a model whose channel spaces find their own sizes (Algorithm 1 of the paper).

    The model given is never changed. `model` is a plain one of the current sizes; `sizes` are these.

    Args:
        model: a Functional or Sequential model, compiled or not. A compiled one hands on its optimizer's state.
        alpha: strength of the penalty: a number, or a function of the epoch. The attribute may be set at any time.
        penalty: "weighted_l1" (the paper's), "l1", "l21", "linf1", or an instance of a class of `kmerge.regularizers`, of
            which all but its alpha is used.
        growth: share of its units that each space gains per period, rounded down; or "adaptive": a space of which at
            least 3/4 of the new units stayed is offered twice as many the next time, one of which at most 1/4 stayed half as
            many, but always one, and never more than it has. The first offer is a fifth.
        min_growth: least number of units that a space gains; of an adaptive growth, in the first period only.
        threshold: tau: a unit stays if its largest weight, bias included, is at least so large. Behind a normalization
            its effective weight counts, and not the bias. New units have fresh weights times tau.
        period: epochs from one growth to the next.
        period_steps: steps from one growth to the next, instead of epochs: what sizes depend on is how many steps units
            have. A period ends with its epoch at the latest, and metrics of an epoch are means over its periods.
        min_units: what every space keeps.
        max_units: what no space grows beyond; one that has more gets no new units. None for no limit, as in the paper: then
            spaces may grow without end where the learning rate is large for the threshold, as new units stay.
        grow: whether units are added.
        prune: time at which units are dropped: "period" (the end of each), "end" (of the dynamic epochs; original
            auto-sizing), or "never".
        optimizer_state: "carry" keeps the state of the optimizer with each unit. "restart" is the paper's: at every
            change weights with units start anew, but the number of steps goes on.
        proximal: whether, instead of a penalty in the loss, weights shrink after each step of the optimizer, by its
            learning rate times what their unit pays, and stop at exactly zero (soft thresholding; of whole units with
            "l21"). Then units go that are zero, and the threshold is only the size of new ones. As with decoupled weight
            decay, Adam does not rescale the amounts, so alpha must be larger: on handwritten digits a thousand times. Behind a
            normalization gamma and beta shrink. Losses in logs are without a penalty.
        spaces: names of the spaces to size, or of layers that make them; by default all that can be.
        seed: seed of new units, and of the order of the data.

    Attributes:
        options: the arguments but the model and alpha, frozen; `options.spaces` are the spaces that are sized.
        left: the spaces that keep their size, with the reason.
        epochs_done: number of epochs trained.
        compile_seconds: seconds that tracing and compiling took.
        history_of_sizes: list with, for each dynamic epoch or period within it, `{"epoch", "grown", "new", "sizes",
            "room"}`: the sizes it was trained with, how many units of them were new in its period, the sizes after it, and
            those of the program. Where it pruned, also "stayed", how many of the new units stayed, "change", the largest
            change of an output that dropped constants made, and "not_exact", where they could not be carried exactly.

    Raises:
        InvalidArgumentError: for an argument out of its range, or a model without a space that can be sized.
        UnsupportedLayerError: names a layer whose channels cannot be followed.

    Reference:
        Cahlik et al. 2022, Algorithm 1 and equation 1.

    Example:
        >>> sizer = kmerge.AutoSizer(model, alpha=1e-3, min_growth=2)
        >>> sizer.sizes
        {'first': 6, 'second': 4}
        >>> sizer.compile("adam", loss)
        >>> history = sizer.fit(x, y, epochs=1, static_epochs=1, verbose=0)
        >>> sizer.model.save("sized.keras")
    """

    def __init__(
        self,
        model: keras.Model,
        alpha: float | Callable[[int], float] = 2e-5,
        penalty: str | UnitRegularizer = "weighted_l1",
        *,
        growth: float | str = 0.2,
        min_growth: int = 20,
        threshold: float = 1e-3,
        period: int = 1,
        period_steps: int | None = None,
        min_units: int = 1,
        max_units: int | None = None,
        grow: bool = True,
        prune: str = "period",
        optimizer_state: str = "carry",
        proximal: bool = False,
        spaces: Sequence[str] | None = None,
        seed: int = 0,
    ):
        options = SizingOptions(
            penalty=penalty,
            growth=growth,
            min_growth=min_growth,
            threshold=threshold,
            period=period,
            period_steps=period_steps,
            min_units=min_units,
            max_units=max_units,
            grow=grow,
            prune=prune,
            optimizer_state=optimizer_state,
            proximal=proximal,
            spaces=spaces,
            seed=seed,
        )
        self.alpha = alpha
        self._routes = UnitRoutes(trace(model))
        names, self.left = sizable_spaces(self._routes, spaces)
        self.options = replace(options, spaces=tuple(names))
        if proximal:
            check_proximal(options.regularizer, self._routes, names)
        self._state: SizingState | None = None
        if model.compiled:
            self.compile(**{**compile_arguments(model), "optimizer": model.optimizer})

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: object = None,
        loss_weights: object = None,
        metrics: object = None,
        weighted_metrics: object = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: str | bool = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Sets how the model is trained, as `keras.Model.compile` does. Once training began, it starts the optimizer anew.

        Args:
            optimizer: optimizer, or its name; its configuration is used, and the object is not changed.
            loss: loss, as in `keras.Model.compile`.
            loss_weights: weights of the losses, as in `keras.Model.compile`.
            metrics: list of metrics, as in `keras.Model.compile`.
            weighted_metrics: list of metrics that sample weights weigh, as in `keras.Model.compile`.
            run_eagerly: whether nothing is compiled.
            steps_per_execution: steps of each call of a compiled function, where `model.fit` trains.
            jit_compile: whether XLA compiles, or "auto".
            auto_scale_loss: whether the loss is scaled in mixed precision, as in `keras.Model.compile`.

        Raises:
            InvalidArgumentError: for arguments that `keras.Model.compile` does not take.
        """
        optimizer = optimizer_of("optimizer", optimizer)
        arguments = dict(optimizer=optimizer, loss=loss, loss_weights=loss_weights, metrics=metrics)
        arguments |= dict(weighted_metrics=weighted_metrics, run_eagerly=run_eagerly, auto_scale_loss=auto_scale_loss)
        arguments |= dict(steps_per_execution=steps_per_execution, jit_compile=jit_compile)
        check_compile(arguments)
        state = SizingState(self._routes, self.options, arguments)
        if self._state is not None:
            state.continue_from(self._state)
        self._state = state
        warn_of(self.options, optimizer, self.exact)

    @property
    def alpha(self) -> float | Callable[[int], float]:
        """Strength of the penalty: a number, or a function of the epoch."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float | Callable[[int], float]) -> None:
        self._check_alpha(alpha)
        self._alpha = alpha

    @staticmethod
    def _check_alpha(alpha: object) -> None:
        with checks.in_our_words("alpha to be a number or a function of the epoch", alpha, of="AutoSizer"):
            check_alpha(alpha(0) if callable(alpha) else alpha)

    @property
    def epochs_done(self) -> int:
        """How many epochs were trained."""
        return self._state.epochs_done if self._state else 0

    @property
    def compile_seconds(self) -> float:
        """How long tracing and compiling took."""
        return self._state.compile_seconds if self._state else 0.0

    @property
    def history_of_sizes(self) -> list[dict]:
        """A record of each dynamic epoch, or period within it."""
        return self._state.history if self._state else []

    @property
    def sizes(self) -> dict[str, int]:
        """The units of each space that is sized."""
        return self._state.sizes if self._state else {n: self._routes.walked.spaces[n].size for n in self.options.spaces}

    @property
    def compiles(self) -> int:
        """How many models were built and compiled to be trained."""
        return self._state.compiles if self._state else 0

    @property
    def model(self) -> keras.Model:
        """A plain `keras.Model` of the current sizes, compiled, with the state of its optimizer."""
        return self._compiled_state().plain_model()

    def summary(self, **arguments) -> None:
        """Prints the layers with their current sizes.

        Args:
            **arguments: arguments of `keras.Model.summary`.
        """
        self._model_now().summary(**arguments)

    def predict(self, x: Any, batch_size: int | None = None, *others: Any, **arguments: Any) -> Any:
        """What the model of the current sizes gives, as `keras.Model.predict`.

        Args:
            x: examples, as in `keras.Model.predict`.
            batch_size: examples per batch.
            *others: arguments of `keras.Model.predict` that come after these, in its order.
            **arguments: the same by name.
        """
        with handed_to_keras("predict", x, batch_size):
            return self._model_now().predict(x, batch_size, *others, **arguments)

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int | None = None, *others: Any, **arguments: Any) -> Any:
        """Loss and metrics of the model of the current sizes, without the penalty, as `keras.Model.evaluate`.

        Args:
            x: examples, as in `keras.Model.evaluate`.
            y: targets, as in `keras.Model.evaluate`.
            batch_size: examples per batch.
            *others: arguments of `keras.Model.evaluate` that come after these, in its order.
            **arguments: the same by name.
        """
        with handed_to_keras("evaluate", x, batch_size):
            return self._compiled_state().model_now().evaluate(x, y, batch_size, *others, **arguments)

    def fit(
        self,
        x: Arrays,
        y: Arrays | None = None,
        batch_size: int | None = 32,
        epochs: int = 20,
        verbose: str | int = "auto",
        callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Arrays | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        *,
        static_epochs: int = 20,
        augment: keras.Layer | None = None,
    ) -> keras.callbacks.History:
        """Trains: dynamic epochs, then static ones at the sizes found, without a penalty.

        A second call goes on with the sizes there are, so it follows data that changes. Validation, and callbacks at the
        end of an epoch, come after units were dropped. An interrupt or error leaves the sizer as the last whole epoch did: go
        on with `initial_epoch=sizer.epochs_done`.
        `ModelCheckpoint` saves plain models of the current sizes. `EarlyStopping` ends the static epochs, too, and restores an
        epoch with its sizes. `BackupAndRestore` keeps all of the sizer. `TensorBoard` logs no graph. Others see, in dynamic
        epochs, a model with room for units and a penalty: learning rates that they set count, what they save is of no use.

        Args:
            x: examples, as in `kmerge.fit`.
            y: targets, as in `kmerge.fit`.
            batch_size: examples per step, where x is arrays; None for 32.
            epochs: number of dynamic epochs.
            verbose: 0 is silent; else the progress bar of `model.fit`, with the units of each space.
            callbacks: Keras callbacks, or one alone.
            validation_split: share of the examples, the last ones, that validate; for arrays.
            validation_data: tuple `(x, y)`, as in `kmerge.fit`.
            shuffle: whether each epoch goes through the data in a random order of its own.
            class_weight: dict of the weights of classes, as in `model.fit`.
            sample_weight: weight of each example, as in `kmerge.fit`.
            initial_epoch: number of the first epoch, from 0 over both kinds; of a loaded sizer, its `epochs_done`.
            steps_per_epoch: batches of an epoch, where x comes in batches; the next one goes on where it ended.
            validation_steps: batches of the validation data, as in `model.fit`.
            validation_batch_size: examples per batch of the validation data, as in `model.fit`.
            validation_freq: epochs from one validation to the next, or a list of epochs counted from 1 over both kinds.
            static_epochs: number of epochs after the dynamic ones.
            augment: layer that alters each batch, as in `kmerge.fit`.

        Returns:
            The history, as that of `model.fit`. Its "units" are, for each epoch, the sizes after it.

        Raises:
            InvalidArgumentError: as `kmerge.fit`, if the sizer was not compiled, or for a callback that needs one size.
        """
        state = self._compiled_state()
        schedule = Schedule(epochs, static_epochs, initial_epoch, self.options, validation_freq)
        data = dict(x=x, y=y, sample_weight=sample_weight, validation_data=validation_data, batch_size=batch_size)
        data |= dict(shuffle=shuffle, augment=augment, seed=self.options.seed)
        data |= dict(validation_steps=validation_steps, validation_batch_size=validation_batch_size)
        with checks.in_our_words("data that the sizer's model can be trained on", x, of="AutoSizer"):
            model = self._routes.walked.model
            data, state.examples, steps = fit_data(model, data, validation_split, class_weight, steps_per_epoch, verbose)
            with state.whole():
                hooks = Hooks(state, callbacks, verbose, epochs + static_epochs, steps)
                return run_epochs(state, schedule, self.alpha_at, data, hooks)

    @property
    def exact(self) -> list[str]:
        """The spaces that need a new program at each change of size, as idle units there are not zero."""
        return list(self._state.rooms.exact) if self._state else []

    def save(self, path: str | Path) -> None:
        """Writes the sizer to a file, from which `load` goes on as if it had never stopped.

        Call it between epochs: after `fit`, or from a callback at the end of an epoch.

        Args:
            path: path of the file.
        """
        path = checks.file_path("path", path, of="AutoSizer.save")
        if not path.parent.is_dir() or path.is_dir():
            checks.refuse("path", "that of a file, in a folder that is there", str(path), of="AutoSizer.save")
        write_sizer(path, None if callable(self.alpha) else float(self.alpha), self._compiled_state().settled())

    @classmethod
    def load(cls, path: str | Path, alpha: float | Callable[[int], float] | None = None) -> "AutoSizer":
        """Reads a sizer that `save` wrote; go on with `fit(..., initial_epoch=sizer.epochs_done)`.

        Args:
            path: path of the file.
            alpha: strength of the penalty from now on; needed where it is a function, which no file holds.

        Raises:
            InvalidArgumentError: for a file of something else, or a missing alpha.
        """
        path = checks.file_path("path", path, of="AutoSizer.load")
        with whole_file(path):
            model, saved_alpha, options, compiled, rest = read_sizer(path)
        if alpha is None and saved_alpha is None:
            do = f"It was a function, which {path} does not hold. Give it as load(path, alpha=...)."
            checks.refuse("alpha", "given", None, do, of="AutoSizer.load")
        if alpha is not None:
            cls._check_alpha(alpha)
        with whole_file(path):
            sizer = cls(model, saved_alpha if alpha is None else alpha, **vars(options))
            sizer.compile(**compiled)
            restore(sizer._state, rest)
        return sizer

    def alpha_at(self, epoch: int) -> float:
        """The strength of the penalty in an epoch."""
        checks.whole_number("epoch", epoch, 0)
        return check_alpha(self.alpha(epoch) if callable(self.alpha) else self.alpha)

    def larger(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The sizes with which a period starts that finds these."""
        for name, size in checks.mapping("sizes", sizes).items():
            checks.whole_number(f"the size of {name!r}", size)
        return next_sizes(sizes, self.options, self.history_of_sizes)

    def _model_now(self) -> keras.Model:
        """A plain model of the current sizes; the one given, before the sizer is compiled."""
        return self._state.model_now() if self._state else self._routes.walked.model

    def _compiled_state(self) -> SizingState:
        if self._state is None:
            text = "AutoSizer: expected a compiled sizer, received one whose model was not compiled. "
            raise InvalidArgumentError(text + "Call sizer.compile(optimizer, loss, metrics=[...]) first.")
        return self._state
