"""What a sizing needs to go on from the end of an epoch: the sizer's file as bytes, and the state of the augmentation."""

import tempfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

import kmerge
from baselines.protocol.strategy import TrainingRecord, TrainingState, check_record, check_shapes


def saved_state(sizer: kmerge.AutoSizer, augment: keras.Layer | None, record: TrainingRecord) -> TrainingState:
    """A state to go on from: the sizer's file as bytes, and the state of the augmentation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sizer"
        sizer.save(path)
        file = np.frombuffer(path.read_bytes(), "uint8")
    record = replace(record, rows=list(record.rows), program=dict(record.program))
    return TrainingState(record, [file, *(np.array(v) for v in (augment.variables if augment is not None else ()))])


def check_state(state: TrainingState, augment: keras.Layer | None) -> None:
    """Raises for a state that is none of a sizing."""
    check_record(state.record)
    if state.record.rows:
        sizer = _sizer_in(state)
        check_shapes(state.variables[1:], [] if augment is None else augment.variables)
        last = state.record.rows[-1]
        if last["sizes"] != sizer.sizes:
            raise ValueError("its sizer has other sizes than its last epoch")
        for row in state.record.rows:
            float(row["val_metric"])


def loaded_sizer(state: TrainingState, augment: keras.Layer | None) -> kmerge.AutoSizer:
    """The sizer of a state that `check_state` has passed; the augmentation goes on from there, too."""
    for variable, value in zip([] if augment is None else augment.variables, state.variables[1:], strict=True):
        variable.assign(value)
    return _sizer_in(state)


def _sizer_in(state: TrainingState) -> kmerge.AutoSizer:
    file = state.variables[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sizer"
        path.write_bytes(file.tobytes())
        return kmerge.AutoSizer.load(path)
