"""Prune to a share of the time that a prediction takes on this machine, or to a size on disk.

    python -m examples.prune_to_a_latency
"""

import keras

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 8
WIDTH = 128

train, test = digits()
keras.utils.set_random_seed(0)
model = compiled(network(width=WIDTH))
model.fit(*train, epochs=EPOCHS, verbose=0)

for budget in (kmerge.Budget(latency=0.6), kmerge.Budget(file_bytes=0.5)):
    choice = kmerge.choose_units(model, budget=budget)
    print(choice)
    small = compiled(kmerge.select(model, choice), 1e-3)
    small.fit(*train, epochs=EPOCHS, verbose=0)
    accuracies = [net.evaluate(*test, verbose=0, return_dict=True)["accuracy"] for net in (model, small)]
    print("accuracy {:.3f}, then {:.3f}".format(*accuracies))
