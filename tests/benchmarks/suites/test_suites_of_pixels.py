"""Suites of segmentation: metrics fit the data, every class has a name, stated sizes are true, wrong pairs are refused."""

import re

import pytest

import kmerge
from baselines.protocol.metrics import METRICS, VOID
from benchmarks.data.sources import CLASS_NAMES, IMAGES
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.suites.suite import FOLDER, SUITES, SuiteError, load_suite
from tests.launches import variant

OF_PIXELS = [name for name in SUITES if METRICS[load_suite(name).metric].of_pixels]


def test_every_class_of_pixels_has_a_name():
    masked = {name: source for name, source in IMAGES.items() if source.void is not None}
    assert masked.keys() == CLASS_NAMES.keys() and {source.void for source in masked.values()} == {VOID}
    assert {name: len(names) for name, names in CLASS_NAMES.items()} == {name: each.classes for name, each in masked.items()}


def test_the_suites_of_segmentation_are_there():
    assert set(OF_PIXELS) == {"robots_shapes", "robots_voc", "robots_coco", "merge_shapes"}
    merging = load_suite("merge_shapes")
    assert {merging.comparisons["reference"], *merging.comparisons["primary"]} == set(merging.strategies)


def test_the_file_states_the_sizes_of_its_networks():
    definition = load_suite("robots_shapes").definition
    stated = re.findall(r"([\d,]+) parameters", (FOLDER / "robots_shapes.toml").read_text())
    for number, table in zip(stated, (definition["architecture"], definition["teacher"]["architecture"]), strict=True):
        model = ARCHITECTURES[table["name"]]((8, 8, 3), 4, 1)
        assert kmerge.parameters(model) == int(number.replace(",", ""))


@pytest.mark.parametrize(
    "suite, old, new, message",
    [
        ("merge_shapes", "mean_iou", "accuracy", "metric.*pixel_accuracy or mean_iou for the pixels of shapes"),
        ("merge_shapes", '"none"', '"shift_and_flip"', "augmentation.*scale_crop_flip"),
        ("digits", '"accuracy"', '"mean_iou"', "metric.*Pixels have labels in shapes"),
        ("merge_shapes", '"small_fcn"\nwidth = 6', '"mlp"\nhidden = [9]', "architecture.name.*small_fcn for .* mean_iou"),
        ("robots_shapes", '"small_fcn" ', '"lenet" ', "teacher.architecture.name.*small_fcn for the metric pixel_accuracy"),
        ("digits", '"resnet"\ndepth = 8', '"small_fcn"', "architecture.name.*resnet, vgg11 for the metric accuracy"),
        ("merge_shapes", r"\[comparisons\]", "[comparisons]\nmargin = 0.2", "margin.*share"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, suite, old, new, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(variant(tmp_path, suite, (old, new)))
