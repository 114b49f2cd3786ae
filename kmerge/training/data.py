"""The data of a training: on the device as a whole, or piece by piece where that is too large for it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np

from kmerge.batching import map_arrays
from kmerge.checks import whole_number
from kmerge.training.backend import device_memory, on_all_devices
from kmerge.training.checks import arrays_of

# Part of the device's memory that the data may fill; the rest is for the activations.
_SHARE_FOR_DATA = 0.5
# The most that a piece is to fill. Two are on the device at a time: the next arrives while one is trained on.
_PIECE_BYTES = 2**28

# Arrays on the device, and the order to go through them: int32, shape (models, examples).
Piece = tuple[tuple, np.ndarray]


class Data(NamedTuple):
    """`(x, y)` or `(x, y, sample_weight)`; the parts that are `own` hold the data of each model on a first axis."""

    parts: tuple
    own: tuple[bool, ...]

    @property
    def examples(self) -> int:
        """The number of examples of one model."""
        return arrays_of(self.parts[0])[0].shape[int(self.own[0])]

    def on_device(self) -> tuple:
        """The parts as tensors; as in `model.fit`, floats of other widths become the default float type."""

        def place(array):
            floating = keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype))
            return keras.ops.convert_to_tensor(array, dtype=keras.config.floatx() if floating else None)

        return on_all_devices(map_arrays(place, self.parts))

    def first_example(self, model: int) -> tuple:
        """The first example of a model, as a batch of one."""
        return tuple(
            map_arrays(lambda array, is_own=is_own: array[model, :1] if is_own else array[:1], part)
            for part, is_own in zip(self.parts, self.own, strict=True)
        )


class Whole:
    """Data that lies on the device for as long as training takes."""

    size = None

    def __init__(self, data: Data):
        self.data = data._replace(parts=data.on_device())

    def pieces(self, orders: np.ndarray) -> Iterator[Piece]:
        """All of it, in these orders."""
        yield self.data.parts, orders


class InPieces:
    """Data of one model that stays where it is, be that a file, and goes to the device in the order of an epoch.

    Args:
        data: the data.
        size: examples of a piece: whole batches.
    """

    def __init__(self, data: Data, size: int):
        self.data, self.size = data, size

    def pieces(self, orders: np.ndarray) -> Iterator[Piece]:
        """Piece after piece, each in its order; the next is read while the caller works on one."""
        order = orders[0]
        cuts = [order[start : start + self.size] for start in range(0, len(order), self.size)]
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, cuts[0])
            for cut, following in zip(cuts, [*cuts[1:], None], strict=True):
                piece = coming.result()
                if following is not None:
                    coming = reader.submit(self._read, following)
                yield piece.on_device(), np.arange(len(cut), dtype="int32")[None]

    def _read(self, rows: np.ndarray) -> Data:
        return self.data._replace(parts=map_arrays(lambda array: np.asarray(array)[rows], self.data.parts))


def examples_at_a_time(batch_size: int, data_bytes: int | None, *data: Any) -> int | None:
    """How many examples go to the device at a time.

    Args:
        batch_size: examples per step.
        data_bytes: bytes of the device that the data may fill; None for half of its memory.
        *data: structures of arrays, those of the training data first.

    Returns:
        The number, a multiple of `batch_size`; None for all of them, where they fit or the device's memory is unknown.

    Raises:
        InvalidArgumentError: if `data_bytes` is no positive whole number.
    """
    most, arrays = whole_number("data_bytes", data_bytes, most=2**63, optional=True), arrays_of(*data)
    if most is None and (memory := device_memory()):
        most = int(_SHARE_FOR_DATA * memory)
    if most is None or sum(array.nbytes for array in map(np.asarray, arrays)) <= most:
        return None
    training = arrays_of(data[0])
    per_batch = batch_size * sum(array.nbytes for array in map(np.asarray, training)) / len(training[0])
    return batch_size * max(1, int(min(most / 2, _PIECE_BYTES) // per_batch))
