"""Callbacks that look at a metric, held back until there is something to look at.

While gates compete and fade, an epoch may have the best validation accuracy of all with units open that the cut takes away:

    epoch          0   1   2   3   4   5   6   7   8
    gates          compete     fade        decided
    cut exact      no  no  no  no  no  no  yes yes yes
    AfterFade                              looks here
"""

import keras

from kmerge import checks
from kmerge.gates.hard_concrete import gates_of

_BATCH_HOOKS = [f"on_{kind}batch_{end}" for kind in ("", "train_", "test_") for end in ("begin", "end")]


def batch_hook(callback: keras.callbacks.Callback) -> str | None:
    """The name of a hook for single batches that a callback has; None if it acts at the borders of epochs alone."""
    base = keras.callbacks.Callback
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        return None
    if isinstance(callback, keras.callbacks.ModelCheckpoint) and callback.save_freq == "epoch":
        return None
    for hook in _BATCH_HOOKS:  # a LambdaCallback keeps its hooks on the instance
        if hook in vars(callback) or getattr(type(callback), hook) is not getattr(base, hook):
            return hook
    return None


class AfterFade(keras.callbacks.Callback):
    """Lets another callback see only the epochs in which all gates are decided, so that `compress` cuts without loss.

    Wrap what picks an epoch by a metric: `EarlyStopping`, `ModelCheckpoint(save_best_only=True)`. It hears when training
    begins and ends and when an epoch begins, but of the end of an epoch only if there every gate is 1 that is kept, and 0
    that is not. Where it stands in the list of callbacks does not matter. In a model without gates it sees every epoch.

    Args:
        callback: the callback to hold back.

    Raises:
        InvalidArgumentError: if it is no Keras callback, or one that acts at single batches.

    Warns:
        UserWarning: if training ends before the callback has seen an epoch.

    Example:
        >>> stop = keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True)
        >>> callbacks = [kmerge.GatePressure(), kmerge.AfterFade(stop)]      # for big.fit(..., validation_data=...)
    """

    def __init__(self, callback: keras.callbacks.Callback):
        super().__init__()
        if not isinstance(callback, keras.callbacks.Callback):
            checks.refuse("callback", "a keras.callbacks.Callback", callback, of="AfterFade")
        if hook := batch_hook(callback):
            what = f"one that acts at the ends of epochs, not at single batches by {hook}"
            checks.refuse("callback", what, type(callback).__name__, 'Take save_freq="epoch", if it has that.', "AfterFade")
        self.callback = callback

    def set_params(self, params):
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs=None):
        self.seen = 0
        self.gates = gates_of(self.model)
        self.callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if all(gate.is_decided() for gate in self.gates):
            self.seen += 1
            self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.callback.on_train_end(logs)
        if not self.seen:
            checks.warn(
                f"AfterFade: {type(self.callback).__name__} saw no epoch, as the gates of {self.model.name!r} were decided in "
                "none. Train with kmerge.GatePressure(), whose gates end at 0 and 1, and through all of its epochs."
            )
