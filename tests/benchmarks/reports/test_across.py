"""What several suites say together, from tables on the disk."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import report
from benchmarks.records import results, store
from benchmarks.records.tables import read_csv, write_csv
from benchmarks.reports import across

SEEDS = range(6)


def _folder(path, suite, means, metric="accuracy", noise=0.01, protocol=None, **changes):
    """Results of a suite: by strategy its mean; strategies of a seed share what the seed brings."""
    rng = np.random.default_rng(len(suite))
    common = rng.normal(0, 0.02, len(SEEDS))
    rows = []
    for number, (strategy, mean) in enumerate(means.items()):
        for seed in SEEDS:
            last = float(mean + common[seed] + noise * rng.normal())
            row = {"suite": suite, "strategy": strategy, "seed": seed, "status": "done", "metric": metric, "test_last": last}
            row |= {"test_best": last, "protocol": protocol or suite, "run": f"{suite}{number}{seed}", "scale": 1.0}
            rows.append(row | {"backend": "jax", "teacher_epoch_equivalents": 10.0 * (1 + number), **changes})
    path.mkdir(parents=True)
    write_csv(path / "runs.csv", store.RUN_COLUMNS, rows)
    return path


@pytest.fixture
def folders(tmp_path):
    return [
        _folder(tmp_path / "a", "a", {"one_model": 0.8, "restart": 0.9, "ensemble": 0.85}),
        _folder(tmp_path / "b", "bb", {"one_model": 0.4, "restart": 0.2}, metric="mse"),
        _folder(tmp_path / "c", "ccc", {"one_model": 0.7, "restart": 0.6}),
    ]


def _columns(folders):
    problems = []
    return across.columns_of([results.read_results(folder) for folder in folders], problems), problems


def test_differences_are_positive_where_a_strategy_is_better(folders):
    columns, problems = _columns(folders)
    assert [column.name for column in columns] == ["a", "bb", "ccc"] and not problems
    assert across.reference_of(columns) == "one_model"
    matrix = across.differences(columns, "one_model")
    assert list(matrix) == ["restart", "ensemble"] and list(matrix["ensemble"]) == ["a"]
    assert [d.sign for d in matrix["restart"].values()] == ["+", "+", "-"]
    d = matrix["restart"]["bb"]
    values = [row["test_last"] for row in results.read_results(folders[1]).rows]
    assert d.n == 6 and d.mean == pytest.approx(np.mean(values[:6]) - np.mean(values[6:])) and d.low < d.mean < d.high


def test_rows_of_one_protocol_belong_together_and_contradictions_are_told(folders, tmp_path):
    more = _folder(tmp_path / "more", "a", {"one_model": 0.1, "magnitude_merge": 0.8})
    columns, problems = _columns([*folders, more])
    assert len(columns) == 3 and set(columns[0].groups) == {"one_model", "restart", "ensemble", "magnitude_merge"}
    assert problems == [
        "a: 6 runs of one_model are left out: a folder before, which counts, has other results of them."
    ]
    assert columns[0].values("one_model", SEEDS).mean() > 0.7


def test_columns_of_one_suite_are_named_by_what_differs(tmp_path):
    means = {"one_model": 0.5, "restart": 0.6}
    made = [{"examples": None}, {"examples": 20}, {"examples": 20, "scale": 2.0}, {"examples": 20, "scale": 2.0}]
    made = [_folder(tmp_path / str(i), "s", means, protocol=f"p{i}", **how) for i, how in enumerate(made)]
    names = [column.name for column in _columns(made)[0]]
    assert names[::3] == ["s, 20 examples, scale 1", "s, the suite's examples, scale 1"]  # from few to all
    assert names[1:3] == ["s, 20 examples, scale 2 (p2)", "s, 20 examples, scale 2 (p3)"]


def test_a_block_has_strategies_that_share_their_columns(folders):
    block = across.block_of(_columns(folders)[0], "one_model")
    assert (block.strategies, block.columns) == (("one_model", "restart"), ("a", "bb", "ccc"))
    assert all(part[0].mean() == pytest.approx(0) for part in block.scores)
    a, b = (results.read_results(folder).rows for folder in folders[:2])
    errors = [1 - row["test_last"] for row in a]
    assert block.scores[0][1] == pytest.approx(1 - np.array(errors[6:12]) / np.mean(errors[:6]))
    assert block.scores[1][1, 0] == pytest.approx(1 - b[6]["test_last"] / np.mean([row["test_last"] for row in b[:6]]))
    assert block.compute == {"one_model": 1.0, "restart": 2.0}
    assert across.block_of(_columns(folders[:1])[0], "one_model") is None
    columns = _columns(folders)[0]
    assert across.block_of(columns, "restart", ["one_model"]).strategies == ("restart", "one_model")
    assert across.block_of(columns, "one_model", ["restart", "ensemble"]) is None  # one column alone has all three


def _block(rng, seeds=(8, 8, 8)):
    scores = tuple(np.round(rng.normal([[0.0], [0.2]], 0.3, (2, n)), 1) for n in seeds)  # rounded, so that there are ties
    return across.Block("one_model", ("one_model", "restart"), tuple(map(str, range(len(seeds)))), scores)


def test_estimates_are_those_of_scipy():
    """Those of rliable's metrics too, to all digits, when this was written; its intervals do not run with NumPy 2."""
    block = _block(np.random.default_rng(0))
    means = across.interquartile_means(block)
    for i, name in enumerate(block.strategies):
        every = np.concatenate([part[i] for part in block.scores])
        assert means[name].value == pytest.approx(stats.trim_mean(every, 0.25))
        assert means[name].low < means[name].value < means[name].high
    (improvement,) = across.probabilities_of_improvement(block).values()
    shares = [stats.mannwhitneyu(part[1], part[0]).statistic / 64 for part in block.scores]
    assert improvement.value == pytest.approx(np.mean(shares)) and improvement.low < improvement.value < improvement.high
    thresholds, found = across.profiles(block, points=5)
    above = [[np.mean(part[1] > threshold) for part in block.scores] for threshold in thresholds]
    assert found["restart"][0] == pytest.approx(np.mean(above, axis=1))
    assert (found["restart"][1] <= found["restart"][0]).all() and (found["restart"][0] <= found["restart"][2]).all()


