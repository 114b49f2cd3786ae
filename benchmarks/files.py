"""Files as the benchmark reads and writes them, whoever made their folder and whenever a process dies.

- What is written appears whole or not at all: it is written as a *draft*, `.NAME.xxxxxxxx`, and renamed. A draft is locked as
  long as its writer lives, so one that can be locked is left over and may go.
- A folder may come from a stranger: no link in it is followed, and nothing but a regular file is read, so that no pipe, no
  device and no file outside of it is touched.
- Locks are `flock`s: the kernel drops them with their holder, so a killed process leaves none behind. The file of a lock says
  who holds it, for those who wait.

This module needs Python alone.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# No link is followed, no pipe waited for, and no program that is started has it open.
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Who holds a lock that does not say it: it was taken in this very moment, or its holder was stopped in that, or had no room.
SOMEBODY = "another process"
_NAMELESS = 1.0  # seconds after which the holder of a lock counts as one without a name
_DRAFT = re.compile(r"\.(done|.+\.(csv|html|json|md|npz|pdf|png|tex|txt))\.[a-z0-9_]{8}")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left to write."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Args:
        path: of the file; its folder exists. A link in its place is replaced, not followed.
        content: text is written as UTF-8; what that cannot hold, as half of a pair of surrogates, as an escape.

    Raises:
        OSError: when there is no room; the old file then stands as it was.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    descriptor, temporary = _draft(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _draft(path: Path) -> tuple[int, str]:
    """A new draft of a file, locked: its descriptor and its path."""
    while True:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        if _hold(descriptor) and os.path.exists(temporary):
            return descriptor, temporary
        os.close(descriptor)  # somebody took it for one that is left over, and removes it


def _hold(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False if somebody else holds it. Some disks have no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_drafts(folders: Iterable[Path]) -> list[Path]:
    """Remove the drafts in these folders whose writers are dead.

    Args:
        folders: where to look, not below them; one need not exist, and one that is a link is left alone.

    Returns:
        The drafts that are gone.
    """
    gone = []
    for folder in folders:
        with contextlib.suppress(OSError), _opened_folder(folder) as descriptor:
            names = [name for name in os.listdir(descriptor) if _DRAFT.fullmatch(name)]
            gone += [folder / name for name in names if _removed(folder / name)]
    return gone


def _removed(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # its writer lives, it has become the file that it was for, or is no draft at all
        return False
    return True


def pause() -> None:
    """Let others work for a moment."""
    time.sleep(0.05)


def saying(
    path: Path, say: Callable[[str, float], None], *moments: float, pause: Callable[[], None] = pause
) -> Callable[[], None]:
    """A `wait` of `locked` that says who holds the lock.

    Args:
        path: of the file.
        say: is called with the holder, see `holder_of`, and how many seconds the wait has lasted: at each of the moments, and
            when somebody else holds the lock than was said.
        *moments: ascending numbers of seconds.
        pause: what to do between tries.
    """
    began = named = time.monotonic()
    said, left = None, list(moments)

    def wait() -> None:
        nonlocal named, said
        now, holder = time.monotonic(), holder_of(path)
        named = now if holder != SOMEBODY else named
        is_due = bool(left) and now - began >= left[0]
        # Who has just taken a lock writes its name a moment later; who never does was stopped there, or had no room.
        if (is_due or said not in (None, holder)) and (holder != SOMEBODY or now - named >= _NAMELESS):
            del left[: int(is_due)]
            said = holder
            say(holder, now - began)
        pause()

    return wait


@contextlib.contextmanager
def locked(path: Path, wait: Callable[[], None] = pause) -> Iterator[None]:
    """Hold the lock of that file; a dead holder holds nothing, and on a disk without locks nobody does.

    Args:
        path: of the file; its folder is made.
        wait: called between tries, as long as somebody else holds the lock.

    Raises:
        OSError: if something else than a regular file is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _regular(path, os.O_RDWR | os.O_CREAT)
    try:
        while not _hold(descriptor):
            wait()
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # where there is no room, others wait for somebody without a name
            os.pwrite(descriptor, name_of(os.getpid()).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_in_turn(
    path: Path,
    say: Callable[[str, float], None],
    resume: Callable[[], None],
    *moments: float,
    pause: Callable[[], None] = pause,
) -> Iterator[None]:
    """Hold the lock of that file, and say for whom that waits and when it is over.

    Args:
        path, say, *moments, pause: as for `saying`.
        resume: is called once the lock is held, if that took a wait that was said.
    """
    said = []

    def note(holder: str, seconds: float) -> None:
        said.append(holder)
        say(holder, seconds)

    with locked(path, saying(path, note, *moments, pause=pause)):
        if said:
            resume()
        yield


class HeldError(Exception):
    """A lock that somebody else holds; the message says who."""


@contextlib.contextmanager
def locked_at_once(path: Path) -> Iterator[None]:
    """Hold the lock of that file, or raise `HeldError` if somebody else does."""

    def refuse() -> None:
        raise HeldError(holder_of(path))

    with locked(path, refuse):
        yield


def name_of(pid: int) -> str:
    """What a process of this machine is called in locks: "process 4711 on some-machine"."""
    machine = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)  # one that nobody named may be "(none)"
    return f"process {pid} on {machine or '_'}"


