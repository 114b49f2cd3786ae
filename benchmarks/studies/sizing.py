"""What auto-sizing costs, and what it finds, on handwritten digits: `python -m benchmarks.studies.sizing`.

The run is that of the paper's net on scikit-learn's digits, repeated to 16x16 pixels: batch 16, Adam 4e-4, alpha 1e-4, 14
dynamic epochs from 100 units in each of five layers, and 4 static ones. One command prints, each in a process of its own:

    sizes and accuracy over the seeds      of the paper's restarted optimizer state and of the carried one
    compiles                               models built and compiled in all epochs
    dynamic / static                       of both: seconds of all dynamic epochs over those of warm static epochs at the sizes
                                           that each was trained with; after each dynamic epoch comes the static one
    memory                                 growth over 50 dynamic epochs
    JAX / TensorFlow                       seconds of the same run

Seconds are those of all cores together that the process was given, so that other work on the machine does not count.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.command_line import DONE, UsageError, command_parser, ended, positive_whole_number, seeds_of

_UNITS, _BATCH, _RATE, _ALPHA = 100, 16, 4e-4, 1e-4
_DYNAMIC, _STATIC = 14, 4
_LAYERS = ("conv1", "conv2", "conv3", "conv4", "dense")


def digits(seed: int = 0) -> tuple:
    """Training and validation data: 1,437 and 360 standardized images of 16x16 pixels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32").repeat(2, axis=1).repeat(2, axis=2)
    images = (images - images.mean()) / images.std()
    order = np.random.default_rng([seed, 6]).permutation(len(images))
    train, rest = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[rest], labels[rest])


def paper_net(units: dict | None = None) -> "keras.Model":  # noqa: F821
    """The paper's convolutional net; 100 units in each hidden layer, or those given by the layer's name."""
    import keras

    layers, units = keras.layers, units or dict.fromkeys(_LAYERS, _UNITS)
    options = dict(activation="selu", kernel_initializer="lecun_normal", padding="same")
    x = h = keras.Input((16, 16, 1))
    for name, strides, dropout in (("conv1", 1, 0), ("conv2", 2, 0.2), ("conv3", 1, 0), ("conv4", 2, 0.5)):
        h = layers.Conv2D(units[name], 3, strides, name=name, **options)(h)
        h = layers.Dropout(dropout)(h) if dropout else h
    h = layers.Flatten()(h)
    h = layers.Dense(units["dense"], "selu", kernel_initializer="lecun_normal", name="dense")(h)
    return keras.Model(x, layers.Dense(10, "softmax", name="out")(h))


def _compiled() -> dict:
    import keras

    return dict(optimizer=keras.optimizers.Adam(_RATE), loss="sparse_categorical_crossentropy", metrics=["accuracy"])


def run(seed: int, optimizer_state: str, dynamic: int, static: int, compare: bool = False) -> dict:
    """One run; its sizes, accuracy, compiles and the seconds of each epoch.

    With `compare` also those of a warm static epoch after each dynamic one, at the sizes with which that was trained.
    """
    import keras

    import kmerge

    keras.utils.set_random_seed(1 + seed)
    train, validation = digits(seed)
    sizer = kmerge.AutoSizer(paper_net(), alpha=_ALPHA, optimizer_state=optimizer_state, seed=seed)
    sizer.compile(**_compiled())
    static_epochs, seconds, warm = _StaticEpochs(train, validation), [], []

    def on_epoch_end(epoch, logs):
        nonlocal began
        seconds.append(time.process_time() - began)
        if compare and epoch < dynamic:
            warm.append(static_epochs.seconds(sizer.history_of_sizes[-1]["grown"]))
        began = time.process_time()

    began = time.process_time()
    history = sizer.fit(
        *train,
        batch_size=_BATCH,
        epochs=dynamic,
        static_epochs=static,
        validation_data=validation,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)],
        verbose=0,
    )
    return {
        "sizes": list(sizer.sizes.values()),
        "val_accuracy": history.history["val_accuracy"][-1],
        "best": max(history.history["val_accuracy"]),
        "compiles": sizer.compiles,
        "compile_seconds": sizer.compile_seconds,
        "seconds": seconds,
        "warm": warm,
    }


class _StaticEpochs:
    """Epochs, with validation, of networks of any sizes that do not change."""

    def __init__(self, train: tuple, validation: tuple):
        self._data = train
        self._options = dict(batch_size=_BATCH, validation_data=validation, verbose=0)
        self._models: dict[str, object] = {}

    def seconds(self, units: dict) -> float:
        """Of one epoch, once the program is there."""
        import kmerge

        if str(units) not in self._models:
            model = self._models[str(units)] = paper_net(units)
            model.compile(**_compiled())
            kmerge.fit(model, *self._data, **self._options)
        began = time.process_time()
        kmerge.fit(self._models[str(units)], *self._data, **self._options)
        return time.process_time() - began


