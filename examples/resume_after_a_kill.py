"""Train gates in a way that survives a kill: Keras' BackupAndRestore beside GatePressure.

    python -m examples.resume_after_a_kill

The kill here is an exception in the middle of training; the second call goes on in the epoch that was cut off.
"""

import tempfile

import keras

import kmerge
from examples.digits import compiled, digits, network

EPOCHS = 9
KILLED_IN = 5

(images, labels), test = digits()
folder = tempfile.mkdtemp()


class Kill(keras.callbacks.Callback):
    """Stands for a machine that is lost."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == KILLED_IN:
            raise KeyboardInterrupt


def train_gates(*more) -> keras.Model:
    """What a script does when it is started: everything from the beginning, but for epochs that are done."""
    keras.utils.set_random_seed(0)
    big = compiled(kmerge.merge(*parents), optimizer=kmerge.gate_optimizer(keras.optimizers.Adam(3e-3)))
    callbacks = [kmerge.GatePressure(), keras.callbacks.BackupAndRestore(folder), *more]
    big.fit(images, labels, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return big


parents = []
for seed in (1, 2):
    keras.utils.set_random_seed(seed)
    parents.append(compiled(network()))
    parents[-1].fit(images, labels, epochs=EPOCHS, verbose=0)

try:
    train_gates(Kill())
except KeyboardInterrupt:
    print(f"killed in epoch {KILLED_IN + 1} of {EPOCHS}")
big = train_gates()
print(kmerge.merge_report(big))
student = compiled(kmerge.compress(big))
print("accuracy right after the cut: {:.3f}".format(student.evaluate(*test, verbose=0, return_dict=True)["accuracy"]))
