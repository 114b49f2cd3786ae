"""Workers as copies of a process that has imported their backend, instead of importing it in each of them.

    launch ----> preloaded process: imports, and then only forks
       |             forks twice: the process in between ends, so that the worker becomes a child of the launch
       +-------> worker: in a session of its own, with its own standard input, output and log

A copy is made in a tenth of a second. Only a process of one thread that holds no device can be copied safely: if it is not
such a process after the imports, or the system cannot do this, there are no copies, and workers are started afresh. A copy
that has begun does not need the preloaded process. This module does not import Keras.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_PR_SET_CHILD_SUBREAPER = 36
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg", "accel*", "vfio/[0-9]*")  # of NVIDIA, AMD, Windows' Linux, and TPUs
_LONGEST_REQUEST = 1 << 17  # bytes; a longer one is not sent
_NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # of pyarrow, which pandas imports


@dataclass
class Copy:
    """A worker that `Preloaded` has started: our child, with what is needed of the interface of `subprocess.Popen`."""

    pid: int
    stdin: BinaryIO
    stdout: BinaryIO
    returncode: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, timeout: float = math.inf) -> int:
        """The exit status once it has ended, negative for a signal; `TimeoutExpired` after so many seconds."""
        end = time.monotonic() + timeout
        while True:
            with self._lock:
                if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
                    self.returncode = os.waitstatus_to_exitcode(ended[1])
            if self.returncode is not None:
                return self.returncode
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout)
            time.sleep(0.01)


class Preloaded:
    """A process that imports modules, and then starts workers as copies of itself.

    Args:
        modules: the first is what a worker runs, and has a `main(arguments)` that returns its status.
        environment: of the process and its copies. It stands before the imports, some of which read it.
    """

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "benchmarks.runs.preloading", str(theirs.fileno()), *modules]
        how = {"env": _NO_THREADS | environment, "pass_fds": [theirs.fileno()], "start_new_session": True}
        with theirs, open(os.devnull, "r+b") as quiet:  # what goes wrong goes wrong again in a worker, which has a log
            self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, **how)
        self._channel.settimeout(300.0)  # seconds; imports that take longer hang
        self.pid = self._process.pid

    def start(self, arguments: Sequence[str], log: BinaryIO) -> Copy | None:
        """A worker with these arguments and that standard error; None where it has to be started afresh."""
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        with contextlib.ExitStack() as ours, open(their_in, "rb"), open(their_out, "wb"):
            stdin = ours.enter_context(open(our_out, "wb"))  # closed, it ends a worker that was started all the same
            stdout = ours.enter_context(open(our_in, "rb"))
            try:
                socket.send_fds(self._channel, [json.dumps(arguments).encode()], [their_in, their_out, log.fileno()])
                worker = Copy(int(self._channel.recv(64)), stdin, stdout)
            except (OSError, ValueError):  # the process is gone, is not to be copied, or cannot fork
                return None
            ours.pop_all()  # and so stay open
            return worker

    def close(self) -> None:
        """End the process; its copies go on."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        adopt_orphans(False)


def preload(modules: Sequence[str], environment: dict[str, str]) -> Preloaded | None:
    """A `Preloaded`, whose copies become our children, as we adopt what it leaves behind; None where that cannot be.

    Nor is there one on a machine with a GPU or TPU: that the drivers of these bear the copies has not been shown.
    """
    return Preloaded(modules, environment) if not has_devices() and adopt_orphans(True) else None


def has_devices() -> bool:
    """Whether the machine has a GPU or a TPU."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _DEVICES)


def adopt_orphans(whether: bool) -> bool:
    """Whether what our children leave behind becomes ours, from now on; False where the system cannot do that."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0) == 0


def _may_be_copied() -> bool:
    """Whether this process has one thread and no device. Threads that end before a fork, as OpenBLAS' do, are ended first."""
    os.waitpid(os.fork() or os._exit(0), 0)
    files = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()} - {"/dev/null", "/dev/urandom"}
    return len(os.listdir("/proc/self/task")) == 1 and not any(name.startswith("/dev/") for name in files)


def _request(channel: socket.socket) -> tuple[bytes, list[int]]:
    """The next request, and the streams that come with it; an empty one once the launch is gone."""
    try:
        return socket.recv_fds(channel, _LONGEST_REQUEST, 3)[:2]
    except ConnectionError:  # it was killed with an answer unread
        return b"", []


def copies(channel: socket.socket) -> list[str] | None:
    """Fork at each request: in a copy, its arguments; in the process itself None, once the launch is gone."""
    while (request := _request(channel))[0]:
        arguments, streams = json.loads(request[0]), request[1]
        receiver, sender = os.pipe()
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)
            os.setsid()  # before its number is told: its group may be killed from then on
            os.write(sender, str(os.getpid()).encode())
            for target, stream in enumerate(streams):
                os.dup2(stream, target)
            for descriptor in (receiver, sender, channel.detach(), *streams):
                os.close(descriptor)
            return arguments
        for descriptor in (sender, *streams):
            os.close(descriptor)
        os.waitpid(between, 0)  # from here on the worker is the launch's child
        with open(receiver, "rb") as told:
            channel.send(told.read())
    return None


def import_for_copies(names: Sequence[str]) -> list[types.ModuleType]:
    """Import modules once, for all copies that will be made of this process."""
    modules = [importlib.import_module(name) for name in names]
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, the pages of all that was imported
    return modules


def serve() -> None:
    """The preloaded process, and what each of its copies does."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    worker, *_ = import_for_copies(sys.argv[2:])
    arguments = copies(channel) if _may_be_copied() else None
    if arguments is None:
        os._exit(0)
    sys.exit(worker.main(arguments))


if __name__ == "__main__":
    serve()
