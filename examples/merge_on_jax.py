"""Merge on JAX, with epochs that are one program each.

    KERAS_BACKEND=jax python -m examples.merge_on_jax
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 8

(images, labels), test = digits()
parents = []
for seed in (1, 2):
    keras.utils.set_random_seed(seed)
    parents.append(compiled(network()))
    kmerge.fit(parents[-1], images, labels, batch_size=64, epochs=EPOCHS)

big = compiled(kmerge.merge(*parents, sampling="batch"), optimizer=kmerge.gate_optimizer(keras.optimizers.Adam(3e-3)))
kmerge.fit(big, images, labels, batch_size=64, epochs=EPOCHS, callbacks=[kmerge.GatePressure()])
student = compiled(kmerge.compress(big), 1e-3)
kmerge.fit(student, images, labels, batch_size=64, epochs=EPOCHS)
accuracies = [model.evaluate(*test, verbose=0, return_dict=True)["accuracy"] for model in (*parents, student)]
print(f"{keras.backend.backend()}: parents {accuracies[0]:.3f} and {accuracies[1]:.3f}, student {accuracies[2]:.3f}")
