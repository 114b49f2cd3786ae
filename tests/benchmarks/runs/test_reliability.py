"""What docs/development/reliability.md promises of launches: faults lose nothing, strangers' folders lead nowhere."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import report, run
from benchmarks.files import holder_of
from benchmarks.records import store
from benchmarks.runs import executors
from tests import launches

# What tells when and where, but not what came out; a command that was launched again counts its compile time anew.
TIMES = ("seconds", "wall_seconds", "compile_seconds", "programs")
# Each of the thirteen faults comes first four times. A round costs a quarter of a second of CPU; the study plays thousands.
ROUNDS = 52
# Prints wait in a buffer, as they do where nobody asks for the contrary.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_rounds_of_faults_lose_no_run_double_none_and_change_none():
    command = [sys.executable, "-m", "benchmarks.studies.crashes", "--rounds", str(ROUNDS)]
    done = subprocess.run(command, cwd=launches.ROOT, env=BUFFERED, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and f"{ROUNDS} rounds" in done.stdout, done.stdout + done.stderr


# A launch of the study that cannot print what waits in a buffer; an error there would leave `launch` in a copy of this one.
FULL = """
import os, sys
from pathlib import Path
from benchmarks.studies.forked_launches import Fault, launch
here = Path(sys.argv[1])
try:
    made = launch(["--suite", "sine", "--dry-run", "--out", str(here)], here, "full", here / "said", Fault(largest=1))
except OSError:
    os._exit(77)
