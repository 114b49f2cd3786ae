"""Imagewoof: the ten dog breeds of ImageNet that are hard to tell apart, as squares of one size.

Reference: Howard, "Imagewoof: a subset of 10 classes from ImageNet that aren't so easy to classify", 2019, second version.

    imagewoof2-320/train/n02086240/ILSVRC2012_val_00000907.JPEG
                  /val/n02086240/n02086240_1026.JPEG

The archive's images have a shorter side of 320 pixels. Here the square in their middle is taken and scaled down. Labels are
numbered by the sorted names of the classes.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks.data.tfds_builders.squares import info, square

URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagewoof2-320.tgz"
_HOMEPAGE = "https://github.com/fastai/imagenette"
_CITATION = "Jeremy Howard. Imagewoof: a subset of 10 classes from ImageNet that aren't so easy to classify. 2019."


class ImagewoofConfig(tfds.core.BuilderConfig):
    """Squares of one size.

    Args:
        pixels: the side of an image.
    """

    def __init__(self, pixels: int):
        super().__init__(name=f"{pixels}px", description=f"{pixels} x {pixels} pixels")
        self.pixels = pixels


class Imagewoof(tfds.core.GeneratorBasedBuilder):
    """The builder; `tfds.load("imagewoof/28px")`."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [ImagewoofConfig(28), ImagewoofConfig(256)]
    CLASSES = 10

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, self.builder_config.pixels, "png", __doc__.splitlines()[0], _HOMEPAGE, _CITATION)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = Path(dl_manager.download_and_extract(URL)) / "imagewoof2-320"
        names = sorted(path.name for path in (folder / "train").iterdir())
        if len(names) != self.CLASSES:
            raise ValueError(f"{URL} has {len(names)} classes in train; expected {self.CLASSES}.")
        return {
            "train": self._generate_examples(folder / "train", names),
            "validation": self._generate_examples(folder / "val", names),
        }

    def _generate_examples(self, folder: Path, names: list[str]) -> Iterator[tuple[str, dict]]:
        for label, name in enumerate(names):
            for path in sorted((folder / name).iterdir()):
                yield f"{name}/{path.name}", {"image": _square(path, self.builder_config.pixels), "label": label}


def _square(path: Path, side: int) -> np.ndarray:
    return square(tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False), side).numpy()
