"""Prune a pretrained network that was fitted to a new task, then fine-tune it.

    python -m examples.prune_a_pretrained_network

The weights of ImageNet are downloaded once; the task is digits, enlarged.
"""

import keras
import numpy as np

import kmerge
from examples.digits import compiled, digits

WEIGHTS, SIZE, EPOCHS, EXAMPLES = "imagenet", 96, 4, 1400

(images, labels), (test_images, test_labels) = digits()


def photographs(images: np.ndarray) -> np.ndarray:
    """Digits as the network expects photographs: three channels from -1 to 1."""
    return 2 * np.asarray(keras.ops.image.resize(np.repeat(images, 3, axis=-1), (SIZE, SIZE))) - 1


x_train, y_train = photographs(images[:EXAMPLES]), labels[:EXAMPLES]
x_test, y_test = photographs(test_images[:EXAMPLES]), test_labels[:EXAMPLES]

base = keras.applications.MobileNetV2((SIZE, SIZE, 3), alpha=0.35, include_top=False, weights=WEIGHTS, pooling="avg")
model = compiled(keras.Model(base.input, keras.layers.Dense(10, name="digits")(base.output)), 1e-3)
model.fit(x_train, y_train, epochs=EPOCHS, verbose=0)

# The stem stays whole, and no layer keeps less than a quarter.
budget = kmerge.Budget(multiply_accumulates=0.5)
small = kmerge.prune(model, budget=budget, exclude=["Conv1"], minimum=0.25, multiple=4, compile=True)
small.fit(x_train, y_train, epochs=EPOCHS, verbose=0)
for name, net in (("whole", model), ("pruned", small)):
    accuracy = net.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    print(f"{name}: {kmerge.multiply_accumulates(net):,} multiply-accumulates, accuracy {accuracy:.3f}")
