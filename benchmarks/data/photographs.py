"""Photographs: squares of bytes in files, mapped into memory, as there are too many for it.

    CACHE/imagenet_256/train_images.npy     the validation part, then the training part
                      /train_labels.npy, test_images.npy, test_labels.npy
                      /info.json            their hash, and mean and deviation of each channel of the training part

Training cuts a part out of a square at random (`benchmarks.data.augmentation.RandomResizedCrop`); elsewhere a network has the
middle of it. Networks standardize pixels themselves, by the numbers of `info.json`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from baselines.protocol.task import Data
from benchmarks.data.splits import LEVELS, level_counts, pixel_hash, statistics_of

Photographs = Iterable[tuple[np.ndarray, int]]


def write_photographs(
    folder: Path,
    train: Photographs,
    test: Photographs,
    shape: tuple[int, int, int],
    counts: tuple[int, int],
    validation: int,
) -> dict[str, Any]:
    """Write squares to files one by one. Which of the training split are for validation, the hash of their pixels says.

    Args:
        folder: where to.
        train: images of the shape, uint8, and their labels.
        test: likewise.
        shape: of an image: side, side, channels.
        counts: of images in the training split and the test split.
        validation: how many images of the training split make the validation part, which comes first in the file.

    Returns:
        What `info.json` is to say.

    Raises:
        ValueError: if there are more images than that, or fewer.
    """
    images, labels, digests, levels = _write(folder, "train", train, counts[0], shape)
    held_out = np.argsort(digests, kind="stable")[:validation]
    late = held_out[held_out >= validation]
    early = np.setdiff1d(np.arange(validation), held_out)
    for pair in np.stack([early, late], axis=1):  # one by one: together they may not fit into memory
        for array in (images, labels, digests):
            array[pair] = array[pair[::-1]]
    for image in images[:validation]:
        levels -= level_counts(image)
    images.flush()
    np.save(folder / "train_labels.npy", labels)
    _, test_labels, test_digests, _ = _write(folder, "test", test, counts[1], shape)
    np.save(folder / "test_labels.npy", test_labels)
    digest = _digest(digests, labels, test_digests, test_labels)
    mean, deviation = statistics_of(levels)
    return {"sha256": digest, "mean": mean.tolist(), "deviation": deviation.tolist()}


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """The hash that `info.json` has of such arrays, from all that is in them."""
    hashes = {}
    for part in ("train", "test"):
        images = arrays[f"{part}_images"]
        hashes[part] = np.zeros(len(images), "S32")
        for i, image in enumerate(images):
            hashes[part][i] = pixel_hash(image)
    return _digest(hashes["train"], arrays["train_labels"], hashes["test"], arrays["test_labels"])


def _digest(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> str:
    parts = [*train, train_labels.tobytes(), *test, test_labels.tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _write(folder: Path, part: str, photographs: Photographs, count: int, shape: tuple[int, int, int]) -> tuple:
    """Images (mapped), labels, the hash of each image's pixels, and how often each channel has each level."""
    images = np.lib.format.open_memmap(folder / f"{part}_images.npy", mode="w+", dtype="uint8", shape=(count, *shape))
    labels, digests = np.zeros(count, "int32"), np.zeros(count, "S32")
    levels, found = np.zeros((shape[-1], LEVELS), "int64"), 0
    for found, (image, label) in enumerate(photographs, 1):
        if found > count:
            break
        images[found - 1], labels[found - 1] = image, label
        digests[found - 1] = pixel_hash(image)
        levels += level_counts(image)
    if found != count:
        raise ValueError(f"the {part} split has {'more than ' if found > count else ''}{min(found, count)} images; "
                         f"expected {count}.")  # fmt: skip
    return images, labels, digests, levels


def parts_of(arrays: dict[str, np.ndarray], validation: int, examples: int, side: int) -> Data:
    """The three parts, mapped: nothing is read.

    Args:
        arrays: `train_images`, `train_labels`, `test_images` and `test_labels`, as `write_photographs` writes them.
        validation: how many images of the first make the validation part.
        examples: how many training examples are used, and at most for validation.
        side: of the middle of an image that a network has, in pixels.

    Returns:
        Training images are whole; the others are middles.
    """
    labels = {part: np.asarray(arrays[f"{part}_labels"]) for part in ("train", "test")}
    images, cut = arrays["train_images"], (arrays["train_images"].shape[1] - side) // 2
    middle = (slice(None), slice(cut, cut + side), slice(cut, cut + side))
    held_out, used = slice(0, min(validation, examples)), slice(validation, validation + examples)
    return Data(
        images[used],
        labels["train"][used],
        images[held_out][middle],
        labels["train"][held_out],
        arrays["test_images"][middle],
        labels["test"],
    )