def test_columns_weigh_the_same_however_many_seeds_they_have():
    block = _block(np.random.default_rng(1))

    def with_seeds(*times):
        scores = tuple(np.repeat(part, n, axis=1) for part, n in zip(block.scores, times, strict=True))
        return across.Block(block.reference, block.strategies, block.columns, scores)

    for estimate in (across.interquartile_means, across.probabilities_of_improvement):
        once, first, thrice = (estimate(with_seeds(*times))["restart"] for times in ((1, 1, 1), (3, 1, 1), (3, 3, 3)))
        assert once.value == pytest.approx(first.value) == pytest.approx(thrice.value)
        assert once.high - once.low > 1.2 * (thrice.high - thrice.low)  # three times as many seeds say more


def test_intervals_hold_what_is_true():
    """Of 95 % intervals of samples of a known distribution, nine of ten at least hold the mean; 3 columns of 20 seeds."""
    found = [
        across.interquartile_means(_block(np.random.default_rng(seed), (20, 20, 20)))["restart"] for seed in range(40)
    ]
    assert np.mean([e.low <= 0.2 <= e.high for e in found]) >= 0.85


def test_the_command_writes_what_suites_say_together(folders, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    out = tmp_path / "out"
    assert report.main([*map(str, folders), str(tmp_path / "notes"), "--across", str(out)]) == report.DONE
    said = capsys.readouterr().out
    assert f"{tmp_path / 'notes'} holds no results, and is passed over." in said and "across.md" in said
    text = (out / "across.md").read_text()
    assert "| Restart         | **+** +" in text and "same 3 columns: a; bb; ccc" in text and "nan" not in text
    head, *rows = read_csv(out / "matrix.csv")
    assert [row[-1] for row in rows] == ["+", "+", "-", "+"] and [row[1] for row in rows] == ["a", "bb", "ccc", "a"]
    assert sorted(path.name for path in (out / "figures").glob("*.pdf")) == [
        "front.pdf", "matrix.pdf", "profiles.pdf", "scores.pdf",
    ]  # fmt: skip
    assert r"\textbf{+" in (out / "tables.tex").read_text() and not (folders[0] / "summary.csv").exists()
    assert report.main([str(folders[0]), "--across", str(out)]) == 2
    assert "two seeds in common of one_model and another strategy, received 1" in capsys.readouterr().err
