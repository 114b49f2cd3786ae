"""Prune in several steps, with training after each, in a way that goes on where it was killed.

    python -m examples.prune_in_steps [FOLDER]

Run it with a folder, kill it, and run it again: steps that are done are read from the folder.
"""

import sys
import tempfile

import keras

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 8
STEPS = 4

folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
train, test = digits()
keras.utils.set_random_seed(0)
model = compiled(network())
model.fit(*train, epochs=2 * EPOCHS, verbose=0)

result = kmerge.prune_iteratively(
    model,
    kmerge.Budget(multiply_accumulates=0.25),
    train=lambda small: small.fit(*train, epochs=EPOCHS, verbose=0),
    evaluate=lambda small: small.evaluate(*test, verbose=0, return_dict=True)["accuracy"],
    steps=kmerge.PruningSchedule(STEPS, "cubic"),
    folder=folder,
)
print(f"{model.count_params():,} weights: {model.evaluate(*test, verbose=0, return_dict=True)['accuracy']:.3f}")
print(result)
