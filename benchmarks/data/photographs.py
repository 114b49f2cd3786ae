"""Photographs: squares of bytes in files, mapped into memory, as there are too many for it.

    CACHE/imagenet_256/train_images.npy     the validation part, then the training part
                      /train_labels.npy, test_images.npy, test_labels.npy       in segmentation, labels are masks
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
from benchmarks.data.sources import ImageSource
from benchmarks.data.splits import LEVELS, level_counts, pixel_hash, statistics_of

# Images and their labels or masks.
Photographs = Iterable[tuple[np.ndarray, Any]]


def write_photographs(
    folder: Path,
    train: Photographs,
    test: Photographs,
    source: ImageSource,
) -> dict[str, Any]:
    """Write squares to files one by one. Which of the training split are for validation, the hash of their pixels says.

    Args:
        folder: where to.
        train: images of the training split, uint8, and their labels or masks.
        test: those of the test split.
        source: says the shape of images, how many there are, and how many of the training split make the validation part,
            which comes first in the file.

    Returns:
        What `info.json` is to say.

    Raises:
        ValueError: if there are more images than that, or fewer, or a mask has a label beyond the classes.
    """
    images, labels, digests, levels = _write(folder, "train", train, source.train, source)
    validation = source.validation
    held_out = np.argsort(digests, kind="stable")[:validation]
    late = held_out[held_out >= validation]
    early = np.setdiff1d(np.arange(validation), held_out)
    for pair in np.stack([early, late], axis=1):  # one by one: together they may not fit into memory
        for array in (images, labels, digests):
            array[pair] = array[pair[::-1]]
    for image in images[:validation]:
        levels -= level_counts(image)
    images.flush()
    labels.flush()
    _, test_labels, test_digests, _ = _write(folder, "test", test, source.test, source)
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
    parts = [*train, *_bytes_of(train_labels), *test, *_bytes_of(test_labels)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _bytes_of(labels: np.ndarray) -> Iterable[bytes]:
    """What is hashed of labels; of masks, which may not fit into memory, the hash of each."""
    return [labels.tobytes()] if labels.ndim == 1 else map(pixel_hash, labels)


def _write(folder: Path, part: str, photographs: Photographs, count: int, source: ImageSource) -> tuple:
    """Images and labels (both mapped), the hash of each image's pixels, and how often each channel has each level."""
    kinds = {"images": ("uint8", (count, *source.shape)), "labels": source.labels(count)}
    images, labels = (
        np.lib.format.open_memmap(folder / f"{part}_{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (dtype, shape) in kinds.items()
    )
    digests, levels, found = np.zeros(count, "S32"), np.zeros((source.shape[-1], LEVELS), "int64"), 0
    for found, (image, label) in enumerate(photographs, 1):
        if found > count:
            break
        if source.void is not None:
            check_labels(label, source.classes, source.void, f"mask {found} of the {part} split")
        images[found - 1], labels[found - 1] = image, label
        digests[found - 1] = pixel_hash(image)
        levels += level_counts(image)
    if found != count:
        raise ValueError(f"the {part} split has {'more than ' if found > count else ''}{min(found, count)} images; "
                         f"expected {count}.")  # fmt: skip
    return images, labels, digests, levels


def check_labels(mask: np.ndarray, classes: int, void: int, what: str) -> None:
    """Raise unless all labels of a mask are below `classes`, or void.

    Args:
        mask: integers.
        classes: how many there are.
        void: the label of pixels that count nowhere.
        what: the mask, for the message.

    Raises:
        ValueError: for another label.
    """
    beyond = mask[(mask >= classes) & (mask != void)]
    if beyond.size:
        raise ValueError(f"{what} has the label {beyond[0]}; expected 0 to {classes - 1}, or {void} for void.")


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