def memory(epochs: int) -> dict:
    """Resident memory, in MB, after a tenth and after all of so many dynamic epochs on a part of the data."""
    import keras

    import kmerge

    (x, y), _ = digits()
    sizer = kmerge.AutoSizer(paper_net(dict.fromkeys(_LAYERS, 20)), alpha=3e-3)
    sizer.compile(**_compiled())
    found = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: found.append(_resident()))
    sizer.fit(x[:160], y[:160], batch_size=_BATCH, epochs=epochs, static_epochs=0, callbacks=[look], verbose=0)
    changes = len({str(record["sizes"]) for record in sizer.history_of_sizes})
    return {"resident": found, "compiles": sizer.compiles, "changes": changes}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


PARTS = {"run": run, "memory": memory}


def elsewhere(backend: str, part: str, *arguments: object) -> object:
    """What a part gives in a process of its own, on a backend."""
    command = [sys.executable, "-m", "benchmarks.studies.sizing", "--part", part, json.dumps(arguments)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(seeds: Sequence[int], dynamic: int, static: int, epochs: int, jax: bool) -> None:
    """Runs all parts and prints them."""
    print(
        f"{dynamic} dynamic and {static} static epochs; sizes of {', '.join(_LAYERS)}; validation accuracy; compiles; seconds"
    )
    runs = {}
    for state in ("restart", "carry"):
        rest = (state, dynamic, static)
        runs[state] = [elsewhere("tensorflow", "run", seed, *rest, seed == seeds[0]) for seed in seeds]
        for seed, found in zip(seeds, runs[state], strict=True):
            print(_line(f"{state}, seed {seed}", found), flush=True)
        sizes = np.median([found["sizes"] for found in runs[state]], axis=0).astype(int).tolist()
        accuracy = [found["val_accuracy"] for found in runs[state]]
        print(f"{state}, n = {len(seeds)}: median sizes {sizes}, accuracy {min(accuracy):.4f} to {max(accuracy):.4f}")
    for state, (found, *_) in runs.items():
        spent, warm = sum(found["seconds"][:dynamic]), sum(found["warm"])
        compiling = f"with {found['compile_seconds']:.1f} s of compiling, static epochs' too"
        print(f"dynamic / static, {state}, seed {seeds[0]}: {spent:.1f} s / {warm:.1f} s = {spent / warm:.2f}, {compiling}")
    first = runs["restart"][0]
    used = elsewhere("tensorflow", "memory", epochs)
    start, end = used["resident"][len(used["resident"]) // 5], used["resident"][-1]
    print(
        f"memory: {end - start:+.1f} MB from dynamic epoch {1 + epochs // 5} to {epochs}, {start:.0f} to {end:.0f} MB, with "
        f"{used['changes']} different sizes and {used['compiles']} compiles"
    )
    if jax:
        other = elsewhere("jax", "run", seeds[0], "restart", dynamic, static)
        print(_line(f"restart, seed {seeds[0]}, on JAX", other))
        print(f"JAX / TensorFlow: {sum(other['seconds']):.1f} s / {sum(first['seconds']):.1f} s", end=" ")
        print(f"= {sum(other['seconds']) / sum(first['seconds']):.2f}")


def _line(name: str, found: dict) -> str:
    seconds = f"{sum(found['seconds']):.1f} s"
    accuracy = f"{found['val_accuracy']:.4f} (best {found['best']:.4f})"
    return f"{name}: {found['sizes']} {accuracy} {found['compiles']} compiles {seconds}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__, "--seeds", seeds="5")
    for name, epochs, help in (
        ("--dynamic", _DYNAMIC, "dynamic epochs of a run"),
        ("--static", _STATIC, "static epochs of a run"),
        ("--memory-epochs", 50, "dynamic epochs of the look at memory"),
    ):
        parser.add_argument(name, metavar="N", type=positive_whole_number, default=epochs, help=f"{help} (default: {epochs})")
    parser.add_argument("--no-jax", action="store_true", help="leave the comparison of backends out")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "ARGUMENTS"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        print(json.dumps(PARTS[given.part[0]](*json.loads(given.part[1])), default=float))
        return DONE
    try:
        seeds = seeds_of(given.seeds, range(1))
    except UsageError as error:
        return ended(parser, error)
    report(seeds, given.dynamic, given.static, given.memory_epochs, not given.no_jax)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
