"""Merge two networks of other classes and other widths into one that knows the classes of both.

    python -m examples.merge_other_heads

`kmerge.compare` says beforehand how alike the two are below their heads, space by space.
"""

import keras
import numpy as np

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 10

(images, labels), (test_images, test_labels) = digits()
low, high = labels < 6, labels >= 6
parents = []
for seed, seen, classes, width in ((1, low, 6, 16), (2, high, 4, 12)):
    keras.utils.set_random_seed(seed)
    parents.append(compiled(network(classes, width)))
    parents[-1].fit(images[seen], labels[seen] - labels[seen].min(), epochs=EPOCHS, verbose=0)

# Heads that are alike in place of their own; they do not count here.
below = [keras.Model(parent.inputs, keras.layers.Dense(1)(parent.layers[-2].output)) for parent in parents]
print(kmerge.compare(*below, test_images))

# The first six logits of the student are those of the first parent, the other four those of the second.
big = compiled(kmerge.merge(*parents, heads="join"), optimizer=kmerge.gate_optimizer(keras.optimizers.Adam(3e-3)))
big.fit(images, labels, epochs=EPOCHS, callbacks=[kmerge.GatePressure()], verbose=0)
student = compiled(kmerge.compress(big), 1e-3)
student.fit(images, labels, epochs=EPOCHS, verbose=0)

assert student.output_shape == (None, 10) and student.get_layer("stem").filters == 16
accuracy = np.mean(student.predict(test_images, verbose=0).argmax(-1) == test_labels)
print(f"one network of ten classes, of parents of six and four: {accuracy:.3f}")

