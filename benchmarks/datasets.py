"""Data sets by name, split into training, validation and test parts, ready for a network.

Images are decoded once per machine into plain NumPy files, `CACHE/NAME/{train,test}_{images,labels}.npy`; runs map
them into memory. Where that folder is copied to, neither TensorFlow nor tensorflow-datasets nor scikit-learn is needed.

The protocol, for images: the official test split is the test part (digits, which has none, gives 600 images). The
validation part is cut from the training split by the hash of each image's pixels: it depends on no seed, and equal
images never stand on both sides. All choices are made on it. Pixels are standardised by the mean and standard
deviation per channel of the training part, or per pixel position if a suite says so. For sine, each seed has a data set
of its own, with the same sizes. The puzzles are searched in a moment and split by the hash of each board.

Cross-validation, for images, is the protocol of the auto-sizing paper: training and test split together are cut into
folds, again by the hash of the pixels. The fold of a seed is the test part, *and* the validation part: choices made on it
are made on test data, as the paper's were. It is there for comparison with the paper's numbers.
"""

import functools
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.strategy import Data
from benchmarks.puzzles import DEPTHS, boards_from_goal, one_hot
from benchmarks.splits import hash_order, split

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


# The last data set of images: the runs of a process share its arrays, and so do networks that train together.
_loaded: dict[tuple, "Dataset"] = {}


class DataMissingError(Exception):
    """A data set that is not there; the message says how to get it."""


class DataCorruptError(DataMissingError):
    """A data set that is there but cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True)
class ImageSource:
    """Where a data set of images comes from.

    Attributes:
        builder: name and version in tensorflow-datasets, or None for scikit-learn's digits.
        shape: of an image: height, width, channels.
        classes: number of labels.
        train: images in the training split.
        test: images in the test split.
        validation: how many images of the training split make the validation part.
        test_split: what tensorflow-datasets calls the test part.
        module: of ours that adds the builder to tensorflow-datasets when it is imported, where it has none of its own.
    """

    builder: str | None
    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    validation: int
    test_split: str = "test"
    module: str | None = None


IMAGES = {
    "cifar10": ImageSource("cifar10:3.0.2", (32, 32, 3), 10, 50_000, 10_000, validation=5_000),
    "cifar100": ImageSource("cifar100:3.0.2", (32, 32, 3), 100, 50_000, 10_000, validation=5_000),
    "digits": ImageSource(None, (8, 8, 1), 10, 1_197, 600, validation=297),
    "fashion_mnist": ImageSource("fashion_mnist:3.0.1", (28, 28, 1), 10, 60_000, 10_000, validation=5_000),
    "imagewoof_28": ImageSource(
        "imagewoof/28px:2.0.0",
        (28, 28, 3),
        10,
        9_025,
        3_929,
        validation=1_025,
        test_split="validation",  # there are only two splits
        module="benchmarks.tfds_builders.imagewoof",
    ),
    "mnist": ImageSource("mnist:3.0.1", (28, 28, 1), 10, 60_000, 10_000, validation=5_000),
    "svhn_cropped": ImageSource("svhn_cropped:3.1.0", (32, 32, 3), 10, 73_257, 26_032, validation=7_257),
    "tiny_imagenet": ImageSource(
        "tiny_imagenet:1.0.0",
        (64, 64, 3),
        200,
        100_000,
        10_000,
        validation=10_000,
        test_split="validation",  # the labels of the official test split are secret
        module="benchmarks.tfds_builders.tiny_imagenet",
    ),
}
NAMES = tuple(sorted((*IMAGES, *DEPTHS, "sine")))
# What pixels are standardised by.
STANDARDISATIONS = ("channel", "pixel")
# Boards of a puzzle in the training part, of ten; validation and test part have one each.
_TRAINING_TENTHS = 8


@dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Attributes:
        data: the three parts.
        outputs: how many values the network puts out.
        black: the standardised value of a black pixel per channel; empty where inputs are no images.
        identity: what tells this data set from another, as JSON can hold it.
    """

    data: Data
    outputs: int
    black: tuple[float, ...]
    identity: dict


