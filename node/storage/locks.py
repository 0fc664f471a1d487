"""Locks that say which processes are alive: the kernel lets go of them, however a process ends."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from .files import below, failure_of
from .temporary import new_file


class Process:
    """This process as the rows of its jobs name it, and the lock that says whether it lives."""

    def __init__(self, home: Path) -> None:
        self.name = f"{socket.gethostname()[:32]}:{os.getpid()}:{os.urandom(4).hex()}"
        self._folder = home / "owners"
        self._lock = threading.Lock()
        self._file: Any = None  # open as long as it is locked

    def is_alive(self, name: str) -> bool:
        """Return whether the process of that name lives: this one, or another one of the same home."""
        return name == self.name or _is_locked(self._path(name))

    def show_alive(self) -> None:
        """Take the lock, until `close` or the end of the process."""
        with self._lock:
            if self._file is not None:
                return
            path = self._path(self.name)
            try:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                for other in path.parent.iterdir():
                    if not _is_locked(other):
                        other.unlink(missing_ok=True)
                file, made = new_file(path.parents[1], "owner")
                fcntl.flock(
                    file, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # it is locked; here a file system without locks says so
                os.rename(made, path)
            except OSError as error:
                raise failure_of(error, path) from error
            self._file = file

    def close(self) -> None:
        """Let go of the lock."""
        with self._lock:
            if self._file is not None:
                self._path(self.name).unlink(missing_ok=True)
                self._file.close()
                self._file = None

    def _path(self, name: str) -> Path:
        return below(self._folder, name.rpartition(":")[2])


@contextmanager
def service_lock(home: Path) -> Iterator[int | None]:
    """Be the one service of a home while the body runs; yields None, or the pid of the service that runs already.

    The command line looks with `serving`, which takes the lock for an instant: hence the second try.
    """
    with open(home / "lock", "a+", opener=partial(os.open, mode=0o600)) as file:
        for attempt in range(20):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield None
                return
            if attempt < 19:
                time.sleep(0.05)
        file.seek(0)
        text = file.read().strip()
        yield int(text) if text.isdigit() else 0


def serving(home: Path) -> bool:
    """Return whether a service runs on this home."""
    return _is_locked(home / "lock")


def check(home: Path) -> None:
    """Raise OSError where the file system of a home has no locks."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def dead_processes(home: Path) -> list[str]:
    """Return the names of processes that ended without giving their work back."""
    folder = home / "owners"
    return sorted(each.name for each in folder.iterdir() if not _is_locked(each)) if folder.exists() else []
