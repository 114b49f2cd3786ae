"""Measured costs: the latency of a model, and the size of its file."""

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kmerge.checks import sentence, whole_number
from kmerge.costs.counting import check_built
from kmerge.errors import InvalidArgumentError
from kmerge.graph import Graph

_WARM_UP = 3


def latency(model: keras.Model, *, batch_size: int = 1, repetitions: int = 30) -> float:
    """Measured time of one prediction, on the device and backend in use.

    Runs `model.predict_on_batch`, which is compiled as `model.compile(jit_compile=...)` says, on random inputs that lie
    in memory. The first calls, which compile, do not count. Other work on the machine does: compare models that were
    measured in turn.

    Args:
        model: Functional or Sequential, with fixed input sizes.
        batch_size: examples per prediction.
        repetitions: number of batches that are timed.

    Returns:
        The median time of a batch, in seconds.

    Raises:
        InvalidArgumentError: if a count is no positive integer, or an input size is unknown.

    Example:
        >>> seconds = kmerge.latency(model, batch_size=32, repetitions=3)
    """
    return latency_with_noise(model, batch_size, repetitions)[0]


def latency_with_noise(model: keras.Model, batch_size: int = 1, repetitions: int = 30) -> tuple[float, float]:
    """`latency`, and half the width of the interval in which its median lies with a probability of 95 %."""
    for name, value in (("batch_size", batch_size), ("repetitions", repetitions)):
        whole_number(name, value)
    return _median(_timed([model], int(batch_size), int(repetitions))[0])


def latency_beside(model: keras.Model, reference: keras.Model, seconds: float, repetitions: int) -> tuple[float, float]:
    """Latency of a model where that of a reference is `seconds`, and its noise as in `latency_with_noise`.

    The two take turns, batch by batch, so that a machine that has become slower or faster is so for both.
    """
    (own, noise), (other, other_noise) = map(_median, _timed([model, reference], 1, repetitions))
    found = seconds * own / other
    return found, found * math.hypot(noise / own, other_noise / other)


def _timed(models: Sequence[keras.Model], batch_size: int, repetitions: int) -> np.ndarray:
    """The seconds of each batch, shape `(models, repetitions)`, of models that take turns.

    Who is first is drawn: otherwise other work that comes as regularly as the turns do might always meet the same one.
    """
    rng = np.random.default_rng(0)
    inputs = [_random_inputs(model, batch_size) for model in models]
    times = np.zeros((len(models), _WARM_UP + repetitions))
    for i in range(_WARM_UP + repetitions):
        for number in rng.permutation(len(models)):
            start = time.perf_counter()
            models[number].predict_on_batch(inputs[number])
            times[number, i] = time.perf_counter() - start
    return times[:, _WARM_UP:]


def _median(times: np.ndarray) -> tuple[float, float]:
    """The median, and half the width of the interval in which it lies with a probability of 95 %."""
    times = np.sort(times)
    around = math.ceil(0.98 * math.sqrt(len(times)))  # ranks to both sides, as of a coin thrown so often
    low, high = max(0, len(times) // 2 - around), min(len(times) - 1, len(times) // 2 + around)
    return float(np.median(times)), float(times[high] - times[low]) / 2


def _random_inputs(model: keras.Model, batch_size: int):
    graph, rng = Graph(model), np.random.default_rng(0)

    def draw(tensor):
        if None in tensor.shape[1:]:
            do = "Otherwise there is no one latency: build the model with a keras.Input of fixed size."
            what = f"input {tensor.name!r} to have a known shape"
            raise InvalidArgumentError(sentence(what, tuple(tensor.shape), do, of=f"Model {model.name!r}"))
        values = rng.normal(size=(batch_size, *tensor.shape[1:]))
        # Zeros are indices that every Embedding has.
        return (values if "float" in tensor.dtype else np.zeros_like(values)).astype(tensor.dtype)

    return keras.tree.map_structure(draw, graph.input_structure)


def saved_bytes(model: keras.Model) -> int:
    """Size of the `.keras` file that `model.save` writes.

    A compiled model saves its optimizer with it, which after training may take more room than the model:
    `kmerge.select(model, {})` gives an equal model that is not compiled.

    Args:
        model: a built model.

    Returns:
        The number of bytes.

    Example:
        >>> kmerge.saved_bytes(model) > 4 * kmerge.parameters(model)
        True
    """
    check_built(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.stat().st_size
