"""A page of results on an address of this machine, which stays live while a launch writes them.

    python -m benchmarks.report --serve results/digits

What is served is read from the run folders; nothing is written, and no lock is taken. Only this machine is answered, and only
by the names that it has: a page of somebody else in the same browser, whose name leads here, gets nothing.
"""

import contextlib
import http.server
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from benchmarks.command_line import printable
from benchmarks.files import SOMEBODY, holder_of
from benchmarks.records.results import fault_of
from benchmarks.records.store import RunFolder, hash_of
from benchmarks.reports.page import page
from benchmarks.runs.estimating import Estimate
from benchmarks.runs.progress import duration
from benchmarks.suites.suite import load_suite

_HOST = "127.0.0.1"
_MARKS = ("config.json", "done", "failed.json")
# So many runs that fail or are under way are listed, and so many letters of an error.
_MOST_RUNS, _LONGEST_ERROR = 50, 300


class Watch:
    """How far the runs of a folder are, read again only where a run's files have changed.

    Args:
        folder: of a suite's results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._known: dict[Path, tuple[tuple, RunFolder | None, str]] = {}
        self._row: dict[Path, dict[str, Any]] = {}

    def progress(self) -> dict[str, Any]:
        """`total`, `done` and `failed` runs, a `text` on them, the `runs` to be listed, failed ones first, and a `version`
        that changes whenever results do."""
        marks = {path: _marks(path) for path in sorted((self.folder / "runs").glob("*"))}
        for path, mark in marks.items():
            if self._known.get(path, (None,))[0] != mark:
                self._known[path] = (mark, *self._read(path))
        self._known = {path: known for path, known in self._known.items() if path in marks}
        found = [(run, status) for _, run, status in self._known.values() if run is not None]
        groups = {status: [run for run, its in found if its == status] for status in ("failed", "done", "unfinished")}
        running = [(run, seconds) for run in groups["unfinished"] if (seconds := _held_for(run)) is not None]
        listed = [{"text": f"{run.name} failed: {self._error(run)}", "failed": True} for run in groups["failed"]]
        listed += [{"text": f"{run.name} runs since {duration(seconds)}", "failed": False} for run, seconds in running]
        counts = {name: len(group) for name, group in groups.items()}
        waiting = counts["unfinished"] - len(running)
        text = f"{counts['done']} of {len(found)} runs are done, {counts['failed']} failed"
        text += f", {len(running)} under way, {waiting} wait"
        if counts["unfinished"]:
            left = self._seconds_left([run for run, _ in found], len(running)) if running else None
            text += f"; about {duration(left)} left" if left is not None else "" if running else "; nobody is at them"
        return {
            "total": len(found),
            "done": counts["done"],
            "failed": counts["failed"],
            "text": f"{text}.",
            "runs": listed[:_MOST_RUNS],
            "version": hash_of({str(path): mark for path, mark in marks.items()}),
        }

    def _read(self, path: Path) -> tuple[RunFolder | None, str]:
        self._row.pop(path, None)
        try:
            run = RunFolder.read(path)
        except ValueError:
            return None, ""
        status = run.status
        if status == "done" and fault_of(row := run.row()) is None:
            self._row[path] = row
        return run, status

    @staticmethod
    def _error(run: RunFolder) -> str:
        text = printable(" ".join(str((run.failure or {}).get("error")).split()))
        return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."

    def _seconds_left(self, runs: list[RunFolder], jobs: int) -> float | None:
        """Expected, by the runs that are done; None where nothing tells."""
        ended = [run for run in runs if run.path in self._row]
        if not ended:
            return None
        try:
            newest = max(runs, key=lambda run: run.launch.get("launched") or 0.0)
            budget = load_suite(str(newest.launch["suite"]), with_own=False).budget(newest.configuration["scale"])
            estimate = Estimate(runs, budget, jobs)
            for run in runs:
                if run.status != "unfinished":
                    estimate.end(run, self._row.get(run.path))
            return estimate.seconds_left()
        except (OSError, KeyError, TypeError, ValueError, ArithmeticError):  # of rows and suites that somebody edited
            return None


def _marks(path: Path) -> tuple[int | None, ...]:
    """When those of a run's files were written that its status depends on; None for what is not there."""
    found = []
    for name in _MARKS:
        try:
            found.append((path / name).stat().st_mtime_ns)
        except OSError:
            found.append(None)
    return tuple(found)


def _held_for(run: RunFolder) -> float | None:
    """For how many seconds somebody has been at a run; None where nobody is, as far as its lock tells without being taken."""
    holder = holder_of(run.lock)
    match = re.fullmatch(r"process (\d+) on ([\w.-]+)", holder)
    if holder == SOMEBODY or match is None:
        return None
    if match[2] == socket.gethostname():
        try:
            os.kill(int(match[1]), 0)
        except (ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            pass
    with contextlib.suppress(OSError):
        return max(0.0, time.time() - run.lock.stat().st_mtime)
    return None


def serve(folder: Path, content: Callable[[], dict[str, Any]], port: int) -> http.server.ThreadingHTTPServer:
    """A server that is ready; the caller has it `serve_forever`, and closes it.

    Args:
        folder: of a suite's results.
        content: what the page shows, read anew; see `benchmarks.reports.page.page_content`.
        port: of this machine; 0 for any that is free.

    Raises:
        OSError: if the port is in use.
    """
    watch, lock = Watch(folder), threading.Lock()
    kept: dict[str, Any] = {}

    def answer(path: str) -> tuple[str, str]:
        with lock:
            progress = watch.progress()
            if path == "/progress":
                return "application/json", json.dumps(progress)
            if kept.get("version") != progress["version"]:
                kept.clear()
                kept.update(content(), version=progress["version"], live=True)
            return ("application/json", json.dumps(kept, default=str)) if path == "/data" else ("text/html", page(kept))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            own = {f"{name}:{self.server.server_address[1]}" for name in (_HOST, "localhost")}
            if self.headers.get("Host") not in own:
                return self._send(HTTPStatus.FORBIDDEN, "text/plain", "This address is for this machine alone.")
            if self.path not in ("/", "/data", "/progress"):
                return self._send(HTTPStatus.NOT_FOUND, "text/plain", "There is nothing here.")
            try:
                return self._send(HTTPStatus.OK, *answer(self.path))
            except (OSError, ValueError) as error:  # a folder that is gone, or holds no results yet
                return self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error))

        def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
            body = text.encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(body), "Cache-Control": "no-store"}
                for name, value in {**headers, "X-Content-Type-Options": "nosniff"}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Requests are nobody's business."""

    return http.server.ThreadingHTTPServer((_HOST, port), Handler)
