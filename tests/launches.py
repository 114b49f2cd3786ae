"""Launches of the benchmark in processes of their own, as a user starts them, for the tests that need some."""

import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.checkout import ROOT
from benchmarks.suites.suite import FOLDER

SMALL = ("--scale", "0.001", "--examples", "320", "--backend", "tensorflow")


def start(*arguments, cwd=ROOT, **options):
    """A launch of `benchmarks.run` that has just begun."""
    command = [sys.executable, "-m", "benchmarks.run", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {"preexec_fn": _hear_interrupts} | options
    return subprocess.Popen(command, cwd=cwd, text=True, start_new_session=True, **streams, **options)


def _hear_interrupts() -> None:
    """A shell lets the jobs it puts in the background ignore Ctrl-C, and they pass that on to all they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launch(*arguments, **options):
    """A launch, waited for: its exit status and what it printed on standard output and error."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def places(folder):
    """Arguments that keep results and decoded data under that folder."""
    return ("--out", folder / "out", "--cache-dir", folder / "cache")


def table_of(path):
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def statuses(table):
    """Status by strategy and seed, of rows of runs.csv."""
    return {(row["strategy"], int(row["seed"])): row["status"] for row in table}


def children(pid):
    """Process ids of the running children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(condition, seconds=120):
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result


def alive(pid):
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def variant(folder, suite, *changes):
    """A suite file of our own: one that comes with the benchmark, with some text replaced."""
    text = (FOLDER / f"{suite}.toml").read_text()
    for old, new in changes:
        assert re.search(old, text), old
        text = re.sub(old, new, text)
    path = folder / "variant.toml"
    path.write_text(text)
    return path
