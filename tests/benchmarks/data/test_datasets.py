"""Data sets: sizes, splits that nothing moves, the cache, and what is said where data is missing or broken."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.data import cache as data_cache
from benchmarks.data import datasets
from benchmarks.runs import worker


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that holds the digits."""
    folder = tmp_path_factory.mktemp("cache")
    datasets.prepare("digits", None, folder)
    return folder


def parts(data):
    return [(data.x_train, data.y_train), (data.x_val, data.y_val), (data.x_test, data.y_test)]


def test_sine_is_the_papers_problem():
    data = datasets.load("sine", None, "unused", seed=7).data
    assert [x.shape for x, _ in parts(data)] == [(10_000, 1), (2_000, 1), (10_000, 1)]
    for x, y in parts(data):
        assert x.dtype == y.dtype == np.float32
        assert 0 <= x.min() and x.max() <= 1 and x.mean() == pytest.approx(0.5, abs=0.03)
        noise = y - np.sin(10 * np.pi * x)
        assert noise.std() == pytest.approx(0.2, rel=0.05) and abs(noise.mean()) < 0.02


def test_sine_has_one_data_set_per_seed():
    first, again, other = (datasets.load("sine", None, "unused", seed).data for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.y_test, again.y_test)
    for x in (other.x_train, first.x_val, first.x_test):
        assert np.isin(x, first.x_train).mean() < 0.01  # float32 has few enough values for a chance hit or two


def test_digits_are_split_and_standardized(cache):
    dataset = datasets.load("digits", None, cache, seed=3)
    assert [x.shape for x, _ in parts(dataset.data)] == [(900, 8, 8, 1), (297, 8, 8, 1), (600, 8, 8, 1)]
    assert dataset.outputs == 10
    assert dataset.data.x_train.dtype == np.float32
    assert dataset.data.x_train.mean() == pytest.approx(0, abs=1e-5)
    assert dataset.data.x_train.std() == pytest.approx(1, rel=1e-5)
    assert dataset.data.x_train.min() == pytest.approx(dataset.black[0], rel=1e-5)
    for _, labels in parts(dataset.data):
        assert set(labels.tolist()) == set(range(10))


def test_digits_do_not_depend_on_the_seed_and_no_image_is_on_two_sides(cache):
    first, other = (datasets.load("digits", None, cache, seed).data for seed in (1, 2))
    for (x, y), (u, v) in zip(parts(first), parts(other), strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)
    images = [{image.tobytes() for image in x} for x, _ in parts(first)]
    assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])


def test_digits_pair_images_with_their_labels(cache):
    from sklearn.datasets import load_digits

    digits = load_digits()
    label_of = dict(zip((i.astype("uint8").tobytes() for i in digits.images), digits.target, strict=True))
    images, labels = (np.load(cache / "digits" / f"test_{kind}.npy") for kind in ("images", "labels"))
    assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_fewer_examples_keep_the_test_part_and_the_standardization(cache):
    whole = datasets.load("digits", None, cache, seed=3)
    few = datasets.load("digits", None, cache, seed=3, examples=100)
    assert (len(few.data.x_train), len(few.data.x_val), len(few.data.x_test)) == (100, 100, 600)
    np.testing.assert_array_equal(few.data.x_test, whole.data.x_test)
    assert {i.tobytes() for i in few.data.x_train} < {i.tobytes() for i in whole.data.x_train}
    assert few.identity != whole.identity


@pytest.mark.parametrize("examples", [0, -1, 901])
def test_a_number_of_examples_that_is_not_there_is_refused(cache, examples):
    with pytest.raises(ValueError, match=f"digits has 900 training examples; asked for {examples}"):
        datasets.load("digits", None, cache, seed=0, examples=examples)


def test_unknown_data_set(cache):
    with pytest.raises(ValueError, match="Unknown data set 'imagenet'; there are cifar10, cifar100, cifar100_16,"):
        datasets.load("imagenet", None, cache, seed=0)


def test_folds_hold_out_every_image_once(cache):
    held_out = []
    for seed in range(3):
        dataset = datasets.load("digits", None, cache, seed, folds=3)
        data = dataset.data
        assert [len(x) for x, _ in parts(data)] == [1198, 599, 599] and dataset.identity["fold"] == [seed, 3]
        np.testing.assert_allclose(data.x_train.mean(), 0, atol=1e-5)
        assert {image.tobytes() for image in data.x_test} == {image.tobytes() for image in data.x_val}
        pixels = data.x_test - dataset.black[0]  # in deviations of this fold; the largest is 16
        held_out.append({image.tobytes() for image in np.rint(pixels * 16 / pixels.max()).astype("uint8")})
    assert datasets.load("digits", None, cache, 3, folds=3).identity["fold"] == [0, 3]
    with pytest.raises(ValueError, match="digits has 1198 training examples; asked for 1199"):
        datasets.load("digits", None, cache, 0, examples=1199, folds=3)
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 1797