def load(
    name: str,
    data_dir: str | Path | None,
    cache_dir: str | Path,
    seed: int,
    examples: int | None = None,
    *,
    standardise_by: str = "channel",
    folds: int | None = None,
) -> Dataset:
    """A data set by name.

    Args:
        name: one of `NAMES`.
        data_dir: folder of tensorflow-datasets; None for its default. Only read if the cache lacks the data set.
        cache_dir: folder of the decoded arrays.
        seed: of the replicate; sine depends on it, and the fold of cross-validation.
        examples: use this many training examples, and no more than that for validation; None for all.
        standardise_by: "channel" or "pixel": what images share a mean and a deviation by.
        folds: cross-validate images with so many folds, of which seed modulo folds is held out; None for the protocol.

    Returns:
        The data set; inputs are float32, labels int32. Arrays of images are read-only, as all callers share them.

    Raises:
        DataMissingError: if the data is neither in the cache nor in `data_dir`; nothing is downloaded.
        DataCorruptError: if it is there and cannot be read.
        ValueError: if `name` is unknown, there are fewer than `examples` training examples, or folds or pixels are asked
            of data that are no images.
    """
    _check_name(name)
    fold = None if folds is None else (seed % folds, folds)
    if name not in IMAGES:
        if standardise_by != "channel" or folds is not None:
            raise ValueError(f"Folds and standardisation by pixel are for images; {name} has none.")
        if name == "sine":
            return _sine(seed, examples)
        key, read = (name, examples), lambda: _puzzle(name, examples)
    else:
        prepare(name, data_dir, cache_dir)
        arrays, digest = _open_cache(name, Path(cache_dir) / name)
        key = (name, digest, examples, standardise_by, fold)

        def read() -> Dataset:
            train = check_examples(name, examples, folds)
            data, black = split(arrays, IMAGES[name].validation, train, standardise_by, fold)
            identity = {"name": name, "sha256": digest, "examples": train}
            if standardise_by != "channel":
                identity["standardise_by"] = standardise_by
            if fold is not None:
                identity["fold"] = list(fold)
            return Dataset(data, IMAGES[name].classes, black, identity)

    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = read()
    return _loaded[key]


def prepare(name: str, data_dir: str | Path | None, cache_dir: str | Path) -> None:
    """Decode a data set into the cache, unless it is there.

    Call it once before workers start. Two processes may call it at once: one of the two equal results stays.

    Args:
        name: one of `NAMES`.
        data_dir: folder of tensorflow-datasets; None for its default.
        cache_dir: folder of the decoded arrays; made if needed.

    Raises:
        DataMissingError: if the data is not in `data_dir`; nothing is downloaded.
        DataCorruptError: if it is there and cannot be read.
        ValueError: if `name` is unknown.
    """
    _check_name(name)
    folder = Path(cache_dir) / name
    if name not in IMAGES or (folder / "info.json").exists():
        return
    if folder.exists():
        raise DataCorruptError(f"The cached folder {folder} lacks info.json. Delete the folder and run again.")
    arrays = _read_digits() if name == "digits" else _read_tfds(name, data_dir)
    source = IMAGES[name]
    expected = [(source.train, *source.shape), (source.train,), (source.test, *source.shape), (source.test,)]
    found = [arrays[part].shape for part in PARTS]
    if found != expected:
        raise DataCorruptError(f"{name} in {data_dir} has arrays of shapes {found}; expected {expected}. {_get(name)}")
    _write_cache(folder, arrays)


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


def _sine(seed: int, examples: int | None) -> Dataset:
    from kmerge.seeds import rng_of  # Imports Keras, which a command line that only lists does not want.

    def draw(part: str, points: int) -> tuple[np.ndarray, np.ndarray]:
        rng = rng_of("sine", seed, part)
        x = rng.uniform(size=(points, 1))
        y = np.sin(10 * np.pi * x) + rng.normal(0.0, 0.2, size=(points, 1))
        return x.astype("float32"), y.astype("float32")

    train = check_examples("sine", examples)
    x_train, y_train = draw("train", 10_000)
    x_val, y_val = draw("validation", min(2_000, train))
    data = Data(x_train[:train], y_train[:train], x_val, y_val, *draw("test", 10_000))
    return Dataset(data, 1, (), {"name": "sine", "seed": seed, "examples": train})


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


