"""Data of one's own, which a suite names by where it is:

    dataset = "my_data.npz"             arrays x_train, y_train, x_test, y_test, and perhaps x_val, y_val
    dataset = "my_photos/"              images in train/CLASS/ and test/CLASS/, and perhaps validation/CLASS/
    dataset = "my_data:load"            a function of a seed, which returns arrays by those names

Files are looked for in the folder of the suite's file. Whole numbers `(n,)` as targets are classes, floating-point numbers
`(n,)` or `(n, outputs)` are values. Images of bytes are standardized by mean and deviation of each channel of the training
part; other inputs are taken as they are. Where there is no validation part, a tenth of the training part is, chosen by the
hash of each example.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.protocol.task import Data
from benchmarks.command_line import refusal
from benchmarks.data.splits import hash_order, level_counts, statistics_of
from benchmarks.own_code import digest_of_code, imported, is_reference

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_VALIDATION = ("x_val", "y_val")
_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_TENTH = 10


class OwnDataError(ValueError):
    """Data that is not there, or is none; the message says what is expected."""


@dataclass(frozen=True)
class OwnData:
    """Data in three parts.

    Attributes:
        data: the parts, inputs float32, read-only.
        outputs: how many classes there are, or values of a target.
        black: the standardized value of a black pixel per channel; empty where inputs are no images of bytes.
        examples: how many training examples are used.
    """

    data: Data
    outputs: int
    black: tuple[float, ...]
    examples: int


def is_own(name: object) -> bool:
    """Whether a suite's `dataset` names data of one's own."""
    is_path = isinstance(name, str) and len(name) <= 1000 and name.isprintable() and name.endswith((".npz", "/"))
    return is_path or is_reference(name)


def digest_of_data(name: str, folder: Path) -> str:
    """A SHA-256 of the file, of all images of the folder, or of the code of the function.

    Args:
        name: as a suite has it.
        folder: of the suite's file.

    Raises:
        ValueError: if it is not there.
    """
    if is_reference(name):
        return digest_of_code(name, folder)
    path, digest = Path(folder) / name, hashlib.sha256()
    for file in _files(path):
        try:
            with file.open("rb") as content:
                own = hashlib.file_digest(content, "sha256").digest()
        except OSError as error:
            raise OwnDataError(refusal("a file of arrays", name, f"{file} cannot be read: {error.strerror}.")) from error
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + own)
    return digest.hexdigest()


def files_of_data(name: str, folder: Path) -> dict[str, Path]:
    """The file, or the images of the folder, by their paths as a suite would have them; of a function none, as it may read
    any.

    Args:
        name: as a suite has it.
        folder: where it is.

    Raises:
        ValueError: if it is no folder of images.
    """
    if is_reference(name):
        return {}
    path = Path(folder) / name
    return {(name + file.relative_to(path).as_posix()).removesuffix("."): file for file in _files(path)}


def _files(path: Path) -> list[Path]:
    return [path] if path.suffix == ".npz" else [file for files in _images(path).values() for file, _ in files]


def load_own(name: str, folder: Path, seed: int, examples: int | None, is_regression: bool, digest: str) -> OwnData:
    """The data, ready for a network.

    Args:
        name: as a suite has it.
        folder: of the suite's file.
        seed: of the replicate, for a function.
        examples: use this many training examples, and no more than that for validation; None for all.
        is_regression: whether targets are to be values instead of classes.
        digest: of the data, as it was when the run was planned.

    Raises:
        ValueError: if it is not there or not such data.
    """
    return _loaded(name, Path(folder), seed if is_reference(name) else None, examples, is_regression, digest)


@functools.lru_cache(maxsize=1)
def _loaded(
    name: str, folder: Path, seed: int | None, examples: int | None, is_regression: bool, digest: str
) -> OwnData:
    if is_reference(name):
        arrays = imported(name, folder)(seed)
    else:
        arrays = _read_arrays(folder / name) if name.endswith(".npz") else _read_images(folder / name)
    arrays = _checked(name, arrays, is_regression)
    return _divided(name, arrays, examples, is_regression)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {part: file[part] for part in file.files}
    except Exception as error:  # damage shows as any of them: of the system, of an archive, of a header's syntax
        raise OwnDataError(f"{path} cannot be read as an npz file of arrays without Python objects: {error}") from error


def _images(path: Path) -> dict[str, list[tuple[Path, int]]]:
    """By part, its files and the numbers of their classes, by name."""
    found, classes = {}, None
    for part in _FOLDERS:
        if not (path / part).is_dir():
            if part == "validation":
                continue
            raise OwnDataError(refusal("a folder with train/CLASS/ and test/CLASS/ in it", f"{path}", f"It has no {part}/."))
        names = sorted(place.name for place in (path / part).iterdir() if place.is_dir())
        if classes is not None and names != classes:
            raise OwnDataError(f"{path / part}: " + refusal(f"folders of the classes {', '.join(classes[:20])}", names))
        classes = names
        files = [(file, number) for number, of in enumerate(names) for file in sorted((path / part / of).iterdir())]
        if strange := [file for file, _ in files if file.suffix.lower() not in _ENDINGS]:
            raise OwnDataError(refusal(f"images, which end with {', '.join(_ENDINGS)}", str(strange[0]), "Move it elsewhere."))
        found[part] = files
    return found


def _read_images(path: Path) -> dict[str, np.ndarray]:
    try:
        from PIL import Image
    except ImportError as error:
        raise OwnDataError(f"{path}: images are read by Pillow, which is not installed. Run: pip install pillow") from error
    arrays = {}
    for part, files in _images(path).items():
        images = []
        for file, _ in files:
            try:
                with Image.open(file) as image:
                    images.append(np.asarray(image if image.mode == "L" else image.convert("RGB"), "uint8"))
            except Exception as error:  # of a decoder, of any kind
                raise OwnDataError(f"{file} cannot be read as an image: {error}") from error
            if images[-1].shape != images[0].shape:
                do = "Make all images of one size, and all grey or all of colours."
                raise OwnDataError(f"{file}: {refusal(f'an image of shape {images[0].shape}', images[-1].shape, do)}")
        pixels = np.stack(images) if images else np.zeros((0, 1, 1), "uint8")
        arrays[f"x_{_FOLDERS[part]}"] = pixels if pixels.ndim == 4 else pixels[..., None]
        arrays[f"y_{_FOLDERS[part]}"] = np.array([label for _, label in files], "int32")
    return arrays


def _checked(name: str, arrays: object, is_regression: bool) -> dict[str, np.ndarray]:
    """The arrays, if they are what a network can be trained on."""
    if not isinstance(arrays, Mapping):
        raise OwnDataError(f"{name}: " + refusal(f"arrays by the names {', '.join(_NEEDED)}", arrays))
    given = set(arrays)
    if not (set(_NEEDED) <= given and given <= {*_NEEDED, *_VALIDATION} and len(given & set(_VALIDATION)) != 1):
        expected = f"arrays {', '.join(_NEEDED)}, and both or none of {', '.join(_VALIDATION)}"
        raise OwnDataError(f"{name}: " + refusal(expected, sorted(map(str, given))))
    arrays = {part: np.asarray(values) for part, values in arrays.items()}
    for part, values in arrays.items():
        _check_array(f"{name}, {part}", values, part.startswith("x"), is_regression)
    for part in sorted(part for part in arrays if part.startswith("x")):
        targets = arrays["y" + part[1:]]
        if not len(arrays[part]) == len(targets) > 0:
            raise OwnDataError(f"{name}, y{part[1:]}: " + refusal(f"{len(arrays[part])} targets, at least one", len(targets)))
        for own, first in ((arrays[part], arrays["x_train"]), (targets, arrays["y_train"])):
            if own.shape[1:] != first.shape[1:] or own.dtype != first.dtype:
                expected = f"examples as in the training part, {first.dtype} of shape {first.shape[1:]}"
                raise OwnDataError(f"{name}, {part[2:]}: " + refusal(expected, f"{own.dtype} of shape {own.shape[1:]}"))
    return arrays


def _check_array(where: str, values: np.ndarray, is_input: bool, is_regression: bool) -> None:
    kinds, what = "fiu", "numbers"
    if not is_input:
        kinds, what = ("f", "values, floating-point,") if is_regression else ("iu", "classes, whole numbers from 0,")
    ranks = (2, 3, 4, 5) if is_input else (1, 2) if is_regression else (1,)
    if values.dtype.kind not in kinds or values.ndim not in ranks:
        ways = " or ".join(f"{rank}" for rank in ranks)
        raise OwnDataError(f"{where}: " + refusal(f"{what} in {ways} dimensions", f"{values.dtype} of shape {values.shape}"))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise OwnDataError(f"{where}: expected finite numbers, received some that are not. Leave out those examples.")
    if not is_input and not is_regression and values.size and values.min() < 0:
        raise OwnDataError(f"{where}: " + refusal("classes from 0", int(values.min())))


def _divided(name: str, arrays: dict[str, np.ndarray], examples: int | None, is_regression: bool) -> OwnData:
    order = hash_order(arrays["x_train"])
    if "x_val" in arrays:
        train, held_out = order, hash_order(arrays["x_val"])
        x_val, y_val = arrays["x_val"], arrays["y_val"]
    else:
        count = max(1, len(order) // _TENTH)
        held_out, train = order[:count], order[count:]
        x_val, y_val = arrays["x_train"], arrays["y_train"]
    used = len(train) if examples is None else examples
    if not 1 <= used <= len(train):
        raise OwnDataError(f"{name} has {len(train)} training examples; asked for {used}. Ask for 1 to {len(train)}.")
    rows, held_rows = np.sort(train[:used]), np.sort(held_out[:used])
    x_train, black = arrays["x_train"], ()
    mean = deviation = None
    if x_train.dtype == np.uint8 and x_train.ndim == 4:
        mean, deviation = statistics_of(level_counts(x_train[np.sort(train)]))
        deviation = np.where(deviation == 0, 1.0, deviation)
        black = tuple(float(value) for value in -mean / deviation)

    def ready(x: np.ndarray) -> np.ndarray:
        x = x.astype("float32")
        return x if mean is None else (x - mean.astype("float32")) / deviation.astype("float32")

    def targets(y: np.ndarray) -> np.ndarray:
        return y.astype("float32").reshape(len(y), -1) if is_regression else y.astype("int32")

    parts = [ready(x_train[rows]), targets(arrays["y_train"][rows]), ready(x_val[held_rows]), targets(y_val[held_rows])]
    parts += [ready(arrays["x_test"]), targets(arrays["y_test"])]
    for part in parts:
        part.flags.writeable = False
    labels = [values for part, values in arrays.items() if part.startswith("y")]
    outputs = parts[1].shape[1] if is_regression else 1 + max(int(values.max()) for values in labels)
    return OwnData(Data(*parts), outputs, black, used)
