"""What our builders for segmentation have in common: archives that are there by hand, masks, and their checks.

An image and its mask are stored in their own size; `squares.in_a_square` brings both to one when the cache is written.
"""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks.data.photographs import check_labels

# VOC's: background and 20 kinds of objects; and the label of pixels that count nowhere.
CLASSES, VOID = 21, 255


def info(builder: tfds.core.GeneratorBasedBuilder, description: str, homepage: str, citation: str) -> tfds.core.DatasetInfo:
    """The features `image`, `(height, width, 3)`, and `mask`, `(height, width, 1)`, each of any size.

    Args:
        builder: the builder.
        description: one line.
        homepage: of the data set.
        citation: of the data set.

    Returns:
        What `_info` of the builder returns.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
    )
    about = {"description": description, "homepage": homepage, "citation": citation}
    return tfds.core.DatasetInfo(builder=builder, features=features, supervised_keys=("image", "mask"), **about)


def manual_folder(dl_manager: tfds.download.DownloadManager, names: Sequence[str], command: str) -> Path:
    """The folder of what cannot be downloaded, if all of it is there.

    Args:
        dl_manager: of the builder.
        names: of the files.
        command: what builds the data set once they are there.

    Raises:
        FileNotFoundError: if one is missing.
    """
    folder = Path(dl_manager.manual_dir)
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing. Put {name} into {folder}, then run: {command}")
    return folder


class Archive:
    """A tar or zip archive, open within a `with`, whose files are read where they lie: nothing is unpacked.

    Args:
        path: of the archive.

    Raises:
        ValueError: if it is damaged, or is asked for a file that it lacks.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._files = zipfile.ZipFile(path) if path.suffix == ".zip" else tarfile.open(path)
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read as an archive. Get it anew.") from error

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error) -> None:
        self._files.close()

    def read(self, name: str) -> bytes:
        """The content of a file in it."""
        try:
            if isinstance(self._files, zipfile.ZipFile):
                return self._files.read(name)
            if (file := self._files.extractfile(name)) is None:
                raise OSError("it is no file")
            return file.read()
        except KeyError:
            raise ValueError(f"{self.path} lacks {name}. Get the archive anew.") from None
        except (OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise self.damaged(name, error) from error

    def text(self, name: str) -> str:
        """The content of a file of text in it."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, error: Exception) -> ValueError:
        """What to raise for a file in it that cannot be read."""
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        return ValueError(f"{name} in {self.path} cannot be read: {reason}. Get the archive anew.")

    def image(self, name: str) -> tuple[io.BytesIO, tuple[int, int]]:
        """An image as it is stored, and its height and width."""
        content = self.read(name)
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return io.BytesIO(content), image.size[::-1]
        except (OSError, SyntaxError, ValueError) as error:
            raise self.damaged(name, error) from error

    def labels(self, name: str) -> np.ndarray:
        """The labels of a mask that is stored as an image with a palette, or in shades of grey."""
        content = self.read(name)
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode not in ("P", "L"):
                    raise ValueError(f"expected a mask with a label per pixel, received an image of mode {image.mode}.")
                return np.array(image, "uint8")
        except (OSError, SyntaxError, ValueError) as error:
            raise self.damaged(name, error) from error


def example(archive: Archive, name: str, mask: np.ndarray) -> Mapping:
    """An image and its mask, if they go together.

    Args:
        archive: with the image.
        name: of the image in it.
        mask: labels, `(height, width)`.

    Raises:
        ValueError: if the mask has another size, or labels beyond the classes.
    """
    image, size = archive.image(name)
    if mask.shape != size:
        sizes = f"{size[0]} x {size[1]} pixels; its mask has {mask.shape[0]} x {mask.shape[1]}"
        raise ValueError(f"{name} in {archive.path} has {sizes}. Get the archive anew.")
    check_labels(mask, CLASSES, VOID, f"the mask of {name} in {archive.path}")
    return {"image": image, "mask": mask[..., None]}
