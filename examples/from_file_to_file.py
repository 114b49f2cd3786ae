"""From file to file: what `kmerge` does on the command line, with a card and a recipe beside each model.

    python -m examples.from_file_to_file [FOLDER]
"""

import os
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from examples.digits import compiled, digits, network
from kmerge.commands import main

EPOCHS = 4

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
os.chdir(folder)
train, test = digits()
for seed, name in ((1, "first"), (2, "second")):
    keras.utils.set_random_seed(seed)
    model = compiled(network())
    model.fit(*train, epochs=EPOCHS, verbose=0)
    model.save(folder / f"{name}.keras")
for name, (images, labels) in (("train", train), ("test", test)):
    np.savez(folder / f"{name}.npz", x=images, y=labels)


def kmerge(*arguments: str) -> None:
    """Does what the command does that a shell would call."""
    print("$ kmerge", *arguments)
    assert main(arguments) == 0


kmerge("compare", "first.keras", "second.keras", "--data", "test.npz", "--metric", "sparse_categorical_accuracy")
kmerge("prune", "first.keras", "--budget", "0.5", "--test", "test.npz", "--out", "small.keras")
training = ["--data", "train.npz", "--epochs", str(EPOCHS), "--fine-tune", str(EPOCHS), "--test", "test.npz"]
kmerge("merge", "first.keras", "second.keras", *training, "--out", "student.keras")
kmerge("run", "small.recipe.yaml", "--out", "again.keras")
print((folder / "student.card.md").read_text())
