"""Let a network find its widths while it trains, from tf.data.

    python -m examples.auto_size
"""

import tempfile
from pathlib import Path

import keras
import tensorflow as tf

import kmerge
from examples.digits import digits, network

EPOCHS = 10

train, test = digits()
batches = tf.data.Dataset.from_tensor_slices(train).shuffle(2_000, seed=0).batch(64)

keras.utils.set_random_seed(0)
sizer = kmerge.AutoSizer(network(width=8), alpha=1e-3, min_growth=2)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
sizer.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
sizer.fit(batches, epochs=EPOCHS, static_epochs=2, validation_data=test, verbose=0)
print(sizer.sizes)

file = Path(tempfile.mkdtemp()) / "sizer.npz"
sizer.save(file)                                     # all there is: sizes, weights, the optimizer's state
again = kmerge.AutoSizer.load(file)
assert again.sizes == sizer.sizes
again.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
again.fit(batches, epochs=EPOCHS, static_epochs=2, validation_data=test, verbose=0)
print(again.sizes, f"{again.model.count_params():,} weights")