def holder_of(path: Path) -> str:
    """Who holds that lock, or held it last; see `name_of`."""
    try:
        text = read_regular(path, 200).decode()
    except (OSError, ValueError):
        text = ""
    return text if re.fullmatch(r"process \d+ on [\w.-]+", text) else SOMEBODY


def _regular(path: Path | str, flags: int, folder: int | None = None) -> int:
    """The descriptor of a regular file, opened carefully."""
    try:
        descriptor = os.open(path, flags | _CAREFULLY, 0o644, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "expected a regular file, received a link. Delete it", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file, received a folder, a pipe or a device. Delete it", str(path))
    return descriptor


def open_regular(path: Path) -> BinaryIO:
    """A regular file, for reading.

    Raises:
        OSError: if it is not there, or is something else: a link, a folder, a pipe, a device.
    """
    return os.fdopen(_regular(path, os.O_RDONLY), "rb")


def open_inside(folder: Path, name: str) -> BinaryIO:
    """A regular file of a folder, for reading, with no link on the way from that folder to it.

    Args:
        folder: where; it may be a link itself, as the user named it.
        name: of the file from there, as "data/digits/info.json", with neither ".." nor a leading slash.

    Raises:
        OSError: if it is not there, or is something else.
    """
    with contextlib.ExitStack() as ours:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        ours.callback(os.close, descriptor)
        *folders, file = name.split("/")
        for part in folders:
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _CAREFULLY, dir_fd=descriptor)
            ours.callback(os.close, descriptor)
        return os.fdopen(_regular(file, os.O_RDONLY, descriptor), "rb")


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file, as `open_regular` opens it.

    Raises:
        OSError: if that cannot be had, or has more bytes than `most`.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(errno.EFBIG, f"expected at most {most} bytes, received {size}", str(path))
        return file.read()


def new_file(path: Path) -> BinaryIO:
    """An empty file, for writing, in place of whatever is there: a link goes, and what it leads to stays."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return os.fdopen(_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def real_folder(path: Path) -> Path:
    """The folder of that path, made if it is not there.

    Raises:
        OSError: if a link is in its place, which could lead anywhere.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "expected a folder, received a link. Delete it", str(path))
    path.mkdir(parents=True, exist_ok=True)
    return path


def own_folder(path: Path) -> Path:
    """The folder of that path, made if it is not there, in place of a link: that goes, and what it leads to stays."""
    if path.is_symlink():
        path.unlink()
    path.mkdir(exist_ok=True)
    return path


@contextlib.contextmanager
def draft_folder(place: Path) -> Iterator[Path]:
    """A new folder beside a place, to be renamed to it; what is left of it goes, and so do those whose writers are dead."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for old in place.parent.glob(f".{place.name}-*"):
        with contextlib.suppress(OSError), _opened_folder(old) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)
    while True:
        draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        with _opened_folder(draft) as descriptor:
            if not _hold(descriptor) or not draft.exists():  # somebody took it for one that is left over
                continue
            try:
                yield draft
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            return


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _CAREFULLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
