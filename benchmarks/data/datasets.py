"""Data sets by name, split into training, validation and test parts, ready for a network.

Images are decoded once per machine into plain files, which runs map into memory; see `benchmarks.data.cache`.

The protocol, for images: the official test split is the test part (digits, which has none, gives 600 images). The
validation part is cut from the training split by the hash of each image's pixels: it depends on no seed, and equal
images never stand on both sides. All choices are made on it. Pixels are standardized by the mean and standard
deviation per channel of the training part, or per pixel position if a suite says so. For sine, each seed has a data set
of its own, with the same sizes. The puzzles are searched in a moment and split by the hash of each board. In segmentation
labels are masks, with the class of each pixel, and one label, void, for pixels that count nowhere.

Photographs are too many and too large for memory: see `benchmarks.data.photographs`.

Cross-validation, for images, is the protocol of the auto-sizing paper: training and test split together are cut into
folds, again by the hash of the pixels. The fold of a seed is the test part, *and* the validation part: choices made on it
are made on test data, as the paper's were. It is there for comparison with the paper's numbers.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from baselines.protocol.task import Data
from benchmarks.data.cache import open_cache, prepare_images
from benchmarks.data.photographs import parts_of
from benchmarks.data.puzzles import DEPTHS, boards_from_goal, one_hot
from benchmarks.data.sources import IMAGES
from benchmarks.data.splits import hash_order, split

# The last data set of images: the runs of a process share its arrays, and so do networks that train together.
_loaded: dict[tuple, "Dataset"] = {}

NAMES = tuple(sorted((*IMAGES, *DEPTHS, "sine")))
# What pixels are standardized by.
STANDARDIZATIONS = ("channel", "pixel")
# Boards of a puzzle in the training part, of ten; validation and test part have one each.
_TRAINING_TENTHS = 8


@dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Attributes:
        data: the three parts.
        outputs: how many values the network puts out.
        black: the standardized value of a black pixel per channel; empty where inputs are no images.
        identity: what tells this data set from another, as JSON can hold it.
        standardize: of photographs, mean and deviation of each channel, which networks standardize by; else None.
        domains: of each training example, its kind, where images are of several; else None.
        void: in segmentation, where targets are masks `(n, height, width)`, the label of pixels that are left out of losses
            and metrics; else None.
    """

    data: Data
    outputs: int
    black: tuple[float, ...]
    identity: dict
    standardize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    domains: np.ndarray | None = None
    void: int | None = None