def test_pixels_are_standardized_each_for_itself(cache):
    dataset = datasets.load("digits", None, cache, seed=0, standardize_by="pixel")
    x = dataset.data.x_train
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    deviation = x.std(axis=0)
    np.testing.assert_allclose(deviation[deviation > 0], 1, rtol=1e-5)  # some pixels are always black
    assert dataset.black == () and dataset.identity["standardize_by"] == "pixel"


def test_cached_arrays_are_mapped_bytes(cache):
    info = json.loads((cache / "digits" / "info.json").read_text())
    assert len(info["sha256"]) == 64
    images = np.load(cache / "digits" / "train_images.npy", mmap_mode="r")
    assert images.dtype == np.uint8 and isinstance(images, np.memmap)
    assert sorted(path.name for path in cache.iterdir()) == ["digits"]  # No drafts remain.


def test_a_second_writer_leaves_the_first_result(cache):
    before = (cache / "digits" / "info.json").stat().st_mtime_ns
    data_cache.write_cache(cache / "digits", data_cache.read_digits())  # As a process that began before the first ended.
    assert (cache / "digits" / "info.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in cache.iterdir()) == ["digits"]


@pytest.mark.parametrize(
    "part, damaged",
    [
        ("train_images", lambda content: content[:-100]),
        ("test_labels", lambda content: content[:-100]),
        ("test_labels", lambda content: b""),
        ("test_labels", lambda content: b"PK\3\4 and no archive"),
        ("test_labels", lambda content: content.replace(b"}", b" ", 1)),
    ],
)
def test_a_damaged_cache_names_file_and_remedy(tmp_path, part, damaged):
    datasets.prepare("digits", None, tmp_path)
    path = tmp_path / "digits" / f"{part}.npy"
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(data_cache.DataCorruptError, match=rf"{path} cannot be read.*Delete the folder {path.parent}"):
        datasets.load("digits", None, tmp_path, seed=0)


def _changed(kind, folder):
    path = folder / ("test_labels.npy" if kind == "labels" else "train_images.npy")
    array = np.load(path)
    if kind == "type":
        array = array.astype("float32")
    elif kind == "size":
        array = array.reshape(len(array), 16, 4, 1)
    elif kind == "order":
        array = array[::-1]
    else:
        array.flat[-1] ^= 1
    np.save(path, array)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("pixel", "expected arrays of the SHA-256"),
        ("labels", "expected arrays of the SHA-256"),
        ("order", "expected arrays of the SHA-256"),
        ("type", r"expected uint8 of shape \(1197, 8, 8, 1\), received float32"),
        ("size", r"received uint8 of shape \(1197, 16, 4, 1\)"),
    ],
)
def test_other_data_under_the_old_hash_is_refused(tmp_path, kind, words):
    datasets.load("digits", None, tmp_path, seed=0)
    _changed(kind, tmp_path / "digits")
    with pytest.raises(data_cache.DataCorruptError, match=f"{words}.*Delete the folder {tmp_path / 'digits'}"):
        datasets.load("digits", None, tmp_path, seed=0)


def test_the_hash_is_checked_once_for_the_same_files_and_again_when_that_is_asked_for(tmp_path, capsys):
    datasets.load("digits", None, tmp_path, seed=0)
    _changed("pixel", tmp_path / "digits")  # as a disk does it, which tells nobody
    files = {part: data_cache._traits(tmp_path / "digits" / f"{part}.npy") for part in data_cache.PARTS}
    about = json.loads((tmp_path / "digits" / "info.json").read_text())
    (tmp_path / "digits" / "verified.json").write_text(json.dumps({"sha256": about["sha256"], "files": files}))
    assert datasets.load("digits", None, tmp_path, seed=0).outputs == 10
    assert worker.check("digits", None, str(tmp_path)) == 0
    assert worker.check("digits", None, str(tmp_path), verify=True) == 3
    assert "expected arrays of the SHA-256" in capsys.readouterr().out


