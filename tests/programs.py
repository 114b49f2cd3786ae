"""Training without programs, for tests whose networks take longer to compile than to train."""

import contextlib

import keras


@contextlib.contextmanager
def without_programs():
    """While this lasts, TensorFlow runs every function as it is."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
