"""How images are split and standardized: by their pixels alone, so that no seed and no file order moves anything."""

import hashlib

import numpy as np

from baselines.protocol.task import Data

# Values that a pixel can have.
LEVELS = 256


def pixel_hash(image: np.ndarray) -> bytes:
    """The hash of an image's pixels."""
    return hashlib.sha256(image.tobytes()).digest()


def hash_order(images: np.ndarray) -> np.ndarray:
    """Indices of the images, sorted by the hash of their pixels: a shuffle that no seed and no file order changes."""
    return np.argsort([pixel_hash(image) for image in images], kind="stable")


def level_counts(images: np.ndarray) -> np.ndarray:
    """How often each channel of uint8 images, or of one, has each level: shape (channels, `LEVELS`)."""
    counts = np.zeros((images.shape[-1], LEVELS), int)
    for start in range(0, len(images), 100):  # few at once: to count, NumPy makes each pixel eight bytes
        part = images[start : start + 100]
        counts += [np.bincount(part[..., c].ravel(), minlength=LEVELS) for c in range(images.shape[-1])]
    return counts


def statistics_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and standard deviation per channel, from the counts of levels: no copy in floating point."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ np.arange(LEVELS)
    return mean, np.sqrt(shares @ np.arange(LEVELS) ** 2 - mean**2)


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return statistics_of(level_counts(images))


def _pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each pixel position; a pixel that never changes gets the deviation 1."""
    total, squares = (np.zeros(images.shape[1:]) for _ in range(2))
    for start in range(0, len(images), 1_000):
        part = images[start : start + 1_000].astype("float64")
        total += part.sum(axis=0)
        squares += (part**2).sum(axis=0)
    mean = total / len(images)
    variance = np.maximum(squares / len(images) - mean**2, 0)
    return mean, np.sqrt(np.where(variance < 1e-9, 1.0, variance))


def split(
    arrays: dict[str, np.ndarray],
    validation: int,
    examples: int,
    standardize_by: str,
    fold: tuple[int, int] | None,
) -> tuple[Data, tuple[float, ...]]:
    """The three parts of a data set of images, standardized by the statistics of the whole training part.

    Args:
        arrays: `train_images`, `train_labels`, `test_images` and `test_labels`.
        validation: how many images of the training split make the validation part.
        examples: how many training examples are used, and at most for validation.
        standardize_by: "channel" or "pixel".
        fold: which fold of how many is held out of both splits together; None for the official test split.

    Returns:
        The parts, read-only, and the standardized value of a black pixel per channel, empty if there is none.
    """
    images, labels = arrays["train_images"], np.asarray(arrays["train_labels"])
    test_images, test_labels = arrays["test_images"], np.asarray(arrays["test_labels"])
    if fold is not None:
        images, labels = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
    order = hash_order(images)
    held_out = order[:validation] if fold is None else order[fold[0] :: fold[1]]
    rest = order[validation:] if fold is None else np.delete(order, np.s_[fold[0] :: fold[1]])
    if fold is not None:
        test_images, test_labels = images[held_out], labels[held_out]
    mean, deviation = _STATISTICS[standardize_by](images[np.sort(rest)])
    # Of a whole image: NumPy takes three times as long where the innermost axis has three values.
    whole = [np.broadcast_to(values.astype("float32"), images.shape[1:]).copy() for values in (mean, deviation)]

    def ready(images: np.ndarray) -> np.ndarray:
        scaled = images.astype("float32")
        scaled -= whole[0]
        scaled /= whole[1]
        return scaled

    parts = []
    for rows in (np.sort(rest[:examples]), np.sort(held_out[:examples])):
        parts += [ready(images[rows]), labels[rows]]
    parts += [ready(test_images), test_labels]
    for part in parts:
        part.flags.writeable = False
    black = tuple(float(value) for value in -mean / deviation) if standardize_by == "channel" else ()
    return Data(*parts), black


_STATISTICS = {"channel": _channel_statistics, "pixel": _pixel_statistics}
