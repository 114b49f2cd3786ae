"""What is packed on one machine is whole on the other, or the message says which file is not."""

import json
import os
import shutil
import subprocess
import sys

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
    """Unpack with the packed source, in a Python that has no packages at all, as the guide says."""
    (cache.parent / "source").mkdir(exist_ok=True)
    subprocess.run(["tar", "xzf", str(folder / "source.tar.gz")], cwd=cache.parent / "source", check=True)
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


def _attacked(pack_folder, change):
    """Rewrite the manifest as `change` does, which gets its entries by path."""
    manifest = pack_folder / "manifest.json"
    files = json.loads(manifest.read_text())["files"]
    change(files, {file["path"]: file for file in files})
    manifest.write_text(json.dumps({"files": files}))


def _named(path):
    return lambda folder, entry, secret: _attacked(
        folder, lambda files, by_path: by_path["data/digits/test_labels.npy"].update(path=path.format(secret=secret))
    )


def _in_place_of(name, make):
    """Something else in place of a file or folder of the pack."""

    def attack(folder, entry, secret):
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        make(place, secret)

    return attack


def _linked_folder(place, secret):
    (secret.parent / "elsewhere").mkdir()
    shutil.copytree(secret.parent.parent / "whole" / "data" / "digits", secret.parent / "elsewhere", dirs_exist_ok=True)
    place.symlink_to(secret.parent / "elsewhere")


def _listed(changes):
    return lambda folder, entry, secret: _attacked(folder, lambda files, by_path: by_path[entry].update(changes))


def _twice(path):
    return lambda folder, entry, secret: _attacked(
        folder, lambda files, by_path: files.append({**by_path[entry], "path": path})
    )


def _unlisted(folder, entry, secret):
    (folder / "data" / "digits" / "payload.npy").write_bytes(b"unchecked")
    os.mkdir(os.fsencode(folder / "data") + b"/\xff\x1b[31m")  # no text, and red from here on
    (folder / "data" / os.fsdecode(b"\xff\x1b[31m") / "payload.npy").write_bytes(b"unchecked")
    (folder / "data" / "other").mkdir()
    (folder / "data" / "other" / "info.json").symlink_to(secret)
    (folder / "wheels").mkdir()
    (folder / "wheels" / "evil-1-py3-none-any.whl").write_bytes(b"unchecked")


def _draft_link(folder, entry, secret):
    (folder / "data" / "digits" / ".train_images.npy.joined").symlink_to(secret)


