"""VOC and COCO for segmentation, from archives that the tests make: the layout of the real ones, a few images."""

import dataclasses
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from PIL import Image  # noqa: E402

from benchmarks.data import cache as data_cache  # noqa: E402
from benchmarks.data import datasets  # noqa: E402
from benchmarks.data.tfds_builders import coco_segmentation, voc_segmentation  # noqa: E402
from benchmarks.data.tfds_builders.scenes import Archive  # noqa: E402
from benchmarks.data.tfds_builders.squares import in_a_square  # noqa: E402

ROOT = "VOCdevkit/VOC2012"
# By the part: names, heights and widths.
SCENES = {"train": [("a", 40, 60), ("b", 60, 40), ("c", 40, 60)], "val": [("d", 20, 30)]}


def stored(array, kind, mode=None):
    """An array as a file: of a mask, with a palette."""
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette([value for level in range(256) for value in (level, 255 - level, level)])
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return buffer.getvalue()


def scene(name, height, width):
    """An image that is brighter where its mask has an object, of a class by the name, framed by void."""
    mask = np.zeros((height, width), "uint8")
    mask[2:-2, 2 : width // 2 + 4] = 255
    mask[4:-4, 4 : width // 2 + 2] = 5 * (ord(name) - ord("a") + 1)
    image = np.repeat(np.where((mask > 0) & (mask < 255), 220, 30).astype("uint8")[..., None], 3, axis=2)
    return image, mask


def voc_files():
    files = {}
    for part, scenes in SCENES.items():
        files[f"{ROOT}/ImageSets/Segmentation/{part}.txt"] = "\n".join(name for name, *_ in scenes).encode() + b"\n"
        for each in scenes:
            image, mask = scene(*each)
            files[f"{ROOT}/JPEGImages/{each[0]}.jpg"] = stored(image, "jpeg")
            files[f"{ROOT}/SegmentationClass/{each[0]}.png"] = stored(mask, "png", "P")
    return files


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def small(monkeypatch, name, **counts):
    source = dataclasses.replace(data_cache.IMAGES[name], shape=(32, 32, 3), crop=32, **counts)
    monkeypatch.setitem(data_cache.IMAGES, name, source)


def test_voc_is_read_from_its_archive_and_brought_to_one_size(tmp_path, monkeypatch):
    small(monkeypatch, "voc_segmentation", train=3, test=1, validation=1)
    write_tar(tmp_path / "downloads/manual" / voc_segmentation.ARCHIVE, voc_files())
    voc_segmentation.VocSegmentation(data_dir=tmp_path).download_and_prepare()
    dataset = datasets.load("voc_segmentation", tmp_path, tmp_path / "cache", seed=0)
    data = dataset.data
    assert (dataset.outputs, dataset.void, dataset.black) == (21, 255, ())
    shapes = [(len(x), x.shape[1:], y.shape[1:]) for x, y in zip(data_parts(data, "x"), data_parts(data, "y"), strict=True)]
    assert shapes == [(2, (32, 32, 3), (32, 32)), (1, (32, 32, 3), (32, 32)), (1, (32, 32, 3), (32, 32))]
    seen = set()
    for images, masks in zip(data_parts(data, "x"), data_parts(data, "y"), strict=True):
        assert images.dtype == masks.dtype == np.uint8 and not images.flags.owndata and not masks.flags.owndata
        for image, mask in zip(images, masks, strict=True):
            objects = (mask > 0) & (mask < 255)
            assert image[objects].mean() > 150 and image[mask == 0].mean() < 50  # a mask stays with its image
            assert (image[-2:, -2:] == 0).all() and (mask[-2:, -2:] == 255).all()  # of what is beside it
            assert {(mask[0] != 255).sum(), (mask[:, 0] != 255).sum()} == {32, 21}
            seen.add(tuple(np.unique(mask)))
    assert seen == {(0, 5, 255), (0, 10, 255), (0, 15, 255), (0, 20, 255)} and 20 in data.y_test
    few = datasets.load("voc_segmentation", tmp_path, tmp_path / "cache", seed=0, examples=1)
    assert len(few.data.x_train) == len(few.data.y_train) == 1
    masks = np.load(tmp_path / "cache/voc_segmentation/test_labels.npy")
    masks[0, 0, 0] = 1
    np.save(tmp_path / "cache/voc_segmentation/test_labels.npy", masks)
    with pytest.raises(data_cache.DataCorruptError, match="expected arrays of the SHA-256"):
        datasets.load("voc_segmentation", tmp_path, tmp_path / "cache", seed=0)


def data_parts(data, kind):
    return [getattr(data, f"{kind}_{part}") for part in ("train", "val", "test")]


def test_a_scene_is_scaled_by_its_longer_side_and_masks_by_the_nearest_pixel():
    image = np.repeat(np.arange(60, dtype="uint8").reshape(1, 60, 1) // 20 * 100, 40, axis=0).repeat(3, axis=2)
    mask = image[..., :1] // 50
    small_image, small_mask = (part.numpy() for part in in_a_square(image, mask, 30, 255))
    assert small_image.shape == (30, 30, 3) and small_mask.shape == (30, 30)
    np.testing.assert_array_equal(small_mask[:20], np.tile(np.repeat([0, 2, 4], 10), (20, 1)))
    np.testing.assert_array_equal(small_image[:20, :, 0], small_mask[:20] * 50)
    assert (small_mask[20:] == 255).all() and (small_image[20:] == 0).all()


def without(files, name):
    return {key: content for key, content in files.items() if key != f"{ROOT}/{name}"}


def changed(files, name, content):
    return files | {f"{ROOT}/{name}": content}


MASK, SPLIT = "SegmentationClass/a.png", "ImageSets/Segmentation/train.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: without(files, MASK), rf"{voc_segmentation.ARCHIVE} lacks {ROOT}/{MASK}. Get the archive anew"),
        (lambda files: without(files, "JPEGImages/a.jpg"), r"lacks .*JPEGImages/a.jpg"),
        (lambda files: without(files, SPLIT), rf"lacks .*{SPLIT}"),
        (lambda files: changed(files, SPLIT, b"a\nabsent\n"), r"lacks .*SegmentationClass/absent.png. Get the archive anew.$"),
        (lambda files: changed(files, SPLIT, b"\xff"), rf"{SPLIT} in .* cannot be read: 'utf-8'"),
        (
            lambda files: changed(files, MASK, stored(np.zeros((7, 60), "uint8"), "png", "P")),
            r"JPEGImages/a.jpg in .* has 40 x 60 pixels; its mask has 7 x 60",
        ),
        (
            lambda files: changed(files, MASK, stored(np.full((40, 60), 77, "uint8"), "png", "P")),
            r"the mask of .*JPEGImages/a.jpg in .* has the label 77; expected 0 to 20, or 255 for void",
        ),
        (
            lambda files: changed(files, MASK, stored(np.zeros((40, 60, 3), "uint8"), "png")),
            r"SegmentationClass/a.png in .* expected a mask with a label per pixel, received an image of mode RGB",
        ),
        (lambda files: changed(files, MASK, files[f"{ROOT}/{MASK}"][:-60]), r"SegmentationClass/a.png in .* cannot be read"),
        (lambda files: changed(files, MASK, b"no picture"), r"SegmentationClass/a.png in .* cannot be read"),
        (
            lambda files: changed(files, "JPEGImages/a.jpg", files[f"{ROOT}/JPEGImages/a.jpg"][:-200]),
            r"JPEGImages/a.jpg in .* cannot be read",
        ),
    ],
)
def test_a_voc_archive_that_is_not_whole_is_refused_by_the_files_name(tmp_path, change, message):
    path = write_tar(tmp_path / voc_segmentation.ARCHIVE, change(voc_files()))
    builder = voc_segmentation.VocSegmentation(data_dir=tmp_path)
    with pytest.raises(ValueError, match=message):
        list(builder._generate_examples(path, "train"))


def test_an_archive_that_is_none_and_one_that_is_missing_are_named(tmp_path):
    builder = voc_segmentation.VocSegmentation(data_dir=tmp_path)
    path = tmp_path / "downloads/manual" / voc_segmentation.ARCHIVE
    path.parent.mkdir(parents=True)
    (path.parent / "other.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=rf"{path} is missing. Put {path.name} into {path.parent}, then run: python"):
        builder.download_and_prepare()
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=f"{path} cannot be read as an archive. Get it anew"):
        builder.download_and_prepare()


@pytest.mark.parametrize(
    ("name", "file"), [("voc_segmentation", voc_segmentation.ARCHIVE), ("coco_segmentation", "annotations_trainval2017.zip")]
)
def test_what_is_not_there_yet_names_files_folder_and_command(tmp_path, name, file):
    with pytest.raises(data_cache.DataMissingError) as error:
        datasets.load(name, tmp_path, tmp_path / "cache", seed=0)
    assert file in str(error.value) and "into the folder downloads/manual there, then run: python -c" in str(error.value)
    assert f"import benchmarks.data.tfds_builders.{name}; import tensorflow_datasets" in str(error.value)


# COCO: a person (1) is VOC's class 15, a dog (18) its 12; 8 is a truck, which VOC has not.


def thing(image, category, segmentation, area=2_000):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "area": area, "iscrowd": 0}


