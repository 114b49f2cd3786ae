"""What is packed on one machine is whole on the other, or the message says which file is not."""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from benchmarks import pack
from benchmarks.data import datasets
from tests import launches


@pytest.fixture
def packed(tmp_path):
    """The digits in parts of 20,000 bytes, without wheels, which need a network."""
    arguments = ["--suite", "digits", "--out", str(tmp_path / "pack"), "--part-size", "20K", "--packages"]
    assert pack.main([*arguments, "--cache-dir", str(tmp_path / "here")]) == 0
    return tmp_path / "pack"


def unpacked(folder, cache):
    """Unpack with the packed source, in a Python that has no packages at all."""
    with tarfile.open(folder / "source.tar.gz") as archive:
        archive.extractall(cache.parent / "source", filter="data")
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.path[0:0] = ['.']; from benchmarks import pack"]
    command[-1] += f"; sys.exit(pack.main(['--unpack', {str(folder)!r}, '--cache-dir', {str(cache)!r}]))"
    where = cache.parent / "source" / "kmerge"
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False, timeout=60)


def test_data_comes_through_and_the_source_knows_its_commit(packed, tmp_path):
    files = [
        path for path in packed.rglob("*") if path.is_file() and path.name not in ("source.tar.gz", "manifest.json")
    ]
    assert max(path.stat().st_size for path in files) <= 20_000
    assert len(list(packed.glob("data/digits/train_images.npy.part*"))) == 4
    process = unpacked(packed, tmp_path / "there")
    assert process.returncode == 0, process.stderr
    here, there = (datasets.load("digits", None, tmp_path / name, seed=0) for name in ("here", "there"))
    assert here.identity == there.identity
    np.testing.assert_array_equal(here.data.x_train, there.data.x_train)
    code = "from benchmarks.checkout import commit; print(commit())"
    command, where = [sys.executable, "-c", code], tmp_path / "source" / "kmerge"
    shown = [subprocess.run(command, cwd=cwd, capture_output=True, text=True).stdout for cwd in (where, launches.ROOT)]
    assert shown[0] == shown[1] != "unknown\n"
    assert unpacked(packed, tmp_path / "there").returncode == 0  # a second call finds all done


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_part_that_did_not_come_through_is_named_and_can_come_again(packed, tmp_path, damage):
    part = packed / "data" / "digits" / "train_images.npy.part002"
    content = part.read_bytes()
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    process = unpacked(packed, tmp_path / "there")
    assert process.returncode == 1 and "train_images.npy.part002" in process.stderr and damage in process.stderr
    assert "Traceback" not in process.stderr and not (tmp_path / "there").exists()
    part.write_bytes(content)
    assert unpacked(packed, tmp_path / "there").returncode == 0


def test_other_data_in_the_cache_is_not_replaced(packed, tmp_path):
    (tmp_path / "there" / "digits").mkdir(parents=True)
    (tmp_path / "there" / "digits" / "info.json").write_text(json.dumps({"sha256": "another"}))
    process = unpacked(packed, tmp_path / "there")
    assert process.returncode == 1 and "holds other data" in process.stderr
    assert os.listdir(tmp_path / "there" / "digits") == ["info.json"]


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        ([], 2, "--suite NAME"),
        (["--suite", "digits"], 2, "--out FOLDER"),
        (["--suite", "digits", "--out", "F", "--part-size", "0"], 2, "as 60M"),
        (["--suite", "digit", "--out", "F"], 2, "received 'digit'. Did you mean digits?"),
        (["--suite", "cifar100", "--out", "F", "--data-dir", "none"], 3, "tfds.load('cifar100"),
        (["--suite", "digits", "--out", "."], 1, "not empty"),
        (["--unpack", "nowhere"], 1, "manifest.json"),
    ],
)
def test_wrong_usage_is_told(arguments, status, words, tmp_path):
    command = [sys.executable, "-m", "benchmarks.pack", *arguments, "--cache-dir", str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(launches.ROOT)}
    (tmp_path / "a file").write_text("")
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == status and words in process.stderr and "Traceback" not in process.stderr
    assert not (tmp_path / "F").exists()


def test_sizes():
    assert [pack.size_of(text) for text in ("7", "5K", "60M", "1G")] == [7, 5_000, 60_000_000, 1_000_000_000]