def test_a_cache_without_its_description_is_refused(tmp_path):
    datasets.prepare("digits", None, tmp_path)
    (tmp_path / "digits" / "info.json").unlink()
    with pytest.raises(data_cache.DataCorruptError, match="lacks info.json. Delete the folder"):
        datasets.load("digits", None, tmp_path, seed=0)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "mnist", "svhn_cropped"])
def test_missing_data_names_the_exact_command(tmp_path, name):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(data_cache.DataMissingError) as error:
        datasets.load(name, tmp_path / "none", tmp_path / "cache", seed=0)
    assert not isinstance(error.value, data_cache.DataCorruptError)
    builder = datasets.IMAGES[name].builder
    command = (
        f'python -c "import tensorflow_datasets as tfds; tfds.load({builder!r}, data_dir={str(tmp_path / "none")!r})"'
    )
    assert command in str(error.value)


@pytest.mark.parametrize("broken", ["cifar100-train.tfrecord-00000-of-00001", "dataset_info.json"])
def test_broken_data_names_folder_and_remedy(tmp_path, data_dir, broken):
    source, copy = data_dir / "cifar100" / "3.0.2", tmp_path / "data" / "cifar100" / "3.0.2"
    copy.mkdir(parents=True)
    for path in source.iterdir():
        if path.name == broken:
            content = path.read_bytes()
            (copy / path.name).write_bytes(content[: len(content) // 100])
        else:
            os.symlink(path, copy / path.name)
    with pytest.raises(data_cache.DataCorruptError, match=rf"cifar100 in {tmp_path / 'data'} cannot be read.*Delete"):
        datasets.load("cifar100", tmp_path / "data", tmp_path / "cache", seed=0)
    assert not (tmp_path / "cache" / "cifar100").exists()


@pytest.mark.parametrize(
    "name, sizes", [("cifar100", (45_000, 5_000, 10_000)), ("fashion_mnist", (55_000, 5_000, 10_000))]
)
def test_real_images(data_dir, image_cache, name, sizes):
    dataset = datasets.load(name, data_dir, image_cache, seed=0)
    assert tuple(len(x) for x, _ in parts(dataset.data)) == sizes
    assert dataset.data.x_train.shape[1:] == datasets.IMAGES[name].shape
    x = dataset.data.x_train
    # Over the images first, whose pixels lie side by side: by channels at once it takes NumPy several times as long.
    mean, squares = x.mean(axis=0).mean((0, 1)), (np.einsum("nhwc,nhwc->hwc", x, x) / len(x)).mean((0, 1))
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(squares - mean**2), 1, atol=1e-3)
    assert set(np.unique(dataset.data.y_val)) == set(range(dataset.outputs))
    np.testing.assert_allclose(x.min(axis=0).min((0, 1)), dataset.black, rtol=1e-5)


def test_an_image_of_half_the_side_has_means_of_squares(data_dir, image_cache):
    whole, half = (datasets.load(name, data_dir, image_cache, seed=0) for name in ("fashion_mnist", "fashion_mnist_14"))
    assert half.data.x_test.shape == (10_000, 14, 14, 1)
    np.testing.assert_array_equal(half.data.y_test, whole.data.y_test)
    images = []
    for name in ("fashion_mnist", "fashion_mnist_14"):
        arrays, _ = data_cache.open_cache(name, image_cache / name)
        images.append(np.asarray(arrays["test_images"][:50, ..., 0], "float64"))
    means = (images[0][:, ::2, ::2] + images[0][:, 1::2, ::2] + images[0][:, ::2, 1::2] + images[0][:, 1::2, 1::2]) / 4
    np.testing.assert_array_equal(images[1], np.rint(means))


def test_a_cache_serves_a_machine_without_tensorflow_and_scikit_learn(data_dir, image_cache, cache):
    datasets.prepare("fashion_mnist", data_dir, image_cache)
    script = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'sklearn'): sys.modules[name] = None\n"
        "from benchmarks.data import cache as data_cache, datasets\n"
        f"print(datasets.load('fashion_mnist', None, {str(image_cache)!r}, 0).data.x_train.shape)\n"
        f"print(datasets.load('digits', None, {str(cache)!r}, 0).data.x_train.shape)\n"
        f"try: datasets.load('cifar100', None, {str(cache)!r}, 0)\n"
        "except data_cache.DataMissingError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["(55000, 28, 28, 1)", "(900, 8, 8, 1)"]
    assert "cifar100 is not in the cache, and tensorflow-datasets is not installed" in lines[2]
