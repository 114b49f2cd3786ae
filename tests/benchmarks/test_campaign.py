"""Launches with a deadline: what can be done is done, what is left is told, and the next machine goes on from there."""

import dataclasses
import json
import time
from types import SimpleNamespace

import pytest

from benchmarks import campaign, run
from benchmarks.campaigns.plan import CAMPAIGNS, Futility, load_campaign
from benchmarks.campaigns.standing import given_up
from benchmarks.studies.arithmetic import expected
from benchmarks.suites.values import SuiteError
from tests import launches


@pytest.fixture
def asleep(monkeypatch):
    """Workers sleep, and end in what their learning rate says."""
    monkeypatch.setattr(run, "LocalProcesses", launches.asleep)


def _file(folder, *tables, **more):
    path = folder / "mine.json"
    path.write_text(json.dumps({"description": "a test", "launches": list(tables), **more}))
    return path


def _launch(name, suite, *strategies, scale="0.001", seeds="100", **more):
    seeds = seeds if "-" in seeds else f"{seeds}-{seeds}"
    arguments = ["--suite", str(suite), "--scale", scale, "--seeds", seeds, "--strategy", *strategies]
    return {"name": name, "arguments": [*arguments, "--backend", "jax", "--jobs", "1"], **more}


def _main(path, folder, minutes):
    return campaign.main([str(path), "--minutes", str(minutes), *map(str, launches.places(folder))])


def test_what_a_deadline_cuts_off_the_next_machine_finishes(tmp_path, capsys, asleep):
    diverging = launches.variant(tmp_path, "sine", (r"learning_rate = [\d.]+", "learning_rate = 2.0"))
    long = _launch("takes long", "sine", "one_model", scale="0.2")
    path = _file(tmp_path, long, _launch("diverges", diverging, "one_model"))
    began = time.monotonic()
    assert _main(path, tmp_path, 2 / 60) == run.INTERRUPTED
    assert time.monotonic() - began < 15  # on an idle machine, two
    page = (tmp_path / "out" / "campaign_mine.md").read_text()
    assert "Time is up. The same command goes on." in capsys.readouterr().err
    assert "| takes long | one_model | mse | 0 |  |  |  | 100 |" in page and "- Left: at most " in page
    assert _main(path, tmp_path, 1) == run.FAILED
    (done,) = load_campaign(str(path), [*map(str, launches.places(tmp_path))]).launches[0].runs
    known = json.loads((done.path / "history.json").read_text())
    assert known == expected(done.configuration) and len(known) == 180
    page = (tmp_path / "out" / "campaign_mine.md").read_text()
    assert "| takes long | one_model | mse | 1 | " in page and "epochs a second in all" in page
    assert "| diverges | one_model | mse | 0 |  |  |  | 100 |" in page and "- Left: at most 4 epochs" in page
    assert "- diverges: failed: 1 runs, as one_model seed 100: DivergedError: training diverged" in page


