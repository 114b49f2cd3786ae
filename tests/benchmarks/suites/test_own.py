"""Data, networks and strategies of one's own, from files beside a suite's, with a hash of what they are in each run."""

import sys

import numpy as np
import pytest

from benchmarks.checkout import ROOT
from benchmarks.command_line import UsageError
from benchmarks.data.own_data import load_own
from benchmarks.own_code import OwnCodeError, digest_of_code, imported
from benchmarks.records.store import RunFolder
from benchmarks.runs import planning, worker
from benchmarks.runs.stages import StageCache
from benchmarks.strategies import registry
from benchmarks.suites.suite import SuiteError, load_suite
from tests.documents import blocks

NETS = '''
import keras
from tested_parts import hidden

def small(input_shape, outputs, seed, *, widen=1, units=4):
    x = inputs = keras.Input(input_shape)
    x = hidden(keras.layers.Flatten()(x), widen * units)
    return keras.Model(inputs, keras.layers.Dense(outputs)(x))

def other(input_shape, outputs, seed, *, widen=1):
    return small(input_shape, outputs + 1, seed)

def certain(input_shape, outputs, seed):
    model = small(input_shape, outputs, seed)
    return keras.Model(model.input, keras.layers.Activation("softmax", name="sure")(model.output))

def untrained(task, budget, seed, stages):
    from baselines.protocol.strategy import Outcome
    model = task.build(seed)
    program = {"compile_seconds": 0.0, "together": 1}
    how = {"epochs": 1, "flops": 1.0, "seconds": 0.0, "teacher_epoch_equivalents": 1.0}
    return Outcome(model=model, best_model=model, history=[], programs={"single": program}, extras={}, **how)

def draw(seed):
    import numpy as np
    x = np.random.default_rng(seed).normal(size=(30, 2))
    return {"x_train": x[:20], "y_train": x[:20, 0], "x_test": x[20:], "y_test": x[20:, 0]}
'''
PARTS = '''
import keras

def hidden(x, units):
    return keras.layers.Dense(units)(x)
'''
SUITE = '''
based_on = "digits"
description = "mine"
dataset = "mine.npz"
strategies = ["tested_nets:untrained", "one_model"]
[architecture]
name = "tested_nets:small"
units = 3
'''


def _arrays():
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(3), 10)
    return {"x": rng.integers(0, 256, (30, 4, 4, 1), "uint8"), "y": y}


def _parts(x, y, cut=20):
    return {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}


@pytest.fixture
def mine(tmp_path):
    """The path of a suite's file beside which its network, strategy and data are."""
    (tmp_path / "tested_nets.py").write_text(NETS)
    (tmp_path / "tested_parts.py").write_text(PARTS)
    np.savez(tmp_path / "mine.npz", **_parts(**_arrays()))
    (tmp_path / "mine.toml").write_text(SUITE)
    yield tmp_path / "mine.toml"
    for name in ("tested_nets", "tested_parts"):
        sys.modules.pop(name, None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def test_a_run_of_a_strategy_a_network_and_data_of_ones_own(mine, tmp_path):
    import keras

    suite = load_suite(mine)
    configuration = {"suite": suite.name, "strategy": suite.strategies[0], "seed": 1, "scale": 1.0, "examples": None}
    configuration |= {"backend": keras.backend.backend(), "definition": suite.definition}
    run = RunFolder.of(tmp_path / "out", {**configuration, **suite.settings_of(suite.strategies[0])})
    run.create({"suite": str(mine), "data_dir": None, "cache_dir": str(tmp_path)})
    result, _ = worker.train(run, StageCache(tmp_path / "stages"))
    assert result["parameters"] == 16 * 3 + 3 + 3 * 3 + 3 and 0 <= result["test_last"] <= 1
    task = suite.task(1, None, tmp_path)
    first, again, other = (task.build(seed).get_weights()[0] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    (tmp_path / "tested_parts.py").write_text("# changed\n" + (tmp_path / "tested_parts.py").read_text())
    with pytest.raises(ValueError, match="was changed after this run was planned"):
        worker.train(run, StageCache(tmp_path / "stages"))


@pytest.mark.parametrize("file", ["tested_nets.py", "tested_parts.py", "mine.npz", ""])
def test_a_file_that_changes_makes_other_runs(mine, tmp_path, file):
    def names():
        suite = load_suite(mine)
        return [RunFolder.of(tmp_path, {"d": suite.definition, **suite.settings_of(s)}).path.name for s in suite.strategies]

    before = names()
    if file == "mine.npz":
        np.savez(tmp_path / file, **_parts(**_arrays(), cut=21))
    elif file:
        (tmp_path / file).write_text((tmp_path / file).read_text() + "\n# changed\n")
    else:
        (tmp_path / "nobody_imports_it.py").write_text("1")
    assert [a != b for a, b in zip(before, names(), strict=True)] == [file != ""] * 2
    assert "own" not in load_suite(mine, with_own=False).definition and "own" not in load_suite("digits").definition


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("tested_nets:small", "no_such_nets:small", "expected a module that Python finds from .*Put no_such_nets.py there"),
        ("tested_nets:small", "tested_nets:large", "expected a function or class that .*tested_nets.py defines"),
        ("tested_nets:small", "tested_nets:", r"architecture.name: expected one of das_cnn.*received 'tested_nets:'"),
        ("units = 3", "units = {a = 1}", "architecture.units: expected an option"),
        ("mine.npz", "other.npz", "expected a file of arrays, received .other.npz.. .*other.npz cannot be read"),
        ("mine.npz", "photos/", "expected a folder with train/CLASS/ and test/CLASS/"),
        ("mine.npz", "mine.csv", "dataset: expected one of cifar10.*received 'mine.csv'"),
        ("description", 'standardize_by = "pixel"\ndescription', "standardize_by: expected a data set of the benchmark"),
    ],
)
def test_what_is_not_there_is_refused_when_the_suite_is_read(mine, old, new, message):
    mine.write_text(SUITE.replace(old, new))
    with pytest.raises(SuiteError, match=message.replace("[", r"\[")):
        load_suite(mine)


