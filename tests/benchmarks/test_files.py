"""Files are whole or not there, links lead nowhere, and who waits for a lock learns for whom."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import files
from tests import launches

WRITER = """
import os, sys
from pathlib import Path
from benchmarks import files
os.fsync = lambda descriptor: (print("writes", flush=True), sys.stdin.read())
files.write_atomically(Path(sys.argv[1]), "new")
"""


def _writing(path):
    """A process that is in the middle of writing a file, until its standard input ends."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=launches.ROOT, text=True, **streams)
    assert process.stdout.readline() == "writes\n"
    return process


def test_a_draft_goes_when_its_writer_is_dead_and_no_sooner(tmp_path):
    mine = [tmp_path / name for name in (".bashrc", ".config.json.bak", ".notes.abcd1234", "runs.csv")]
    for path in mine:
        path.write_text("mine")
    killed, alive = (_writing(tmp_path / name) for name in ("config.json", "report.html"))
    assert len(list(tmp_path.glob(".config.json.????????"))) == 1
    assert files.remove_drafts([tmp_path, tmp_path / "nowhere"]) == []
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (gone,) = files.remove_drafts([tmp_path])
    assert gone.name.startswith(".config.json.") and not gone.exists()
    alive.communicate()
    assert (tmp_path / "report.html").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", *(path.name for path in mine)}


def test_the_folder_of_a_dead_writer_goes_when_the_next_one_writes(tmp_path):
    code = "import sys, time; from pathlib import Path; from benchmarks.files import draft_folder\n"
    code += "with draft_folder(Path(sys.argv[1])) as draft: print(draft.name, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "digits")]
    process = subprocess.Popen(command, cwd=launches.ROOT, stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    with files.draft_folder(tmp_path / "digits") as mine:
        assert {path.name for path in tmp_path.iterdir()} == {name, mine.name}
    process.kill()
    process.communicate()
    with files.draft_folder(tmp_path / "digits") as mine:
        os.rename(mine, tmp_path / "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def _secret(tmp_path):
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "secret"


def _begun_anew(path, text):
    with files.new_file(path) as file:
        file.write(text.encode())


@pytest.mark.parametrize("use", [files.write_atomically, _begun_anew])
def test_what_is_written_replaces_a_link(tmp_path, use):
    secret = _secret(tmp_path)
    (tmp_path / "log.txt").symlink_to(secret)
    use(tmp_path / "log.txt", "mine")
    assert secret.read_text() == "secret" and (tmp_path / "log.txt").read_text() == "mine"
    assert not (tmp_path / "log.txt").is_symlink()


KINDS = {
    "link": lambda path, secret: path.symlink_to(secret),
    "dangling link": lambda path, secret: path.symlink_to(secret.with_name("nothing")),
    "endless device": lambda path, secret: path.symlink_to("/dev/zero"),
    "pipe": lambda path, secret: os.mkfifo(path),
    "folder": lambda path, secret: path.mkdir(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_regular_file_is_read_or_locked(tmp_path, kind):
    path, secret = tmp_path / "file", _secret(tmp_path)
    KINDS[kind](path, secret)
    for use in (files.open_regular, lambda path: files.locked(path).__enter__()):
        with pytest.raises(OSError, match="expected a regular file, received a (link|folder)|Is a directory"):
            use(path)
    assert secret.read_text() == "secret" and not secret.with_name("nothing").exists()


def test_a_folder_that_is_a_link_is_refused_or_replaced(tmp_path):
    (tmp_path / "outside").mkdir()
    for name in ("run", "figures"):
        (tmp_path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="expected a folder, received a link. Delete it"):
        files.real_folder(tmp_path / "run")
    assert not files.own_folder(tmp_path / "figures").is_symlink() and (tmp_path / "outside").is_dir()


def test_a_lock_says_who_holds_it(tmp_path):
    lock = tmp_path / "lock"
    with files.locked(lock):
        assert files.holder_of(lock) == files.name_of(os.getpid())
        with pytest.raises(files.HeldError, match=f"process {os.getpid()} on "), files.locked_at_once(lock):
            pass
    assert files.holder_of(lock) == files.SOMEBODY
    lock.write_text("<script>\x1b[31m")
    assert files.holder_of(lock) == files.SOMEBODY


@pytest.mark.parametrize("machine", ["(none)", "", "Zoë's Mac", "x" * 64])
def test_a_holder_has_a_name_whatever_its_machine_is_called(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(files.socket, "gethostname", lambda: machine)
    with files.locked(tmp_path / "lock"):
        assert files.holder_of(tmp_path / "lock") == files.name_of(os.getpid()) != files.SOMEBODY


def test_where_a_disk_has_no_locks_nobody_waits_or_fails(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.locked(tmp_path / "lock"), files.locked_at_once(tmp_path / "lock"):
        assert files.holder_of(tmp_path / "lock") == files.name_of(os.getpid())


def test_who_waits_for_a_lock_learns_of_each_holder_and_that_one_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_NAMELESS", 0.1)
    said, lock = [], tmp_path / "lock"
    wait = files.saying(lock, lambda *what: said.append(what), 0.0, 0.2, pause=lambda: time.sleep(0.06))
    for holder in ("", "process 1 on a", "process 1 on a", "", "process 2 on b", "", "", ""):
        lock.write_text(holder)
        wait()
    holders, seconds = zip(*said, strict=True)
    assert holders == ("process 1 on a", "process 2 on b", files.SOMEBODY)
    assert list(seconds) == sorted(seconds) and seconds[0] < 0.2 <= seconds[1]
