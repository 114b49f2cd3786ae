"""Tiny ImageNet: 200 classes of ImageNet, 64x64 pixels, 500 training and 50 validation images each.

Reference: Le and Yang, "Tiny ImageNet visual recognition challenge", CS 231N, 2015.

    tiny-imagenet-200/wnids.txt                         the classes, in no order
                     /train/n01443537/images/n01443537_0.JPEG
                     /val/images/val_0.JPEG
                     /val/val_annotations.txt           val_0.JPEG <tab> n03444034 <tab> box

The labels of the official test part are secret, so it is left out. Labels are numbered by the sorted names of the classes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from benchmarks.data.tfds_builders.squares import info

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_HOMEPAGE = "https://www.kaggle.com/c/tiny-imagenet"
_CITATION = "Ya Le and Xuan Yang. Tiny ImageNet visual recognition challenge. CS 231N, 2015."


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """The builder; `tfds.load("tiny_imagenet")`."""

    VERSION = tfds.core.Version("1.0.0")
    CLASSES = 200

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, 64, "jpeg", __doc__.splitlines()[0], _HOMEPAGE, _CITATION)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = Path(dl_manager.download_and_extract(URL)) / "tiny-imagenet-200"
        names = sorted((folder / "wnids.txt").read_text().split())
        if len(names) != self.CLASSES:
            raise ValueError(f"{URL} names {len(names)} classes in wnids.txt; expected {self.CLASSES}.")
        labels = {name: label for label, name in enumerate(names)}
        return {"train": _training(folder / "train", labels), "validation": _validation(folder / "val", labels)}

    def _generate_examples(self) -> None:
        raise NotImplementedError("Each split has a generator of its own.")


def _example(path: Path, label: int) -> dict:
    return {"image": str(path), "label": label}


def _training(folder: Path, labels: dict[str, int]) -> Iterator[tuple[str, dict]]:
    for name, label in labels.items():
        # Some are grey; tensorflow-datasets decodes all to three channels.
        for path in sorted((folder / name / "images").iterdir()):
            yield path.name, _example(path, label)


def _validation(folder: Path, labels: dict[str, int]) -> Iterator[tuple[str, dict]]:
    for line in (folder / "val_annotations.txt").read_text().splitlines():
        file, name = re.split(r"\s+", line)[:2]
        yield file, _example(folder / "images" / file, labels[name])