def load(
    name: str,
    data_dir: str | Path | None,
    cache_dir: str | Path,
    seed: int,
    examples: int | None = None,
    *,
    standardize_by: str = "channel",
    folds: int | None = None,
) -> Dataset:
    """A data set by name.

    Args:
        name: one of `NAMES`.
        data_dir: folder of tensorflow-datasets; None for its default. Only read if the cache lacks the data set.
        cache_dir: folder of the decoded arrays.
        seed: of the replicate; sine depends on it, and the fold of cross-validation.
        examples: use this many training examples, and no more than that for validation; None for all.
        standardize_by: "channel" or "pixel": what images share a mean and a deviation by.
        folds: cross-validate images with so many folds, of which seed modulo folds is held out; None for the protocol.

    Returns:
        The data set; inputs are float32, labels int32, masks uint8. Arrays of images are read-only, as all callers share
        them. Photographs are bytes in mapped files, those for training whole and the others cut to what a network has of
        them.

    Raises:
        DataMissingError: if the data is neither in the cache nor in `data_dir`; nothing is downloaded.
        DataCorruptError: if it is there and cannot be read.
        ValueError: if `name` is unknown, there are fewer than `examples` training examples, or folds or pixels are asked
            of photographs, or of data that are no images.
    """
    _check_name(name)
    is_plain = name in IMAGES and IMAGES[name].crop is None
    if not is_plain and (standardize_by != "channel" or folds is not None):
        raise ValueError(
            f"Folds and standardization by pixel are for images that fit into memory; {name} is none of them."
        )
    fold = None if folds is None else (seed % folds, folds)
    if name not in IMAGES:
        if name == "sine":
            return _sine(seed, examples)
        key, read = (name, examples), lambda: _puzzle(name, examples)
    else:
        prepare(name, data_dir, cache_dir)
        arrays, about = open_cache(name, Path(cache_dir) / name)
        digest = about["sha256"]
        if not is_plain:
            return _photographs(name, arrays, about, examples)
        key = (name, digest, examples, standardize_by, fold)

        def read() -> Dataset:
            train = check_examples(name, examples, folds)
            data, black = split(arrays, IMAGES[name].validation, train, standardize_by, fold)
            identity = {"name": name, "sha256": digest, "examples": train}
            if standardize_by != "channel":
                identity["standardize_by"] = standardize_by
            if fold is not None:
                identity["fold"] = list(fold)
            classes = IMAGES[name].classes
            if IMAGES[name].domains == 1:
                return Dataset(data, classes, black, identity, void=IMAGES[name].void)
            labels = {part: getattr(data, part) % classes for part in ("y_train", "y_val", "y_test")}
            return Dataset(replace(data, **labels), classes, black, identity, domains=data.y_train // classes)

    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = read()
    return _loaded[key]


def prepare(name: str, data_dir: str | Path | None, cache_dir: str | Path) -> None:
    """Decode a data set into the cache, unless it is there; see `benchmarks.data.cache.prepare_images`.

    Raises:
        DataMissingError: if the data is not in `data_dir`; nothing is downloaded.
        DataCorruptError: if it is there and cannot be read.
        ValueError: if `name` is unknown.
    """
    _check_name(name)
    if name in IMAGES:
        prepare_images(name, data_dir, cache_dir)


def check_examples(name: str, examples: int | None, folds: int | None = None) -> int:
    """How many training examples are used where `examples` are asked for.

    Args:
        name: one of `NAMES`.
        examples: how many; None for all.
        folds: of cross-validation; the smallest number of examples outside a fold counts.

    Returns:
        The number.

    Raises:
        ValueError: if there are fewer.
    """
    _check_name(name)
    available = _available(name, folds)
    if examples is None:
        return available
    if not 1 <= examples <= available:
        raise ValueError(f"{name} has {available} training examples; asked for {examples}. Ask for 1 to {available}.")
    return examples


def _available(name: str, folds: int | None) -> int:
    if name == "sine":
        return 10_000
    if name in DEPTHS:
        return len(_searched(name)[0]) * _TRAINING_TENTHS // 10
    source = IMAGES[name]
    whole = source.train + source.test
    return source.train - source.validation if folds is None else whole - -(-whole // folds)


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}; there are {', '.join(NAMES)}.")


def sine_of(x: np.ndarray) -> np.ndarray:
    """The function that is to be learned on the data set sine: five waves on the unit interval."""
    return np.sin(10 * np.pi * x)


def _sine(seed: int, examples: int | None) -> Dataset:
    from kmerge.seeds import rng_of  # Imports Keras, which a command line that only lists does not want.

    def draw(part: str, points: int) -> tuple[np.ndarray, np.ndarray]:
        rng = rng_of("sine", seed, part)
        x = rng.uniform(size=(points, 1))
        y = sine_of(x) + rng.normal(0.0, 0.2, size=(points, 1))
        return x.astype("float32"), y.astype("float32")

    train = check_examples("sine", examples)
    x_train, y_train = draw("train", 10_000)
    x_val, y_val = draw("validation", min(2_000, train))
    data = Data(x_train[:train], y_train[:train], x_val, y_val, *draw("test", 10_000))
    return Dataset(data, 1, (), {"name": "sine", "seed": seed, "examples": train})


def _photographs(name: str, arrays: dict[str, np.ndarray], about: dict, examples: int | None) -> Dataset:
    source, train = IMAGES[name], check_examples(name, examples)
    data = parts_of(arrays, source.validation, train, source.crop)
    identity = {"name": name, "sha256": about["sha256"], "examples": train}
    return Dataset(data, source.classes, (), identity, (tuple(about["mean"]), tuple(about["deviation"])), void=source.void)


@functools.cache
def _searched(name: str) -> tuple[np.ndarray, np.ndarray]:
    return boards_from_goal(*DEPTHS[name])


def _puzzle(name: str, examples: int | None) -> Dataset:
    boards, moves = _searched(name)
    order = hash_order(boards)
    available, train = _available(name, None), check_examples(name, examples)
    tenth = (len(boards) - available) // 2
    validation, test = order[available : available + tenth][:train], order[available + tenth :]
    parts = []
    for rows in (order[:train], validation, test):
        parts += [one_hot(boards[rows]).astype("float32"), moves[rows, None].astype("float32")]
    for part in parts:
        part.flags.writeable = False
    side, depth = DEPTHS[name]
    return Dataset(Data(*parts), 1, (), {"name": name, "side": side, "depth": depth, "examples": train})
