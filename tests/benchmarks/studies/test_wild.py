"""The study of public models: two of its list keep every promise, and what is broken on purpose is found."""

import keras
import pytest

import kmerge
from benchmarks.studies import wild, wild_page
from benchmarks.studies.wild_models.registry import load
from benchmarks.studies.wild_promises import VERBS, rows_of

ENTRIES = load()
SMALL = ("actor_critic", "table_resnet")


class Here:
    """Measures in this process, as the study does in others."""

    def __init__(self, folder, verbs):
        self.folder, self.verbs = folder, verbs

    def lines(self, name):
        rows = list(rows_of(name, ENTRIES[name], self.folder, {verb: VERBS[verb] for verb in self.verbs}))
        return rows[:-1], "took more than 1 seconds"


def outcomes(name, folder, *verbs):
    rows = rows_of(name, ENTRIES[name], folder, {verb: VERBS[verb] for verb in verbs})
    return {row["verb"]: (row["outcome"], row["says"]) for row in rows}


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


def test_a_result_that_does_not_train_or_load_is_wrong(tmp_path, monkeypatch):
    def frozen(model, *_, **__):
        small = kmerge.select(model, {"dense": 4})
        small.trainable = False
        return small

    first = next(iter(kmerge.channel_spaces(ENTRIES["actor_critic"].build()).selectable)).name
    monkeypatch.setattr(kmerge, "prune", lambda model, *_, **__: frozen_half(model))

    def frozen_half(model):
        spaces = kmerge.channel_spaces(model).selectable
        small = kmerge.select(model, {space.name: 0.4 for space in spaces})
        small.trainable = False
        return small

    assert first
    (outcome, says), *_ = outcomes("actor_critic", tmp_path, "prune").values()
    assert outcome == "wrong" and says.startswith("does not train: "), says


def test_a_verb_that_never_came_has_a_row_and_an_absent_package_too(tmp_path):
    here = Here(tmp_path, ["spaces", "permute"])
    ((name, rows),) = wild.measured({"actor_critic": ("an example", "")}, here, 1)
    assert name == "actor_critic" and list(rows) == ["spaces", "permute", "select", "grow", "prune", "concatenate",
                                                     "merge", "unchanged"]  # fmt: skip
    assert rows["permute"]["outcome"] == "works"
    assert (rows["select"]["outcome"], rows["select"]["says"]) == ("killed", "took more than 1 seconds")
    absent = wild.rows_of("there", "nowhere", "no_such_package", here)
    assert {row["outcome"] for row in absent.values()} == {"skipped"} and len(absent) == len(wild_page.VERBS)

    table = {name: rows, "there": absent}
    wild_page.write(tmp_path / "out", table)
    again = wild_page.read(tmp_path / "out")
    assert wild_page.summary(again) == wild_page.summary(table)
    assert "0 of 1 (0%) pruned to half" in wild_page.summary(again) and "5 killed" not in wild_page.summary(again)
    assert (tmp_path / "out" / "wild.md").read_text() == wild_page.page(table)


def test_the_list_is_long_and_needs_no_package_for_most_of_it():
    assert len(ENTRIES) >= 80
    assert sum(not entry.package for entry in ENTRIES.values()) >= 80


def test_means_are_those_of_logits_where_an_output_is_a_softmax():
    row = keras.Input((3,))
    model = keras.Model(row, keras.layers.Softmax()(keras.layers.Dense(4)(row)))
    assert model.output.shape == (None, 4)
