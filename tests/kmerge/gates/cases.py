"""A small gated model, and callbacks driven through epochs in which nothing is trained."""

import keras

from kmerge.gates.application import ApplyGates
from kmerge.gates.hard_concrete import HardConcreteGate
from tests.models import JIT


def gated_model(widths=(6, 4), **gate):
    """An MLP with gates on every hidden layer."""
    inputs = x = keras.Input((3,))
    for number, width in enumerate(widths):
        mask = HardConcreteGate(width, seed=number + 1, name=f"gate_{number}", **gate)(inputs)
        hidden = keras.layers.Dense(width, activation="tanh", name=f"hidden_{number}")(x)
        x = ApplyGates(range(1, width + 1), name=f"apply_{number}")([hidden, mask])
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))


def compiled(optimizer, **settings):
    model = gated_model(**settings)
    model.compile(optimizer, "mse", jit_compile=JIT)
    return model


def drive(model, epochs, callbacks, losses=None, start=0):
    """What callbacks do in so many epochs in which nothing is trained; the head's bias tells the epoch."""
    callbacks = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs)
    model.stop_training = False
    callbacks.on_train_begin()
    for epoch in range(start, epochs):
        callbacks.on_epoch_begin(epoch)
        model.get_layer("head").bias.assign([epoch, epoch])
        callbacks.on_epoch_end(epoch, {"val_loss": losses[epoch]} if losses else {})
        if model.stop_training:
            break
    callbacks.on_train_end()
    return epoch