def test_a_launch_is_given_up_by_its_first_seeds_and_the_next_one_begins(tmp_path, capsys, asleep):
    worse = launches.variant(tmp_path, "sine", (r"(phases\.finetune\][^[]*learning_rate = )[\d.]+", r"\g<1>0.1"))
    rule = {"strategy": "l0_merge", "rivals": ["one_model"], "seeds": 2, "below": -0.5}
    first = _launch("first", worse, "l0_merge", "one_model", seeds="100-102", seeds_at_a_time=1, futility=rule)
    path = _file(tmp_path, first, _launch("second", "sine", "one_model", seeds="5"))
    assert _main(path, tmp_path, 2) == run.DONE
    page = (tmp_path / "out" / "campaign_mine.md").read_text()
    assert "given up: l0_merge against one_model, the better rival by validation, on seeds 100-101: -" in page
    assert "| first | l0_merge | mse | 2 | " in page and "| second | one_model | mse | 1 | " in page
    assert page.endswith("- Nothing is left.\n")
    launch = load_campaign(str(path), [*map(str, launches.places(tmp_path))]).launches[0]
    assert [each.status for each in launch.runs] == ["done"] * 4 + ["missing"] * 2
    for strategy, rivals, seeds, below, is_given_up in (
        ("one_model", ("l0_merge",), 2, -0.5, False),  # is better
        ("l0_merge", ("one_model",), 2, -5.0, False),  # is not as much worse
        ("l0_merge", ("one_model",), 3, -0.5, False),  # the third seed is not there
        ("l0_merge", ("one_model",), 1, -0.5, True),
    ):
        asked = dataclasses.replace(launch, futility=Futility(strategy, rivals, seeds, below))
        assert bool(given_up(asked)) == is_given_up


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"minutes": 3}, "mine.json: expected keys of description, launches, arguments, environment, received unknown keys"),
        ({"launches": []}, "launches: expected a list of 1 to 100 items, received \\[\\]"),
        ({"environment": {"XLA_FLAGS": 3}}, r"environment\.XLA_FLAGS: expected a line .*received 3. Write XLA_FLAGS = .1"),
        ({"arguments": [3]}, r"arguments: expected a line .*received 3\. Write arguments = \[\"--suite\"\]\."),
        ({"environment": {"A=B": "1"}}, "environment: expected names of variables, without =, received 'A=B'"),
        ({"launches": [{"name": "a"}]}, r"\[launches 1\]: expected keys of name, arguments, .*missing keys \['arguments'\]"),
        ({"seeds_at_a_time": 0}, "launches 1.seeds_at_a_time: expected a whole number of at least 1 .*, received 0"),
        ({"name": ""}, "launches 1.name: expected a line"),
        ({"again": True}, "launches 2.name: expected a name of its own, received 'first'"),
        ({"more": ["--scale", "-1"]}, "launches 1.arguments: argument --scale: expected a number above 0"),
        ({"more": ["--speed"]}, "launches 1.arguments: unrecognized arguments: --speed"),
        ({"more": ["--help"]}, "launches 1.arguments: expected runs, received '--help'"),
        ({"more": ["--out", "x", "--tables"]}, "launches 1.arguments: expected none of --out, --tables, received"),
        ({"more": ["--strategy", "nobody"]}, "launches 1.arguments: --strategy: expected one of .*received 'nobody'"),
        ({"rule": {"rivals": ["one_big_model"]}}, "launches 1.futility: expected strategies of the launch, which are one"),
        ({"rule": {"below": "-1"}}, r"launches 1\.futility\.below: expected a number .*received '-1'\. Write below = -0\.005"),
    ],
)
def test_what_is_wrong_in_a_campaign_is_told_before_anything_runs(tmp_path, capsys, change, error):
    change = dict(change)
    first = _launch("first", "sine", "one_model")
    first["arguments"] = [*first["arguments"], *change.pop("more", ())]
    if "rule" in change:
        rule = {"strategy": "one_model", "rivals": ["one_model"], "seeds": 2, "below": -0.5}
        first["futility"] = rule | change.pop("rule")
    first |= {key: change.pop(key) for key in ("name", "seeds_at_a_time") if key in change}
    tables = [first, first] if change.pop("again", False) else [first]
    path = _file(tmp_path, *tables)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SuiteError, match=error):
        load_campaign(str(path), [])
    assert _main(path, tmp_path, 1) == run.USAGE and not (tmp_path / "out").exists()
    with pytest.raises(SuiteError, match="campaign: expected one of gpu, received 'gpus'. Did you mean gpu"):
        load_campaign("gpus", [])


def test_data_of_ones_own_that_is_not_there_has_its_status_in_a_campaign(tmp_path, capsys):
    suite = tmp_path / "mine.toml"
    suite.write_text('based_on = "digits"\ndescription = "mine"\ndataset = "absent.npz"\n')
    path = _file(tmp_path, {"name": "first", "arguments": ["--suite", str(suite)]})
    assert _main(path, tmp_path, 1) == run.DATA_MISSING and "absent.npz" in capsys.readouterr().err


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_campaigns_of_the_benchmark_can_be_planned_and_tell_how_far_they_are(tmp_path, capsys, name):
    assert campaign.main([name, "--minutes", "13", "--dry-run", *map(str, launches.places(tmp_path))]) == run.DONE
    assert f"# {name}: " in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_the_rate_counts_the_epochs_of_all_workers_after_the_first():
    now, told = [0.0], []
    rate = campaign.Rate(told.append, lambda: now[0])
    for seconds, path, ended in ((5, "a", 1), (6, "b", 4), (15, "a", 20), (35, "b", 1), (70, "a", 45)):
        now[0] = float(seconds)
        rate.hear(SimpleNamespace(kind="epoch", detail={"ended": ended}, run=SimpleNamespace(path=path)))
        rate.hear(SimpleNamespace(kind="start", detail={}, run=SimpleNamespace(path=path)))
    assert rate.value == (4 + 19 + 1 + 25) / 65 and told == ["0.754 epochs a second in the first minute"]