def _read_digits() -> dict[str, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataMissingError(
            "digits comes with scikit-learn, which is not installed. Run: pip install scikit-learn"
            " (or copy the folder digits of another machine's cache here)."
        ) from error
    digits = load_digits()
    images = digits.images.astype("uint8")[..., None]
    order = hash_order(images)
    test, train = np.sort(order[: IMAGES["digits"].test]), np.sort(order[IMAGES["digits"].test :])
    labels = digits.target.astype("int32")
    return dict(zip(PARTS, (images[train], labels[train], images[test], labels[test]), strict=True))


def _get(name: str, data_dir: str | Path | None = None) -> str:
    folder = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
    source = IMAGES[name]
    ours = "" if source.module is None else f"import {source.module}; "
    code = f'"{ours}import tensorflow_datasets as tfds; tfds.load({source.builder!r}{folder})"'
    return f"To get it, run: python -c {code}"


def _read_tfds(name: str, data_dir: str | Path | None) -> dict[str, np.ndarray]:
    where = "the default folder of tensorflow-datasets" if data_dir is None else str(data_dir)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataMissingError(
            f"{name} is not in the cache, and tensorflow-datasets is not installed to read it from {where}. Run:"
            f" pip install 'kmerge[benchmarks]' (or copy the folder {name} of another machine's cache here)."
        ) from error
    source = IMAGES[name]
    if source.module is not None:
        importlib.import_module(source.module)
    try:
        splits = tfds.load(
            source.builder,
            split=["train", source.test_split],
            data_dir=data_dir,
            download=False,
            batch_size=-1,
            as_supervised=True,
        )
    except AssertionError as error:  # What tensorflow-datasets raises where it would have to download.
        raise DataMissingError(f"{name} is not in {where}, which --data-dir names. {_get(name, data_dir)}") from error
    except Exception as error:
        # A broken file shows as one of many exceptions: of TensorFlow's reader, of the JSON or the protobuf parser.
        raise DataCorruptError(
            f"{name} in {where} cannot be read: {error} Delete the folder {name} there. {_get(name, data_dir)}"
        ) from error
    (train_images, train_labels), (test_images, test_labels) = tfds.as_numpy(splits)
    labels = (np.asarray(train_labels, "int32"), np.asarray(test_labels, "int32"))
    return dict(zip(PARTS, (train_images, labels[0], test_images, labels[1]), strict=True))


def _write_cache(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        digest = hashlib.sha256()
        for part in PARTS:
            np.save(draft / f"{part}.npy", arrays[part])
            digest.update(np.ascontiguousarray(arrays[part]).data)
        (draft / "info.json").write_text(json.dumps({"sha256": digest.hexdigest()}))
        draft.chmod(0o755)  # mkdtemp makes folders that only their owner can read.
        os.rename(draft, folder)
    except OSError:
        if not (folder / "info.json").exists():  # Else another process was faster, with the same arrays.
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _open_cache(name: str, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    source = IMAGES[name]
    path = folder / "info.json"
    try:
        digest = json.loads(path.read_text())["sha256"]
        arrays = {}
        for part in PARTS:
            path = folder / f"{part}.npy"
            arrays[part] = np.load(path, mmap_mode="r")
            count = source.train if part.startswith("train") else source.test
            if len(arrays[part]) != count:
                raise ValueError(f"it has {len(arrays[part])} rows; expected {count}.")
    except (OSError, ValueError, KeyError) as error:
        raise DataCorruptError(
            f"The cached file {path} cannot be read: {error} Delete the folder {folder} and run again."
        ) from error
    return arrays, digest
