"""Data sets of images: where they come from, and their cache: plain NumPy files, decoded once per machine.

    CACHE/NAME/{train,test}_{images,labels}.npy, info.json
               verified.json        the files whose SHA-256 was found to be that of info.json, by inode, size and times

Where that folder is copied to, neither TensorFlow nor tensorflow-datasets nor scikit-learn is needed.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.data.photographs import digest_of as photographs_digest
from benchmarks.data.photographs import write_photographs
from benchmarks.data.shapes import draw_shapes
from benchmarks.data.sources import IMAGES, ImageSource
from benchmarks.data.splits import hash_order
from benchmarks.files import draft_folder, write_atomically

# Of which files the hash was checked.
_VERIFIED = "verified.json"
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


class DataMissingError(Exception):
    """A data set that is not there; the message says how to get it."""


class DataCorruptError(DataMissingError):
    """A data set that is there but cannot be read; the message names the file and the remedy."""


def prepare_images(name: str, data_dir: str | Path | None, cache_dir: str | Path) -> None:
    """Decode a data set of images into the cache, unless it is there.

    Call it once before workers start. Two processes may call it at once: one of the two equal results stays.

    Args:
        name: a key of `IMAGES`.
        data_dir: folder of tensorflow-datasets; None for its default.
        cache_dir: folder of the decoded arrays; made if needed.

    Raises:
        DataMissingError: if the data is not in `data_dir`; nothing is downloaded.
        DataCorruptError: if it is there and cannot be read.
    """
    folder = Path(cache_dir) / name
    if (folder / "info.json").exists():
        return
    if folder.exists():
        raise DataCorruptError(f"The cached folder {folder} lacks info.json. Delete the folder and run again.")
    source = IMAGES[name]
    if source.crop is not None:
        _in_draft(folder, functools.partial(_prepare_photographs, name, data_dir))
        return
    arrays = _arrays(name, data_dir)
    counts = (source.train, source.test)
    expected = [shape for n in counts for shape in ((n, *source.shape), source.labels(n)[1])]
    found = [arrays[part].shape for part in PARTS]
    if found != expected:
        raise DataCorruptError(f"{name} in {data_dir} has arrays of shapes {found}; expected {expected}. {_get(name)}")
    write_cache(folder, arrays)


def _arrays(name: str, data_dir: str | Path | None) -> dict[str, np.ndarray]:
    source = IMAGES[name]
    if name == "shapes":
        return dict(zip(PARTS, draw_shapes(source.train, source.test), strict=True))
    return read_digits(name) if source.builder is None else _read_tfds(name, data_dir)


def read_digits(name: str = "digits") -> dict[str, np.ndarray]:
    """The arrays of scikit-learn's digits, by `PARTS`; of "digits_rotated", half of the images rotated."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataMissingError(
            "digits come with scikit-learn, which is not installed. Run: pip install scikit-learn"
            " (or copy the folder of another machine's cache here)."
        ) from error
    digits = load_digits()
    images, labels = digits.images.astype("uint8")[..., None], digits.target.astype("int32")
    source = IMAGES[name]
    if source.domains > 1:
        images, labels = _half_rotated(images, labels, source.classes)
    order = hash_order(images)
    test, train = np.sort(order[: source.test]), np.sort(order[source.test :])
    return dict(zip(PARTS, (images[train], labels[train], images[test], labels[test]), strict=True))


def _half_rotated(images: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The images, half of them rotated by 90 degrees: domain 1, as their labels then tell. The hash of pixels says which."""
    rotated = hash_order(images)[1::2]
    images, labels = images.copy(), labels.copy()
    images[rotated] = np.rot90(images[rotated], axes=(1, 2))
    labels[rotated] += classes
    return images, labels


def _get(name: str, data_dir: str | Path | None = None) -> str:
    folder = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
    source = IMAGES[name]
    ours = "" if source.module is None else f"import {source.module}; "
    code = f'"{ours}import tensorflow_datasets as tfds; tfds.load({source.builder!r}{folder})"'
    return f"To get it, {source.manual or ''}run: python -c {code}"


def _where(data_dir: str | Path | None) -> str:
    return "the default folder of tensorflow-datasets" if data_dir is None else str(data_dir)


def _splits(name: str, data_dir: str | Path | None, batch_size: int | None) -> list:
    """The training split and the test part as tensorflow-datasets has them, in the order of its files."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataMissingError(
            f"{name} is not in the cache, and tensorflow-datasets is not installed to read it from {_where(data_dir)}. Run:"
            f" pip install 'kmerge[benchmarks]' (or copy the folder {name} of another machine's cache here)."
        ) from error
    source = IMAGES[name]
    if source.module is not None:
        importlib.import_module(source.module)
    try:
        return tfds.load(
            source.builder,
            split=["train", source.test_split],
            data_dir=data_dir,
            download=False,
            batch_size=batch_size,
            as_supervised=True,
        )
    except AssertionError as error:  # What tensorflow-datasets raises where it would have to download.
        where = _where(data_dir)
        raise DataMissingError(f"{name} is not in {where}, which --data-dir names. {_get(name, data_dir)}") from error
    except Exception as error:
        # A broken file shows as one of many exceptions: of TensorFlow's reader, of the JSON or the protobuf parser.
        raise _unreadable(name, data_dir, error) from error


