"""The file of a sizer: it is written whole, and what is damaged is refused by its name, never loaded as something else."""

import io
import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import kmerge


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(6, activation="relu", name="h")(x)))
    sizer = kmerge.AutoSizer(model, 1e-3)
    sizer.compile("adam", "mse")
    assert sizer.model.count_params() == model.count_params()  # now it holds slots of the optimizer
    path = tmp_path_factory.mktemp("saved") / "sizer.npz"
    sizer.save(path)
    return path


def archive(arrays: dict, save=np.savez) -> bytes:
    """An archive of arrays whose hash is right, or in that none was saved, as by an earlier version."""
    file = io.BytesIO()
    save(file, **{name: value for name, value in arrays.items() if name != "digest"})
    return file.getvalue()


def other_about(*path, value):
    """Changes one entry of what the file says of the sizer."""

    def change(arrays):
        about = entry = json.loads(arrays["about"].tobytes())
        for step in path[:-1]:
            entry = entry[step]
        entry[path[-1]] = value
        return archive({**arrays, "about": np.frombuffer(json.dumps(about).encode(), "uint8")})

    return change


def other_array(name: str, value):
    return lambda arrays: archive({**arrays, name: value(arrays[name])})


def a_zip(arrays):
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").writestr("a", "b")
    return file.getvalue()


DAMAGES = {
    "empty": lambda arrays: b"",
    "text": lambda arrays: b"hello",
    "cut": lambda arrays: archive(arrays)[:-30],
    "zip": a_zip,
    "one_array_less": lambda arrays: archive({name: x for name, x in arrays.items() if name != "weight_0_0"}),
    "one_array_more": lambda arrays: archive({**arrays, "other": np.zeros(2)}),
    "objects": other_array("weight_0_0", lambda x: np.full(x.shape, None)),
    "compressed": lambda arrays: archive(arrays, np.savez_compressed),
    "about_is_no_json": other_array("about", lambda x: x[:-3]),
    "about_is_deep": other_array("about", lambda x: np.frombuffer(b"[" * 100_000, "uint8")),
    "model_is_cut": other_array("model", lambda x: x[:-50]),
    "nan": other_array("weight_0_0", lambda x: np.full_like(x, np.nan)),
    "shape": other_array("weight_0_0", lambda x: x[:-1]),
    "shape_of_a_slot": other_array("weight_0_1", lambda x: x[:-1]),
    "words": other_array("weight_0_0", lambda x: np.full(x.shape, "x")),
    "format": other_about("format", value=9),
    "size_of_another_space": other_about("sizes", value={"q": 6}),
    "size_without_end": other_about("sizes", "h", value=10**12),
    "smaller_size": other_about("sizes", "h", value=3),
    "no_weights": other_about("keys", value=[]),
    "slots": other_about("slots", value=[[999, 0, 0.0]]),
    "others": other_about("others", value=99),
    "room": other_about("room", value={"h": "x"}),
    "exact": other_about("exact", value=["q"]),
    "epochs": other_about("options", "epochs_done", value="x"),
    "history": other_about("options", "history_of_sizes", value=[1]),
    "alpha": other_about("options", "options", "alpha", value=float("nan")),
    "option": other_about("options", "options", "none", value=1),
    "code": other_about("compiled", value={"module": "os", "class_name": "system", "config": {}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_its_name(saved, damage, tmp_path):
    path = tmp_path / "sizer.npz"
    path.write_bytes(DAMAGES[damage](dict(np.load(saved))))
    with pytest.raises(kmerge.InvalidArgumentError, match="sizer.npz' to be a whole file of an AutoSizer"):
        kmerge.AutoSizer.load(path)


def test_a_flipped_bit_is_refused_or_says_nothing(saved, tmp_path):
    """Some bits of an archive are times and the like."""
    path, whole, rng = tmp_path / "sizer.npz", saved.read_bytes(), np.random.default_rng(0)
    weights = {name: x for name, x in np.load(saved).items() if name.startswith("weight_")}
    refused = 0
    for place in rng.integers(len(whole), size=20):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            kmerge.AutoSizer.load(path).save(path)
        except kmerge.InvalidArgumentError as error:
            assert "sizer.npz" in str(error)
            refused += 1
        else:
            again = np.load(path)
            assert all(np.array_equal(again[name], x) for name, x in weights.items())
    assert refused > 10


def test_what_is_no_file_is_told(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(kmerge.InvalidArgumentError, match="There is no such file"):
            kmerge.AutoSizer.load(path)
    with pytest.raises(kmerge.InvalidArgumentError, match="in a folder that is there"):
        kmerge.AutoSizer.load(saved).save(tmp_path / "none" / "sizer.npz")


def test_it_is_saved_as_any_file_of_the_user_and_nothing_else_is_left(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask
    assert list(saved.parent.iterdir()) == [saved]
    assert kmerge.AutoSizer.load(saved).sizes == {"h": 6}
