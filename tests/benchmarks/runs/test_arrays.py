"""A file of arrays is read as it was written, or not at all, whatever became of it."""

import hashlib
import io
import os
import random

import numpy as np
import pytest

from benchmarks.runs.arrays import listed, numbered, read_arrays, write_arrays

ARRAYS = numbered("last", [np.arange(12.0).reshape(3, 4), np.array(7, "int64")]) | {"empty": np.zeros((0, 2), "float32")}
CONTENTS = {"key": {"seed": 1, "name": "tëacher"}, "rows": [{"loss": 0.1 + 0.2}]}


def _read(path):
    """What is read, and what is told."""
    told = []
    return read_arrays(path, told.append), told


def test_what_is_written_is_read(tmp_path):
    assert _read(tmp_path / "a.npz") == (None, [])
    write_arrays(tmp_path / "a.npz", ARRAYS, CONTENTS)
    (arrays, contents), told = _read(tmp_path / "a.npz")
    assert contents == CONTENTS and not told and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
    assert [array.shape for array in listed("last", arrays)] == [(3, 4), ()]
    with np.load(tmp_path / "a.npz") as found:  # people can read it as any .npz
        assert np.array_equal(found["last 0"], ARRAYS["last 0"])


def _damages(content):
    """A few hundred files that are not what was written: bytes changed, lost, doubled, swapped, and other files."""
    draw = random.Random(5)
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 8))):
            changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(changed)
    for _ in range(100):
        start = draw.randrange(len(content))
        end = draw.randrange(start, len(content)) + 1
        yield content[:start]
        yield content[:start] + content[end:]
        yield content[:end] + content[start:]
    yield from (b"", b"PK", bytes(len(content)), content[:-32], content.replace(b"last 0", b"last 9"))


def test_no_damaged_file_is_read_and_each_is_moved_aside_and_told(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS, CONTENTS)
    content, rounds = path.read_bytes(), 0
    for damaged in _damages(content):
        rounds += 1
        assert damaged != content
        path.write_bytes(damaged)
        found, (told,) = _read(path)
        assert found is None and f"{path} is damaged" in told and "a.npz.damaged" in told
        assert not path.exists() and (tmp_path / "a.npz.damaged").read_bytes() == damaged
    assert rounds == 505


@pytest.mark.parametrize(
    "make",
    [
        lambda path, whole: path.symlink_to(whole),
        lambda path, whole: path.symlink_to("/dev/zero"),
        lambda path, whole: os.mkfifo(path),
        lambda path, whole: path.mkdir(),
        lambda path, whole: np.savez(path, contents=np.array([{"code": "x"}], object)),
    ],
    ids=["link to a whole file", "link to an endless device", "pipe", "folder", "pickle"],
)
def test_what_is_no_file_of_ours_is_moved_aside(tmp_path, make):
    write_arrays(tmp_path / "whole.npz", ARRAYS, CONTENTS)
    make(tmp_path / "a.npz", tmp_path / "whole.npz")
    found, (told,) = _read(tmp_path / "a.npz")
    assert found is None and "is damaged" in told and not os.path.lexists(tmp_path / "a.npz")
    assert _read(tmp_path / "whole.npz")[1] == []


def test_what_could_fill_the_memory_is_not_read(tmp_path):
    packed = io.BytesIO()
    np.savez_compressed(packed, contents=np.zeros(10_000, "uint8"))
    (tmp_path / "a.npz").write_bytes(packed.getvalue() + hashlib.sha256(packed.getbuffer()).digest())
    with open(tmp_path / "b.npz", "wb") as file:
        file.truncate(9 << 30)  # a hole, which takes no room on the disk
    for name, why in (("a.npz", "compressed"), ("b.npz", "at most 8589934592 bytes")):
        found, (told,) = _read(tmp_path / name)
        assert found is None and why in told and not (tmp_path / name).exists()
