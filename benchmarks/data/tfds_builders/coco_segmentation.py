"""COCO 2017 for segmentation with the classes of Pascal VOC, as torchvision's reference of segmentation makes it.

Reference: Lin et al., "Microsoft COCO: common objects in context", ECCV 2014.

    train2017.zip                    train2017/000000000009.jpg
    val2017.zip                      val2017/000000000139.jpg
    annotations_trainval2017.zip     annotations/instances_train2017.json, instances_val2017.json

Objects of other categories are background. Pixels of two objects or more are void, 255, even if both are of one class. For
training, images are left out whose objects of the 20 categories have an annotated area of 1,000 pixels or less together; the
5,000 images of the official validation part all stay.

Polygons are drawn by Pillow, which counts the pixels of an outline as inside; pycocotools, which the reference uses, counts
about half of them. So masks may differ from the reference's by a pixel at the borders of objects.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw

from benchmarks.data.tfds_builders.scenes import VOID, Archive, example, info, manual_folder

# COCO's categories in the order of VOC's classes, aeroplane first; 0 is background.
CATEGORIES = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
# An image of the training split has more annotated pixels than that.
LEAST_AREA = 1_000
PARTS, ANNOTATIONS = {"train2017": "train2017.zip", "val2017": "val2017.zip"}, "annotations_trainval2017.zip"
COMMAND = (
    'python -c "import benchmarks.data.tfds_builders.coco_segmentation; import tensorflow_datasets as tfds; '
    "tfds.load('coco_segmentation:1.0.0')\""
)
_HOMEPAGE = "https://cocodataset.org"
_CITATION = "Tsung-Yi Lin et al. Microsoft COCO: common objects in context. ECCV 2014."


class CocoSegmentation(tfds.core.GeneratorBasedBuilder):
    """The builder; `tfds.load("coco_segmentation")`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"train2017.zip, val2017.zip and {ANNOTATIONS}, from {_HOMEPAGE}; then run: {COMMAND} (with your data_dir)"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, __doc__.splitlines()[0], _HOMEPAGE, _CITATION)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = manual_folder(dl_manager, [*PARTS.values(), ANNOTATIONS], COMMAND)
        return {
            "train": self._generate_examples(folder, "train2017", LEAST_AREA),
            "validation": self._generate_examples(folder, "val2017", -1),
        }

    def _generate_examples(self, folder: Path, part: str, least: float) -> Iterator[tuple[str, dict]]:
        with Archive(folder / ANNOTATIONS) as annotations, Archive(folder / PARTS[part]) as archive:
            images, objects = _annotated(annotations, part)
            for image in images:
                try:
                    name, found = image["file_name"], objects.get(image["id"], ())
                    is_used = sum(thing["area"] for thing in found) > least
                    mask = mask_of(found, image["height"], image["width"]) if is_used else None
                except (LookupError, TypeError, ValueError) as error:
                    raise annotations.damaged(f"image {image['id']} of {_file(part)}", error) from error
                if mask is not None:
                    yield name, example(archive, f"{part}/{name}", mask)


def _file(part: str) -> str:
    return f"annotations/instances_{part}.json"


def _annotated(annotations: Archive, part: str) -> tuple[list[Mapping], dict[int, list[Mapping]]]:
    """The images of a part, and the objects of VOC's classes by the images that they are in."""
    text, objects = annotations.text(_file(part)), defaultdict(list)
    try:
        content = json.loads(text)
        images, known = content["images"], {image["id"] for image in content["images"]}
        for thing in content["annotations"]:
            if thing["image_id"] not in known:
                raise ValueError(f"it annotates image {thing['image_id']}, which it does not list")
            if thing["category_id"] in CATEGORIES:
                objects[thing["image_id"]].append(thing)
    except (KeyError, TypeError, ValueError) as error:
        raise annotations.damaged(_file(part), error) from error
    return images, objects


def mask_of(objects: Sequence[Mapping], height: int, width: int) -> np.ndarray:
    """The mask of an image from COCO's annotations of its objects.

    Args:
        objects: each with `category_id` and `segmentation`: a list of polygons, or run lengths in a dict of `counts`.
        height: of the image.
        width: of the image.

    Returns:
        Labels, uint8 `(height, width)`.

    Raises:
        ValueError: if run lengths are compressed, or are of another size, or a polygon is none.
    """
    mask, covered = (np.zeros((height, width), "uint8") for _ in range(2))
    for thing in objects:
        inside = _pixels(thing["segmentation"], height, width)
        mask[inside] = CATEGORIES.index(thing["category_id"])
        covered += inside & (covered < 2)
    mask[covered > 1] = VOID
    return mask


def _pixels(segmentation: list | Mapping, height: int, width: int) -> np.ndarray:
    """Which pixels an object covers, bool `(height, width)`."""
    if isinstance(segmentation, list):
        drawn = Image.new("1", (width, height))
        for polygon in segmentation:
            if len(polygon) < 4 or len(polygon) % 2 or not np.isfinite(polygon).all():
                raise ValueError(f"expected polygons as x and y of each point in turn, received {str(polygon)[:80]}")
            ImageDraw.Draw(drawn).polygon(polygon, fill=1, outline=1)
        return np.array(drawn, bool)
    counts, size = segmentation["counts"], segmentation["size"]
    if isinstance(counts, str) or sum(counts) != height * width or list(size) != [height, width]:
        received = "a compressed string" if isinstance(counts, str) else f"{sum(counts)} for {size[0]} x {size[1]}"
        raise ValueError(f"expected run lengths as a list for {height} x {width} pixels, received {received}")
    # Runs go down the columns, those of pixels outside and inside in turn.
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
