"""Data sets by name, split into training, validation and test parts, ready for a network.

Images are decoded once per machine into plain NumPy files, `CACHE/NAME/{train,test}_{images,labels}.npy`; runs map
them into memory. Where that folder is copied to, neither TensorFlow nor tensorflow-datasets nor scikit-learn is needed.

The protocol, for images: the official test split is the test part (digits, which has none, gives 600 images). The
validation part is cut from the training split by the hash of each image's pixels: it depends on no seed, and equal
images never stand on both sides. All choices are made on it. Pixels are standardised by the mean and standard
deviation per channel of the training part. For sine, each seed has a data set of its own, with the same sizes.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.strategy import Data

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
    """

    builder: str | None
    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    validation: int


IMAGES = {
    "cifar10": ImageSource("cifar10:3.0.2", (32, 32, 3), 10, 50_000, 10_000, validation=5_000),
    "cifar100": ImageSource("cifar100:3.0.2", (32, 32, 3), 100, 50_000, 10_000, validation=5_000),
    "digits": ImageSource(None, (8, 8, 1), 10, 1_197, 600, validation=297),
    "fashion_mnist": ImageSource("fashion_mnist:3.0.1", (28, 28, 1), 10, 60_000, 10_000, validation=5_000),
}
NAMES = (*sorted(IMAGES), "sine")


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
) -> Dataset:
    """A data set by name.

    Args:
        name: one of `NAMES`.
        data_dir: folder of tensorflow-datasets; None for its default. Only read if the cache lacks the data set.
        cache_dir: folder of the decoded arrays.
        seed: of the replicate; only sine depends on it.
        examples: use this many training examples, and no more than that for validation; None for all.

    Returns:
        The data set; inputs are float32, labels int32. Arrays of images are read-only, as all callers share them.

    Raises:
        DataMissingError: if the data is neither in the cache nor in `data_dir`; nothing is downloaded.
        DataCorruptError: if it is there and cannot be read.
        ValueError: if `name` is unknown, or there are fewer than `examples` training examples.
    """
    _check_name(name)
    if name == "sine":
        return _sine(seed, examples)
    prepare(name, data_dir, cache_dir)
    arrays, digest = _open_cache(name, Path(cache_dir) / name)
    key = (name, digest, examples)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = _split(name, arrays, digest, examples)
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
    if name == "sine" or (folder / "info.json").exists():
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


def check_examples(name: str, examples: int | None) -> int:
    """How many training examples are used where `examples` are asked for.

    Args:
        name: one of `NAMES`.
        examples: how many; None for all.

    Returns:
        The number.

    Raises:
        ValueError: if there are fewer.
    """
    _check_name(name)
    available = 10_000 if name == "sine" else IMAGES[name].train - IMAGES[name].validation
    if examples is None:
        return available
    if not 1 <= examples <= available:
        raise ValueError(f"{name} has {available} training examples; asked for {examples}. Ask for 1 to {available}.")
    return examples


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
    order = _hash_order(images)
    test, train = np.sort(order[: IMAGES["digits"].test]), np.sort(order[IMAGES["digits"].test :])
    labels = digits.target.astype("int32")
    return dict(zip(PARTS, (images[train], labels[train], images[test], labels[test]), strict=True))


def _get(name: str, data_dir: str | Path | None = None) -> str:
    folder = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
    code = f'"import tensorflow_datasets as tfds; tfds.load({IMAGES[name].builder!r}{folder})"'
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
    try:
        splits = tfds.load(
            IMAGES[name].builder,
            split=["train", "test"],
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


def _hash_order(images: np.ndarray) -> np.ndarray:
    """Indices of the images, sorted by the hash of their pixels: a shuffle that no seed and no file order changes."""
    return np.argsort([hashlib.sha256(image.tobytes()).digest() for image in images], kind="stable")


def _channel_statistics(images: np.ndarray, levels: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and standard deviation per channel of uint8 images, from counts: no copy in floating point."""
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=levels) for c in range(images.shape[-1])])
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ np.arange(levels)
    return mean, np.sqrt(shares @ np.arange(levels) ** 2 - mean**2)


def _split(name: str, arrays: dict[str, np.ndarray], digest: str, examples: int | None) -> Dataset:
    source = IMAGES[name]
    train = check_examples(name, examples)
    order = _hash_order(arrays["train_images"])
    validation = np.sort(order[: source.validation][:train])
    whole_training_part = np.sort(order[source.validation :])
    training = np.sort(order[source.validation :][:train])
    mean, deviation = _channel_statistics(arrays["train_images"][whole_training_part])

    def ready(images: np.ndarray) -> np.ndarray:
        scaled = images.astype("float32")
        scaled -= mean.astype("float32")
        scaled /= deviation.astype("float32")
        return scaled

    images, labels = arrays["train_images"], np.asarray(arrays["train_labels"])
    data = Data(
        ready(images[training]),
        labels[training],
        ready(images[validation]),
        labels[validation],
        ready(arrays["test_images"]),
        np.asarray(arrays["test_labels"]),
    )
    for part in vars(data).values():
        part.flags.writeable = False
    black = tuple(float(value) for value in -mean / deviation)
    return Dataset(data, source.classes, black, {"name": name, "sha256": digest, "examples": train})
