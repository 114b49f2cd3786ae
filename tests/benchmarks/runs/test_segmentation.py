"""A small launch on images whose pixels have labels, from training to the report: metrics, classes, pictures."""

import json
import re

import keras
import numpy as np
import pytest

from baselines.protocol.metrics import VOID
from baselines.protocol.outcomes import metric_of
from benchmarks.records.store import PICTURES
from benchmarks.reports.pictures import colours_of, pictures_from
from benchmarks.reports.summaries import turned
from benchmarks.runs.arrays import listed, read_arrays
from benchmarks.runs.evaluation import pictures, results_of
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.launches import call, eagerly, places, table_of, variant
from tests.programs import without_programs
from tests.tiny_tasks import Shelf

CLASSES = ["background", "disc", "rectangle", "stripe"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder of a launch: of a narrow student that is taught, and pruned."""
    folder = tmp_path_factory.mktemp("segmentation")
    narrow = [('"small_fcn"', '"small_fcn"\nwidth = 3'), ('"small_deeplab"', '"small_fcn"\nwidth = 2')]
    suite = variant(folder, "robots_shapes", *narrow)
    how = ("--suite", suite, "--scale", 0.001, "--examples", 16, "--seeds", 1, "--strategy", "distil_prune")
    status, out, err = call(*how, "--backend", keras.backend.backend(), *places(folder), executor=eagerly, drawn=True)
    assert status == 0, out + err
    return folder


@pytest.fixture(scope="module")
def results(launched):
    return launched / "out" / "variant"


def test_rows_have_every_metric_and_every_class(results):
    (row,) = table_of(results / "runs.csv")
    extras = json.loads(row["extras"])
    assert row["metric"] == "pixel_accuracy" and extras["test_pixel_accuracy"] > 0.2
    assert float(row["test_last"]) == pytest.approx(extras["test_pixel_accuracy"], rel=1e-6)
    assert np.mean(list(extras["test_iou_of_classes"].values())) == pytest.approx(extras["test_mean_iou"], rel=1e-5)
    assert list(extras["test_iou_of_classes"]) == CLASSES
    phases = [row["phase"] for row in table_of(results / "history.csv")]
    assert phases == ["teacher_0", "teacher_0", "distil", "finetune"]


def test_its_task_counts_no_void_pixels(launched):
    task = load_suite(launched / "variant.toml").task(100, None, launched / "cache", 0.001, 16)
    metric = metric_of(task)
    assert (metric.name, metric.classes, task.higher_is_better) == ("pixel_accuracy", 4, True)
    logits = np.random.default_rng(1).normal(size=(1, 2, 2, 4)).astype("float32")
    y = np.array([[[1, VOID], [VOID, VOID]]])
    expected = np.log(np.exp(logits[0, 0, 0]).sum()) - logits[0, 0, 0, 1]
    assert float(task.loss()(y, logits)) == pytest.approx(expected, rel=1e-5)
    metric.update_state(y, logits)
    assert metric.confusion.sum() == 1


def test_runs_leave_pictures_of_the_first_network_and_the_last(launched, results):
    task = load_suite(launched / "variant.toml").task(100, None, launched / "cache", 0.001, 16)
    (stage,), (left,) = results.glob("stages/*/stage.npz"), results.glob(f"runs/*/{PICTURES}")
    arrays, _ = read_arrays(stage, pytest.fail)
    teacher = task.big_teacher.task.build(1)
    teacher.set_weights(listed("best", arrays))
    logits = keras.ops.convert_to_numpy(teacher(task.data.x_test[:2], training=False))
    classes, images, labels = pictures_from(json.loads(left.read_text()))
    assert classes == CLASSES and images.shape == (2, 64, 64, 3) and (images.min(), images.max()) == (0, 255)
    np.testing.assert_array_equal(labels["truth"], task.data.y_test[:2])
    np.testing.assert_array_equal(labels["before"], logits.argmax(-1))
    assert VOID in labels["truth"] and labels["after"].max() < 4


def test_what_is_no_picture_is_not_drawn(results):
    content = json.loads(next(results.glob(f"runs/*/{PICTURES}")).read_text())
    assert pictures_from(content | {"before": content["truth"]})
    for wrong in ({"classes": CLASSES[:2]}, {"classes": ["x" * 1000] * 4}, {"after": [[[0]]]}, {"images": content["truth"]}):
        assert pictures_from(content | wrong) is None


def test_every_class_of_voc_has_a_colour_that_is_no_others():
    colours = colours_of(21)[[*range(21), VOID]].astype(int)
    differences = abs(colours[:, None] - colours[None]).sum(-1)
    assert differences[~np.eye(22, dtype=bool)].min() > 70


def test_the_report_has_classes_and_pictures(results):
    text = (results / "summary.md").read_text()
    assert "test pixel_accuracy (%) of" in text and "figures/pictures-" in text
    head, _, *rows = re.search(r"intersection over union of each class.*?\n\n(.*?)\n\n", text, re.S)[1].splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["strategy", "n", *CLASSES] and len(rows) == 1
    page = (results / "report.html").read_text()
    (protocol,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["protocols"]
    assert protocol["scale"] == 100 and protocol["classes"][0] == ["strategy", "n", *CLASSES]
    assert protocol["pictures"].startswith("data:image/png;base64,iVBOR")


def test_classes_are_rows_of_a_printed_table_that_would_be_too_wide():
    names = [f"class {i}" for i in range(21)]
    cells = [["strategy", "n", *names], ["one_model", "3", *["50.00"] * 20, ""]]  # the last class is in no image
    assert turned(cells) == [["class", "one_model"], ["n", "3"], *[[name, "50.00"] for name in names[:20]]]
    few = [line[:6] for line in cells]
    assert turned(few) == few


def test_a_suite_of_the_paper_runs_on_an_archive(tmp_path, monkeypatch):
    """On three images of VOC's layout that move with their masks, by a narrow network; most of the classes are in none."""
    from tests.benchmarks.data import test_segmentation_sets as sets  # skips this test where packages are missing

    sets.small(monkeypatch, "voc_segmentation", train=3, test=1, validation=1)
    sets.write_tar(tmp_path / "downloads/manual" / sets.voc_segmentation.ARCHIVE, sets.voc_files())
    sets.voc_segmentation.VocSegmentation(data_dir=tmp_path).download_and_prepare()
    narrow = ('"deeplab_v3"\nbackbone = "mobilenet_v3_large"', '"small_fcn"\nwidth = 2')
    suite = load_suite(variant(tmp_path, "robots_voc", narrow, ("depth = 101", "depth = 50\nwidth = 2")))
    task = suite.task(100, tmp_path, tmp_path / "cache", 0.001, examples=2)
    assert task.data.x_train.dtype == task.data.y_train.dtype == "uint8" and len(task.classes) == 21
    with without_programs():
        outcome = STRATEGIES["one_model"](task, suite.budget(0.001), 100, Shelf())
        found, shown = results_of(task, outcome), pictures(task, outcome)
    iou = found["extras"]["test_iou_of_classes"]
    assert list(iou)[:2] == ["background", "aeroplane"] and {value is None for value in iou.values()} == {True, False}
    assert found["test_last"] == pytest.approx(found["extras"]["test_pixel_accuracy"]) and outcome.first is None
    _, images, labels = pictures_from(shown)
    assert images.shape == (1, 32, 32, 3) and set(labels) == {"truth", "after"} and VOID in labels["truth"]
