"""Makes the files of this folder: `python -m tests.saved.recipe FOLDER`, with the version that is to be remembered.

Those here are of the last version whose code lay in one flat folder. One word in them is younger: the penalty in sizer.npz
says `normalize` where that version wrote `normalise`.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import kmerge

IMAGES = np.random.default_rng(7).normal(size=(8, 6, 6, 2)).astype("float32")
LABELS = np.arange(8) % 3


def network(seed):
    keras.utils.set_random_seed(seed)
    image = keras.Input((6, 6, 2), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = stem = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="block")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Add(name="add")([stem, x]))
    return keras.Model(image, keras.layers.Dense(3, name="logits")(x), name="network")


def compiled(model, optimizer):
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def make(folder):
    big = kmerge.merge(*(compiled(network(seed), "sgd") for seed in (1, 2)), seed=3)
    compiled(big, kmerge.gate_optimizer(keras.optimizers.SGD(0.1)))
    big.fit(IMAGES, LABELS, epochs=6, verbose=0, callbacks=[kmerge.GatePressure()])
    student = kmerge.compress(big)
    sizer = kmerge.AutoSizer(network(4), alpha=1e-2, min_growth=2)
    sizer.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sizer.fit(IMAGES, LABELS, epochs=3, static_epochs=1, verbose=0)
    big.save(folder / "big_student.keras")
    student.save(folder / "student.keras")
    sizer.save(folder / "sizer.npz")
    outputs = {"big_student": big, "student": student, "sizer": sizer.model}
    np.savez(folder / "outputs.npz", **{name: model.predict(IMAGES, verbose=0) for name, model in outputs.items()})


if __name__ == "__main__":
    make(Path(sys.argv[1]))
