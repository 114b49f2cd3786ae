"""The demo: what it launches exists, it takes as many seeds as the machine bears, and what it cuts has half the operations."""

import re

import kmerge
from benchmarks import demo
from benchmarks.suites.suite import load_suite
from tests.programs import without_programs
from tests.tiny_tasks import tiny_digits


def test_it_launches_what_the_suite_has():
    suite = load_suite(demo.SUITE)
    assert set(demo.STRATEGIES) <= set(suite.strategies)
    assert demo.FIRST_SEED == suite.seeds[0] and demo.MOST_SEEDS <= len(suite.seeds)


def test_a_slow_machine_takes_fewer_seeds_and_never_less_than_two():
    found = [demo.seeds_within(epoch, compiling, jobs=2) for epoch, compiling in ((0.05, 1), (0.12, 2), (0.6, 9), (9, 90))]
    assert found == [5, 4, 2, 2]
    assert demo.seeds_within(0.12, 2, jobs=1) == 2 and demo.seeds_within(0.12, 2, jobs=4) == 5


def test_the_pruned_network_has_half_the_operations_and_the_first_stays_as_it_is(tmp_path):
    task = tiny_digits(tmp_path, examples=96)
    model = task.build(1)
    before = model.get_weights()
    with without_programs():
        told = demo.halved(task, model)
    operations = kmerge.multiply_accumulates(model)
    whole, left = (int(number.replace(",", "")) for number in re.findall(r"(?:with|leaves) ([\d,]+)", told))
    assert whole == operations and 0.25 * operations < left <= 0.5 * operations
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
