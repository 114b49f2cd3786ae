"""The table [epochs.early]: how a suite splits the budget where networks are merged before they are annealed."""

import pytest

from baselines.protocol.early_merging import before_annealing
from benchmarks import run, tune
from benchmarks.records.store import RunFolder
from benchmarks.strategies.registry import EARLY
from benchmarks.suites.checks import PHASES
from benchmarks.suites.suite import SuiteError, load_suite
from tests import launches


def with_early(tmp_path, *lines):
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(['based_on = "digits"', "[epochs.early]", *lines]))
    return path


def test_what_is_left_out_has_its_share_of_merging(tmp_path):
    assert load_suite("digits").early == {"teacher": 10, "gates": 5}
    assert load_suite("sine").early == {"teacher": 150, "gates": 75}
    assert load_suite(with_early(tmp_path, "teacher = 6")).early == {"teacher": 6, "gates": 5}
    assert load_suite("das_mnist").early is None


def test_it_moves_no_other_run(tmp_path):
    digits, other = load_suite("digits"), load_suite(with_early(tmp_path, "gates = 3"))
    assert digits.definition == other.definition and set(digits.definition["epochs"]) == set(PHASES)
    assert digits.settings_of("l0_merge") == other.settings_of("l0_merge") == {}
    runs = []
    for suite, name in ((digits, "l0_merge"), *((suite, name) for suite in (digits, other) for name in sorted(EARLY))):
        own = suite.settings_of(name)
        assert own == ({"early": suite.early} if name in EARLY else {})
        runs.append(RunFolder.of(tmp_path, {"definition": suite.definition, "strategy": name, "seed": 1, **own}))
    assert len({run.protocol for run in runs}) == 1 and len({run.path for run in runs}) == 5


@pytest.mark.parametrize("scale, expected", [(1.0, (6, 4)), (0.5, (3, 2)), (0.1, (1, 1))])
def test_it_is_scaled_as_other_epochs_are(tmp_path, scale, expected):
    suite = load_suite(with_early(tmp_path, "teacher = 6", "gates = 4"))
    budget = suite.budget(scale)
    _, own = before_annealing(suite.task(1, None, tmp_path, scale=scale), budget)
    assert (own.teacher, own.gates) == expected and own.merging == budget.merging


@pytest.mark.parametrize(
    "line, message",
    [
        ("teachers = 2", r"\[epochs.early\]: .*unknown keys \['teachers'\]. Did you mean teacher\?"),
        ("teacher = 0", "early.*teacher: expected a number of epochs of at least 1 .*, received 0"),
        ("gates = 1.5", "early.*gates: expected a number of epochs of at least 1 .*, received 1.5"),
        ("gates = 40", r"fewer than the 60 epochs of merging, received {.gates.: 40, .teacher.: 10}"),
    ],
)
def test_a_wrong_table_is_refused_by_key(tmp_path, line, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(with_early(tmp_path, line))


def test_the_split_can_be_tuned_where_the_file_does_not_say_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LocalProcesses", launches.asleep)  # which knows one_model; the trials' suites tell the rest
    arguments = ("--suite", "sine", "--strategy", "one_model", "--seeds", "0-0", *launches.SMALL, "--jobs", "1")
    arguments += ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    assert tune.main([*map(str, arguments), "--vary", "epochs.early.teacher=75,150"]) == run.DONE
    suites = map(load_suite, (tmp_path / "out" / "sine" / "tuning").glob("*.json"))
    splits = [suite.settings_of("magnitude_merge_before_annealing")["early"] for suite in suites]
    assert sorted(split["teacher"] for split in splits) == [75, 150] and {split["gates"] for split in splits} == {75}
