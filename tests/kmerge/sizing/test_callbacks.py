"""Keras' callbacks in a training in which sizes change."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest

import kmerge
from tests.checks import assert_close, outputs
from tests.kmerge.sizing.cases import assert_same, dense_net, randomized, sizer_of, task, weights_of
from tests.programs import without_programs

MODEL = randomized(dense_net())
X, Y = task(MODEL)
HELD_OUT = X[:16], Y[:16]


def fitted(*callbacks, epochs=3, static=1, sizer=None, rate=0.05, **arguments):
    """A sizer after a short training in which sizes change, and its history; any warning is an error."""
    sizer = sizer or sizer_of(MODEL, keras.optimizers.Adam(rate), alpha=1e-2, threshold=0.3)
    with warnings.catch_warnings(), without_programs():
        warnings.simplefilter("error", UserWarning)
        history = sizer.fit(
            X, Y, 16, epochs, **{"verbose": 0, "validation_data": HELD_OUT, **arguments}, callbacks=callbacks,
            static_epochs=static,
        )  # fmt: skip
    return sizer, history


class Note(keras.callbacks.Callback):
    """Notes, after each epoch, what the model of its sizes gives."""

    def __init__(self, sizer=None):
        super().__init__()
        self.sizer, self.outputs, self.rates = sizer, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))
        if self.sizer:
            self.outputs.append(outputs(self.sizer.model, [X])[0])


def sizer_and_note():
    sizer = sizer_of(MODEL, keras.optimizers.Adam(0.05), alpha=1e-2, threshold=0.3)
    return sizer, Note(sizer)


@pytest.mark.both_backends
def test_callbacks_of_keras_see_the_sizes_of_each_epoch(tmp_path):
    sizer, note = sizer_and_note()
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None  # without it Keras has no TensorBoard
    boards = [keras.callbacks.TensorBoard(tmp_path / "board", histogram_freq=1)] if has_tensorflow else []
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    stop = keras.callbacks.EarlyStopping("loss", baseline=-1.0, patience=3, restore_best_weights=True, mode="max")
    _, history = fitted(note, save, *boards, backup, stop, epochs=4, static=1, sizer=sizer)
    sizes = history.history["units"]
    assert len(sizes) == 4 and len({str(each) for each in sizes}) > 1, "nothing changed"
    for epoch, (each, expected) in enumerate(zip(sizes, note.outputs, strict=True), 1):
        model = keras.models.load_model(tmp_path / f"{epoch}.keras")
        assert {name: model.get_layer(name).units for name in each} == each
        assert_close(outputs(model, [X]), [expected], 1e-5)
    best = int(np.argmax(history.history["loss"]))
    assert best < 3 and sizer.sizes == sizes[best]
    assert_close([sizer.predict(X, verbose=0)], [note.outputs[best]], 1e-5)
    assert_close(outputs(sizer.model, [X]), [note.outputs[best]], 1e-5)
    assert not (tmp_path / "backup").exists()
    assert not boards or list((tmp_path / "board" / "train").iterdir())


def test_a_backup_goes_on_as_if_it_had_never_stopped(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fitted(backup, Stop())
    resumed, history = fitted(backup)
    assert history.epoch == [2, 3]
    whole, _ = fitted()
    assert resumed.history_of_sizes == whole.history_of_sizes
    assert_same(weights_of(resumed.model), weights_of(whole.model))

    with pytest.raises(KeyboardInterrupt):
        fitted(backup, Stop())
    other = sizer_of(MODEL, keras.optimizers.RMSprop(), alpha=1e-2)
    with pytest.raises(kmerge.InvalidArgumentError, match="spaces, RMSprop with first, second, received .Adam with"):
        fitted(backup, sizer=other)


def test_a_learning_rate_that_a_callback_sets_outlasts_new_units():
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    note = Note()
    fitted(note, plateau, rate=0.04)
    assert note.rates == pytest.approx([0.04, 0.04, 0.02, 0.01])


CALLBACKS = keras.callbacks
REFUSED = {
    "ModelCheckpoint.save_freq=2": lambda path: CALLBACKS.ModelCheckpoint(path / "a.keras", save_freq=2),
    "ModelCheckpoint.save_weights_only=True": lambda path: CALLBACKS.ModelCheckpoint(
        path / "a.weights.h5", save_weights_only=True
    ),
    "BackupAndRestore.save_freq=2": lambda path: CALLBACKS.BackupAndRestore(path, save_freq=2),
    "TensorBoard.embeddings_freq=1": lambda path: CALLBACKS.TensorBoard(path, embeddings_freq=1),
    "SwapEMAWeights": lambda path: CALLBACKS.SwapEMAWeights(),
    "AfterFade": lambda path: kmerge.AfterFade(CALLBACKS.EarlyStopping("loss")),
    "callbacks to be a list of Keras callbacks": lambda path: fitted,
}


@pytest.mark.parametrize("name", REFUSED)
def test_callbacks_that_need_one_size_are_refused_by_name(name, tmp_path):
    with pytest.raises(kmerge.InvalidArgumentError, match=name):
        fitted(REFUSED[name](tmp_path))


def test_the_progress_bar_tells_the_sizes(capsys):
    sizer, history = fitted(epochs=1, static=0, verbose=2)
    shown = capsys.readouterr().out
    assert all(f"{name} units: {n}.0000" in shown for name, n in sizer.sizes.items())
    assert "4/4" in shown and "units" not in " ".join(set(history.history) - {"units"})


def test_hooks_of_batches_and_tests_are_called():
    seen = []
    hooks = {
        name: lambda *_, name=name: seen.append(name)
        for name in ("on_train_batch_end", "on_test_begin", "on_test_batch_end", "on_test_end")
    }

    class See(keras.callbacks.Callback):
        locals().update(hooks)

    sizer = sizer_of(MODEL, alpha=1e-2)
    with pytest.warns(kmerge.ModelFitWarning, match="the callback See has the hook"):
        sizer.fit(X, Y, 32, 1, 0, See(), validation_data=HELD_OUT, static_epochs=0)
    assert seen == ["on_train_batch_end"] * 2 + ["on_test_begin", "on_test_batch_end", "on_test_end"]
