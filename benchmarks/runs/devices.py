"""Training on several devices of one machine. This module does not import Keras."""

import contextlib


def over_devices(most: int) -> contextlib.AbstractContextManager:
    """While this lasts, training uses so many devices, or all that there are: `kmerge.fit` splits each batch over them,
    `kmerge.fit_many` the networks. Keras cannot predict so for any number of examples, so it does not last longer.
    """
    if most == 1:
        return contextlib.nullcontext()
    from keras import distribution

    devices = distribution.list_devices()[:most]
    return contextlib.nullcontext() if len(devices) == 1 else distribution.DataParallel(devices=devices).scope()
