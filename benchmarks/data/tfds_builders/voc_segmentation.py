"""Pascal VOC 2012 for segmentation: 20 kinds of objects and background; borders of objects are void, 255.

Reference: Everingham et al., "The Pascal visual object classes challenge: a retrospective", IJCV 2015.

    VOCtrainval_11-May-2012.tar
    VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt, val.txt     the names of 1,464 and 1,449 images
                     /JPEGImages/2007_000032.jpg
                     /SegmentationClass/2007_000032.png             labels as indices of a palette

The labels of the official test part are secret, so it is left out.
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from benchmarks.data.tfds_builders.scenes import Archive, example, info, manual_folder

ARCHIVE = "VOCtrainval_11-May-2012.tar"
COMMAND = (
    'python -c "import benchmarks.data.tfds_builders.voc_segmentation; import tensorflow_datasets as tfds; '
    "tfds.load('voc_segmentation:1.0.0')\""
)
_ROOT = "VOCdevkit/VOC2012"
_HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
_CITATION = "Mark Everingham et al. The Pascal visual object classes challenge: a retrospective. IJCV 2015."


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
    """The builder; `tfds.load("voc_segmentation")`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}, from {_HOMEPAGE}; then run: {COMMAND} (with your data_dir)"

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, __doc__.splitlines()[0], _HOMEPAGE, _CITATION)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        path = manual_folder(dl_manager, [ARCHIVE], COMMAND) / ARCHIVE
        return {"train": self._generate_examples(path, "train"), "validation": self._generate_examples(path, "val")}

    def _generate_examples(self, path: Path, part: str) -> Iterator[tuple[str, dict]]:
        with Archive(path) as archive:
            for name in archive.text(f"{_ROOT}/ImageSets/Segmentation/{part}.txt").split():
                mask = archive.labels(f"{_ROOT}/SegmentationClass/{name}.png")
                yield name, example(archive, f"{_ROOT}/JPEGImages/{name}.jpg", mask)
