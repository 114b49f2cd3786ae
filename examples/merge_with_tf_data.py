"""Merge two networks with tf.data, mixed precision and the usual callbacks.

    python -m examples.merge_with_tf_data

Callbacks that choose an epoch, such as ModelCheckpoint, wait for the end of the fade: before it the gates are undecided, and
`compress` would cut off what still counts.
"""

import tempfile
from pathlib import Path

import keras
import tensorflow as tf

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 8

keras.config.set_dtype_policy("mixed_bfloat16")
(images, labels), test = digits()
batches = tf.data.Dataset.from_tensor_slices((images[:1200], labels[:1200])).shuffle(1_200, seed=0).batch(64).prefetch(2)
validation = tf.data.Dataset.from_tensor_slices((images[1200:], labels[1200:])).batch(256)
test_batches = tf.data.Dataset.from_tensor_slices(test).batch(256)

parents = []
for seed in (1, 2):
    keras.utils.set_random_seed(seed)
    parents.append(compiled(network()))
    parents[-1].fit(batches, epochs=EPOCHS, shuffle=False, verbose=0)

big = compiled(kmerge.merge(*parents), optimizer=kmerge.gate_optimizer(keras.optimizers.Adam(3e-3)))
best = Path(tempfile.mkdtemp()) / "best.keras"
checkpoint = keras.callbacks.ModelCheckpoint(best, monitor="val_accuracy", save_best_only=True)
callbacks = [kmerge.GatePressure(), kmerge.AfterFade(checkpoint)]
big.fit(batches, epochs=EPOCHS, validation_data=validation, callbacks=callbacks, shuffle=False, verbose=0)
print(kmerge.merge_report(big))

student = compiled(kmerge.compress(keras.models.load_model(best)), 1e-3)
student.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0)
accuracies = [model.evaluate(test_batches, verbose=0, return_dict=True)["accuracy"] for model in (*parents, student)]
print("parents {:.3f} and {:.3f}, student {:.3f}".format(*accuracies))
keras.config.set_dtype_policy("float32")
