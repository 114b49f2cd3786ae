"""`AfterFade`: callbacks that pick an epoch by a metric look only at those behind the fade."""

import keras
import pytest

import kmerge
from kmerge.errors import InvalidArgumentError
from kmerge.gates.hard_concrete import gates_of
from kmerge.gates.optimizer import gate_optimizer
from kmerge.gates.pressure import GatePressure
from tests.kmerge.gates.cases import compiled, drive

# The best epoch of all is the second, in which gates compete; the fade is over in the last three, of which the first is best.
LOSSES = [3.0, 0.1, 2.0, 1.9, 1.5, 1.4, 1.3, 1.6, 1.7, 1.8]


@pytest.mark.parametrize("wrapper_first", [True, False])
def test_callbacks_that_wait_for_the_end_of_the_fade_pick_an_epoch_behind_it(tmp_path, wrapper_first):
    def picked(wrap):
        """The epochs at which training ends, whose weights are restored, and that is saved."""
        model = compiled(gate_optimizer("sgd"))
        stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
        save = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_best_only=True, save_weights_only=True)
        callbacks = [wrap(stop), wrap(save), GatePressure()]
        last = drive(model, 10, callbacks if wrapper_first else callbacks[::-1], LOSSES)
        restored = float(model.get_layer("head").bias[0])
        decided = all(gate.is_decided() for gate in gates_of(model))
        model.load_weights(tmp_path / "best.weights.h5")
        return last, restored, float(model.get_layer("head").bias[0]), decided

    assert picked(kmerge.AfterFade) == (8, 7, 7, True)
    with pytest.warns(UserWarning, match="ended before its gates reached their end.*AfterFade"):
        assert picked(lambda callback: callback) == (2, 1, 1, False)


def test_a_callback_that_waits_for_nothing_is_told_of_and_one_that_cannot_wait_refused():
    model, stop = compiled(gate_optimizer("sgd")), keras.callbacks.EarlyStopping()
    with pytest.warns(UserWarning, match="EarlyStopping saw no epoch"):
        drive(model, 2, [GatePressure("paper"), kmerge.AfterFade(stop)], LOSSES)
    for wrong in (keras.callbacks.ModelCheckpoint("x.keras", save_freq=10), keras.callbacks.BackupAndRestore("x")):
        with pytest.raises(InvalidArgumentError, match=f"not at single batches.*received '{type(wrong).__name__}'"):
            kmerge.AfterFade(wrong)
    with pytest.raises(InvalidArgumentError, match="a keras.callbacks.Callback, received 'EarlyStopping'"):
        kmerge.AfterFade("EarlyStopping")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    assert drive(plain, 10, [kmerge.AfterFade(keras.callbacks.EarlyStopping(patience=1))], LOSSES) == 2
