"""Parents that have a part of the training data each, and the few examples that are there after them."""

import dataclasses
import json

import numpy as np
import pytest

from baselines.protocol.task import Budget
from baselines.protocol.teachers import train_teacher
from benchmarks.data.parents import classes_of
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.tiny_tasks import EagerShelf, tiny_net


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def task_of(name, cache, seed=1, examples=None):
    return dataclasses.replace(load_suite(name).task(seed, None, cache, examples=examples), build=tiny_net)


def distinct(images):
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("overlap, sizes, shared", [(0.0, (5, 5), 0), (0.3, (7, 6), 3)])
def test_parents_know_all_classes_between_them_and_share_those_that_overlap(overlap, sizes, shared):
    one, other = classes_of(10, overlap, seed=1)
    assert (len(one), len(other)) == sizes and len(set(one) & set(other)) == shared
    assert set(one) | set(other) == set(range(10))
    assert set(one) != set(classes_of(10, overlap, seed=2)[0])


def test_a_parent_has_all_examples_of_its_classes_and_none_of_others(cache):
    for name, overlap in (("halves_digits", 0.0), ("overlapping_digits", 0.3)):
        parents = task_of(name, cache).parents
        for rows, classes in zip(parents.rows, classes_of(10, overlap, seed=1), strict=True):
            np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(parents.data.y_train, classes)))
        assert len(parents.data.x_train) == 900 == len(set().union(*parents.rows))


def test_digits_of_a_parent_are_all_upright_or_all_rotated(cache):
    from sklearn.datasets import load_digits

    task, upright = task_of("domains_digits", cache), load_digits().images[..., None]
    kinds = [distinct(_levels(images)) for images in (upright, np.rot90(upright, axes=(1, 2)))]
    for rows, kind, other in zip(task.parents.rows, kinds, kinds[::-1], strict=True):
        images = distinct(_levels(task.parents.data.x_train[rows]))
        assert images <= kind and not images & other and abs(len(rows) - 450) < 45
    for y in (task.data.y_train, task.data.y_val, task.data.y_test):
        assert set(y.tolist()) == set(range(10))


def _levels(images):
    """Each value as its rank among all, which standardization does not change."""
    return np.unique(images, return_inverse=True)[1].reshape(images.shape).astype("uint8")


def test_the_few_are_as_many_of_each_class_and_the_fewer_are_among_the_more(cache):
    seen = []
    for few in (2, 5, 20):
        task = task_of("halves_digits", cache, examples=10 * few)
        images, first = np.unique(task.data.x_train, axis=0, return_index=True)
        assert task.parents.labelled == len(images) == 10 * few
        assert np.bincount(task.data.y_train[first]).tolist() == [few] * 10
        seen.append(distinct(images))
    assert seen[0] < seen[1] < seen[2] < distinct(task.parents.data.x_train)
    assert seen[1] == distinct(task_of("halves_digits", cache).data.x_train)
    assert seen[1] != distinct(task_of("halves_digits", cache, seed=2).data.x_train)


def test_the_few_are_repeated_to_the_length_of_all_in_turn(cache):
    few, everything = task_of("halves_digits", cache), task_of("halves_digits", cache, examples=900)
    assert len(few.data.x_train) == len(everything.data.x_train) == 900
    np.testing.assert_array_equal(few.data.x_train[:50], few.data.x_train[850:])
    np.testing.assert_array_equal(everything.data.x_train, few.parents.data.x_train)
    for part in ("x_val", "y_val", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(few.data, part), getattr(everything.data, part))


class Glancing(EagerShelf):
    """Notes what it is given to train on and what its stages and phases depend on, and trains on a batch of it."""

    def __init__(self):
        super().__init__()
        self.seen, self.stages, self.phases = [], [], []

    def run(self, key, build, train):
        self.stages.append(json.dumps(key, sort_keys=True))
        return super().run(key, build, train)

    def resume(self, key, check):
        self.phases.append(json.dumps(key, sort_keys=True))

    def fit(self, model, x, y, *, validation_data, **how):
        self.seen.append(distinct(x))
        few = tuple(array[:64] for array in validation_data)
        super().fit(model, x[:64], y[:64], validation_data=few, **how)


def test_teachers_do_not_depend_on_the_few_and_all_that_follows_does(cache):
    few, everything = Glancing(), Glancing()
    for stages, examples in ((few, 20), (everything, 900)):
        STRATEGIES["restart"](task_of("halves_digits", cache, examples=examples), Budget(1, 1, 1, 4), 1, stages)
    assert few.stages == everything.stages and len(set(few.stages)) == 2
    assert few.phases[:2] == everything.phases[:2] and few.phases[2] != everything.phases[2]
    assert few.seen[:2] == everything.seen[:2] and [len(seen.seen[2]) for seen in (few, everything)] == [20, 900]


def test_parents_of_fewer_examples_have_as_many_more_epochs(cache):
    task = task_of("overlapping_digits", cache)
    for number, rows in enumerate(task.parents.rows):
        _, record = train_teacher(task, Budget(3, 1, 1, 8), 1, number, Glancing())
        assert len(record.rows) == round(3 * 900 / len(rows)) > 3


def test_rows_say_how_many_labelled_examples_a_run_had(cache):
    task, stages, found = task_of("halves_digits", cache), Glancing(), {}
    part = len(task.parents.rows[0])
    for name in ("one_model", "one_model_all_data", "ensemble", "magnitude_merge", "restart_whole"):
        extras = STRATEGIES[name](task, Budget(1, 1, 1, 1), 1, stages).extras
        found[name] = extras["labelled_examples"], extras["labelled_examples_of_teachers"]
        if name == "one_model_all_data":
            assert stages.seen[-1] == distinct(task.parents.data.x_train)
    assert found == {
        "one_model": (50, 0),
        "one_model_all_data": (900, 0),
        "ensemble": (0, 900),
        "magnitude_merge": (50, 900),
        "restart_whole": (50, part),
    }
    assert part < 900
