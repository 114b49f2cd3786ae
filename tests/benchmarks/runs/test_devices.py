"""Training on several devices, four of which a processor can pretend to be: each batch or several networks are split."""

import json
import os
import subprocess
import sys

import keras
import pytest

from benchmarks import run
from benchmarks.records import store
from benchmarks.runs import worker
from benchmarks.runs.stages import StageCache
from tests import launches

FOUR = launches.on_jax(devices=4)
CODE = """
import contextlib, json, sys
import keras, numpy as np
import kmerge
from tests.shortcuts import take_shortcuts

take_shortcuts()
layers, distribution = keras.layers, keras.distribution
rng = np.random.default_rng(0)
x, y = rng.normal(size=(70, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 70)

def network(convolutional, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    mixed = layers.Conv2D(4, 3)(inputs) if convolutional else layers.Dense(5)(inputs)
    mixed = layers.Dropout(0.3, seed=seed)(layers.Flatten()(layers.BatchNormalization()(mixed)))
    model = keras.Model(inputs, layers.Dense(3)(mixed))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(True))
    return model

def spread(number):
    # The largest difference of networks that several devices train from the same ones on one, together there, too.
    ys, found = [rng.integers(0, 3, 64) for _ in range(number)], []
    for scope in (contextlib.nullcontext(), distribution.DataParallel(devices=distribution.list_devices()).scope()):
        models = [network(False, seed) for seed in range(number)]
        with scope:
            augments = [layers.GaussianNoise(0.1, seed=seed) for seed in range(number)]
            kmerge.fit_many(models, x[:64], ys, batch_size=16, epochs=2, augments=augments)
        found.append([np.concatenate([np.ravel(weight) for weight in model.get_weights()]) for model in models])
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(*found))

def trained(scope, convolutional):
    model = network(convolutional, 3)
    with scope:  # of 70 examples the last batch, of 6, cannot be split in four
        for start in (0,) if convolutional else (0, 2):
            history = kmerge.fit(model, x, y, batch_size=16, epochs=start + 2, initial_epoch=start, verbose=0,
                                 validation_data=(x[:16], y[:16]), augment=layers.GaussianNoise(0.1, seed=4))
    places = {len(variable.value.devices()) for variable in [*model.variables, *model.optimizer.variables]}
    return model.predict(x, verbose=0), history, places

found = []
for convolutional in (False, True):
    alone, history, places = trained(contextlib.nullcontext(), convolutional)
    split, other, wide = trained(distribution.DataParallel(devices=distribution.list_devices()).scope(), convolutional)
    found.append({
        "difference": float(np.abs(alone - split).max()),
        "losses": [history.history["val_loss"], other.history["val_loss"]],
        "places": [sorted(places), sorted(wide)],
        "program": other.params["program"],
    })
print(json.dumps([found, spread(5)]))
"""


def test_batches_and_networks_split_over_devices_train_as_on_one():
    environment = {**os.environ, **FOUR, **launches.hidden("tensorflow")}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=launches.ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    batches, difference = json.loads(done.stdout)
    assert difference < 1e-5
    for found, program in zip(batches, ("epoch", "step"), strict=True):
        assert found["difference"] < 1e-4 and found["program"] == program
        assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-4)
        assert found["places"] == [[1], [4]]


def test_a_launch_on_several_devices_is_of_its_own(tmp_path):
    suite, hidden = launches.variant(tmp_path, "sine"), launches.hidden("matplotlib", "tensorflow")
    environment = {**os.environ, **FOUR, **hidden}
    arguments = ("--suite", suite, "--scale", "0.001", "--examples", "320", "--backend", "jax", "--seeds", "1")
    arguments += ("--strategy", "one_model", *launches.places(tmp_path))
    status, out, err = launches.launch(*arguments, "--devices", "2", env=environment)
    assert status == run.DONE, out + err
    (row,) = launches.table_of(tmp_path / "out" / "variant" / "runs.csv")
    assert row["devices"] == "2" and float(row["test_last"]) > 0
    assert row["run"] not in launches.call(*arguments, "--dry-run")[1]
    status, _, err = launches.call(*arguments, "--devices", "2", "--together", "2")
    assert status == run.USAGE and "without --together" in err and "Leave out --together." in err


def test_more_devices_than_there_are_is_told(tmp_path):
    content = {"suite": "sine", "strategy": "one_model", "seed": 1, "backend": keras.backend.backend(), "devices": 99}
    with pytest.raises(ValueError, match="This run is for 99 devices; there are 1: cpu:0."):
        worker.train(store.RunFolder.of(tmp_path, content), StageCache(tmp_path))
