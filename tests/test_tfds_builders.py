"""Our builders for tensorflow-datasets, on archives that the tests make: the layout of the real ones, a few images."""

import functools
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

import keras  # noqa: E402

from benchmarks import datasets  # noqa: E402
from benchmarks.tfds_builders import tiny_imagenet  # noqa: E402

CLASSES = ("n02", "n00", "n01")


def jpeg(level, grey=False):
    """A flat image."""
    image = np.full((64, 64, 1 if grey else 3), level, "uint8")
    buffer = io.BytesIO()
    keras.utils.save_img(buffer, image, file_format="jpeg", scale=False)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of an archive with three classes, two training images and a validation image each."""
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
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/tiny.zip"
    server.shutdown()


def test_tiny_imagenet_is_read_from_its_archive(served, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "URL", served)
    monkeypatch.setattr(tiny_imagenet.TinyImagenet, "CLASSES", 3)
    tiny_imagenet.TinyImagenet(data_dir=tmp_path).download_and_prepare()
    splits = tfds.load("tiny_imagenet:1.0.0", split=["train", "validation"], data_dir=tmp_path, download=False)
    train, validation = ([(e["image"], int(e["label"])) for e in tfds.as_numpy(part)] for part in splits)
    assert sorted(label for _, label in train) == [0, 0, 1, 1, 2, 2]
    assert sorted(label for _, label in validation) == [0, 1, 2]
    for image, label in train + validation:
        assert image.shape == (64, 64, 3) and round(image.mean() / 50) == label  # classes are numbered by name


def test_an_archive_with_other_classes_is_refused(served, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "URL", served)
    with pytest.raises(ValueError, match="names 3 classes in wnids.txt; expected 200"):
        tiny_imagenet.TinyImagenet(data_dir=tmp_path).download_and_prepare()


def test_the_command_that_is_missing_names_the_builder(tmp_path):
    with pytest.raises(datasets.DataMissingError, match="import benchmarks.tfds_builders.tiny_imagenet; import") as error:
        datasets.load("tiny_imagenet", tmp_path / "none", tmp_path / "cache", seed=0)
    assert "tfds.load('tiny_imagenet:1.0.0'" in str(error.value)
