"""Merge three networks that know different things: each has seen three or four of ten digits.

    python -m examples.merge_three_parents

Afterwards there are only five labelled images of each digit. The rival is a new network trained on these alone, for as long.
"""

import keras
import numpy as np

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 20
FEW = 5

(images, labels), test = digits()
parents = []
for seed, known in enumerate(([0, 1, 2], [3, 4, 5], [6, 7, 8, 9])):
    keras.utils.set_random_seed(seed)
    seen = np.isin(labels, known)
    parents.append(compiled(network()))
    parents[-1].fit(images[seen], labels[seen], epochs=EPOCHS, verbose=0)

few = np.concatenate([np.flatnonzero(labels == digit)[:FEW] for digit in range(10)])
big = compiled(kmerge.merge(parents), optimizer=kmerge.gate_optimizer(keras.optimizers.Adam(3e-3)))
big.fit(images[few], labels[few], batch_size=10, epochs=EPOCHS, callbacks=[kmerge.GatePressure()], verbose=0)
student = compiled(kmerge.compress(big))
new = compiled(network())
for model, epochs in ((student, EPOCHS), (new, 2 * EPOCHS)):
    model.fit(images[few], labels[few], batch_size=10, epochs=epochs, verbose=0)

print(kmerge.merge_report(big))
accuracies = [model.evaluate(*test, verbose=0, return_dict=True)["accuracy"] for model in (*parents, student, new)]
print("parents {:.3f}, {:.3f} and {:.3f}; student {:.3f}; a new network {:.3f}".format(*accuracies))