@pytest.mark.parametrize(
    "name, status", [("other.npz", 3), ("photos/", 3), ("no_such:data", 3), ("tested_nets:no", 3), (4, 2)]
)
def test_data_of_ones_own_that_is_not_there_has_the_status_of_missing_data(mine, name, status):
    mine.write_text(SUITE.replace('"mine.npz"', f'"{name}"' if isinstance(name, str) else str(name)))
    with pytest.raises(UsageError) as error:
        planning.named_suite(str(mine))
    assert error.value.status == status


def test_a_suite_may_name_the_folder_of_what_is_ones_own(mine, tmp_path):
    before = load_suite(mine)
    (tmp_path / "elsewhere").mkdir()
    suite = tmp_path / "elsewhere" / "mine.toml"
    suite.write_text('own_folder = ".."\n' + SUITE)
    found = load_suite(suite)
    assert found.definition == before.definition and found.folder.resolve() == tmp_path
    assert found.settings_of("tested_nets:untrained") == before.settings_of("tested_nets:untrained")


def test_modules_of_one_name_in_two_folders_are_told_apart(tmp_path):
    """As in a campaign, which launches one suite after the other in one process."""
    digests = []
    for name in "aba":
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "of_two_folders.py").write_text(f"def build():\n    return {name!r}\n")
        digests.append(digest_of_code("of_two_folders:build", tmp_path / name))
    assert digests[0] == digests[2] != digests[1]


def test_the_page_on_it_makes_a_suite_that_trains_its_network(tmp_path):
    page = ROOT / "docs" / "benchmark" / "your_own.md"
    (code,), (suite,) = blocks(page, "python"), blocks(page, "toml")
    (tmp_path / "my_networks.py").write_text(code.text)
    (tmp_path / "my_suite.toml").write_text(suite.text)
    np.savez(tmp_path / "my_data.npz", **_parts(**_arrays()))
    try:
        task = load_suite(tmp_path / "my_suite.toml").task(1, None, tmp_path)
        assert [task.build(1, widen=widen).count_params() for widen in (1, 2)] == [17 * 16 + 17 * 3, 17 * 32 + 33 * 3]
    finally:
        sys.modules.pop("my_networks", None)
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "units", "message"),
    [
        ("other", "", r"expected a network from .* to \(None, 3\), received .*\(None, 4\)"),
        ("certain", "", r"expected a network that ends in logits, received .*layer sure.*Leave the softmax out"),
        ("small", "unitz = 3", "expected the options of its function.*received .*unitz.*unexpected keyword"),
    ],
)
def test_a_network_of_another_shape_or_end_and_options_that_it_lacks_are_refused(mine, tmp_path, name, units, message):
    mine.write_text(SUITE.replace("tested_nets:small", f"tested_nets:{name}").replace("units = 3", units))
    with pytest.raises(SuiteError, match=f"tested_nets:{name}: {message}"):
        load_suite(mine).task(1, None, tmp_path)