print(os.waitstatus_to_exitcode(os.waitpid(made.pid, 0)[1]))
"""


def test_a_launch_of_the_study_that_cannot_print_ends_and_goes_no_further(tmp_path):
    command = [sys.executable, "-c", FULL, tmp_path]
    done = subprocess.run(command, cwd=launches.ROOT, env=BUFFERED, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == (f"{run.DONE}\n", 0), done.stdout + done.stderr


def _small(tmp_path, *strategies, single=10_000_000):
    """Arguments of a launch in which one_model takes for ever, or as long as is said."""
    suite = launches.variant(tmp_path, "sine", (r"\nsingle = \d+", f"\nsingle = {single}"))
    chosen = ("--strategy", *strategies, "--seeds", "1", "--jobs", "1")
    return ("--suite", suite, *launches.SMALL, *chosen, *launches.places(tmp_path))


# Named as what a killed process left behind, which a launch removes where it is its own.
SECRET = ".secret.txt.abcd1234"


def _outside(tmp_path):
    """A folder that no results are in, with a file, and a folder with another."""
    for folder in (tmp_path / "outside", tmp_path / "outside" / "inner"):
        folder.mkdir()
        (folder / SECRET).write_text("secret")
    return tmp_path / "outside"


def _is_untouched(outside):
    found = {str(path.relative_to(outside)): path.read_text() for path in outside.rglob("*") if path.is_file()}
    return found == {SECRET: "secret", f"inner/{SECRET}": "secret"}


def test_links_in_a_strangers_folder_are_not_followed(tmp_path):
    arguments = _small(tmp_path, "one_model", single=9_000)
    assert launches.call(*arguments, executor=launches.asleep, drawn=True)[0] == run.DONE
    folder, outside = tmp_path / "out" / "variant", _outside(tmp_path)
    (run_folder,) = (folder / "runs").iterdir()
    (run_folder / "done").unlink()
    links = [run_folder / "log.txt", run_folder / "checkpoint.npz", run_folder / "history.json", folder / "report.html"]
    for path in links:
        path.unlink(missing_ok=True)
        path.symlink_to(outside / SECRET)
    (folder / "runs" / "link").symlink_to(outside)
    for name in ("figures", "tensorboard"):
        if (folder / name).exists():
            (folder / name).rename(folder / f"old {name}")
        (folder / name).symlink_to(outside)
    status, out, err = launches.call(*arguments, executor=launches.asleep, drawn=True)
    assert status == run.DONE, out + err
    assert report.main([str(folder), "--tensorboard"]) == 0
    assert _is_untouched(outside)
    kept = ("link", "checkpoint.npz.damaged")
    assert not any(path.is_symlink() for path in folder.rglob("*") if path.name not in kept)
    assert list((folder / "figures").glob("*.png")) and list(folder.glob("tensorboard/*/*/events*"))


@pytest.mark.parametrize("name", ["runs", "stages", "runs/{run}", "runs/{run}/lock", "lock"])
def test_links_that_a_launch_would_have_to_follow_are_refused_by_name(tmp_path, name):
    arguments, outside = _small(tmp_path, "best_of_three", single=9_000), _outside(tmp_path)
    folder = tmp_path / "out" / "variant"
    out = launches.call(*arguments, "--dry-run")[1]
    path = folder / name.format(run=out.split()[0])
    path.parent.mkdir(parents=True)
    path.symlink_to(outside / SECRET if path.name == "lock" else outside)
    status, out, err = launches.call(*arguments, "--retries", "0", executor=launches.asleep)
    assert status == {"lock": run.TABLES_STALE}.get(name, run.FAILED if "runs" not in name or "lock" in name else run.USAGE)
    assert "received a link. Delete it" in out + err or "Cannot write" in err, out + err
    assert _is_untouched(outside)


def test_the_folder_of_a_suite_may_be_no_link_but_out_may(tmp_path):
    arguments, outside = _small(tmp_path, "one_model", single=9_000), _outside(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere" / "variant"
    folder.symlink_to(outside)
    status, out, err = launches.call(*arguments, executor=launches.asleep)
    assert status == run.USAGE and "received a link. Delete it, or let --out itself be a link" in err, out + err
    assert _is_untouched(outside)
    folder.unlink()
    assert launches.call(*arguments, executor=launches.asleep)[0] == run.DONE and (folder / "runs").is_dir()


def test_tables_that_cannot_be_written_are_told_and_have_a_status_of_their_own(tmp_path):
    arguments = _small(tmp_path, "one_model", single=9_000)
    (tmp_path / "out" / "variant" / "summary.csv" / "in the way").mkdir(parents=True)
    status, out, err = launches.call(*arguments, executor=launches.asleep)
    assert status == run.TABLES_STALE and "1 done; no tables or figures of that" in out and "not up to date" in err
    assert launches.call(*arguments, "--tables")[0] == run.TABLES_STALE
    (tmp_path / "out" / "variant" / "summary.csv" / "in the way").rmdir()
    (tmp_path / "out" / "variant" / "summary.csv").rmdir()
    assert launches.call(*arguments, "--tables")[0] == run.DONE


def test_a_second_launch_leaves_a_run_alone_that_another_does_and_says_for_whom_it_waits(tmp_path):
    """Its configuration, its log and its status; here as one whose worker is frozen, until a limit."""
    first = launches.start(*_small(tmp_path, "one_model"), asleep=True)
    folder = tmp_path / "out" / "variant"
    name = launches.wait_for(lambda: [each for each in folder.glob("runs/*/lock") if each.stat().st_size])[0].parent
    (worker,) = launches.children(first.pid)
    launches.wait_for(lambda: (name / "log.txt").exists())
    os.kill(worker, signal.SIGSTOP)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in name.glob("[clf]*")}
    status, out, err = launches.call(*_small(tmp_path, "one_model"), "--timeout", "1", executor=launches.asleep)
    holder = f"process {worker} on "
    assert status == run.FAILED and f"one_model seed 100 waits: {holder}" in out and f"waited for {holder}" in out
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in name.glob("[clf]*")} == before
    assert holder_of(name / "lock").startswith(holder) and "1 unfinished" in out
    assert store.RunFolder.read(name).launch["command"].endswith("--jobs 1")
    os.kill(worker, signal.SIGCONT)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == run.INTERRUPTED


def test_rows_tell_the_launch_whose_worker_did_the_run(tmp_path):
    """Though another launch announced it meanwhile."""
    folder = store.RunFolder.of(tmp_path, {"suite": "s", "strategy": "a", "seed": 1})
    folder.create({"commit": "first"})
    mine = folder.taken({"commit": "second"})
    assert folder.launch == mine.launch == {"commit": "second"}
    folder.announce({"commit": "third"})
    folder.create({"commit": "fourth"})
    assert mine.launch == {"commit": "second"} and mine == folder
    assert executors.LocalProcesses(1, {}, launch={"commit": "x"}).launch == {"commit": "x"}


def test_a_history_that_was_lost_is_told(tmp_path):
    arguments = _small(tmp_path, "one_model", single=9_000)
    assert launches.call(*arguments, executor=launches.asleep)[0] == run.DONE
    (path,) = tmp_path.glob("out/variant/runs/*/history.json")
    content = path.read_text()
    for damage in (path.unlink, lambda: path.write_text(content[:-9]), lambda: path.write_text("[" * 100_000)):
        damage()
        began = time.monotonic()
        status, out, _ = launches.call(*arguments, "--tables")
        assert status == run.DONE and f"{path} is not a list of epochs: it was lost, cut or edited" in out
        assert time.monotonic() - began < 20