def box(top, left, bottom, right):
    """The outline of pixels from top and left to before bottom and right."""
    return [left, top, right - 1, top, right - 1, bottom - 1, left, bottom - 1]


def runs(mask):
    """Run lengths down the columns, as COCO has them."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    ends = np.flatnonzero(np.diff(flat))
    return {"counts": np.diff([0, *ends, mask.size]).tolist(), "size": list(mask.shape)}


OTHER = json.dumps({"images": [], "annotations": [thing(9, 1, [])]})


def write_coco(folder, objects, **first):
    """The archives, with objects in their images, and with what is said otherwise, or not at all, of the first image."""
    folder.mkdir(parents=True)
    numbers = {"train2017": range(1, 6), "val2017": range(6, 8)}
    with zipfile.ZipFile(folder / coco_segmentation.ANNOTATIONS, "w") as archive:
        for part, known in numbers.items():
            images = [{"id": n, "file_name": f"{n:012}.jpg", "height": 40, "width": 60} for n in known]
            images[0] = {key: value for key, value in {**images[0], **first}.items() if value is not None}
            content = {"images": images, "annotations": [each for each in objects if each["image_id"] in known]}
            archive.writestr(f"annotations/instances_{part}.json", json.dumps(content))
    for part, known in numbers.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for number in known:
                image = np.full((40, 60, 3), 30 * number, "uint8")
                archive.writestr(f"{part}/{number:012}.jpg", stored(image[..., 0] if number == 2 else image, "jpeg"))


def test_coco_is_read_from_its_archives(tmp_path, monkeypatch):
    small(monkeypatch, "coco_segmentation", train=3, test=2, validation=1)
    inside = np.zeros((40, 60), bool)
    inside[5:30, 10:50] = True
    objects = [
        thing(1, 1, [box(0, 0, 20, 30), box(30, 40, 40, 60)]),
        thing(2, 18, runs(inside), area=1_001),
        thing(3, 18, [box(0, 0, 40, 40)], area=900),
        thing(3, 1, [box(0, 20, 40, 60)], area=900),
        thing(4, 1, [box(0, 0, 10, 10)], area=1_000),  # too small
        thing(5, 8, [box(0, 0, 40, 60)]),  # a truck alone
        thing(6, 8, [box(0, 0, 40, 60)]),
        thing(7, 1, [box(0, 0, 10, 10)], area=100),
    ]
    write_coco(tmp_path / "downloads/manual", objects)
    coco_segmentation.CocoSegmentation(data_dir=tmp_path).download_and_prepare()
    splits = tfds.load("coco_segmentation:1.0.0", split=["train", "validation"], data_dir=tmp_path, download=False)
    train, validation = (
        {round(float(each["image"].mean()) / 30): each["mask"][..., 0] for each in tfds.as_numpy(split)} for split in splits
    )
    assert sorted(train) == [1, 2, 3] and sorted(validation) == [6, 7]
    expected = np.zeros((40, 60), "uint8")
    expected[:20, :30] = expected[30:, 40:] = 15
    np.testing.assert_array_equal(train[1], expected)
    np.testing.assert_array_equal(train[2], np.where(inside, 12, 0))
    np.testing.assert_array_equal(train[3], np.tile(np.repeat([12, 255, 15], 20), (40, 1)))  # both are void
    assert (validation[6] == 0).all() and (validation[7] == 15).sum() == 100
    data = datasets.load("coco_segmentation", tmp_path, tmp_path / "cache", seed=0).data
    assert [len(x) for x in data_parts(data, "x")] == [2, 1, 2]


@pytest.mark.parametrize(
    ("first", "objects", "message"),
    [
        ({}, [thing(1, 1, {"counts": "abc", "size": [40, 60]})], "run lengths as a list .* received a compressed string"),
        ({}, [thing(1, 1, {"counts": [10, 10], "size": [40, 60]})], "for 40 x 60 pixels, received 20 for 40 x 60"),
        ({}, [thing(1, 1, {"counts": [0, 2400], "size": [60, 40]})], "for 40 x 60 pixels, received 2400 for 60 x 40"),
        ({}, [thing(1, 1, {"counts": [2400], "size": []})], "index out of range"),
        ({}, [thing(1, 1, [[0, 0, 9, 9, 5]])], r"polygons as x and y .* received \[0, 0, 9, 9, 5\]"),
        ({}, [{"image_id": 1, "category_id": 1, "area": 2_000}], "it lacks 'segmentation'"),
        ({"file_name": None}, [thing(1, 1, [])], "it lacks 'file_name'"),
    ],
)
def test_an_image_whose_annotations_cannot_be_drawn_is_refused_by_its_number(tmp_path, first, objects, message):
    write_coco(tmp_path / "manual", objects, **first)
    with pytest.raises(ValueError, match=rf"image 1 of .*instances_train2017.json in .* cannot be read: .*{message}"):
        examples_of_coco(tmp_path)


def examples_of_coco(folder):
    builder = coco_segmentation.CocoSegmentation(data_dir=folder)
    return list(builder._generate_examples(folder / "manual", "train2017", 1_000))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({"file_name": "absent.jpg"}, "train2017.zip lacks train2017/absent.jpg. Get the archive anew"),
        ({"height": 41}, "000000000001.jpg in .* has 40 x 60 pixels; its mask has 41 x 60"),
    ],
)
def test_an_image_that_is_missing_or_of_another_size_is_refused(tmp_path, first, message):
    write_coco(tmp_path / "manual", [thing(1, 1, [box(0, 0, 9, 9)])], **first)
    with pytest.raises(ValueError, match=message):
        examples_of_coco(tmp_path)


def test_annotations_that_are_damaged_or_of_other_images_are_refused(tmp_path):
    write_coco(tmp_path / "manual", [])
    path = tmp_path / "manual" / coco_segmentation.ANNOTATIONS
    for content, message in (("{", "Expecting property"), ('{"images": []}', "it lacks 'annotations'"), (OTHER, "image 9")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("annotations/instances_train2017.json", content)
        with pytest.raises(ValueError, match=f"instances_train2017.json in .* cannot be read: .*{message}"):
            examples_of_coco(tmp_path)


def test_a_damaged_byte_or_a_folder_in_an_archive_is_told_as_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(range(256)) * 9)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[31] ^= 0xFF  # the first of what is compressed
    (tmp_path / "a.zip").write_bytes(content)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path, "x", recursive=False)
    for name in ("a.zip", "b.tar"):
        with Archive(tmp_path / name) as archive, pytest.raises(ValueError, match="x in .* cannot be read: .* Get the"):
            archive.read("x")
