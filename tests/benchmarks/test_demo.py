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
    assert found == [5, 5, 2, 2]
    assert demo.seeds_within(0.12, 2, jobs=1) == 3 and demo.seeds_within(0.12, 2, jobs=4) == 5


def test_it_says_in_words_what_merging_came_to():
    found = {
        "l0_merge_fade": (0.94, 0.9),
        "restart": (0.9, 0.92),
        "one_model": (0.8, 0.9),
        "ensemble": (0.99, 0.99),
    }
    rows = [
        {"status": "done", "strategy": name, "seed": seed, "test_last": value, "scale": 1.0, "examples": None, "extras": {}}
        for name, values in found.items()
        for seed, value in enumerate(values, 100)
    ]
    rows[0]["extras"] = {"validation_teachers": [0.5, 0.52]}
    other = rows[0] | {"examples": 20, "test_last": 0.0}
    alone = rows[0] | {"seed": 109, "test_last": 0.1}  # of another launch, without its rivals
    told = demo.merged([*rows, other, alone])
    assert "has 51.0% on all ten" in told
    assert "Merged, one network of the same size has 92.0%" in told
    assert "trained on with the same labels, 91.0%: ahead in 1 of 2 seeds. Both parents" in told and "cost: 99.0%" in told


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