def _unreadable(name: str, data_dir: str | Path | None, error: Exception) -> DataCorruptError:
    folder = IMAGES[name].builder.partition(":")[0].partition("/")[0]
    return DataCorruptError(
        f"{name} in {_where(data_dir)} cannot be read: {error} Delete the folder {folder} there. {_get(name, data_dir)}"
    )


def _prepare_photographs(name: str, data_dir: str | Path | None, folder: Path) -> dict:
    source, splits = IMAGES[name], _splits(name, data_dir, None)
    import tensorflow as tf

    from benchmarks.data.tfds_builders.squares import in_a_square, square

    def squares(image, label):
        side = source.shape[0]
        return (square(image, side), label) if source.void is None else in_a_square(image, label, side, source.void)

    parts = [split.map(squares, tf.data.AUTOTUNE).as_numpy_iterator() for split in splits]
    try:
        return write_photographs(folder, *parts, source)
    except (ValueError, tf.errors.OpError) as error:
        raise _unreadable(name, data_dir, error) from error


def _read_tfds(name: str, data_dir: str | Path | None) -> dict[str, np.ndarray]:
    splits = _splits(name, data_dir, -1)  # says what to do where there is no tensorflow-datasets
    import tensorflow_datasets as tfds

    (train_images, train_labels), (test_images, test_labels) = tfds.as_numpy(splits)
    labels = (np.asarray(train_labels, "int32"), np.asarray(test_labels, "int32"))
    images = [_pooled(images, IMAGES[name].pooled) for images in (train_images, test_images)]
    return dict(zip(PARTS, (images[0], labels[0], images[1], labels[1]), strict=True))


def _pooled(images: np.ndarray, side: int) -> np.ndarray:
    """Images with the rounded mean of each square of pixels as one pixel; (n, height, width, channels), of uint8."""
    if side == 1:
        return images
    n, height, width, channels = images.shape
    pooled = np.empty((n, height // side, width // side, channels), "uint8")
    for start in range(0, n, 1_000):  # so few that their sums stay in a processor's cache
        rows = slice(start, start + 1_000)
        total = np.zeros(pooled[rows].shape, "float32")
        for down, right in np.ndindex(side, side):
            total += images[rows, down::side, right::side]
        pooled[rows] = np.rint(total / side**2)
    return pooled


def write_cache(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays, by `PARTS`, and their hash to a folder that is not there; one that is meanwhile stays."""

    def write(draft: Path) -> dict:
        for part in PARTS:
            np.save(draft / f"{part}.npy", arrays[part])
        return {"sha256": _digest(arrays)}

    _in_draft(folder, write)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(np.ascontiguousarray(arrays[part]).data)
    return digest.hexdigest()


def _in_draft(folder: Path, write: Callable[[Path], dict]) -> None:
    """Have a folder written beside its place and moved there when it is whole; `write` returns its info.json."""
    with draft_folder(folder) as draft:
        try:
            (draft / "info.json").write_text(json.dumps(write(draft)))
            draft.chmod(0o755)  # Drafts can be read by their owner alone.
            os.rename(draft, folder)
        except OSError:
            if not (folder / "info.json").exists():  # Else another process was faster, with the same arrays.
                raise


def open_cache(name: str, folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a cached data set, mapped, by `PARTS`; and what its info.json says.

    Sizes and types are always checked; the hash where these files were not read whole before, on this machine.

    Raises:
        DataCorruptError: if a file cannot be read, or is not what was decoded.
    """
    source, path, arrays = IMAGES[name], folder / "info.json", {}
    try:
        about = json.loads(path.read_text())
        if missing := {"sha256", *(("mean", "deviation") if source.crop else ())} - about.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}.")
        for part in PARTS:
            path = folder / f"{part}.npy"
            arrays[part] = np.load(path, mmap_mode="r")
            count = source.train if part.startswith("train") else source.test
            expected = ("uint8", (count, *source.shape)) if part.endswith("images") else source.labels(count)
            found = (arrays[part].dtype.name, arrays[part].shape)
            if found != expected:
                raise ValueError("expected {} of shape {}, received {} of shape {}.".format(*expected, *found))
        path = folder
        _verify(source, folder, arrays, about["sha256"])
    except Exception as error:  # damage shows as any of them: of the system, of an archive, of a header's syntax
        raise DataCorruptError(
            f"The cached file {path} cannot be read: {error} Delete the folder {folder} and run again."
        ) from error
    return arrays, about


def _verify(source: ImageSource, folder: Path, arrays: Mapping[str, np.ndarray], expected: str) -> None:
    """Check the hash of the arrays, unless the same files passed before.

    Raises:
        ValueError: if it is another one.
    """
    files = {part: _traits(folder / f"{part}.npy") for part in PARTS}
    known = {"sha256": expected, "files": files}
    try:
        if json.loads((folder / _VERIFIED).read_text()) == known:
            return
    except (OSError, ValueError, RecursionError):
        pass
    found = _digest(arrays) if source.crop is None else photographs_digest(arrays)
    if found != expected:
        raise ValueError(f"expected arrays of the SHA-256 {expected}, as info.json says, received {found}.")
    with contextlib.suppress(OSError):  # a folder that cannot be written is read whole by each process
        write_atomically(folder / _VERIFIED, json.dumps(known))


def _traits(path: Path) -> list[int]:
    """What a file on this machine has as long as nobody writes it, and no copy of it has."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def forget_verified(folder: Path) -> None:
    """Have the hash of a cached data set checked when it is opened next, whatever was checked before."""
    (folder / _VERIFIED).unlink(missing_ok=True)
