"""Photographs: cut into squares once, mapped from files, cropped at random for training; and the suites on them."""

import dataclasses
import hashlib

import keras
import numpy as np
import pytest

import kmerge
from baselines.protocol.strategy import Stages
from benchmarks.data import cache as data_cache
from benchmarks.data import datasets
from benchmarks.data.augmentation import RandomResizedCrop
from benchmarks.runs.evaluation import evaluate
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import SuiteError, load_suite
from tests.programs import without_programs

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

NAME, VALIDATION = "imagewoof_256", 3
COUNTS = {"train": 9, "validation": 4}


class Photographs(tfds.testing.DummyDataset):
    """Images of several shapes, whose classes are told by the green channel."""

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in COUNTS}

    def _generate_examples(self, part):
        rng = np.random.default_rng(len(part))
        for number in range(COUNTS[part]):
            image = rng.integers(0, 256, (280 + 30 * (number % 3), 320, 3), "uint8")
            image[..., 1] = 100 * (number % 3) + number
            yield number, {"image": image, "label": number % 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folders of tensorflow-datasets and of the cache, with our photographs instead of Imagewoof."""
    folder = tmp_path_factory.mktemp("photographs")
    builder = Photographs(data_dir=folder / "data")
    builder.download_and_prepare()
    source = dataclasses.replace(
        data_cache.IMAGES[NAME],
        builder=f"photographs:{builder.version}",
        classes=3,
        train=COUNTS["train"],
        test=COUNTS["validation"],
        validation=VALIDATION,
        module=None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data_cache.IMAGES, NAME, source)
        yield folder / "data", folder / "cache"


def load(stored, **how):
    return datasets.load(NAME, *stored, seed=0, **how)


def label_of(image):
    return image[..., 1].astype(float).mean() // 100


def test_squares_are_mapped_and_the_middle_is_seen(stored):
    data = load(stored).data
    assert [x.shape for x in (data.x_train, data.x_val, data.x_test)] == [
        (6, 256, 256, 3),
        (3, 224, 224, 3),
        (4, 224, 224, 3),
    ]
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val), (data.x_test, data.y_test)):
        assert x.dtype == np.uint8 and isinstance(x, np.memmap) and not x.flags.writeable
        assert [label_of(image) for image in x] == y.tolist()
    np.testing.assert_array_equal(data.inputs, data.x_train[:, 16:240, 16:240])
    assert not data.inputs.flags.owndata


def test_the_hash_of_the_pixels_says_what_is_for_validation(stored):
    load(stored)
    images = np.load(stored[1] / NAME / "train_images.npy")
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    assert set(hashes[:VALIDATION]) == set(sorted(hashes)[:VALIDATION])
    assert len(set(hashes)) == COUNTS["train"]  # none was lost when they changed places


def test_networks_are_told_the_statistics_of_the_training_part(stored):
    dataset = load(stored)
    mean, deviation = dataset.standardize
    np.testing.assert_allclose(mean, dataset.data.x_train.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation, dataset.data.x_train.std(axis=(0, 1, 2)), rtol=1e-6)
    assert len(load(stored, examples=2).data.x_train) == 2
    assert load(stored, examples=2).standardize == dataset.standardize


def test_a_second_reading_gives_the_same_files(stored, tmp_path):
    first = load(stored).identity["sha256"]
    assert datasets.load(NAME, stored[0], tmp_path, seed=1).identity["sha256"] == first
    for path in (stored[1] / NAME).glob("*[!d].*"):  # but for verified.json, which is about these files alone
        assert path.read_bytes() == (tmp_path / NAME / path.name).read_bytes()


@pytest.mark.parametrize("train", [8, 10])
def test_another_number_of_images_is_refused_and_nothing_stays(stored, tmp_path, monkeypatch, train):
    monkeypatch.setitem(data_cache.IMAGES, NAME, dataclasses.replace(data_cache.IMAGES[NAME], train=train))
    with pytest.raises(data_cache.DataCorruptError, match=f"expected {train}.*Delete the folder photographs there"):
        datasets.load(NAME, stored[0], tmp_path, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_missing_photographs_name_the_step_by_hand(tmp_path):
    with pytest.raises(data_cache.DataMissingError, match="put ILSVRC2012_img_train.tar .* then run: python"):
        datasets.load("imagenet_256", tmp_path / "none", tmp_path / "cache", seed=0)


def test_folds_are_refused(stored):
    with pytest.raises(ValueError, match="Folds .* are for images that fit into memory; imagewoof_256 is none"):
        load(stored, folds=3)


# The random crop


def ramp(count, side=64):
    """Images whose red is the column and whose green is the row, in pixels."""
    places = np.arange(side) + 0.5
    image = np.stack([np.tile(places, (side, 1)), np.tile(places[:, None], (1, side)), np.zeros((side, side))], axis=-1)
    return np.tile(image[None], (count, 1, 1, 1)).astype("float32")


def crop(images, size=32, **how):
    return np.asarray(RandomResizedCrop(size, seed=7, **how)(images, training=True))


def test_in_inference_the_middle_is_cut_out():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), "uint8")
    middle = np.asarray(RandomResizedCrop(32, seed=0)(images))
    np.testing.assert_array_equal(middle, images[:, 16:48, 16:48])
    assert middle.dtype == np.float32


def test_the_whole_image_at_its_size_is_the_image_or_its_mirror():
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), "uint8")
    same = [np.allclose(a, b, atol=1e-3) for a, b in zip(crop(images, area=(1, 1), ratio=(1, 1)), images, strict=True)]
    mirrored = [
        np.allclose(a, b[:, ::-1], atol=1e-3)
        for a, b in zip(crop(images, area=(1, 1), ratio=(1, 1)), images, strict=True)
    ]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 8 < sum(mirrored) < 32


def test_parts_have_the_area_and_the_shape_that_are_asked_for():
    parts = crop(ramp(300), area=(0.4, 0.8), ratio=(0.75, 4 / 3))
    # Inside, where no pixel beyond the border is missing, the scaled ramp rises evenly, but for one or two in a hundred
    # where the filter is wider than a pixel by a fraction of one.
    width = np.abs(parts[:, 16, 20, 0] - parts[:, 16, 12, 0]) / 8 * 32
    height = (parts[:, 20, 16, 1] - parts[:, 12, 16, 1]) / 8 * 32
    assert (height > 0).all()  # never upside down
    area, ratio = width * height / 64**2, width / height
    free = (width < 63.9) & (height < 63.9)  # a side as long as the image was made shorter
    assert free.mean() > 0.8
    for values, least, most in ((area[free], 0.4, 0.8), (ratio[free], 0.75, 4 / 3)):
        assert 0.98 * least < values.min() < least + 0.05 and most - 0.06 < values.max() < 1.02 * most
    assert parts[..., :2].min() >= 0.5 - 1e-3 and parts[..., :2].max() <= 63.5 + 1e-3
    assert len({round(float(value), 3) for value in parts[:, 16, 16, 0]}) > 250  # each its own draw


def test_jitter_changes_brightness_contrast_and_saturation_by_no_more_than_that():
    flat = np.tile(np.float32([100, 100, 100]), (200, 8, 8, 1))
    changed = crop(flat, size=8, jitter=0.15)
    share = changed.mean(axis=(1, 2, 3)) / 100
    assert 0.85 <= share.min() < 0.87 and 1.13 < share.max() <= 1.15 + 1e-5
    np.testing.assert_allclose(changed, np.tile(changed[:, :1, :1, :1], (1, 8, 8, 3)), atol=1e-3)  # grey stays grey
    colours = crop(np.tile(np.float32([250, 20, 20]), (50, 8, 8, 1)), size=8, jitter=1.0)
    assert colours.min() >= 0 and colours.max() <= 255 and colours.std(axis=0).min() > 5


def test_the_crop_is_saved_with_its_settings_and_draws_by_its_seed():
    layer = RandomResizedCrop(8, seed=3, area=(0.5, 0.6), jitter=0.1)
    again = RandomResizedCrop.from_config(layer.get_config())
    images = ramp(4)
    np.testing.assert_array_equal(layer(images, training=True), again(images, training=True))
    assert layer.compute_output_shape((None, 64, 64, 3)) == (None, 8, 8, 3)


@pytest.mark.parametrize("wrong", [{"area": (0.5, 0.4)}, {"area": (0.0, 1.0)}, {"ratio": (2, 1)}, {"jitter": 1.5}])
def test_a_crop_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="RandomResizedCrop expects"):
        RandomResizedCrop(8, seed=0, **wrong)


# The suites


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The suite with a network of a quarter of the width."""
    path = tmp_path_factory.mktemp("suite") / "small.toml"
    path.write_text('based_on = "imagewoof_resnet18"\n[architecture]\nwidth = 16\n')
    return load_suite(path)


def test_a_network_is_trained_on_photographs_end_to_end(suite, stored):
    task, budget = suite.task(0, *stored, scale=0.001), suite.budget(0.001)
    with without_programs():
        outcome = STRATEGIES["one_model"](task, budget, 0, Stages())
    assert outcome.epochs == budget.single == 4 and outcome.model.input_shape == (None, 224, 224, 3)
    assert kmerge.parameters(outcome.model) == kmerge.parameters(task.build(0))
    assert 0 <= evaluate(outcome.model, task.data.x_test, task.data.y_test, "accuracy") <= 1
    assert all(np.isfinite(row["loss"]) for row in outcome.history)


def test_a_network_standardizes_and_its_surgery_keeps_that(suite, stored):
    task = suite.task(0, *stored)
    first, second = task.build(1), task.build(2)
    mean, deviation = (np.float32(value) for value in load(stored).standardize)
    inside = keras.Model(first.input, first.get_layer("standardize").output)
    expected = (task.data.x_val.astype("float32") - mean) / deviation
    np.testing.assert_allclose(inside(task.data.x_val), expected, atol=1e-5)
    both = (first(task.data.x_val) + second(task.data.x_val)) / 2
    np.testing.assert_allclose(kmerge.concatenate(first, second)(task.data.x_val), both, atol=1e-4)


def test_a_suite_on_photographs_says_how_they_are_cropped(tmp_path):
    path = tmp_path / "wrong.toml"
    for content, message in (
        ('augmentation = "none"', r"\[augmentation\]: expected a table, received 'none'"),
        ("augmentation = {blur = 1}", r"\[augmentation\]: .*received unknown keys \['blur'\]"),
        ('dataset = "cifar10"', "augmentation: expected one of none, shift_and_flip, received {'area'"),
        ("[phases.finetune]\nwarmup = 100", "warmup: expected a number of epochs of at least 0 and below 100, received 100"),
    ):
        path.write_text(f'based_on = "imagewoof_resnet18"\n{content}\n')
        with pytest.raises(SuiteError, match=message):
            load_suite(path)


def test_the_imagenet_suites_have_the_papers_epochs():
    whole, usual = load_suite("imagenet_resnet18"), load_suite("imagenet_resnet18_90")
    assert whole.budget().merging == whole.budget().single == 150
    assert usual.budget().single == 90 and usual.strategies == ("one_model",)
