"""The study of public models: two of its list keep every promise, and what is broken on purpose is found."""

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from benchmarks.studies import wild, wild_page
from benchmarks.studies.wild_cases import error_of, mean_by_inverse, mean_of, values_of
from benchmarks.studies.wild_models.registry import load
from benchmarks.studies.wild_promises import VERBS, rows_of

ENTRIES = load()
INPUTS = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
SMALL = ("actor_critic", "table_resnet")


class Here:
    """Measures in this process, as the study does in others."""

    commit = "abc"

    def __init__(self, folder, verbs):
        self.folder, self.verbs = folder, verbs

    def lines(self, name):
        rows = list(rows_of(name, ENTRIES[name], self.folder, {verb: VERBS[verb] for verb in self.verbs}))
        return rows[:-1], "took more than 1 seconds"


def outcomes(name, folder, *verbs):
    rows = rows_of(name, ENTRIES[name], folder, {verb: VERBS[verb] for verb in verbs})
    return {row["verb"]: (row["outcome"], row["says"]) for row in rows}


@pytest.mark.filterwarnings("ignore:Of the .* units that go")  # its gates are not trained
@pytest.mark.parametrize("name", SMALL)
def test_two_of_its_models_keep_every_promise(name, tmp_path):
    rows = list(rows_of(name, ENTRIES[name], tmp_path))
    assert [row["verb"] for row in rows] == list(wild_page.VERBS)
    assert {row["outcome"] for row in rows} == {"works"}, rows
    assert max(row["value"] for row in rows if row["verb"] in wild_page.EXACT) <= 1e-5


def test_what_is_wrong_is_found(tmp_path, monkeypatch):
    permute, prune = kmerge.permute, kmerge.prune

    def slightly_off(model, order):
        moved = permute(model, order)
        moved.weights[0].assign(1.001 * moved.weights[0])
        return moved

    def in_place(model, *how, **options):
        model.weights[0].assign(2 * model.weights[0])
        return prune(model, *how, **options)

    def without_half(*models):
        raise ZeroDivisionError("no half")

    monkeypatch.setattr(kmerge, "permute", slightly_off)
    monkeypatch.setattr(kmerge, "prune", in_place)
    monkeypatch.setattr(kmerge, "concatenate", lambda *models: models[0])
    monkeypatch.setattr(kmerge, "merge", without_half)
    found = outcomes("actor_critic", tmp_path, "permute", "prune", "concatenate", "merge")
    assert found["permute"][0] == "wrong" and "permuted: error" in found["permute"][1]
    assert found["concatenate"][0] == "wrong" and "concatenated: error" in found["concatenate"][1]
    assert found["merge"] == ("foreign", "ZeroDivisionError: no half")
    assert found["unchanged"] == ("wrong", "changed by prune")


def test_where_half_is_out_of_reach_half_of_what_is_free_goes_and_counts_apart(tmp_path):
    verbs = {verb: VERBS[verb] for verb in ("spaces", "prune")}
    rows = {row["verb"]: row for row in rows_of("tsmixer", ENTRIES["tsmixer"], tmp_path, verbs)}
    row = rows["prune"]
    assert row["outcome"] == "in part" and 0.5 < row["value"] < 1 and "Expected a budget of at least" in row["says"]
    rows = {verb: {**row, "commit": "abc"} for verb, row in rows.items()}
    said = wild_page.summary({"tsmixer": rows})
    assert "0 of 1 (0.0%) pruned to half, " in said and "1 of 1 (100.0%) of those with a free space" in said
    assert "in part: " in wild_page.page({"tsmixer": rows})
    nothing = outcomes("dlinear", tmp_path / "other", "prune")["prune"]
    assert nothing[0] == "fixed"


def test_a_result_that_does_not_train_is_wrong(tmp_path, monkeypatch):
    def frozen(model, *_, **__):
        small = kmerge.select(model, {space.name: 0.4 for space in kmerge.channel_spaces(model).selectable})
        small.trainable = False
        return small

    monkeypatch.setattr(kmerge, "prune", frozen)
    outcome, says = outcomes("actor_critic", tmp_path, "prune")["prune"]
    assert outcome == "wrong" and says.startswith("does not train: "), says


def test_a_functional_model_that_is_another_is_wrong(tmp_path, monkeypatch):
    functional = kmerge.functional

    def another(model, inputs):
        made = functional(model, inputs)
        made.weights[0].assign(1.1 * made.weights[0])
        return made

    assert outcomes("two_dense", tmp_path)["unchanged"] == ("works", "")
    monkeypatch.setattr(kmerge, "functional", another)
    outcome, says = outcomes("two_dense", tmp_path)["unchanged"]
    assert outcome == "wrong" and "the model that kmerge.functional makes: error" in says


def test_a_verb_that_never_came_has_a_row_and_an_absent_package_too(tmp_path):
    here = Here(tmp_path, ["spaces", "permute"])
    ((name, rows),) = wild.measured({"actor_critic": ("an example", "")}, here, 1)
    assert name == "actor_critic" and list(rows) == ["spaces", "permute", "select", "grow", "prune", "concatenate",
                                                     "merge", "unchanged"]  # fmt: skip
    assert (rows["permute"]["outcome"], rows["permute"]["commit"]) == ("works", "abc")
    assert (rows["select"]["outcome"], rows["select"]["says"]) == ("killed", "took more than 1 seconds")
    absent = wild.rows_of("there", "nowhere", "no_such_package", here)
    assert {row["outcome"] for row in absent.values()} == {"skipped"} and len(absent) == len(wild_page.VERBS)

    table = {name: rows, "there": absent}
    wild_page.write(tmp_path / "out", table)
    again = wild_page.read(tmp_path / "out")
    assert wild_page.summary(again) == wild_page.summary(table)
    assert "0 of 1 (0.0%) pruned to half" in wild_page.summary(again) and "5 killed" not in wild_page.summary(again)
    assert (tmp_path / "out" / "wild.md").read_text() == wild_page.page(table)


def test_the_list_is_long_and_needs_no_package_for_most_of_it():
    assert len(ENTRIES) >= 80
    assert sum(not entry.package for entry in ENTRIES.values()) >= 80


@pytest.mark.parametrize("end", ["activation", "layer", "nested"])
def test_the_mean_is_that_of_logits_before_a_softmax(end):
    row = keras.Input((3,))
    parents, scores = [], []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        last = layers.Dense(4, activation=None if end == "layer" else "softmax")
        tail = keras.Sequential([last]) if end == "nested" else last
        parents.append(keras.Model(row, [layers.Softmax()(tail(row)) if end == "layer" else tail(row), layers.Dense(1)(row)]))
        scores.append(INPUTS @ keras.ops.convert_to_numpy(last.kernel))
    powers, each = np.exp(np.mean(scores, axis=0)), [values_of(parent, [INPUTS]) for parent in parents]
    expected = [powers / powers.sum(-1, keepdims=True), np.mean([values[1] for values in each], axis=0)]
    found = mean_of(parents, [INPUTS])
    if end == "nested":
        assert error_of(found, expected) > 1e-3
        found[0] = mean_by_inverse(expected[0], [values[0] for values in each], found[0])
    assert error_of(found, expected) <= 1e-6
    assert error_of(each[0], expected) > 0.01
    assert mean_by_inverse(each[0][1], [values[1] for values in each], found[1]) is found[1]
