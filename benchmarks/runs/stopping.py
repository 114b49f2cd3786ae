"""Ending a process between two epochs when it is asked to, instead of in the middle of one."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class DivergedError(Exception):
    """Training ended in values that are not finite."""


class Stopped(KeyboardInterrupt):
    """The process was asked to end, and nothing is half done: what is known now can be kept."""


class Stop:
    """Hears SIGTERM and Ctrl-C: `Stopped` is raised at once, or, while that is deferred, by the next `check`.

    Who asks twice does not want to wait: the second time a plain `KeyboardInterrupt` is raised in any case.
    """

    def __init__(self) -> None:
        self._asked = False
        self._deferred = 0

    def listen(self) -> None:
        """Hear the signals of this process, from now on."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._ask)

    def _ask(self, *_: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if not self._deferred:
            raise Stopped

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts, `Stopped` is only raised by `check`."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    def check(self) -> None:
        """Raise `Stopped` if the process was asked to end."""
        if self._asked:
            raise Stopped
