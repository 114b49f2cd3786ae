"""Planning: which seeds, which part of them, and which runs share a process."""

import re

import pytest

from benchmarks.records import store
from benchmarks.runs import planning, worker


def test_shards_are_all_seeds_once():
    seeds = list(range(100, 110))
    parts = [planning.shard(seeds, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(seed for part in parts for seed in part) == seeds and parts[1] == [101, 104, 107]
    for text in ("0/3", "4/3", "3", "a/b", "1/0", "-1/2", f"1/{'9' * 150}"):
        with pytest.raises(planning.UsageError, match=re.escape(repr(text))):
            planning.shard(seeds, text)
    with pytest.raises(planning.UsageError, match="only 1 seeds"):
        planning.shard([7], "2/2")


def test_runs_that_share_a_process_are_of_whole_seeds_and_fill_every_job(tmp_path):
    configurations = [{"suite": "s", "strategy": s, "seed": n} for n in range(10) for s in ("a", "b", "c")]
    runs = [store.RunFolder.of(tmp_path, configuration) for configuration in configurations]
    batches = planning.batches(runs, most=10, jobs=2)
    assert [len(batch) for batch in batches] == [6, 9, 9, 6]
    assert [r for batch in batches for r in batch] == runs
    seeds = [{r.configuration["seed"] for r in batch} for batch in batches]
    assert sum(map(len, seeds)) == 10
    assert [len(batch) for batch in planning.batches(runs[:3], most=10, jobs=2)] == [2, 1]
    assert [len(batch) for batch in planning.batches(runs, most=1, jobs=4)] == [1] * 30
    assert planning.batches([], most=10, jobs=2) == []


def test_runs_that_train_together_follow_each_other_in_one_batch(tmp_path):
    configurations = [{"suite": "s", "strategy": s, "seed": n} for n in range(10) for s in ("a", "b", "c")]
    runs = [store.RunFolder.of(tmp_path, configuration) for configuration in configurations]
    for jobs, most in ((1, 10), (2, 1), (1, 2), (3, 10)):
        batches = planning.batches(runs, most, jobs, together=4)
        assert sum(map(len, batches)) == 30 and {r.path for batch in batches for r in batch} == {r.path for r in runs}
        groups = [worker.groups(batch, 4) for batch in batches]
        assert sorted(len(group) for found in groups for group in found) == [2] * 3 + [4] * 6


@pytest.mark.parametrize("wrong", [{"scale": "x"}, {"scale": 0}, {"factor": [1]}, {"scale": float("nan")}])
def test_an_estimate_goes_by_no_run_that_cannot_be(tmp_path, wrong):
    known = {"suite": "s", "strategy": "a", "seed": 1, "scale": 1.0, "backend": "jax"}
    for configuration, seconds in ((known, 3600), ({**known, "seed": 2, "scale": 2.0, **wrong}, 1e9)):
        run = store.RunFolder.of(tmp_path, configuration)
        run.create({})
        run.finish({"wall_seconds": seconds}, [])
    assert planning._estimate([store.RunFolder.of(tmp_path, {**known, "seed": 3})], tmp_path) == [
        "about 1 hours of one worker, by runs that are done here"
    ]