def test_arrays_become_three_parts(mine, tmp_path):
    x, y = _arrays().values()
    found = load_own("mine.npz", tmp_path, 0, None, False, "a")
    data = found.data
    assert (len(data.x_train), len(data.x_val), len(data.x_test), found.outputs, found.examples) == (18, 2, 10, 3, 18)
    assert data.x_train.dtype == "float32" and data.y_train.dtype == "int32" and not data.x_train.flags.writeable
    np.testing.assert_allclose([data.x_train.mean(), data.x_train.std()], [0, 1], atol=1e-5)
    pixel = data.x_test - (x[20:].astype("float64") / x[:20].std())
    assert np.ptp(pixel) < 0.5 and len(found.black) == 1
    assert len(load_own("mine.npz", tmp_path, 0, 1, False, "a").data.x_val) == 1
    with pytest.raises(ValueError, match="mine.npz has 18 training examples; asked for 19"):
        load_own("mine.npz", tmp_path, 0, 19, False, "a")
    parts = {**_parts(x / 255, y), "x_val": x[:5] / 255, "y_val": y[:5]}
    np.savez(tmp_path / "mine.npz", **parts)
    taken = load_own("mine.npz", tmp_path, 0, None, False, "b")
    assert len(taken.data.x_train) == 20 and taken.black == ()
    np.testing.assert_array_equal(taken.data.x_val, parts["x_val"].astype("float32"))
    one, two = (load_own("tested_nets:draw", tmp_path, seed, None, True, "c").data for seed in (1, 2))
    assert one.y_train.shape == (18, 1) and (one.x_test != two.x_test).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x_val": np.zeros((2, 4, 4, 1), "uint8")}, "both or none of x_val, y_val"),
        ({"z": np.zeros(3)}, "expected arrays x_train"),
        ({"y_test": np.zeros(9, "int64")}, "y_test: expected 10 targets, at least one, received 9"),
        ({"y_train": np.zeros(20)}, "y_train: expected classes, whole numbers from 0, in 1 dimensions, received 'float64"),
        ({"y_train": np.full(20, -1)}, "y_train: expected classes from 0, received -1"),
        ({"x_test": np.zeros((10, 4, 4, 2), "uint8")}, "test: expected examples as in the training part"),
        ({"x_train": np.full((20, 4), np.nan)}, "x_train: expected finite numbers"),
        ({"x_train": np.array(["a"] * 20)}, "x_train: expected numbers in 2 or 3 or 4 or 5 dimensions"),
        ({"x_train": np.array([{}] * 20)}, "cannot be read as an npz file of arrays without Python objects"),
    ],
)
def test_arrays_that_no_network_can_be_trained_on_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "bad.npz", **{**_parts(**_arrays()), **change})
    with pytest.raises(ValueError, match=message):
        load_own("bad.npz", tmp_path, 0, None, False, message)


def test_a_folder_of_images_is_a_data_set(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x, y = _arrays().values()
    for number, (pixels, label) in enumerate(zip(x[..., 0], y, strict=True)):
        place = tmp_path / "photos" / ("train" if number < 20 else "test") / f"class_{label}"
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(place / f"{number:02}.png")
    data = load_own("photos/", tmp_path, 0, None, False, "photos").data
    np.savez(tmp_path / "same.npz", **_parts(x, y))
    same = load_own("same.npz", tmp_path, 0, None, False, "same").data
    for part in ("train", "val", "test"):
        own, arrays = (sorted(map(bytes, getattr(found, f"x_{part}"))) for found in (data, same))
        assert own == arrays
    image.new("L", (5, 4)).save(tmp_path / "photos" / "test" / "class_0" / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png: expected an image of shape \(4, 4\), received \(4, 5\)"):
        load_own("photos/", tmp_path, 0, None, False, "odd")


def test_installed_packages_add_strategies_by_their_entry_points(mine, tmp_path, monkeypatch):
    about = tmp_path / "tested_nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tested-nets\nVersion: 1.0\n")
    points = f"[{registry.GROUP}]\nuntrained_one = tested_nets:untrained\none_model = tested_nets:untrained\n"
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.installed.cache_clear()
    try:
        assert registry.installed() == {"untrained_one": "tested_nets:untrained"}  # ours keep their names
        assert "  untrained_one (tested_nets:untrained)" in planning.listing()
        found = registry.strategy_named("untrained_one", tmp_path)
        assert found.__name__ == "untrained" and registry.own_source("one_model") is None
        mine.write_text(SUITE.replace("tested_nets:untrained", "untrained_one"))
        suite = load_suite(mine)
        assert suite.settings_of("untrained_one") == {"code": digest_of_code("tested_nets:untrained", tmp_path)}
    finally:
        registry.installed.cache_clear()


def test_a_module_of_a_package_counts_whole_and_is_not_run_to_be_hashed(tmp_path, monkeypatch):
    package = tmp_path / "tested_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemError('run')")
    (package / "deep" / "__init__.py").write_text("def here(): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = digest_of_code("tested_package.deep:here", tmp_path)
    (package / "far.py").write_text("1")
    assert digest_of_code("tested_package.deep:here", tmp_path) != before
    with pytest.raises(OwnCodeError, match="tested_package.deep:here cannot be imported: SystemError: run"):
        imported("tested_package.deep:here", tmp_path)
    with pytest.raises(OwnCodeError, match="expected a module of the package tested_package"):
        digest_of_code("tested_package.shallow:here", tmp_path)
    (package / "far.py").write_text("def broken(:")
    with pytest.raises(OwnCodeError, match="far.py cannot be read as Python"):
        digest_of_code("tested_package.far:here", tmp_path)
