"""The command line: what it writes is what the verbs return, a recipe repeats it, and wrong input loses nothing."""

from argparse import Namespace
from unittest import mock

import keras
import numpy as np
import pytest
import yaml

import kmerge
from kmerge import pruning
from kmerge.commands import main
from kmerge.commands.training import training_arguments
from tests.models import randomize
from tests.programs import without_programs


@keras.saving.register_keras_serializable("commands")
class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of classes, one compiled, and examples to read and to measure on."""
    folder = tmp_path_factory.mktemp("commands")
    rng = np.random.default_rng(0)
    for seed, name in enumerate("ab"):
        keras.utils.set_random_seed(seed)
        stack = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.BatchNormalization(name="norm")]
        model = keras.Sequential([keras.Input((4,)), *stack, keras.layers.Dense(3, name="logits")], name="net")
        randomize(model, seed)
        if name == "a":
            model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        model.save(folder / f"{name}.keras")
    stack = [keras.layers.Dense(6, "relu", name=name) for name in ("first", "second", "third")]
    keras.Sequential([keras.Input((4,)), *stack, keras.layers.Dense(1, name="value")], name="values").save(folder / "c.keras")
    own = OwnStep(*(lambda m: (m.inputs, m.outputs))(keras.models.load_model(folder / "c.keras")))
    own.compile("sgd", "mse")
    own.save(folder / "own.keras")
    lambdas = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(3)])
    lambdas.save(folder / "code.keras")
    for name in ("data", "test"):
        np.savez(folder / f"{name}.npz", x=rng.normal(size=(20, 4)).astype("float32"), y=rng.integers(0, 3, 20))
    np.savez(folder / "pickled.npz", x=np.array([object()] * 4))
    np.savez(folder / "narrow.npz", x=np.zeros((4, 3)), y=np.zeros(4))
    np.savez(folder / "uneven.npz", x=np.zeros((4, 4)), y=np.zeros(3))
    (folder / "broken.keras").write_bytes(b"not a model")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def run(line):
        status = main(line.split())
        return status, capsys.readouterr()

    return run


def weights(path):
    return keras.models.load_model(path).get_weights()


def test_what_prune_writes_is_what_the_verb_returns_and_its_recipe_makes_it_again(run, folder):
    status, _ = run("prune a.keras --budget .6 --of units --importance random --seed 3 --test test.npz --out small.keras")
    assert status == 0
    expected = kmerge.prune(
        keras.models.load_model(folder / "a.keras"), "random", budget=kmerge.Budget(units=0.6), seed=3
    )
    for value, other in zip(weights("small.keras"), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    assert run("run small.recipe.yaml --out again.keras")[0] == 0
    for value, other in zip(weights("again.keras"), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    head, _, page = (folder / "small.card.md").read_text().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(head) == {"library_name": "keras", "tags": ["keras", "kmerge", "prune"]}
    table = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("|")]
    rows = {name: values[:-1] for _, name, *values in table}
    assert rows["`hidden`"] == ["8", "4"]
    assert rows["parameters"] == ["99", f"{expected.count_params()}"]
    assert 0 <= float(rows["accuracy"][1]) <= 1 and "--test test.npz --budget .6" in page


IMPORTANCE = """
import kmerge, numpy
kmerge.register_importance("little", lambda ws: ws.sums(lambda weight: 1 / (1 + numpy.abs(weight.array))))
"""


def test_all_that_prune_can_be_asked_for_reaches_the_verb_and_the_recipe(run, folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "importance_of_tests.py").write_text(IMPORTANCE)
    asked = "--importance little --import importance_of_tests --import math --selection global --normalization max"
    asked += " --minimum first=2 --minimum second=.5 --maximum second=5 --exclude third --compensate"
    with mock.patch.dict(pruning.IMPORTANCES):
        status, printed = run(f"prune c.keras --data data.npz --budget .5 {asked} --out asked.keras")
        assert status == 0, printed.err
        assert run("run asked.recipe.yaml --out asked_again.keras")[0] == 0
        model, x = keras.models.load_model(folder / "c.keras"), np.load(folder / "data.npz")["x"]
        options = dict(budget=0.5, selection="global", normalization="max", data=x, compensate=True, exclude=["third"])
        options |= dict(minimum={"first": 2, "second": 0.5}, maximum={"second": 5})
        expected = kmerge.prune(model, "little", **options).get_weights()
    for name in ("asked", "asked_again"):
        for value, other in zip(weights(f"{name}.keras"), expected, strict=True):
            np.testing.assert_array_equal(value, other)
    assert len(expected[0][0]) != 6 and len(expected[2][0]) <= 5 and len(expected[4][0]) == 6


def test_prune_in_steps_trains_after_each(run, folder):
    line = "prune c.keras --data data.npz --budget .5 --steps 2 --epochs 1 --loss mse --learning-rate .01 --out steps.keras"
    with without_programs():
        status, printed = run(line)
    assert status == 0, printed.err
    assert "step 1: parameters" in printed.out and "step 2: parameters" in printed.out
    small = keras.models.load_model(folder / "steps.keras")
    assert small.optimizer.iterations == 1 and float(small.optimizer.learning_rate) == pytest.approx(0.01)
    assert kmerge.parameters(small) <= 0.5 * kmerge.parameters(keras.models.load_model(folder / "c.keras"))


def test_merge_writes_the_big_student_or_trains_it_and_cuts_back(run):
    assert run("merge a.keras b.keras --sampling batch --out big.keras")[0] == 0
    status, printed = run("compress big.keras --out cut.keras")
    assert status == 0 and "note: The gates of this big student were never trained" in printed.err
    with without_programs():
        assert run("merge a.keras b.keras --data data.npz --epochs 2 --fine-tune 1 --out student.keras")[0] == 0
    shapes = [weight.shape for weight in weights("a.keras")]
    assert [w.shape for w in weights("cut.keras")] == [w.shape for w in weights("student.keras")] == shapes
    assert not np.array_equal(weights("student.keras")[0], weights("cut.keras")[0])


def test_a_model_that_was_never_trained_is_read_without_a_note(run, folder):
    model = keras.models.load_model(folder / "c.keras")
    model.compile("adam", "mse")
    model.save(folder / "fresh.keras")
    status, said = run("explain fresh.keras")
    assert status == 0 and said.err == ""


def test_explain_prints_and_draws(run, folder):
    status, printed = run("explain a.keras --plot spaces.svg")
    assert status == 0 and "hidden" in printed.out and (folder / "spaces.svg").read_text().startswith("<svg")


def test_compare_prints_what_the_verb_says(run, folder):
    status, printed = run("compare a.keras b.keras --data test.npz --metric sparse_categorical_accuracy")
    with np.load(folder / "test.npz") as test:
        data = test["x"], test["y"]
    models = [keras.models.load_model(folder / f"{name}.keras") for name in "ab"]
    expected = kmerge.compare(*models, data, metric="sparse_categorical_accuracy")
    assert status == 0 and printed.out == f"{expected}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prune nowhere.keras --budget .5 --out new.keras", "nowhere.keras"),
        ("prune broken.keras --budget .5 --out new.keras", "cannot be loaded"),
        ("prune code.keras --budget .5 --out new.keras", "--trust-code"),
        ("prune a.keras --budget half --out new.keras", "--budget"),
        ("prune a.keras --budget .5 --out new.h5", "ends in .keras"),
        ("prune a.keras --budget .5 --out nowhere/new.keras", "in a folder that is there"),
        ("prune a.keras --budget .5 --out a.keras", "--overwrite"),
        ("prune a.keras --budget .5 --importance taylor --out new.keras", "data"),
        ("prune a.keras --budget .5 --test pickled.npz --out new.keras", "cannot be read"),
        ("prune a.keras --budget .5 --test uneven.npz --out new.keras", "equally many"),
        ("prune a.keras --budget .5 --import no_such_module --out new.keras", "no_such_module"),
        ("prune a.keras --budget .5 --steps 2 --out new.keras", "--steps to be 1 without --epochs"),
        ("prune a.keras --budget .5 --compensate --out new.keras", "--compensate: expected --data"),
        ("prune a.keras --budget .5 --epochs 1 --out new.keras", "--epochs: expected --data"),
        ("prune own.keras --budget .5 --epochs 1 --data data.npz --out new.keras", "OwnStep with its own train_step"),
        ("prune a.keras --budget .5 --minimum some --out new.keras", "--minimum to be a share such as .5, or a whole number"),
        ("prune a.keras --budget .5 --maximum 4 --maximum 5 --out new.keras", "--maximum to be one number, or NAME=NUMBER"),
        ("prune a.keras --budget .5 --exclude nothing --out new.keras", "nothing"),
        ("merge a.keras --out new.keras", "two models or more"),
        ("merge a.keras b.keras --epochs 1 --out new.keras", "--data"),
        ("merge b.keras a.keras --epochs 1 --data data.npz --out new.keras", "--loss"),
        ("merge b.keras a.keras --epochs 1 --data data.npz --loss nothing --out new.keras", "--loss to be"),
        ("merge a.keras b.keras --epochs 1 --data narrow.npz --out new.keras", "--data to be batches of shape"),
        ("prune a.keras --budget .5 --test narrow.npz --out new.keras", "--test: expected"),
        ("prune a.keras --budget .5 --out a.keras --overwrite", "another file than the models"),
        ("compress a.keras --out new.keras", "big student"),
        ("compare a.keras b.keras --data pickled.npz", "cannot be read"),
        ("compare a.keras b.keras --data test.npz --metric no_such_metric", "no_such_metric"),
        ("explain a.keras --plot spaces.png", "--plot to be a file that ends in .svg"),
        ("run nothing.yaml", "cannot be read"),
    ],
)
def test_wrong_input_is_told_and_nothing_is_written(run, folder, line, said):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, printed = run(line)
    assert status == 2 and said in printed.err and not printed.out
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("option", ["--epochs -1", "--fine-tune 1.5", "--batch-size 0", "--seed x"])
def test_numbers_out_of_range_are_told_before_anything_is_read(run, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        run(f"merge a.keras b.keras --out new.keras {option}")
    assert f"{option.split()[0]}: expected a whole number of at least" in capsys.readouterr().err


def test_training_is_that_of_the_file_but_for_what_is_asked_for(folder):
    model = keras.models.load_model(folder / "a.keras")
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule, momentum=0.9))
    model.compile(optimizer, "mse", loss_weights=[0.5], weighted_metrics=["mae"], jit_compile=False)
    found = training_arguments(model, Namespace(loss=None, learning_rate=0.25))
    assert type(found["optimizer"]) is keras.optimizers.SGD and found["optimizer"].momentum == 0.9
    assert float(found["optimizer"].learning_rate) == 0.25
    assert found["loss"] == "mse" and found["loss_weights"] == [0.5] and found["weighted_metrics"] == ["mae"]
    assert found["jit_compile"] is False
    assert training_arguments(model, Namespace(loss="mae", learning_rate=None))["loss"] == "mae"


def test_a_recipe_refuses_another_model(run, folder):
    assert run("prune a.keras --budget .5 --out mine.keras")[0] == 0
    recipe = folder / "mine.recipe.yaml"
    recipe.write_text(recipe.read_text().replace("a.keras", "b.keras"))
    status, printed = run("run mine.recipe.yaml --out new.keras")
    assert status == 2 and "another one" in printed.err
