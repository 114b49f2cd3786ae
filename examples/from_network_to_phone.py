"""From a trained network to a file for a phone: pruned, then quantized to 8 bits by TFLite.

    python -m examples.from_network_to_phone

Each step shows its size, its time and its accuracy.
"""

import time

import keras
import numpy as np
import tensorflow as tf

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 8
WIDTH = 64

train, test = digits()
keras.utils.set_random_seed(0)
model = compiled(network(width=WIDTH))
model.fit(*train, epochs=EPOCHS, verbose=0)
small = compiled(kmerge.prune(model, budget=kmerge.Budget(multiply_accumulates=0.3), multiple=4), 1e-3)
small.fit(*train, epochs=EPOCHS, verbose=0)


def tflite(model: keras.Model, bits: int) -> bytes:
    """The model as a TFLite file of 32-bit floats or, by the range of values on training images, of 8-bit integers."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if bits == 8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in train[0][:100])
    return converter.convert()


def measured(file: bytes) -> tuple[float, float]:
    """The accuracy of a TFLite file on the test images, and its milliseconds for one of them."""
    interpreter = tf.lite.Interpreter(model_content=file)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    right, start = 0, time.perf_counter()
    for image, label in zip(*test, strict=True):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        right += np.argmax(interpreter.get_tensor(sink["index"])) == label
    return right / len(test[1]), 1e3 * (time.perf_counter() - start) / len(test[1])


for name, net, bits in (("trained", model, 32), ("pruned", small, 32), ("pruned, 8 bits", small, 8)):
    file = tflite(net, bits)
    accuracy, milliseconds = measured(file)
    print(f"{name:15} {len(file):9,} bytes {milliseconds:7.3f} ms   accuracy {accuracy:.3f}")
