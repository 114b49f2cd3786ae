"""Keras' callbacks in the training of an `AutoSizer`, in which the model changes its sizes under them.

    callback                               what it works on
    ModelCheckpoint                        a plain model of the sizes of the epoch
    EarlyStopping(restore_best_weights)    the sizer: weights with the sizes that they have
    BackupAndRestore                       the sizer, as `AutoSizer.save` writes it
    TensorBoard                            the weights of a plain model
    others                                 the model that is trained, with its optimizer

What can only work with one size from the first step to the last is refused by name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from kmerge import checks
from kmerge.gates import AfterFade, batch_hook
from kmerge.graph import profiles_batches
from kmerge.sizing.files import continue_from, write_sizer
from kmerge.sizing.state import SizingState
from kmerge.training import listed_callbacks

_SEE_SIZER = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.EarlyStopping,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.TensorBoard,
)
_OF = "AutoSizer.fit"


class SizedModel:
    """What a callback that keeps weights has for its `model`: these methods of a Keras model, for any sizes.

    Args:
        state: of the sizer.
    """

    built = True

    def __init__(self, state: SizingState):
        self._state = state
        self._began = False

    @property
    def optimizer(self) -> keras.optimizers.Optimizer | None:
        """The optimizer of the model that is trained."""
        return self._state.working.trained.optimizer if self._state.working else None

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of the model that is trained, which tell whether more is better."""
        return self._state.working.trained.metrics

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Layers with the weights and current sizes."""
        return self._state.model_now().layers

    @property
    def stop_training(self) -> bool:
        """Whether training ends after this epoch."""
        return self._state.working.trained.stop_training

    @stop_training.setter
    def stop_training(self, stops: bool) -> None:
        self._state.working.trained.stop_training = stops

    def get_weights(self) -> object:
        """The weights with their sizes and the state of the optimizer, for `set_weights`."""
        return self._state.snapshot()

    def set_weights(self, weights: object) -> None:
        """Goes back to what `get_weights` gave."""
        self._state.return_to(weights)

    def save(self, filepath: str, overwrite: bool = True) -> None:
        """Writes a plain model of the current sizes."""
        self._state.model_now().save(filepath, overwrite=overwrite)

    def save_weights(self, filepath: str, overwrite: bool = True) -> None:
        """Writes the sizer, for `load_weights`."""
        write_sizer(Path(filepath), None, self._state.settled())

    def load_weights(self, filepath: str) -> None:
        """Reads the sizer, before the first epoch begins."""
        if not self._began:
            continue_from(Path(filepath), self._state)

    def begin(self, callbacks: Sequence[keras.callbacks.Callback]) -> bool:
        """Lets `BackupAndRestore` read a sizer before units are added for the first epoch; whether there was one."""
        before = self._state.weights
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                callback.set_model(self)
                callback.on_train_begin()
        self._began = True
        return self._state.weights is not before


class Hooks:
    """The callbacks of one call of `fit`, with a history and a progress bar.

    Args:
        state: of the sizer.
        given: the callbacks of the user.
        verbose: 0 for no progress bar.
        epochs: number of the epoch to stop before.
        steps: of an epoch, or None where that is not known.

    Attributes:
        list: all of them.
        of_batches: those that have hooks for single batches.
        history: the history.
        restored: whether one of them read a sizer from which training goes on.
    """

    def __init__(self, state: SizingState, given: Any, verbose: str | int, epochs: int, steps: int | None):
        callbacks = [] if given is None else listed_callbacks(given)
        for callback in callbacks:
            _check(callback)
        self._sizer, self._model = SizedModel(state), None
        progress = [_Progress(state)] if verbose and not _has(callbacks, keras.callbacks.ProgbarLogger) else []
        self.list = keras.callbacks.CallbackList(
            [*callbacks, *progress], add_history=True, model=None, verbose=verbose, epochs=epochs, steps=steps
        )
        self.history = next(c for c in self.list.callbacks if isinstance(c, keras.callbacks.History))
        self.of_batches = [callback for callback in callbacks if _hears_batches(callback)]
        self.restored = self._sizer.begin(callbacks)

    def set_model(self, model: keras.Model) -> None:
        """Gives callbacks the model that is trained from now on, or the sizer."""
        for callback in self.list.callbacks if model is not self._model else ():
            if not isinstance(callback, _SEE_SIZER):
                callback.set_model(model)
            elif self._model is None:
                callback.set_model(self._sizer)
        self._model = model


class _Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, with the number of units of each space."""

    def __init__(self, state: SizingState):
        super().__init__()
        self._state = state

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {**(logs or {}), **{f"{name} units": n for name, n in self._state.sizes.items()}})


def _has(callbacks: Sequence, kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _hears_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback does something at single batches."""
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        return False
    if isinstance(callback, keras.callbacks.TensorBoard):
        return callback.update_freq != "epoch" or callback.write_steps_per_second or profiles_batches(callback)
    return batch_hook(callback) is not None


def _check(callback: keras.callbacks.Callback) -> None:
    """Raises unless a callback works with sizes that change."""
    for what, do in _reasons(callback):
        checks.refuse("callbacks", f"ones that work with sizes that change, and not {what}", callback, do, of=_OF)


def _reasons(callback: keras.callbacks.Callback) -> Iterator[tuple[str, str]]:
    """What in a callback needs one size, and the way out."""
    name = type(callback).__name__
    if getattr(callback, "save_freq", "epoch") != "epoch":
        yield f"{name}(save_freq={callback.save_freq!r})", 'Take save_freq="epoch": sizes are known between epochs.'
    if getattr(callback, "save_weights_only", False):
        do = "Weights of one epoch fit no model of another. Save whole models, to a path that ends in .keras."
        yield f"{name}(save_weights_only=True)", do
    if getattr(callback, "embeddings_freq", 0):
        yield f"{name}(embeddings_freq={callback.embeddings_freq})", "Leave embeddings_freq out."
    if isinstance(callback, keras.callbacks.SwapEMAWeights):
        do = "Give the optimizer ema_overwrite_frequency, or fit sizer.model with it afterwards."
        yield f"{name}, which swaps weights of one size", do
    if isinstance(callback, AfterFade):
        yield f"{name}, as nothing fades here", "Give the callback that it holds back itself."
    if hasattr(keras.callbacks, "OrbaxCheckpoint") and isinstance(callback, keras.callbacks.OrbaxCheckpoint):
        yield f"{name}, which writes weights alone", "Take ModelCheckpoint."
