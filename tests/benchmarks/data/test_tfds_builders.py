"""Our builders for tensorflow-datasets, on archives that the tests make: the layout of the real ones, a few images."""

import functools
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

import keras  # noqa: E402

from benchmarks.data import cache as data_cache  # noqa: E402
from benchmarks.data import datasets  # noqa: E402
from benchmarks.data.tfds_builders import imagewoof, tiny_imagenet  # noqa: E402

CLASSES = ("n02", "n00", "n01")


def jpeg(level, grey=False, shape=(64, 64)):
    """A flat image."""
    image = np.full((*shape, 1 if grey else 3), level, "uint8")
    buffer = io.BytesIO()
    keras.utils.save_img(buffer, image, file_format="jpeg", scale=False)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of archives with three classes, two training images and a validation image each."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(folder / "tiny.zip", "w") as archive:
        root, lines = "tiny-imagenet-200", []
        archive.writestr(f"{root}/wnids.txt", "\n".join(CLASSES) + "\n")
        for place, name in enumerate(sorted(CLASSES)):
            for number in range(2):
                content = jpeg(50 * place + number, grey=number == 1)
                archive.writestr(f"{root}/train/{name}/images/{name}_{number}.JPEG", content)
            archive.writestr(f"{root}/val/images/val_{place}.JPEG", jpeg(50 * place + 9))
            lines.append(f"val_{place}.JPEG\t{name}\t0\t0\t62\t62")
        archive.writestr(f"{root}/val/val_annotations.txt", "\n".join(lines) + "\n")
    with tarfile.open(folder / "woof.tgz", "w:gz") as archive:
        for part, numbers in (("train", (0, 1)), ("val", (9,))):
            for place, name in enumerate(sorted(CLASSES)):
                for number in numbers:
                    content = jpeg(50 * place + number, grey=number == 1, shape=(40, 64))
                    known = tarfile.TarInfo(f"imagewoof2-320/{part}/{name}/{name}_{number}.JPEG")
                    known.size = len(content)
                    archive.addfile(known, io.BytesIO(content))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_tiny_imagenet_is_read_from_its_archive(served, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "URL", f"{served}/tiny.zip")
    monkeypatch.setattr(tiny_imagenet.TinyImagenet, "CLASSES", 3)
    tiny_imagenet.TinyImagenet(data_dir=tmp_path).download_and_prepare()
    splits = tfds.load("tiny_imagenet:1.0.0", split=["train", "validation"], data_dir=tmp_path, download=False)
    train, validation = ([(e["image"], int(e["label"])) for e in tfds.as_numpy(part)] for part in splits)
    assert sorted(label for _, label in train) == [0, 0, 1, 1, 2, 2]
    assert sorted(label for _, label in validation) == [0, 1, 2]
    for image, label in train + validation:
        assert image.shape == (64, 64, 3) and round(image.mean() / 50) == label  # classes are numbered by name


def test_imagewoof_is_read_from_its_archive(served, tmp_path, monkeypatch):
    monkeypatch.setattr(imagewoof, "URL", f"{served}/woof.tgz")
    monkeypatch.setattr(imagewoof.Imagewoof, "CLASSES", 3)
    imagewoof.Imagewoof(data_dir=tmp_path, config="28px").download_and_prepare()
    splits = tfds.load("imagewoof/28px:2.0.0", split=["train", "validation"], data_dir=tmp_path, download=False)
    train, validation = ([(e["image"], int(e["label"])) for e in tfds.as_numpy(part)] for part in splits)
    assert sorted(label for _, label in train) == [0, 0, 1, 1, 2, 2] and len(validation) == 3
    for image, label in train + validation:
        assert image.shape == (28, 28, 3) and round(image.mean() / 50) == label


def test_the_middle_square_of_an_image_is_taken(tmp_path):
    image = np.zeros((40, 80, 3), "uint8")
    image[:, 20:40], image[:, 40:60] = 100, 200  # the square is half and half
    keras.utils.save_img(tmp_path / "image.png", image, scale=False)
    small = imagewoof._square(tmp_path / "image.png", 4)
    np.testing.assert_array_equal(small[..., 0], np.tile([100, 100, 200, 200], (4, 1)))


def test_an_archive_with_other_classes_is_refused(served, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "URL", f"{served}/tiny.zip")
    monkeypatch.setattr(imagewoof, "URL", f"{served}/woof.tgz")
    with pytest.raises(ValueError, match="names 3 classes in wnids.txt; expected 200"):
        tiny_imagenet.TinyImagenet(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(ValueError, match="has 3 classes in train; expected 10"):
        imagewoof.Imagewoof(data_dir=tmp_path, config="28px").download_and_prepare()


def test_the_command_that_is_missing_names_the_builder(tmp_path):
    command = "import benchmarks.data.tfds_builders.tiny_imagenet; import"
    with pytest.raises(data_cache.DataMissingError, match=command) as error:
        datasets.load("tiny_imagenet", tmp_path / "none", tmp_path / "cache", seed=0)
    assert "tfds.load('tiny_imagenet:1.0.0'" in str(error.value)
