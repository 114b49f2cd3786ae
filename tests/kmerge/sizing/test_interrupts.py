"""An `AutoSizer` whose training is interrupted: whatever line comes next, it is as after the last whole epoch."""

import sys

import keras
import numpy as np
import pytest

import kmerge
from kmerge.sizing import epochs, state
from tests.kmerge.sizing.cases import assert_same, dense_net, randomized, sizer_of, task
from tests.programs import without_programs

MODEL = randomized(dense_net(4))
X, Y = task(MODEL, 32)
FILES = {epochs.__file__, state.__file__}


def new_sizer():
    return sizer_of(MODEL, keras.optimizers.Adam(0.05), alpha=1e-2, threshold=0.3, growth="adaptive")


def fit(sizer, *callbacks):
    sizer.fit(X, Y, 16, 2, 0, callbacks, static_epochs=2, initial_epoch=sizer.epochs_done)


def found_in(sizer):
    """What is there of a sizer: its records, and its arrays with the optimizer's."""
    now = sizer._state.settled()
    records = now.epochs_done, str(now.history), now.sizes, now.grown, now.room, now.rooms.exact, len(now.slots)
    return records, [*(array for values in now.weights.arrays.values() for array in values), *(now.others or [])]


def assert_equal(found, expected):
    assert found[0] == expected[0]
    assert_same(found[1], expected[1])


class AtLine:
    """Interrupts before a line, counted from 0 over all that is executed of `FILES`."""

    def __init__(self, number: int):
        self.number, self.seen = number, 0

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        self.seen += event == "line"
        if event == "line" and self.seen == self.number + 1:
            raise KeyboardInterrupt(f"at {frame.f_code.co_name}, line {frame.f_lineno}")
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *raised):
        sys.settrace(self.before)


@pytest.fixture(scope="module")
def whole():
    """What there is after each epoch of a training that nothing interrupts, and how many lines it executes."""
    sizer, at = new_sizer(), AtLine(-1)
    found = {0: found_in(sizer)}

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found[epoch + 1] = found_in(sizer)

    with without_programs(), at:
        fit(sizer, Note())
    assert len({str(records) for records, _ in found.values()}) == 5
    return found, at.seen


def test_an_interrupt_at_any_line_leaves_the_last_epoch_whole(whole):
    found, lines = whole
    sizer, interrupts = new_sizer(), 0
    with without_programs():
        for number in np.random.default_rng(1).integers(0, lines // 2, 12):
            try:
                with AtLine(number):
                    fit(sizer)
            except KeyboardInterrupt:
                interrupts += 1
            assert_equal(found_in(sizer), found[sizer.epochs_done])
            if sizer.epochs_done == 4:
                sizer = new_sizer()
    assert interrupts > 6


def test_after_an_error_between_dropping_units_and_their_record_all_goes_on(whole, tmp_path, monkeypatch):
    found, _ = whole
    sizer = new_sizer()
    with without_programs():
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(state.SizingState, "refill", lambda self: (_ for _ in ()).throw(MemoryError))
            fit(sizer)
        assert sizer.sizes == {"first": 4, "second": 4} == {n: sizer.model.get_layer(n).units for n in sizer.sizes}
        sizer.predict(X, verbose=0)
        sizer.save(tmp_path / "sizer.npz")
        for going_on in (sizer, kmerge.AutoSizer.load(tmp_path / "sizer.npz")):
            fit(going_on)
            assert_equal(found_in(going_on), found[4])