LABELS, IMAGES = "data/digits/test_labels.npy", "data/digits/train_images.npy"
ATTACKS = {
    "absolute path": _named("{secret}"),
    "path to the parent": _named("../outside/secret"),
    "path to the parent, inside": _named("data/digits/../../../outside/secret"),
    "path with a backslash": _named("data\\..\\secret"),
    "hidden file": _named("data/digits/.bashrc"),
    "manifest itself": _named("manifest.json"),
    "path to the parent, from what is one's own": _named("own/../outside/secret"),
    "hidden file beside what is one's own": _named("own/.bashrc"),
    "hidden folder": _named("own/.ssh/config"),
    "colours in a name": _named("own/\x1b[31m"),
    "half a character in a name": _named("own/\ud800"),
    "other kind of file": _named("data/digits/sitecustomize.py"),
    "path that is no text": lambda folder, entry, secret: _attacked(folder, lambda files, by_path: files.append({"path": 3})),
    "link to a file": _in_place_of(LABELS, lambda place, secret: place.symlink_to(secret)),
    "link to a folder": _in_place_of("data/digits", _linked_folder),
    "link to an endless device": _in_place_of(LABELS, lambda place, secret: place.symlink_to("/dev/zero")),
    "part that is such a link": _in_place_of(f"{IMAGES}.part001", lambda place, secret: place.symlink_to("/dev/zero")),
    "pipe": _in_place_of(LABELS, lambda place, secret: os.mkfifo(place)),
    "part that is a pipe": _in_place_of(f"{IMAGES}.part001", lambda place, secret: os.mkfifo(place)),
    "folder in place of a file": _in_place_of(LABELS, lambda place, secret: place.mkdir()),
    "manifest that is a pipe": _in_place_of("manifest.json", lambda place, secret: os.mkfifo(place)),
    "manifest that is endless": _in_place_of("manifest.json", lambda place, secret: place.symlink_to("/dev/zero")),
    "manifest too deep": _in_place_of("manifest.json", lambda place, secret: place.write_text("[" * 100_000)),
    "larger than listed": _listed({"bytes": 7}),
    "larger than any disk": _listed({"bytes": 1 << 60}),
    "size that is none": _listed({"bytes": "7"}),
    "sizes whose sum has too many digits to be told": lambda folder, entry, secret: _attacked(
        folder, lambda files, by_path: [file.update(bytes=int("9" * 4300)) for file in files]
    ),
    "parts outside": _listed({"parts": ["../outside/secret"]}),
    "listed twice": _twice(LABELS),
    "other case": _named("data/digits/test_LABELS.npy"),
    "listed twice but for the case": lambda folder, entry, secret: _attacked(
        folder, lambda files, by_path: files.extend({**by_path[entry], "path": f"wheels/{name}.whl"} for name in "Aa")
    ),
    "a file is the part of another": _listed({"parts": [LABELS]}),
    "files that are not listed": _unlisted,
    "draft that is a link": _draft_link,
}
HARMLESS = ("files that are not listed", "draft that is a link")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pack of the digits, in a folder of its own."""
    folder = tmp_path_factory.mktemp("packed") / "whole"
    arguments = ["--suite", "digits", "--out", str(folder), "--part-size", "20K", "--packages"]
    assert pack.main([*arguments, "--cache-dir", str(folder.parent / "here")]) == 0
    return folder


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_pack_leaves_no_byte_outside_its_folder(whole, tmp_path, capsys, name):
    (tmp_path / "outside").mkdir()
    secret = tmp_path / "outside" / "secret"
    secret.write_bytes((whole / LABELS).read_bytes())  # what the manifest's hash would let pass
    shutil.copytree(whole, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "pack")
    ATTACKS[name](tmp_path / "pack", LABELS, secret)
    outside = {path: path.read_bytes() for path in tmp_path.glob("outside/**/*") if path.is_file()}
    before = sorted(tmp_path.iterdir())
    status = pack.main(["--unpack", str(tmp_path / "pack"), "--cache-dir", str(tmp_path / "cache")])
    assert {path: path.read_bytes() for path in tmp_path.glob("outside/**/*") if path.is_file()} == outside
    found = sorted(path.name for path in (tmp_path / "cache").glob("**/*"))
    if name in HARMLESS:
        out = capsys.readouterr().out
        arrays = [f"{part}_{kind}.npy" for part in ("test", "train") for kind in ("images", "labels")]
        assert status == 0 and found == sorted(["digits", "info.json", *arrays])
        assert not (tmp_path / "pack" / IMAGES).is_symlink() and "evil" not in out.partition("pip install")[2]
    else:
        assert status == 1 and sorted(tmp_path.iterdir()) == before and not found
        assert "expected" in (err := capsys.readouterr().err) or "refused" in err or "damaged" in err or "manifest" in err


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


def test_a_suite_of_ones_own_comes_through_with_its_data_and_code(tmp_path, capsys, monkeypatch):
    here = tmp_path / "here"
    (here / "data").mkdir(parents=True)
    np.savez(here / "data" / "mine.npz", x_train=np.zeros((2000, 3)))
    (here / "packed_nets.py").write_text("import packed_parts\ndef small(): pass\n")
    (here / "packed_parts.py").write_text("")
    (here / "nobody_imports_it.py").write_text("")
    suite = 'based_on = "digits"\ndescription = "mine"\ndataset = "data/mine.npz"\nstrategies = ["packed_nets:small"]\n'
    (here / "mine.toml").write_text(suite)
    monkeypatch.setattr(sys, "path", [*sys.path])
    places = ["--cache-dir", str(tmp_path / "cache"), "--packages", "--part-size", "20K"]
    assert pack.main(["--suite", str(here / "mine.toml"), "--out", str(tmp_path / "pack"), *places]) == 0
    shutil.copytree(here, tmp_path / "before")
    shutil.rmtree(here)
    assert len(list(tmp_path.glob("pack/own/data/mine.npz.part*"))) == 3
    assert pack.main(["--unpack", str(tmp_path / "pack"), *places]) == 0
    assert f"The suite is {tmp_path}/pack/own/mine.toml, with its data" in capsys.readouterr().out
    found = {path.relative_to(tmp_path / "pack" / "own") for path in tmp_path.glob("pack/own/**/*") if path.is_file()}
    files = {path for path in found if ".part" not in path.name}
    assert {*map(str, files)} == {"mine.toml", "data/mine.npz", "packed_nets.py", "packed_parts.py"}
    assert all((tmp_path / "before" / path).read_bytes() == (tmp_path / "pack" / "own" / path).read_bytes() for path in files)


@pytest.mark.parametrize(
    ("dataset", "folder", "status", "words"),
    [
        ("../mine.npz", "", 1, "expected data and code beside the suite's file, or below it"),
        ("mine.npz", 'own_folder = ".."', 2, "expected data and code beside the suite's file, received 'own_folder = "),
        ("other.npz", "", 3, "other.npz cannot be read"),
        ("packed_data:draw", "", 0, "Not in the pack: What packed_data:draw reads, if it reads any file."),
    ],
)
def test_what_of_ones_own_cannot_be_packed_is_told(tmp_path, capsys, monkeypatch, dataset, folder, status, words):
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "mine.npz", x_train=np.zeros(3))
    (tmp_path / "here" / "packed_data.py").write_text("def draw(seed): pass\n")
    suite = tmp_path / "here" / "mine.toml"
    suite.write_text(f'based_on = "digits"\ndescription = "mine"\n{folder}\ndataset = "{dataset}"\n')
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["--out", str(tmp_path / "pack"), "--cache-dir", str(tmp_path / "cache"), "--packages"]
    assert pack.main(["--suite", str(suite), *arguments]) == status
    assert words in "".join(capsys.readouterr()) and (tmp_path / "pack").exists() == (status == 0)


def test_sizes():
    assert [pack.size_of(text) for text in ("7", "5K", "60M", "1G")] == [7, 5_000, 60_000_000, 1_000_000_000]
