"""A suite's own big teacher: its architecture, epochs and schedule reach strategies, and wrong tables are refused by key."""

import json

import pytest

import kmerge
from baselines.protocol.outcomes import training_flops
from benchmarks.data.cache import DataMissingError
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import FOLDER, SuiteError, load_suite
from tests.benchmarks.suites.test_suites import edited
from tests.programs import without_programs
from tests.tiny_tasks import Shelf, with_test_data

TEACHER = """
[teacher]
epochs = 40

[teacher.architecture]
name = "deep_resnet"
depth = 18
width = 2

[teacher.phase]
learning_rate = 0.2
momentum = 0.9
nesterov = true
batch_size = 32
drops = [10]
drop_factor = 0.5
"""
FADE = "[gates.controls.fade]"
ROBOTS = ("robots_lenet", "robots_lenet_resnet101", "robots_resnet18")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def taught(tmp_path, *changes):
    """The suite "digits" with the teacher above, changed in places."""
    table = TEACHER
    for old, new in changes:
        assert old in table
        table = table.replace(old, new)
    return edited(tmp_path, (FADE, FADE + table))


def test_a_suites_teacher_reaches_the_task(tmp_path, cache):
    suite = load_suite(taught(tmp_path))
    task, whole = suite.task(1, None, cache, examples=40), load_suite("digits").task(1, None, cache, examples=40)
    teacher = task.big_teacher.task
    assert task.big_teacher.epochs == 40 and whole.big_teacher is None
    assert teacher.build(1).name == "resnet18" and task.build(1).name == "resnet8"
    phase = teacher.phases["teacher"]
    assert (phase.learning_rate, phase.batch_size, phase.nesterov, phase.drops) == (0.2, 32, True, (0.25,))
    assert {key: value for key, value in teacher.phases.items() if key != "teacher"} == {
        key: value for key, value in whole.phases.items() if key != "teacher"
    }
    # What the target's networks depend on is what it was; only the teacher's stages are others.
    assert task.identity == whole.identity and task.phases == whole.phases
    assert {key for key, value in teacher.identity.items() if value != task.identity[key]} == {"architecture"}
    assert json.loads(json.dumps(suite.definition))["teacher"]["epochs"] == 40
    assert "teacher" not in load_suite("digits").definition


@pytest.mark.parametrize("epochs, scale, expected", [(40, 0.13, 6), (40, 0.001, 2), (100, 0.13, 13), (1, 0.1, 1)])
def test_a_teachers_epochs_are_scaled_as_those_of_two_teachers(tmp_path, cache, epochs, scale, expected):
    drops = [("drops = [10]", "drops = []")]
    suite = load_suite(taught(tmp_path, ("epochs = 40", f"epochs = {epochs}"), *drops))
    assert suite.task(1, None, cache, scale, examples=10).big_teacher.epochs == expected


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("epochs = 40", "", r"\[teacher\]: expected keys of .*, received missing keys \['epochs'\]"),
        ("epochs = 40", "epochs = 0", r"teacher.epochs: expected a number of epochs of at least 1 .*, received 0\."),
        ("epochs = 40", "epochs = 40\nseed = 1", r"\[teacher\]: expected keys of .*, received unknown keys \['seed'\]"),
        ("drops = [10]", "drops = [50]", "drops: expected epochs above 0 and below 40, received 50"),
        ("learning_rate = 0.2", "", r"\[teacher.phase\]: .*, received missing keys \['learning_rate'\]"),
        ('name = "deep_resnet"', "", r"\[teacher.architecture\]: expected a table with the key name"),
    ],
)
def test_a_wrong_table_is_refused_by_key(tmp_path, old, new, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(taught(tmp_path, (old, new)))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"deep_resnet"', '"deep_net"', "expected one of das_cnn, .*, received 'deep_net'. Did you mean deep_"),
        ("width = 2", "hidden = 2", r"\[teacher.architecture\]: .*depth, width, stem.*, received unknown keys \['hidden'\]"),
        ("depth = 18", "depth = 19", "18, 34, 50, 101, 152, received 19"),
        ('"deep_resnet"\ndepth = 18\nwidth = 2', '"lenet"', r"32x32, 28x28 or 14x14.*received \(8, 8, 1\)"),
    ],
)
def test_a_teacher_that_cannot_be_built_is_refused_before_training(tmp_path, cache, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_suite(taught(tmp_path, (old, new))).task(1, None, cache, examples=10)


@pytest.mark.parametrize("name", ROBOTS)
def test_a_suite_of_the_paper_says_what_is_missing(name, tmp_path):
    suite = load_suite(name)
    with pytest.raises(DataMissingError, match=r"tfds.load\('cifar10:3.0.2'"):
        suite.task(100, tmp_path / "none", tmp_path / "cache")
    assert suite.definition["teacher"]["epochs"] == 2 * suite.budget().teacher


def test_a_suites_teacher_trains_and_is_charged(tmp_path, cache):
    narrow = [('name = "deep_resnet"\ndepth = 18\nwidth = 2', 'name = "resnet"\ndepth = 8\nwidth = 12')]
    suite = load_suite(taught(tmp_path, *narrow))
    task, budget = with_test_data(suite.task(1, None, cache, 0.05, examples=64), None), suite.budget(0.05)
    with without_programs():
        outcome = STRATEGIES["distil_big_outputs"](task, budget, 1, Shelf())
    assert [row["phase"] for row in outcome.history] == ["teacher_0"] * 2 + ["distil"] * 2
    teacher, student = (training_flops(each.build(1), task, 1) for each in (task.big_teacher.task, task))
    assert teacher > 2 * student
    assert outcome.flops == pytest.approx(2 * teacher + 2 * (student + teacher / 3))
    assert kmerge.parameters(outcome.model) == kmerge.parameters(task.build(1))


def test_a_suite_of_the_paper_runs_on_real_images(tmp_path, data_dir, image_cache):
    """Its networks, narrow, on Fashion-MNIST: the paper's data is the only other thing that is changed."""
    text = (FOLDER / "robots_lenet.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('stem = "cifar"', 'stem = "cifar"\nwidth = 2').replace('"cifar10"', '"fashion_mnist"'))
    suite = load_suite(path)
    task = with_test_data(suite.task(100, data_dir, image_cache, 0.001, examples=16), None)
    with without_programs():
        outcome = STRATEGIES["distil_prune"](task, suite.budget(0.001), 100, Shelf())
    assert [row["phase"] for row in outcome.history] == ["teacher_0", "teacher_0", "distil", "finetune"]
    assert outcome.extras["nonzero"] < 0.25 * kmerge.parameters(task.build(1))
