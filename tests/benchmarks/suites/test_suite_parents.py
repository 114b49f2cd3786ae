"""Suites whose parents know different things: what their files may say, what --examples means there, and one such launch."""

import json

import pytest

from benchmarks import run
from benchmarks.suites.suite import SUITES, SuiteError, load_suite
from tests import launches
from tests.benchmarks.suites.test_suites import edited


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def written(tmp_path, parents, base="digits", more=""):
    path = tmp_path / "mine.toml"
    path.write_text(f'based_on = "{base}"\n{more}\n[parents]\n{parents}')
    return path


@pytest.mark.parametrize(
    "parents, message",
    [
        ("few = 5", r"\[parents\]: .*missing keys \['by'\]"),
        ('by = "class"', r"parents.by: expected one of classes, domains, received 'class'. Did you mean classes"),
        ('by = "classes"\nfewer = 5', r"unknown keys \['fewer'\]. Did you mean few\?"),
        ('by = "classes"\nfew = 0', "few: expected a whole number of at least 1 .*, received 0"),
        ('by = "classes"\nfew = 2.5', "few: expected a whole number of at least 1 .*, received 2.5"),
        ('by = "classes"\noverlap = 0.25', "overlap: expected a share of the 10 classes that is a whole .*received 0.25"),
        ('by = "classes"\noverlap = 0.9', "overlap: expected .* two of them at least not shared, received 0.9"),
        ('by = "classes"\noverlap = -0.1', "overlap: expected .*, received -0.1"),
        ('by = "domains"', "by domains: expected a data set of several domains, received 'digits'. .* digits_rotated"),
    ],
)
def test_a_wrong_table_is_refused_by_key(tmp_path, parents, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(written(tmp_path, parents))


def test_what_does_not_go_with_parents_is_refused(tmp_path):
    with pytest.raises(SuiteError, match="expected a data set of images that fit into memory, with one label each, received"):
        load_suite(written(tmp_path, 'by = "classes"', base="sine"))
    with pytest.raises(SuiteError, match="expected no teacher_data beside it, received 'halves'. Leave one out"):
        load_suite(written(tmp_path, 'by = "classes"', more='teacher_data = "halves"'))
    with pytest.raises(SuiteError, match="overlap: expected none where parents differ by domains, received 0.1"):
        load_suite(written(tmp_path, 'by = "domains"\noverlap = 0.1', more='dataset = "digits_rotated"'))


def test_more_of_each_class_than_there_are_is_refused(tmp_path, cache):
    with pytest.raises(SuiteError, match=r"\[parents\]: Class \d has \d+ training examples; asked for 95 of each class"):
        load_suite(written(tmp_path, 'by = "classes"\nfew = 95')).task(1, None, cache)


@pytest.mark.parametrize("examples", ["55", "1000"])
def test_examples_have_to_be_as_many_of_each_class(tmp_path, examples):
    arguments = ("--suite", "halves_digits", "--examples", examples, *launches.places(tmp_path))
    status, _, err = launches.call(*arguments)
    assert status == run.USAGE and f"a multiple of the 10 classes below 900, or all 900, received {examples}" in err


def test_suites_with_parents_say_all_of_it(tmp_path):
    named = {name: load_suite(name).definition["parents"] for name in SUITES if "parents" in load_suite(name).definition}
    assert named == {
        "halves_digits": {"by": "classes", "few": 5},
        "halves_fashion_mnist": {"by": "classes", "few": 10, "examples": 6000},
        "halves_cifar100": {"by": "classes", "few": 20},
        "overlapping_digits": {"by": "classes", "few": 5, "overlap": 0.3},
        "domains_digits": {"by": "domains", "few": 5},
    }
    assert "parents" not in load_suite("different_data").definition


def test_all_that_a_suite_of_halves_needs_runs_from_the_command_line(tmp_path):
    path = edited(tmp_path, ('by = "classes"', 'by = "classes"\nexamples = 100'), name="halves_digits")
    arguments = ("--suite", path, "--seeds", "1-1", "--scale", "0.02", "--examples", "20", "--jobs", "1")
    strategies = ("--strategy", "magnitude_merge", "one_model")
    status, out, err = launches.call(*arguments, *strategies, *launches.places(tmp_path), executor=launches.eagerly)
    assert status == run.DONE, out + err
    rows = launches.table_of(tmp_path / "out" / "mine" / "runs.csv")
    used = {row["strategy"]: json.loads(row["extras"])["labelled_examples"] for row in rows}
    assert used == {"magnitude_merge": 20, "one_model": 20}
    assert {row["examples"] for row in rows} == {"20"}
    assert len(list((tmp_path / "out" / "mine" / "stages").iterdir())) == 2
